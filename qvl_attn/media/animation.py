"""Video sources from animated pictures (GIF, WebP, PNG) and folders of numbered frames, read with Pillow."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument
from qvl_attn.core.types import Media
from qvl_attn.media.image import (
    ASK_PICTURES,
    MAX_BYTES,
    STRETCH_HINT,
    check_size,
    decoding_faults,
    load_picture,
    to_rgb,
)
from qvl_attn.media.resize import at_size
from qvl_attn.media.video_source import Pixels, Size, VideoSource

SIGNATURES = (b"GIF8", b"RIFF", b"\x89PNG")
MAX_FRAMES = 100_000
# As browsers do: frames with a shorter duration get the default one.
MIN_DURATION_S, DEFAULT_DURATION_S = 0.011, 0.1
NUMBERED = re.compile(r"(\d+)\D*\Z")
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}


def is_animation(head: bytes) -> bool:
    """Whether a file with these first bytes is a picture that may be animated; AVI files also begin with RIFF."""
    return head.startswith(SIGNATURES) and (not head.startswith(b"RIFF") or head[8:12] == b"WEBP")


def animation_source(path: Path, name: str) -> VideoSource:
    """Read an animated picture.

    Args:
        path: path of the file.
        name: the path as it was typed, made printable.

    Raises:
        InputError: the file is broken, too large, or not animated.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES:,} bytes", "make it a video: MP4 or WebM")
    data = path.read_bytes()
    with decoding_faults(name, data), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(BytesIO(data), formats=["GIF", "WEBP", "PNG"])
        animated = getattr(image, "is_animated", False)
        declared = getattr(image, "n_frames", 1) - _default_images(image)
    check_size(*image.size, name)
    if not animated:
        raise InputError(f"{name} is a picture that does not move, and a clip is wanted here", ASK_PICTURES)
    if declared > MAX_FRAMES:
        raise InputError(f"{name} has {declared:,} frames; the limit is {MAX_FRAMES:,}", "cut it first")
    durations_s = [_duration_s(frame) for _, frame in _decode(data) if frame is not None]
    if not durations_s:
        raise InputError(f"{name}: 0 of {declared} declared frames decoded", "copy or download it again")
    ends_s = np.cumsum(durations_s + [DEFAULT_DURATION_S] * (declared - len(durations_s)))
    return VideoSource(
        source=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        size_px=image.size,
        times_s=np.concatenate([[0.0], ends_s[:-1]]),
        end_s=float(ends_s[-1]),
        declared_frames=declared,
        frames=partial(_frames, data),
        notes=_notes(data),
    )


def _notes(data: bytes) -> tuple[str, ...]:
    _, first = next(_decode(data))
    return () if first is None else _notes_of_frames(to_rgb(first.copy())[1])


def _notes_of_frames(notes: Sequence[str]) -> tuple[str, ...]:
    """Return the notes on a first frame for a clip, whose frames are not stretched one by one."""
    return tuple(note.removesuffix(STRETCH_HINT) for note in notes)


def _decode(data: bytes) -> Iterator[tuple[int, Image.Image | None]]:
    """Yield the frames of an animation; the first broken frame is None and the last, as frames build on each other."""
    with Image.open(BytesIO(data), formats=["GIF", "WEBP", "PNG"]) as image:
        offset = _default_images(image)
        for number in range(image.n_frames - offset):  # type: ignore[attr-defined]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    image.seek(offset + number)
                    image.load()
            except Exception:  # Pillow's decoders raise almost any type
                yield number, None
                return
            yield number, image


def _default_images(image: Image.Image) -> int:
    """Return 1 if an animated PNG begins with a still picture for viewers that cannot play it, else 0."""
    return int(bool(getattr(image, "default_image", False)))


def _duration_s(frame: Image.Image) -> float:
    seconds = float(frame.info.get("duration", 0)) / 1000
    return seconds if seconds >= MIN_DURATION_S else DEFAULT_DURATION_S


def _frames(data: bytes, first: int) -> Iterator[tuple[int, Pixels | None]]:
    for number, image in _decode(data):
        if number >= first and image is None:
            yield number, None
        elif number >= first and image is not None:
            pixels, _ = to_rgb(image.copy())  # converted now: Pillow reuses the image for the next frame
            yield number, partial(at_size, pixels)


def frame_folder_source(folder: Path, name: str, rate_fps: float) -> VideoSource:
    """Read a folder of frames; the number in each file name gives the frame's time.

    Args:
        folder: a folder of pictures with numbers in their names: `00012.jpg`, `frame-12.png`.
        name: the path as it was typed, made printable.
        rate_fps: frame numbers per second.

    Raises:
        InputError: no picture, a picture without a number, a duplicate number, or different sizes.
    """
    numbered: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in PICTURES or path.name.startswith("."):
            continue
        match = NUMBERED.search(path.stem)
        if match is None or len(match[1]) > 15:
            raise InputError(f"{name}: {path.name} has no number that gives its time", "name frames 00000.png, ...")
        if (number := int(match[1])) in numbered:
            raise InputError(f"{name}: {numbered[number].name} and {path.name} are both frame {number}")
        numbered[number] = path
    if not numbered:
        raise InputError(f"{name} has no numbered frames", "name the pictures in it 00000.png, 00001.png, ...")
    if len(numbered) > MAX_FRAMES:
        raise InputError(f"{name} has {len(numbered):,} frames; the limit is {MAX_FRAMES:,}", "split the folder")
    numbers = sorted(numbered)
    paths = [numbered[number] for number in numbers]
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0".encode(errors="replace") + hashlib.file_digest(file, "sha256").digest())
    first = next((media for path in paths if (media := _load_frame(path))), None)
    if first is None:
        raise InputError(f"{name}: 0 of {len(paths)} frames decoded", "copy or download them again")
    times_s = (np.array(numbers, dtype=np.float64) - numbers[0]) / rate_fps
    return VideoSource(
        source=str(folder),
        sha256=digest.hexdigest(),
        size_px=first.size_px,
        times_s=times_s,
        end_s=float(times_s[-1] + np.median(np.diff(times_s))) if len(paths) > 1 else 1 / rate_fps,
        declared_frames=len(paths),
        frames=partial(_load_frames, paths, first.size_px),
        notes=(
            f"a folder of frames, read as {rate_fps:g} frame numbers a second (--source-fps)",
            *_notes_of_frames(first.notes),
        ),
    )


def _load_frame(path: Path) -> Media | None:
    try:
        return load_picture(path)
    except InputError:
        return None


def _load_frames(paths: list[Path], size_px: Size, first: int) -> Iterator[tuple[int, Pixels | None]]:
    for number, path in enumerate(paths[first:], first):
        media = _load_frame(path)
        if media is None:
            yield number, None
            continue
        if size_px != media.size_px:
            raise InputError(
                f"{path} has {media.size_px[0]}x{media.size_px[1]} px, the frames before it {size_px[0]}x{size_px[1]}",
                "a folder is read as the frames of one clip; name pictures one by one "
                f"(encoder: {argument('encode_folder')})",
            )
        yield number, partial(at_size, media.frames[0])
