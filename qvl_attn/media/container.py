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
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.media.video_source import Pixels, Size, VideoSource

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg"
CONTAINERS = "MP4, MOV, MKV, WebM, AVI, FLV, TS, MPEG, WMV or OGG"
MAX_FRAME_PIXELS = 8192 * 4320
# With more, a clip that is left half-read was seen to hang beside torchvision 0.24. Encoding is what takes long anyway.
THREADS = 1
# Formats whose index leads to the frame that is wanted, or to one before it.
SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
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
        counted: whether the frames were counted, for want of stamps that can be trusted.
        starts_again: whether the stamps fall back in the middle, as where files were joined.
        seekable: whether decoding can begin in the middle; elsewhere the container lands where it will.
        packets: how many it has, also those that are not to be shown.
        hidden: how many are not to be shown, as an edit of the clip says; others of them may not be there at all.
        declared: how many frames the container says it has.
        declared_s: when the container says that it ends; 0 where it says nothing.
        found_s: when the last packet that is there ends, of sound or pictures.
        pixel_aspect: width over height of a pixel, as text; empty for square ones.
    """

    stamps: NDArray[np.int64]
    unit_s: float
    tail_s: float
    counted: bool
    starts_again: bool
    seekable: bool
    packets: int
    hidden: int
    declared: int | None
    declared_s: float
    found_s: float
    pixel_aspect: str


def container_source(path: Path, name: str) -> VideoSource:
    """Read what a container says, and decode as much as it takes to get the first frame.

    Args:
        path: of the file.
        name: the path as it was typed, fit to be printed.

    Raises:
        InputError: no such container, no video in it, too many pixels or frames, or not one frame that can be decoded.
    """
    index = _read_index(path, name)
    first = next((frame for _, frame in _decoded(path, name, index, 0) if frame is not None), None)
    if first is None:
        raise InputError(f"{name}: 0 of {index.declared or len(index.stamps)} declared frames decoded", COPY_AGAIN)
    turn = _turn_of(first)
    size_px = (first.height, first.width) if turn.transposed else (first.width, first.height)
    return VideoSource(
        source=str(path),
        sha256=_sha256(path),
        size_px=size_px,
        times_s=(index.stamps - index.stamps[0]) * index.unit_s,
        end_s=_end_s(index),
        declared_frames=index.declared,
        frames=partial(_frames, path, name, index, (first.width, first.height)),
        notes=(*(["turned upright as its metadata says"] if any(turn) else []), *_notes(index)),
    )


def _notes(index: _Index) -> Iterator[str]:
    if index.pixel_aspect:
        yield f"its pixels are not square ({index.pixel_aspect}): they are taken and drawn as if they were"
    if index.starts_again:
        yield f"its times start again in the middle: its frames are taken to follow each {index.unit_s:.3g} s"
    if index.declared and index.declared > index.packets and not index.hidden:
        yield f"it declares {index.declared} frames, but has {index.packets}: it is cut short"
    elif index.declared_s > 1.25 * index.found_s + 0.25 and not index.counted:
        yield f"it declares {index.declared_s:.1f} s, but has {index.found_s:.1f}: it is cut short"


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
            if stream.codec_context is None:
                raise InputError(f"{name} is encoded in a way that cannot be decoded here", "convert it to H.264")
            if not 0 < stream.width * stream.height <= MAX_FRAME_PIXELS:
                raise InputError(
                    f"{name} has frames of {stream.width:,} x {stream.height:,} pixels; "
                    f"the limit is {MAX_FRAME_PIXELS:,}",
                    "scale it down first",
                )
            # The header's size is checked above; frames may yet be of another.
            stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            stream.codec_context.thread_count = THREADS
            yield container, stream
    except (av.error.FFmpegError, OSError):  # in our words: PyAV's say nothing of what to do
        raise InputError(
            f"{name} cannot be opened: broken, cut short, or no {CONTAINERS} clip",
            "copy or download it again; a new name alone does not convert it",
        ) from None


def _read_index(path: Path, name: str) -> _Index:
    stamps: list[int] = []
    packets, hidden, newest, tail, latest = 0, 0, 0, 0, -(2**62)
    gaps = starts_again = False
    with _opened(path, name) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or UNKNOWN_RATE_FPS)
        unit_s = float(stream.time_base or 0)
        declared, aspect, kind = stream.frames or None, stream.sample_aspect_ratio, container.format.name
        declared_s = ((container.duration or 0) - min(container.start_time or 0, 0)) / av.time_base
        found_s = 0.0  # of sound as well, which may be longer
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None:
                found_s = max(found_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != stream.index:
                continue
            packets += 1
            if packets > MAX_FRAMES:
                raise InputError(f"{name} has more than {MAX_FRAMES:,} frames", "cut it first")
            if packet.is_discard:
                hidden += 1
                continue
            if packet.dts is not None:
                starts_again |= packet.dts < latest
                latest = packet.dts
            if packet.pts is None:
                gaps = True
                continue
            if not stamps or packet.pts >= newest:
                newest, tail = packet.pts, packet.duration or 0
            stamps.append(packet.pts)
    if packets == hidden:
        raise InputError(f"{name}: 0 of {declared or 0} declared frames decoded", COPY_AGAIN)
    # The stamps of AVI are those of decoding, which are not in the order of display.
    counted = gaps or starts_again or kind == "avi" or not unit_s
    return _Index(
        stamps=np.arange(packets - hidden, dtype=np.int64) if counted else np.unique(np.array(stamps, dtype=np.int64)),
        unit_s=1 / rate if counted else unit_s,
        tail_s=1 / rate if counted or not tail else tail * unit_s,
        counted=counted,
        starts_again=starts_again,
        seekable=kind in SEEKABLE and not counted,
        packets=packets,
        hidden=hidden,
        declared=declared,
        declared_s=declared_s,
        found_s=found_s,
        pixel_aspect="" if aspect in (None, 0, 1) else f"{aspect.numerator}:{aspect.denominator}",
    )


def _decoded(path: Path, name: str, index: _Index, first: int) -> Iterator[tuple[int, VideoFrame | None]]:
    """The frames in the order of their numbers, from one of them on; None for a fault in decoding."""
    if first and index.seekable:
        found = _decoded_from(path, name, index, int(index.stamps[first]))
        # With some encodings the index leads to a frame that cannot stand alone, and the first to come is a later one.
        before = next(found, (first + 1, None))
        if before[0] <= first and before[1] is not None:
            yield from (one for one in chain([before], found) if one[0] >= first)
            return
    yield from (one for one in _decoded_from(path, name, index, None) if one[0] >= first)


def _decoded_from(path: Path, name: str, index: _Index, stamp: int | None) -> Iterator[tuple[int, VideoFrame | None]]:
    last = -1
    with _opened(path, name) as (container, stream):
        try:
            if stamp is not None:
                container.seek(stamp, stream=stream)
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError:
                    yield max(last, 0), None
                    continue
                for frame in frames:
                    number = last + 1
                    if not index.counted:
                        if frame.pts is None:
                            continue
                        number = int(np.searchsorted(index.stamps, frame.pts, side="right")) - 1
                    if not last < number < len(index.stamps):
                        continue
                    last = number
                    yield number, None if frame.is_corrupt else frame
        except av.error.FFmpegError:  # what cannot be read any more: the counts tell it
            yield max(last, 0), None


def _frames(path: Path, name: str, index: _Index, stored_px: Size, first: int) -> Iterator[tuple[int, Pixels | None]]:
    for number, frame in _decoded(path, name, index, first):
        if frame is not None and (frame.width, frame.height) != stored_px:
            raise InputError(
                f"{name}: frame {number} has {frame.width}x{frame.height} pixels, "
                f"those before it {stored_px[0]}x{stored_px[1]}",
                "cut it where its size changes, or encode it anew",
            )
        yield number, None if frame is None else partial(_pixels, frame)


class _Turn(NamedTuple):
    """What brings a stored picture upright: rows and columns exchanged first, then mirrored."""

    transposed: bool
    left_right: bool
    top_bottom: bool


def _turn_of(frame: VideoFrame) -> _Turn:
    """From the display matrix [a b u; c d v; ...], which takes a pixel (x, y) to (a x + c y, b x + d y)."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return _Turn(False, False, False)
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), dtype=np.int32)[:9].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Turn(False, a < 0, d < 0)
    return _Turn(True, c < 0, b < 0)


def _pixels(frame: VideoFrame, size_px: Size | None) -> NDArray[np.uint8]:
    turn = _turn_of(frame)
    size = size_px or ((frame.height, frame.width) if turn.transposed else (frame.width, frame.height))
    width, height = reversed(size) if turn.transposed else size
    resized = frame.reformat(width, height, "rgb24", interpolation="BICUBIC")
    pixels = np.asarray(resized.to_ndarray(), dtype=np.uint8)
    pixels = pixels.transpose(1, 0, 2) if turn.transposed else pixels
    pixels = pixels[:, ::-1] if turn.left_right else pixels
    return np.ascontiguousarray(pixels[::-1] if turn.top_bottom else pixels)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
