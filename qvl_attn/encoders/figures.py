"""The pictures of an encoder's result that no other kind has: grid, input, statistics, embeddings, saliency."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.files import slug
from qvl_attn.core.types import HeatMap
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
)
from qvl_attn.encoders.embedding_figures import embedding_images
from qvl_attn.encoders.input_figures import draw_grid, draw_reconstruction, mark_patch
from qvl_attn.encoders.maps import EncoderMaps
from qvl_attn.encoders.record import EncoderRecord, SaliencyMap
from qvl_attn.media.resize import Picture
from qvl_attn.render.layout import Panel, drawn_steps, filtered
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay
from qvl_attn.results.figures import (
    OWN,
    Figures,
    Marks,
    NamedPictures,
    describe_steps,
    draw_large,
    font_notes,
    media_notes,
    of_steps,
)
from qvl_attn.results.record import Description, MapSelection


@dataclass(frozen=True, eq=False)
class EncoderFigures(Figures):
    """The pictures of an encoder's result, each drawn on demand."""

    maps: EncoderMaps

    def images(self) -> NamedPictures:
        """Yield names relative to the folder, each with a thread-safe function that draws it: (H, W, 3) uint8 RGB."""
        yield from super().images()
        record = self.maps.record
        yield "grid.png", partial(draw_grid, record, self.drawing)
        yield "turned_back.png", partial(draw_reconstruction, record)
        yield "figures.png", self._statistics
        yield from self._saliency()
        yield from embedding_images(record, self)
        for step, picture in enumerate(record.reconstruction):
            yield reconstruction_file(step), partial(np.asarray, picture)

    def describe_headline(self) -> Description:
        """Return the texts around `overlay.png`."""
        described = super().describe_headline()
        return replace(described, label="", lines=(OWN, *described.lines))

    def frame_overlay(self) -> FrameOverlay:
        """Return the maps and texts for the frames of a clip's video."""
        from qvl_attn.encoders.timeline import frame_overlay  # loads matplotlib

        return frame_overlay(self.maps.record, self.headline[0], self.maps.describe(self.maps.headline).lines)

    def timeline(self) -> Picture:
        """Draw the timeline of a clip: (H, W, 3) uint8 RGB."""
        from qvl_attn.encoders.timeline import draw_timeline  # loads matplotlib

        (heat,) = self.maps.heat_map(self.maps.headline)
        return draw_timeline(self.maps.record, heat)

    def folder(self, query: str) -> str:
        """Return the start of the file names of a query's sheets."""
        return f"{query}/"

    def sheet_lines(self, query: str, what: str, *, heads: bool = False) -> list[str]:
        """Return the lines above a sheet."""
        record, attention = self.maps.record, self.maps.attention
        prefix, layer = describe_prefix(attention), record.head_layer if heads else None
        title = describe_query(record, query)
        if layer is not None:
            lines = [f"{title} · {describe_layer(attention, layer)} · head by head", what]
            lines.append(describe_share(attention, query, layer, "mean"))
        else:
            lines = [f"{title} · {describe_joining(attention, record.settings.over)}", what]
            lines += kind_lines(attention, query)
        lines += [f"%: the share of the attention that is on patches; the rest is on {prefix}"] if prefix else []
        return [*lines, *foot_lines(record, query, layer)]

    def layer_description(self, selection: MapSelection, *, is_shared: bool) -> Description:
        """Return the texts around the large map of one layer; its title names the layer."""
        return replace(super().layer_description(selection, is_shared=is_shared), label="")

    def marks(self, selection: MapSelection) -> Marks:
        """Return functions that outline the query patch in each of the pictures side by side."""
        query, (_, h, w) = selection.query, self.maps.attention.grid
        if not query.startswith("at_"):
            return ()
        place = int(self.maps.attention.query_patches[int(query.removeprefix("at_")) - 1])
        return (partial(mark_patch, place=place, grid=(h, w)),) * len(self.steps)

    def _statistics(self) -> Picture:
        from qvl_attn.encoders.charts import draw_statistics  # loads matplotlib

        return draw_statistics(self.maps.record)

    def _saliency(self) -> NamedPictures:
        for number, saliency in enumerate(self.maps.record.saliency, 1):
            heat = saliency_heat_map(saliency, self.drawing)
            if heat is not None:
                name = f"saliency/{number:02d}_{saliency.method}_{slug(saliency.target)}.png"
                yield name, partial(self._draw_saliency, saliency, heat)

    def _draw_saliency(self, saliency: SaliencyMap, heat: HeatMap) -> Picture:
        record, steps = self.maps.record, drawn_steps(heat.values)
        score = "cosine similarity" if saliency.target in record.settings.texts else "probability"
        part = describe_visible_region(record)
        lines = [
            f"{METHOD_WORDS[saliency.method]}: regions that raise the score, not attention · mean: of this map",
            f"{describe_provenance(record)} · {describe_input(record.attention)}",
            *([part] if part else []),
            *describe_steps(self.maps, steps),
        ]
        panel = Panel("", of_steps(heat, steps), unit="mean")
        described = Description("", saliency.target, f"{score} {saliency.score:.3f}", tuple(lines))
        return draw_large(self.pictures_of(steps), panel, described, self.drawing)


def reconstruction_file(step: int) -> str:
    """Return the file of the picture reconstructed from the encoder's input at a step."""
    return f"input/{step:06d}.png"


def draw_encoder_result(record: EncoderRecord, drawing: Drawing) -> EncoderFigures:
    """Prepare the pictures of an encoder's result."""
    part = describe_visible_region(record)
    notes = [*media_notes(record.media, drawing), *([part] if part else [])]
    notes += [
        f"no region raises the score of “{saliency.target}”: the map of {METHOD_WORDS[saliency.method]} is zero "
        f"everywhere{' after the filter' if saliency.values.any() else ''} and not drawn"
        for saliency in record.saliency
        if saliency_heat_map(saliency, drawing) is None
    ]
    notes += font_notes("".join([record.provenance.model, *(saliency.target for saliency in record.saliency)]))
    return EncoderFigures(EncoderMaps(record), drawing, tuple(notes))


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
