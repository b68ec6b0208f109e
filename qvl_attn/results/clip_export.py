"""A clip's result frame by frame: the texts of its frames, heatmap.mp4, and the sampled frames in frames/."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
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
from qvl_attn.core.types import Box, HeatMap, Media
from qvl_attn.media.mp4 import TICKS_PER_S, write_mp4
from qvl_attn.media.resize import Picture, at_size
from qvl_attn.media.sampling import frames_between
from qvl_attn.media.video import open_clip
from qvl_attn.media.video_source import Pixels, VideoSource
from qvl_attn.model.token_grid import frames_per_step
from qvl_attn.render.paper import Size
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay, FrameRenderer
from qvl_attn.results.record import MapSource

# Fast rather than small: encoding takes longest, and at this quality the files stay small.
PRESET, QUALITY = "superfast", 20
# The least time between two frames of the video: the unit of its timestamps.
SHORTEST_S = 1 / TICKS_PER_S
# The most frames that wait to be written as PNG files.
MAX_WAITING = 4


def frame_file(number: int) -> str:
    """Return the file name of a drawn sampled frame, by the frame's number in the clip."""
    return f"frames/{number:06d}.png"


def export_frames(
    folder: Path,
    media: Media,
    source_fps: float | None,
    overlay_text: FrameOverlay,
    drawing: Drawing,
    progress: Progress,
) -> tuple[list[str], list[str]]:
    """Draw the frames of a clip between its start and end time.

    Args:
        folder: folder to write `heatmap.mp4` and `frames/` into.
        media: the clip.
        source_fps: frame rate to open the clip with again; None to draw from the sampled frames.
        overlay_text: maps and texts to draw on the frames.
        drawing: how to draw.
        progress: called with (stage, done, total).

    Returns:
        The names of the written files, and notes for the reader.
    """
    facts = media.facts
    video, notes = _open_source(media, source_fps)
    renderer = FrameRenderer(overlay_text, media.size_px, drawing)
    sampled = sorted(set(facts.frame_indices))
    (folder / "frames").mkdir()
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Future[None]] = []

        def draw_pages() -> Generator[tuple[Picture, float]]:
            page_time_s = -SHORTEST_S
            with closing(prefetch(_clip_frames(video, media, renderer.picture_px))) as frames:
                for frame in frames:
                    page = renderer.draw(frame.picture, frame.time_s, sampled=frame.sampled)
                    if frame.sampled and not frame.repeated:
                        waiting.append(pool.submit(write_png, folder / frame_file(frame.number), page))
                        if len(waiting) > MAX_WAITING:
                            waiting.pop(0).result()
                    page_time_s = max(page_time_s + SHORTEST_S, frame.time_s - facts.start_s)
                    yield page, page_time_s
                    progress("drawing", frame.position + 1, frame.total)

        with closing(prefetch(draw_pages())) as pages:
            write_mp4(
                folder / "heatmap.mp4",
                pages,
                facts.end_s - facts.start_s,
                rate_fps=facts.rate_fps,
                quality=QUALITY,
                preset=PRESET,
            )
        for write in waiting:
            write.result()
    return ["heatmap.mp4", *(frame_file(number) for number in sampled)], notes


class _Frame(NamedTuple):
    """A frame between the clip's start and end time, with its position among these frames.

    A frame that stays on the screen for several samples is repeated for each of them, since each has its own map.
    """

    number: int
    time_s: float
    picture: Picture
    sampled: bool
    repeated: bool
    position: int
    total: int


def _clip_frames(video: VideoSource, media: Media, size_px: Size) -> Generator[_Frame]:
    """Yield the frames between the clip's start and end time; the first may have appeared before the start."""
    facts = media.facts
    first, stop = frames_between(video.times_s, facts.start_s, facts.end_s)
    indices, sampled_s = np.array(facts.frame_indices), media.sampled_s
    for number, pixels in video.frames(first):
        if number >= stop:
            return
        if pixels is None:
            continue
        picture, samples = pixels(size_px), np.flatnonzero(indices == number)
        position = number - first
        time_s = max(float(video.times_s[number]), facts.start_s)
        yield _Frame(number, time_s, picture, len(samples) > 0, False, position, stop - first)
        for sample in samples[1:]:
            yield _Frame(number, float(sampled_s[sample]), picture, True, True, position, stop - first)


def _open_source(media: Media, source_fps: float | None) -> tuple[VideoSource, list[str]]:
    """Open the clip itself or, if the file is missing or changed, its sampled frames. Return it with notes."""
    try:
        video = open_clip(media.path, source_fps) if media.path and source_fps else None
    except InputError:
        video = None
    if video is not None and video.sha256 == media.sha256:
        return video, []
    reason = f"{media.source} is missing or changed" if media.path else "the clip's file is unknown (--media names it)"
    return _sampled_source(media), [f"{reason}: drawn from the sampled frames alone"]


def _sampled_source(media: Media) -> VideoSource:
    facts = media.facts
    numbers, samples = np.unique(facts.frame_indices, return_index=True)
    times_s = np.interp(np.arange(numbers[-1] + 1), numbers, media.times_s[samples])

    def frames(first: int) -> Iterator[tuple[int, Pixels | None]]:
        for number, sample in zip(numbers.tolist(), samples.tolist(), strict=True):
            if number >= first:
                yield number, partial(at_size, media.frames[sample])

    return VideoSource(media.source, media.sha256, media.size_px, times_s, facts.end_s, None, frames)


def frame_overlay(
    clip: Media,
    heat: HeatMap,
    title: str,
    captions: Sequence[str],
    answers: Sequence[str] = (),
    visible_region: Box | None = None,
) -> FrameOverlay:
    """Return the maps and texts to draw on the frames of a clip, each sampled frame with the step that it fed.

    Args:
        clip: the clip.
        heat: the map of each step.
        title: text of the first line.
        captions: lines that describe the map.
        answers: the answer of each sampled frame; none without a question.
        visible_region: as in `FrameOverlay`.
    """
    per_step = frames_per_step(len(clip.frames), len(heat.values))
    steps = [i // per_step for i in range(len(clip.frames))]
    return FrameOverlay(heat, clip.sampled_s.tolist(), steps, title, answers, captions, visible_region)


def map_overlay(maps: MapSource, clip: Media, heat: HeatMap) -> FrameOverlay:
    """Return the maps and texts of a headline, as `frame_overlay` does.

    Args:
        maps: where the texts are taken from.
        clip: the clip.
        heat: the headline's map of each step, as drawn.
    """
    described = maps.describe(maps.headline)
    answers = [described.answer] * len(clip.frames) if described.answer else []
    return frame_overlay(clip, heat, described.title, described.lines, answers)


def step_edges_s(clip: Media, steps: int) -> NDArray[np.float64]:
    """Return (t + 1,) times: when the first sampled frame of each step appears, and when the last step ends."""
    starts = clip.sampled_s[:: frames_per_step(len(clip.frames), steps)]
    end_s = clip.clip.end_s if clip.clip else 0.0
    return np.append(starts, max(end_s, float(clip.sampled_s[-1]) + 1e-3))
