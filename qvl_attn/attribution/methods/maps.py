"""Convert the maps of methods to heat maps, to saved arrays and JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale, split_by_picture
from qvl_attn.attribution.methods.registry import METHODS, MethodMap
from qvl_attn.attribution.selection import Pairs, describe_heads
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.text import argument
from qvl_attn.core.typed_json import Count, LayerOrHead, decoded
from qvl_attn.core.types import Capture, FloatArray, HeatMap, IntArray, Scale


def method_heat_maps(
    method: MethodMap,
    capture: Capture,
    rows: IntArray,
    query: str,
    scale: Scale | None = None,
    layer: int | None = None,
    heads: Pairs | None = None,
) -> tuple[HeatMap, ...]:
    """Return one heat map for each picture of the prompt, all on one scale; `uniform` is the mean of the map's cells.

    Args:
        method: the method's map.
        capture: the attention rows.
        rows: the query's rows, as indices into the capture's Q axis.
        query: the query, as text.
        scale: scale of the colours; by default from 0 to the map's own 99.5th percentile.
        layer: number of a single layer; None for the whole map.
        heads: the averaged heads, as (layer, head) pairs; None for all.

    Raises:
        CaptureError: the map is zero everywhere, so there is nothing to draw.
    """
    values: FloatArray = method.values
    layers = method.layers
    if layer is not None:
        assert method.layer_values is not None
        values, layers = method.layer_values[method.layer_numbers.index(layer)], (layer,)
    mean = float(values.mean())
    if not mean > 0:
        typed = argument("method", method.method)
        raise CaptureError(f"{typed}: its map is zero everywhere", f"choose another: there are {', '.join(METHODS)}")
    # Single heads have a vision mass of their own: the sum of their map.
    heads_mass = float(values.sum(dtype=np.float64)) if heads is not None else None
    captured = [i for i, number in enumerate(capture.layers.tolist()) if number in layers] or slice(None)
    return tuple(
        HeatMap(
            values=part,
            media_index=i,
            layers=layers,
            heads=describe_heads(heads),
            query=query,
            queries=tuple(capture.queries[rows].tolist()) if METHODS[method.method].follows_query else (),
            uniform=mean,
            vision_mass=heads_mass or float(capture.vision_mass[captured][:, rows].mean()),
            scale=scale or percentile_scale([values]),
            method=method.method,
        )
        for i, part in enumerate(split_by_picture(values, capture.grids))
    )


def method_arrays(methods: Sequence[MethodMap]) -> dict[str, np.ndarray]:
    """Return the arrays for `attention.npz`, such as `relative_values` (V,) and `relative_layer_values` (K, V)."""
    arrays = {f"{map_.method}_values": map_.values for map_ in methods}
    return arrays | {
        f"{map_.method}_layer_values": map_.layer_values for map_ in methods if map_.layer_values is not None
    }


def methods_json(methods: Sequence[MethodMap], capture: Capture) -> list[dict[str, Any]]:
    """Return the methods' entries for `result.json`."""
    boxes, media = np.concatenate([grid.boxes_px for grid in capture.grids]), capture.media_index
    return [
        {
            "name": map_.method,
            "caption": map_.caption,
            "layers": list(map_.layers),
            "layer_numbers": list(map_.layer_numbers),
            "removed": [
                {"cell": cell, "media": int(media[cell]), "box_px": boxes[cell].tolist()} for cell in map_.removed
            ],
        }
        for map_ in methods
    ]


class _Removed(TypedDict):
    cell: Count


class _Saved(TypedDict):
    name: str
    caption: str
    layers: tuple[LayerOrHead, ...]
    layer_numbers: tuple[LayerOrHead, ...]
    removed: list[_Removed]


def methods_from(value: object, arrays: Mapping[str, np.ndarray], requested: Sequence[str]) -> tuple[MethodMap, ...]:
    """Return the maps that `method_arrays` and `methods_json` wrote.

    Args:
        value: the methods' entries of `result.json`.
        arrays: the arrays of `attention.npz`.
        requested: the methods named in the settings.

    Raises:
        KeyError: an array is missing.
        ValueError: a field is missing or of another type, a map is invalid or has another number of cells, or the
            methods are not the requested ones.
    """
    items = decoded(value, list[_Saved], "methods")
    names = [item["name"] for item in items]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"no method {unknown[0]!r}")
    if names != [*requested]:
        raise ValueError(f"methods {names}, but the settings name {[*requested]}")
    cells = len(arrays["vision_tokens"])
    wrong = [name for name in names if np.shape(arrays[f"{name}_values"]) != (cells,)]
    if wrong:
        raise ValueError(f"{wrong[0]}_values does not have {cells} cells")
    return tuple(
        MethodMap(
            method=item["name"],
            values=arrays[f"{item['name']}_values"],
            caption=item["caption"],
            layers=item["layers"],
            layer_values=arrays.get(f"{item['name']}_layer_values"),
            layer_numbers=item["layer_numbers"],
            removed=tuple(cell["cell"] for cell in item["removed"]),
        )
        for item in items
    )
