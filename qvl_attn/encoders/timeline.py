"""What an encoder does over the time of a clip: figures of each step, and their picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qvl_attn.core.types import HeatMap
from qvl_attn.encoders.record import Look
from qvl_attn.encoders.statistics import TITLES, figures_of
from qvl_attn.media.resize import Picture
from qvl_attn.render.charts import DPI, GREY, INK, LINE, pixels_of, titled
from qvl_attn.vqa.timeline import step_edges_s

SIZE_IN = (11.0, 6.6)
NAMES = ("strongest", "distance_px", "entropy_bits")
STRONGEST = "strongest cell of the map, multiples of a uniform map"


@dataclass(frozen=True, eq=False)
class Line:
    """One figure over the steps of a clip.

    Attributes:
        title: what it is.
        values: (t,) float64.
        chance: what it is where attention is spread evenly.
    """

    title: str
    values: NDArray[np.float64]
    chance: float


def lines(look: Look, heat: HeatMap) -> tuple[Line, ...]:
    """The figures of each step, of the layers of a map.

    Each step's attention adds up to the same, so how much each gets says nothing here: how it is spread does. The
    distance and the entropy are means over the patches and over all heads, whatever the map is of.
    """
    layers = list(heat.layers)
    figures = figures_of(look.sight)
    found = [Line(STRONGEST, heat.values.max(axis=(1, 2)).astype(np.float64) / heat.uniform, 1.0)]
    for name in NAMES[1:]:
        values = getattr(look.sight, name)[layers].mean(axis=(0, 1), dtype=np.float64)
        found.append(Line(f"{TITLES[name]}; mean of all heads", values, float(figures[name].chance[layers].mean())))
    return tuple(found)


def draw_steps(look: Look, heat: HeatMap, title: str) -> Picture:
    """The picture of it, one figure beneath the other over the same seconds: (H, W, 3) uint8 RGB."""
    figure = Figure(figsize=SIZE_IN, dpi=DPI, facecolor="white")
    canvas, drawn = FigureCanvasAgg(figure), lines(look, heat)
    edges = step_edges_s(look.media, look.sight.grid[0])
    panels = figure.subplots(len(drawn), 1, sharex=True)
    for axes, line in zip(panels, drawn, strict=True):
        axes.set_title(line.title, loc="left", fontsize=11, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=GREY)
        axes.stairs(line.values, edges, baseline=None, color=LINE, linewidth=2.2, label="by step")
        axes.axhline(line.chance, color=INK, linewidth=1.3, linestyle=":", label="chance: attention spread evenly")
        axes.set_ylim(0, 1.12 * max(float(line.values.max()), line.chance))
    panels[-1].set_xlabel("seconds", color=GREY)
    panels[-1].set_xlim(float(edges[0]), float(edges[-1]))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower left", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    return titled(pixels_of(canvas), title)
