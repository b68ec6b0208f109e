"""Relative attention: what the question looks at beyond what any question about this picture looks at.

    map(v) = a(v) / (g(v) + EPSILON * mean over cells of g)

a (V,) is the attention of the query, g (V,) that of a prompt about the same picture that asks for a general
description, both averaged over heads, layers and the rows of the same role (Zhang et al. 2502.17422, section 4: one
layer, the last row, and no epsilon, which lets a cell that nobody looks at blow up). What glows for every question, as
borders and sinks do, cancels. The picture is read once: the generic prompt costs its own few tokens, O(tokens V).
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map, layer_means
from qvl_attn.attribution.selection import describe_layers, query_rows
from qvl_attn.model.signals import GENERIC, Floats

GENERIC_PROMPT = "Write a general description of the image."
EPSILON = 0.01


def ratio(attention: Floats, generic: Floats) -> Floats:
    """(..., V) attention over generic attention, whose hundredth of a mean keeps it finite; 0 where that has none."""
    below = generic + EPSILON * generic.mean(axis=-1, keepdims=True)
    return np.where(below > 0, attention / np.where(below > 0, below, 1), 0.0)


def _relative(view: View) -> MethodMap:
    generic = view.signals.generic
    assert generic is not None
    role = "last" if view.query in ("last", "answer") else "question"
    rows, asked = query_rows(generic, GENERIC_PROMPT, role), {"last": "the last token"}.get(role, "the words")
    own, other = layer_means(view.capture, view.rows), layer_means(generic, rows)
    return MethodMap(
        method="relative",
        values=as_map(ratio(own[view.chosen].mean(axis=0), other[view.chosen].mean(axis=0))),
        caption=f"mean of {describe_layers(view.layers)} over that of {asked} of “{GENERIC_PROMPT}” "
        f"+ {EPSILON} of its mean",
        layers=view.layers,
        layer_values=as_map(ratio(own, other)),
        layer_numbers=tuple(view.capture.layers.tolist()),
    )


RELATIVE = Method(
    name="relative",
    compute=_relative,
    needs=frozenset({GENERIC}),
    shows="attention of the query over that of a generic prompt about the same picture",
    source="Zhang et al. 2025, arXiv 2502.17422 (layer 22 of the 3B, last token)",
    cost="the generic prompt's own tokens; of a clip one more pass",
    when="the mean glows at borders and sinks whatever is asked",
    wrong="a ratio: cells that both prompts ignore are noise; what a description looks at too is divided away",
)
