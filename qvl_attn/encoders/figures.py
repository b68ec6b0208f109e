"""The pictures of an encoder's result: headline, sheets of layers and of heads, single layers, saliency.

Of a clip a few steps are drawn side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.files import slug
from qvl_attn.core.text import argument
from qvl_attn.core.types import FloatArray, HeatMap
from qvl_attn.encoders.attention import join_heads
from qvl_attn.encoders.captions import (
    describe_input,
    describe_joining,
    describe_layer,
    describe_prefix,
    describe_provenance,
    describe_query,
    describe_share,
    describe_visible_region,
    foot_lines,
    format_share,
    kind_lines,
    layer_name,
    map_title,
    visible_picture,
    visible_size_px,
)
from qvl_attn.encoders.embedding_figures import embedding_images
from qvl_attn.encoders.input_figures import draw_grid, draw_reconstruction, mark_patch
from qvl_attn.encoders.record import EncoderRecord, SaliencyMap
from qvl_attn.media.resize import Picture, fit_px, resize_picture
from qvl_attn.render.layout import (
    LEAST_STEP_PX,
    MAX_ROW_PX,
    ROW_SCALE,
    Panel,
    drawn_steps,
    filtered,
    headline,
    on_one_scale,
    sheet,
)
from qvl_attn.render.lettering import undrawable
from qvl_attn.render.overlay import drawn_size_px
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay

NamedPictures = Iterator[tuple[str, Callable[[], Picture]]]
OWN, SHARED = "drawn on its own scale", "drawn on one scale for all layers"


@dataclass(frozen=True, eq=False)
class DrawnEncoderResult:
    """The pictures of an encoder's result, each drawn on demand.

    Attributes:
        record: the result.
        drawing: size, colours, scale and filters.
        notes: notes for the reader of the pictures, a line each.
    """

    record: EncoderRecord
    drawing: Drawing
    notes: tuple[str, ...]

    def images(self) -> NamedPictures:
        """Yield names relative to the folder, each with a thread-safe function that draws it: (H, W, 3) uint8 RGB."""
        record, attention = self.record, self.record.attention
        if not self._is_clip:
            yield "picture_1.png", self._original
        yield "overlay.png", self.overlay
        yield "grid.png", partial(draw_grid, record, self.drawing)
        yield "turned_back.png", partial(draw_reconstruction, record)
        yield "figures.png", self._statistics
        steps = self.steps
        pictures = self._pictures(steps)
        for query in attention.queries:
            yield from self._layers(query, pictures, steps)
            yield from self._heads(query, pictures, steps)
        yield from self._saliency()
        yield from embedding_images(record, self.drawing)
        for step, picture in enumerate(record.reconstruction):
            yield reconstruction_file(step), partial(np.asarray, picture)

    def overlay(self) -> Picture:
        """Draw the headline: the last layer's map of [CLS], or without [CLS] of the mean over all patches.

        Raises:
            CaptureError: a filter leaves nothing of it.
        """
        record, query = self.record, self.headline_query
        steps, last = self.steps, record.attention.layer_count - 1
        panels = self._layer_panels(query, [last], steps)
        if not panels:
            raise CaptureError(f"{argument('denoise', self.drawing.denoise)} leaves nothing of layer {last}")
        return self._large_layer(self._pictures(steps), panels[0], query, OWN, steps, ROW_SCALE)

    def frame_overlay(self) -> FrameOverlay:
        """Return the maps and texts for the frames of a clip's video."""
        from qvl_attn.encoders.timeline import frame_overlay  # loads matplotlib

        return frame_overlay(self.record, self.headline[0], self.foot)

    def timeline(self) -> Picture:
        """Draw the timeline of a clip: (H, W, 3) uint8 RGB."""
        from qvl_attn.encoders.timeline import draw_timeline  # loads matplotlib

        return draw_timeline(self.record, self.headline[0])

    @property
    def headline(self) -> tuple[HeatMap, ...]:
        """Return the headline's map of every step, on one scale.

        Raises:
            CaptureError: a filter leaves nothing of it.
        """
        query, last = self.headline_query, self.record.attention.layer_count - 1
        return (self._filtered(self.record.attention.map(query, last, self.record.settings.over), query, last),)

    @property
    def foot(self) -> tuple[str, ...]:
        """Return the caption beneath every picture."""
        return tuple(foot_lines(self.record, self.headline_query, self.record.attention.layer_count - 1))

    @property
    def headline_query(self) -> str:
        """Return the query of the headline."""
        return self.record.attention.queries[0]

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the steps of a clip that are drawn side by side; for a picture its only one."""
        attention = self.record.attention
        return drawn_steps(attention.map(self.headline_query, attention.layer_count - 1, self.record.settings.over))

    @property
    def _is_clip(self) -> bool:
        return self.record.media[0].clip is not None

    def _original(self) -> Picture:
        media = self.record.media[0]
        return resize_picture(media.frames[0], drawn_size_px(media.size_px, self.drawing))

    def _statistics(self) -> Picture:
        from qvl_attn.encoders.charts import draw_statistics  # loads matplotlib

        return draw_statistics(self.record)

    def _pictures(self, steps: Sequence[int]) -> list[Picture]:
        """Return the visible part of the picture, or of the first frame of some steps of a clip."""
        visible_px = visible_size_px(self.record.attention)
        size_px = drawn_size_px(visible_px, self.drawing)
        if self._is_clip:
            longest = min(max(size_px), max(LEAST_STEP_PX, ROW_SCALE * max(size_px) // len(steps)))
            size_px = fit_px(visible_px, longest)
        return [visible_picture(self.record, step, size_px) for step in steps]

    def _layers(self, query: str, pictures: list[Picture], steps: Sequence[int]) -> NamedPictures:
        record, attention = self.record, self.record.attention
        layers = range(attention.layer_count)
        own = self._layer_panels(query, layers, steps)
        if not own:
            return
        shared = on_one_scale(own)
        title = f"{describe_query(record, query)} · {describe_joining(attention, record.settings.over)}"
        for name, panels, scale in (
            ("layers", own, "each on its own scale"),
            ("layers_shared", shared, "all on one scale"),
        ):
            lines = [
                title,
                f"a layer at a time, {scale}",
                *kind_lines(attention, query),
                *self._sheet_lines(query, steps),
            ]
            yield f"{query}/{name}.png", partial(sheet, pictures, panels, title_lines=lines, drawing=self.drawing)
        large, scale = (shared, SHARED) if self.drawing.scale == "shared" else (own, OWN)
        for panel in large:
            (layer,) = panel.maps[0].layers
            draw = partial(self._large_layer, pictures, panel, query, scale, steps)
            yield f"{query}/layers/layer_{layer:02d}.png", draw

    def _heads(self, query: str, pictures: list[Picture], steps: Sequence[int]) -> NamedPictures:
        record, attention, layer = self.record, self.record.attention, self.record.head_layer
        heads = attention.maps(query)[layer]
        shares = attention.patch_share(query)[layer]
        values = {
            f"head {i}{self._share(share)}": head for i, (head, share) in enumerate(zip(heads, shares, strict=True))
        }
        values |= {f"mean{self._share(shares.mean())}": join_heads(heads, "mean")}
        values |= {"maximum": join_heads(heads, "max"), "minimum": join_heads(heads, "min")}
        own = [panel for name, head in values.items() for panel in self._panels(name, head, query, layer, steps)]
        if not own:
            return
        title = f"{describe_query(record, query)} · {describe_layer(attention, layer)} · head by head"
        for name, panels, scale in (
            ("heads", own, "each on its own scale"),
            ("heads_shared", on_one_scale(own), "all on one scale"),
        ):
            lines = [title, f"every head and the mean, maximum and minimum over them, {scale}"]
            lines += [describe_share(attention, query, layer, "mean"), *self._sheet_lines(query, steps, layer)]
            yield f"{query}/{name}.png", partial(sheet, pictures, panels, title_lines=lines, drawing=self.drawing)

    def _sheet_lines(self, query: str, steps: Sequence[int], layer: int | None = None) -> list[str]:
        attention = self.record.attention
        prefix = describe_prefix(attention)
        lines = [f"%: the share of the attention that is on patches; the rest is on {prefix}"] if prefix else []
        return [*lines, *foot_lines(self.record, query, layer), *self._step_lines(steps)]

    def _layer_panels(self, query: str, layers: Sequence[int], steps: Sequence[int]) -> list[Panel]:
        """Return a panel for each layer, except those of which a filter leaves nothing."""
        attention, over = self.record.attention, self.record.settings.over
        shares = attention.patch_share(query).mean(axis=1)
        panels = []
        for layer in layers:
            label = f"{layer_name(attention, layer)}{self._share(shares[layer])}"
            panels += self._panels(label, attention.map(query, layer, over), query, layer, steps)
        return panels

    def _share(self, share: np.floating[Any]) -> str:
        return f" · {format_share(float(share))}" if self.record.attention.prefix else ""

    def _panels(self, label: str, values: FloatArray, query: str, layer: int, steps: Sequence[int]) -> list[Panel]:
        """Return the panel of a (t, h, w) map; none if a filter leaves nothing of it."""
        try:
            heat = self._filtered(values, query, layer)
        except CaptureError:
            return []
        return [Panel(label, _split_steps(heat, steps), self._marks(query, len(steps)))]

    def _filtered(self, values: FloatArray, query: str, layer: int) -> HeatMap:
        """Return a (t, h, w) map as a heat map with the filters of the drawing."""
        heat = HeatMap(
            values=values,
            media_index=0,
            layers=(layer,),
            heads="all",
            query=query,
            queries=(),
            uniform=self.record.attention.uniform(query, layer),
            vision_mass=float(values.sum(axis=(1, 2)).mean()),
            scale=percentile_scale([values]),
        )
        (heat,) = filtered((heat,), self.drawing)
        return heat

    def _marks(self, query: str, count: int) -> tuple[Callable[[Picture], Picture], ...]:
        """Return the functions that outline the query patch in each of the pictures side by side."""
        if not query.startswith("at_"):
            return ()
        _, h, w = self.record.attention.grid
        place = int(self.record.attention.query_patches[int(query.removeprefix("at_")) - 1])
        return (partial(mark_patch, place=place, grid=(h, w)),) * count

    def _large_layer(
        self,
        pictures: Sequence[Picture],
        panel: Panel,
        query: str,
        scale: str,
        steps: Sequence[int],
        row_scale: int = 1,
    ) -> Picture:
        record, attention = self.record, self.record.attention
        (layer,) = panel.maps[0].layers
        lines = [scale, *foot_lines(record, query, layer), *self._step_lines(steps)]
        share = describe_share(attention, query, layer, record.settings.over)
        return self._large(pictures, panel, map_title(record, query, layer), share, lines, row_scale)

    def _large(
        self,
        pictures: Sequence[Picture],
        panel: Panel,
        title: str,
        description: str,
        lines: Sequence[str],
        row_scale: int = 1,
    ) -> Picture:
        drawing = self.drawing
        if self._is_clip and len(panel.maps) > 2:
            drawing = replace(drawing, draw_size_px=min(drawing.draw_size_px * row_scale, MAX_ROW_PX))
        return headline(
            pictures, replace(panel, label=""), question=title, answer=description, caption_lines=lines, drawing=drawing
        )

    def _step_lines(self, steps: Sequence[int]) -> list[str]:
        if not self._is_clip:
            return []
        record, count = self.record, self.record.attention.grid[0]
        labels = ", ".join(f"{step + 1} ({record.media[0].times_s[record.frames[step, 0]]:.2f} s)" for step in steps)
        subset = "" if len(steps) == count else "; minimum, maximum and cells are of these steps only"
        return [f"from left to right: step {labels} of {count}{subset}"]

    def _saliency(self) -> NamedPictures:
        for number, saliency in enumerate(self.record.saliency, 1):
            heat = saliency_heat_map(saliency, self.drawing)
            if heat is not None:
                name = f"saliency/{number:02d}_{saliency.method}_{slug(saliency.target)}.png"
                yield name, partial(self._draw_saliency, saliency, heat)

    def _draw_saliency(self, saliency: SaliencyMap, heat: HeatMap) -> Picture:
        record, steps = self.record, drawn_steps(heat.values)
        score = "cosine similarity" if saliency.target in record.settings.texts else "probability"
        part = describe_visible_region(record)
        lines = [
            f"{METHOD_WORDS[saliency.method]}: regions that raise the score, not attention · mean: of this map",
            f"{describe_provenance(record)} · {describe_input(record.attention)}",
            *([part] if part else []),
            *self._step_lines(steps),
        ]
        panel = Panel("", _split_steps(heat, steps), unit="mean")
        return self._large(self._pictures(steps), panel, saliency.target, f"{score} {saliency.score:.3f}", lines)


def reconstruction_file(step: int) -> str:
    """Return the file of the picture reconstructed from the encoder's input at a step."""
    return f"input/{step:06d}.png"


