"""The mean of a profile's heads: few heads that ground, published for the 3B and 7B or calibrated by `check`.

    map(v) = mean over the profile's (layer, head) and query rows q of A[layer, head, q, v]

Only these heads are recorded: O(heads Q V). Few heads carry the grounding: see Kang et al. 2503.06287.
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.heatmap import mean_over
from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map
from qvl_attn.attribution.selection import describe_heads
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument


def _heads(view: View) -> MethodMap:
    if not view.heads:
        raise InputError(
            f"{argument('method', 'heads')}: there is no profile with heads", f"name one with {argument('profile')}"
        )
    layers = sorted({layer for layer, _ in view.heads})

    def mean(heads: tuple[tuple[int, int], ...]) -> np.ndarray:
        return mean_over(view.capture, view.layers, heads, view.rows)

    by_layer = np.stack([mean(tuple(pair for pair in view.heads if pair[0] == layer)) for layer in layers])
    return MethodMap(
        method="heads",
        values=mean(view.heads),
        caption=f"mean of heads {describe_heads(view.heads)}",
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
    cost="the rows of these heads",
    when="there is a profile for your model, or a hundred samples with boxes to calibrate one",
    wrong="published heads were found on other data and prompts; calibrated heads fit their calibration data",
    heads=True,
)
