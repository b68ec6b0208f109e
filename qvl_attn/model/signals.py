"""The signals that methods need besides the attention rows, as frozen dataclasses of arrays and matrix products.

Axes: L all layers of the model, S tokens of prompt and answer, V vision tokens, C classes: the tokens of the question,
then those of the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.types import Capture, FloatArray, IntArray

Floats = NDArray[np.float64]
# Maps an (S,) row vector to its product with a layer's (S, S) matrix.
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
    """Statistics of the vision tokens' hidden states before each layer.

    Attributes:
        norms: (L, V) Euclidean norms.
        sink_scores: (L, V) largest magnitude among the sink dimensions over the root mean square of all dimensions.
        dimensions: the sink dimensions; empty if all dimensions are used.
    """

    norms: FloatArray
    sink_scores: FloatArray
    dimensions: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tower:
    """Output of the vision encoder's last layer and its gradients, in the order of the grids' cells.

    m is the merge size, C here the number of channels.

    Attributes:
        activations: (V, m * m, C) float32, one vector for each patch of each cell.
        gradients: (V, m * m, C) float32, of the answer's logits with respect to the activations.
    """

    activations: FloatArray
    gradients: FloatArray


@dataclass(frozen=True, eq=False)
class Classes:
    """Activations of the tokens of question and answer: last hidden states times the LM head's rows, clamped at 0.

    Attributes:
        ids: (C,) token ids: the question's, then the answer's.
        targets: indices of the explained tokens, which belong to the answer's text.
        vision: (C, V) float32, activation of each class at each vision token.
        text: (C, C) float32, activation of each class (first axis) at the position of each class (second axis): a
            question token at its own position, an answer token at the position that produced it.
    """

    ids: IntArray
    targets: tuple[int, ...]
    vision: FloatArray
    text: FloatArray


@dataclass(frozen=True, eq=False)
class Signals:
    """The signals captured for some methods. A signal that no method needs is None or empty.

    Attributes:
        seeds: (S,) weights that sum to one, equal on the positions that produce the explained tokens of the answer.
        explained: the text of the explained tokens.
        generic: the attention rows of a generic prompt about the same pictures.
        states: statistics of the vision tokens' hidden states.
        attention: for each layer the product with the mean of its heads' attention.
        relevance: for each layer the product with the mean over heads of attention times gradient, positive part.
        tower: activations and gradients of the vision encoder.
        classes: activations of the question's and the answer's tokens.
    """

    seeds: Floats
    explained: str
    generic: Capture | None = None
    states: States | None = None
    attention: tuple[Product, ...] = ()
    relevance: tuple[Product, ...] = ()
    tower: Tower | None = None
    classes: Classes | None = None
