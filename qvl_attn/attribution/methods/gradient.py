"""Relevance: attention times the gradient of the answer's logit, propagated down through the layers.

    A_l = mean over heads of (A[l, h] * dy/dA[l, h])+          (Chefer et al. 2103.15679, equation 5)
    R   = (I + A_L) ... (I + A_1),  map = e_q R on the cells   (equation 6, of a decoder's self-attention alone)

y is the logit of an answer token and e_q (S,) selects the position that produces it. By default that is the answer's
first token; with `query='answer'` all its text tokens together. The row e_q R, (S,), is propagated from the last layer
down; each layer's A (S, S) is computed a block of rows at a time. `layer_values` are the direct terms e_q A_l. Cost:
one more pass with a backward pass, and O(L H S^2) time once more; memory O(L S).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map
from qvl_attn.model.signals import RELEVANCE, Floats, Product


def relevance(seeds: Floats, products: Sequence[Product]) -> Floats:
    """Return the product of the seeds with R, (S,)."""
    row = seeds
    for product in reversed(products):
        row = row + product(row)
    return row


def _gradient(view: View) -> MethodMap:
    signals, vision = view.signals, view.capture.vision_tokens
    values = relevance(signals.seeds, signals.relevance)[vision]
    return MethodMap(
        method="gradient",
        values=as_map(values),
        caption=f"attention times gradient of the logit of “{signals.explained.strip()}”, through all layers",
        layers=tuple(range(len(signals.relevance))),
        layer_values=as_map(np.stack([product(signals.seeds)[vision] for product in signals.relevance])),
        layer_numbers=tuple(range(len(signals.relevance))),
    )


GRADIENT = Method(
    name="gradient",
    compute=_gradient,
    needs=frozenset({RELEVANCE}),
    shows="attention times the gradient of the answer's logit, positive part, through all layers",
    source="Chefer et al. 2021, arXiv 2103.15679",
    cost="one more pass with a backward pass: about three times the time, and activations of all layers",
    when="you ask what supported this answer, not what the model attended to",
    wrong="negative contributions are dropped; MLPs and norms are ignored; gradients vanish if the model is certain",
    follows_query=False,
)
