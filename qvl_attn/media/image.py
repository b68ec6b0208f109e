"""Loads pictures from paths as upright RGB pixels, within limits on formats and sizes. Depends on no model.

A file is read into memory once, so that its hash and its pixels belong to the same bytes. Nothing is fetched.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError, _imaging, features

from qvl_attn.core.errors import InputError
from qvl_attn.core.files import path_fault
from qvl_attn.core.text import argument
from qvl_attn.core.types import Media
from qvl_attn.media.heif import HEAD_BYTES, heif_format, is_heif

MAX_BYTES = 512 * 2**20
MAX_PIXELS = 89_478_485
MAX_ASPECT_RATIO = 200
# Of pictures of more than 8 bits per channel a smaller part of the range is noted: 12 bits in 16 use a sixteenth.
LITTLE_RANGE = 1 / 8
STRETCH_HINT = " (--stretch scales what it uses)"
ASK_PICTURES = "ask about pictures with ask (qvl-attn ask)"

# Pillow opens the MPO files of phones as JPEG.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *(("AVIF",) if features.check("avif") else ()))
_FORMAT_NAMES = ", ".join(_FORMATS).replace("WEBP", "WebP") + " or HEIC"

# Pillow's names of 16-bit colours, of grey with alpha as well, which it decodes to 8 bits.
_COLOUR_16 = re.compile(r"\b(RGB[AXa]?|LA);16")

_CLIP = re.compile(r"\.(3gp|avi|flv|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|ogv|ts|webm|wmv)\Z", re.IGNORECASE)

# First bytes of these formats, to tell a broken picture from another kind of file.
_SIGNATURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG|RIFF....WEBP|GIF8|BM|II\*\0|MM\0\*|....ftyp(avif|avis|mif1|msf1)", re.DOTALL
)

# pathlib shortens `https://x` to `https:/x`. A single letter before the colon is a Windows drive.
_URL = re.compile(r"\s*([a-z][a-z0-9+.-]+://|(https?|ftps?|sftp|file|data|s3|gs|hf):)", re.IGNORECASE)

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
SIDEWAYS = (5, 6, 7, 8)

# Pillow logs some errors that it also raises; without a handler they would be printed to the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def is_picture(head: bytes) -> bool:
    """Whether a file with these first bytes is a picture, valid or broken, still or animated."""
    return is_heif(head) or bool(_SIGNATURE.match(head))


def is_clip(path: str | os.PathLike[str]) -> bool:
    """Whether the file extension is that of a clip. The file is not opened."""
    return bool(_CLIP.search(os.fspath(path)))


def is_media(path: str | os.PathLike[str]) -> bool:
    """Whether the file extension is that of a picture or a clip. The file is not opened."""
    return is_clip(path) or Path(path).suffix.lower() in PICTURE_SUFFIXES


def moves(path: str | os.PathLike[str]) -> bool:
    """Whether a path that may be a picture or a clip is a clip: a clip's file extension, or a folder of frames."""
    return is_clip(path) or os.path.isdir(path)  # pathlib raises on names that are too long  # noqa: PTH112


def load_picture(path: str | os.PathLike[str], stretch: bool = False) -> Media:
    """Read a picture, turn it upright and convert it to 8-bit RGB.

    Transparency is drawn on white; more than 8 bits per channel are scaled, not clipped; the first of several frames or
    pages is used. `Media.notes` lists which of these happened, and whether little of such a range is used.

    Args:
        path: a local file: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF if Pillow was built with it, or HEIC with pillow-heif.
        stretch: of more than 8 bits per channel, scale the range that the picture uses, its minimum to its maximum.

    Returns:
        Media with frames (1, H, W, 3) uint8, times_s zeros (1,), size_px (W, H) of the upright picture.

    Raises:
        InputError: a URL or a clip; a path that is missing, not a regular file, or unreadable; a file that is empty,
            larger than `MAX_BYTES`, not one of these formats, truncated or broken; more than `MAX_PIXELS`; one side
            more than `MAX_ASPECT_RATIO` times the other.
    """
    source = os.fspath(path)
    return picture_from(_read(source, check_local(source)), source, stretch)


