"""Similarity of two maps, for sanity checks of methods (Adebayo et al. 2018, arXiv 1810.03292). Pure.

If a method's map of a model with random weights is similar to the map of the trained model, the method does not show
what the model has learned. The functions take maps of finite values of any scale and return one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.typed_json import Number

WINDOW = 11  # cells across the Gaussian window of SSIM
SIGMA = 1.5  # its standard deviation, in cells
K1, K2 = 0.01, 0.03


def rank_correlation(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> float:
    """Return Spearman's rho (Spearman 1904): Pearson's correlation of the cells' ranks, with mean ranks for ties.

    Args:
        first: a map of any shape and scale.
        second: a map of the same shape.

    Returns:
        -1 to 1; NaN if a map is constant.

    Raises:
        ValueError: the maps have different shapes.
    """
    _require_same_shape(first, second)
    if _is_constant(first) or _is_constant(second):
        return float("nan")
    x, y = _centred_ranks(first), _centred_ranks(second)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def ssim(first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]]) -> float:
    """Return the structural similarity (Wang et al. 2004) of two maps, each first scaled to [0, 1] by its extremes.

    Each cell has (2 μx μy + C1) (2 σxy + C2) / ((μx² + μy² + C1) (σx² + σy² + C2)), C1 = 0.01², C2 = 0.03², with means,
    population variances and covariance under an 11 x 11 Gaussian window of sigma 1.5 cells. A window stays within a
    step; at the borders the map is reflected with its edge (dcba|abcd|dcba), repeatedly if the grid is smaller.

    Args:
        first: (t, h, w) map of any scale.
        second: a map of the same shape.

    Returns:
        The mean over all cells of all steps, -1 to 1; NaN if a map is constant over all steps.

    Raises:
        ValueError: the maps have different shapes.
    """
    _require_same_shape(first, second)
    if _is_constant(first) or _is_constant(second):
        return float("nan")
    steps = zip(_scaled(first), _scaled(second), strict=True)
    return float(np.mean([_ssim_of_cells(x, y) for x, y in steps]))


def _require_same_shape(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape:
        raise ValueError(f"maps of shapes {first.shape} and {second.shape}")


def _is_constant(values: NDArray[Any]) -> bool:
    return bool(values.min() == values.max())


def _centred_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean rank of each cell minus the mean of all ranks, row by row."""
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ranks = counts.cumsum() - (counts - 1) / 2
    return np.asarray(ranks[inverse] - (values.size + 1) / 2)


def _scaled(values: NDArray[Any]) -> NDArray[np.float64]:
    shifted = values.astype(np.float64) - float(values.min())
    return np.asarray(shifted / shifted.max())


def _ssim_of_cells(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the similarity at each cell, (h, w), of two (h, w) maps with values from 0 to 1."""
    c1, c2 = K1**2, K2**2
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x, variance_y = _windowed(x * x) - mean_x * mean_x, _windowed(y * y) - mean_y * mean_y
    covariance = _windowed(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return np.asarray(luminance * (2 * covariance + c2) / (variance_x + variance_y + c2))


def _windowed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of (h, w) values under the Gaussian window around each cell."""
    return np.asarray(cv2.GaussianBlur(values, (WINDOW, WINDOW), SIGMA, borderType=cv2.BORDER_REFLECT))


@dataclass(frozen=True)
class Likeness:
    """Similarity of the map after one change to the original map.

    Attributes:
        label: the change, as text.
        rank_correlation: Spearman's rho, -1 to 1; None if there is no map to draw, or a map is constant.
        ssim: structural similarity, -1 to 1; None in the same cases.
    """

    label: str
    rank_correlation: Number
    ssim: Number

    def __post_init__(self) -> None:
        for value in (self.rank_correlation, self.ssim):
            if value is not None and not -1 - 1e-6 <= value <= 1 + 1e-6:
                raise ValueError(f"{self.label}: similarity {value}, want -1 to 1")


@dataclass(frozen=True)
class Sanity:
    """The sanity checks of one headline map.

    Attributes:
        weights: with scrambled weights, by the number of scrambled layers, ascending.
        question: with another question about the same pictures.
        picture: with the same question about other pictures.
    """

    weights: tuple[Likeness, ...]
    question: Likeness
    picture: Likeness

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError("weights: empty")

    def figures(self) -> dict[str, float]:
        """Return rank correlation and SSIM: all layers scrambled, other question, other picture. NaN for None."""
        changes = {"weights": self.weights[-1], "question": self.question, "picture": self.picture}
        values = {f"{name}_rank": likeness.rank_correlation for name, likeness in changes.items()}
        values |= {f"{name}_ssim": likeness.ssim for name, likeness in changes.items()}
        return {name: float("nan") if value is None else value for name, value in values.items()}
