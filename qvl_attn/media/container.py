"""Video sources from containers with a video stream (MP4, MOV, MKV, WebM, AVI, ...), read with PyAV.

PyAV gets an open file handle, only the demuxers listed below are tried, and no protocol is allowed: a playlist with
the name of a clip reads no other file and fetches nothing.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from io import BufferedReader, FileIO
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
from qvl_attn.core.text import argument
from qvl_attn.core.types import MAX_FRAMES
from qvl_attn.media.video_source import Pixels, Size, VideoSource

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg"
CONTAINERS = "MP4, MOV, MKV, WebM, AVI, FLV, TS, MPEG, WMV or OGG"
MAX_FRAME_PIXELS = 8192 * 4320
# With more threads, a partly read clip hung in a process with torchvision 0.24. Encoding takes longer than decoding.
THREADS = 1
# Formats in which a seek lands on the requested frame, or on one before it.
SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
COPY_AGAIN = "it is cut short or broken: copy or download it again"
# Used if neither the container nor its stream has a frame rate.
UNKNOWN_RATE_FPS = 25.0


@dataclass(frozen=True, eq=False)
class _Index:
    """The frames of a container, from its packets, without decoding.

    Attributes:
        stamps: (N,) int64, presentation timestamps in units of `unit_s`, ascending; frame numbers if `counted`.
        unit_s: unit of the timestamps, in seconds.
        tail_s: duration of the last frame.
        counted: whether frame numbers are used because the timestamps are missing or unreliable.
        starts_again: whether the decoding timestamps jump back, as in joined files.
        seekable: whether decoding can begin in the middle; in other formats a seek is inaccurate.
        packets: number of video packets, including the discarded ones.
        discarded: number of packets that an edit list marks as not shown; the file may lack others of them.
        declared: number of frames according to the container; None if it does not say.
        declared_s: end time according to the container; 0 if it does not say.
        last_packet_end_s: end time of the last packet in the file, of any stream.
        pixel_aspect: width over height of a pixel.
        coded_aspect: the same according to the codec at the beginning; None if it does not say.
    """

    stamps: NDArray[np.int64]
    unit_s: float
    tail_s: float
    counted: bool
    starts_again: bool
    seekable: bool
    packets: int
    discarded: int
    declared: int | None
    declared_s: float
    last_packet_end_s: float
    pixel_aspect: Fraction
    coded_aspect: Fraction | None


def container_source(path: Path, name: str) -> VideoSource:
    """Read a container's index, and decode its first frame.

    Args:
        path: path of the file.
        name: the path as it was typed, made printable.

    Raises:
        InputError: not a supported container, no video stream, too many pixels or frames, or no decodable frame.
    """
    index = _read_index(path, name)
    first = next((frame for _, frame in _decode(path, name, index, 0) if frame is not None), None)
    if first is None:
        raise InputError(f"{name}: 0 of {index.declared or len(index.stamps)} declared frames decoded", COPY_AGAIN)
    return VideoSource(
        source=str(path),
        sha256=_sha256(path),
        size_px=_upright_px(first, index.pixel_aspect),
        times_s=(index.stamps - index.stamps[0]) * index.unit_s,
        end_s=_end_s(index),
        declared_frames=index.declared,
        frames=partial(_frames, path, name, index, (first.width, first.height)),
        notes=tuple(_notes(index, first)),
    )


def _notes(index: _Index, first: VideoFrame) -> Iterator[str]:
    if any(_rotation_of(first)):
        yield "turned upright as its metadata says"
    width, height = _square_px(first, index.pixel_aspect)
    if (width, height) != (first.width, first.height):
        aspect = f"{index.pixel_aspect.numerator}:{index.pixel_aspect.denominator}"
        yield (
            f"its pixels are not square ({aspect}): {first.width}x{first.height} are shown as {width}x{height}, "
            "as players do"
        )
    if index.starts_again:
        yield f"its times start again in the middle; one frame every {index.unit_s:.3g} s is assumed"
    if index.declared and index.declared > index.packets and not index.discarded:
        yield f"it declares {index.declared} frames, but has {index.packets}: it is cut short"
    elif index.declared_s > 1.25 * index.last_packet_end_s + 0.25 and not index.counted:
        yield f"it declares {index.declared_s:.1f} s, but has {index.last_packet_end_s:.1f} s: it is cut short"


def _end_s(index: _Index) -> float:
    return float((index.stamps[-1] - index.stamps[0]) * index.unit_s + index.tail_s)


class _ClipFile(BufferedReader):
    """A file in which a wrong place is a number, as in FFmpeg's own: PyAV prints the traceback of an exception."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Return the new position, or a negative number for a place that no file has."""
        try:
            return super().seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


