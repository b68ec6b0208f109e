"""What a method is: what it needs captured, a pure function of that, and what should be known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Capture, FloatArray, IntArray
from qvl_attn.model.signals import ATTENTION, CLASSES, GENERIC, RELEVANCE, STATES, TOWER, Floats, Signals


@dataclass(frozen=True, eq=False)
class View:
    """What a method looks at.

    Attributes:
        capture: the attention rows.
        query: `question`, `last`, `answer` or `text:words`.
        rows: the query's, as indices into the capture's Q axis.
        layers: the layers that the plain mean averages.
        heads: those of a profile, as (layer, head); None without one.
        signals: what was captured beside the rows.
    """

    capture: Capture
    query: str
    rows: IntArray
    layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...] | None
    signals: Signals

    @property
    def chosen(self) -> list[int]:
        """Places of `layers` in the capture's L axis.

        Raises:
            InputError: one of them was not captured.
        """
        captured = self.capture.layers.tolist()
        absent = [layer for layer in self.layers if layer not in captured]
        if absent:
            raise InputError(f"layer {absent[0]} was not captured")
        return [captured.index(layer) for layer in self.layers]

    @property
    def query_seeds(self) -> Floats:
        """(S,) the query's tokens, summing to one, over prompt and answer."""
        seeds = np.zeros(len(self.signals.seeds))
        seeds[self.capture.queries[self.rows]] = 1 / len(self.rows)
        return seeds


@dataclass(frozen=True, eq=False, repr=False)
class MethodMap:
    """What a method makes of one prompt.

    Attributes:
        method: its name.
        values: (V,) float32, not below 0, of any scale.
        caption: what it shows, for the foot of a picture.
        layers: the layers that went into `values`; empty where none of the language model's did.
        layer_values: (K, V) float32, the same of single layers, not below 0; none where the method has no layers.
        layer_numbers: (K,) their numbers.
        removed: cells that were taken out of `values`, as indices into the V axis.
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
                raise ValueError("a map below zero, or not finite")
        if any(not 0 <= cell < cells for cell in self.removed):
            raise ValueError("removed: a cell that is not there")


@dataclass(frozen=True)
class Method:
    """A way from what was captured to a map.

    Attributes:
        name: as it is typed.
        compute: the map of a view; pure.
        needs: what of `Signals` it reads.
        shows: what the map is, in a few words.
        source: where it was published.
        cost: beside the answer itself.
        when: to use it.
        wrong: what is known to be wrong with it.
        heads: whether it wants a profile with heads.
        head_max: whether it reads the heads' maximum of each row.
        layer_label: what stands before a layer's number beneath its map.
        follows_query: whether the map is that of the query; else that of the answer's token.
    """

    name: str
    compute: Callable[[View], MethodMap]
    needs: frozenset[str]
    shows: str
    source: str
    cost: str
    when: str
    wrong: str
    heads: bool = False
    head_max: bool = False
    follows_query: bool = True
    layer_label: str = "layer"

    @property
    def told_needs(self) -> str:
        """What it needs captured, to be read."""
        further = [*(NEEDS[name] for name in sorted(self.needs))]
        further += ["the heads' maximum of each row"] * self.head_max + ["the profile's heads apart"] * self.heads
        return "; ".join(["attention rows", *further])


NEEDS = {
    GENERIC: "rows of a generic prompt about the same pictures",
    STATES: "length and sink score of the vision tokens' hidden states in every layer",
    ATTENTION: "queries and keys of every layer",
    RELEVANCE: "queries, keys, values and gradients of every layer",
    TOWER: "activations and gradients of the vision tower's last layer",
    CLASSES: "last hidden states, and the head's rows of the words of question and answer",
}


def layer_means(capture: Capture, rows: IntArray) -> Floats:
    """(L, V) attention of some query rows, averaged over them and over all heads, of each captured layer."""
    mean: Floats = capture.weights[:, rows].mean(axis=1, dtype=np.float64)
    return mean


def as_map(values: Floats) -> FloatArray:
    """As maps are kept."""
    found: FloatArray = values.astype(np.float32)
    return found
