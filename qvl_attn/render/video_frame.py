"""One frame of a clip with its heat map: which map it shows, and what is written beneath it.

Pure: arrays in, a uint8 RGB array out. A sampled frame shows the map of the step of tokens that it fed. A frame between
two sampled ones shows the map of the one before it, or with `Drawing.smooth` the maps of both mixed by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from qvl_attn.attribution import heatmap
from qvl_attn.core.text import compact, plain, times_uniform
from qvl_attn.core.types import FloatArray, HeatMap, Scale
from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering, overlay
from qvl_attn.render.layout import ACCENT, GREY, INK, PAGE
from qvl_attn.render.lettering import line_height_px
from qvl_attn.render.style import Drawing

GAP_PX = 8
# Narrower frames stand in the middle of a page on which the words have room.
LEAST_WIDTH_PX = 320


@dataclass(frozen=True, eq=False)
class FrameOverlay:
    """What a film tells, the same on all frames but where a sampled frame has its own.

    Attributes:
        heat: (t, h, w) the map of each step.
        times_s: (F,) from when on each sampled frame stands for its moment, ascending (`Media.sampled_s`).
        steps: (F,) the step that each sampled frame fed.
        question: as it was asked.
        answers: (F,) the answer to be written while a sampled frame is shown; none where nothing was asked.
        captions: what the map is, a line each.
        part: xyxy shares of the frame that the map is of, the rest being faded; None for the whole frame. What of it
            lies outside the frame is not drawn.
    """

    heat: HeatMap
    times_s: Sequence[float]
    steps: Sequence[int]
    question: str
    answers: Sequence[str]
    captions: Sequence[str]
    part: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        if not len(self.times_s) == len(self.steps) > 0 or len(self.answers) not in (0, len(self.steps)):
            raise ValueError("want a step and an answer for each sampled frame")


@dataclass(frozen=True)
class _Moment:
    """What is shown at a time: maps of two steps, how much of the second, and what is said about it."""

    sample: int
    step: int
    next_step: int
    share: float
    said: str


class FrameRenderer:
    """Draws the frames of one clip.

    Args:
        story: what it tells.
        size_px: (width, height) of the clip, upright.
        drawing: how.
    """

    def __init__(self, overlay_text: FrameOverlay, size_px: tuple[int, int], drawing: Drawing) -> None:
        self.overlay_text, self.drawing = overlay_text, drawing
        self.picture_px = overlay.drawn_size_px(size_px, drawing)
        width, height = self.picture_px
        self._box = _box_px(overlay_text.part, self.picture_px)
        self._row = 2 * width + GAP_PX if drawing.side_by_side else width
        self._width = max(self._row, LEAST_WIDTH_PX)
        self._text_px = max(15, round(self._width / 70))
        self._margin = round(0.7 * self._text_px)
        room = self._width - 2 * self._margin
        captions = [len(lettering.wrap(line, room, self._text_px, max_lines=4)) for line in overlay_text.captions]
        more = room < 56 * self._text_px
        self._lines = (1 + more, *(1 + more for _ in overlay_text.answers[:1]), 1 + more, *captions, 1 + 2 * more)
        band = sum(self._lines) * line_height_px(self._text_px) + 2 * self._margin
        self.size_px = (self._width + self._width % 2, (height + band) + (height + band) % 2)
        self._colors = lru_cache(4)(self._color_step)
        self._band = lru_cache(16)(self._draw_band)

    def draw(self, picture: Picture, time_s: float, *, sampled: bool) -> Picture:
        """Draw one frame.

        Args:
            picture: (H, W, 3) uint8 RGB of size `picture_px`.
            time_s: when it is shown.
            sampled: whether the model saw this frame.

        Returns:
            (H, W, 3) uint8 RGB of size `size_px`, both sides even.
        """
        moment = self._moment(time_s, sampled)
        values, scale, colors, mask = (
            self._colors(moment.step) if moment.share == 0 else self._color(self._mixed(moment))
        )
        if moment.share:  # of both, so that the words stay the same while the maps are mixed
            values = self.overlay_text.heat.values[[moment.step, moment.next_step]]
        band = self._band(moment.sample, moment.said, float(values.min()), float(values.max()), scale)
        width, height = self.picture_px
        left, bottom = (self._width - self._row) // 2, height + band.shape[0]
        right = left + self._row
        page = np.empty((self.size_px[1], self.size_px[0], 3), np.uint8)
        page[bottom:], page[:, :left], page[:, right:] = PAGE, PAGE, PAGE
        if self.drawing.side_by_side:
            page[:height, left : left + width], page[:height, left + width : right - width] = picture, PAGE
        page[:height, right - width : right] = self._laid(picture, colors, mask)
        page[height:bottom, : self._width] = band
        self._write_time(page[height:bottom, : self._width], time_s)
        return page

    def _laid(self, picture: Picture, colors: Picture, mask: overlay.Mask | None) -> Picture:
        """The colours over the part of a frame that they are of."""
        if self.overlay_text.part is None:
            return overlay.overlay(picture, colors, self.drawing, mask)
        (x0, y0, x1, y1), (width, height) = self._box, self.picture_px
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        seen = slice(top, bottom), slice(left, right)
        of_box = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
        page = overlay.faded(picture)
        page[seen] = overlay.overlay(
            picture[seen], colors[of_box], self.drawing, None if mask is None else mask[of_box]
        )
        return page

    def _moment(self, time_s: float, sampled: bool) -> _Moment:
        times, steps = self.overlay_text.times_s, self.overlay_text.steps
        i = max(0, int(np.searchsorted(times, time_s + 1e-6, side="right")) - 1)
        step, last = steps[i], len(times) - 1
        which, what = f"sampled frame {i + 1} of {len(times)}", f"the map of step {step + 1} of {steps[-1] + 1}"
        if sampled:
            return _Moment(i, step, step, 0.0, f"{which}: {what}")
        if i == last or not self.drawing.smooth:
            return _Moment(i, step, step, 0.0, f"after {which}: still {what}")
        between, following = f"between sampled frames {i + 1} and {i + 2}", steps[i + 1]
        if following == step:
            return _Moment(i, step, step, 0.0, f"{between}: {what}, which both fed")
        share = (time_s - times[i]) / (times[i + 1] - times[i])
        said = f"{between}: the maps of steps {step + 1} and {following + 1} mixed by time"
        return _Moment(i, step, following, share, said)

    def _mixed(self, moment: _Moment) -> FloatArray:
        values = self.overlay_text.heat.values
        mixed = (1 - moment.share) * values[moment.step] + moment.share * values[moment.next_step]
        return np.asarray(mixed, dtype=np.float32)

    def _color_step(self, step: int) -> tuple[FloatArray, Scale, Picture, overlay.Mask | None]:
        return self._color(self.overlay_text.heat.values[step])

    def _color(self, values: FloatArray) -> tuple[FloatArray, Scale, Picture, overlay.Mask | None]:
        drawing = self.drawing
        scale = self.overlay_text.heat.scale if drawing.clip_scale == "clip" else heatmap.percentile_scale([values])
        x0, y0, x1, y1 = self._box
        size_px = x1 - x0, y1 - y0
        colors = overlay.colorize(overlay.upsample(values, size_px, drawing), scale, drawing.colormap)
        mask = None
        if drawing.top_percent < 100:
            mask = overlay.cell_boxes(values >= self._threshold(values), size_px)
        return values, scale, colors, mask

    def _threshold(self, values: FloatArray) -> float:
        """The weakest value that is still coloured: of the clip's cells, or of the frame's own."""
        whole = self.overlay_text.heat.values if self.drawing.clip_scale == "clip" else values
        return overlay.top_threshold([whole], self.drawing.top_percent)

    def _draw_band(self, sample: int, said: str, lowest: float, highest: float, scale: Scale) -> Picture:
        overlay_text, size = self.overlay_text, self._text_px
        uniform = overlay_text.heat.uniform
        answers = [plain(overlay_text.answers[sample]).strip()] if overlay_text.answers else []
        share = "one scale for the clip" if self.drawing.clip_scale == "clip" else "this frame's own scale"
        numbers = (
            f"here {compact(lowest)} to {compact(highest)} = {times_uniform(highest / uniform)} · {share}: "
            f"0 to {compact(scale.high)} = {times_uniform(scale.high / uniform)}"
        )
        texts = (
            (overlay_text.question, INK),
            *((answer or "(no answer)", ACCENT if answer else GREY) for answer in answers),
            (said, GREY),
            *((line, GREY) for line in overlay_text.captions),
            (numbers, GREY),
        )
        height = sum(self._lines) * line_height_px(size) + 2 * self._margin
        band = Image.new("RGB", (self._width, height), PAGE)
        width, y = self._width - 2 * self._margin, self._margin
        bar = self._bar()
        for i, ((text, color), lines) in enumerate(zip(texts, self._lines, strict=True)):
            room = width - 5 * size if i == 0 else width - bar.shape[1] - size if i == len(texts) - 1 else width
            wrapped = lettering.wrap(text, room, size, max_lines=lines)
            left = self._margin + (width - room if i == len(texts) - 1 else 0)
            lettering.draw_lines(band, (left, y), wrapped, size, color)
            if i == len(texts) - 1:
                band.paste(Image.fromarray(bar), (self._margin, y + round(0.25 * size)))
            y += lines * line_height_px(size)
        return np.asarray(band)

    def _bar(self) -> Picture:
        bar = overlay.colorbar(6 * self._text_px, round(0.8 * self._text_px), self.drawing.colormap)
        return np.ascontiguousarray(np.rot90(bar, -1))

    def _write_time(self, band: Picture, time_s: float) -> None:
        label = np.concatenate([_letter(letter, self._text_px) for letter in f"{time_s:.2f} s"], axis=1)
        height, width, _ = label.shape
        left, top = self._width - self._margin - width, self._margin
        band[top : top + height, left : left + width] = label


def _box_px(part: tuple[float, float, float, float] | None, size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a part of a picture of (width, height) is drawn, xyxy; at least one pixel of it in the picture."""
    if part is None:
        return 0, 0, *size_px
    (x0, x1), (y0, y1) = (
        (min(round(part[i] * side), side - 1), max(round(part[i + 2] * side), 1)) for i, side in enumerate(size_px)
    )
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


@lru_cache(64)
def _letter(letter: str, size_px: int) -> Picture:
    """One letter of a time, which is another on every frame."""
    label = Image.new("RGB", (round(lettering.measure(letter, size_px)) or 1, line_height_px(size_px)), PAGE)
    lettering.draw_lines(label, (0, 0), [letter], size_px, INK)
    return np.asarray(label)
