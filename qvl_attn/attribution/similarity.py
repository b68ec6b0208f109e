"""How alike two maps are, for sanity checks of a method of attention maps (Adebayo et al. 2018, arXiv 1810.03292).

A method whose map of a model with random weights is like that of the trained one does not show what the model has
learned. Pure: maps of finite values of any scale in, one figure out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW = 11  # cells across the Gaussian window of SSIM
SIGMA = 1.5  # its standard deviation, in cells
K1, K2 = 0.01, 0.03


def rank_correlation(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    """Spearman's rho (Spearman 1904): Pearson's correlation of the cells' ranks, cells that tie having their mean rank.

    Args:
        one: a map of any shape and scale.
        other: another of the same shape.

    Returns:
        -1 to 1; NaN where either map is constant.

    Raises:
        ValueError: the maps have different shapes.
    """
    _require_one_shape(one, other)
    if _is_constant(one) or _is_constant(other):
        return float("nan")
    x, y = _centred_ranks(one), _centred_ranks(other)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def ssim(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    """Structural similarity of two maps (Wang et al. 2004), each scaled to [0, 1] by its own minimum and maximum first.

    At each cell, with means, population variances and covariance under a Gaussian window of sigma 1.5 cells, 11 x 11:
    (2 μx μy + C1) (2 σxy + C2) / ((μx² + μy² + C1) (σx² + σy² + C2)), C1 = 0.01², C2 = 0.03². Windows stay within a
    step; at the borders the map is reflected with its edge (dcba|abcd|dcba), again and again if the grid is smaller.

    Args:
        one: (t, h, w) of any scale.
        other: another of the same shape.

    Returns:
        The mean over all cells of all steps, -1 to 1; NaN where either map is constant over all of them.

    Raises:
        ValueError: the maps have different shapes.
    """
    _require_one_shape(one, other)
    if _is_constant(one) or _is_constant(other):
        return float("nan")
    steps = zip(_scaled(one), _scaled(other), strict=True)
    return float(np.mean([_ssim_of_cells(x, y) for x, y in steps]))


def _require_one_shape(one: NDArray[Any], other: NDArray[Any]) -> None:
    if one.shape != other.shape:
        raise ValueError(f"maps of shapes {one.shape} and {other.shape}")


def _is_constant(values: NDArray[Any]) -> bool:
    return bool(values.min() == values.max())


def _centred_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """The mean rank of each cell, row after row, less the mean of all ranks."""
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ranks = counts.cumsum() - (counts - 1) / 2
    return np.asarray(ranks[inverse] - (values.size + 1) / 2)


def _scaled(values: NDArray[Any]) -> NDArray[np.float64]:
    shifted = values.astype(np.float64) - float(values.min())
    return np.asarray(shifted / shifted.max())


def _ssim_of_cells(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(h, w) the similarity around each cell of (h, w) values from 0 to 1."""
    c1, c2 = K1**2, K2**2
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x * mean_x, _windowed(y * y) - mean_y * mean_y
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return np.asarray(luminance * (2 * covariance + c2) / (variance_x + variance_y + c2))


def _windowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of (h, w) values under the Gaussian window around each cell."""
    return np.asarray(cv2.GaussianBlur(values, (WINDOW, WINDOW), SIGMA, borderType=cv2.BORDER_REFLECT))


@dataclass(frozen=True)
class Likeness:
    """How alike the map is under one circumstance.

    Attributes:
        label: what was changed, in words.
        rank_correlation: Spearman's, -1 to 1; None where no map can be drawn, or one of the two is constant.
        ssim: structural similarity, -1 to 1; None likewise.
    """

    label: str
    rank_correlation: float | None
    ssim: float | None

    def __post_init__(self) -> None:
        for value in (self.rank_correlation, self.ssim):
            if value is not None and not -1 - 1e-6 <= value <= 1 + 1e-6:
                raise ValueError(f"{self.label}: a likeness of {value}")


@dataclass(frozen=True)
class Sanity:
    """The sanity checks of one headline map.

    Attributes:
        weights: by how many layers were scrambled, ascending.
        question: of another question about the same pictures.
        picture: of the same question about other pictures.
    """

    weights: tuple[Likeness, ...]
    question: Likeness
    picture: Likeness

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("weights: no likeness")

    def figures(self) -> dict[str, float]:
        """Rank correlation and SSIM with all layers scrambled, of the other question and picture; NaN where none is."""
        found = {"weights": self.weights[-1], "question": self.question, "picture": self.picture}
        values = {f"{name}_rank": one.rank_correlation for name, one in found.items()}
        values |= {f"{name}_ssim": one.ssim for name, one in found.items()}
        return {name: float("nan") if value is None else value for name, value in values.items()}


def sanity_json(sanity: Sanity) -> dict[str, Any]:
    """As plain values."""
    return {**asdict(sanity), "weights": [asdict(one) for one in sanity.weights]}


def sanity_from(written: Mapping[str, Any]) -> Sanity:
    """From what `sanity_json` wrote."""
    weights = tuple(Likeness(**one) for one in written["weights"])
    return Sanity(weights, Likeness(**written["question"]), Likeness(**written["picture"]))
