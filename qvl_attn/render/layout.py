"""Finished pictures: one large map with its question and answer, or a contact sheet of many maps.

Composes the colours of `overlay` and the text of `lettering`; every map has the numbers of its scale beside it. Knows
nothing about models or files: uint8 RGB arrays in, a uint8 RGB array out. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from qvl_attn.attribution.filters import denoise
from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.text import argument, compact, percent, plain, times_uniform
from qvl_attn.core.types import FloatArray, HeatMap, Scale
from qvl_attn.media import resize
from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering, overlay
from qvl_attn.render.contact_sheet import CellText, draw_key, draw_sheet, plan_sheet
from qvl_attn.render.lettering import line_height_px
from qvl_attn.render.overlay import blur
from qvl_attn.render.paper import (
    ACCENT,
    GREY,
    INK,
    PAGE,
    Paragraph,
    Size,
    paragraph,
    row_sizes_px,
    side_by_side,
    text_height_px,
    write,
)
from qvl_attn.render.style import Drawing, describe_drawing


@dataclass(frozen=True)
class Panel:
    """One map per picture of a prompt, drawn side by side on one scale.

    Attributes:
        label: text under the maps, such as `layer 18`.
        maps: in drawing order; each names its picture (`media_index`).
        marks: one function per map that draws over its picture; empty to draw nothing.
        unit: name of the unit in which multiples of a map's `uniform` are written.
    """

    label: str
    maps: tuple[HeatMap, ...]
    marks: tuple[Callable[[Picture], Picture], ...] = ()
    unit: str = "uniform"

    def __post_init__(self) -> None:
        if not self.maps or any(len(heat.values) != 1 for heat in self.maps):
            raise ValueError("a panel draws one or more maps of one step each")
        if len({heat.scale for heat in self.maps}) > 1:
            raise ValueError("the maps of a panel share one scale")

    @property
    def scale(self) -> Scale:
        """Scale of all maps of the panel."""
        return self.maps[0].scale

    @property
    def cells(self) -> list[FloatArray]:
        """(h, w) float32, one array per map."""
        return [heat.values[0] for heat in self.maps]


def scale_line(panel: Panel, drawing: Drawing) -> str:
    """Return a line of text: the range of the values, the number of clipped cells, how the cells were drawn."""
    parts = [
        _ends(panel) + f" = {_multiple(panel, _highest(panel))}",
        f"{_clipped(panel)} of {sum(cells.size for cells in panel.cells)} cells above the scale",
        *([f"{percent(panel.maps[0].vision_mass)} of the attention on vision"] if panel.maps[0].queries else []),
    ]
    return " · ".join([*parts, *describe_drawing(drawing)])


def headline(
    pictures: Sequence[Picture],
    panel: Panel,
    *,
    question: str,
    answer: str,
    caption_lines: Sequence[str],
    drawing: Drawing,
) -> Picture:
    """Draw one large panel: question and answer above, colour bar at the right, captions and scale beneath.

    Args:
        pictures: uint8 RGB of any size, all pictures of the prompt.
        panel: the panel to draw.
        question: text of the question.
        answer: text of the answer; may be empty.
        caption_lines: lines that describe the map, such as `layers 18-30 of 36, mean of all heads`.
        drawing: drawing options; `draw_size_px` bounds the longest side of the row of drawn pictures.

    Returns:
        (H, W, 3) uint8 RGB: the drawn pictures with margins and text around them.
    """
    height_px = max(pictures[heat.media_index].shape[0] for heat in panel.maps)
    row = overlay.drawn_size_px((round(height_px * sum(_aspects(pictures, panel))), height_px), drawing)
    unit = min(max(row[0] / 1280, 0.7), 6.0)
    large, body, small = round(38 * unit), round(23 * unit), round(20 * unit)
    margin, gap = round(64 * unit), round(26 * unit)

    sizes_px = row_sizes_px(_aspects(pictures, panel), row)
    drawn = side_by_side(_blended(_resized(pictures, panel, sizes_px), panel, drawing))
    legend = _legend(panel, drawn.height, small, drawing)
    width = max(drawn.width + gap + legend.width, round(1080 * unit))

    answer_text = plain(answer).strip()
    above = [
        paragraph(question, width, large, INK),
        paragraph(answer_text or "(no answer)", width, large, ACCENT if answer_text else GREY),
    ]
    captions = (*caption_lines, scale_line(panel, drawing))
    beneath = [paragraph(panel.label, width, body, INK)]
    beneath += [paragraph(line, width, body, GREY) for line in captions]

    map_top = margin + text_height_px(above) + gap // 2 + gap
    text_top = map_top + legend.height + gap
    height = text_top + text_height_px(beneath) + margin
    page = Image.new("RGB", (width + 2 * margin, height), PAGE)
    write(page, (margin, margin), above, gap // 2)
    page.paste(drawn, (margin, map_top))
    page.paste(legend, (margin + drawn.width + gap, map_top))
    write(page, (margin, text_top), beneath)
    return np.asarray(page)


def sheet(
    pictures: Sequence[Picture],
    panels: Sequence[Panel],
    *,
    title_lines: Sequence[str],
    drawing: Drawing,
    columns: int | None = None,
) -> Picture:
    """Draw a contact sheet: each panel on the scale of its maps, with the numbers of that scale beneath it.

    Args:
        pictures: uint8 RGB of any size, all pictures of the prompt.
        panels: at least one; all of the same pictures.
        title_lines: the first is drawn large, the others in grey; they state the scales. A line names the filters.
        drawing: drawing options.
        columns: panels per row, at most as many as fit; None to choose a page of usual shape.

    Returns:
        (H, W, 3) uint8 RGB, at most 2400 pixels wide.

    Raises:
        ValueError: no panel, or panels of different pictures.
    """
    if len({tuple(heat.media_index for heat in panel.maps) for panel in panels}) != 1:
        raise ValueError("a sheet needs panels, all of the same pictures")
    texts = [CellText(panel.label, _numbers(panel)) for panel in panels]
    plan = plan_sheet(texts, _aspects(pictures, panels[0]), drawing, columns=columns)
    resized = _resized(pictures, panels[0], plan.picture_px)
    rows = (_blended(resized, panel, drawing) for panel in panels)
    how = describe_drawing(drawing)
    lines = [*title_lines, " · ".join(how)] if how else title_lines
    return draw_sheet(plan, rows, title_lines=lines, key=draw_key(_key_text(panels), drawing))


def _aspects(pictures: Sequence[Picture], panel: Panel) -> list[float]:
    """Return width over height of each picture of a panel."""
    shapes = [pictures[heat.media_index].shape for heat in panel.maps]
    return [shape[1] / shape[0] for shape in shapes]


def _resized(pictures: Sequence[Picture], panel: Panel, sizes_px: Sequence[Size]) -> list[Picture]:
    """Resize the pictures of a panel."""
    return [
        resize.resize_picture(pictures[heat.media_index], size_px)
        for heat, size_px in zip(panel.maps, sizes_px, strict=True)
    ]


def _blended(resized: Sequence[Picture], panel: Panel, drawing: Drawing) -> list[Picture]:
    masks: Sequence[overlay.Mask | None] = [None] * len(resized)
    if drawing.top_percent < 100:
        masks = overlay.top_mask(panel.cells, drawing.top_percent)
    blended = []
    for picture, cells, mask in zip(resized, panel.cells, masks, strict=True):
        size_px = (picture.shape[1], picture.shape[0])
        values = overlay.upsample(cells, size_px, drawing)
        pixel_mask = None if mask is None else overlay.cell_boxes(mask, size_px)
        blended.append(overlay.blend(picture, values, panel.scale, drawing, pixel_mask))
    return [mark(picture) for mark, picture in zip(panel.marks, blended, strict=True)] if panel.marks else blended


def _legend(panel: Panel, height_px: int, size_px: int, drawing: Drawing) -> Image.Image:
    """Draw the colour bar, with values and multiples of uniform at its low end, middle and high end."""
    step = line_height_px(size_px)
    height, bar_width, gap = max(height_px, 8 * step), round(1.2 * size_px), round(0.6 * size_px)
    low, high = panel.scale.low, panel.scale.high
    ticks = [(compact(value), _multiple(panel, value)) for value in (high, (low + high) / 2, low)]
    text_width = math.ceil(max(lettering.measure(text, size_px) for tick in ticks for text in tick))
    legend = Image.new("RGB", (bar_width + gap + text_width, height), PAGE)
    legend.paste(Image.fromarray(overlay.colorbar(height, bar_width, drawing.colormap)), (0, 0))
    for (value, multiple), y in zip(ticks, (0, height // 2 - step, height - 2 * step), strict=True):
        text = [Paragraph([value], size_px, INK), Paragraph([multiple], size_px, GREY)]
        write(legend, (bar_width + gap, y), text)
    return legend


def _key_text(panels: Sequence[Panel]) -> str:
    """Return what the ends of a sheet's colours are."""
    scale = panels[0].scale
    if len({panel.scale for panel in panels}) > 1:
        return "from the low to the high end of each panel's own scale"
    text = f"{compact(scale.low)} to {compact(scale.high)}"
    same_uniform = len({panel.maps[0].uniform for panel in panels}) == 1
    return f"{text} = {_multiple(panels[0], scale.high)}" if same_uniform else text


