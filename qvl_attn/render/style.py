"""Drawing options of pictures and clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qvl_attn.core.errors import InputError


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
        _require(self.colormap in ("inferno", "viridis", "jet"), f"colormap {self.colormap}", "inferno, viridis, jet")
        _require(0 <= self.alpha <= 1, f"alpha {self.alpha}", "0 to 1")
        _require(self.interp in ("linear", "cells"), f"interp {self.interp}", "linear, cells")
        _require(0 <= self.blur_cells <= 100, f"blur_cells {self.blur_cells}", "0 to 100 cells")
        _require(self.denoise in (None, "median", "rank-gaussian"), f"denoise {self.denoise}", "median, rank-gaussian")
        _require(self.scale in ("layer", "shared"), f"scale {self.scale}", "layer, shared")
        _require(self.clip_scale in ("clip", "frame"), f"clip_scale {self.clip_scale}", "clip, frame")
        _require(0 < self.top_percent <= 100, f"top_percent {self.top_percent}", "above 0, at most 100")
        size = self.draw_size_px
        _require(size == 0 or 64 <= size <= 16384, f"draw_size_px {size}", "64 to 16384 pixels, or the original's size")


def _require(valid: bool, option: str, allowed: str) -> None:
    if not valid:
        raise InputError(f"{option}: want {allowed}")
