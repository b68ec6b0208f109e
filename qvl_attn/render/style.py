"""How pictures and clips are drawn: what a user may choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qvl_attn.core.errors import InputError


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn.

    Attributes:
        colormap: `inferno`, `viridis` or `jet`.
        alpha: weight of the colours over the picture, 0 to 1.
        interp: `linear` interpolates between the cells' centres, `cells` draws each cell as its box.
        blur_cells: sigma of a Gaussian over the cells, in cells; 0 for none.
        denoise: a filter of the cells before the blur, `median` or `rank-gaussian`; None for none.
        scale: `layer` gives each layer's own picture its own scale, `shared` one scale to all.
        top_percent: colour only this share of the cells, the strongest; 100 for all.
        draw_size_px: the longest side of a drawn picture; 0 for the size of the original.
        clip_scale: of a clip, `clip` draws all frames on one scale, `frame` each on its own.
        smooth: of a clip, interpolate the maps of the frames between two sampled ones.
        side_by_side: of a clip, put each frame beside itself without the map.

    Raises:
        InputError: a value out of range.
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
        _want(self.colormap in ("inferno", "viridis", "jet"), f"colormap {self.colormap}", "inferno, viridis, jet")
        _want(0 <= self.alpha <= 1, f"alpha {self.alpha}", "0 to 1")
        _want(self.interp in ("linear", "cells"), f"interp {self.interp}", "linear, cells")
        _want(0 <= self.blur_cells <= 100, f"blur {self.blur_cells}", "0 to 100 cells")
        _want(self.denoise in (None, "median", "rank-gaussian"), f"denoise {self.denoise}", "median, rank-gaussian")
        _want(self.scale in ("layer", "shared"), f"scale {self.scale}", "layer, shared")
        _want(self.clip_scale in ("clip", "frame"), f"scale {self.clip_scale}", "clip, frame")
        _want(0 < self.top_percent <= 100, f"top percent {self.top_percent}", "above 0, at most 100")
        size = self.draw_size_px
        _want(size == 0 or 64 <= size <= 16384, f"draw size {size}", "64 to 16384 pixels, or the original's size")


def _want(fits: bool, what: str, wanted: str) -> None:
    if not fits:
        raise InputError(f"{what}: want {wanted}")
