"""A method's map as heat maps of the pictures of its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale, split_by_picture
from qvl_attn.attribution.methods import METHODS, MethodMap
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import Capture, FloatArray, HeatMap, IntArray, Scale


def method_heat_maps(
    method: MethodMap,
    capture: Capture,
    rows: IntArray,
    query: str,
    scale: Scale | None = None,
    layer: int | None = None,
    heads: str = "all",
) -> tuple[HeatMap, ...]:
    """One heat map a picture of the prompt, all on one scale; `uniform` is the mean of the map's own cells.

    Args:
        method: what it made of the prompt.
        capture: the attention rows.
        rows: of the query.
        query: what asked.
        scale: what to draw them on; by default their own 99.5th percentile.
        layer: of one layer alone; None for the whole.
        heads: what was averaged, as text.

    Raises:
        CaptureError: the map is zero everywhere: there is nothing to draw.
    """
    values: FloatArray = method.values
    layers = method.layers
    if layer is not None:
        assert method.layer_values is not None
        values, layers = method.layer_values[method.layer_numbers.index(layer)], (layer,)
    mean = float(values.mean())
    if not mean > 0:
        raise CaptureError(f"--method {method.method}: its map is zero everywhere", "try another one: qvl-attn methods")
    # Of some heads the layers' share is another one: their map is itself what they put on vision.
    heads_mass = float(values.sum(dtype=np.float64)) if heads != "all" else None
    captured = [i for i, number in enumerate(capture.layers.tolist()) if number in layers] or slice(None)
    return tuple(
        HeatMap(
            values=part,
            media_index=i,
            layers=layers,
            heads=heads,
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
    """For `attention.npz`: `relative_values` (V,) and, where the method has layers, `relative_layer_values` (K, V)."""
    arrays = {f"{one.method}_values": one.values for one in methods}
    return arrays | {f"{one.method}_layer_values": one.layer_values for one in methods if one.layer_values is not None}


def methods_json(methods: Sequence[MethodMap], capture: Capture) -> list[dict[str, Any]]:
    """For `result.json`."""
    boxes, media = np.concatenate([grid.boxes_px for grid in capture.grids]), capture.media_index
    return [
        {
            "name": one.method,
            "caption": one.caption,
            "layers": list(one.layers),
            "layer_numbers": list(one.layer_numbers),
            "removed": [
                {"cell": cell, "media": int(media[cell]), "box_px": boxes[cell].tolist()} for cell in one.removed
            ],
        }
        for one in methods
    ]


def methods_from(
    items: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray], asked: Sequence[str]
) -> tuple[MethodMap, ...]:
    """The inverse of the two.

    Args:
        items: of `result.json`.
        arrays: of `attention.npz`.
        asked: the methods that were asked for.

    Raises:
        KeyError: a field or array is missing.
        TypeError: a field of another type.
        ValueError: a map that is none, of another number of cells, or of a method that was not asked for.
    """
    names = [item["name"] for item in items]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"no method {unknown[0]!r}")
    if names != [*asked]:
        raise ValueError(f"methods {names}, and {[*asked]} were asked for")
    cells = len(arrays["vision_tokens"])
    other = [name for name in names if np.shape(arrays[f"{name}_values"]) != (cells,)]
    if other:
        raise ValueError(f"{other[0]}_values does not have {cells} cells")
    return tuple(
        MethodMap(
            method=str(item["name"]),
            values=arrays[f"{item['name']}_values"],
            caption=str(item["caption"]),
            layers=tuple(int(layer) for layer in item["layers"]),
            layer_values=arrays.get(f"{item['name']}_layer_values"),
            layer_numbers=tuple(int(layer) for layer in item["layer_numbers"]),
            removed=tuple(int(cell["cell"]) for cell in item["removed"]),
        )
        for item in items
    )
