"""Drawing options of pictures and clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qvl_attn.core.errors import InputError
from qvl_attn.core.options import set_types
from qvl_attn.core.text import argument


@dataclass(frozen=True)
class Drawing:
    """Options for drawing pictures and clips.

    Attributes:
        colormap: `inferno`, `viridis` or `jet`.
        alpha: opacity of the colours over the picture, 0 to 1.
        interp: `linear` interpolates between the centres of cells, `cells` draws each cell as its box.
        blur_cells: sigma of a Gaussian over the cells, in cells; 0 for none.
        denoise: filter of the cells before the blur, `median` or `rank-gaussian`; None for no filter.
        scale: `layer` draws each layer's picture on its own scale, `shared` draws all of them on one scale.
        top_percent: percentage of the cells that are coloured, the strongest; 100 for all.
        draw_size_px: longest side of a drawn picture; 0 for the size of the original.
        clip_scale: `clip` draws all frames of a clip on one scale, `frame` each frame on its own scale.
        smooth: whether frames between two sampled frames of a clip show a mix of both maps.
        side_by_side: whether each frame of a clip is drawn twice, without and with its map.

    Raises:
        InputError: a value is out of range.
        TypeError: a value is of another type.
    """

    colormap: Literal["inferno", "viridis", "jet"] = "inferno"
    alpha: float = 0.5
    interp: Literal["linear", "cells"] = "linear"
    blur_cells: float = 0.0
    scale: Literal["layer", "shared"] = "layer"
    top_percent: float = 100.0
    draw_size_px: int = 1280
    clip_scale: Literal["clip", "frame"] = "clip"
    smooth: bool = False
    side_by_side: bool = False
    denoise: str | None = None

    def __post_init__(self) -> None:
        set_types(self)
        self._require("colormap", self.colormap in ("inferno", "viridis", "jet"), "inferno, viridis, jet")
        self._require("alpha", 0 <= self.alpha <= 1, "0 to 1")
        self._require("interp", self.interp in ("linear", "cells"), "linear, cells")
        self._require("blur_cells", 0 <= self.blur_cells <= 100, "0 to 100 cells")
        self._require("denoise", self.denoise in (None, "median", "rank-gaussian"), "median, rank-gaussian")
        self._require("scale", self.scale in ("layer", "shared"), "layer, shared")
        self._require("clip_scale", self.clip_scale in ("clip", "frame"), "clip, frame")
        self._require("top_percent", 0 < self.top_percent <= 100, "above 0, at most 100")
        size = self.draw_size_px
        self._require("draw_size_px", size == 0 or 64 <= size <= 16384, "64 to 16384 pixels, or the original's size")

    def _require(self, name: str, valid: bool, allowed: str) -> None:
        if not valid:
            raise InputError(f"{argument(name, getattr(self, name))}: want {allowed}")


def describe_drawing(drawing: Drawing) -> list[str]:
    """Return how cells are drawn, where it is not the usual way: boxes, filters, only the strongest cells."""
    parts = []
    if drawing.interp != "linear":
        parts.append("each cell drawn as its box")
    if drawing.denoise:
        parts.append(f"after the filter {drawing.denoise} (3x3 cells)")
    if drawing.blur_cells > 0:
        parts.append(f"after a blur (sigma {drawing.blur_cells:g} in cells)")
    if drawing.top_percent < 100:
        parts.append(f"only the strongest {drawing.top_percent:g} % of the cells coloured")
    return parts
