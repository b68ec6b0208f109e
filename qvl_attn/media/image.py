"""A path becomes upright RGB pixels. Knows files, their formats and limits; knows nothing about models.

A file is read once, into memory, so that its hash and its pixels are of the same bytes. Nothing is ever fetched.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError, features

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Media

PictureLike = str | os.PathLike[str] | Media

MAX_BYTES = 512 * 2**20
MAX_PIXELS = 89_478_485
MAX_ASPECT_RATIO = 200

# Pillow opens the MPO files of phones as JPEG.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *(("AVIF",) if features.check("avif") else ()))
_FORMAT_NAMES = ", ".join(_FORMATS[:-1]).replace("WEBP", "WebP") + f" or {_FORMATS[-1]}"

_CLIP = re.compile(r"\.(3gp|avi|flv|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|ogv|ts|webm|wmv)\Z", re.IGNORECASE)

# What files of these formats begin with: tells a broken picture from what is none.
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II\*\0|MM\0\*|....ftyp(avif|avis|mif1|msf1)", re.DOTALL
)

# `https:/x` is what pathlib leaves of a URL. One letter before the colon is a Windows drive.
_URL = re.compile(r"\s*([a-z][a-z0-9+.-]+://|(https?|ftps?|sftp|file|data|s3|gs|hf):)", re.IGNORECASE)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SIDEWAYS = (5, 6, 7, 8)

# Pillow logs some faults as well as raising them, and what no handler takes goes to the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def is_picture(head: bytes) -> bool:
    """Whether a file that begins like this is a picture, sound or broken; animated ones are pictures, too."""
    return bool(_SIGNATURE.match(head))


def is_clip(path: str | os.PathLike[str]) -> bool:
    """Whether the name ends as the name of a clip does. The file is not looked at."""
    return bool(_CLIP.search(os.fspath(path)))


def moves(path: str | os.PathLike[str]) -> bool:
    """Whether a path stands for a clip where pictures and clips are taken: a clip's name, or a folder of frames."""
    return is_clip(path) or os.path.isdir(path)  # pathlib raises on names that are too long  # noqa: PTH112


def load_pictures(pictures: PictureLike | Sequence[PictureLike], loaded: dict[str, Media]) -> tuple[Media, ...]:
    """The pictures of one prompt, one or several; files that are in `loaded` already are not read again.

    Raises:
        InputError: as `load_picture`.
    """
    media = []
    for one in [pictures] if isinstance(pictures, (str, os.PathLike, Media)) else pictures:
        if not isinstance(one, Media):
            name = os.fspath(one)
            if name not in loaded:
                loaded[name] = load_picture(name)
            one = loaded[name]
        media.append(one)
    return tuple(media)


def load_picture(path: str | os.PathLike[str]) -> Media:
    """Read a picture, turn it upright and convert it to 8-bit RGB.

    Transparency is drawn on white; more than 8 bits a channel are scaled, not clipped; of several frames or pages the
    first is used. `Media.notes` says which of these happened.

    Args:
        path: a file on this machine: JPEG, PNG, WebP, GIF, BMP, TIFF, or AVIF where Pillow was built with it.

    Returns:
        Media with frames (1, H, W, 3) uint8, times_s zeros (1,), size_px (W, H) of the upright picture.

    Raises:
        InputError: a URL or a clip; a path that is missing, not a regular file, or unreadable; an empty file, one
            larger than `MAX_BYTES`, or one that is no such picture, is truncated or broken; more than `MAX_PIXELS`;
            one side more than `MAX_ASPECT_RATIO` times the other.
    """
    source = os.fspath(path)
    return picture_from(_read(source, check_local(source)), source)


