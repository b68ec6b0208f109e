"""The mean over heads and layers: the baseline that all other methods are compared with.

    map(v) = mean over layers l, heads h and query rows q of A[l, h, q, v]

A (L, H, Q, V) is the softmax of the scaled scores (Vaswani et al. 1706.03762), not rescaled. Needs only the recorded
rows: O(L Q V).
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map, layer_means
from qvl_attn.attribution.selection import describe_layers


def _mean(view: View) -> MethodMap:
    layers = layer_means(view.capture, view.rows)
    return MethodMap(
        method="mean",
        values=as_map(layers[view.chosen].mean(axis=0)),
        caption=f"mean of all heads of {describe_layers(view.layers)}",
        layers=view.layers,
        layer_values=as_map(np.asarray(layers)),
        layer_numbers=tuple(view.capture.layers.tolist()),
    )


MEAN = Method(
    name="mean",
    compute=_mean,
    needs=frozenset(),
    shows="attention of the query, mean of all heads of the layers at 50 to 85 % of the depth",
    source="Vaswani et al. 2017, arXiv 1706.03762",
    cost="none",
    when="first: it is the raw attention, the baseline of all comparisons",
    wrong="most heads do not ground; borders and sinks glow; attention is where values are read, not what they do",
)
