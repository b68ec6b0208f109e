"""Writes frames as an MP4 that plays everywhere: H.264, yuv420p, even sizes, index at the front."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

# Frame times are whole multiples of 1/90000 s at 24, 25, 30, 50, 60 and 30000/1001 frames a second.
TICKS_PER_S = 90_000


def write_mp4(
    path: Path,
    frames: Iterable[tuple[NDArray[np.uint8], float]],
    end_s: float,
    *,
    rate_fps: float,
    quality: int = 18,
    preset: str = "medium",
) -> None:
    """Encode frames one by one.

    Args:
        path: file to write; an existing file is replaced.
        frames: pairs of pixels, (H, W, 3) uint8 RGB, all of one even size, and time in seconds, ascending from 0.
        end_s: end of the last frame, in seconds.
        rate_fps: average frames per second, for the encoder's rate control.
        quality: x264 constant rate factor: 18 is visually lossless, lower is better and larger.
        preset: x264 preset, from `ultrafast` to `placebo`: slower presets give smaller files.

    Raises:
        ValueError: no frame, an odd side, frames of different sizes, or times that do not ascend.
    """
    count, last_ticks = 0, -1
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        # Without B-frames the last frame is the last packet, so its duration sets the exact length of the clip.
        stream.options = {"crf": str(quality), "preset": preset, "bf": "0"}
        context = stream.codec_context
        context.time_base = Fraction(1, TICKS_PER_S)
        # Without these marks players guess the colour space from the picture size.
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries = context.color_trc = 1
        for pixels, time_s in frames:
            height, width = pixels.shape[:2]
            if not count:
                stream.width, stream.height = width, height
            if (width, height) != (stream.width, stream.height) or width % 2 or height % 2:
                raise ValueError(f"frame {count} is {width} x {height} px: want even sides, the same in all frames")
            ticks = round(time_s * TICKS_PER_S)
            if ticks <= last_ticks:
                raise ValueError(f"frame {count} at {time_s} s is not after the one before it")
            count, last_ticks = count + 1, ticks
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709
            )
            frame.pts, frame.time_base = ticks, context.time_base
            container.mux(stream.encode(frame))
        if not count:
            raise ValueError("no frame to write")
        for packet in stream.encode():
            if packet.pts == last_ticks:
                packet.duration = max(1, round(end_s * TICKS_PER_S) - last_ticks)
            container.mux(packet)
    with path.open("rb") as file:
        os.fsync(file.fileno())
