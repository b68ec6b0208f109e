"""One frame of a clip with its heat map and the text beneath it.

Pure: arrays in, a uint8 RGB array out. A sampled frame shows the map of the step of tokens that it fed. A frame between
two sampled frames shows the map of the earlier one, or with `Drawing.smooth` a mix of both maps by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from qvl_attn.attribution import heatmap
from qvl_attn.core.text import compact, plain, times_uniform
from qvl_attn.core.types import Box, FloatArray, HeatMap, Scale
from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering, overlay
from qvl_attn.render.lettering import line_height_px
from qvl_attn.render.paper import ACCENT, GREY, INK, PAGE
from qvl_attn.render.style import Drawing, describe_drawing

GAP_PX = 8
# A narrower frame is centred on a page of this width, so that the text fits.
MIN_WIDTH_PX = 320


@dataclass(frozen=True, eq=False)
class FrameOverlay:
    """Heat map and text of a drawn clip.

    Attributes:
        heat: (t, h, w) the map of each step.
        times_s: (F,) time at which each sampled frame starts to be the current one, ascending (`Media.sampled_s`).
        steps: (F,) the step that each sampled frame fed.
        question: text of the first line.
        answers: (F,) the answer written while each sampled frame is the current one; empty without a question.
        captions: lines that describe the map; how it is drawn is added.
        visible_region: xyxy of the region that the map covers, in shares of the frame, clipped to the frame; the rest
            of the frame is faded. None for the whole frame.
    """

    heat: HeatMap
    times_s: Sequence[float]
    steps: Sequence[int]
    question: str
    answers: Sequence[str]
    captions: Sequence[str]
    visible_region: Box | None = None

    def __post_init__(self) -> None:
        if not len(self.times_s) == len(self.steps) > 0 or len(self.answers) not in (0, len(self.steps)):
            raise ValueError("want a step and an answer for each sampled frame")


@dataclass(frozen=True)
class _Moment:
    """The map at a point in time: two steps, the weight of the second, and the caption."""

    sample: int
    step: int
    next_step: int
    next_weight: float
    caption: str


class FrameRenderer:
    """Draws the frames of one clip.

    Args:
        frame_overlay: heat map and text.
        size_px: (width, height) of the clip, upright.
        drawing: drawing options.
    """

    def __init__(self, frame_overlay: FrameOverlay, size_px: tuple[int, int], drawing: Drawing) -> None:
        self.frame_overlay, self.drawing = frame_overlay, drawing
        self.picture_px = overlay.drawn_size_px(size_px, drawing)
        width, height = self.picture_px
        self._region = _region_px(frame_overlay.visible_region, self.picture_px)
        self._row_width = 2 * width + GAP_PX if drawing.side_by_side else width
        self._width = max(self._row_width, MIN_WIDTH_PX)
        self._text_px = max(15, round(self._width / 70))
        self._margin = round(0.7 * self._text_px)
        text_width = self._width - 2 * self._margin
        how = describe_drawing(drawing)
        self._captions = [*frame_overlay.captions, *([" · ".join(how)] if how else [])]
        wrapped = [lettering.wrap(line, text_width, self._text_px, max_lines=4) for line in self._captions]
        captions = [len(lines) for lines in wrapped]
        extra = text_width < 56 * self._text_px
        answer = [1 + extra for _ in frame_overlay.answers[:1]]
        self._line_counts = (1 + extra, *answer, 1 + extra, *captions, 1 + 2 * extra)
        band = sum(self._line_counts) * line_height_px(self._text_px) + 2 * self._margin
        self.size_px = (self._width + self._width % 2, (height + band) + (height + band) % 2)
        self._colors = lru_cache(4)(self._color_step)
        self._band = lru_cache(16)(self._draw_band)

    def draw(self, picture: Picture, time_s: float, *, sampled: bool) -> Picture:
        """Draw one frame.

        Args:
            picture: (H, W, 3) uint8 RGB of size `picture_px`.
            time_s: presentation time of the frame.
            sampled: whether the model saw this frame.

        Returns:
            (H, W, 3) uint8 RGB of size `size_px`, both sides even.
        """
        moment = self._moment(time_s, sampled)
        values, scale, colors, mask = (
            self._colors(moment.step) if moment.next_weight == 0 else self._color(self._mixed(moment))
        )
        if moment.next_weight:  # range of both maps: the text must not change while the maps are mixed
            values = self.frame_overlay.heat.values[[moment.step, moment.next_step]]
        band = self._band(moment.sample, moment.caption, float(values.min()), float(values.max()), scale)
        width, height = self.picture_px
        left, bottom = (self._width - self._row_width) // 2, height + band.shape[0]
        right = left + self._row_width
        page = np.empty((self.size_px[1], self.size_px[0], 3), np.uint8)
        page[bottom:], page[:, :left], page[:, right:] = PAGE, PAGE, PAGE
        if self.drawing.side_by_side:
            page[:height, left : left + width], page[:height, left + width : right - width] = picture, PAGE
        page[:height, right - width : right] = self._overlay_region(picture, colors, mask)
        page[height:bottom, : self._width] = band
        self._write_time(page[height:bottom, : self._width], time_s)
        return page

    def _overlay_region(self, picture: Picture, colors: Picture, mask: overlay.Mask | None) -> Picture:
        """Lay the colours over the visible region of a frame, and fade the rest."""
        if self.frame_overlay.visible_region is None:
            return overlay.overlay(picture, colors, self.drawing, mask)
        (x0, y0, x1, y1), (width, height) = self._region, self.picture_px
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        in_frame = slice(top, bottom), slice(left, right)
        in_region = slice(top - y0, bottom - y0), slice(left - x0, right - x0)
        page = overlay.faded(picture)
        page[in_frame] = overlay.overlay(
            picture[in_frame], colors[in_region], self.drawing, None if mask is None else mask[in_region]
        )
        return page

    def _moment(self, time_s: float, sampled: bool) -> _Moment:
        times, steps = self.frame_overlay.times_s, self.frame_overlay.steps
        i = max(0, int(np.searchsorted(times, time_s + 1e-6, side="right")) - 1)
        step, last = steps[i], len(times) - 1
        frame_label = f"sampled frame {i + 1} of {len(times)}"
        map_label = f"the map of step {step + 1} of {steps[-1] + 1}"
        if sampled:
            return _Moment(i, step, step, 0.0, f"{frame_label}: {map_label}")
        if i == last or not self.drawing.smooth:
            return _Moment(i, step, step, 0.0, f"after {frame_label}: still {map_label}")
        between, following = f"between sampled frames {i + 1} and {i + 2}", steps[i + 1]
        if following == step:
            return _Moment(i, step, step, 0.0, f"{between}: {map_label}, computed from both frames")
        next_weight = (time_s - times[i]) / (times[i + 1] - times[i])
        caption = f"{between}: the maps of steps {step + 1} and {following + 1} mixed by time"
        return _Moment(i, step, following, next_weight, caption)

    def _mixed(self, moment: _Moment) -> FloatArray:
        values = self.frame_overlay.heat.values
        weight = moment.next_weight
        mixed = (1 - weight) * values[moment.step] + weight * values[moment.next_step]
        return np.asarray(mixed, dtype=np.float32)

    def _color_step(self, step: int) -> tuple[FloatArray, Scale, Picture, overlay.Mask | None]:
        return self._color(self.frame_overlay.heat.values[step])

    def _color(self, values: FloatArray) -> tuple[FloatArray, Scale, Picture, overlay.Mask | None]:
        drawing = self.drawing
        scale = self.frame_overlay.heat.scale if drawing.clip_scale == "clip" else heatmap.percentile_scale([values])
        x0, y0, x1, y1 = self._region
        size_px = x1 - x0, y1 - y0
        colors = overlay.colorize(overlay.upsample(values, size_px, drawing), scale, drawing.colormap)
        mask = None
        if drawing.top_percent < 100:
            mask = overlay.cell_boxes(values >= self._threshold(values), size_px)
        return values, scale, colors, mask

    def _threshold(self, values: FloatArray) -> float:
        """Smallest value that is coloured, chosen over the clip's cells or over the frame's own."""
        cells = self.frame_overlay.heat.values if self.drawing.clip_scale == "clip" else values
        return overlay.top_threshold([cells], self.drawing.top_percent)

    def _draw_band(self, sample: int, caption: str, lowest: float, highest: float, scale: Scale) -> Picture:
        frame_overlay, size = self.frame_overlay, self._text_px
        uniform = frame_overlay.heat.uniform
        answers = [plain(frame_overlay.answers[sample]).strip()] if frame_overlay.answers else []
        scale_label = "one scale for the clip" if self.drawing.clip_scale == "clip" else "this frame's own scale"
        numbers = (
            f"here {compact(lowest)} to {compact(highest)} = {times_uniform(highest / uniform)} · {scale_label}: "
            f"0 to {compact(scale.high)} = {times_uniform(scale.high / uniform)}"
        )
        texts = (
            (frame_overlay.question, INK),
            *((answer or "(no answer)", ACCENT if answer else GREY) for answer in answers),
            (caption, GREY),
            *((line, GREY) for line in self._captions),
            (numbers, GREY),
        )
        height = sum(self._line_counts) * line_height_px(size) + 2 * self._margin
        band = Image.new("RGB", (self._width, height), PAGE)
        width, y = self._width - 2 * self._margin, self._margin
        bar = self._bar()
        for i, ((text, color), lines) in enumerate(zip(texts, self._line_counts, strict=True)):
            line_width = width - 5 * size if i == 0 else width - bar.shape[1] - size if i == len(texts) - 1 else width
            wrapped = lettering.wrap(text, line_width, size, max_lines=lines)
            left = self._margin + (width - line_width if i == len(texts) - 1 else 0)
            lettering.draw_lines(band, (left, y), wrapped, size, color)
            if i == len(texts) - 1:
                band.paste(Image.fromarray(bar), (self._margin, y + round(0.25 * size)))
            y += lines * line_height_px(size)
        return np.asarray(band)

    def _bar(self) -> Picture:
        bar = overlay.colorbar(6 * self._text_px, round(0.8 * self._text_px), self.drawing.colormap)
        return np.ascontiguousarray(np.rot90(bar, -1))

    def _write_time(self, band: Picture, time_s: float) -> None:
        label = np.concatenate([_draw_character(char, self._text_px) for char in f"{time_s:.2f} s"], axis=1)
        height, width, _ = label.shape
        left, top = self._width - self._margin - width, self._margin
        band[top : top + height, left : left + width] = label


def _region_px(region: Box | None, size_px: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the xyxy box of a region of a picture of (width, height); at least one pixel of it is in the picture."""
    if region is None:
        return 0, 0, *size_px
    (x0, x1), (y0, y1) = (
        (min(round(region[i] * side), side - 1), max(round(region[i + 2] * side), 1)) for i, side in enumerate(size_px)
    )
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


@lru_cache(64)
def _draw_character(char: str, size_px: int) -> Picture:
    """Draw one character of a time. Times differ between frames, so single characters are cached."""
    label = Image.new("RGB", (round(lettering.measure(char, size_px)) or 1, line_height_px(size_px)), PAGE)
    lettering.draw_lines(label, (0, 0), [char], size_px, INK)
    return np.asarray(label)
