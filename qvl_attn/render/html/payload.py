"""Maps as compact text that a page unpacks: half floats within each row's range, deflated, in base64. Pure numpy."""

from __future__ import annotations

import zlib
from base64 import b64encode
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.media.resize import Picture

# The largest value of a row becomes this half float: full precision (11 bits) then reaches down to 2e-9 of it.
TOP = 32768.0
# Cells a side that become one of the coarse maps, which a page shows before it has unpacked the others.
COARSE = 4


@dataclass(frozen=True, eq=False)
class Payload:
    """What a page carries beside its words: blocks of maps and pictures, each in base64, each once.

    Attributes:
        blocks: as `pack_rows` gives them.
        shapes: (rows, cells) of each.
        pictures: JPEG files.
    """

    blocks: list[str] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    @property
    def values(self) -> int:
        """How many values the blocks have."""
        return sum(rows * cells for rows, cells in self.shapes)

    def add_rows(self, rows: NDArray[Any]) -> int:
        """Keep (N, V) values, and give back their number."""
        self.blocks.append(pack_rows(rows))
        self.shapes.append((int(rows.shape[0]), int(rows.shape[1])))
        return len(self.blocks) - 1

    def add_picture(self, picture: Picture) -> int:
        """Keep a picture, unless it is there already, and give back its number."""
        return self.add_jpeg(jpeg(picture))

    def add_jpeg(self, file: bytes) -> int:
        """As `add_picture`, of what is a JPEG file already."""
        text = b64encode(file).decode()
        if text not in self.pictures:
            self.pictures.append(text)
        return self.pictures.index(text)


def pack_rows(rows: NDArray[Any]) -> str:
    """(N, V) values, not negative, to 11 bits of precision.

    Before it is deflated (zlib) and put in base64 it is: (N,) little-endian float32, the largest value of each row;
    then the upper bytes of all values, row after row, then the lower ones, of value / largest * 32768 as float16. Apart
    the upper bytes deflate well.
    """
    largest = rows.max(axis=1).astype("<f4")
    scaled = np.divide(rows * TOP, largest[:, None], out=np.zeros(rows.shape), where=largest[:, None] > 0)
    bits = scaled.astype(np.float16).view(np.uint16)
    raw = largest.tobytes() + (bits >> 8).astype(np.uint8).tobytes() + (bits & 255).astype(np.uint8).tobytes()
    return b64encode(zlib.compress(raw, 6)).decode()


def coarse(maps: NDArray[Any]) -> NDArray[np.float64]:
    """(N, t, h, w) maps as (N, t * h' * w'): the mean of each `COARSE` x `COARSE` cells, of fewer at the far edges."""
    rows, columns = (np.arange(0, size, COARSE) for size in maps.shape[2:])
    sums = np.add.reduceat(np.add.reduceat(maps.astype(np.float64), rows, axis=2), columns, axis=3)
    counts = np.outer(
        *(np.diff(np.append(starts, size)) for starts, size in ((rows, maps.shape[2]), (columns, maps.shape[3])))
    )
    return np.asarray((sums / counts).reshape(len(maps), -1))


QUALITY = 90


def jpeg(picture: Picture) -> bytes:
    """A picture as a JPEG file, its colours as fine as its brightness."""
    file = BytesIO()
    # Not optimize: Pillow gives it a byte a pixel to write into, which is too little for noise.
    Image.fromarray(picture).save(file, format="JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
