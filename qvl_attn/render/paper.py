"""The paper of every drawn page: its colours, paragraphs of text, and pictures side by side.

Sizes are (width, height) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering
from qvl_attn.render.lettering import Color, line_height_px

PAGE = (255, 255, 255)
INK = (24, 26, 31)
GREY = (104, 109, 119)
ACCENT = (190, 62, 20)

PICTURE_GAP_PX = 8

Size = tuple[int, int]


def hex_color(color: Color) -> str:
    """Return a colour as matplotlib takes it, as `#181a1f`."""
    return "#" + bytes(color).hex()


class Paragraph(NamedTuple):
    """Wrapped lines of one size and colour."""

    lines: list[str]
    size_px: int
    color: Color


def paragraph(text: str, width_px: int, size_px: int, color: Color, *, max_lines: int = 8) -> Paragraph:
    """Wrap a text to a width; what does not fit into the lines is left out."""
    return Paragraph(lettering.wrap(text, width_px, size_px, max_lines=max_lines), size_px, color)


def text_height_px(paragraphs: Sequence[Paragraph]) -> int:
    """Return the height of paragraphs beneath each other."""
    return sum(len(text.lines) * line_height_px(text.size_px) for text in paragraphs)


def write(page: Image.Image, xy: Size, paragraphs: Sequence[Paragraph], gap_px: int = 0) -> None:
    """Write paragraphs beneath each other, from their top left corner on."""
    x, y = xy
    for lines, size_px, color in paragraphs:
        y += lettering.draw_lines(page, (x, y), lines, size_px, color) + gap_px


def side_by_side(pictures: Sequence[Picture]) -> Image.Image:
    """Put (H, W, 3) uint8 RGB pictures of one height side by side."""
    width = sum(picture.shape[1] for picture in pictures) + PICTURE_GAP_PX * (len(pictures) - 1)
    row = Image.new("RGB", (width, pictures[0].shape[0]), PAGE)
    x = 0
    for picture in pictures:
        row.paste(Image.fromarray(picture), (x, 0))
        x += picture.shape[1] + PICTURE_GAP_PX
    return row


def row_sizes_px(aspects: Sequence[float], row_px: Size) -> list[Size]:
    """Return the size of each picture of a row of equal height; without gaps they are as wide as the row.

    Args:
        aspects: width over height of each picture.
        row_px: the (width, height) of the row without gaps.
    """
    return [(max(1, round(row_px[0] * aspect / sum(aspects))), row_px[1]) for aspect in aspects]
