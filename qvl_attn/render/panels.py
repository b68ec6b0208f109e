"""Heat maps made ready to be drawn: filtered, brought to one scale, their pictures marked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.filters import denoise
from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import HeatMap
from qvl_attn.media.resize import Picture
from qvl_attn.render.layout import Panel
from qvl_attn.render.overlay import blur, crossed_out, outlined
from qvl_attn.render.style import Drawing


def marked(picture: Picture, cells: NDArray[np.bool_], boxes: NDArray[np.float64]) -> Picture:
    """A picture with (h, w) cells crossed out and (G, 4) xyxy boxes, in units of it, outlined."""
    return outlined(crossed_out(picture, cells), boxes)


def filtered(maps: tuple[HeatMap, ...], drawing: Drawing) -> tuple[HeatMap, ...]:
    """Filtered maps have a scale of their own, and all numbers beneath them are those of the filtered cells."""
    if drawing.blur_cells == 0 and drawing.denoise is None:
        return maps
    found = [m.values if drawing.denoise is None else denoise(m.values, drawing.denoise) for m in maps]
    values = [np.stack([blur(step, drawing.blur_cells) for step in one]) for one in found]
    if not any(one.any() for one in values):
        raise CaptureError(f"--denoise {drawing.denoise} leaves nothing of the map")
    scale = percentile_scale(values)
    return tuple(replace(m, values=v, scale=scale) for m, v in zip(maps, values, strict=True))


def on_one_scale(panels: Sequence[Panel]) -> list[Panel]:
    """The same panels, drawn on the 99.5th percentile of all of their cells."""
    scale = percentile_scale([m.values for panel in panels for m in panel.maps])
    return [replace(panel, maps=tuple(replace(m, scale=scale) for m in panel.maps)) for panel in panels]
