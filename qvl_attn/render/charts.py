"""Charts of evaluation figures by layer, head and method, and of faithfulness. All are (H, W, 3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.attribution.faithfulness import CONTROLS, FILLS, KINDS, Curves
from qvl_attn.attribution.similarity import Sanity
from qvl_attn.media.resize import Picture
from qvl_attn.render import paper
from qvl_attn.render.paper import hex_color, paragraph, text_height_px, write

DPI = 100
MARGIN_PX, TITLE_PX = 20, 20
INK, GREY, ACCENT = (hex_color(color) for color in (paper.INK, paper.GREY, paper.ACCENT))
LINE, OTHER = "#2f6690", "#3c8d5a"
TITLES = {
    "pointing": "pointing game: strongest cell in the box",
    "mass": "mass in the box: share of the attention",
    "lift": "lift over the area: 1 for a uniform map",
    "auc": "ROC-AUC of cells in the box",
    "iou": "IoU after Otsu",
    "vision_mass": "share on vision, of all attention",
    "entropy": "entropy over that of a uniform map",
    "top10_share": "ten strongest cells: their share",
    "spread": "spatial spread over the diagonal",
    "distance": "distance to the box over the diagonal",
}
BY_LAYER = ("pointing", "lift", "auc", "iou", "mass", "vision_mass")
PATTERNS = ("entropy", "top10_share", "spread", "distance")
BY_HEAD = ("pointing", "lift")


def draw_layers(
    table: Sequence[Mapping[str, Any]], headline: Sequence[int], title: str, *, patterns: bool = False
) -> Picture:
    """Draw figures by layer, with 95 % intervals, chance (dotted) and the control with other pictures' boxes (dashed).

    Figures that are defined for no sample, such as those that need boxes, are left out.

    Args:
        table: one row per layer, from `summary.layer_table`.
        headline: layers of the headline; shaded unless they are all layers.
        title: title of the chart.
        patterns: draw entropy, strongest cells, spread and distance instead of grounding.
    """
    names = [
        name for name in (PATTERNS if patterns else BY_LAYER) if np.isfinite([row[name]["mean"] for row in table]).any()
    ]
    lines = 1 if len(names) < 3 else 2
    columns = -(-len(names) // lines)
    figure = Figure(figsize=(max(5.2 * columns, 9.4), 4.2 * lines + 0.6), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for empty in panels[len(names) :]:
        empty.set_axis_off()
    layers = [row["layer"] for row in table]
    for axes, name in zip(panels, names, strict=False):
        _panel(axes, layers, [row[name] for row in table], headline, name)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="lower left", ncols=5, frameon=False, bbox_to_anchor=(0.005, 0))
    figure.tight_layout(rect=(0, 0.045, 1, 1))
    return titled(pixels_of(canvas), title)


def _panel(axes: Axes, layers: Sequence[int], rows: Sequence[Mapping[str, float]], headline: Any, name: str) -> None:
    axes.set_title(TITLES[name], loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("layer", color=GREY)
    axes.tick_params(colors=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    mean, low, high = (np.array([row[key] for row in rows]) for key in ("mean", "low", "high"))
    for layer in headline if len(headline) < len(layers) else ():
        axes.axvspan(layer - 0.5, layer + 0.5, color=ACCENT, alpha=0.09, linewidth=0, label="layers of the headline")
    axes.fill_between(layers, low, high, color=LINE, alpha=0.22, linewidth=0, label="95 % interval")
    axes.plot(layers, mean, color=LINE, linewidth=2, marker="o", markersize=3.5, label="mean over samples")
    if "other" in rows[0] and name != "vision_mass":
        control = [row["other"] for row in rows]
        axes.plot(layers, control, color=OTHER, linewidth=1.4, linestyle="--", label="under another picture's boxes")
    if "chance" in rows[0]:
        axes.plot(layers, [row["chance"] for row in rows], color=INK, linewidth=1.3, linestyle=":", label="chance")
    axes.set_xlim(min(layers) - 0.5, max(layers) + 0.5)
    axes.set_ylim(bottom=0)


def draw_heads(
    heads: Mapping[str, NDArray[np.float64]],
    layers: Sequence[int],
    marked: Sequence[tuple[int, int]],
    chance: Mapping[str, float],
    title: str,
) -> Picture:
    """Draw layers by heads; each cell is the mean of a figure over the samples.

    Args:
        heads: (L, H) values by figure.
        layers: layer numbers, (L,).
        marked: (layer, head) pairs of the headline, outlined.
        chance: chance level by figure, marked on its colour bar.
        title: title of the chart.
    """
    rows, count = heads[BY_HEAD[0]].shape
    width, height = max(11.0, 0.42 * count * len(BY_HEAD) + 4.0), max(4.8, 0.3 * rows + 2.4)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(BY_HEAD)), BY_HEAD, strict=True):
        image = axes.imshow(heads[name], cmap="inferno", aspect="auto", vmin=0, origin="lower")
        axes.set_title(TITLES[name], loc="left", fontsize=11, color=INK)
        axes.set_xlabel("head", color=GREY)
        axes.set_ylabel("layer", color=GREY)
        axes.set_xticks(range(0, count, max(1, count // 16)))
        ticks = range(0, rows, max(1, rows // 18))
        axes.set_yticks(ticks, [layers[tick] for tick in ticks])
        axes.tick_params(colors=GREY)
        for layer, head in marked:
            if layer in layers:
                x, y = head - 0.5, list(layers).index(layer) - 0.5
                axes.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, fill=False, edgecolor="#39c0ff", linewidth=2))
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
        if np.isfinite(chance[name]):
            bar.ax.axhline(chance[name], color="#39c0ff", linewidth=2)
            bar.ax.set_xlabel("line: chance", color=GREY)
    figure.tight_layout()
    return titled(pixels_of(canvas), f"{title} · outlined: the heads of the headline" if marked else title)


def titled(chart: Picture, title: str) -> Picture:
    """Put a title above a chart. It is not drawn by matplotlib: any script is drawn, and `$` starts no formula."""
    height, width = chart.shape[:2]
    lines = [paragraph(title, width - 2 * MARGIN_PX, TITLE_PX, paper.INK, max_lines=3)]
    top = MARGIN_PX + text_height_px(lines)
    page = Image.new("RGB", (width, top + height), paper.PAGE)
    write(page, (MARGIN_PX, MARGIN_PX), lines)
    page.paste(Image.fromarray(chart), (0, top))
    return np.asarray(page)


def pixels_of(canvas: FigureCanvasAgg) -> Picture:
    """Draw a figure; return (H, W, 3) uint8 RGB."""
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


FIGURES = {
    "pointing": "pointing game",
    "lift": "lift over the area",
    "auc": "ROC-AUC of cells in the box",
    "iou": "IoU after Otsu",
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
# Colours of maps in order; more maps than colours start again at the first.
MAP_COLORS = (ACCENT, LINE, "#8c5ea8", "#b58900", "#2aa198", "#d33682", "#7a4a2a", "#5f8a1f", "#00688b", INK)
AXES_BOXES = ((0.045, 0.22, 0.285, 0.7), (0.385, 0.22, 0.285, 0.7), (0.815, 0.22, 0.175, 0.7))
FILL_STYLES = {"blur": "-", "mean": "--"}


def draw_methods(table: Mapping[str, Mapping[str, Mapping[str, float]]], title: str) -> Picture:
    """Draw each figure of each method with its 95 % interval and chance (dotted); figures without values are left out.

    Args:
        table: figures by method, from `summary.method_table`.
        title: title of the chart.
    """
    names = [name for name in FIGURES if any(np.isfinite(_mean(figures, name)) for figures in table.values())]
    columns = min(4, len(names)) or 1
    lines = -(-len(names) // columns) or 1
    figure = Figure(figsize=(4.4 * columns, (0.34 * len(table) + 1.1) * lines), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for empty in panels[len(names) :]:
        empty.set_axis_off()
    for i, (axes, name) in enumerate(zip(panels, names, strict=False)):
        _dots(axes, table, name, named=i % columns == 0)
    figure.tight_layout()
    return titled(pixels_of(canvas), title)


def _mean(figures: Mapping[str, Mapping[str, float]], name: str) -> float:
    return figures[name]["mean"] if name in figures else np.nan


def _dots(axes: Axes, table: Mapping[str, Mapping[str, Mapping[str, float]]], name: str, *, named: bool) -> None:
    axes.set_title(FIGURES[name], loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
    for row, figures in enumerate(table.values()):
        if name in figures:
            figure = figures[name]
            color = COLORS.get(list(table)[row], LINE)
            axes.plot([figure["low"], figure["high"]], [row, row], color=color, linewidth=2.4, alpha=0.5)
            axes.plot([figure["mean"]], [row], color=color, marker="o", markersize=6)
    chances = [figures[name]["chance"] for figures in table.values() if "chance" in figures.get(name, {})]
    if chances:
        axes.axvline(float(np.nanmedian(chances)), color=INK, linewidth=1.3, linestyle=":")
    axes.set_yticks(range(len(table)), list(table) if named else [""] * len(table))
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.grid(axis="y", color="#e6e8ec", linewidth=0.8)


def draw_faithfulness(curves: Curves | None, sanity: Mapping[str, Sanity], title: str) -> Picture:
    """Draw deletion and insertion curves of each map and of the controls, and the sanity checks of each map.

    Args:
        curves: None if the answer has no text.
        sanity: sanity checks by map.
        title: title of the chart.
    """
    figure = Figure(figsize=(17, 5.6), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    # The last axes have long labels, so equal widths would leave gaps.
    *panels, last = (figure.add_axes(box) for box in AXES_BOXES)
    for axes, kind in zip(panels, KINDS, strict=True):
        _curves(axes, curves, kind)
    _similarity(last, sanity)
    style: dict[str, Any] = {"frameon": False, "labelcolor": INK}
    left, right = (axes.get_legend_handles_labels() for axes in (panels[0], last))
    figure.legend(*left, loc="lower left", ncols=len(FILLS) + 1, bbox_to_anchor=(0.03, 0), **style)
    figure.legend(*right, loc="lower right", ncols=2, bbox_to_anchor=(0.99, 0), **style)
    return titled(pixels_of(canvas), title)


def _curves(axes: Axes, curves: Curves | None, kind: str) -> None:
    axes.set_title(KIND_TITLES[kind], loc="left", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
    change = "removed" if kind == "deletion" else "put back"
    axes.set_xlabel(f"share of the cells {change}, strongest first", color=GREY)
    axes.set_ylabel("log-probability of the answer, nats", color=GREY)
    if curves is None:
        axes.text(0.5, 0.5, "the answer has no text", ha="center", color=GREY, transform=axes.transAxes)
        return
    for n, name in enumerate(curves.names):
        color = COLORS[name] if name in CONTROLS else MAP_COLORS[n % len(MAP_COLORS)]
        for f, fill in enumerate(FILLS):
            values = curves.logprobs[n, KINDS.index(kind), f]
            axes.plot(
                curves.shares, values, FILL_STYLES[fill], color=color, linewidth=1.8, label=f"{name}, {fill} fill"
            )


def _similarity(axes: Axes, sanity: Mapping[str, Sanity]) -> None:
    axes.set_title("sanity: similarity to the unchanged map, the lower the better", loc="right", fontsize=11, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=GREY)
    labels: list[str] = []
    offset = 0.8 / (2 * max(1, len(sanity)))
    for i, (name, checks) in enumerate(sanity.items()):
        rows = [*checks.weights, checks.question, checks.picture]
        labels = [_short(row.label) for row in rows]
        for j, (figure, alpha) in enumerate((("rank_correlation", 1.0), ("ssim", 0.45))):
            color = MAP_COLORS[i % len(MAP_COLORS)]
            positions = np.arange(len(rows)) + (2 * i + j - len(sanity) + 0.5) * offset
            values = [np.nan if getattr(row, figure) is None else getattr(row, figure) for row in rows]
            measure = figure.replace("_", " ").replace("ssim", "SSIM")
            for position in positions[np.isnan(values)]:
                axes.text(0.03, position, "no map", va="center", color=GREY, fontsize=8)
            axes.barh(positions, values, height=0.9 * offset, color=color, alpha=alpha, label=f"{name}: {measure}")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(-1, 1)
    axes.set_xticks((-1, -0.5, 0, 0.5, 1))
    axes.axvline(0, color=INK, linewidth=0.9)


def _short(label: str) -> str:
    """Return a label without the text of the question, whose script matplotlib's font may lack."""
    return label.partition(":")[0]
