"""What is asked of a clip: which of its frames are taken, and in how many passes they are looked at. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.media.video_source import VideoSource

# Two frames make one step of tokens: 768 is what qwen-vl-utils takes at most.
MOST_FRAMES = 768
MAX_SPAN_S = 3600.0
# Times of containers are rounded to their time base, and 1/3 is not a float: what is this near counts as reached.
TOLERANCE_S = 1e-4
MODES = ("clip", "frames", "both")


@dataclass(frozen=True)
class ClipSettings:
    """Which frames of a clip are taken, and how they are looked at.

    Attributes:
        fps: frames per second: one at `start_s`, and one every 1 / fps seconds while the clip lasts. Never more than
            the clip has.
        max_frames: at most so many; where there would be more, they are taken further apart.
        start_s: where in the clip to begin.
        end_s: where to end; None for the end of the clip.
        source_fps: of a folder of frames, how many numbers pass in a second.
        mode: `clip` puts all frames into one prompt, `frames` asks about each frame alone, `both` does both.
        window: with `clip`, so many sampled frames a prompt; 0 for all in one.
        stride: sampled frames from the beginning of one window to the next; 0 for half a window.

    Raises:
        InputError: a value out of range.
    """

    fps: float = 2.0
    max_frames: int = 64
    start_s: float = 0.0
    end_s: float | None = None
    source_fps: float = 24.0
    mode: Literal["clip", "frames", "both"] = "clip"
    window: int = 0
    stride: int = 0

    def __post_init__(self) -> None:
        for flag, value in (("--fps", self.fps), ("--source-fps", self.source_fps)):
            _want(0 < value <= 1000, f"{flag} {value:g}", "frames per second, above 0 and at most 1000")
        for flag, count in (("--max-frames", self.max_frames), ("--window", self.window), ("--stride", self.stride)):
            _want(isinstance(count, int), f"{flag} {count}", "a whole number")
        _want(1 <= self.max_frames <= MOST_FRAMES, f"--max-frames {self.max_frames}", f"1 to {MOST_FRAMES}")
        _want(0 <= self.start_s < math.inf, f"--start {self.start_s:g}", "seconds from the clip's beginning, 0 or more")
        if self.end_s is not None:
            _want(
                self.start_s < self.end_s < math.inf, f"--end {self.end_s:g}", f"seconds after --start {self.start_s:g}"
            )
        _want(self.mode in MODES, f"--mode {self.mode}", ", ".join(MODES))
        window, stride = self.window, self.stride
        _want(window == 0 or 2 <= window <= MOST_FRAMES, f"--window {window}", f"2 to {MOST_FRAMES} frames")
        _want(window % 2 == 0, f"--window {window}", "an even number: two frames make one step of tokens")
        _want(window == 0 or self.mode == "clip", f"--window with --mode {self.mode}", "--mode clip")
        _want(stride == 0 or window > 0, f"--stride {stride}", "--window as well")
        _want(0 <= stride <= window, f"--stride {stride}", f"1 to {window}, or frames are left out between windows")
        _want(stride % 2 == 0, f"--stride {stride}", "an even number: two frames make one step of tokens")

    def windows(self, frames: int) -> tuple[tuple[int, int], ...]:
        """The sampled frames of each prompt, as [start, stop); the last window ends with the last frame.

        Args:
            frames: how many were sampled.
        """
        if not 0 < self.window < frames:
            return ((0, frames),)
        stride = self.stride or max(2, self.window // 4 * 2)
        starts = range(0, frames - self.window + stride, stride)
        return tuple((start, min(start + self.window, frames)) for start in starts)


def _want(fits: bool, typed: str, wanted: str) -> None:
    if not fits:
        raise InputError(f"{typed}: want {wanted}")


@dataclass(frozen=True)
class FramePlan:
    """The frames that are to be sampled.

    Attributes:
        start_s: where the part that is looked at begins.
        end_s: where it ends.
        first: number of the first frame shown in it.
        stop: number of the first frame after it.
        wanted: (F,) number of each frame that is sampled.
        sampled_fps: one every 1 / `sampled_fps` seconds.
        notes: what the user may not expect, one line each.
    """

    start_s: float
    end_s: float
    first: int
    stop: int
    wanted: tuple[int, ...]
    sampled_fps: float
    notes: tuple[str, ...]


def plan_frames(video: VideoSource, settings: ClipSettings) -> FramePlan:
    """Choose the frames: at each moment the one that is shown then.

    Raises:
        InputError: the part that is asked for lies behind the clip's end.
    """
    name, notes = video.source, []
    start, end = settings.start_s, min(settings.end_s or math.inf, video.end_s)
    if start >= video.end_s - TOLERANCE_S:
        raise InputError(f"--start {start:g}: {name} lasts {video.end_s:.2f} s", "begin earlier")
    if end - start > MAX_SPAN_S:
        end = start + MAX_SPAN_S
        notes.append(
            f"only {MAX_SPAN_S / 60:.0f} of its {video.end_s / 60:.0f} minutes are looked at, from {start:g} s on "
            "(--start and --end choose others)"
        )
    times = video.times_s
    first, stop = shown_between(times, start, end)
    fps, own = settings.fps, _fastest_fps(times[first:stop], end - start)
    if own < 0.99 * fps:
        fps = own
        notes.append(
            f"the clip has no more than {own:.3g} frame{'s' if own != 1 else ''} a second there: "
            f"so many are taken, not {settings.fps:g}"
        )
    count = max(1, math.ceil((end - start) * fps - TOLERANCE_S * fps))
    if count > settings.max_frames:
        notes.append(
            f"{count} frames at {fps:.3g} a second; --max-frames {settings.max_frames}: "
            f"{settings.max_frames / (end - start):.3g} a second are taken"
        )
        count, fps = settings.max_frames, settings.max_frames / (end - start)
    moments = start + np.arange(count) / fps
    wanted = np.searchsorted(times, moments + TOLERANCE_S, side="right") - 1
    return FramePlan(start, end, first, stop, tuple(np.clip(wanted, first, stop - 1).tolist()), fps, tuple(notes))


def shown_between(times_s: NDArray[np.float64], start_s: float, end_s: float) -> tuple[int, int]:
    """The frames, [first, stop), on the screen in a part of a clip; the first may be there before the part begins."""
    first = max(0, int(np.searchsorted(times_s, start_s + TOLERANCE_S, side="right")) - 1)
    return first, max(first + 1, int(np.searchsorted(times_s, end_s - TOLERANCE_S, side="left")))


def _fastest_fps(times_s: NDArray[np.float64], span_s: float) -> float:
    """The most frames a second that a stretch of a clip has anywhere: with a variable rate some follow faster."""
    return float(1 / np.diff(times_s).min()) if len(times_s) > 1 else 1 / span_s
