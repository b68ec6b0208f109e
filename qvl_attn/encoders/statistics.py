"""Statistics of an encoder's layers, each with its value for uniform attention. Pure.

The mean attention distance, the entropy and the share within a window are means over single rows, computed while the
model runs (`capture.py`). The others are of the attention averaged over the patches: is it concentrated on few tokens?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, NotRequired, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.selection import describe_layers
from qvl_attn.encoders.attention import EncoderAttention

STATISTICS = ("distance_px", "entropy_bits", "top10_share", "tokens_50", "tokens_90", "window_share")
TITLES = {
    "distance_px": "mean attention distance, px of the encoder's input",
    "entropy_bits": "entropy of a patch's attention, bits",
    "top10_share": "share of the ten strongest tokens, patches together",
    "tokens_50": "tokens that get 50 % from all patches together",
    "tokens_90": "tokens that get 90 % from all patches together",
    "window_share": "share within the own window",
}
STRONGEST = 10
Floats = NDArray[np.float64]
F = TypeVar("F")


class ByStatistic(TypedDict, Generic[F]):
    """A value for each of `STATISTICS`; encoders without windows have no `window_share`."""

    distance_px: F
    entropy_bits: F
    top10_share: F
    tokens_50: F
    tokens_90: F
    window_share: NotRequired[F]


@dataclass(frozen=True, eq=False, repr=False)
class Statistic:
    """One statistic of every layer and head.

    Attributes:
        values: (L, H) float64, the mean over the steps of a clip.
        chance: (L,) float64, its value if the attention of every patch is uniform over the tokens it can attend to.
    """

    values: Floats
    chance: Floats


def statistics_of(attention: EncoderAttention) -> dict[str, Statistic]:
    """Return all statistics by name, in the order of `STATISTICS`; no `window_share` if there are no windows.

    - `distance_px`, `entropy_bits`, `window_share`: as in `EncoderAttention`, means over the rows of single patches.
    - `top10_share`: the share of the ten strongest tokens of a step in the mean over the patches' rows.
    - `tokens_50`, `tokens_90`: the fewest tokens that together get 50 % or 90 % of that mean. Of the last token the
      fraction that is needed counts, so the values are continuous: for a uniform map of N tokens `tokens_50` is N / 2.

    Prefix tokens count as tokens: attention on [CLS] or on registers may be concentrated, too.
    """
    statistics = {
        "distance_px": Statistic(_over_steps(attention.distance_px), _chance_distance_px(attention)),
        "entropy_bits": Statistic(_over_steps(attention.entropy_bits), _chance_entropy_bits(attention)),
    }
    ordered = -np.sort(-attention.received.astype(np.float64), axis=-1)
    tokens, L = ordered.shape[-1], attention.layer_count
    statistics["top10_share"] = Statistic(
        ordered[..., :STRONGEST].sum(axis=-1).mean(axis=-1), np.full(L, min(1.0, STRONGEST / tokens))
    )
    for percent in (50, 90):
        values = _token_count(ordered, percent / 100).mean(axis=-1)
        statistics[f"tokens_{percent}"] = Statistic(values, np.full(L, tokens * percent / 100))
    if attention.window_share is not None:
        statistics["window_share"] = Statistic(_over_steps(attention.window_share), _chance_window_share(attention))
    return statistics


def _over_steps(values: NDArray[np.float32]) -> Floats:
    return np.asarray(values.mean(axis=-1, dtype=np.float64))


def _token_count(ordered: Floats, share: float) -> Floats:
    """Return how many values of the last axis, in descending order, add up to a share of their sum, as a fraction."""
    sums = ordered.cumsum(axis=-1)
    target = share * sums[..., -1:]
    whole = (sums < target).sum(axis=-1, keepdims=True)
    before = np.where(whole > 0, np.take_along_axis(sums, np.maximum(whole - 1, 0), axis=-1), 0.0)
    fraction = (target - before) / np.take_along_axis(ordered, whole, axis=-1)
    return np.asarray((whole + fraction)[..., 0])


def window_cells(attention: EncoderAttention) -> list[NDArray[np.int64]]:
    """Return the places of the patches of each window; without windows, one array of all places."""
    _, h, w = attention.grid
    numbers = np.zeros(h * w, dtype=np.int64) if attention.window is None else attention.window
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]


def window_shapes(attention: EncoderAttention) -> NDArray[np.int64]:
    """Return the (columns, rows) of patches of each window; without windows, of the picture: (W, 2)."""
    _, h, w = attention.grid
    numbers = np.zeros(h * w, dtype=np.int64) if attention.window is None else attention.window
    number, places = np.unique(numbers, return_inverse=True)[1], np.arange(h * w)
    columns, rows = (
        np.bincount(np.unique(number * side + place) // side) for side, place in ((w, places % w), (h, places // w))
    )
    return np.stack([columns, rows], axis=1)


def _by_kind(attention: EncoderAttention, full: float, windowed: float) -> Floats:
    return np.where(attention.full, full, windowed)


def _chance_distance_px(attention: EncoderAttention) -> Floats:
    _, h, w = attention.grid
    shapes = window_shapes(attention)
    weights = shapes.prod(axis=1)
    windowed = np.array([_mean_distance(rows, columns) for columns, rows in shapes.tolist()]) @ weights / weights.sum()
    return _by_kind(attention, attention.patch_px * _mean_distance(h, w), attention.patch_px * windowed)


def _mean_distance(rows: int, columns: int) -> float:
    """Return the mean distance between two cells drawn uniformly from a grid, in cells."""
    y, x = np.arange(rows)[:, None], np.arange(columns)
    pairs = (rows - y) * np.where(y > 0, 2, 1) * (columns - x) * np.where(x > 0, 2, 1)
    return float((pairs * np.hypot(y, x)).sum() / (rows * columns) ** 2)


def _chance_entropy_bits(attention: EncoderAttention) -> Floats:
    sizes = np.array([len(cells) for cells in window_cells(attention)])
    windowed = float(np.log2(sizes) @ sizes / sizes.sum())
    return _by_kind(attention, float(np.log2(attention.received.shape[-1])), windowed)


def _chance_window_share(attention: EncoderAttention) -> Floats:
    sizes = np.array([len(cells) for cells in window_cells(attention)], dtype=np.float64)
    return _by_kind(attention, float(sizes @ sizes / sizes.sum() ** 2), 1.0)


LOCAL_SHARE = 0.5
# Attention is concentrated if the tokens with half of it are fewer than this share of their number by chance.
CONCENTRATED_SHARE = 0.8


def local_until(distance_px: Statistic) -> int | None:
    """Return the last of the local layers that start at layer 0; None if layer 0 is not local.

    A layer is local if its mean distance over the heads is below half of that of attention that is uniform over the
    whole picture. So a windowed layer may be local even if its attention is uniform within the windows.
    """
    is_global = distance_px.values.mean(axis=1) >= LOCAL_SHARE * uniform_px(distance_px)
    first = int(is_global.argmax()) if is_global.any() else len(is_global)
    return first - 1 if first else None


def uniform_px(distance_px: Statistic) -> float:
    """Return the mean distance of attention that is uniform over the whole picture: the largest of all layers."""
    return float(distance_px.chance.max())


def most_concentrated(tokens_50: Statistic) -> int:
    """Return the layer where the tokens with half of the attention are fewest, relative to chance."""
    return int((tokens_50.values.mean(axis=1) / tokens_50.chance).argmin())


def describe_statistics(statistics: Mapping[str, Statistic]) -> list[str]:
    """Describe in two lines up to which layer attention is local, and where it is concentrated on few tokens.

    Args:
        statistics: by name, with `distance_px` and `tokens_50`.
    """
    return [_describe_locality(statistics["distance_px"]), _describe_concentration(statistics["tokens_50"])]


def _describe_locality(distance_px: Statistic) -> str:
    last, uniform = local_until(distance_px), uniform_px(distance_px)
    means = distance_px.values.mean(axis=1)
    local = (means < LOCAL_SHARE * uniform).nonzero()[0].tolist()
    windowed = [layer for layer in local if distance_px.chance[layer] < uniform]
    layer = 0 if last is None else last
    reach = f"attention reaches {means[layer]:.0f} px on average, {uniform:.0f} px if uniform over the whole picture"
    if len(local) == len(means):
        description = f"local in all layers (in layer {layer} {reach})"
    elif last is None:
        description = f"not local in layer 0, where {reach}"
    else:
        description = f"local up to layer {last}, where {reach}"
    later = [layer for layer in local if layer > (-1 if last is None else last)]
    description += f"; local again: {describe_layers(later)}" if later else ""
    return description + (f"; local because of their windows: {describe_layers(windowed)}" if windowed else "")


def _describe_concentration(tokens_50: Statistic) -> str:
    layer = most_concentrated(tokens_50)
    count, chance = tokens_50.values[layer].mean(), tokens_50.chance[layer]
    where = "most concentrated in" if count < CONCENTRATED_SHARE * chance else "not concentrated in any layer; closest:"
    half = f"half of the attention of all patches is on {count:.1f} tokens, by chance on {chance:.1f}"
    return f"{where} layer {layer}, where {half}"
