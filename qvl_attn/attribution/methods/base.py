"""The definition of a method: the signals that it needs, a pure function of these, and its documentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qvl_attn.attribution.selection import Pairs, Query
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Capture, FloatArray, IntArray
from qvl_attn.model.signals import ATTENTION, CLASSES, GENERIC, RELEVANCE, STATES, TOWER, Floats, Signals


@dataclass(frozen=True, eq=False)
class View:
    """The input of a method.

    Attributes:
        capture: the attention rows.
        query: the query.
        rows: the query's rows, as indices into the capture's Q axis.
        layers: the layers that the plain mean averages.
        heads: the profile's heads, as (layer, head) pairs; None without a profile.
        signals: the signals captured besides the rows.
    """

    capture: Capture
    query: Query
    rows: IntArray
    layers: tuple[int, ...]
    heads: Pairs | None
    signals: Signals

    @property
    def chosen(self) -> list[int]:
        """The indices of `layers` in the capture's L axis.

        Raises:
            InputError: a layer was not captured.
        """
        captured = self.capture.layers.tolist()
        absent = [layer for layer in self.layers if layer not in captured]
        if absent:
            raise InputError(f"layer {absent[0]} was not captured")
        return [captured.index(layer) for layer in self.layers]

    @property
    def query_seeds(self) -> Floats:
        """(S,) weights over prompt and answer that sum to one, equal on the query's tokens."""
        seeds = np.zeros(len(self.signals.seeds))
        seeds[self.capture.queries[self.rows]] = 1 / len(self.rows)
        return seeds


@dataclass(frozen=True, eq=False, repr=False)
class MethodMap:
    """The map of a method for one prompt.

    Attributes:
        method: name of the method.
        values: (V,) float32, non-negative, of any scale.
        caption: description of the map, for the foot of a picture.
        layers: the layers used in `values`; empty if no layer of the language model is used.
        layer_values: (K, V) float32, non-negative, the maps of single layers; None if the method has no layers.
        layer_numbers: (K,) the numbers of these layers.
        removed: cells that the method removed from `values`, as indices into the V axis.
    """

    method: str
    values: FloatArray
    caption: str
    layers: tuple[int, ...] = ()
    layer_values: FloatArray | None = None
    layer_numbers: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        cells = len(self.values)
        rows = 0 if self.layer_values is None else len(self.layer_values)
        if self.values.shape != (cells,) or self.values.dtype != np.float32 or not cells:
            raise ValueError(f"values: {self.values.dtype} {self.values.shape}")
        if rows != len(self.layer_numbers):
            raise ValueError(f"layer_numbers: {len(self.layer_numbers)} of {rows}")
        for values in (self.values, *([] if self.layer_values is None else [self.layer_values])):
            if values.shape[-1] != cells or values.dtype != np.float32:
                raise ValueError(f"layer_values: {values.dtype} {values.shape}, of {cells} cells")
            if not np.isfinite(values).all() or (values < 0).any():
                raise ValueError("a map has values below zero or not finite")
        if any(not 0 <= cell < cells for cell in self.removed):
            raise ValueError("removed: no such cell")


@dataclass(frozen=True)
class Method:
    """A method that computes a map from captured rows and signals.

    Attributes:
        name: what users write, as in `method='mean'`.
        compute: pure function from a view to a map.
        needs: names of the signals that it uses.
        shows: short description of the map.
        source: publication.
        cost: cost beyond the answer itself.
        when: when to use it.
        wrong: known problems.
        differs: how it departs from the publication or from its authors' code; empty if it does not.
        heads: whether it needs a profile with heads.
        head_max: whether it uses the maximum over heads of each row.
        follows_query: whether the map depends on the query; else it explains the answer's tokens.
        layer_label: label before a layer's number under its map.
    """

    name: str
    compute: Callable[[View], MethodMap]
    needs: frozenset[str]
    shows: str
    source: str
    cost: str
    when: str
    wrong: str
    differs: str = ""
    heads: bool = False
    head_max: bool = False
    follows_query: bool = True
    layer_label: str = "layer"

    @property
    def needs_description(self) -> str:
        """The captured data that it needs, as text."""
        signals = [*(NEEDS[name] for name in sorted(self.needs))]
        signals += ["the heads' maximum of each row"] * self.head_max + ["the profile's single heads"] * self.heads
        return "; ".join(["attention rows", *signals])


NEEDS = {
    GENERIC: "rows of a generic prompt about the same pictures",
    STATES: "norm and sink score of the vision tokens' hidden states in every layer",
    ATTENTION: "queries and keys of every layer",
    RELEVANCE: "queries, keys, values and gradients of every layer",
    TOWER: "activations and gradients of the vision encoder's last layer",
    CLASSES: "last hidden states, and the LM head's rows for the tokens of question and answer",
}


def layer_means(capture: Capture, rows: IntArray) -> Floats:
    """Return the attention of each captured layer, averaged over some query rows and over all heads, (L, V)."""
    mean: Floats = capture.weights[:, rows].mean(axis=1, dtype=np.float64)
    return mean


def as_map(values: Floats) -> FloatArray:
    """Convert to the dtype of maps, float32."""
    converted: FloatArray = values.astype(np.float32)
    return converted
