"""Grad-CAM on the vision encoder's last layer. It depends on the question through the answer's logit.

    alpha_c = mean over patches p of dy/dF[p, c],  map(p) = (sum over c of alpha_c F[p, c])+

F (P, C) is the output of the encoder's last layer, before the patches of a cell are merged; y is the logit of an answer
token (Selvaraju et al. 1610.02391, equations 1 and 2). P covers the patches of all pictures or steps. A cell has the
mean of its patches. The window order of the patches is undone. Cost: one more pass with a backward pass through the
language model; memory O(L S).
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map
from qvl_attn.model.signals import TOWER, Floats, Tower


def grad_cam(tower: Tower) -> Floats:
    """Return the map, (V,): the mean over the patches of each cell."""
    alpha = tower.gradients.mean(axis=(0, 1), dtype=np.float64)
    cam = np.maximum(tower.activations.astype(np.float64) @ alpha, 0)
    values: Floats = cam.mean(axis=1)
    return values


def _gradcam(view: View) -> MethodMap:
    signals = view.signals
    assert signals.tower is not None
    return MethodMap(
        method="gradcam",
        values=as_map(grad_cam(signals.tower)),
        caption=f"Grad-CAM of the logit of “{signals.explained.strip()}” on the vision encoder's last layer",
    )


GRADCAM = Method(
    name="gradcam",
    compute=_gradcam,
    needs=frozenset({TOWER}),
    shows="Grad-CAM of the answer's logit on the vision encoder's last layer",
    source="Selvaraju et al. 2017, arXiv 1610.02391",
    cost="one more pass with a backward pass",
    when="you doubt the language model's attention: this method does not use it",
    wrong="one weight per channel for the whole picture suits CNNs; a transformer's channels are not detectors",
    follows_query=False,
)
