"""Filters that remove noise from the maps of any method: single cells that differ from their neighbours. Pure.

Both use the nine cells of a 3 x 3 window. At the borders a map is reflected without its edge, as dcb|abcd|cba (numpy's
`reflect`); an axis of one cell cannot be reflected and is repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument
from qvl_attn.core.types import FloatArray


def denoise(values: FloatArray, name: str) -> FloatArray:
    """Filter each step of a map separately.

    Args:
        values: (t, h, w) finite attention of any scale.
        name: one of `FILTERS`.

    Returns:
        (t, h, w) float32, in the unit of `values`.

    Raises:
        InputError: no such filter.
    """
    if name not in FILTERS:
        raise InputError(f"{argument('denoise', name)}: unknown", f"write {' or '.join(FILTERS)}")
    return FILTERS[name](_ordered_windows(values)).astype(np.float32)


def _ordered_windows(values: FloatArray) -> NDArray[np.float64]:
    """Return the values of each cell's window in ascending order, (t, h, w, 9)."""
    rows, columns = (np.pad(np.arange(n), 1, mode="reflect" if n > 1 else "edge") for n in values.shape[1:])
    padded = values.astype(np.float64)[:, rows[:, None], columns]
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2)).reshape(*values.shape, 9)
    return np.sort(windows, axis=-1)


def _median(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    return ordered[..., 4]


def _rank_gaussian(ordered: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank Gaussian filter of Token Activation Maps (Li et al. 2025, arXiv 2506.23270; `rank_guassian_filter`).

    It is the mean of a window's values under a Gaussian over their ranks. The Gaussian is centred on the middle rank;
    its sigma, in ranks, is the window's coefficient of variation: standard deviation over mean. If all values are
    equal, the result is that value; if their mean is not above 0, the result is 0.
    """
    mean, deviation = ordered.mean(axis=-1), ordered.std(axis=-1)
    positive = mean > 0
    sigma = deviation / np.where(positive, mean, 1)
    ranks = np.arange(9) - 4
    # Where all values are equal any sigma gives the same mean.
    weights = np.exp(-(ranks**2) / (2 * np.where(sigma > 0, sigma, 1)[..., None] ** 2))
    return np.where(positive, (ordered * weights).sum(axis=-1) / weights.sum(axis=-1), 0.0)


FILTERS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "median": _median,
    "rank-gaussian": _rank_gaussian,
}
