"""The timeline of a clip: attention on each step, relative to a uniform map, as data and as a chart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from qvl_attn.attribution.heatmap import mean_over, over_chance
from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.attribution.selection import describe_heads, describe_layers
from qvl_attn.core.text import shortened
from qvl_attn.core.types import HeatMap
from qvl_attn.media.resize import Picture
from qvl_attn.model.token_grid import frames_per_step
from qvl_attn.render import lettering
from qvl_attn.render.layout import ACCENT, GREY, INK, LABEL_PX, PAGE, TITLE_PX
from qvl_attn.render.lettering import line_height_px
from qvl_attn.render.video_frame import FrameOverlay
from qvl_attn.results.clip_export import step_edges_s
from qvl_attn.vqa.record import VqaRecord

WIDTH_PX, CHART_HEIGHT_PX, MARGIN_PX, DPI = 1500, 640, 48, 100
GROUPS = 4
GROUP_COLORS = ("#9db4c8", "#5f8fb0", "#2f6690", "#16384f")
HEADLINE_COLOR, FRAMES_COLOR, CHANCE_COLOR = "#be3e14", "#3c8d5a", "#686d77"


CAPTIONS = {
    "clip": "attention on each step, relative to a uniform map (dotted)",
    "both": "attention on each step, relative to a uniform map (dotted); each frame alone, in a prompt of its own, "
    "relative to the mean of all frames",
    "frames": "each frame alone, in a prompt of its own: attention on vision, relative to the mean of all frames "
    "(dotted)",
    "windows": "attention on each step, relative to a uniform map (dotted); attention sums to one within each window: "
    "do not compare amounts across windows",
}


@dataclass(frozen=True, eq=False)
class Line:
    """A line of a timeline: (N,) times in seconds, and (N,) attention relative to a uniform map (1 is uniform)."""

    label: str
    times_s: NDArray[np.float64]
    over_chance: NDArray[np.float64]
    color: str


def lines(result: VqaRecord) -> list[Line]:
    """Return the lines of groups of layers, of the headline, and in mode `both` of the frames alone."""
    capture, grid = result.capture, result.capture.grids[0]
    starts = step_edges_s(result.media[0], grid.shape[0])[:-1]
    rows, heads = result.query_rows(), result.headline.heads
    timeline = []
    headline = result.heatmap()
    for i, layers in enumerate(np.array_split(capture.layers, min(GROUPS, len(capture.layers)))):
        if tuple(layers.tolist()) == headline.layers and heads is None and not result.methods:
            continue
        values = mean_over(capture, layers.tolist(), None, rows).reshape(grid.shape)
        if values.any():
            label = describe_layers(layers.tolist())
            timeline.append(Line(label, starts, over_chance(values), GROUP_COLORS[i]))
    parts = [f"method {headline.method}"] * bool(result.methods)
    parts += [describe_layers(headline.layers)] * bool(headline.layers)
    headline_label = f"headline: {', '.join(parts)}"
    if heads is not None and (not result.methods or METHODS[headline.method].heads):
        headline_label += f", heads {describe_heads(heads)}"
    timeline.append(Line(headline_label, starts, over_chance(headline.values), HEADLINE_COLOR))
    if result.pass_mode == "both":
        masses = np.array([frame_result.heatmap().vision_mass for frame_result in result.passes])
        label = "frames alone: attention on the frame, over their mean"
        timeline.append(Line(label, result.media[0].sampled_s, masses / masses.mean(), FRAMES_COLOR))
    return timeline


def draw_timeline(result: VqaRecord) -> Picture:
    """Draw the timeline with question and answers: (H, W, 3) uint8 RGB."""
    width = WIDTH_PX - 2 * MARGIN_PX
    caption = CAPTIONS[result.pass_mode]
    above = [
        (lettering.wrap(result.question, width, TITLE_PX, max_lines=2), TITLE_PX, INK),
        (lettering.wrap(result.mapped_answer or "(no answer)", width, TITLE_PX, max_lines=2), TITLE_PX, ACCENT),
        (lettering.wrap(caption, width, LABEL_PX, max_lines=2), LABEL_PX, GREY),
    ]
    beneath = lettering.wrap(_answers(result), width, LABEL_PX, max_lines=12) if result.passes else []
    top = MARGIN_PX + sum(len(texts) * line_height_px(size) for texts, size, _ in above)
    height = top + CHART_HEIGHT_PX + len(beneath) * line_height_px(LABEL_PX) + MARGIN_PX
    page = Image.new("RGB", (WIDTH_PX, height), PAGE)
    y = MARGIN_PX
    for texts, size, color in above:
        y += lettering.draw_lines(page, (MARGIN_PX, y), texts, size, color)
    page.paste(Image.fromarray(_chart(result)), (0, top))
    lettering.draw_lines(page, (MARGIN_PX, top + CHART_HEIGHT_PX), beneath, LABEL_PX, GREY)
    return np.asarray(page)


def _answers(result: VqaRecord) -> str:
    """Return the answer of each pass with its time."""
    answers, each = [], "each window" if result.pass_mode == "windows" else "each frame alone"
    for part in result.passes:
        answers.append(f"{part.media[0].time_label}: {shortened(part.answer.strip()) or '(no answer)'}")
    return f"{each}: " + " · ".join(answers)


def _chart(result: VqaRecord) -> Picture:
    edges = step_edges_s(result.media[0], result.capture.grids[0].shape[0])
    figure = Figure(figsize=(WIDTH_PX / DPI, CHART_HEIGHT_PX / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.062, 0.115, 0.62, 0.84))
    for line in lines(result):
        if line.color != FRAMES_COLOR:
            width = 3.2 if line.color == HEADLINE_COLOR else 1.8
            axes.stairs(line.over_chance, edges, baseline=None, color=line.color, linewidth=width, label=line.label)
        else:
            axes.plot(line.times_s, line.over_chance, "o", color=line.color, label=line.label)
    level = "the mean" if result.pass_mode == "frames" else "a uniform map"
    axes.axhline(1, color=CHANCE_COLOR, linewidth=1.2, linestyle=":", label=level)
    axes.set_xlim(float(edges[0]), float(edges[-1]))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel(
        "attention on the frame ÷ mean" if result.pass_mode == "frames" else "attention on the step ÷ uniform"
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(0.695, 0.96), frameon=False)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def frame_overlay(result: VqaRecord, heat: HeatMap, captions: tuple[str, ...]) -> FrameOverlay:
    """Return the maps and texts to draw on the frames of a result's video."""
    media, grid = result.media[0], result.capture.grids[0]
    count = len(media.frames)
    per_step = frames_per_step(count, grid.shape[0])
    answers = [result.mapped_answer] * count
    if result.pass_mode in ("frames", "both"):
        start, end = "(this frame alone) ", ""
        if result.pass_mode == "both":
            start, end = f"{shortened(answers[0])}   (this frame alone: ", ")"
        answers = [f"{start}{shortened(frame.mapped_answer.strip())}{end}" for frame in result.passes]
    elif result.pass_mode == "windows":
        answers = _window_answers(result)
    steps = [i // per_step for i in range(count)]
    return FrameOverlay(heat, media.sampled_s.tolist(), steps, result.question, answers, captions)


def _window_answers(result: VqaRecord) -> list[str]:
    """Return for each sampled frame the answers of all windows that contain it."""
    facts = result.media[0].facts
    answers = []
    for number in facts.frame_indices:
        windows = [window for window in result.passes if number in window.media[0].facts.frame_indices]
        distinct = dict.fromkeys(window.mapped_answer.strip() for window in windows)
        answers.append("(its windows) " + " | ".join(shortened(answer) for answer in distinct))
    return answers
