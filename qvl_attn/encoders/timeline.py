"""What is an encoder's own in the timeline and in the frames of its clip: statistics of each step, and captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qvl_attn.core.types import Box, HeatMap
from qvl_attn.encoders.captions import (
    describe_provenance,
    describe_share,
    describe_visible_region,
    map_title,
    visible_box_px,
)
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.encoders.statistics import TITLES, statistics_of
from qvl_attn.media.resize import Picture
from qvl_attn.render.charts import DPI, GREY, INK, LINE, pixels_of, titled
from qvl_attn.render.video_frame import FrameOverlay
from qvl_attn.results import clip_export
from qvl_attn.results.clip_export import step_edges_s
from qvl_attn.results.timeline import Level, Line, plot_steps

SIZE_IN = (11.0, 6.6)
NAMES = ("strongest", "distance_px", "entropy_bits")
STRONGEST = "strongest cell of the map, multiples of a uniform map"


@dataclass(frozen=True, eq=False)
class StepStatistic:
    """One statistic over the steps of a clip.

    Attributes:
        title: its name and unit.
        values: (t,) float64.
        chance: its value for uniform attention.
    """

    title: str
    values: NDArray[np.float64]
    chance: float


def step_statistics(record: EncoderRecord, heat: HeatMap) -> tuple[StepStatistic, ...]:
    """Return the statistics of each step, for the layers of a map.

    The attention of each step sums to one, so its amount says nothing; its distribution does. Distance and entropy are
    means over the patches and over all heads, whatever the query of the map is.
    """
    layers = list(heat.layers)
    statistics = statistics_of(record.attention)
    result = [StepStatistic(STRONGEST, heat.values.max(axis=(1, 2)).astype(np.float64) / heat.uniform, 1.0)]
    for name in NAMES[1:]:
        values = getattr(record.attention, name)[layers].mean(axis=(0, 1), dtype=np.float64)
        chance = float(statistics[name].chance[layers].mean())
        result.append(StepStatistic(f"{TITLES[name]}; mean of all heads", values, chance))
    return tuple(result)


def draw_timeline(record: EncoderRecord, heat: HeatMap) -> Picture:
    """Draw the statistics one beneath the other over the seconds of the clip: (H, W, 3) uint8 RGB."""
    figure = Figure(figsize=SIZE_IN, dpi=DPI, facecolor="white")
    canvas, drawn = FigureCanvasAgg(figure), step_statistics(record, heat)
    edges_s = step_edges_s(record.media[0], record.attention.grid[0])
    panels = figure.subplots(len(drawn), 1, sharex=True)
    for axes, statistic in zip(panels, drawn, strict=True):
        axes.set_title(statistic.title, loc="left", fontsize=11, color=INK)
        axes.tick_params(colors=GREY)
        level = Level("chance: uniform attention", statistic.chance, INK, 1.3)
        plot_steps(axes, [Line("by step", statistic.values, LINE, 2.2)], level, edges_s)
        axes.set_ylim(0, 1.12 * max(float(statistic.values.max()), statistic.chance))
    panels[-1].set_xlabel("seconds", color=GREY)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower left", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    return titled(pixels_of(canvas), f"{describe_provenance(record)} · {heat_map_title(record, heat)}")


def frame_overlay(record: EncoderRecord, heat: HeatMap, captions: Sequence[str]) -> FrameOverlay:
    """Return the heat map and the captions for the frames of the exported clip."""
    share = describe_share(record.attention, heat.query, heat.layers[0], record.settings.over)
    region = visible_region(record)
    lines = (share, *captions, *_describe_hidden(region))
    return clip_export.frame_overlay(record.media[0], heat, heat_map_title(record, heat), lines, visible_region=region)


def heat_map_title(record: EncoderRecord, heat: HeatMap) -> str:
    """Return the title of a heat map: its query, its layer, and how the heads are joined."""
    return map_title(record, heat.query, heat.layers[0])


def visible_region(record: EncoderRecord) -> Box | None:
    """Return the region of a frame that the encoder sees, xyxy as fractions of its sides; None if it is all of it."""
    if describe_visible_region(record) is None:
        return None
    (x0, y0, x1, y1), (width, height) = visible_box_px(record.attention), record.media[0].size_px
    return x0 / width, y0 / height, x1 / width, y1 / height


def _describe_hidden(region: Box | None) -> list[str]:
    """Return the caption on what is faded and what is not drawn; none if the encoder sees the whole frame."""
    if region is None:
        return []
    margins = (*region[:2], 1 - region[2], 1 - region[3])
    faded = "what the encoder does not see is faded" if max(margins) > 0 else ""
    cut = "what it sees beyond the frame is not drawn" if min(margins) < 0 else ""
    return ["; ".join(filter(None, (faded, cut)))]
