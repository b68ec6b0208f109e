"""A path becomes the sampled frames of a clip, with their times and what could not be decoded."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import ClipFacts, Media
from qvl_attn.media.animation import animation_source, frame_folder_source, is_animation
from qvl_attn.media.container import container_source
from qvl_attn.media.image import check_file, check_local, check_size, file_faults, is_picture, printable
from qvl_attn.media.sampling import ClipSettings, FramePlan
from qvl_attn.media.video_source import Pixels, VideoSource

MAX_SKIPPED = 0.1
# Packets without a frame of their own that may stand at the end.
MOST_SILENT = 2

Frame = NDArray[np.uint8]


def open_clip(path: str | os.PathLike[str], source_fps: float = ClipSettings.source_fps) -> VideoSource:
    """Find out what kind of clip a path is, and what is known of it before its frames are decoded.

    Args:
        path: a file (MP4, MOV, MKV, WebM, AVI, ..., an animated GIF, WebP or PNG) or a folder of numbered frames.
        source_fps: of a folder of frames, how many numbers pass in a second.

    Raises:
        InputError: a URL; missing, unreadable or empty; not such a clip; broken.
    """
    source = os.fspath(path)
    name = check_local(source)
    with file_faults(name):
        there = Path(source)
        if there.is_dir():
            video = frame_folder_source(there, name, source_fps)
        else:
            check_file(there, name, "a clip")
            with there.open("rb") as file:
                head = file.read(16)
            if is_animation(head):
                video = animation_source(there, name)
            elif is_picture(head):
                raise InputError(
                    f"{name} is a picture, not a clip", "pictures are for `qvl-attn ask`; rename it for `encoder`"
                )
            else:
                video = container_source(there, name)
    check_size(*video.size_px, name)
    return replace(video, source=source)


def sample_clip(
    video: VideoSource,
    plan: FramePlan,
    resize: Callable[[Frame], Frame],
    progress: Callable[[int], None] = lambda done: None,
) -> Media:
    """Decode the part of a clip that is looked at, and keep the frames that are sampled.

    A frame that cannot be decoded is stood in for by the one before it, which stays on the screen, or at the very
    beginning by the one after it.

    Args:
        video: the clip.
        plan: which frames.
        resize: makes a frame, (H, W, 3) uint8 RGB, as large as the processor wants it.
        progress: told how many frames are decoded.

    Raises:
        InputError: no frame of it can be decoded, or more than a tenth cannot.
    """
    pending = deque(dict.fromkeys(plan.wanted))
    taken: dict[int, int] = {}
    kept: dict[int, Frame] = {}
    decoded: set[int] = set()
    before: tuple[int, Pixels] | None = None
    faults = False

    def take(wanted: int, number: int, pixels: Pixels) -> None:
        taken[wanted] = number
        if number not in kept:
            kept[number] = resize(pixels(None))

    for number, pixels in video.frames(plan.first):
        if number >= plan.stop:
            break
        if pixels is None:
            faults = True
            continue
        decoded.add(number)
        progress(len(decoded))
        while pending and pending[0] <= number:
            wanted = pending.popleft()
            take(wanted, *(before if before and number > wanted else (number, pixels)))
        before = number, pixels
    if before:
        for wanted in pending:
            take(wanted, *before)
    skipped = _skipped(video, plan, decoded, faults)
    indices = tuple(taken[wanted] for wanted in plan.wanted)
    return Media(
        kind="clip",
        frames=np.stack([kept[number] for number in indices]),
        times_s=video.times_s[list(indices)],
        size_px=video.size_px,
        source=video.source,
        path=video.source,
        sha256=video.sha256,
        notes=(*video.notes, *plan.notes, *_said(skipped)),
        clip=ClipFacts(
            start_s=plan.start_s,
            end_s=plan.end_s,
            rate_fps=(plan.stop - plan.first) / (plan.end_s - plan.start_s),
            sampled_fps=plan.sampled_fps,
            frame_indices=indices,
            declared_frames=video.declared_frames,
            decoded_frames=len(decoded),
            skipped_s=skipped,
        ),
    )


def _skipped(video: VideoSource, plan: FramePlan, decoded: set[int], faults: bool) -> tuple[float, ...]:
    """When those frames would be shown that could not be decoded.

    A packet that gives no frame is no fault by itself: there are some that only prepare others, or are half a frame.
    """
    expected = plan.stop - plan.first
    skipped = [round(float(video.times_s[i]), 3) for i in range(plan.first, plan.stop) if i not in decoded]
    name = printable(video.source)
    if not decoded:
        raise InputError(f"{name}: 0 of {expected} declared frames decoded", "it is cut short or broken: copy it again")
    if not faults and plan.stop - 1 - max(decoded) <= MOST_SILENT:
        return ()
    if len(skipped) > MAX_SKIPPED * expected:
        raise InputError(
            f"{name}: {len(skipped)} of {expected} frames cannot be decoded, more than {MAX_SKIPPED:.0%}; "
            f"the first at {skipped[0]:g} s",
            "copy or download it again, or choose a sound part with --start and --end",
        )
    return tuple(skipped)


def _said(skipped: tuple[float, ...]) -> list[str]:
    if not skipped:
        return []
    times = ", ".join(f"{time_s:g}" for time_s in skipped[:8]) + (", ..." if len(skipped) > 8 else "")
    return [f"{len(skipped)} frames could not be decoded, at {times} s: the ones before them stand in"]
