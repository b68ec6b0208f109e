"""Attention rollout: attention propagated down through the layers, where each token keeps half of its own.

    map = e_q (A_L / 2 + I / 2) ... (A_1 / 2 + I / 2) on the cells     (Abnar and Zuidema 2005.00928, section 3)

A_l (S, S) is the mean over heads, e_q (S,) selects the query's tokens. The row is propagated from the last layer down,
so no matrices are multiplied; each layer's A is computed a block of rows at a time. `layer_values` of a layer is the
row after that layer on the way down. Queries and keys of all layers are kept, O(L S); time O(L H S^2) once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map
from qvl_attn.model.signals import ATTENTION, Floats, Product


def rollout(seeds: Floats, products: Sequence[Product]) -> list[Floats]:
    """Return the row after each layer on the way down, (S,), by layer number. The first is the complete rollout."""
    rows, row = [], seeds
    for product in reversed(products):
        row = (row + product(row)) / 2
        rows.append(row)
    return rows[::-1]


def _rollout(view: View) -> MethodMap:
    vision, products = view.capture.vision_tokens, view.signals.attention
    rows = np.stack(rollout(view.query_seeds, products))[:, vision]
    return MethodMap(
        method="rollout",
        values=as_map(rows[0]),
        caption=f"attention rollout through all {len(products)} layers",
        layers=tuple(range(len(products))),
        layer_values=as_map(rows),
        layer_numbers=tuple(range(len(products))),
    )


ROLLOUT = Method(
    name="rollout",
    compute=_rollout,
    needs=frozenset({ATTENTION}),
    shows="attention of the query propagated down through all layers",
    source="Abnar and Zuidema 2020, arXiv 2005.00928",
    cost="one more pass, and its attention computed once more",
    when="information may move between cells before the query reads it",
    wrong="in a causal model it drifts to the first tokens; heads are averaged; values and MLPs are ignored",
    layer_label="down to layer",
)
