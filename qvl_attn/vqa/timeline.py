"""What is a question's own in the timeline and in the frames of its clip: lines, captions and answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qvl_attn.attribution.heatmap import mean_over, over_chance
from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.attribution.selection import describe_heads, describe_layers
from qvl_attn.core.text import shortened
from qvl_attn.core.types import HeatMap
from qvl_attn.media.resize import Picture
from qvl_attn.render.charts import LINE, OTHER
from qvl_attn.render.video_frame import FrameOverlay
from qvl_attn.results import clip_export
from qvl_attn.results.clip_export import step_edges_s
from qvl_attn.results.timeline import AXIS, CAPTION, HEADLINE_COLOR, HEADLINE_WIDTH, Level, Line, timeline_page
from qvl_attn.vqa.record import VqaRecord

GROUPS = 4
GROUP_COLORS = ("#9db4c8", "#5f8fb0", LINE, "#16384f")
FRAMES_COLOR = OTHER
CAPTIONS = {
    "clip": CAPTION,
    "both": f"{CAPTION}; each frame alone, in a prompt of its own, relative to the mean of all frames",
    "frames": "each frame alone, in a prompt of its own: attention on vision, relative to the mean of all frames "
    "(dotted)",
    "windows": f"{CAPTION}; attention sums to one within each window: do not compare amounts across windows",
}


def lines(result: VqaRecord) -> list[Line]:
    """Return the lines of groups of layers, of the headline, and in mode `both` of the frames alone."""
    capture, grid = result.capture, result.capture.grids[0]
    rows, heads = result.query_rows(), result.headline.heads
    timeline = []
    headline = result.heatmap()
    for i, layers in enumerate(np.array_split(capture.layers, min(GROUPS, len(capture.layers)))):
        if tuple(layers.tolist()) == headline.layers and heads is None and not result.methods:
            continue
        values = mean_over(capture, layers.tolist(), None, rows).reshape(grid.shape)
        if values.any():
            label = describe_layers(layers.tolist())
            timeline.append(Line(label, over_chance(values), GROUP_COLORS[i]))
    parts = [f"method {headline.method}"] * bool(result.methods)
    parts += [describe_layers(headline.layers)] * bool(headline.layers)
    headline_label = f"headline: {', '.join(parts)}"
    if heads is not None and (not result.methods or METHODS[headline.method].heads):
        headline_label += f", heads {describe_heads(heads)}"
    timeline.append(Line(headline_label, over_chance(headline.values), HEADLINE_COLOR, HEADLINE_WIDTH))
    if result.pass_mode == "both":
        masses = np.array([frame_result.heatmap().vision_mass for frame_result in result.passes])
        label = "frames alone: attention on the frame, over their mean"
        timeline.append(Line(label, masses / masses.mean(), FRAMES_COLOR, times_s=result.media[0].sampled_s))
    return timeline


def draw_timeline(result: VqaRecord) -> Picture:
    """Draw the timeline with question and answers: (H, W, 3) uint8 RGB."""
    frames = result.pass_mode == "frames"
    return timeline_page(
        lines(result),
        step_edges_s(result.media[0], result.capture.grids[0].shape[0]),
        title=result.question,
        answer=result.mapped_answer or "(no answer)",
        caption=CAPTIONS[result.pass_mode],
        axis="attention on the frame ÷ mean" if frames else AXIS,
        level=Level("the mean") if frames else Level(),
        beneath=_answers(result) if result.passes else "",
    )


def _answers(result: VqaRecord) -> str:
    """Return the answer of each pass with its time."""
    answers, each = [], "each window" if result.pass_mode == "windows" else "each frame alone"
    for part in result.passes:
        answers.append(f"{part.media[0].time_label}: {shortened(part.answer.strip()) or '(no answer)'}")
    return f"{each}: " + " · ".join(answers)


def frame_overlay(result: VqaRecord, heat: HeatMap, captions: Sequence[str]) -> FrameOverlay:
    """Return the maps and texts to draw on the frames of a result's video."""
    answers = [result.mapped_answer] * len(result.media[0].frames)
    if result.pass_mode in ("frames", "both"):
        start, end = "(this frame alone) ", ""
        if result.pass_mode == "both":
            start, end = f"{shortened(answers[0])}   (this frame alone: ", ")"
        answers = [f"{start}{shortened(frame.mapped_answer.strip())}{end}" for frame in result.passes]
    elif result.pass_mode == "windows":
        answers = _window_answers(result)
    return clip_export.frame_overlay(result.media[0], heat, result.question, captions, answers)


def _window_answers(result: VqaRecord) -> list[str]:
    """Return for each sampled frame the answers of all windows that contain it."""
    facts = result.media[0].facts
    answers = []
    for number in facts.frame_indices:
        windows = [window for window in result.passes if number in window.media[0].facts.frame_indices]
        distinct = dict.fromkeys(window.mapped_answer.strip() for window in windows)
        answers.append("(its windows) " + " | ".join(shortened(answer) for answer in distinct))
    return answers
