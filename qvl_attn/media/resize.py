"""Resizing of pictures."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def fit_px(size_px: tuple[int, int], longest_px: int) -> tuple[int, int]:
    """Return the size of the same aspect whose longest side is `longest_px`; each side is at least one pixel."""
    ratio = longest_px / max(size_px)
    return max(1, round(size_px[0] * ratio)), max(1, round(size_px[1] * ratio))


def resize_picture(picture: Picture, size_px: tuple[int, int]) -> Picture:
    """Resize (H, W, 3) uint8 to `size_px` (width, height): area average to shrink, cubic to enlarge."""
    height, width = picture.shape[:2]
    if (width, height) == size_px:
        return picture
    shrinks = size_px[0] * size_px[1] < width * height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, size_px, interpolation=method), dtype=np.uint8)


def at_size(picture: Picture, size_px: tuple[int, int] | None) -> Picture:
    """Resize as `resize_picture` does; None keeps the size."""
    return picture if size_px is None else resize_picture(picture, size_px)
