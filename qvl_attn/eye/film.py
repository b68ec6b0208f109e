"""The moving part of an encoder's look at a clip: heatmap.mp4, frames/ and timeline.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qvl_attn.drawing import Drawing
from qvl_attn.eye.result import Look
from qvl_attn.eye.timeline import draw_steps
from qvl_attn.film import Story
from qvl_attn.progress import Progress
from qvl_attn.reel import write_frames
from qvl_attn.store import write_png
from qvl_attn.types import HeatMap

# A share of a side: what is left out of a frame by less than this is not seen on a screen.
_BARELY = 0.002
_OVER = {"mean": "mean", "max": "maximum", "min": "minimum"}
Part = tuple[float, float, float, float]


def write_film(
    folder: Path, look: Look, heat: HeatMap, drawing: Drawing, captions: tuple[str, ...], progress: Progress
) -> tuple[list[str], list[str]]:
    """Draw a clip that an encoder looked at.

    A map is of the part of a frame that the encoder saw; the rest of the frame is faded, and a caption says so.

    Args:
        folder: where to.
        look: at one clip.
        heat: the map of each step, of one layer, with the clip's scale.
        drawing: how.
        captions: what the map is, for the foot of each frame.
        progress: told what is being done, how much of it is done, and of how much.

    Returns:
        The files that were written, and what the reader should know.
    """
    how = look.settings.clip
    told = story_of(look, heat, captions)
    files, notes = write_frames(folder, look.media, how.source_fps if how else None, told, drawing, progress)
    write_png(folder / "timeline.png", draw_steps(look, heat, f"{_maker(look)}: {asker(look, heat)}"))
    return [*files, "timeline.png"], notes


def story_of(look: Look, heat: HeatMap, captions: tuple[str, ...]) -> Story:
    """What the film of a look tells."""
    media, part = look.media, seen_part(look)
    steps = np.searchsorted(look.frames[:, 1], np.arange(len(media.frames)))
    return Story(
        heat=heat,
        times_s=media.sampled_s.tolist(),
        steps=steps.tolist(),
        question=f"{_maker(look)}: {asker(look, heat)}",
        answers=(),
        captions=captions if part is None else (*captions, _seen_words(part, media.size_px)),
        part=part,
    )


def asker(look: Look, heat: HeatMap) -> str:
    """Who asks in a map, to be read: `[CLS] in layer 11 of 12, mean of 12 heads`."""
    sight = look.sight
    if heat.query.startswith("at_"):
        x, y = look.settings.at[int(heat.query.removeprefix("at_")) - 1]
        who = f"the patch at {x:g},{y:g}"
    else:
        who = {"cls": "[CLS]", "patch": "the mean of all patches"}[heat.query]
    heads = f"{_OVER[look.settings.over]} of {sight.head_count} heads" if heat.heads == "all" else f"head {heat.heads}"
    layers = ",".join(str(layer) for layer in heat.layers)
    return f"{who} in layer {layers} of {sight.layer_count}, {heads}"


def seen_part(look: Look) -> Part | None:
    """The part of a frame that the encoder saw, xyxy in shares of its sides; None where that is all of it."""
    x0, y0 = look.sight.boxes_px[:, :2].min(axis=0)
    x1, y1 = look.sight.boxes_px[:, 2:].max(axis=0)
    width, height = look.media.size_px
    part = (float(x0 / width), float(y0 / height), float(x1 / width), float(y1 / height))
    return None if np.abs(np.subtract(part, (0, 0, 1, 1))).max() < _BARELY else part


def _seen_words(part: Part, size_px: tuple[int, int]) -> str:
    """What of a frame the encoder saw, to be read."""
    width, height = size_px
    x0, y0, x1, y1 = np.clip(part, 0, 1) * (width, height, width, height)
    if min(x0, y0) <= _BARELY and max(width - x1, height - y1) <= _BARELY:
        return f"the encoder sees all {width} x {height} px and a margin around them, which is not drawn"
    return f"the encoder sees {x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f} of {width} x {height} px; the rest is faded"


def _maker(look: Look) -> str:
    return f"{look.maker.family}, {look.maker.model}"
