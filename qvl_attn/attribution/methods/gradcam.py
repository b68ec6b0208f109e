"""Grad-CAM on the vision tower's last layer, conditioned on the question through the answer's logit.

    alpha_c = mean over patches p of dy/dF[p, c],  map(p) = (sum over c of alpha_c F[p, c])+

F (P, C) is what the tower's last layer gives, before the patches of a cell are merged, y the logit of a token of the
answer (Selvaraju et al. 1610.02391, equations 1 and 2); of several pictures, or a clip's steps, the patches of all of
them; a cell has the mean of its patches. The patches' order within the tower's windows is undone. One more pass with
its backward pass through the language model; memory O(L S).
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map
from qvl_attn.model.signals import TOWER, Floats, Tower


def grad_cam(tower: Tower) -> Floats:
    """(V,) the map, of each cell the mean of its patches."""
    alpha = tower.gradients.mean(axis=(0, 1), dtype=np.float64)
    cam = np.maximum(tower.activations.astype(np.float64) @ alpha, 0)
    found: Floats = cam.mean(axis=1)
    return found


def _gradcam(view: View) -> MethodMap:
    signals = view.signals
    assert signals.tower is not None
    return MethodMap(
        method="gradcam",
        values=as_map(grad_cam(signals.tower)),
        caption=f"Grad-CAM of the logit of “{signals.explained.strip()}” on the vision tower's last layer",
    )


GRADCAM = Method(
    name="gradcam",
    compute=_gradcam,
    needs=frozenset({TOWER}),
    shows="Grad-CAM of the answer's logit on the vision tower's last layer",
    source="Selvaraju et al. 2017, arXiv 1610.02391",
    cost="one more pass with its backward pass",
    when="the language model's attention is in doubt: this does not read it",
    wrong="one weight a channel for the whole picture suits CNNs; a transformer's channels are not detectors",
    follows_query=False,
)
