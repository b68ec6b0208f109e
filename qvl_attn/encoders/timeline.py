"""What an encoder does over the time of a clip: figures of each step, and their picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qvl_attn.core.files import write_png
from qvl_attn.core.runtime import Progress
from qvl_attn.core.types import HeatMap
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
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay
from qvl_attn.results.clip_export import export_frames, step_edges_s

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


def lines(record: EncoderRecord, heat: HeatMap) -> tuple[Line, ...]:
    """The figures of each step, of the layers of a map.

    Each step's attention adds up to the same, so how much each gets says nothing here: how it is spread does. The
    distance and the entropy are means over the patches and over all heads, whatever the map is of.
    """
    layers = list(heat.layers)
    figures = statistics_of(record.attention)
    found = [Line(STRONGEST, heat.values.max(axis=(1, 2)).astype(np.float64) / heat.uniform, 1.0)]
    for name in NAMES[1:]:
        values = getattr(record.attention, name)[layers].mean(axis=(0, 1), dtype=np.float64)
        found.append(Line(f"{TITLES[name]}; mean of all heads", values, float(figures[name].chance[layers].mean())))
    return tuple(found)


def draw_steps(record: EncoderRecord, heat: HeatMap, title: str) -> Picture:
    """The picture of it, one figure beneath the other over the same seconds: (H, W, 3) uint8 RGB."""
    figure = Figure(figsize=SIZE_IN, dpi=DPI, facecolor="white")
    canvas, drawn = FigureCanvasAgg(figure), lines(record, heat)
    edges = step_edges_s(record.media, record.attention.grid[0])
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


Part = tuple[float, float, float, float]


def export_clip(
    folder: Path, record: EncoderRecord, heat: HeatMap, drawing: Drawing, captions: tuple[str, ...], progress: Progress
) -> tuple[list[str], list[str]]:
    """Draw a clip that an encoder looked at.

    A map is drawn on the part of a frame that the encoder saw; the rest of the frame is faded, and a caption says so.

    Args:
        folder: where to.
        record: at one clip.
        heat: the map of each step, of one layer, with the clip's scale.
        drawing: how.
        captions: what the map is, for the foot of each frame.
        progress: told what is being done, how much of it is done, and of how much.

    Returns:
        The files that were written, and what the reader should know.
    """
    how = record.settings.clip
    description = frame_overlay(record, heat, captions)
    files, notes = export_frames(folder, record.media, how.source_fps if how else None, description, drawing, progress)
    write_png(
        folder / "timeline.png", draw_steps(record, heat, f"{describe_provenance(record)} · {asked(record, heat)}")
    )
    return [*files, "timeline.png"], notes


def frame_overlay(record: EncoderRecord, heat: HeatMap, captions: tuple[str, ...]) -> FrameOverlay:
    """What the film of a look tells."""
    media, part = record.media, visible_part(record)
    steps = np.searchsorted(record.frames[:, 1], np.arange(len(media.frames)))
    return FrameOverlay(
        heat=heat,
        times_s=media.sampled_s.tolist(),
        steps=steps.tolist(),
        question=asked(record, heat),
        answers=(),
        captions=(
            describe_share(record.attention, heat.query, heat.layers[0], record.settings.over),
            *captions,
            *_of_part(part),
        ),
        visible_region=part,
    )


def asked(record: EncoderRecord, heat: HeatMap) -> str:
    """Who asks in a map, in which layer, and how heads are joined."""
    return map_title(record, heat.query, heat.layers[0])


def visible_part(record: EncoderRecord) -> Part | None:
    """The part of a frame that the encoder saw, xyxy in shares of its sides; None where that is all of it."""
    if describe_visible_region(record) is None:
        return None
    (x0, y0, x1, y1), (width, height) = visible_box_px(record.attention), record.media.size_px
    return x0 / width, y0 / height, x1 / width, y1 / height


def _of_part(part: Part | None) -> list[str]:
    """What is drawn of a part, to be read."""
    if part is None:
        return []
    faded = "what the encoder does not see is faded" if max(*part[:2], 1 - part[2], 1 - part[3]) > 0 else ""
    cut = "what it sees beyond the frame is not drawn" if min(*part[:2], 1 - part[2], 1 - part[3]) < 0 else ""
    return ["; ".join(filter(None, (faded, cut)))]