def picture_from(data: bytes, source: str, stretch: bool = False) -> Media:
    """Decode a picture from the bytes of a file, as `load_picture` does.

    Raises:
        InputError: as `load_picture`.
    """
    name = printable(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame, notes = _decode(data, name, stretch)
    return picture_media(frame, source, hashlib.sha256(data).hexdigest(), notes)


def picture_media(frame: NDArray[np.uint8], source: str, sha256: str, notes: tuple[str, ...]) -> Media:
    """Return the media of one picture, (H, W, 3) uint8 upright RGB."""
    height, width, _ = frame.shape
    return Media(
        kind="picture",
        frames=frame[None],
        times_s=np.zeros(1),
        size_px=(width, height),
        source=source,
        sha256=sha256,
        notes=notes,
    )


def upright_size_px(data: bytes | Path, name: str) -> tuple[int, int]:
    """Return (width, height) of a picture after its EXIF orientation, from its header, without decoding pixels.

    The orientation of a PNG whose EXIF follows its pixels is ignored.

    Raises:
        InputError: not a picture that `load_picture` reads, as far as the header shows.
    """
    stream: BytesIO | Path
    if isinstance(data, bytes):
        head, stream, count = data, BytesIO(data), len(data)
    else:
        with file_faults(name):
            count, stream = check_file(data, name, "a picture"), data
            with data.open("rb") as file:
                head = file.read(HEAD_BYTES)
    _check_bytes(count, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        formats = _formats(head, name)
        with decoding_faults(name, head), Image.open(stream, formats=formats) as image:
            size_px = image.size
            # Pillow reports a TIFF's size upright.
            has_orientation = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
            sideways = has_orientation and _orientation(image) in SIDEWAYS
    check_size(*size_px, name)
    return (size_px[1], size_px[0]) if sideways else size_px


def check_local(source: str) -> str:
    """Return the path as typed, made printable.

    Raises:
        InputError: the path is empty, or a URL.
    """
    if not source:
        raise InputError("the path is empty", "give the path of a file or a folder")
    name = printable(source)
    if _URL.match(source):
        raise InputError(f"{name} is a URL", "download it first and give the path of the file; nothing is fetched")
    return name


def printable(text: str) -> str:
    """Return a path that fits one line of a terminal: shortened, control characters escaped."""
    if len(text) > 300:
        text = f"{text[:140]}...{text[-140:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _read(source: str, name: str) -> bytes:
    with file_faults(name):
        size = check_file(Path(source), name, "a picture")
        if is_clip(source):
            raise InputError(
                f"{name} is a clip, and a picture is wanted here", "ask about clips with ask_video (qvl-attn video)"
            )
        _check_bytes(size, name)
        with Path(source).open("rb") as file:
            return file.read(size)


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise InputError(
            f"{name} has {size:,} bytes; the limit is {MAX_BYTES:,}", "scale the picture down or compress it"
        )


def check_file(path: Path, name: str, noun: str) -> int:
    """Return the size in bytes of a regular file that is not empty.

    Raises:
        InputError: a folder, not a regular file, or an empty file.
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
    """Turn errors of the file system into an `InputError`."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name} does not exist", "check the path") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) and not (isinstance(error, UnicodeEncodeError) or "null" in str(error)):
            raise
        reason = path_fault(error).lower()
        raise InputError(f"{name} cannot be read: {reason}", "check the path and its permissions") from None


def _formats(head: bytes, name: str) -> tuple[str, ...]:
    return (heif_format(name),) if is_heif(head) else _FORMATS


