"""Attention without sinks: cells that draw attention whatever is asked, found by their hidden states, taken out.

A vision token is a sink of layer l if, as it comes into that layer, one of these holds for its hidden state h:

    max over d in D of |h_d| / RMS(h) >= SCORE          (Kang et al. 2503.03321, tau = 20)
    |h| >= NORM * median of |h| over the vision tokens  (outliers by norm, after Darcet et al. 2309.16588; 5 is ours)

D are the sink dimensions of the language model, as public code has them for the 3B, 7B and 32B, not measured here;
without them every dimension counts.
|h_d| / RMS(h) is at most the square root of the hidden size: below 400 of it there are sinks by their norm alone.
`sinks` takes the cells out of that layer's map; `sinks-redistributed` gives what they had to the layer's other cells in
proportion (as Kang et al., but with all of the budget and in all heads). States (L, V) come of one more pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.methods.base import Method, MethodMap, View, as_map, layer_means
from qvl_attn.attribution.selection import describe_layers
from qvl_attn.model.signals import STATES, Floats, States

SCORE, NORM = 20.0, 5.0
# By layers and hidden size of the language model: 3B, 7B and 32B, as public code has them.
DIMENSIONS: Mapping[tuple[int, int], tuple[int, ...]] = {
    (36, 2048): (318, 1874, 1819),
    (28, 3584): (458, 2570),
    (64, 5120): (4675, 3094),
}


def sink_cells(states: States) -> NDArray[np.bool_]:
    """(L, V) which cells are sinks in which layer."""
    usual = np.median(states.norms, axis=1, keepdims=True)
    found: NDArray[np.bool_] = (states.sink_scores >= SCORE) | (states.norms >= NORM * usual)
    return found


def removed(layers: Floats, sinks: NDArray[np.bool_]) -> Floats:
    """(L, V) attention with the sinks' taken out."""
    return np.where(sinks, 0.0, layers)


def redistributed(layers: Floats, sinks: NDArray[np.bool_]) -> Floats:
    """(L, V) attention with the sinks' given to the layer's other cells in proportion."""
    left = np.where(sinks, 0.0, layers)
    total, kept = layers.sum(axis=1, keepdims=True), left.sum(axis=1, keepdims=True)
    found: Floats = left * np.where(kept > 0, total / np.where(kept > 0, kept, 1), 0)
    return found


def _without_sinks(view: View, name: str, treat: Callable[[Floats, NDArray[np.bool_]], Floats]) -> MethodMap:
    states = view.signals.states
    assert states is not None
    numbers = view.capture.layers.tolist()
    sinks = sink_cells(states)[numbers]
    layers = treat(layer_means(view.capture, view.rows), sinks)
    cells = np.flatnonzero(sinks[view.chosen].any(axis=0))
    what = "removed" if name == "sinks" else "spread over the others"
    what += " where they are sinks" if len(view.layers) > 1 else ""
    count = f"{len(cells)} sink cell{'s' if len(cells) != 1 else ''} {what}" if len(cells) else "no sinks found"
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
    shows="the mean, without cells whose hidden states are sinks",
    source="Kang et al. 2025, arXiv 2503.03321; Darcet et al. 2023, arXiv 2309.16588",
    cost="one more pass without an answer",
    when="single cells outshine the picture and carry no content",
    wrong="an object under a sink goes with it; thresholds are of other models; border glow that is no sink stays",
)
REDISTRIBUTED = Method(
    name="sinks-redistributed",
    compute=partial(_without_sinks, name="sinks-redistributed", treat=redistributed),
    needs=frozenset({STATES}),
    shows="the same, with the sinks' attention spread over the other cells in proportion",
    source="Kang et al. 2025, arXiv 2503.03321",
    cost="one more pass without an answer",
    when="layers with large sinks should count as much as the others",
    wrong="as sinks; the published method does this within the heads that look at the picture, here in all",
)
