"""What methods need beside the attention rows: frozen, and plain numbers but for the products with whole matrices.

Axes: L layers of the model (all of them), S tokens of prompt and answer, V vision tokens, C classes: the tokens of the
question and of the answer, in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.types import Capture, FloatArray, IntArray

Floats = NDArray[np.float64]
# (S,) row vector in, its product with a layer's (S, S) matrix out.
Product = Callable[[Floats], Floats]

GENERIC, STATES, ATTENTION, RELEVANCE, TOWER, CLASSES = (
    "generic",
    "states",
    "attention",
    "relevance",
    "tower",
    "classes",
)


@dataclass(frozen=True, eq=False)
class States:
    """Hidden states of the vision tokens as they come into each layer.

    Attributes:
        norms: (L, V) Euclidean length.
        sink_scores: (L, V) the largest magnitude among the sink dimensions over the root mean square of all.
        dimensions: which dimensions those are; empty where all of them count.
    """

    norms: FloatArray
    sink_scores: FloatArray
    dimensions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tower:
    """What the vision tower's last layer gives, and how the answer depends on it; the patches in the grids' order.

    Attributes:
        activations: (V, m * m, C) float32, of the patches of each cell.
        gradients: (V, m * m, C) float32, of the answer's logits with respect to these.
    """

    activations: FloatArray
    gradients: FloatArray


@dataclass(frozen=True, eq=False)
class Classes:
    """How strongly tokens activate the words of question and answer: hidden states times the head's rows, not below 0.

    Attributes:
        ids: (C,) the tokens: the question's, then the answer's.
        targets: which of them are explained: those of the answer's text.
        vision: (C, V) float32, of each vision token for each class.
        text: (C, C) float32, of each class (first axis) where the other stands (second axis): a token of the question
            at its own position, one of the answer at the position that produced it.
    """

    ids: IntArray
    targets: tuple[int, ...]
    vision: FloatArray
    text: FloatArray


@dataclass(frozen=True, eq=False)
class Signals:
    """What was captured for some methods; None where none of them needs it.

    Attributes:
        seeds: (S,) where the explained tokens of the answer are produced, summing to one.
        explained: the text of those tokens.
        generic: the rows of a prompt about the same pictures that asks for nothing in particular.
        states: of the vision tokens.
        attention: for each layer the product with the mean of its heads' attention.
        relevance: for each layer the product with the mean over heads of attention times gradient, positive part.
        tower: of the vision tower.
        classes: of the last hidden states.
    """

    seeds: Floats
    explained: str
    generic: Capture | None = None
    states: States | None = None
    attention: tuple[Product, ...] = ()
    relevance: tuple[Product, ...] = ()
    tower: Tower | None = None
    classes: Classes | None = None
