"""Relative attention: attention of the question over the attention of any question about this picture.

    map(v) = a(v) / (g(v) + EPSILON * mean over cells of g)

a (V,) is the attention of the query, g (V,) that of a prompt about the same picture that asks for a general
description, both averaged over heads, layers and the rows of the same role. Zhang et al. (2502.17422, section 4) use
one layer, the last row and no epsilon; without it the ratio explodes on cells without attention. Their code ends both
prompts with "Answer the question using a single word or phrase."; here the question is the user's, and the generic
prompt has no such end. Cells that are bright for every question, such as borders and sinks, cancel. The picture is
processed once: the generic prompt costs only its own few tokens, O(tokens V).
"""

from __future__ import annotations

import numpy as np

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map, layer_means
from qvl_attn.attribution.selection import Query, describe_layers, query_rows
from qvl_attn.model.signals import GENERIC, Floats

GENERIC_PROMPT = "Write a general description of the image."
EPSILON = 0.01


def ratio(attention: Floats, generic: Floats) -> Floats:
    """Return attention over generic attention plus `EPSILON` of its mean, (..., V); 0 if the denominator is 0."""
    denominator = generic + EPSILON * generic.mean(axis=-1, keepdims=True)
    return np.where(denominator > 0, attention / np.where(denominator > 0, denominator, 1), 0.0)


def _relative(view: View) -> MethodMap:
    generic = view.signals.generic
    assert generic is not None
    role = "last" if view.query.kind in ("last", "answer") else "question"
    rows, tokens = query_rows(generic, GENERIC_PROMPT, Query(role)), {"last": "the last token"}.get(role, "the words")
    attention, generic_attention = layer_means(view.capture, view.rows), layer_means(generic, rows)
    return MethodMap(
        method="relative",
        values=as_map(ratio(attention[view.chosen].mean(axis=0), generic_attention[view.chosen].mean(axis=0))),
        caption=f"mean of {describe_layers(view.layers)} over that of {tokens} of “{GENERIC_PROMPT}” "
        f"+ {EPSILON} of its mean",
        layers=view.layers,
        layer_values=as_map(ratio(attention, generic_attention)),
        layer_numbers=tuple(view.capture.layers.tolist()),
    )


RELATIVE = Method(
    name="relative",
    compute=_relative,
    needs=frozenset({GENERIC}),
    shows="attention of the query over that of a generic prompt about the same picture",
    source="Zhang et al. 2025, arXiv 2502.17422 (layer 22 of the 3B, last token)",
    cost="the generic prompt's own tokens; for a clip one more pass",
    when="the mean is bright at borders and sinks for every question",
    differs="the authors take one layer (22 for the 3B) and the last token, add nothing to the denominator, and "
    "end both prompts with “Answer the question using a single word or phrase.”",
    wrong="a ratio: cells that both prompts ignore are noise; cells that a description attends to as well cancel",
)
