"""A method's map as heat maps of the pictures of its prompt."""

from __future__ import annotations

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
