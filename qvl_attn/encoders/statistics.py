"""Figures of an encoder's layers, and what attention that is spread evenly would give. Pure.

Some are of single rows, and taken while the model runs (`attention.py`): the mean attention distance, the entropy, the
share within a window. The others are of what the patches' attention adds up to: does it gather on a few tokens?
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.selection import describe_layers
from qvl_attn.encoders.attention import EncoderAttention

FIGURES = ("distance_px", "entropy_bits", "top10_share", "tokens_50", "tokens_90", "window_share")
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


@dataclass(frozen=True, eq=False, repr=False)
class Figure:
    """One figure of every layer and head.

    Attributes:
        values: (L, H) float64, the mean over the steps of a clip.
        chance: (L,) float64, what it is where every patch spreads its attention evenly over the tokens that it sees.
    """

    values: Floats
    chance: Floats


def statistics_of(attention: EncoderAttention) -> dict[str, Figure]:
    """All figures of a sight, by name, in the order of `FIGURES`; without `window_share` where there are no windows.

    - `distance_px`, `entropy_bits`, `window_share`: as `EncoderAttention` has them, means over single patches' rows.
    - `top10_share`: of the mean over the patches' rows, what the ten strongest tokens of a step get.
    - `tokens_50`, `tokens_90`: of the same, the fewest tokens that together get 50 % or 90 % of it; of the last one the
      part that is needed counts, so that they are continuous: half of an even map of N tokens are N / 2.

    Tokens of the prefix count as tokens: attention that gathers on [CLS] or on registers gathers.
    """
    found = {
        "distance_px": Figure(_over_steps(attention.distance_px), _chance_distance_px(attention)),
        "entropy_bits": Figure(_over_steps(attention.entropy_bits), _chance_entropy_bits(attention)),
    }
    ordered = -np.sort(-attention.received.astype(np.float64), axis=-1)
    tokens, L = ordered.shape[-1], attention.layer_count
    found["top10_share"] = Figure(
        ordered[..., :STRONGEST].sum(axis=-1).mean(axis=-1), np.full(L, min(1.0, STRONGEST / tokens))
    )
    for percent in (50, 90):
        values = _tokens_that_carry(ordered, percent / 100).mean(axis=-1)
        found[f"tokens_{percent}"] = Figure(values, np.full(L, tokens * percent / 100))
    if attention.window_share is not None:
        found["window_share"] = Figure(_over_steps(attention.window_share), _chance_window_share(attention))
    return found


def _over_steps(values: NDArray[np.float32]) -> Floats:
    return np.asarray(values.mean(axis=-1, dtype=np.float64))


def _tokens_that_carry(ordered: Floats, share: float) -> Floats:
    """How many of the last axis's values, strongest first, add up to a share of their sum, the last one in part."""
    sums = ordered.cumsum(axis=-1)
    wanted = share * sums[..., -1:]
    whole = (sums < wanted).sum(axis=-1, keepdims=True)
    before = np.where(whole > 0, np.take_along_axis(sums, np.maximum(whole - 1, 0), axis=-1), 0.0)
    part = (wanted - before) / np.take_along_axis(ordered, whole, axis=-1)
    return np.asarray((whole + part)[..., 0])


def window_cells(attention: EncoderAttention) -> list[NDArray[np.int64]]:
    """The places of each window's patches; one of all patches where there are no windows."""
    _, h, w = attention.grid
    numbers = np.zeros(h * w, dtype=np.int64) if attention.window is None else attention.window
    return [np.flatnonzero(numbers == number) for number in np.unique(numbers)]


def _by_kind(attention: EncoderAttention, full: float, windowed: float) -> Floats:
    return np.where(attention.full, full, windowed)


