"""What methods made of a prompt as arrays and JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qvl_attn.attribution.methods import METHODS, MethodMap
from qvl_attn.core.types import Capture


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