def _split_steps(heat: HeatMap, steps: Sequence[int]) -> tuple[HeatMap, ...]:
    """Return one map for each step that is drawn."""
    return tuple(replace(heat, values=heat.values[step : step + 1], media_index=i) for i, step in enumerate(steps))


def draw_encoder_result(record: EncoderRecord, drawing: Drawing) -> DrawnEncoderResult:
    """Prepare the pictures of an encoder's result."""
    media, part = record.media[0], describe_visible_region(record)
    notes = [f"{'clip' if media.clip else 'picture 1'}: {note}" for note in media.notes]
    stored_px, drawn_px = media.frames.shape[2], min(media.size_px[0], drawn_size_px(media.size_px, drawing)[0])
    if media.clip is None and stored_px < drawn_px:
        notes.append(f"picture 1 is stored {stored_px} pixels wide and drawn larger")
    notes += [part] if part else []
    notes += [
        f"no region raises the score of “{saliency.target}”: the map of {METHOD_WORDS[saliency.method]} is zero "
        f"everywhere{' after the filter' if saliency.values.any() else ''} and not drawn"
        for saliency in record.saliency
        if saliency_heat_map(saliency, drawing) is None
    ]
    missing = undrawable("".join([record.provenance.model, *(saliency.target for saliency in record.saliency)]))
    if missing:
        notes.append(
            f"no font on this machine has {missing!r}: the pictures mark where it is left out; install a font "
            "that has it (such as fonts-noto-cjk) or name one in QVL_ATTN_FONT"
        )
    return DrawnEncoderResult(record, drawing, tuple(notes))


METHOD_WORDS = {
    "gradcam": "Grad-CAM on the patch grid",
    "attention_gradient": "attention x gradient",
}


def saliency_heat_map(saliency: SaliencyMap, drawing: Drawing) -> HeatMap | None:
    """Return a saliency map as a heat map whose `uniform` is its mean; None if nothing of it is left to draw."""
    if not saliency.values.any():
        return None
    heat = HeatMap(
        values=saliency.values,
        media_index=0,
        layers=(),
        heads="all",
        query=saliency.target,
        queries=(),
        uniform=float(saliency.values.mean(dtype=np.float64)),
        vision_mass=0.0,
        scale=percentile_scale([saliency.values]),
        method=saliency.method,
    )
    try:
        (heat,) = filtered((heat,), drawing)
    except CaptureError:
        return None
    return replace(heat, uniform=float(heat.values.mean(dtype=np.float64)))
