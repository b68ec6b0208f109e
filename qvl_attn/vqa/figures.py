"""The pictures of a question's result that no other kind has: words, tokens of the answer, faithfulness, boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from qvl_attn.attribution.heatmap import heat_maps, split_by_picture
from qvl_attn.attribution.selection import describe_layers, produced_words, question_words
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.files import slug
from qvl_attn.core.types import HeatMap, IntArray
from qvl_attn.media.resize import Picture
from qvl_attn.render.layout import Panel, filtered, on_one_scale
from qvl_attn.render.overlay import crossed_out
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay
from qvl_attn.results.figures import Figures, Marks, NamedPictures, font_notes, media_notes
from qvl_attn.results.record import Description, MapSelection
from qvl_attn.vqa.captions import describe_answer, headline_caption, headline_heads_text
from qvl_attn.vqa.maps import QuestionMaps
from qvl_attn.vqa.record import VqaRecord

MAX_WORDS = 48


@dataclass(frozen=True, eq=False)
class QuestionFigures(Figures):
    """The pictures of a question's result, each drawn on demand."""

    maps: QuestionMaps

    def images(self) -> NamedPictures:
        """Yield file names relative to the folder, each with a thread-safe function that draws (H, W, 3) uint8 RGB."""
        yield from super().images()
        result = self.maps.record
        if result.settings.faithfulness:
            from qvl_attn.render.charts import draw_faithfulness  # loads matplotlib

            title = f"{' · '.join(self._title())} · {headline_caption(result, self.headline[0])[0]}"
            yield "faithfulness.png", partial(draw_faithfulness, result.curves, result.sanity or {}, title)
        yield "tokens.png", self._words()
        yield from self._answer_tokens()

    def frame_overlay(self) -> FrameOverlay:
        """Return the maps and texts for the frames of a clip's video."""
        from qvl_attn.vqa.timeline import frame_overlay  # loads matplotlib

        return frame_overlay(self.maps.record, self.headline[0], self.maps.describe(self.maps.headline).lines)

    def timeline(self) -> Picture:
        """Draw the timeline of a clip: (H, W, 3) uint8 RGB."""
        from qvl_attn.vqa.timeline import draw_timeline  # loads matplotlib

        return draw_timeline(self.maps.record)

    def sheet_lines(self, query: str, what: str, *, heads: bool = False) -> list[str]:
        """Return the lines above a sheet of layers."""
        return [*self._title(), f"{self.maps.sheets} · {what}"]

    def layer_description(self, selection: MapSelection, *, is_shared: bool) -> Description:
        """Return the texts around the large map of one layer."""
        described = self.maps.describe_layer(selection)
        scale = "scale shared by all layers" if is_shared else "own scale"
        return replace(described, lines=(f"{described.lines[0]} · {scale}",))

    def _title(self) -> list[str]:
        result = self.maps.record
        return [result.question, f"Answer: {describe_answer(result) or '(no answer)'}"]

    def marks(self, selection: MapSelection) -> Marks:
        """Return functions that cross out the cells that the headline's method removed."""
        record = self.maps.record
        if selection != self.maps.headline or not (record.methods and record.methods[0].removed):
            return ()
        removed = np.zeros(len(record.capture.vision_tokens), dtype=np.float32)
        removed[list(record.methods[0].removed)] = 1
        values = split_by_picture(removed, record.capture.grids)
        maps = tuple(replace(heat, values=each) for heat, each in zip(self.headline, values, strict=True))
        return tuple(partial(crossed_out, cells=heat.values[0] > 0) for heat in self.side_by_side(maps))

    def _words(self) -> Callable[[], Picture]:
        """Return the function that draws the sheet of words."""
        result = self.maps.record
        words, count = self._word_panels()
        produced = (result.capture.query_role == "answer").any() or (result.capture.produces >= 0).any()
        if self.drawing.scale == "shared":
            words = on_one_scale(words)
        cap = f" · the first {len(words)} of {count} words" if len(words) < count else ""
        layers, heads = describe_layers(self.maps.plain.layers), headline_heads_text(result)
        answered = ", and what produced each word of the answer" if result.mapped_answer and produced else ""
        method = "plain attention, whatever the method: " if result.methods else ""
        title = f"{method}each word of the question{answered} · {layers}, {heads}{cap}"
        return partial(self.draw_sheet, words, [*self._title(), title, *self.step_lines()])

    def _word_panels(self) -> tuple[list[Panel], int]:
        """Return a panel for each word, with the headline's layers and heads, and the number of words."""
        result = self.maps.record
        words: list[tuple[str, IntArray]] = [
            *((f"question: {word}", rows) for word, rows in question_words(result.capture, result.question)),
            *((f"answer: {word}", rows) for word, rows in produced_words(result.capture, result.mapped_answer)),
        ]
        panels = []
        for label, rows in words[:MAX_WORDS]:
            maps = self._maps(rows, label)
            panels += [Panel(label, maps)] if maps else []
        return panels, len(words)

    def _answer_tokens(self) -> NamedPictures:
        """Yield a picture for each token of the answer, for a clip with the query `answer`."""
        result = self.maps.record
        if not self.is_clip or result.selection.query.kind != "answer":
            return
        texts = {token.position: token.text for token in result.capture.tokens if token.role == "answer"}
        positions = result.capture.produces.tolist()
        produced = [(row, texts[position]) for row, position in enumerate(positions) if position in texts]
        for i, (row, text) in enumerate(produced[:MAX_WORDS]):
            label = f"answer token {i + 1} of {len(produced)}: “{text.strip()}”"
            maps = self._maps(np.array([row]), label)
            if maps:
                lines = (describe_layers(self.maps.plain.layers),)
                described = Description(label, result.question, describe_answer(result), lines)
                draw = partial(self.draw_large, Panel(label, maps), described)
                yield f"answer/{i + 1:02d}_{slug(text, 24)}.png", draw

    def _maps(self, rows: IntArray, query: str) -> tuple[HeatMap, ...]:
        """Return maps of the headline's layers or heads; empty if there is no attention on the pictures."""
        record, headline = self.maps.record, self.maps.record.headline
        try:
            maps = heat_maps(record.capture, layers=headline.layers, heads=headline.heads, rows=rows, query=query)
        except CaptureError:
            return ()
        return self.side_by_side(filtered(maps, self.drawing))


