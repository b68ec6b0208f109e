"""From a path to the sampled frames of a clip, with their times and the frames that could not be decoded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import Progress, check_cancelled, no_progress
from qvl_attn.core.text import argument, pluralize
from qvl_attn.core.types import ClipFacts, Media
from qvl_attn.media.animation import animation_source, frame_folder_source, is_animation
from qvl_attn.media.container import container_source
from qvl_attn.media.heif import HEAD_BYTES
from qvl_attn.media.image import ASK_PICTURES, check_file, check_local, check_size, file_faults, is_picture, printable
from qvl_attn.media.sampling import ClipSettings, FramePlan
from qvl_attn.media.video_source import Pixels, VideoSource

MAX_SKIPPED = 0.1
# Packets at the end of a clip that may have no frame.
MAX_EMPTY_PACKETS = 2

Frame = NDArray[np.uint8]


def open_clip(path: str | os.PathLike[str], source_fps: float = ClipSettings.source_fps) -> VideoSource:
    """Open a clip: detect its kind and read its frame times, without decoding the frames.

    Args:
        path: a file (MP4, MOV, MKV, WebM, AVI, ..., an animated GIF, WebP or PNG) or a folder of numbered frames.
        source_fps: frame numbers per second, for a folder of frames.

    Raises:
        InputError: a URL; a path that is missing, unreadable or empty; not a supported clip; a broken one.
    """
    source = os.fspath(path)
    name = check_local(source)
    with file_faults(name):
        file_path = Path(source)
        if file_path.is_dir():
            video = frame_folder_source(file_path, name, source_fps)
        else:
            check_file(file_path, name, "a clip")
            with file_path.open("rb") as file:
                head = file.read(HEAD_BYTES)
            if is_animation(head):
                video = animation_source(file_path, name)
            elif is_picture(head):
                raise InputError(
                    f"{name} is a picture, not a clip", f"{ASK_PICTURES}; for an encoder, rename it to .png or .jpg"
                )
            else:
                video = container_source(file_path, name)
    check_size(*video.size_px, name)
    return replace(video, source=source)


def sample_clip(
    video: VideoSource,
    plan: FramePlan,
    resize: Callable[[Frame], Frame],
    progress: Progress = no_progress,
) -> Media:
    """Decode a part of a clip, and keep its sampled frames.

    A frame that cannot be decoded is replaced by the frame before it, or at the beginning by the frame after it.

    Args:
        video: the clip.
        plan: the frames to sample.
        resize: resizes a frame, (H, W, 3) uint8 RGB, to the processor's size.
        progress: called with (stage, done, total): the frames decoded of the planned part.

    Raises:
        InputError: no frame can be decoded, or more than a tenth cannot.
    """
    pending = deque(dict.fromkeys(plan.frame_indices))
    sampled: dict[int, int] = {}  # by planned index the index of the frame used
    frames: dict[int, Frame] = {}
    decoded: set[int] = set()
    previous: tuple[int, Pixels] | None = None
    errors = False

    def sample(planned: int, number: int, pixels: Pixels) -> None:
        sampled[planned] = number
        if number not in frames:
            frames[number] = resize(pixels(None))

    for number, pixels in video.frames(plan.first):
        if number >= plan.stop:
            break
        if pixels is None:
            errors = True
            continue
        check_cancelled()
        decoded.add(number)
        progress("decoding", len(decoded), plan.stop - plan.first)
        while pending and pending[0] <= number:
            planned = pending.popleft()
            sample(planned, *(previous if previous and number > planned else (number, pixels)))
        previous = number, pixels
    if previous:
        for planned in pending:
            sample(planned, *previous)
    skipped_s = _skipped_times_s(video, plan, decoded, errors)
    indices = tuple(sampled[planned] for planned in plan.frame_indices)
    return Media(
        kind="clip",
        frames=np.stack([frames[number] for number in indices]),
        times_s=video.times_s[list(indices)],
        size_px=video.size_px,
        source=video.source,
        path=video.source,
        sha256=video.sha256,
        notes=(*video.notes, *plan.notes, *_describe_skipped(skipped_s)),
        clip=ClipFacts(
            start_s=plan.start_s,
            end_s=plan.end_s,
            rate_fps=(plan.stop - plan.first) / (plan.end_s - plan.start_s),
            sampled_fps=plan.sampled_fps,
            frame_indices=indices,
            declared_frames=video.declared_frames,
            decoded_frames=len(decoded),
            skipped_s=skipped_s,
        ),
    )


def _skipped_times_s(video: VideoSource, plan: FramePlan, decoded: set[int], errors: bool) -> tuple[float, ...]:
    """Return the times of the frames that could not be decoded.

    A packet without a frame is not an error by itself: some packets only prepare others, or hold half a frame.
    """
    expected = plan.stop - plan.first
    skipped_s = [round(float(video.times_s[i]), 3) for i in range(plan.first, plan.stop) if i not in decoded]
    name = printable(video.source)
    if not decoded:
        raise InputError(
            f"{name}: 0 of {expected} declared frames decoded", "it is cut short or broken: copy or download it again"
        )
    if not errors and plan.stop - 1 - max(decoded) <= MAX_EMPTY_PACKETS:
        return ()
    if len(skipped_s) > MAX_SKIPPED * expected:
        raise InputError(
            f"{name}: {len(skipped_s)} of {expected} frames cannot be decoded, more than {MAX_SKIPPED:.0%}; "
            f"the first at {skipped_s[0]:g} s",
            f"copy or download it again, or choose an intact part with {argument('start_s')} and {argument('end_s')}",
        )
    return tuple(skipped_s)


def _describe_skipped(skipped_s: tuple[float, ...]) -> list[str]:
    if not skipped_s:
        return []
    times = ", ".join(f"{time_s:g}" for time_s in skipped_s[:8]) + (", ..." if len(skipped_s) > 8 else "")
    frames = pluralize(len(skipped_s), "frame")
    return [f"{frames} could not be decoded, at {times} s: the frame before each is used instead"]
