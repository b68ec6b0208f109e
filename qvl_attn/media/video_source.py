"""A clip before decoding: its facts and access to its frames, independent of the file format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
# Returns a frame's pixels, (H, W, 3) uint8 RGB, upright, resized to (width, height); None keeps the clip's size.
Pixels = Callable[[Size | None], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class VideoSource:
    """A clip whose frames are decoded one by one, each with its number and time.

    Attributes:
        source: the path as it was typed.
        sha256: SHA-256 of its file or files, in hex.
        size_px: (width, height), upright.
        times_s: (N,) float64, presentation time of each frame; ascending from 0.
        end_s: end time of the last frame.
        declared_frames: number of frames according to the file; None if it does not say.
        frames: decodes from a frame number on; yields ascending frame numbers with their pixels, or None instead of
            pixels for a decoding error.
        notes: conversions that the user may not expect, one line each.
    """

    source: str
    sha256: str
    size_px: Size
    times_s: NDArray[np.float64]
    end_s: float
    declared_frames: int | None
    frames: Callable[[int], Iterator[tuple[int, Pixels | None]]]
    notes: tuple[str, ...] = ()
