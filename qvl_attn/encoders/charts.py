"""One chart of an encoder's layers: every figure by head with chance, for one picture or over many. (H, W, 3) uint8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Chart
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from qvl_attn.encoders.captions import describe_input, describe_provenance
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.encoders.statistics import FIGURES, TITLES, Figure, said, statistics_of
from qvl_attn.media.resize import Picture
from qvl_attn.render.charts import ACCENT, DPI, GREY, INK, LINE, pixels_of
from qvl_attn.render.layout import captioned

CHANCE = "chance: every patch spreads its attention evenly over the tokens that it sees"
COLUMNS, PANEL_INCHES = 3, (5.2, 3.7)
Floats = NDArray[np.float64]
Draw = Callable[[Axes, str], None]


def draw_figures(record: EncoderRecord) -> Picture:
    """All figures of one look by layer: each head a faint dot, their mean a line, chance dotted, full layers shaded.

    Beneath it stands what they say.
    """
    found = statistics_of(record.attention)

    def draw(axes: Axes, name: str) -> None:
        values = found[name].values
        layers = np.repeat(np.arange(len(values)), values.shape[1])
        axes.plot(layers, values.ravel(), ".", color=LINE, alpha=0.4, markersize=8, markeredgewidth=0, label="a head")
        axes.plot(values.mean(axis=1), color=LINE, linewidth=2, marker="o", markersize=3.5, label="mean over heads")

    lines = [*said(found), CHANCE, f"{describe_provenance(record)} · {describe_input(record.attention)}"]
    return captioned(
        _panels(found, record.attention.full, draw), f"figures by layer · {Path(record.media.source).name}", lines
    )


def draw_folder_statistics(
    figures: Mapping[str, Floats], chance: Mapping[str, Floats], full: NDArray[np.bool_], title: str
) -> Picture:
    """All figures over many pictures by layer: the mean over pictures of the mean over heads, and how far they spread.

    Args:
        figures: (N, L, H) of N pictures by name, as in `FIGURES`.
        chance: (N, L) of each; drawn is its mean.
        full: (L,) whether a layer's patches see their whole step.
        title: whose figures, on what.
    """
    found = {name: Figure(values.mean(axis=0), chance[name].mean(axis=0)) for name, values in figures.items()}
    count = len(next(iter(figures.values())))

    def draw(axes: Axes, name: str) -> None:
        own = figures[name].mean(axis=2)
        mean, layers = own.mean(axis=0), np.arange(own.shape[1])
        if count > 1:
            apart = own.std(axis=0, ddof=1)
            low, high = np.percentile(own, (5, 95), axis=0)
            band: dict[str, Any] = {"color": LINE, "linewidth": 0}
            axes.fill_between(layers, low, high, alpha=0.14, label="5 to 95 % of the pictures", **band)
            axes.fill_between(layers, mean - apart, mean + apart, alpha=0.26, label="standard deviation", **band)
        axes.plot(layers, mean, color=LINE, linewidth=2, marker="o", markersize=3.5, label="mean over pictures")

    lines = [
        *said(found),
        CHANCE,
        f"{count:,} pictures · of each the mean over heads" if count > 1 else "one picture: no spread",
    ]
    return captioned(_panels(found, full, draw), title, lines)


def _panels(found: Mapping[str, Figure], full: NDArray[np.bool_], draw: Draw) -> Picture:
    names = [name for name in FIGURES if name in found]
    lines = -(-len(names) // COLUMNS)
    chart = Chart(figsize=(PANEL_INCHES[0] * COLUMNS, PANEL_INCHES[1] * lines + 0.5), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(chart)
    panels = chart.subplots(lines, COLUMNS, squeeze=False).ravel()
    for empty in panels[len(names) :]:
        empty.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, name, found[name], full, draw)
    handles = {label: one for axes in panels for one, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    chart.legend(handles.values(), handles.keys(), loc="lower left", ncols=6, frameon=False, bbox_to_anchor=(0.005, 0))
    chart.tight_layout(rect=(0, 0.5 / (PANEL_INCHES[1] * lines + 0.5), 1, 1))
    return pixels_of(canvas)


def _panel(axes: Axes, name: str, figure: Figure, full: NDArray[np.bool_], draw: Draw) -> None:
    layers = np.arange(len(full))
    axes.set_title(TITLES[name], loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("layer", color=GREY)
    axes.tick_params(colors=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for layer in layers[full] if not full.all() else ():
        axes.axvspan(layer - 0.5, layer + 0.5, color=ACCENT, alpha=0.09, linewidth=0, label="full layers")
    draw(axes, name)
    # A step for each layer: between two layers there is no chance, and windows change it at once.
    edges = np.append(layers - 0.5, len(full) - 0.5)
    axes.stairs(figure.chance, edges, baseline=None, color=INK, linewidth=1.3, linestyle=":", label="chance")
    axes.set_xlim(-0.5, len(full) - 0.5)
    axes.set_ylim(0, 1.05 * max(axes.get_ylim()[1] / 1.05, float(figure.chance.max())))