def _decode(data: bytes, name: str, stretch: bool) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return the first frame, (H, W, 3) upright, and notes on its conversion."""
    formats = _formats(data, name)
    with decoding_faults(name, data):
        image = Image.open(BytesIO(data), formats=formats)
    return _pixels(image, name, stretch, data)


def pixels_of(image: Image.Image, name: str, stretch: bool = False) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return the pixels of an image of Pillow, (H, W, 3) uint8 upright, and notes on their conversion.

    Args:
        image: the image, of any mode, loaded or not; its current frame is used.
        name: what errors call it.
        stretch: as in `load_picture`; of colours only while it is not loaded, since Pillow keeps 8 of their 16 bits.

    Raises:
        InputError: it cannot be decoded, or has a size that `load_picture` refuses.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _pixels(image, name, stretch, b"\xff\xd8\xff")


def _pixels(image: Image.Image, name: str, stretch: bool, head: bytes) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    check_size(*image.size, name)
    if image.format == "TIFF":
        _silence_libtiff()
    with decoding_faults(name, head):
        tiles = getattr(image, "tile", ())
        many_bits = any(_COLOUR_16.search(str(tile)) for tile in tiles)  # known only before it is loaded
        upright, rotation_notes = _turn_upright(image)
        check_size(*upright.size, name)  # in a HEIC the decoder has the last word
        upright, range_notes = _used_range(upright, stretch) if many_bits else (upright, [])
        frame, color_notes = to_rgb(upright, stretch)
    return frame, (*rotation_notes, *color_notes, *range_notes, *_further_frames(image))


@cache
def _silence_libtiff() -> None:
    """Let the libtiff that Pillow uses print nothing on the stderr of this process: Pillow raises what it finds wrong.

    To redirect stderr meanwhile would lose what other threads write to it.
    """
    with suppress(AttributeError, OSError):  # a Pillow without libtiff, or one that contains it and hides its functions
        pillow = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            getattr(pillow, name)(None)


@contextmanager
def decoding_faults(name: str, data: bytes) -> Iterator[None]:
    """Turn Pillow's errors into an `InputError`: they may contain heap addresses, and can have almost any type."""
    try:
        yield
    except Image.DecompressionBombError:
        raise InputError(f"{name} has too many pixels; the limit is {MAX_PIXELS:,}", "scale it down first") from None
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, UnidentifiedImageError) and not is_picture(data):
            raise InputError(
                f"{name} is not a {_FORMAT_NAMES} picture",
                "save it as PNG or JPEG; a new file name does not convert it",
            ) from None
        if "truncated" in str(error).lower():
            raise InputError(
                f"{name} is truncated: part of the picture is missing", "copy or download it again"
            ) from None
        raise InputError(
            f"{name} cannot be decoded: it is broken, incomplete or of an unsupported kind",
            "open it in an image editor and save it as PNG",
        ) from None


def check_size(width: int, height: int, name: str) -> None:
    """Check the size of a picture.

    Raises:
        InputError: more than `MAX_PIXELS`, or one side more than `MAX_ASPECT_RATIO` times the other.
    """
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name} has {width:,} x {height:,} = {width * height:,} pixels; the limit is {MAX_PIXELS:,}",
            "scale it down first",
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(
            f"{name} has {width:,} x {height:,} pixels: one side is more than {MAX_ASPECT_RATIO} times the other, "
            "which the model's processor does not accept",
            "crop or pad it",
        )


def _turn_upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Load a picture and apply its EXIF orientation once; broken EXIF is ignored."""
    if image.format == "TIFF":  # Pillow turns these itself while it loads them
        turned = _orientation(image) in _TRANSPOSES
        image.load()
    else:
        image.load()  # first: a PNG's EXIF may follow its pixels
        turned = (orientation := _orientation(image)) in _TRANSPOSES
        if turned:
            image = image.transpose(_TRANSPOSES[orientation])
    return image, ["turned upright as its EXIF orientation says"] if turned else []


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _further_frames(image: Image.Image) -> list[str]:
    """Return a note if the file has more frames than the one used; counting them would read the whole file."""
    with suppress(Exception):  # an error after the first frame does not matter
        if image.format != "HEIF" and (frame := image.tell()):  # a HEIF file begins at its main picture
            return [f"animated: only frame {frame + 1} is used"]
        if getattr(image, "is_animated", False):
            several = {
                "TIFF": "several pages: only the first page",
                "MPO": "several pictures: only the first picture",
                "HEIF": "several pictures: only the main picture",
            }
            return [several.get(image.format or "", "animated: only the first frame") + " is used"]
    return []


def to_rgb(image: Image.Image, stretch: bool = False) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the pixels, (H, W, 3) uint8, of a loaded picture of any Pillow mode, and notes on the conversion."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled_grey(np.asarray(image), stretch)
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


def _scaled_grey(values: np.ndarray, stretch: bool) -> tuple[NDArray[np.uint8], list[str]]:
    """Scale grey values of more than 8 bits (H, W) linearly, rounded, into (H, W, 3) uint8.

    Integers within 0 to 65535 are scaled from that range (value / 257), floats within 0 to 1 from 0 to 1, other values
    and those to `stretch` from their minimum and maximum. NaN becomes black, infinities the ends of the range.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    full_scale, little_used = 1.0 if values.dtype.kind == "f" else 65535.0, []
    if low >= 0 and high <= full_scale and not (stretch and high > low):
        little_used = _little_used(low, high, full_scale)
        low, high = 0.0, full_scale
    grey = np.zeros(values.shape, np.uint8)
    if high > low:
        for row, target in zip(values, grey, strict=True):  # by rows: float64 of a whole picture may be a gigabyte
            target[:] = np.rint(np.nan_to_num(np.interp(row, (low, high), (0, 255))))
    note = f"{8 * values.itemsize}-bit grey: {low:g} to {high:g} scaled to 8 bits"
    return np.repeat(grey[:, :, None], 3, axis=2), [note, *little_used]


