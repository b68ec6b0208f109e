"""A clip before its frames are decoded: what is known of it, and a way to its frames. Knows no format of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]
# Gives a frame's pixels, (H, W, 3) uint8 RGB, upright, at a (width, height), or for None at the clip's own size.
Pixels = Callable[[Size | None], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class VideoSource:
    """A clip whose frames come one by one, each with its number and its true time.

    Attributes:
        source: the path as it was typed.
        sha256: of the bytes of its file or files, in hex.
        size_px: (width, height), upright.
        times_s: (N,) float64, when each frame that the file has is shown; ascending, from 0.
        end_s: when the last one ends.
        declared_frames: how many the file says it has; None where it says nothing.
        frames: decodes from a frame's number on: numbers, ascending, and pixels; None instead of pixels for a fault
            in decoding.
        notes: what its owner may not expect, one line each.
    """

    source: str
    sha256: str
    size_px: Size
    times_s: NDArray[np.float64]
    end_s: float
    declared_frames: int | None
    frames: Callable[[int], Iterator[tuple[int, Pixels | None]]]
    notes: tuple[str, ...] = ()
