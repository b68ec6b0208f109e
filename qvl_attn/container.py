"""Containers with a video stream (MP4, MOV, MKV, WebM, AVI, ...) as footage, through PyAV.

The file is opened here and handed over as an open handle, only the demuxers named below are tried, and no protocol is
allowed: a playlist under another name reads and fetches nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from qvl_attn.errors import InputError
from qvl_attn.footage import Footage, Pixels, Size

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg"
CONTAINERS = "MP4, MOV, MKV, WebM, AVI, FLV, TS, MPEG, WMV or OGG"
MAX_FRAME_PIXELS = 8192 * 4320
MAX_FRAMES = 4_000_000  # a day and a half at 30 a second
COPY_AGAIN = "it is cut short or broken: copy or download it again"
# Where neither the container nor its stream says how fast frames follow each other.
UNKNOWN_RATE_FPS = 25.0


@dataclass(frozen=True, eq=False)
class _Index:
    """The frames that a container has, without having decoded them.

    Attributes:
        stamps: (N,) int64, presentation times in units of `unit_s`, ascending; where the container has none, counted.
        unit_s: of a stamp, in seconds.
        tail_s: how long the last frame is shown.
        counted: whether the frames were counted, for want of stamps.
        declared: how many frames the container says it has.
        declared_s: how long the container says it lasts; 0 where it says nothing.
        pixel_aspect: width over height of a pixel, as text; empty for square ones.
    """

    stamps: NDArray[np.int64]
    unit_s: float
    tail_s: float
    counted: bool
    declared: int | None
    declared_s: float
    pixel_aspect: str


def container_footage(path: Path, name: str) -> Footage:
    """Read what a container says, and decode as much as it takes to get the first frame.

    Args:
        path: of the file.
        name: the path as it was typed, fit to be printed.

    Raises:
        InputError: no such container, no video in it, too many pixels or frames, or not one frame that can be decoded.
    """
    index = _read_index(path, name)
    first = next(_decoded(path, name, index, 0), None)
    if first is None:
        raise InputError(f"{name}: 0 of {index.declared or len(index.stamps)} declared frames decoded", COPY_AGAIN)
    _, frame = first
    size_px = (frame.height, frame.width) if _quarter_turns(frame) % 2 else (frame.width, frame.height)
    notes = []
    if _quarter_turns(frame):
        notes.append(f"turned upright by {abs(frame.rotation)} degrees, as its metadata says")
    if index.pixel_aspect:
        notes.append(f"its pixels are not square ({index.pixel_aspect}): they are taken and drawn as if they were")
    if index.declared and index.declared > len(index.stamps):
        notes.append(f"it declares {index.declared} frames, but has {len(index.stamps)}: it is cut short")
    elif index.declared_s > 1.25 * _end_s(index) + 0.25:
        notes.append(f"it declares {index.declared_s:.1f} s, but has {_end_s(index):.1f}: it is cut short")
    times_s = (index.stamps - index.stamps[0]) * index.unit_s
    return Footage(
        source=str(path),
        sha256=_sha256(path),
        size_px=size_px,
        times_s=times_s,
        end_s=_end_s(index),
        declared_frames=index.declared,
        frames=partial(_frames, path, name, index, size_px),
        notes=tuple(notes),
    )


def _end_s(index: _Index) -> float:
    return float((index.stamps[-1] - index.stamps[0]) * index.unit_s + index.tail_s)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with (
            path.open("rb") as file,
            av.open(file, "r", options={"format_whitelist": DEMUXERS, "protocol_whitelist": ""}) as container,
        ):
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
                raise InputError(f"{name} has no video stream", "give a clip with pictures in it, not sound alone")
            if not 0 < stream.width * stream.height <= MAX_FRAME_PIXELS:
                raise InputError(
                    f"{name} has frames of {stream.width:,} x {stream.height:,} pixels; "
                    f"the limit is {MAX_FRAME_PIXELS:,}",
                    "scale it down first",
                )
            stream.thread_type = "AUTO"
            yield container, stream
    except (av.error.FFmpegError, OSError):  # in our words: PyAV's say nothing of what to do
        raise InputError(
            f"{name} cannot be opened: broken, cut short, or no {CONTAINERS} clip",
            "copy or download it again; a new name alone does not convert it",
        ) from None


def _read_index(path: Path, name: str) -> _Index:
    stamps: list[int] = []
    packets, newest, tail, gaps = 0, 0, 0, False
    with _opened(path, name) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or UNKNOWN_RATE_FPS)
        unit_s = float(stream.time_base or 0)
        declared, aspect = stream.frames or None, stream.sample_aspect_ratio
        declared_s = (container.duration or 0) / av.time_base
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            packets += 1
            if packets > MAX_FRAMES:
                raise InputError(f"{name} has more than {MAX_FRAMES:,} frames", "cut it first")
            if packet.pts is None:
                gaps = True
                continue
            if not stamps or packet.pts >= newest:
                newest, tail = packet.pts, packet.duration or 0
            stamps.append(packet.pts)
    if not packets:
        raise InputError(f"{name}: 0 of {declared or 0} declared frames decoded", COPY_AGAIN)
    counted = gaps or not unit_s
    return _Index(
        stamps=np.arange(packets, dtype=np.int64) if counted else np.unique(np.array(stamps, dtype=np.int64)),
        unit_s=1 / rate if counted else unit_s,
        tail_s=1 / rate if counted or not tail else tail * unit_s,
        counted=counted,
        declared=declared,
        declared_s=declared_s,
        pixel_aspect="" if aspect in (None, 0, 1) else f"{aspect.numerator}:{aspect.denominator}",
    )


def _decoded(path: Path, name: str, index: _Index, first: int) -> Iterator[tuple[int, VideoFrame]]:
    """The frames that can be decoded, in the order of their numbers, from one of them on."""
    last = -1
    with _opened(path, name) as (container, stream):
        if first and not index.counted:
            container.seek(int(index.stamps[first]), stream=stream)
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    continue
                for frame in frames:
                    if index.counted:
                        number = last + 1
                    elif frame.pts is None:
                        continue
                    else:
                        number = int(np.searchsorted(index.stamps, frame.pts, side="right")) - 1
                    if number > last and number < len(index.stamps) and not frame.is_corrupt:
                        last = number
                        if number >= first:
                            yield number, frame
        except av.error.FFmpegError:  # what cannot be read any more: the counts tell it
            return


def _frames(path: Path, name: str, index: _Index, size_px: Size, first: int) -> Iterator[tuple[int, Pixels]]:
    for number, frame in _decoded(path, name, index, first):
        yield number, partial(_pixels, frame, size_px)


def _pixels(frame: VideoFrame, own_px: Size, size_px: Size | None) -> NDArray[np.uint8]:
    turns = _quarter_turns(frame)
    width, height = size_px or own_px
    if turns % 2:
        width, height = height, width
    resized = frame.reformat(width, height, "rgb24", interpolation="BICUBIC")
    pixels = np.asarray(resized.to_ndarray(), dtype=np.uint8)
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _quarter_turns(frame: VideoFrame) -> int:
    """How often the frame is turned to the left to stand upright."""
    return round(frame.rotation / 90) % 4


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