def _chance_distance_px(attention: EncoderAttention) -> Floats:
    _, h, w = attention.grid
    shapes = [(len({*(place // w).tolist()}), len({*(place % w).tolist()})) for place in window_cells(attention)]
    weights = np.array([rows * columns for rows, columns in shapes])
    windowed = np.array([_mean_distance(rows, columns) for rows, columns in shapes]) @ weights / weights.sum()
    return _by_kind(attention, attention.patch_px * _mean_distance(h, w), attention.patch_px * windowed)


def _mean_distance(rows: int, columns: int) -> float:
    """The mean distance between two cells of a grid, each drawn evenly, in cells."""
    y, x = np.arange(rows)[:, None], np.arange(columns)
    pairs = (rows - y) * np.where(y > 0, 2, 1) * (columns - x) * np.where(x > 0, 2, 1)
    return float((pairs * np.hypot(y, x)).sum() / (rows * columns) ** 2)


def _chance_entropy_bits(attention: EncoderAttention) -> Floats:
    sizes = np.array([len(place) for place in window_cells(attention)])
    windowed = float(np.log2(sizes) @ sizes / sizes.sum())
    return _by_kind(attention, float(np.log2(attention.received.shape[-1])), windowed)


def _chance_window_share(attention: EncoderAttention) -> Floats:
    sizes = np.array([len(place) for place in window_cells(attention)], dtype=np.float64)
    return _by_kind(attention, float(sizes @ sizes / sizes.sum() ** 2), 1.0)


LOCAL_SHARE = 0.5
# Of the tokens that carry half of it by chance: with nearly as many it is not gathered.
GATHERED_SHARE = 0.8


def local_until(distance_px: Figure) -> int | None:
    """The last layer to which, it and all before it, the mean distance over heads is below half of what is even.

    Even is attention spread over the whole picture: a layer of windows is local however it spreads within them.
    """
    far = distance_px.values.mean(axis=1) >= LOCAL_SHARE * even_px(distance_px)
    first = int(far.argmax()) if far.any() else len(far)
    return first - 1 if first else None


def even_px(distance_px: Figure) -> float:
    """The mean distance of attention that is spread over the whole picture: chance of the layers that see most."""
    return float(distance_px.chance.max())


def gathers_most(tokens_50: Figure) -> int:
    """The layer where the fewest tokens, over their count by chance, carry half of the attention."""
    return int((tokens_50.values.mean(axis=1) / tokens_50.chance).argmin())


def said(figures: Mapping[str, Figure]) -> list[str]:
    """Until which layer the encoder is local, and where it gathers on few tokens, a sentence each.

    Args:
        figures: `distance_px` and `tokens_50` among them.
    """
    return [_local(figures["distance_px"]), _gathers(figures["tokens_50"])]


def _local(distance_px: Figure) -> str:
    """A layer is local where attention reaches less than half as far as if it were spread over the whole picture."""
    last, even = local_until(distance_px), even_px(distance_px)
    means = distance_px.values.mean(axis=1)
    near = (means < LOCAL_SHARE * even).nonzero()[0].tolist()
    windows = [layer for layer in near if distance_px.chance[layer] < even]
    at = 0 if last is None else last
    reach = f"attention reaches {means[at]:.0f} px on average, {even:.0f} px if spread over the whole picture"
    if len(near) == len(means):
        description = f"local in all layers (in layer {at} {reach})"
    elif last is None:
        description = f"not local in layer 0, where {reach}"
    else:
        description = f"local until layer {last}, where {reach}"
    again = [layer for layer in near if layer > (-1 if last is None else last)]
    description += f"; local again: {describe_layers(again)}" if again else ""
    return description + (f"; by their windows: {describe_layers(windows)}" if windows else "")


def _gathers(tokens_50: Figure) -> str:
    few = gathers_most(tokens_50)
    count, even = tokens_50.values[few].mean(), tokens_50.chance[few]
    where = "most on few tokens in" if count < GATHERED_SHARE * even else "on few tokens in no layer, not even in"
    half = f"half of what all patches give together is on {count:.1f} of them, by chance on {even:.1f}"
    return f"gathers {where} layer {few}: {half}"
