"""The moving part of a clip's result, frame by frame: heatmap.mp4, frames/ and timeline.png."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.files import write_png
from qvl_attn.core.runtime import Progress, prefetch
from qvl_attn.core.types import Media
from qvl_attn.media.mp4 import TICKS_PER_S, write_mp4
from qvl_attn.media.resize import Picture, at_size
from qvl_attn.media.sampling import shown_between
from qvl_attn.media.video import open_clip
from qvl_attn.media.video_source import Pixels, VideoSource
from qvl_attn.model.token_grid import frames_per_step
from qvl_attn.render.layout import Size
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay, FrameRenderer

# Fast rather than small: encoding is what takes longest, and at this quality the files stay small.
PRESET, QUALITY = "superfast", 20
# Two frames of a film are at least so far apart: the unit of its times.
SHORTEST_S = 1 / TICKS_PER_S
# Of frames that wait to be written as pictures.
MAX_WAITING = 4


def frame_file(number: int) -> str:
    """Where a sampled frame is drawn, by its number in the clip."""
    return f"frames/{number:06d}.png"


def export_frames(
    folder: Path,
    media: Media,
    source_fps: float | None,
    overlay_text: FrameOverlay,
    drawing: Drawing,
    progress: Progress,
) -> tuple[list[str], list[str]]:
    """Draw the frames of the part of a clip that was looked at.

    Args:
        folder: where to: `heatmap.mp4`, and the sampled frames in `frames/`.
        media: the clip.
        source_fps: how it is opened once more; None where it cannot be, and the sampled frames stand for it.
        overlay_text: what is told.
        drawing: how.
        progress: told what is being done, how much of it is done, and of how much.

    Returns:
        The files that were written, and what the reader should know.
    """
    facts = media.facts
    video, notes = _video_source_of(media, source_fps)
    drawer = FrameRenderer(overlay_text, media.size_px, drawing)
    sampled = sorted(set(facts.frame_indices))
    (folder / "frames").mkdir()
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[None]] = []

        def drawn() -> Generator[tuple[Picture, float]]:
            before_s = -SHORTEST_S
            with closing(prefetch(_shown(video, media, drawer.picture_px))) as frames:
                for shown in frames:
                    page = drawer.draw(shown.picture, shown.time_s, sampled=shown.sampled)
                    if shown.sampled and not shown.again:
                        waiting.append(pool.submit(write_png, folder / frame_file(shown.number), page))
                        if len(waiting) > MAX_WAITING:
                            waiting.pop(0).result()
                    before_s = max(before_s + SHORTEST_S, shown.time_s - facts.start_s)
                    yield page, before_s
                    progress("drawing", shown.place + 1, shown.total)

        with closing(prefetch(drawn())) as pages:
            write_mp4(
                folder / "heatmap.mp4",
                pages,
                facts.end_s - facts.start_s,
                rate_fps=facts.rate_fps,
                quality=QUALITY,
                preset=PRESET,
            )
        for written in waiting:
            written.result()
    return ["heatmap.mp4", *(frame_file(number) for number in sampled)], notes


class _Shown(NamedTuple):
    """A frame of the part that was looked at, and its place among them.

    A frame that stays on the screen for several samples is shown again for each of them, since each has its own map.
    """

    number: int
    time_s: float
    picture: Picture
    sampled: bool
    again: bool
    place: int
    total: int


def _shown(video: VideoSource, media: Media, size_px: Size) -> Generator[_Shown]:
    """The frames of the part that was looked at; the first may have been shown before its beginning."""
    facts = media.facts
    first, stop = shown_between(video.times_s, facts.start_s, facts.end_s)
    indices, moments_s = np.array(facts.frame_indices), media.sampled_s
    for number, pixels in video.frames(first):
        if number >= stop:
            return
        if pixels is None:
            continue
        picture, own = pixels(size_px), np.flatnonzero(indices == number)
        where = number - first, stop - first
        time_s = max(float(video.times_s[number]), facts.start_s)
        yield _Shown(number, time_s, picture, len(own) > 0, False, *where)
        for sample in own[1:]:
            yield _Shown(number, float(moments_s[sample]), picture, True, True, *where)


def _video_source_of(media: Media, source_fps: float | None) -> tuple[VideoSource, list[str]]:
    """The clip itself, or if it is not there any more what was sampled of it."""
    try:
        video = open_clip(media.path, source_fps) if media.path and source_fps else None
    except InputError:
        video = None
    if video is not None and video.sha256 == media.sha256:
        return video, []
    why = f"{media.source} is not there as it was" if media.path else "read back, and --media names no clip"
    return _from_samples(media), [f"{why}: drawn from the sampled frames alone"]


def _from_samples(media: Media) -> VideoSource:
    facts = media.facts
    numbers, places = np.unique(facts.frame_indices, return_index=True)
    times_s = np.interp(np.arange(numbers[-1] + 1), numbers, media.times_s[places])

    def frames(first: int) -> Iterator[tuple[int, Pixels | None]]:
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True):
            if number >= first:
                yield number, partial(at_size, media.frames[place])

    return VideoSource(media.source, media.sha256, media.size_px, times_s, facts.end_s, None, frames)


def step_edges_s(clip: Media, steps: int) -> NDArray[np.float64]:
    """(t + 1,) from when on each step's first sampled frame stands for its moment, and when the last step ends."""
    starts = clip.sampled_s[:: frames_per_step(len(clip.frames), steps)]
    end_s = clip.clip.end_s if clip.clip else 0.0
    return np.append(starts, max(end_s, float(clip.sampled_s[-1]) + 1e-3))
