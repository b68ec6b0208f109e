"""The chart of a clip over its seconds: values of each step of tokens, with their level for uniform attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.attribution.heatmap import over_chance
from qvl_attn.core.types import Media
from qvl_attn.media.resize import Picture
from qvl_attn.render import charts
from qvl_attn.render.charts import DPI, pixels_of
from qvl_attn.render.contact_sheet import LABEL_PX, SHEET_MARGIN_PX, TITLE_PX
from qvl_attn.render.paper import ACCENT, GREY, INK, PAGE, paragraph, text_height_px, write
from qvl_attn.results.clip_export import step_edges_s
from qvl_attn.results.record import MapSource

WIDTH_PX, CHART_HEIGHT_PX = 1500, 640
HEADLINE_COLOR, HEADLINE_WIDTH = charts.ACCENT, 3.2
CAPTION = "attention on each step, relative to a uniform map (dotted)"
AXIS = "attention on the step ÷ uniform"


@dataclass(frozen=True, eq=False)
class Line:
    """A line of a timeline.

    Attributes:
        label: its name in the legend.
        values: (t,) a value of each step; or (N,) a value at each of `times_s`.
        color: its colour.
        width: its width in points.
        times_s: (N,) seconds of single values, drawn as dots; None for values of steps, drawn as stairs.
    """

    label: str
    values: NDArray[np.float64]
    color: str
    width: float = 1.8
    times_s: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Level:
    """The value of uniform attention, drawn as a dotted line."""

    label: str = "a uniform map"
    value: float = 1.0
    color: str = charts.GREY
    width: float = 1.2


def plot_steps(axes: Axes, lines: Sequence[Line], level: Level, edges_s: NDArray[np.float64]) -> None:
    """Plot lines and a level over the seconds of a clip.

    Args:
        axes: where to plot.
        lines: the lines.
        level: the value of uniform attention.
        edges_s: (t + 1,) seconds: see `step_edges_s`.
    """
    for line in lines:
        if line.times_s is None:
            axes.stairs(line.values, edges_s, baseline=None, color=line.color, linewidth=line.width, label=line.label)
        else:
            axes.plot(line.times_s, line.values, "o", color=line.color, label=line.label)
    axes.axhline(level.value, color=level.color, linewidth=level.width, linestyle=":", label=level.label)
    axes.set_xlim(float(edges_s[0]), float(edges_s[-1]))
    axes.spines[["top", "right"]].set_visible(False)


def timeline_page(
    lines: Sequence[Line],
    edges_s: NDArray[np.float64],
    *,
    title: str,
    answer: str,
    caption: str = CAPTION,
    axis: str = AXIS,
    level: Level = Level(),
    beneath: str = "",
) -> Picture:
    """Draw one chart with the texts around it: (H, W, 3) uint8 RGB.

    Args:
        lines: the lines of the chart, the most important last.
        edges_s: (t + 1,) seconds: see `step_edges_s`.
        title: the large line above.
        answer: the coloured line beneath the title.
        caption: what the values are.
        axis: name of the values at their axis.
        level: the value of uniform attention.
        beneath: text beneath the chart.
    """
    width = WIDTH_PX - 2 * SHEET_MARGIN_PX
    above = [
        paragraph(title, width, TITLE_PX, INK, max_lines=2),
        paragraph(answer, width, TITLE_PX, ACCENT, max_lines=2),
        paragraph(caption, width, LABEL_PX, GREY, max_lines=2),
    ]
    foot = [paragraph(beneath, width, LABEL_PX, GREY, max_lines=12)] if beneath else []
    top = SHEET_MARGIN_PX + text_height_px(above)
    height = top + CHART_HEIGHT_PX + text_height_px(foot) + SHEET_MARGIN_PX
    page = Image.new("RGB", (WIDTH_PX, height), PAGE)
    write(page, (SHEET_MARGIN_PX, SHEET_MARGIN_PX), above)
    page.paste(Image.fromarray(_chart(lines, edges_s, axis, level)), (0, top))
    write(page, (SHEET_MARGIN_PX, top + CHART_HEIGHT_PX), foot)
    return np.asarray(page)


def _chart(lines: Sequence[Line], edges_s: NDArray[np.float64], axis: str, level: Level) -> Picture:
    figure = Figure(figsize=(WIDTH_PX / DPI, CHART_HEIGHT_PX / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.062, 0.115, 0.62, 0.84))
    plot_steps(axes, lines, level, edges_s)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel(axis)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.695, 0.96), frameon=False)
    return pixels_of(canvas)


def draw_timeline(maps: MapSource, clip: Media) -> Picture:
    """Draw the attention of the headline on each step of a clip, relative to a uniform map: (H, W, 3) uint8 RGB."""
    (heat,), described = maps.heat_map(maps.headline), maps.describe(maps.headline)
    line = Line(f"headline: {described.label}", over_chance(heat.values), HEADLINE_COLOR, HEADLINE_WIDTH)
    edges_s = step_edges_s(clip, len(heat.values))
    return timeline_page([line], edges_s, title=described.title, answer=described.answer)
