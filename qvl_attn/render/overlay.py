"""From cell values to coloured pixels: sizes, interpolation, colour tables, blending, scales.

Pure: arrays in, arrays out, RGB everywhere. Values are interpolated before they are coloured, so that every colour
stands for a value. Knows nothing about text, files, models or the origin of the values.
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
    """Return the size at which a picture is drawn: at most `draw_size_px`; small pictures are enlarged to be legible.

    Args:
        size_px: (width, height) of the original.
        drawing: drawing options; a `draw_size_px` of 0 keeps the original's size.

    Returns:
        (width, height) in pixels, aspect kept.
    """
    if drawing.draw_size_px == 0:
        return size_px
    return fit_px(size_px, min(max(max(size_px), LEGIBLE_PX), drawing.draw_size_px))


def outlined(picture: Picture, boxes: NDArray[np.float64]) -> Picture:
    """Return a picture with boxes outlined, light on dark, to be visible on any background.

    Args:
        picture: (H, W, 3) uint8 RGB.
        boxes: (G, 4) xyxy in shares of the picture's width and height.
    """
    drawn = picture.copy()
    height, width = picture.shape[:2]
    line = max(2, round(max(width, height) / 320))
    for color, thickness in (((16, 18, 24), line + 2), ((90, 220, 255), line)):
        for x0, y0, x1, y1 in (boxes * (width, height, width, height)).round().astype(int).tolist():
            cv2.rectangle(drawn, (x0, y0), (max(x0, x1 - 1), max(y0, y1 - 1)), color, thickness)
    return drawn


def crossed_out(picture: Picture, cells: Mask) -> Picture:
    """Return a picture with some cells crossed out, light on dark, to be visible on any background.

    Args:
        picture: (H, W, 3) uint8 RGB.
        cells: (h, w) bool, True for the cells to cross out.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = picture.shape[:2]
    (rows, columns), drawn = cells.shape, picture.copy()
    thick = max(1, round(min(height / rows, width / columns) / 16))
    for row, column in np.argwhere(cells).tolist():
        x0, x1 = (round((column + share) * width / columns) for share in (0.25, 0.75))
        y0, y1 = (round((row + share) * height / rows) for share in (0.25, 0.75))
        for color, size in (((0, 0, 0), 3 * thick), ((255, 255, 255), thick)):
            cv2.line(drawn, (x0, y0), (x1, y1), color, size, cv2.LINE_AA)
            cv2.line(drawn, (x0, y1), (x1, y0), color, size, cv2.LINE_AA)
    return drawn


def cell_boxes(cells: NDArray[Any], size_px: tuple[int, int]) -> NDArray[Any]:
    """Draw each of (h, w) cells as a box: a pixel belongs to the cell that contains its centre.

    Returns:
        (H, W), of the dtype of `cells`; pixel x shows column floor((x + 0.5) * w / W).
    """
    (rows, columns), (width, height) = cells.shape, size_px
    row = (2 * np.arange(height) + 1) * rows // (2 * height)  # integers: borders do not depend on rounding
    column = (2 * np.arange(width) + 1) * columns // (2 * width)
    boxes: NDArray[Any] = cells[row[:, None], column]
    return boxes


def blur(values: FloatArray, sigma_cells: float) -> FloatArray:
    """Blur (h, w) cells with a Gaussian, mirrored at the border to preserve the sum; sigma 0 changes nothing."""
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
    """Select the strongest share of all cells of all pictures.

    The share is rounded to a whole number of cells, at least one. Cells equal to the weakest selected cell are
    selected too, so that the selection depends on values only.

    Args:
        values: one array of cells per picture.
        top_percent: above 0, at most 100.

    Returns:
        One bool array per picture, shaped like `values`.
    """
    threshold = top_threshold(values, top_percent)
    return [array >= threshold for array in values]


def top_threshold(values: Sequence[FloatArray], top_percent: float) -> float:
    """Return the smallest value in the strongest share of all cells: see `top_mask`."""
    cells = np.sort(np.concatenate([array.ravel() for array in values]))
    count = max(1, int(len(cells) * top_percent / 100 + 0.5))
    return float(cells[-count])


@cache
def color_table(colormap: str) -> Picture:
    """Return the 256 colours of a colour map, (256, 1, 3) uint8 RGB, low to high."""
    levels = np.arange(256, dtype=np.uint8)[:, None]
    bgr = cv2.applyColorMap(levels, COLORMAPS[colormap])
    return np.ascontiguousarray(bgr[..., ::-1])


def colorize(values: FloatArray, scale: Scale, colormap: str) -> Picture:
    """Colour (H, W) values: `scale.low` and below get the first of 256 colours, `scale.high` and above the last.

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
    """Lay the colours of values over a picture: (1 - alpha) * picture + alpha * colour, rounded to the nearest level.

    Args:
        picture: (H, W, 3) uint8 RGB.
        values: (H, W) float32, one value per pixel.
        scale: values at the ends of the colour map.
        drawing: colour map and alpha.
        mask: (H, W) bool; where it is False the picture is unchanged.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    return overlay(picture, colorize(values, scale, drawing.colormap), drawing, mask)


def overlay(picture: Picture, colors: Picture, drawing: Drawing, mask: Mask | None = None) -> Picture:
    """Lay (H, W, 3) uint8 colours over a picture: see `blend`."""
    mixed = np.asarray(cv2.addWeighted(picture, 1 - drawing.alpha, colors, drawing.alpha, 0), dtype=np.uint8)
    return mixed if mask is None else np.where(mask[..., None], mixed, picture)


def faded(picture: Picture) -> Picture:
    """Return a picture faded to light grey, unlike low values, which are dark in every colour map."""
    grey = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    return np.asarray(cv2.convertScaleAbs(grey, alpha=0.3, beta=165), dtype=np.uint8)


def colorbar(height_px: int, width_px: int, colormap: str) -> Picture:
    """Return an upright bar of a colour map, high at the top: (height_px, width_px, 3) uint8 RGB."""
    column = np.linspace(1, 0, height_px, dtype=np.float32)[:, None]
    return colorize(np.repeat(column, width_px, axis=1), Scale(0.0, 1.0), colormap)
