"""Frame sampling: which frames of a clip are used, and in how many passes. Reads no files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.options import set_types
from qvl_attn.core.text import argument
from qvl_attn.media.video_source import VideoSource

# The limit of qwen-vl-utils. Two frames make one step of tokens.
MOST_FRAMES = 768
MAX_SPAN_S = 3600.0
# Times are compared with this tolerance: containers round them to their time base, and 1/3 is not exact as a float.
TOLERANCE_S = 1e-4
MODES = ("clip", "frames", "both")


class SamplingOptions(TypedDict, total=False):
    """How many frames of a clip are sampled.

    Attributes:
        fps: frames sampled per second, 2 by default: one at `start_s`, then one every 1 / fps seconds, at most the
            clip's own rate.
        max_frames: most frames to sample, 64 by default; a longer clip is sampled more sparsely.
    """

    fps: float
    max_frames: int


class ClipOptions(SamplingOptions, total=False):
    """Which frames of a clip are sampled, and how they are put into prompts: `SamplingOptions`, and these.

    Attributes:
        start_s: start of the part to sample, in seconds; 0 by default.
        end_s: end of that part, in seconds; by default the clip's end.
        source_fps: for a folder of frames, how many frame numbers make one second; 24 by default.
        mode: `clip`, the default, puts all frames into one prompt, `frames` asks about each frame alone, `both` does
            both.
        window: with mode `clip`, sampled frames per prompt; 0, the default, for all in one prompt.
        stride: sampled frames from the start of one window to the start of the next; 0, the default, for half a window.
    """

    start_s: float
    end_s: float | None
    source_fps: float
    mode: Literal["clip", "frames", "both"]
    window: int
    stride: int


@dataclass(frozen=True)
class ClipSettings:
    """`ClipOptions` with their defaults.

    Raises:
        InputError: a value out of range.
        TypeError: a value of another type.
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
        set_types(self)
        for name, value in (("fps", self.fps), ("source_fps", self.source_fps)):
            _require(0 < value <= 1000, argument(name, value), "frames per second, above 0 and at most 1000")
        _require(1 <= self.max_frames <= MOST_FRAMES, argument("max_frames", self.max_frames), f"1 to {MOST_FRAMES}")
        start = argument("start_s", self.start_s)
        _require(0 <= self.start_s < math.inf, start, "seconds from the clip's beginning, 0 or more")
        if self.end_s is not None:
            valid = self.start_s < self.end_s < math.inf
            _require(valid, argument("end_s", self.end_s), f"seconds after {start}")
        mode = argument("mode", self.mode)
        _require(self.mode in MODES, mode, ", ".join(MODES))
        window, stride = argument("window", self.window), argument("stride", self.stride)
        _require(self.window == 0 or 2 <= self.window <= MOST_FRAMES, window, f"2 to {MOST_FRAMES} frames")
        _require(self.window % 2 == 0, window, "an even number: two frames make one step of tokens")
        together = self.window == 0 or self.mode == "clip"
        _require(together, f"{argument('window')} with {mode}", argument("mode", "clip"))
        if self.stride and not self.window:
            raise InputError(f"{argument('stride')} needs {argument('window')}")
        if self.stride > self.window:
            raise InputError(f"{stride}: larger than {window}, which would skip frames")
        _require(self.stride >= 0, stride, f"2 to {self.window}")
        _require(self.stride % 2 == 0, stride, "an even number: two frames make one step of tokens")

    def windows(self, frames: int) -> tuple[tuple[int, int], ...]:
        """Return the sampled frames of each prompt, as [start, stop); the last window ends with the last frame.

        Args:
            frames: number of sampled frames.
        """
        if not 0 < self.window < frames:
            return ((0, frames),)
        stride = self.stride or max(2, self.window // 4 * 2)
        starts = range(0, frames - self.window + stride, stride)
        return tuple((start, min(start + self.window, frames)) for start in starts)


def _require(valid: bool, given: str, expected: str) -> None:
    if not valid:
        raise InputError(f"{given}: want {expected}")


@dataclass(frozen=True)
class FramePlan:
    """The frames to sample.

    Attributes:
        start_s: start of the sampled part.
        end_s: end of the sampled part.
        first: index of the first frame of the part.
        stop: index of the first frame after the part.
        frame_indices: (F,) index of each frame to sample.
        sampled_fps: one frame is sampled every 1 / `sampled_fps` seconds.
        notes: changes to the settings that the user may not expect, one line each.
    """

    start_s: float
    end_s: float
    first: int
    stop: int
    frame_indices: tuple[int, ...]
    sampled_fps: float
    notes: tuple[str, ...]


def plan_frames(video: VideoSource, settings: ClipSettings) -> FramePlan:
    """Choose the frames: for each sampling time the frame on screen at that time.

    Raises:
        InputError: the part begins after the end of the clip.
    """
    name, notes = video.source, []
    start, end = settings.start_s, min(settings.end_s or math.inf, video.end_s)
    if start >= video.end_s - TOLERANCE_S:
        raise InputError(f"{argument('start_s', start)}: {name} lasts {video.end_s:.2f} s", "begin earlier")
    if end - start > MAX_SPAN_S:
        end = start + MAX_SPAN_S
        notes.append(
            f"only {MAX_SPAN_S / 60:.0f} of its {video.end_s / 60:.0f} minutes are used, from {start:g} s on "
            "(--start and --end choose another part)"
        )
    times = video.times_s
    first, stop = frames_between(times, start, end)
    fps, clip_fps = settings.fps, _max_fps(times[first:stop], end - start)
    if clip_fps < 0.99 * fps:
        fps = clip_fps
        notes.append(
            f"the clip has no more than {clip_fps:.3g} frame{'s' if clip_fps != 1 else ''} a second there: "
            f"these are used instead of {settings.fps:g} a second"
        )
    count = max(1, math.ceil((end - start) * fps - TOLERANCE_S * fps))
    if count > settings.max_frames:
        notes.append(
            f"{count} frames at {fps:.3g} a second; --max-frames {settings.max_frames}: "
            f"{settings.max_frames / (end - start):.3g} a second are used"
        )
        count, fps = settings.max_frames, settings.max_frames / (end - start)
    sampling_times_s = start + np.arange(count) / fps
    indices = np.searchsorted(times, sampling_times_s + TOLERANCE_S, side="right") - 1
    return FramePlan(start, end, first, stop, tuple(np.clip(indices, first, stop - 1).tolist()), fps, tuple(notes))


def frames_between(times_s: NDArray[np.float64], start_s: float, end_s: float) -> tuple[int, int]:
    """Return the frames, [first, stop), on screen in a part of a clip; the first may begin before the part."""
    first = max(0, int(np.searchsorted(times_s, start_s + TOLERANCE_S, side="right")) - 1)
    return first, max(first + 1, int(np.searchsorted(times_s, end_s - TOLERANCE_S, side="left")))


def _max_fps(times_s: NDArray[np.float64], span_s: float) -> float:
    """Return the highest frame rate in a part of a clip, from the shortest interval between two frames."""
    return float(1 / np.diff(times_s).min()) if len(times_s) > 1 else 1 / span_s
