"""Maps as compact text that a page unpacks: half floats scaled to each row's range, deflated, in base64."""

from __future__ import annotations

import zlib
from base64 import b64encode
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.core.types import Media
from qvl_attn.media.resize import Picture, fit_px

# The half float that the largest value of a row becomes: values down to 2e-9 of it keep the full 11 bits.
TOP = 32768.0
# Side, in cells, of the squares that become one value of a coarse map. A page shows coarse maps until it has unpacked
# the full ones.
COARSE = 4


@dataclass(frozen=True, eq=False)
class Payload:
    """Maps and pictures of a page, in base64, without duplicate pictures.

    Attributes:
        blocks: maps, as packed by `pack_rows`.
        shapes: (rows, cells) of each block.
        pictures: JPEG files.
        signed: numbers of the blocks whose values v are packed as (v + 1) / 2.
    """

    blocks: list[str] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    signed: list[int] = field(default_factory=list)

    @property
    def values(self) -> int:
        """Number of values in all blocks."""
        return sum(rows * cells for rows, cells in self.shapes)

    def add_rows(self, rows: NDArray[Any], *, signed: bool = False) -> int:
        """Add (N, V) values as a block, none negative, or `signed`: from -1 to 1; return its number."""
        self.signed.extend([len(self.blocks)] if signed else [])
        self.blocks.append(pack_rows((rows + 1) / 2 if signed else rows))
        self.shapes.append((int(rows.shape[0]), int(rows.shape[1])))
        return len(self.blocks) - 1

    def add_picture(self, picture: Picture) -> int:
        """Add a picture unless the payload has it; return its number."""
        return self.add_jpeg(jpeg(picture))

    def add_jpeg(self, file: bytes) -> int:
        """Add a JPEG file as `add_picture` adds a picture."""
        text = b64encode(file).decode()
        if text not in self.pictures:
            self.pictures.append(text)
        return self.pictures.index(text)


def pack_rows(rows: NDArray[Any]) -> str:
    """Pack (N, V) values, none negative, with 11 bits of precision.

    Returns:
        Base64 of a zlib stream of: (N,) little-endian float32, the largest value of each row; then value / largest *
        32768 as float16, the upper bytes of all values row by row, then their lower bytes. The upper bytes deflate well
        because they stand together.
    """
    largest = rows.max(axis=1).astype("<f4")
    scaled = np.divide(rows * TOP, largest[:, None], out=np.zeros(rows.shape), where=largest[:, None] > 0)
    bits = scaled.astype(np.float16).view(np.uint16)
    raw = largest.tobytes() + (bits >> 8).astype(np.uint8).tobytes() + (bits & 255).astype(np.uint8).tobytes()
    return b64encode(zlib.compress(raw, 6)).decode()


def coarse(maps: NDArray[Any]) -> NDArray[np.float64]:
    """Reduce (N, t, h, w) maps to (N, t * h' * w') means of `COARSE` x `COARSE` cells; fewer at the far edges."""
    rows, columns = (np.arange(0, size, COARSE) for size in maps.shape[2:])
    sums = np.add.reduceat(np.add.reduceat(maps.astype(np.float64), rows, axis=2), columns, axis=3)
    counts = np.outer(
        *(np.diff(np.append(starts, size)) for starts, size in ((rows, maps.shape[2]), (columns, maps.shape[3])))
    )
    return np.asarray((sums / counts).reshape(len(maps), -1))


QUALITY = 90


def jpeg(picture: Picture) -> bytes:
    """Encode a picture as a JPEG file without chroma subsampling."""
    file = BytesIO()
    # Without optimize: its buffer of one byte per pixel is too small for noise.
    Image.fromarray(picture).save(file, format="JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


# The most map values of one result in a page, some 2 bytes each; the page lists what is left out beyond that.
MAX_VALUES = 4_000_000


# Parts that were left out of a page: a key of the page's strings and the values for its placeholders.
LeftOut = list[list[str | int]]


MAX_PICTURE_PX, MAX_FRAMES = 1280, 128


def drawn_px_of(media: Media, longest_px: int = MAX_PICTURE_PX) -> tuple[int, int]:
    """Return (width, height) of a picture in a page: not enlarged, its longer side at most `longest_px`."""
    return fit_px(media.size_px, min(max(media.frames.shape[1:3]), longest_px))
