"""A contact sheet: small pictures in rows, each with its label and numbers, under a title and a key of the colours.

Knows nothing about maps. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering, overlay
from qvl_attn.render.lettering import line_height_px
from qvl_attn.render.paper import (
    GREY,
    INK,
    PAGE,
    PICTURE_GAP_PX,
    Paragraph,
    Size,
    paragraph,
    row_sizes_px,
    side_by_side,
    text_height_px,
    write,
)
from qvl_attn.render.style import Drawing

SHEET_WIDTH_PX, LEAST_WIDTH_PX = 2360, 720
SHEET_MARGIN_PX, CELL_GAP_PX = 48, 28
CELL_WIDTH_PX, PICTURE_HEIGHT_PX = 560, 480
TITLE_PX, LABEL_PX, NUMBER_PX = 32, 19, 15
KEY_PX = 180


class CellText(NamedTuple):
    """The texts beneath one cell: a label, and as many lines of numbers as in the other cells, or none."""

    label: str
    numbers: Sequence[str] = ()


class SheetPlan(NamedTuple):
    """The measures of a sheet.

    Attributes:
        texts: the texts of each cell.
        columns: cells per row.
        picture_px: the size of each picture of a cell; they stand side by side.
        cell_width_px: width of a cell.
    """

    texts: Sequence[CellText]
    columns: int
    picture_px: Sequence[Size]
    cell_width_px: int


def plan_sheet(
    texts: Sequence[CellText],
    aspects: Sequence[float],
    drawing: Drawing,
    *,
    columns: int | None = None,
    largest_px: Size | None = None,
) -> SheetPlan:
    """Choose the measures of a sheet.

    Args:
        texts: the texts of each cell, at least one.
        aspects: width over height of each picture of a cell.
        drawing: its `draw_size_px` bounds the row of a cell's pictures.
        columns: cells per row, at most as many as fit; None to choose a page of usual shape.
        largest_px: bounds that row instead; None for the usual size.
    """
    aspect, gaps = sum(aspects), PICTURE_GAP_PX * (len(aspects) - 1)
    side = drawing.draw_size_px or SHEET_WIDTH_PX
    usual_px = min(CELL_WIDTH_PX * math.ceil(len(aspects) / 2) - gaps, side), min(PICTURE_HEIGHT_PX, side)
    most_px = largest_px or usual_px
    numbers = [lettering.measure(line, NUMBER_PX) for text in texts for line in text.numbers]
    least_width = math.ceil(max(numbers, default=0))
    columns = _columns(len(texts), aspect, least_width, columns)
    room = (SHEET_WIDTH_PX - 2 * SHEET_MARGIN_PX + CELL_GAP_PX) // columns - CELL_GAP_PX - gaps
    row_width = min(room, most_px[0], most_px[1] * aspect)
    width, height = max(1, round(row_width)), max(1, round(row_width / aspect))
    return SheetPlan(texts, columns, row_sizes_px(aspects, (width, height)), max(width + gaps, least_width))


def draw_sheet(
    plan: SheetPlan, rows: Iterable[Sequence[Picture]], *, title_lines: Sequence[str], key: Image.Image | None = None
) -> Picture:
    """Draw a sheet.

    Args:
        plan: the measures and the texts.
        rows: for each cell its pictures, uint8 RGB of the sizes of the plan; taken one cell at a time.
        title_lines: the first is drawn large, the others in grey.
        key: the colour key, drawn above the first row.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    width = max(plan.columns * (plan.cell_width_px + CELL_GAP_PX) - CELL_GAP_PX, LEAST_WIDTH_PX)
    titles = [paragraph(line, width, LABEL_PX, GREY) for line in title_lines]
    titles[:1] = [paragraph(line, width, TITLE_PX, INK) for line in title_lines[:1]]
    key_top = SHEET_MARGIN_PX + text_height_px(titles) + CELL_GAP_PX // 3
    top = key_top + (0 if key is None else key.height) + CELL_GAP_PX
    lines = max(len(text.numbers) for text in plan.texts)
    text_top = plan.picture_px[0][1] + CELL_GAP_PX // 3
    step = text_top + line_height_px(LABEL_PX) + lines * line_height_px(NUMBER_PX) + CELL_GAP_PX
    height = top + math.ceil(len(plan.texts) / plan.columns) * step - CELL_GAP_PX + SHEET_MARGIN_PX

    page = Image.new("RGB", (width + 2 * SHEET_MARGIN_PX, height), PAGE)
    write(page, (SHEET_MARGIN_PX, SHEET_MARGIN_PX), titles)
    if key is not None:
        page.paste(key, (SHEET_MARGIN_PX, key_top))
    for index, (text, pictures) in enumerate(zip(plan.texts, rows, strict=True)):
        x = SHEET_MARGIN_PX + index % plan.columns * (plan.cell_width_px + CELL_GAP_PX)
        y = top + index // plan.columns * step
        page.paste(side_by_side(pictures), (x, y))
        label = lettering.wrap(text.label, plan.cell_width_px, LABEL_PX, max_lines=1)
        beneath = [Paragraph(label or [""], LABEL_PX, INK), Paragraph([*text.numbers], NUMBER_PX, GREY)]
        write(page, (x, y + text_top), beneath)
    return np.asarray(page)


def draw_key(text: str, drawing: Drawing) -> Image.Image:
    """Draw the colours of a sheet, low to high, and the text that says what their ends are."""
    height = line_height_px(NUMBER_PX)
    key = Image.new("RGB", (KEY_PX + 12 + math.ceil(lettering.measure(text, NUMBER_PX)), height), PAGE)
    bar = np.rot90(overlay.colorbar(KEY_PX, 12, drawing.colormap), -1)
    key.paste(Image.fromarray(bar), (0, 4))
    write(key, (KEY_PX + 12, 0), [Paragraph([text], NUMBER_PX, GREY)])
    return key


def _columns(cells: int, aspect: float, least_width_px: int, requested: int | None) -> int:
    """Return the number of columns that gives a page about 1.4 times as wide as high, with rows of similar length."""
    most = max(1, (SHEET_WIDTH_PX - 2 * SHEET_MARGIN_PX + CELL_GAP_PX) // (least_width_px + CELL_GAP_PX))
    if requested:
        return min(requested, most)
    width = min(360, PICTURE_HEIGHT_PX * aspect)
    cell_aspect = max(width, least_width_px) / (width / aspect + 76)
    columns = min(max(1, round(math.sqrt(1.4 * cells / cell_aspect))), most, cells)
    return math.ceil(cells / math.ceil(cells / columns))
