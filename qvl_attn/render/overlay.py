"""From cell values to coloured pixels: sizes, interpolation, colour tables, blending, scales.

Pure: arrays in, arrays out, RGB everywhere. Values are interpolated first and coloured after, so that no
colour appears that no value has. Knows nothing about text, files, models or where the values come from.
Axes: h, w are rows and columns of cells; H, W are rows and columns of pixels. Sizes are (width, height).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.types import FloatArray, Scale
from qvl_attn.media.resize import Picture, fit_px
from qvl_attn.render.style import Drawing

Mask = NDArray[np.bool_]

LEGIBLE_PX = 640

COLORMAPS = {"inferno": cv2.COLORMAP_INFERNO, "viridis": cv2.COLORMAP_VIRIDIS, "jet": cv2.COLORMAP_JET}


def drawn_size_px(size_px: tuple[int, int], drawing: Drawing) -> tuple[int, int]:
    """How large a picture is drawn: at most `draw_size_px`, and enlarged where it is too small to read.

    Args:
        size_px: (width, height) of the original.
        drawing: its `draw_size_px` of 0 keeps the original's size.

    Returns:
        (width, height) in pixels, aspect kept.
    """
    if drawing.draw_size_px == 0:
        return size_px
    return fit_px(size_px, min(max(max(size_px), LEGIBLE_PX), drawing.draw_size_px))


def outlined(picture: Picture, boxes: NDArray[np.float64]) -> Picture:
    """A picture with boxes outlined, light on dark, so that they are seen on anything.

    Args:
        picture: (H, W, 3) uint8 RGB.
        boxes: (G, 4) xyxy in units of the picture.
    """
    drawn = picture.copy()
    height, width = picture.shape[:2]
    line = max(2, round(max(width, height) / 320))
    for color, thickness in (((16, 18, 24), line + 2), ((90, 220, 255), line)):
        for x0, y0, x1, y1 in (boxes * (width, height, width, height)).round().astype(int).tolist():
            cv2.rectangle(drawn, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), color, thickness)
    return drawn


def crossed_out(picture: Picture, cells: Mask) -> Picture:
    """A picture with some cells crossed out, light on dark, so that it is seen on anything.

    Args:
        picture: (H, W, 3) uint8 RGB.
        cells: (h, w) bool.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = picture.shape[:2]
    (rows, columns), drawn = cells.shape, picture.copy()
    thick = max(1, round(min(height / rows, width / columns) / 16))
    for row, column in np.argwhere(cells).tolist():
        x0, x1 = (round((column + part) * width / columns) for part in (0.25, 0.75))
        y0, y1 = (round((row + part) * height / rows) for part in (0.25, 0.75))
        for color, size in (((0, 0, 0), 3 * thick), ((255, 255, 255), thick)):
            cv2.line(drawn, (x0, y0), (x1, y1), color, size, cv2.LINE_AA)
            cv2.line(drawn, (x0, y1), (x1, y0), color, size, cv2.LINE_AA)
    return drawn


def cell_boxes(cells: NDArray[Any], size_px: tuple[int, int]) -> NDArray[Any]:
    """Draw each of (h, w) cells as its box: a pixel belongs to the cell that its centre falls in.

    Returns:
        (H, W), of the dtype of `cells`; pixel x shows column floor((x + 0.5) * w / W).
    """
    (rows, columns), (width, height) = cells.shape, size_px
    row = (2 * np.arange(height) + 1) * rows // (2 * height)  # in integers: a border never depends on rounding
    column = (2 * np.arange(width) + 1) * columns // (2 * width)
    boxes: NDArray[Any] = cells[row[:, None], column]
    return boxes


def blur(values: FloatArray, sigma_cells: float) -> FloatArray:
    """A Gaussian over (h, w) cells, mirrored at the border, so that the sum is kept; sigma 0 changes nothing."""
    if sigma_cells == 0:
        return values
    blurred = cv2.GaussianBlur(values, (0, 0), sigma_cells, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, dtype=np.float32)


def upsample(values: FloatArray, size_px: tuple[int, int], drawing: Drawing) -> FloatArray:
    """Spread (h, w) cell values over the pixels of a picture.

    `linear` gives a cell's value at the centre of its box and interpolates between them; `cells` draws boxes.

    Returns:
        (H, W) float32, in the unit of `values`.
    """
    if drawing.interp == "cells":
        return cell_boxes(values, size_px)
    return np.asarray(cv2.resize(values, size_px, interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def top_mask(values: Sequence[FloatArray], top_percent: float) -> list[Mask]:
    """Which cells are among the strongest share of all cells of all pictures.

    The share is rounded to a whole number of cells, at least one. Cells that equal the weakest chosen one are
    chosen too, so that the choice depends on values only.

    Args:
        values: one array of cells a picture.
        top_percent: above 0, at most 100.

    Returns:
        bool, one array a picture, shaped like `values`.
    """
    least = top_threshold(values, top_percent)
    return [array >= least for array in values]


def top_threshold(values: Sequence[FloatArray], top_percent: float) -> float:
    """The weakest of the strongest share of all cells: see `top_mask`."""
    cells = np.sort(np.concatenate([array.ravel() for array in values]))
    count = max(1, int(len(cells) * top_percent / 100 + 0.5))
    return float(cells[-count])


@cache
def color_table(colormap: str) -> Picture:
    """The 256 colours of a map, (256, 1, 3) uint8 RGB, low to high."""
    levels = np.arange(256, dtype=np.uint8)[:, None]
    bgr = cv2.applyColorMap(levels, COLORMAPS[colormap])
    return np.ascontiguousarray(bgr[..., ::-1])


def colorize(values: FloatArray, scale: Scale, colormap: str) -> Picture:
    """Colour (H, W) values: `scale.low` and below the first of 256 colours, `scale.high` and above the last.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    share = np.clip(values, scale.low, scale.high)
    share -= scale.low
    share /= scale.high - scale.low
    share *= 255
    levels = np.rint(share, out=share).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels, color_table(colormap)), dtype=np.uint8)


def blend(picture: Picture, values: FloatArray, scale: Scale, drawing: Drawing, mask: Mask | None = None) -> Picture:
    """Lay the colours of values over a picture: (1 - alpha) * picture + alpha * colour, to the nearest level.

    Args:
        picture: (H, W, 3) uint8 RGB.
        values: (H, W) float32, a value for each pixel.
        scale: what the ends of the colour map mean.
        drawing: colour map and alpha.
        mask: (H, W) bool; where it is off the picture shows unchanged.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return overlay(picture, colorize(values, scale, drawing.colormap), drawing, mask)


def overlay(picture: Picture, colors: Picture, drawing: Drawing, mask: Mask | None = None) -> Picture:
    """Lay colours that are there already over a picture: see `blend`."""
    mixed = np.asarray(cv2.addWeighted(picture, 1 - drawing.alpha, colors, drawing.alpha, 0), dtype=np.uint8)
    return mixed if mask is None else np.where(mask[..., None], mixed, picture)


def faded(picture: Picture) -> Picture:
    """A picture that hardly shows, in light grey: what is beside the matter, and dark in no colour map."""
    grey = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return np.asarray(cv2.convertScaleAbs(grey, alpha=0.3, beta=165), dtype=np.uint8)


def colorbar(height_px: int, width_px: int, colormap: str) -> Picture:
    """An upright bar of a colour map's colours, high at the top: (height_px, width_px, 3) uint8 RGB."""
    column = np.linspace(1, 0, height_px, dtype=np.float32)[:, None]
    return colorize(np.repeat(column, width_px, axis=1), Scale(0.0, 1.0), colormap)
