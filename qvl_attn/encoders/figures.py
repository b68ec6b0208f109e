"""Which pictures a look has, and what stands in them: headline, sheets of layers and of heads, single layers, words.

Of a clip a few steps stand side by side.
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
from qvl_attn.core.types import FloatArray, HeatMap
from qvl_attn.encoders.attention import over_heads
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
    kind_lines,
    layer_name,
    map_title,
    seen,
    share_of_all,
    visible_size_px,
)
from qvl_attn.encoders.input_figures import draw_grid, draw_reconstruction, mark_patch
from qvl_attn.encoders.record import EncoderRecord, SaliencyMap
from qvl_attn.media.resize import Picture, fit_px, resize_picture
from qvl_attn.render.layout import Panel, filtered, headline, on_one_scale, sheet
from qvl_attn.render.lettering import undrawable
from qvl_attn.render.overlay import drawn_size_px
from qvl_attn.render.style import Drawing
from qvl_attn.results.figures import LEAST_STEP_PX, MAX_ROW_PX, ROW_SCALE, shown_steps

Draws = Iterator[tuple[str, Callable[[], Picture]]]
OWN, SHARED = "drawn on its own scale", "drawn on one scale for all layers"


@dataclass(frozen=True, eq=False)
class DrawnEncoderResult:
    """The pictures of a look, each drawn when it is asked for.

    Attributes:
        record: what is drawn.
        drawing: how.
        notes: what the reader of the pictures should know, a line each.
    """

    record: EncoderRecord
    drawing: Drawing
    notes: tuple[str, ...]

    def images(self) -> Draws:
        """Names relative to the folder, and what draws them, in any thread: (H, W, 3) uint8 RGB."""
        record, attention = self.record, self.record.attention
        if not self._is_clip:
            yield "picture_1.png", self._original
        yield "overlay.png", self.overlay
        yield "grid.png", partial(draw_grid, record, self.drawing)
        yield "turned_back.png", partial(draw_reconstruction, record)
        yield "figures.png", self._figures
        steps = self.steps
        pictures = self._pictures(steps)
        for query in attention.queries:
            yield from self._layers(query, pictures, steps)
            yield from self._heads(query, pictures, steps)
        yield from self._saliency()

    def overlay(self) -> Picture:
        """The headline: the last layer of [CLS], or where there is none what all patches together look at."""
        record, query = self.record, self.headline_query
        steps, last = self.steps, record.attention.layer_count - 1
        panels = self._layer_panels(query, [last], steps)
        if not panels:
            raise CaptureError(f"--denoise {self.drawing.denoise} leaves nothing of layer {last}")
        return self._large_layer(self._pictures(steps), panels[0], query, OWN, steps, ROW_SCALE)

    @property
    def headline(self) -> HeatMap:
        """The headline's map of every step, on one scale.

        Raises:
            CaptureError: a filter leaves nothing of it.
        """
        query, last = self.headline_query, self.record.attention.layer_count - 1
        return self._filtered(self.record.attention.map(query, last, self.record.settings.over), query, last)

    @property
    def foot(self) -> list[str]:
        """What stands beneath every picture."""
        return foot_lines(self.record, self.headline_query, self.record.attention.layer_count - 1)

    @property
    def headline_query(self) -> str:
        """Whose attention the headline shows."""
        return self.record.attention.queries[0]

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of a clip that stand side by side; of a picture its one."""
        attention = self.record.attention
        return shown_steps(attention.map(self.headline_query, attention.layer_count - 1, self.record.settings.over))

    @property
    def _is_clip(self) -> bool:
        return self.record.media.clip is not None

    def _original(self) -> Picture:
        media = self.record.media
        return resize_picture(media.frames[0], drawn_size_px(media.size_px, self.drawing))

    def _figures(self) -> Picture:
        from qvl_attn.encoders.charts import draw_figures  # loads matplotlib

        return draw_figures(self.record)

    def _pictures(self, steps: Sequence[int]) -> list[Picture]:
        """What the patches cover of the picture, or of the first frame of some steps of a clip."""
        part_px = visible_size_px(self.record.attention)
        size_px = drawn_size_px(part_px, self.drawing)
        if self._is_clip:
            longest = min(max(size_px), max(LEAST_STEP_PX, ROW_SCALE * max(size_px) // len(steps)))
            size_px = fit_px(part_px, longest)
        return [seen(self.record, step, size_px) for step in steps]

    def _layers(self, query: str, pictures: list[Picture], steps: Sequence[int]) -> Draws:
        record, attention = self.record, self.record.attention
        layers = range(attention.layer_count)
        own = self._layer_panels(query, layers, steps)
        if not own:
            return
        shared = on_one_scale(own)
        asked = f"{describe_query(record, query)} · {describe_joining(attention, record.settings.over)}"
        for name, panels, scale in (
            ("layers", own, "each on its own scale"),
            ("layers_shared", shared, "all on one scale"),
        ):
            titles = [
                asked,
                f"a layer at a time, {scale}",
                *kind_lines(attention, query),
                *self._sheet_lines(query, steps),
            ]
            yield f"{query}/{name}.png", partial(sheet, pictures, panels, title_lines=titles, drawing=self.drawing)
        large, scale = (shared, SHARED) if self.drawing.scale == "shared" else (own, OWN)
        for panel in large:
            (layer,) = panel.maps[0].layers
            draws = partial(self._large_layer, pictures, panel, query, scale, steps)
            yield f"{query}/layers/layer_{layer:02d}.png", draws

    def _heads(self, query: str, pictures: list[Picture], steps: Sequence[int]) -> Draws:
        record, attention, layer = self.record, self.record.attention, self.record.head_layer
        heads = attention.maps(query)[layer]
        shares = attention.patch_share(query)[layer]
        values = {
            f"head {i}{self._share(share)}": one for i, (one, share) in enumerate(zip(heads, shares, strict=True))
        }
        values |= {f"mean{self._share(shares.mean())}": over_heads(heads, "mean")}
        values |= {"maximum": over_heads(heads, "max"), "minimum": over_heads(heads, "min")}
        own = [panel for name, one in values.items() for panel in self._panels(name, one, query, layer, steps)]
        if not own:
            return
        titled = f"{describe_query(record, query)} · {describe_layer(attention, layer)} · head by head"
        for name, panels, scale in (
            ("heads", own, "each on its own scale"),
            ("heads_shared", on_one_scale(own), "all on one scale"),
        ):
            lines = [titled, f"every head and the mean, maximum and minimum over them, {scale}"]
            lines += [describe_share(attention, query, layer, "mean"), *self._sheet_lines(query, steps, layer)]
            yield f"{query}/{name}.png", partial(sheet, pictures, panels, title_lines=lines, drawing=self.drawing)

    def _sheet_lines(self, query: str, steps: Sequence[int], layer: int | None = None) -> list[str]:
        attention = self.record.attention
        others = describe_prefix(attention)
        description = [f"%: the share of the attention that is on patches; the rest is on {others}"] if others else []
        return [*description, *foot_lines(self.record, query, layer), *self._step_lines(steps)]

    def _layer_panels(self, query: str, layers: Sequence[int], steps: Sequence[int]) -> list[Panel]:
        """A panel for each of some layers, but for those of which a filter leaves nothing."""
        attention, over = self.record.attention, self.record.settings.over
        shares = attention.patch_share(query).mean(axis=1)
        panels = []
        for layer in layers:
            label = f"{layer_name(attention, layer)}{self._share(shares[layer])}"
            panels += self._panels(label, attention.map(query, layer, over), query, layer, steps)
        return panels

    def _share(self, share: np.floating[Any]) -> str:
        return f" · {share_of_all(float(share))}" if self.record.attention.prefix else ""

    def _panels(self, label: str, values: FloatArray, query: str, layer: int, steps: Sequence[int]) -> list[Panel]:
        """One panel of a (t, h, w) map; none where a filter leaves nothing of it."""
        try:
            one = self._filtered(values, query, layer)
        except CaptureError:
            return []
        return [Panel(label, _of_steps(one, steps), self._marks(query, len(steps)))]

    def _filtered(self, values: FloatArray, query: str, layer: int) -> HeatMap:
        """A (t, h, w) map as it is drawn."""
        whole = HeatMap(
            values=values,
            media_index=0,
            layers=(layer,),
            heads="all",
            query=query,
            queries=(),
            uniform=self.record.attention.even(query, layer),
            vision_mass=float(values.sum(axis=(1, 2)).mean()),
            scale=percentile_scale([values]),
        )
        (one,) = filtered((whole,), self.drawing)
        return one

    def _marks(self, query: str, count: int) -> tuple[Callable[[Picture], Picture], ...]:
        """The patch that asked is outlined, in each of the pictures side by side."""
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
        asked = map_title(record, query, layer)
        lines = [scale, *foot_lines(record, query, layer), *self._step_lines(steps)]
        return self._large(
            pictures, panel, asked, describe_share(attention, query, layer, record.settings.over), lines, row_scale
        )

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
        shown = ", ".join(f"{step + 1} ({record.media.times_s[record.frames[step, 0]]:.2f} s)" for step in steps)
        some = "" if len(steps) == count else "; minimum, maximum and cells are of these alone"
        return [f"from left to right: step {shown} of {count}{some}"]

    def _saliency(self) -> Draws:
        for number, one in enumerate(self.record.saliency, 1):
            found = saliency_heat_map(one, self.drawing)
            if found is not None:
                name = f"saliency/{number:02d}_{one.method}_{slug(one.target)}.png"
                yield name, partial(self._draw_saliency, one, found)

    def _draw_saliency(self, one: SaliencyMap, found: HeatMap) -> Picture:
        record, steps = self.record, shown_steps(found.values)
        kind, part = (
            "cosine similarity" if one.target in record.settings.texts else "probability",
            describe_visible_region(record),
        )
        lines = [
            f"{METHOD_WORDS[one.method]}: what speaks for it · no attention; mean: that of the map itself",
            f"{describe_provenance(record)} · {describe_input(record.attention)}",
            *([part] if part else []),
            *self._step_lines(steps),
        ]
        panel = Panel("", _of_steps(found, steps), unit="mean")
        return self._large(self._pictures(steps), panel, one.target, f"{kind} {one.score:.3f}", lines)


def _of_steps(one: HeatMap, steps: Sequence[int]) -> tuple[HeatMap, ...]:
    """A map for each step that is shown."""
    return tuple(replace(one, values=one.values[step : step + 1], media_index=i) for i, step in enumerate(steps))


def draw_encoder_result(record: EncoderRecord, drawing: Drawing) -> DrawnEncoderResult:
    """Prepare the pictures of a look."""
    media, part = record.media, describe_visible_region(record)
    notes = [f"{'clip' if media.clip else 'picture 1'}: {note}" for note in media.notes]
    kept_px, wanted_px = media.frames.shape[2], min(media.size_px[0], drawn_size_px(media.size_px, drawing)[0])
    if media.clip is None and kept_px < wanted_px:
        notes.append(f"picture 1 is kept {kept_px} pixels wide and drawn larger")
    notes += [part] if part else []
    notes += [
        f"nothing speaks for “{one.target}”: the map of {METHOD_WORDS[one.method]} is zero everywhere"
        f"{' after the filter' if one.values.any() else ''} and not drawn"
        for one in record.saliency
        if saliency_heat_map(one, drawing) is None
    ]
    missing = undrawable("".join([record.provenance.model, *(one.target for one in record.saliency)]))
    if missing:
        notes.append(
            f"no font on this machine has {missing!r}: the pictures say where it is left out; install a font "
            "that has it (such as fonts-noto-cjk) or name one in QVL_ATTN_FONT"
        )
    return DrawnEncoderResult(record, drawing, tuple(notes))


METHOD_WORDS = {
    "gradcam": "Grad-CAM on the patch grid",
    "attention_gradient": "attention x gradient",
}


def saliency_heat_map(one: SaliencyMap, drawing: Drawing) -> HeatMap | None:
    """A map of saliency as it is drawn, its `uniform` its own mean; None where nothing is left of it to draw."""
    if not one.values.any():
        return None
    whole = HeatMap(
        values=one.values,
        media_index=0,
        layers=(),
        heads="all",
        query=one.target,
        queries=(),
        uniform=float(one.values.mean(dtype=np.float64)),
        vision_mass=0.0,
        scale=percentile_scale([one.values]),
        method=one.method,
    )
    try:
        (found,) = filtered((whole,), drawing)
    except CaptureError:
        return None
    return replace(found, uniform=float(found.values.mean(dtype=np.float64)))