@contextmanager
def _open_container(path: Path, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        with (
            _ClipFile(FileIO(path)) as file,
            av.open(
                file,
                "r",
                options={"format_whitelist": DEMUXERS, "protocol_whitelist": ""},
                metadata_errors="replace",  # titles may be in Latin-1
            ) as container,
        ):
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
                raise InputError(f"{name} has no video stream", "give a clip with pictures, not only sound")
            if stream.codec_context is None:
                raise InputError(f"{name} has a codec that cannot be decoded here", "convert it to H.264")
            if not 0 < stream.width * stream.height <= MAX_FRAME_PIXELS:
                raise InputError(
                    f"{name} has frames of {stream.width:,} x {stream.height:,} pixels; "
                    f"the limit is {MAX_FRAME_PIXELS:,}",
                    "scale it down first",
                )
            # The header's size is checked above, but frames may have another size.
            stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            stream.codec_context.thread_count = THREADS
            yield container, stream
    except (av.error.FFmpegError, OSError):  # PyAV's messages do not say what to do
        raise InputError(
            f"{name} cannot be opened: broken, cut short, or not an {CONTAINERS} clip",
            "copy or download it again; a new file name does not convert it",
        ) from None


def _read_index(path: Path, name: str) -> _Index:
    stamps: list[int] = []
    packets, discarded, last_pts, last_duration, last_dts = 0, 0, 0, 0, -(2**62)
    missing_pts = starts_again = False
    with _open_container(path, name) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or UNKNOWN_RATE_FPS)
        unit_s = float(stream.time_base or 0)
        declared, format_name = stream.frames or None, container.format.name
        aspect, coded_aspect = stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio
        declared_s = ((container.duration or 0) - min(container.start_time or 0, 0)) / av.time_base
        last_packet_end_s = 0.0  # of sound too, which may be longer
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.pts is not None:
                end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                last_packet_end_s = max(last_packet_end_s, end_s)
            if packet.stream.index != stream.index:
                continue
            packets += 1
            if packets > MAX_FRAMES:
                raise InputError(f"{name} has more than {MAX_FRAMES:,} frames", "cut it first")
            if packet.is_discard:
                discarded += 1
                continue
            if packet.dts is not None:
                starts_again |= packet.dts < last_dts
                last_dts = packet.dts
            if packet.pts is None:
                missing_pts = True
                continue
            if not stamps or packet.pts >= last_pts:
                last_pts, last_duration = packet.pts, packet.duration or 0
            stamps.append(packet.pts)
    if packets == discarded:
        raise InputError(f"{name}: 0 of {declared or 0} declared frames decoded", COPY_AGAIN)
    # AVI has decoding timestamps only, which are not in display order.
    counted = missing_pts or starts_again or format_name == "avi" or not unit_s
    return _Index(
        stamps=(
            np.arange(packets - discarded, dtype=np.int64) if counted else np.unique(np.array(stamps, dtype=np.int64))
        ),
        unit_s=1 / rate if counted else unit_s,
        tail_s=1 / rate if counted or not last_duration else last_duration * unit_s,
        counted=counted,
        starts_again=starts_again,
        seekable=format_name in SEEKABLE and not counted,
        packets=packets,
        discarded=discarded,
        declared=declared,
        declared_s=declared_s,
        last_packet_end_s=last_packet_end_s,
        pixel_aspect=aspect or Fraction(1),
        coded_aspect=coded_aspect or None,
    )


