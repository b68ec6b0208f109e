"""The few heads that ground, as a profile names them: published for the 3B and the 7B, or calibrated by `check`.

    map(v) = mean over the profile's (layer, head) and query rows q of A[layer, head, q, v]

Only those heads are kept apart: O(heads Q V). That few heads carry the grounding: Kang et al. 2503.06287 among others.
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.heatmap import mean_over
from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map
from qvl_attn.core.errors import InputError


def _heads(view: View) -> MethodMap:
    if not view.heads:
        raise InputError("--method heads: there is no profile with heads", "name one with --profile")
    layers = sorted({layer for layer, _ in view.heads})

    def mean(heads: tuple[tuple[int, int], ...]) -> np.ndarray:
        return mean_over(view.capture, view.layers, heads, view.rows)

    by_layer = np.stack([mean(tuple(one for one in view.heads if one[0] == layer)) for layer in layers])
    return MethodMap(
        method="heads",
        values=mean(view.heads),
        caption="mean of heads " + ",".join(f"{layer}.{head}" for layer, head in view.heads),
        layers=tuple(layers),
        layer_values=as_map(by_layer),
        layer_numbers=tuple(layers),
    )


HEADS = Method(
    name="heads",
    compute=_heads,
    needs=frozenset(),
    shows="attention of the query in the heads of a profile",
    source="localisation heads: Kang et al. 2025, arXiv 2503.06287; the profile's own source",
    cost="those heads kept apart",
    when="a profile for your model exists, or a hundred samples with boxes to calibrate one",
    wrong="published heads were found on other data and prompts; calibrated ones fit what they were calibrated on",
    heads=True,
)
