"""Which part of the original the patches cover, and that part as a picture. Pure.

A processor may crop, or paint black around a picture that is smaller than its crop; then a picture of attention is
drawn on just that part.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.encoders.attention import Sight
from qvl_attn.encoders.record import Look
from qvl_attn.media.resize import Picture

Box = tuple[float, float, float, float]


def seen_box_px(sight: Sight) -> Box:
    """The part of the upright original that all patches of a step cover, xyxy; it may reach beyond the picture."""
    x0, y0 = sight.boxes_px[:, :2].min(axis=0).tolist()
    x1, y1 = sight.boxes_px[:, 2:].max(axis=0).tolist()
    return x0, y0, x1, y1


def seen_size_px(sight: Sight) -> tuple[int, int]:
    """(width, height) of that part in the original's pixels."""
    x0, y0, x1, y1 = seen_box_px(sight)
    return max(1, round(x1 - x0)), max(1, round(y1 - y0))


def seen(look: Look, step: int, size_px: tuple[int, int]) -> Picture:
    """The part of a step's first frame that its patches cover, cut out to a fraction of a pixel and resized.

    Args:
        look: of a picture or a clip.
        step: of the clip, 0 for a picture.
        size_px: (width, height) to which it is resized, antialiased and bicubic.

    Returns:
        (H, W, 3) uint8 RGB; what lies outside the picture is black.
    """
    frame = look.media.frames[look.frames[step, 0]]
    kept = np.array([frame.shape[1], frame.shape[0]] * 2) / np.array([*look.media.size_px] * 2)
    return cut_out(frame, np.array(seen_box_px(look.sight)) * kept, size_px)


def cut_out(frame: Picture, box_px: NDArray[np.float64], size_px: tuple[int, int]) -> Picture:
    """A part of a picture, xyxy in its pixels, at another size: (H, W, 3) uint8; black outside the picture."""
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = box_px.tolist()
    # A crop is found by a line through pixels and told to a hundredth: less than that is not outside.
    left, top = (max(0, math.ceil(-side - 0.05)) for side in (x0, y0))
    right, bottom = (max(0, math.ceil(side - 0.05)) for side in (x1 - width, y1 - height))
    if left or top or right or bottom:
        frame = np.pad(frame, ((top, bottom), (left, right), (0, 0)))
    height, width = frame.shape[:2]
    x0, x1 = np.clip([x0 + left, x1 + left], 0, width).tolist()
    y0, y1 = np.clip([y0 + top, y1 + top], 0, height).tolist()
    shown = Image.fromarray(frame).resize(size_px, Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))
    return np.asarray(shown)


def seen_words(look: Look) -> str | None:
    """Which part of the original the encoder sees; None where it is all of it, but for less than a pixel."""
    (x0, y0, x1, y1), (width, height) = seen_box_px(look.sight), look.media.size_px
    # As exact as its place can be known: half a pixel of what the encoder sees, at least one of the original.
    input_px = look.sight.input_px
    near_x, near_y = (max(1.0, 0.5 * (x1 - x0) / input_px[0]), max(1.0, 0.5 * (y1 - y0) / input_px[1]))
    whole = f"{width} x {height} px"
    if max(abs(x0), abs(x1 - width)) <= near_x and max(abs(y0), abs(y1 - height)) <= near_y:
        return None
    part = f"{x1 - x0:.0f} x {y1 - y0:.0f}"
    if min(x0, width - x1) < -near_x or min(y0, height - y1) < -near_y:
        return f"the encoder sees {part} px, more than the picture's {whole}: the rest is black"
    if abs(x0 + x1 - width) <= 2 * near_x and abs(y0 + y1 - height) <= 2 * near_y:
        return f"the encoder sees the middle {part} of {whole}"
    return f"the encoder sees {part} of {whole}, from {x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f}"