def _numbers(panel: Panel) -> list[str]:
    """Return the two lines beneath a thumbnail."""
    vision = f" · vision {percent(panel.maps[0].vision_mass)}" if panel.maps[0].queries else ""
    return [_ends(panel), f"{_multiple(panel, _highest(panel))} · {_clipped(panel)} clipped{vision}"]


def _highest(panel: Panel) -> float:
    return max(float(cells.max()) for cells in panel.cells)


def _ends(panel: Panel) -> str:
    lowest = min(float(cells.min()) for cells in panel.cells)
    return f"min {compact(lowest)} · max {compact(_highest(panel))}"


def _clipped(panel: Panel) -> int:
    return sum(heat.clipped for heat in panel.maps)


def _multiple(panel: Panel, value: float) -> str:
    return times_uniform(value / panel.maps[0].uniform, panel.unit)


def filtered(maps: tuple[HeatMap, ...], drawing: Drawing) -> tuple[HeatMap, ...]:
    """Apply the drawing's filter and blur to maps. Scale and numbers are those of the filtered cells.

    Raises:
        CaptureError: nothing of the maps is left.
    """
    if drawing.blur_cells == 0 and drawing.denoise is None:
        return maps
    denoised = [m.values if drawing.denoise is None else denoise(m.values, drawing.denoise) for m in maps]
    values = [np.stack([blur(step, drawing.blur_cells) for step in steps]) for steps in denoised]
    if not any(steps.any() for steps in values):
        raise CaptureError(f"{argument('denoise', drawing.denoise)} leaves nothing of the map")
    scale = percentile_scale(values)
    return tuple(replace(m, values=v, scale=scale) for m, v in zip(maps, values, strict=True))


