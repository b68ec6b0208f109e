"""What goes into an encoder: the patches as the processor cut them, and its input beside the original. Pure."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.encoders.captions import (
    describe_provenance,
    describe_query,
    describe_visible_region,
    describe_window,
    seen,
    visible_size_px,
)
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering
from qvl_attn.render.layout import PAGE, captioned
from qvl_attn.render.overlay import outlined
from qvl_attn.render.style import Drawing

# Sides of a drawn patch: so large that lines do not cover it, unless there are too many for that.
LEAST_PATCH_PX, LONGEST_PX = 24, 2400
WINDOW_COLOR, WINDOW_EDGE = (255, 206, 84), (16, 18, 24)
BESIDE_PX, BETWEEN_PX = 900, 24


def draw_grid(record: EncoderRecord, drawing: Drawing) -> Picture:
    """What the encoder sees of its first step, enlarged, under the lines of its patches and windows.

    Args:
        record: of a picture or a clip.
        drawing: its `draw_size_px` is about the longest side, but patches are drawn large enough to be seen.

    Returns:
        (H, W, 3) uint8 RGB with title and caption; every patch is a square of as many pixels.
    """
    attention = record.attention
    _, h, w = attention.grid
    side = grid_patch_px((h, w), drawing)
    picture = _nearest_or_smaller(record.reconstruction[0], (w * side, h * side))
    drawn = with_patch_lines(picture, side)
    if attention.window is not None:
        drawn = with_window_lines(drawn, attention.window.reshape(h, w), side)
    for i, place in enumerate(attention.query_patches.tolist()):
        drawn = _numbered(mark_patch(drawn, place, (h, w)), i + 1, place, (h, w))
    return captioned(drawn, _grid_title(record), _grid_lines(record))


def grid_patch_px(grid: tuple[int, int], drawing: Drawing) -> int:
    """The side of a drawn patch for (h, w) patches."""
    longest = max(grid)
    return max(2, min(max(LEAST_PATCH_PX, round((drawing.draw_size_px or 1280) / longest)), LONGEST_PX // longest))


def with_patch_lines(picture: Picture, side_px: int) -> Picture:
    """A picture with thin lines where a patch begins: half clear, light beside dark, to be seen on anything."""
    drawn = picture.copy()
    thick = max(1, side_px // 80)
    x, y = (np.arange(length) % side_px for length in (picture.shape[1], picture.shape[0]))
    for level, near in ((0, side_px - thick), (255, 0)) if side_px >= 12 else ((255, 0),):
        columns, rows = ((near <= at) & (at < near + thick) for at in (x, y))
        columns[:thick], rows[:thick] = False, False
        columns[-thick:], rows[-thick:] = False, False
        line = columns | rows[:, None]
        drawn[line] = picture[line] // 2 + level // 2
    return drawn


def with_window_lines(picture: Picture, window: NDArray[np.int64], side_px: int) -> Picture:
    """A picture with strong lines between patches of different windows.

    Args:
        picture: (h * side_px, w * side_px, 3) uint8 RGB.
        window: (h, w), the number of each patch's window.
        side_px: of a drawn patch.
    """
    drawn = picture.copy()
    inner = max(1, min(4, side_px // 8))
    for color, half in ((WINDOW_EDGE, inner + 1), (WINDOW_COLOR, inner // 2 + inner % 2)):
        for row, column in np.argwhere(window[:, 1:] != window[:, :-1]).tolist():
            x, y = (column + 1) * side_px, row * side_px
            drawn[max(0, y - half) : y + side_px + half, x - half : x + half] = color
        for row, column in np.argwhere(window[1:] != window[:-1]).tolist():
            x, y = column * side_px, (row + 1) * side_px
            drawn[y - half : y + half, max(0, x - half) : x + side_px + half] = color
    return drawn


def mark_patch(picture: Picture, place: int, grid: tuple[int, int]) -> Picture:
    """A picture with one patch outlined: around it, so that its own colour is seen however small it is.

    Args:
        picture: (H, W, 3) uint8 RGB of all that the patches cover.
        place: row * w + column.
        grid: (h, w) rows and columns of patches.
    """
    height, width = picture.shape[:2]
    row, column = divmod(place, grid[1])
    line = (max(2, round(max(height, width) / 320)) + 2) / 2  # as `outlined` draws it
    x0, x1 = column / grid[1] - line / width, (column + 1) / grid[1] + line / width
    y0, y1 = row / grid[0] - line / height, (row + 1) / grid[0] + line / height
    return outlined(picture, np.clip([[x0, y0, x1, y1]], 0, 1))


def _numbered(picture: Picture, number: int, place: int, grid: tuple[int, int]) -> Picture:
    """A number on a dark ground at the right of a patch, or at its left where there is no room."""
    page, size = Image.fromarray(picture), 22
    row, column = divmod(place, grid[1])
    side = picture.shape[1] // grid[1]
    width, height = math.ceil(lettering.measure(str(number), size)) + 10, lettering.line_height_px(size)
    away = 8 + page.width // 320  # beyond the outline
    x = (column + 1) * side + away
    x = x if x + width <= page.width else column * side - away - width
    y = min(row * side, page.height - height)
    page.paste((16, 18, 24), (x, y, x + width, y + height))
    lettering.draw_lines(page, (x + 5, y + 2), [str(number)], size, (90, 220, 255))
    return np.asarray(page)


def _grid_title(record: EncoderRecord) -> str:
    _, h, w = record.attention.grid
    return f"{w} x {h} patches of {record.attention.patch_px} px, as the processor cut them"


def _grid_lines(record: EncoderRecord) -> list[str]:
    attention, (width, height) = record.attention, record.attention.input_px
    t, h, w = attention.grid
    size_px, part = record.media.size_px, describe_visible_region(record)
    line = f"original {size_px[0]} x {size_px[1]} px · input {width} x {height} px · {h * w} patches"
    lines = [describe_provenance(record), line + (f" a step, {t} steps; here the first" if t > 1 else "")]
    lines += [part] if part else []
    if attention.window is not None:
        lines.append(
            f"thick lines: {len(np.unique(attention.window))} windows, the largest of {describe_window(attention)}"
        )
    if len(attention.query_patches):
        asked = ", ".join(
            f"{i + 1}: {describe_query(record, f'at_{i + 1}')}" for i in range(len(attention.query_patches))
        )
        lines.append(f"outlined: {asked}")
    return lines


def draw_reconstruction(record: EncoderRecord) -> Picture:
    """The original, resized by us to the encoder's input, beside the input turned back into a picture.

    Returns:
        (H, W, 3) uint8 RGB with title and caption, which tells how far the two are apart.
    """
    input_px = record.attention.input_px
    original, back = seen(record, 0, input_px), record.reconstruction[0]
    largest, mean = levels_apart(original, back)
    ratio = max(1, BESIDE_PX // max(input_px)) if max(input_px) <= BESIDE_PX else BESIDE_PX / max(input_px)
    size_px = (max(1, round(input_px[0] * ratio)), max(1, round(input_px[1] * ratio)))
    left, right = (_nearest_or_smaller(one, size_px) for one in (original, back))
    gap = np.full((size_px[1], BETWEEN_PX, 3), PAGE, np.uint8)
    part_px, part = visible_size_px(record.attention), describe_visible_region(record)
    lines = [
        f"left: {part_px[0]} x {part_px[1]} px of the original at {input_px[0]} x {input_px[1]} px · "
        "right: what the encoder was given, put together again from its normalised patches",
        f"they differ by {mean:.1f} of 255 levels on average, by {largest} at most; the original was resized here, not "
        "by the processor, so edges differ a little, but a shape in another place would be a fault",
        *([part] if part else []),
        *(["the first of the steps"] if record.attention.grid[0] > 1 else []),
        describe_provenance(record),
    ]
    return captioned(np.concatenate([left, gap, right], axis=1), "the original, and what the encoder sees", lines)


def levels_apart(one: Picture, other: Picture) -> tuple[int, float]:
    """The largest and the mean absolute difference of two pictures of one size, in levels of 0 to 255."""
    apart = cv2.absdiff(one, other)
    return int(apart.max()), float(apart.mean())


def _nearest_or_smaller(picture: Picture, size_px: tuple[int, int]) -> Picture:
    """Enlarged so that every pixel shows as a box, or reduced by area."""
    enlarges = size_px[0] >= picture.shape[1]
    method = cv2.INTER_NEAREST if enlarges else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size_px, interpolation=method), dtype=np.uint8)