def _decode(path: Path, name: str, index: _Index, first: int) -> Iterator[tuple[int, VideoFrame | None]]:
    """Yield the frames from number `first` on, in order; None instead of a frame for a decoding error."""
    if first and index.seekable:
        frames = _decode_from(path, name, index, int(index.stamps[first]))
        # Some encodings seek to a frame that depends on earlier ones; decoding then starts at a later frame.
        number, frame = next(frames, (first + 1, None))
        if number <= first and frame is not None:
            yield from (item for item in chain([(number, frame)], frames) if item[0] >= first)
            return
    yield from (item for item in _decode_from(path, name, index, None) if item[0] >= first)


def _decode_from(path: Path, name: str, index: _Index, stamp: int | None) -> Iterator[tuple[int, VideoFrame | None]]:
    """Decode from a timestamp on, or from the beginning."""
    last = -1
    with _open_container(path, name) as (container, stream):
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
                    aspect = stream.codec_context.sample_aspect_ratio
                    if aspect and index.coded_aspect and aspect != index.coded_aspect:
                        time_s = (index.stamps[number] - index.stamps[0]) * index.unit_s
                        raise InputError(
                            f"{name}: from about {time_s:.1f} s on its pixels have another shape ({aspect}, before "
                            f"{index.coded_aspect})",
                            f"cut it there, with {argument('end_s')} or {argument('start_s')}, or encode it again",
                        )
                    yield number, None if frame.is_corrupt else frame
        except av.error.FFmpegError:  # the rest cannot be read; the frame counts show it
            yield max(last, 0), None


def _frames(path: Path, name: str, index: _Index, stored_px: Size, first: int) -> Iterator[tuple[int, Pixels | None]]:
    for number, frame in _decode(path, name, index, first):
        if frame is not None and (frame.width, frame.height) != stored_px:
            raise InputError(
                f"{name}: frame {number} has {frame.width}x{frame.height} pixels, "
                f"those before it {stored_px[0]}x{stored_px[1]}",
                "cut it where its size changes, or encode it again",
            )
        yield number, None if frame is None else partial(_pixels, frame, index.pixel_aspect)


class _Rotation(NamedTuple):
    """The change that turns a stored frame upright: rows and columns are exchanged first, then mirrored."""

    transposed: bool
    left_right: bool
    top_bottom: bool


def _rotation_of(frame: VideoFrame) -> _Rotation:
    """Read the display matrix [a b u; c d v; ...], which maps a pixel (x, y) to (a x + c y, b x + d y)."""
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know a type of side data, such as the EXIF of a camera's JPEG frames
        quarters = round(frame.rotation / 90)
        return _Rotation(quarters % 2 == 1, quarters in (-1, 2, -2), quarters in (1, 2, -2))
    if data is None:
        return _Rotation(False, False, False)
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), dtype=np.int32)[:9].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return _Rotation(False, a < 0, d < 0)
    return _Rotation(True, c < 0, b < 0)


def _square_px(frame: VideoFrame, pixel_aspect: Fraction) -> Size:
    """Return the size with square pixels, as browsers compute it: one side is enlarged, the other stays."""
    if pixel_aspect > 1:
        return round(frame.width * pixel_aspect), frame.height
    return frame.width, round(frame.height / pixel_aspect)


def _upright_px(frame: VideoFrame, pixel_aspect: Fraction) -> Size:
    width, height = _square_px(frame, pixel_aspect)
    return (height, width) if _rotation_of(frame).transposed else (width, height)


def _pixels(frame: VideoFrame, pixel_aspect: Fraction, size_px: Size | None) -> NDArray[np.uint8]:
    rotation = _rotation_of(frame)
    size = size_px or _upright_px(frame, pixel_aspect)
    width, height = reversed(size) if rotation.transposed else size
    resized = frame.reformat(width, height, "rgb24", interpolation="BICUBIC")
    pixels = np.asarray(resized.to_ndarray(), dtype=np.uint8)
    pixels = pixels.transpose(1, 0, 2) if rotation.transposed else pixels
    pixels = pixels[:, ::-1] if rotation.left_right else pixels
    return np.ascontiguousarray(pixels[::-1] if rotation.top_bottom else pixels)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