def on_one_scale(panels: Sequence[Panel]) -> list[Panel]:
    """Return the panels on one scale, which ends at the 99.5th percentile of all their cells."""
    scale = percentile_scale([m.values for panel in panels for m in panel.maps])
    return [replace(panel, maps=tuple(replace(m, scale=scale) for m in panel.maps)) for panel in panels]


CAPTION_MARGIN_PX, CAPTION_GAP_PX, CAPTION_WIDTH_PX = 32, 14, 720


def captioned(picture: Picture, title: str, lines: Sequence[str]) -> Picture:
    """Draw a page: a picture, a title above it and grey lines beneath it, wrapped to its width.

    Args:
        picture: (H, W, 3) uint8 RGB; drawn unchanged.
        title: text of any script.
        lines: paragraphs beneath the picture.
    """
    height, width = picture.shape[:2]
    inner = max(width, CAPTION_WIDTH_PX)
    title_px, line_px = (round(size * min(max(inner / 1280, 0.85), 1.5)) for size in (28, 17))
    above = [paragraph(title, inner, title_px, INK, max_lines=4)]
    beneath = [paragraph(line, inner, line_px, GREY, max_lines=4) for line in lines]
    top = CAPTION_MARGIN_PX + text_height_px(above) + CAPTION_GAP_PX
    foot = top + height + CAPTION_GAP_PX
    bottom = foot + text_height_px(beneath) + CAPTION_MARGIN_PX
    page = Image.new("RGB", (inner + 2 * CAPTION_MARGIN_PX, bottom), PAGE)
    write(page, (CAPTION_MARGIN_PX, CAPTION_MARGIN_PX), above)
    page.paste(Image.fromarray(picture), (CAPTION_MARGIN_PX, top))
    write(page, (CAPTION_MARGIN_PX, foot), beneath)
    return np.asarray(page)


# The most steps of a clip in one row, the scale of that row over one picture, and its limits in pixels.
MAX_STEPS, ROW_SCALE, LEAST_STEP_PX, MAX_ROW_PX = 6, 2, 240, 16384


def drawn_steps(values: FloatArray) -> tuple[int, ...]:
    """Return the steps of a clip's (t, h, w) map to draw: evenly spaced, with the step of the strongest cell."""
    chosen = np.linspace(0, len(values) - 1, min(len(values), MAX_STEPS)).round().astype(int)
    strongest = int(values.max(axis=(1, 2)).argmax())
    chosen[np.abs(chosen - strongest).argmin()] = strongest
    return tuple(np.unique(chosen).tolist())
