"""Attention without sinks: cells that attract attention for every question, found by their hidden states.

A vision token is a sink of layer l if its hidden state h before that layer fulfils one of these conditions:

    max over d in D of |h_d| / RMS(h) >= SCORE          (Kang et al. 2503.03321, tau = 20)
    |h| >= NORM * median of |h| over the vision tokens  (outliers by norm, after Darcet et al. 2309.16588; 5 is ours)

D are the sink dimensions of the language model, from public code for the 3B, 7B and 32B, not measured here. For other
models D is all dimensions. |h_d| / RMS(h) is at most the square root of the hidden size, so with a hidden size below
400 only the norm finds sinks. `sinks` removes the cells from that layer's map. `sinks-redistributed` gives their
attention to the layer's other cells in proportion (as Kang et al., but all of it and in all heads). The states (L, V)
need one more pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map, layer_means
from qvl_attn.attribution.selection import describe_layers
from qvl_attn.core.text import pluralize
from qvl_attn.model.signals import STATES, Floats, States

SCORE, NORM = 20.0, 5.0
# By number of layers and hidden size of the language model: 3B, 7B and 32B, from public code.
DIMENSIONS: Mapping[tuple[int, int], tuple[int, ...]] = {
    (36, 2048): (318, 1874, 1819),
    (28, 3584): (458, 2570),
    (64, 5120): (4675, 3094),
}


def sink_cells(states: States) -> NDArray[np.bool_]:
    """Return which cells are sinks in each layer, (L, V)."""
    median = np.median(states.norms, axis=1, keepdims=True)
    sinks: NDArray[np.bool_] = (states.sink_scores >= SCORE) | (states.norms >= NORM * median)
    return sinks


def removed(layers: Floats, sinks: NDArray[np.bool_]) -> Floats:
    """Return the attention with the sinks set to 0, (L, V)."""
    return np.where(sinks, 0.0, layers)


def redistributed(layers: Floats, sinks: NDArray[np.bool_]) -> Floats:
    """Return the attention with the sinks' share given to the layer's other cells in proportion, (L, V)."""
    rest = np.where(sinks, 0.0, layers)
    total, rest_total = layers.sum(axis=1, keepdims=True), rest.sum(axis=1, keepdims=True)
    result: Floats = rest * np.where(rest_total > 0, total / np.where(rest_total > 0, rest_total, 1), 0)
    return result


def _without_sinks(view: View, name: str, treat: Callable[[Floats, NDArray[np.bool_]], Floats]) -> MethodMap:
    states = view.signals.states
    assert states is not None
    numbers = view.capture.layers.tolist()
    sinks = sink_cells(states)[numbers]
    layers = treat(layer_means(view.capture, view.rows), sinks)
    cells = np.flatnonzero(sinks[view.chosen].any(axis=0))
    treatment = "removed" if name == "sinks" else "spread over the others"
    treatment += " where they are sinks" if len(view.layers) > 1 else ""
    count = f"{pluralize(len(cells), 'sink cell')} {treatment}" if len(cells) else "no sinks found"
    dimensions = f"dimensions {', '.join(map(str, states.dimensions))}" if states.dimensions else "any dimension"
    return MethodMap(
        method=name,
        values=as_map(layers[view.chosen].mean(axis=0)),
        caption=f"mean of {describe_layers(view.layers)}, {count} ({dimensions} from {SCORE:g} RMS, or norm from "
        f"{NORM:g} medians)",
        layers=view.layers,
        layer_values=as_map(layers),
        layer_numbers=tuple(numbers),
        removed=tuple(cells.tolist()),
    )


SINKS = Method(
    name="sinks",
    compute=partial(_without_sinks, name="sinks", treat=removed),
    needs=frozenset({STATES}),
    shows="the mean without the cells whose hidden states are sinks",
    source="Kang et al. 2025, arXiv 2503.03321; Darcet et al. 2023, arXiv 2309.16588",
    cost="one more pass without generation",
    when="single cells outshine the picture and have no content",
    wrong="an object under a sink is removed too; thresholds are from other models; bright borders can remain",
    differs="Kang et al. spread the attention of sinks instead: see sinks-redistributed; the norm's threshold is ours",
)
REDISTRIBUTED = Method(
    name="sinks-redistributed",
    compute=partial(_without_sinks, name="sinks-redistributed", treat=redistributed),
    needs=frozenset({STATES}),
    shows="the mean with the sinks' attention spread over the other cells in proportion",
    source="Kang et al. 2025, arXiv 2503.03321",
    cost="one more pass without generation",
    when="layers with large sinks should count as much as the others",
    wrong="as for sinks",
    differs="spreads all of a sink's attention, in all heads; published are a share of it, in heads that attend to the "
    "picture",
)
