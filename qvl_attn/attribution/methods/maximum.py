"""The maximum over heads and layers: the cells that any head attends to.

    map(v) = mean over query rows q of max over layers l and heads h of A[l, h, q, v]

The maximum over heads is taken while the rows are recorded, (L, Q, V) like the mean, so that single heads need not be
kept. Head fusion by maximum is common with rollout (Gildenblat 2020, vit-explain). O(L H Q V) while recording.
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map
from qvl_attn.attribution.selection import describe_layers


def _maximum(view: View) -> MethodMap:
    capture = view.capture
    if capture.weights_max is None:
        raise ValueError("the heads' maximum was not recorded")
    rows = capture.weights_max[:, view.rows].astype(np.float64)
    return MethodMap(
        method="max",
        values=as_map(rows[view.chosen].max(axis=0).mean(axis=0)),
        caption=f"maximum over all heads of {describe_layers(view.layers)}",
        layers=view.layers,
        layer_values=as_map(rows.mean(axis=1)),
        layer_numbers=tuple(capture.layers.tolist()),
    )


MAXIMUM = Method(
    name="max",
    compute=_maximum,
    needs=frozenset(),
    shows="attention of the query in the strongest head of the headline's layers, cell by cell",
    source="head fusion by maximum: Gildenblat 2020, vit-explain",
    cost="the memory of the rows once more",
    when="a single head may ground, and the mean may hide it",
    wrong="sinks and borders are brighter than in the mean; a single noisy head is enough for that",
    head_max=True,
)
