"""Frames -> an MP4 that plays everywhere: H.264, yuv420p, even sizes, its index at the front."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def write_mp4(path: Path, frames: Iterable[NDArray[np.uint8]], fps: float, *, quality: int = 18) -> None:
    """Encodes frames one by one.

    Args:
        path: where to; replaced if it is there.
        frames: each (H, W, 3) uint8 RGB, all of one even size.
        fps: frames per second.
        quality: x264's constant rate factor: 18 looks as the frames do, lower keeps more.

    Raises:
        ValueError: no frame, an odd side, or a frame of another size.
    """
    count = 0
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(quality)}
        for pixels in frames:
            height, width = pixels.shape[:2]
            if not count:
                stream.width, stream.height = width, height
            if (width, height) != (stream.width, stream.height) or width % 2 or height % 2:
                raise ValueError(f"frame {count} is {width} x {height} px: want even sides, the same in all frames")
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
            count += 1
        if not count:
            raise ValueError("no frame to write")
        for packet in stream.encode():
            container.mux(packet)
    with path.open("rb") as written:
        os.fsync(written.fileno())
