"""Charts of an encoder's statistics by layer with chance, of one picture or of a folder. (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from qvl_attn.encoders.captions import describe_input, describe_provenance
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.encoders.statistics import STATISTICS, TITLES, Statistic, describe_statistics, statistics_of
from qvl_attn.media.resize import Picture
from qvl_attn.render.charts import ACCENT, DPI, GREY, INK, LINE, pixels_of
from qvl_attn.render.layout import captioned

CHANCE = "chance: the attention of every patch is uniform over the tokens that it can attend to"
COLUMNS, PANEL_INCHES = 3, (5.2, 3.7)
Floats = NDArray[np.float64]
Draw = Callable[[Axes, str], None]


def draw_statistics(record: EncoderRecord) -> Picture:
    """Draw all statistics of one result by layer: heads as faint dots, their mean as a line, chance dotted.

    Full layers are shaded. The caption describes the statistics.
    """
    statistics = statistics_of(record.attention)

    def draw(axes: Axes, name: str) -> None:
        values = statistics[name].values
        layers = np.repeat(np.arange(len(values)), values.shape[1])
        axes.plot(layers, values.ravel(), ".", color=LINE, alpha=0.4, markersize=8, markeredgewidth=0, label="a head")
        axes.plot(values.mean(axis=1), color=LINE, linewidth=2, marker="o", markersize=3.5, label="mean over heads")

    lines = [
        *describe_statistics(statistics),
        CHANCE,
        f"{describe_provenance(record)} · {describe_input(record.attention)}",
    ]
    return captioned(
        _draw_panels(statistics, record.attention.full, draw),
        f"statistics by layer · {Path(record.media[0].source).name}",
        lines,
    )


def draw_folder_statistics(
    values: Mapping[str, Floats], chance: Mapping[str, Floats], full: NDArray[np.bool_], title: str
) -> Picture:
    """Draw all statistics of many pictures by layer: mean and spread over the pictures of the mean over the heads.

    Args:
        values: (N, L, H) of N pictures by name, one of `STATISTICS`.
        chance: (N, L) by name; its mean is drawn.
        full: (L,) whether the patches of a layer attend to their whole step.
        title: names the model and the pictures.
    """
    statistics = {name: Statistic(values[name].mean(axis=0), chance[name].mean(axis=0)) for name in values}
    count = len(next(iter(values.values())))

    def draw(axes: Axes, name: str) -> None:
        by_picture = values[name].mean(axis=2)
        mean, layers = by_picture.mean(axis=0), np.arange(by_picture.shape[1])
        if count > 1:
            deviation = by_picture.std(axis=0, ddof=1)
            low, high = np.percentile(by_picture, (5, 95), axis=0)
            band: dict[str, Any] = {"color": LINE, "linewidth": 0}
            axes.fill_between(layers, low, high, alpha=0.14, label="5 to 95 % of the pictures", **band)
            axes.fill_between(
                layers, mean - deviation, mean + deviation, alpha=0.26, label="standard deviation", **band
            )
        axes.plot(layers, mean, color=LINE, linewidth=2, marker="o", markersize=3.5, label="mean over pictures")

    lines = [
        *describe_statistics(statistics),
        CHANCE,
        f"{count:,} pictures · mean over the heads of each" if count > 1 else "one picture: no spread",
    ]
    return captioned(_draw_panels(statistics, full, draw), title, lines)


def _draw_panels(statistics: Mapping[str, Statistic], full: NDArray[np.bool_], draw: Draw) -> Picture:
    names = [name for name in STATISTICS if name in statistics]
    rows = -(-len(names) // COLUMNS)
    figure = Figure(figsize=(PANEL_INCHES[0] * COLUMNS, PANEL_INCHES[1] * rows + 0.5), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for empty in panels[len(names) :]:
        empty.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        _draw_panel(axes, name, statistics[name], full, draw)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="lower left", ncols=6, frameon=False, bbox_to_anchor=(0.005, 0))
    figure.tight_layout(rect=(0, 0.5 / (PANEL_INCHES[1] * rows + 0.5), 1, 1))
    return pixels_of(canvas)


def _draw_panel(axes: Axes, name: str, statistic: Statistic, full: NDArray[np.bool_], draw: Draw) -> None:
    layers = np.arange(len(full))
    axes.set_title(TITLES[name], loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("layer", color=GREY)
    axes.tick_params(colors=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for layer in layers[full] if not full.all() else ():
        axes.axvspan(layer - 0.5, layer + 0.5, color=ACCENT, alpha=0.09, linewidth=0, label="full layers")
    draw(axes, name)
    # Drawn as steps: chance has no value between two layers and jumps where windowed layers begin.
    edges = np.append(layers - 0.5, len(full) - 0.5)
    axes.stairs(statistic.chance, edges, baseline=None, color=INK, linewidth=1.3, linestyle=":", label="chance")
    axes.set_xlim(-0.5, len(full) - 0.5)
    axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1] / 1.05, float(statistic.chance.max())))
