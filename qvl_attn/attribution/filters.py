"""Filters that take the noise out of maps, whatever made the maps: single cells that stand out of those around them.

Pure. Both look at the nine cells of a 3 x 3 window. At the borders a map is reflected without its edge, as
dcb|abcd|cba (numpy's `reflect`); a side of one cell, which has nothing to reflect, is repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import FloatArray


def denoise(values: FloatArray, name: str) -> FloatArray:
    """Filter a map, each step by itself.

    Args:
        values: (t, h, w) finite attention of any scale.
        name: of one of `FILTERS`.

    Returns:
        (t, h, w) float32, in the unit of `values`.

    Raises:
        InputError: there is no such filter.
    """
    if name not in FILTERS:
        raise InputError(f"--denoise {name}: unknown", f"write {' or '.join(FILTERS)}")
    return FILTERS[name](_ordered_windows(values)).astype(np.float32)


def _ordered_windows(values: FloatArray) -> NDArray[np.float64]:
    """(t, h, w, 9) the values around each cell, ascending."""
    rows, columns = (np.pad(np.arange(n), 1, mode="reflect" if n > 1 else "edge") for n in values.shape[1:])
    padded = values.astype(np.float64)[:, rows[:, None], columns]
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2)).reshape(*values.shape, 9)
    return np.sort(windows, axis=-1)


def _median(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    return ordered[..., 4]


def _rank_gaussian(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank Gaussian filter of Token Activation Maps (Li et al. 2025, arXiv 2506.23270; `rank_guassian_filter`).

    The mean of a window's values under a Gaussian over their ranks, whose centre is the middle rank and whose sigma, in
    ranks, is the window's coefficient of variation: standard deviation over mean. Where all are equal it is that value,
    and where their mean is not above 0 it is 0.
    """
    mean, deviation = ordered.mean(axis=-1), ordered.std(axis=-1)
    some = mean > 0
    sigma = deviation / np.where(some, mean, 1)
    ranks = np.arange(9) - 4
    # Of equal values every weighting has the same mean.
    weights = np.exp(-(ranks**2) / (2 * np.where(sigma > 0, sigma, 1)[..., None] ** 2))
    return np.where(some, (ordered * weights).sum(axis=-1) / weights.sum(axis=-1), 0.0)


FILTERS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "median": _median,
    "rank-gaussian": _rank_gaussian,
}
