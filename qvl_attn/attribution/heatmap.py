"""Heat maps from captured attention rows: plain means over layers, heads and queries. Pure numpy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.selection import Pairs, describe, describe_heads
from qvl_attn.core.errors import CaptureError, InputError
from qvl_attn.core.text import argument
from qvl_attn.core.types import Capture, FloatArray, HeatMap, IntArray, Scale, TokenGrid


def mean_over(
    capture: Capture, layers: Sequence[int], heads: Sequence[tuple[int, int]] | None, rows: IntArray
) -> FloatArray:
    """Return the mean attention of some query rows on each vision token, over layers and heads.

    Args:
        capture: the attention rows.
        layers: layer numbers; all their heads are averaged.
        heads: (layer, head) pairs to average instead of whole layers.
        rows: indices into the capture's Q axis.

    Returns:
        (V,) float32.

    Raises:
        InputError: a layer was not captured, or a head was not recorded.
    """
    index = {layer: i for i, layer in enumerate(capture.layers.tolist())}
    absent = [layer for layer in (layers if heads is None else [layer for layer, _ in heads]) if layer not in index]
    if absent:
        raise InputError(f"layer {absent[0]} was not captured", f"captured: {describe(capture.layers.tolist())}")
    if heads is None:
        chosen = capture.weights[[index[layer] for layer in layers]][:, rows]
    else:
        by_head = [(_rows_of_head(capture, layer, head), f"{layer}.{head}") for layer, head in heads]
        missing = [name for weights, name in by_head if weights is None]
        if missing:
            raise InputError(
                f"head {missing[0]} was not recorded in this result", f"ask again with {argument('heads')}"
            )
        chosen = np.stack([weights[rows] for weights, _ in by_head if weights is not None])
    mean: FloatArray = chosen.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
    return mean


def _rows_of_head(capture: Capture, layer: int, head: int) -> NDArray[Any] | None:
    """Return the attention of one head, (Q, V); None if the head was not recorded."""
    if capture.weights_by_head is None:
        return None
    layers = capture.apart.layers if capture.apart else tuple(capture.layers.tolist())
    heads = capture.apart.heads if capture.apart else tuple(range(capture.weights_by_head.shape[1]))
    if layer not in layers or head not in heads:
        return None
    rows: NDArray[Any] = capture.weights_by_head[layers.index(layer), heads.index(head)]
    return rows


def split_by_picture(values: FloatArray, grids: Sequence[TokenGrid]) -> tuple[FloatArray, ...]:
    """Split (V,) values into one (t, h, w) array for each picture."""
    stops = np.cumsum([grid.cells for grid in grids])[:-1]
    return tuple(part.reshape(grid.shape) for part, grid in zip(np.split(values, stops), grids, strict=True))


def heat_maps(
    capture: Capture,
    *,
    layers: Sequence[int],
    heads: Pairs | None,
    rows: IntArray,
    query: str,
    scale: Scale | None = None,
) -> tuple[HeatMap, ...]:
    """Return one heat map for each picture of the prompt, all on one scale.

    Args:
        capture: the attention rows.
        layers: the layers to average.
        heads: (layer, head) pairs to average instead of whole layers; None for all heads.
        rows: indices into the capture's Q axis.
        query: the query, as text.
        scale: scale of the colours; by default from 0 to the values' own 99.5th percentile.

    Raises:
        CaptureError: there is no attention on the pictures, so nothing to draw.
    """
    values = mean_over(capture, layers, heads, rows)
    averaged = tuple(layers) if heads is None else tuple(sorted({layer for layer, _ in heads}))
    mass = float(values.sum(dtype=np.float64))
    if not mass > 0:
        raise CaptureError(f"layers {describe(averaged)}: {query} puts no attention on the pictures")
    scale = scale or percentile_scale([values])
    return tuple(
        HeatMap(
            values=part,
            media_index=i,
            layers=averaged,
            heads=describe_heads(heads),
            query=query,
            queries=tuple(capture.queries[rows].tolist()),
            uniform=mass / len(values),
            vision_mass=mass,
            scale=scale,
        )
        for i, part in enumerate(split_by_picture(values, capture.grids))
    )


def over_chance(values: FloatArray) -> NDArray[np.float64]:
    """Return the attention on each step of a (t, h, w) map over a uniform spread, (t,): 1 is uniform."""
    steps = values.sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(steps / steps.mean())


def layer_figures(maps: Sequence[HeatMap], grids: Sequence[TokenGrid]) -> dict[str, float]:
    """Return how much attention a map has, and how focused and how wide it is.

    Returns:
        `vision_mass`; `entropy_bits`, entropy of the cells' shares; `top10_share`, share of the ten strongest cells;
        `spread_px`, root mean square distance of the attention from its own centre within each picture.
    """
    values = np.concatenate([m.values.ravel() for m in maps]).astype(np.float64)
    share = values / values.sum()
    positive = share[share > 0]
    variance, start = 0.0, 0
    for grid in grids:
        part = share[start : start + grid.cells]
        start += grid.cells
        boxes = grid.boxes_px.astype(np.float64)
        centres = np.stack([boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)], axis=1)
        if part.sum() > 0:
            centre = (part[:, None] * centres).sum(axis=0) / part.sum()
            variance += float((part * ((centres - centre) ** 2).sum(axis=1)).sum())
    return {
        "vision_mass": maps[0].vision_mass,
        "entropy_bits": float(-(positive * np.log2(positive)).sum()),
        "top10_share": float(np.sort(share)[::-1][:10].sum()),
        "spread_px": float(np.sqrt(variance)),
    }


CLIP_PERCENTILE = 99.5


def percentile_scale(values: Iterable[Any], percentile: float = CLIP_PERCENTILE) -> Scale:
    """Return a scale from 0 to a percentile of all cells, so that one sink cell does not make all others dark.

    If the percentile is 0 the maximum is used, and if all cells are 0 the largest possible attention, 1.

    Args:
        values: arrays of attention.
        percentile: 0 to 100.
    """
    cells = np.concatenate([np.ravel(array) for array in values])
    high = float(np.percentile(cells, percentile)) or float(cells.max()) or 1.0
    return Scale(0.0, max(high, float(np.finfo(np.float32).tiny)))