def draw_result(result: VqaRecord, drawing: Drawing) -> QuestionFigures:
    """Prepare the pictures of a result.

    Raises:
        CaptureError: there is no attention to draw.
    """
    notes = media_notes(result.media, drawing)
    notes += font_notes(result.question + result.answer + (result.supplied_answer or ""))
    provenance = result.provenance
    if provenance.dtype != "float32" and (provenance.shared_pictures or provenance.batch > 1):
        notes.append(
            f"run together with other questions in {provenance.dtype}: if two tokens were almost equally likely, "
            "the answer can differ from that of the question run alone"
        )
    tokens = sum(token.role == "answer" for token in result.capture.tokens)
    if result.media[0].clip and result.selection.query.kind == "answer" and tokens > MAX_WORDS:
        notes.append(f"answer/ has the first {MAX_WORDS} of the answer's {tokens} tokens")
    if result.is_cut:
        notes.append(f"the answer was cut at {result.settings.max_new_tokens} tokens (--max-new-tokens)")
    if result.methods and not result.methods[0].removed and result.methods[0].method.startswith("sinks"):
        notes.append("no sinks were found: the map is the plain mean")
    if result.methods and {*result.methods[0].layers} - {*result.capture.layers.tolist()}:
        notes.append(f"method {result.methods[0].method} uses all layers: --layers does not limit it")
    if len(result.methods) > 1:
        others = ", ".join(method.method for method in result.methods[1:])
        notes.append(f"the pictures show method {result.methods[0].method}; attention.npz also has {others}")
    if drawing.denoise and result.settings.faithfulness:
        notes.append("faithfulness is measured on the map before the filter")
    figures = QuestionFigures(QuestionMaps(result), drawing, tuple(notes))
    _ = figures.headline  # raises if there is nothing to draw
    return figures