def _used_range(image: Image.Image, stretch: bool) -> tuple[Image.Image, list[str]]:
    """Stretch 16-bit colours, of which Pillow decodes the upper 8 bits, or say that they use little of their range.

    What is wholly transparent does not count.
    """
    if image.has_transparency_data:
        image = image.convert("RGBA")
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    colours = image.convert("RGB")
    used = np.flatnonzero(np.reshape(colours.histogram(alpha), (3, 256)).any(axis=0))
    if not used.size:
        return image, []
    low, high = int(used[0]), int(used[-1])
    if not stretch or low == high:
        return image, _little_used(low, high, 255)
    levels = np.rint(np.interp(np.arange(256), (low, high), (0, 255))).astype(int).tolist()
    stretched = colours.point(levels * 3)
    if alpha is not None:
        stretched.putalpha(alpha)
    return stretched, [f"16-bit colour: {low} to {high} of 255 scaled, {high - low + 1} levels"]


def _little_used(low: float, high: float, full_scale: float) -> list[str]:
    share = (high - low) / full_scale
    if share == 0:
        return [f"it has one value, {low:g} of 0 to {full_scale:g}: there is nothing to see or to stretch"]
    if share >= LITTLE_RANGE:
        return []
    return [
        f"it uses {low:g} to {high:g} of 0 to {full_scale:g}, {share:.1%} of the range: the model sees little contrast"
        f"{STRETCH_HINT}"
    ]


def first_of_little_range(media: Iterable[Media]) -> str:
    """Return a line about the first picture of more than 8 bits that uses little of them, or an empty text."""
    notes = (f"{printable(medium.source)}: {note}" for medium in media for note in medium.notes if STRETCH_HINT in note)
    hint = STRETCH_HINT.replace("--stretch", argument("stretch", True))
    return next((f"{note.replace(STRETCH_HINT, hint)}; said of the first such picture only" for note in notes), "")


# Of files above WHOLE_BYTES only the size and PART_BYTES at the beginning, middle and end are hashed: reading a data
# set of clips completely would take hours.
WHOLE_BYTES, PART_BYTES = 2**20, 2**18


def fingerprint(path: Path) -> str:
    """Return a hash of the content of a file or of the files in a folder; of large files only parts are hashed.

    Raises:
        InputError: the path cannot be read.
    """
    with file_faults(printable(str(path))):
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
            return _hash_parts((f"{file.name}\0{fingerprint(file)}\0".encode() for file in files), len(files))
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= WHOLE_BYTES:
                return _hash_parts([file.read()], size)
            parts = []
            for start in (0, (size - PART_BYTES) // 2, size - PART_BYTES):
                file.seek(start)
                parts.append(file.read(PART_BYTES))
            return _hash_parts(parts, size)


def _hash_parts(parts: Iterable[bytes], size: int) -> str:
    digest = sha256(f"{size}\0".encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
