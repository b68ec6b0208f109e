"""The moving part of an encoder's look at a clip: heatmap.mp4, frames/ and timeline.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qvl_attn.core.files import write_png
from qvl_attn.core.runtime import Progress
from qvl_attn.core.types import HeatMap
from qvl_attn.encoders.captions import asks, heads_words, layer_words, maker_words, share_words
from qvl_attn.encoders.record import Look
from qvl_attn.encoders.seen import seen_box_px, seen_words
from qvl_attn.encoders.timeline import draw_steps
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import Story
from qvl_attn.results.clip_export import write_frames

Part = tuple[float, float, float, float]


def write_film(
    folder: Path, look: Look, heat: HeatMap, drawing: Drawing, captions: tuple[str, ...], progress: Progress
) -> tuple[list[str], list[str]]:
    """Draw a clip that an encoder looked at.

    A map is drawn on the part of a frame that the encoder saw; the rest of the frame is faded, and a caption says so.

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
    write_png(folder / "timeline.png", draw_steps(look, heat, f"{maker_words(look)} · {asked(look, heat)}"))
    return [*files, "timeline.png"], notes


def story_of(look: Look, heat: HeatMap, captions: tuple[str, ...]) -> Story:
    """What the film of a look tells."""
    media, part = look.media, seen_part(look)
    steps = np.searchsorted(look.frames[:, 1], np.arange(len(media.frames)))
    return Story(
        heat=heat,
        times_s=media.sampled_s.tolist(),
        steps=steps.tolist(),
        question=asked(look, heat),
        answers=(),
        captions=(share_words(look.sight, heat.query, heat.layers[0], look.settings.over), *captions, *_of_part(part)),
        part=part,
    )


def asked(look: Look, heat: HeatMap) -> str:
    """Who asks in a map, in which layer, and how heads are joined."""
    sight = look.sight
    return f"{asks(look, heat.query)} · {layer_words(sight, heat.layers[0])} · {heads_words(sight, look.settings.over)}"


def seen_part(look: Look) -> Part | None:
    """The part of a frame that the encoder saw, xyxy in shares of its sides; None where that is all of it."""
    if seen_words(look) is None:
        return None
    (x0, y0, x1, y1), (width, height) = seen_box_px(look.sight), look.media.size_px
    return x0 / width, y0 / height, x1 / width, y1 / height


def _of_part(part: Part | None) -> list[str]:
    """What is drawn of a part, to be read."""
    if part is None:
        return []
    faded = "what the encoder does not see is faded" if max(*part[:2], 1 - part[2], 1 - part[3]) > 0 else ""
    cut = "what it sees beyond the frame is not drawn" if min(*part[:2], 1 - part[2], 1 - part[3]) < 0 else ""
    return ["; ".join(filter(None, (faded, cut)))]
