"""Charts of methods: their figures side by side, and what removal and sanity checks say of one answer's maps.

(H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qvl_attn.attribution.faithfulness import CONTROLS, FILLS, KINDS, Curves
from qvl_attn.attribution.likeness import Sanity
from qvl_attn.media.resize import Picture
from qvl_attn.render.charts import ACCENT, DPI, GREY, INK, LINE, OTHER, pixels_of, titled

FIGURES = {
    "pointing": "pointing game",
    "lift": "lift over the area",
    "auc": "ROC-AUC of cells in the box",
    "iou": "IoU of the Otsu-thresholded map",
    "deletion_blur": "deletion, blur (nats; lower is better)",
    "insertion_blur": "insertion, blur (nats; higher is better)",
    "deletion_mean": "deletion, mean colour (nats; lower is better)",
    "insertion_mean": "insertion, mean colour (nats; higher is better)",
}
KIND_TITLES = {
    "deletion": "deletion: the earlier the fall, the better",
    "insertion": "insertion: the earlier the rise, the better",
}
COLORS = {"random": GREY, "uniform": OTHER}
# Of maps, in their order; of more than there are, again from the first.
MAPS = (ACCENT, LINE, "#8c5ea8", "#b58900", "#2aa198", "#d33682", "#7a4a2a", "#5f8a1f", "#00688b", INK)
PLACES = ((0.045, 0.22, 0.285, 0.7), (0.385, 0.22, 0.285, 0.7), (0.815, 0.22, 0.175, 0.7))
FILL_STYLES = {"blur": "-", "mean": "--"}


def draw_methods(table: Mapping[str, Mapping[str, Mapping[str, float]]], title: str) -> Picture:
    """Each figure of each method with its 95 % interval, chance (dotted); those that nobody has are left out.

    Args:
        table: by method, as `summary.method_table` gives it.
        title: what was measured, on what.
    """
    found = [name for name in FIGURES if any(np.isfinite(_mean(own, name)) for own in table.values())]
    columns = min(4, len(found)) or 1
    lines = -(-len(found) // columns) or 1
    figure = Figure(figsize=(4.4 * columns, (0.34 * len(table) + 1.1) * lines), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for empty in panels[len(found) :]:
        empty.set_axis_off()
    for i, (axes, name) in enumerate(zip(panels, found, strict=False)):
        _dots(axes, table, name, named=i % columns == 0)
    figure.tight_layout()
    return titled(pixels_of(canvas), title)


def _mean(own: Mapping[str, Mapping[str, float]], name: str) -> float:
    return own[name]["mean"] if name in own else np.nan


def _dots(axes: Axes, table: Mapping[str, Mapping[str, Mapping[str, float]]], name: str, *, named: bool) -> None:
    axes.set_title(FIGURES[name], loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
    for row, own in enumerate(table.values()):
        if name in own:
            one = own[name]
            color = COLORS.get(list(table)[row], LINE)
            axes.plot([one["low"], one["high"]], [row, row], color=color, linewidth=2.4, alpha=0.5)
            axes.plot([one["mean"]], [row], color=color, marker="o", markersize=6)
    chances = [own[name]["chance"] for own in table.values() if "chance" in own.get(name, {})]
    if chances:
        axes.axvline(float(np.nanmedian(chances)), color=INK, linewidth=1.3, linestyle=":")
    axes.set_yticks(range(len(table)), list(table) if named else [""] * len(table))
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.grid(axis="y", color="#e6e8ec", linewidth=0.8)


def draw_faithfulness(curves: Curves | None, sanity: Mapping[str, Sanity], title: str) -> Picture:
    """Deletion and insertion of each map and of what knows nothing, and how alike maps are when things change.

    Args:
        curves: none where the answer has no text.
        sanity: by map.
        title: what was asked.
    """
    figure = Figure(figsize=(17, 5.6), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    # The last has the long labels: columns of one width would leave gaps.
    *panels, last = (figure.add_axes(place) for place in PLACES)
    for axes, kind in zip(panels, KINDS, strict=True):
        _curves(axes, curves, kind)
    _likeness(last, sanity)
    how: dict[str, Any] = {"frameon": False, "labelcolor": INK}
    left, right = (axes.get_legend_handles_labels() for axes in (panels[0], last))
    figure.legend(*left, loc="lower left", ncols=len(FILLS) + 1, bbox_to_anchor=(0.03, 0), **how)
    figure.legend(*right, loc="lower right", ncols=2, bbox_to_anchor=(0.99, 0), **how)
    return titled(pixels_of(canvas), title)


def _curves(axes: Axes, curves: Curves | None, kind: str) -> None:
    axes.set_title(KIND_TITLES[kind], loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
    done = "removed" if kind == "deletion" else "put back"
    axes.set_xlabel(f"share of the cells {done}, strongest first", color=GREY)
    axes.set_ylabel("log-probability of the answer, nats", color=GREY)
    if curves is None:
        axes.text(0.5, 0.5, "the answer has no text", ha="center", color=GREY, transform=axes.transAxes)
        return
    for n, name in enumerate(curves.names):
        color = COLORS[name] if name in CONTROLS else MAPS[n % len(MAPS)]
        for f, fill in enumerate(FILLS):
            values = curves.logprobs[n, KINDS.index(kind), f]
            axes.plot(
                curves.shares, values, FILL_STYLES[fill], color=color, linewidth=1.8, label=f"{name}, {fill} fill"
            )


def _likeness(axes: Axes, sanity: Mapping[str, Sanity]) -> None:
    axes.set_title("sanity: likeness to what it was, the lower the better", loc="right", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
    labels: list[str] = []
    offset = 0.8 / (2 * max(1, len(sanity)))
    for i, (name, one) in enumerate(sanity.items()):
        rows = [*one.weights, one.question, one.picture]
        labels = [_short(row.label) for row in rows]
        for j, (figure, alpha) in enumerate((("rank_correlation", 1.0), ("ssim", 0.45))):
            color = MAPS[i % len(MAPS)]
            places = np.arange(len(rows)) + (2 * i + j - len(sanity) + 0.5) * offset
            values = [np.nan if getattr(row, figure) is None else getattr(row, figure) for row in rows]
            words = figure.replace("_", " ").replace("ssim", "SSIM")
            for place in places[np.isnan(values)]:
                axes.text(0.03, place, "no map", va="center", color=GREY, fontsize=8)
            axes.barh(places, values, height=0.9 * offset, color=color, alpha=alpha, label=f"{name}: {words}")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(-1, 1)
    axes.set_xticks((-1, -0.5, 0, 0.5, 1))
    axes.axvline(0, color=INK, linewidth=0.9)


def _short(label: str) -> str:
    """A circumstance without the question's own words, which may be of a script that charts have no letters for."""
    return label.partition(":")[0]


def faithfulness_lines(curves: Curves | None, sanity: Mapping[str, Sanity]) -> list[str]:
    """The figures of the chart, to be read."""
    lines = []
    if curves is None:
        lines.append("faithfulness: the answer has no text whose probability could change")
    else:
        figures = curves.figures()
        for kind, better in zip(KINDS, ("lower", "higher"), strict=True):
            for fill in FILLS:
                areas: Sequence[Any] = [f"{name} {own[f'{kind}_{fill}']:.2f}" for name, own in figures.items()]
                lines.append(f"{kind}, {fill} fill ({better} is better, nats): {', '.join(areas)}")
    for name, one in sanity.items():
        for row in (*one.weights, one.question, one.picture):
            values = ["-" if value is None else f"{value:.2f}" for value in (row.rank_correlation, row.ssim)]
            lines.append(f"{name} with {row.label}: rank correlation {values[0]}, SSIM {values[1]}")
    return lines
