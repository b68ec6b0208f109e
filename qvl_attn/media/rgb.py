"""Pixels of a loaded picture of any of Pillow's modes as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms


def to_rgb(image: Image.Image) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels (H, W, 3) uint8 of a loaded picture of any of Pillow's modes, and what was done to it."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled_grey(np.asarray(image))
    notes = []
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        notes = ["transparency: drawn on white"] if alpha.getextrema() != (255, 255) else []
        image = white
    elif image.mode == "LAB":
        image = ImageCms.profileToProfile(  # type: ignore[assignment]  # None only with inPlace
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        notes = ["LAB: converted to sRGB"]
    elif image.mode == "CMYK":
        notes = ["CMYK: converted to RGB without its colour profile"]
    return np.array(image.convert("RGB")), notes


def _scaled_grey(values: np.ndarray) -> tuple[NDArray[np.uint8], list[str]]:
    """Scale grey values of more than 8 bits (H, W) linearly, rounded, into (H, W, 3) uint8.

    Integers within 0 to 65535 keep that range (value / 257) and floats within 0 to 1 keep that one; other values are
    stretched from the lowest to the highest. NaN becomes black, infinities the ends of the range.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    natural = 1.0 if values.dtype.kind == "f" else 65535.0
    if low >= 0 and high <= natural:
        low, high = 0.0, natural
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        for line, target in zip(values, grey, strict=True):  # by lines: float64 of a whole picture may be a gigabyte
            target[:] = np.rint(np.nan_to_num(np.interp(line, (low, high), (0, 255))))
    note = f"{8 * values.itemsize}-bit grey: {low:g} to {high:g} scaled to 8 bits"
    return np.repeat(grey[:, :, None], 3, axis=2), [note]