def picture_from(data: bytes, source: str) -> Media:
    """As `load_picture`, from the bytes of a file.

    Raises:
        InputError: as `load_picture`.
    """
    name = printable(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame, notes = _decode(data, name)
    height, width, _ = frame.shape
    return Media(
        kind="picture",
        frames=frame[None],
        times_s=np.zeros(1),
        size_px=(width, height),
        source=source,
        sha256=hashlib.sha256(data).hexdigest(),
        notes=notes,
    )


def upright_size_px(data: bytes | Path, name: str) -> tuple[int, int]:
    """(width, height) of a picture after its EXIF orientation, from its head: the pixels are not decoded.

    A PNG whose EXIF stands behind its pixels is taken as it lies.

    Raises:
        InputError: no picture that `load_picture` takes, as far as its head tells.
    """
    stream: BytesIO | Path
    if isinstance(data, bytes):
        head, stream, count = data, BytesIO(data), len(data)
    else:
        with file_faults(name):
            count, stream = check_file(data, name, "a picture"), data
            with data.open("rb") as file:
                head = file.read(64)
    _check_bytes(count, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with decoding_faults(name, head), Image.open(stream, formats=_FORMATS) as image:
            size_px = image.size
            told = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
            sideways = told and _orientation(image) in SIDEWAYS  # Pillow tells a TIFF's size upright
    check_size(*size_px, name)
    return (size_px[1], size_px[0]) if sideways else size_px


def check_local(source: str) -> str:
    """The path as typed, fit for one line on a terminal.

    Raises:
        InputError: it is a URL.
    """
    name = printable(source or ".")
    if _URL.match(source):
        raise InputError(f"{name} is a URL", "download it first and give the path of the file; nothing is fetched")
    return name


def printable(text: str) -> str:
    """A path fit for one line on a terminal."""
    if len(text) > 300:
        text = f"{text[:140]}...{text[-140:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _read(source: str, name: str) -> bytes:
    with file_faults(name):
        size = check_file(Path(source), name, "a picture")
        if is_clip(source):
            raise InputError(f"{name} is a clip; `ask` takes pictures", "clips are for `qvl-attn video`")
        _check_bytes(size, name)
        with Path(source).open("rb") as file:
            return file.read(size)


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise InputError(
            f"{name} has {size:,} bytes; the limit is {MAX_BYTES:,}", "scale the picture down or compress it"
        )


def check_file(path: Path, name: str, noun: str) -> int:
    """The size in bytes of a file with something in it.

    Raises:
        InputError: a folder, no regular file, or an empty one.
    """
    info = path.stat()
    if stat.S_ISDIR(info.st_mode):
        raise InputError(f"{name} is a directory", f"give the path of {noun}")
    if not stat.S_ISREG(info.st_mode):
        raise InputError(f"{name} is not a regular file", f"give the path of {noun} on disk")
    if info.st_size == 0:
        raise InputError(f"{name} is empty", "copy or download it again")
    return info.st_size


@contextmanager
def file_faults(name: str) -> Iterator[None]:
    """Say in our words why a file cannot be read."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name} does not exist", "check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a path"
        raise InputError(f"{name} cannot be read: {reason.lower()}", "check the path and its permissions") from None


def _decode(data: bytes, name: str) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """The first frame, (H, W, 3), upright, and what was done to it."""
    with decoding_faults(name, data):
        image = Image.open(BytesIO(data), formats=_FORMATS)
    check_size(*image.size, name)
    with decoding_faults(name, data):
        upright, turned = _turn_upright(image)
        frame, converted = to_rgb(upright)
    return frame, (*turned, *converted, *_further_frames(image))


@contextmanager
def decoding_faults(name: str, data: bytes) -> Iterator[None]:
    """Say in our words what Pillow found: its own may hold heap addresses, and its decoders raise nearly anything."""
    try:
        yield
    except Image.DecompressionBombError:
        raise InputError(f"{name} has too many pixels; the limit is {MAX_PIXELS:,}", "scale it down first") from None
    except Exception as error:
        if isinstance(error, UnidentifiedImageError) and not _SIGNATURE.match(data):
            raise InputError(
                f"{name} is not a {_FORMAT_NAMES} picture",
                "save it as PNG or JPEG; a new name alone does not convert it",
            ) from None
        if "truncated" in str(error).lower():
            raise InputError(
                f"{name} is truncated: part of the picture is missing", "copy or download it again"
            ) from None
        raise InputError(
            f"{name} cannot be decoded: it is broken, incomplete or of an unusual kind",
            "open it in an image editor and save it as PNG",
        ) from None


def check_size(width: int, height: int, name: str) -> None:
    """Refuse a picture with too many pixels, or too long and narrow.

    Raises:
        InputError: it is.
    """
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width:,} x {height:,} = {width * height:,} pixels; the limit is {MAX_PIXELS:,}",
            "scale it down first",
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(
            f"{name} has {width:,} x {height:,} pixels: one side is more than {MAX_ASPECT_RATIO} times the other, "
            "and the model's processor takes no such picture",
            "crop or pad it",
        )


def _turn_upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Load and apply the EXIF orientation, once. Broken EXIF does not spoil a good picture."""
    if image.format == "TIFF":  # Pillow turns these itself while it loads them
        turned = _orientation(image) in _TURNS
        image.load()
    else:
        image.load()  # first: a PNG's EXIF may stand behind its pixels
        turned = (orientation := _orientation(image)) in _TURNS
        if turned:
            image = image.transpose(_TURNS[orientation])
    return image, ["turned upright as its EXIF orientation says"] if turned else []


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _further_frames(image: Image.Image) -> list[str]:
    """A note where the file has more than the frame used. They are not counted: that would read them all."""
    with suppress(Exception):  # what is broken behind the first frame is not needed
        if getattr(image, "is_animated", False):
            several = {"TIFF": "several pages: only the first page", "MPO": "several pictures: only the first picture"}
            return [several.get(image.format or "", "animated: only the first frame") + " is used"]
    return []


def to_rgb(image: Image.Image) -> tuple[NDArray[np.uint8], list[str]]:
    """Pixels (H, W, 3) uint8 of a loaded picture of any of Pillow's modes, and what was done to it."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled_grey(np.asarray(image))
    notes = []
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=alpha)
        notes = ["transparency: drawn on white"] if alpha.getextrema() != (255, 255) else []
        image = white
    elif image.mode == "LAB":
        image = ImageCms.profileToProfile(  # type: ignore[assignment]  # None only with inPlace
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        notes = ["LAB: converted to sRGB"]
    elif image.mode == "CMYK":
        notes = ["CMYK: converted to RGB without its colour profile"]
    return np.array(image.convert("RGB")), notes


def _scaled_grey(values: np.ndarray) -> tuple[NDArray[np.uint8], list[str]]:
    """Scale grey values of more than 8 bits (H, W) linearly, rounded, into (H, W, 3) uint8.

    Integers within 0 to 65535 keep that range (value / 257) and floats within 0 to 1 keep that one; other values are
    stretched from the lowest to the highest. NaN becomes black, infinities the ends of the range.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    natural = 1.0 if values.dtype.kind == "f" else 65535.0
    if low >= 0 and high <= natural:
        low, high = 0.0, natural
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        for line, target in zip(values, grey, strict=True):  # by lines: float64 of a whole picture may be a gigabyte
            target[:] = np.rint(np.nan_to_num(np.interp(line, (low, high), (0, 255))))
    note = f"{8 * values.itemsize}-bit grey: {low:g} to {high:g} scaled to 8 bits"
    return np.repeat(grey[:, :, None], 3, axis=2), [note]


# Of a larger file only its size and so much of its beginning, middle and end are looked at: a data set of clips would
# take hours to read through.
WHOLE_BYTES, PART_BYTES = 2**20, 2**18


def fingerprint(path: Path) -> str:
    """The same for files, or folders of them, of the same content: a hash of it, of large files of parts of it.

    Raises:
        InputError: it cannot be read.
    """
    with file_faults(printable(str(path))):
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
            return _of_bytes((f"{file.name}\0{fingerprint(file)}\0".encode() for file in files), len(files))
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= WHOLE_BYTES:
                return _of_bytes([file.read()], size)
            parts = []
            for start in (0, (size - PART_BYTES) // 2, size - PART_BYTES):
                file.seek(start)
                parts.append(file.read(PART_BYTES))
            return _of_bytes(parts, size)


def _of_bytes(parts: Iterable[bytes], size: int) -> str:
    found = sha256(f"{size}\0".encode())
    for part in parts:
        found.update(part)
    return found.hexdigest()
