"""A map of saliency as it is drawn: no attention, so its scale is in multiples of its own mean. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import HeatMap
from qvl_attn.encoders.record import SaliencyMap
from qvl_attn.render.panels import filtered
from qvl_attn.render.style import Drawing

METHOD_WORDS = {
    "gradcam": "Grad-CAM on the patch grid",
    "attention_gradient": "attention x gradient",
}


def saliency_heat_map(one: SaliencyMap, drawing: Drawing) -> HeatMap | None:
    """A map of saliency as it is drawn, its `uniform` its own mean; None where nothing is left of it to draw."""
    if not one.values.any():
        return None
    whole = HeatMap(
        values=one.values,
        media_index=0,
        layers=(),
        heads="all",
        query=one.target,
        queries=(),
        uniform=float(one.values.mean(dtype=np.float64)),
        vision_mass=0.0,
        scale=percentile_scale([one.values]),
        method=one.method,
    )
    try:
        (found,) = filtered((whole,), drawing)
    except CaptureError:
        return None
    return replace(found, uniform=float(found.values.mean(dtype=np.float64)))
