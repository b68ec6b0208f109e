"""Pictures of the encoder's input: its grid of patches, and the reconstruction beside the original. Pure."""

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
    visible_picture,
    visible_size_px,
)
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering
from qvl_attn.render.layout import captioned
from qvl_attn.render.overlay import outlined
from qvl_attn.render.paper import PAGE
from qvl_attn.render.style import Drawing

# A drawn patch has at least this side, so that lines do not cover it, unless the picture would become too large.
LEAST_PATCH_PX, LONGEST_PX = 24, 2400
WINDOW_COLOR, WINDOW_EDGE = (255, 206, 84), (16, 18, 24)
BESIDE_PX, BETWEEN_PX = 900, 24


def draw_grid(record: EncoderRecord, drawing: Drawing) -> Picture:
    """Draw the first step as the encoder receives it, enlarged, with the lines of its patches and windows.

    Args:
        record: the result of a picture or a clip.
        drawing: its `draw_size_px` is roughly the longest side; patches have at least `LEAST_PATCH_PX` if possible.

    Returns:
        (H, W, 3) uint8 RGB with title and caption; all patches are squares of the same size.
    """
    attention = record.attention
    _, h, w = attention.grid
    side = grid_patch_px((h, w), drawing)
    picture = _nearest_or_smaller(record.reconstruction[0], (w * side, h * side))
    drawn = with_patch_lines(picture, side)
    if attention.window is not None:
        drawn = with_window_lines(drawn, attention.window.reshape(h, w), side)
    for i, place in enumerate(attention.query_patches.tolist()):
        drawn = _draw_number(mark_patch(drawn, place, (h, w)), i + 1, place, (h, w))
    return captioned(drawn, _grid_title(record), _grid_lines(record))


def grid_patch_px(grid: tuple[int, int], drawing: Drawing) -> int:
    """Return the side of a drawn patch for (h, w) patches."""
    longest = max(grid)
    return max(2, min(max(LEAST_PATCH_PX, round((drawing.draw_size_px or 1280) / longest)), LONGEST_PX // longest))


def with_patch_lines(picture: Picture, side_px: int) -> Picture:
    """Draw thin half-transparent lines between patches, light beside dark, so that they are visible everywhere."""
    drawn = picture.copy()
    thick = max(1, side_px // 80)
    x, y = (np.arange(length) % side_px for length in (picture.shape[1], picture.shape[0]))
    for level, offset in ((0, side_px - thick), (255, 0)) if side_px >= 12 else ((255, 0),):
        columns, rows = ((offset <= position) & (position < offset + thick) for position in (x, y))
        columns[:thick], rows[:thick] = False, False
        columns[-thick:], rows[-thick:] = False, False
        line = columns | rows[:, None]
        drawn[line] = picture[line] // 2 + level // 2
    return drawn


def with_window_lines(picture: Picture, window: NDArray[np.int64], side_px: int) -> Picture:
    """Draw thick lines between patches of different windows.

    Args:
        picture: (h * side_px, w * side_px, 3) uint8 RGB.
        window: (h, w), the index of each patch's window.
        side_px: side of a drawn patch.
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
    """Outline one patch. The outline is outside the patch, so that even a small patch stays visible.

    Args:
        picture: (H, W, 3) uint8 RGB of the region that the patches cover.
        place: row * w + column.
        grid: (h, w) rows and columns of patches.
    """
    height, width = picture.shape[:2]
    row, column = divmod(place, grid[1])
    line = (max(2, round(max(height, width) / 320)) + 2) / 2  # as `outlined` draws it
    x0, x1 = column / grid[1] - line / width, (column + 1) / grid[1] + line / width
    y0, y1 = row / grid[0] - line / height, (row + 1) / grid[0] + line / height
    return outlined(picture, np.clip([[x0, y0, x1, y1]], 0, 1))


def _draw_number(picture: Picture, number: int, place: int, grid: tuple[int, int]) -> Picture:
    """Draw a number on a dark background to the right of a patch, or to its left if there is no space."""
    page, size = Image.fromarray(picture), 22
    row, column = divmod(place, grid[1])
    side = picture.shape[1] // grid[1]
    width, height = math.ceil(lettering.measure(str(number), size)) + 10, lettering.line_height_px(size)
    gap = 8 + page.width // 320  # beyond the outline
    x = (column + 1) * side + gap
    x = x if x + width <= page.width else column * side - gap - width
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
    size_px, part = record.media[0].size_px, describe_visible_region(record)
    line = f"original {size_px[0]} x {size_px[1]} px · input {width} x {height} px · {h * w} patches"
    lines = [describe_provenance(record), line + (f" a step, {t} steps; the first is drawn" if t > 1 else "")]
    lines += [part] if part else []
    if attention.window is not None:
        lines.append(
            f"thick lines: {len(np.unique(attention.window))} windows, the largest of {describe_window(attention)}"
        )
    if len(attention.query_patches):
        patches = ", ".join(
            f"{i + 1}: {describe_query(record, f'at_{i + 1}')}" for i in range(len(attention.query_patches))
        )
        lines.append(f"outlined: {patches}")
    return lines


def draw_reconstruction(record: EncoderRecord) -> Picture:
    """Draw the original, resized to the size of the encoder's input, beside the picture reconstructed from the input.

    Returns:
        (H, W, 3) uint8 RGB with title and a caption that states their difference.
    """
    input_px = record.attention.input_px
    original, reconstruction = visible_picture(record, 0, input_px), record.reconstruction[0]
    largest, mean = level_difference(original, reconstruction)
    ratio = max(1, BESIDE_PX // max(input_px)) if max(input_px) <= BESIDE_PX else BESIDE_PX / max(input_px)
    size_px = (max(1, round(input_px[0] * ratio)), max(1, round(input_px[1] * ratio)))
    left, right = (_nearest_or_smaller(picture, size_px) for picture in (original, reconstruction))
    gap = np.full((size_px[1], BETWEEN_PX, 3), PAGE, np.uint8)
    part_px, part = visible_size_px(record.attention), describe_visible_region(record)
    lines = [
        f"left: {part_px[0]} x {part_px[1]} px of the original at {input_px[0]} x {input_px[1]} px · "
        "right: the picture as the encoder receives it, reconstructed from its normalised patches",
        f"they differ by {mean:.1f} of 255 levels on average, by {largest} at most: the left one was resized "
        "here and not by the processor, so edges differ a little; a shape in another place would be an error",
        *([part] if part else []),
        *(["the first step is drawn"] if record.attention.grid[0] > 1 else []),
        describe_provenance(record),
    ]
    return captioned(
        np.concatenate([left, gap, right], axis=1), "the original, and the picture as the encoder receives it", lines
    )


def level_difference(first: Picture, second: Picture) -> tuple[int, float]:
    """Return the largest and the mean absolute difference of two pictures of one size, in levels of 0 to 255."""
    difference = cv2.absdiff(first, second)
    return int(difference.max()), float(difference.mean())


def _nearest_or_smaller(picture: Picture, size_px: tuple[int, int]) -> Picture:
    """Resize a picture: enlarge it by nearest neighbour, or reduce it by area."""
    enlarges = size_px[0] >= picture.shape[1]
    method = cv2.INTER_NEAREST if enlarges else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, size_px, interpolation=method), dtype=np.uint8)
