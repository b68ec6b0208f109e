"""Which pictures a result has, and what stands in them: headline, sheets of layers, single layers, words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from qvl_attn.errors import CaptureError
from qvl_attn.figures import Panel, headline, sheet
from qvl_attn.lettering import undrawable
from qvl_attn.reduce import heat_maps
from qvl_attn.render import blur, drawn_size_px, percentile_scale, resize_picture
from qvl_attn.result import Result
from qvl_attn.select import describe, produced_words, query_rows, question_words
from qvl_attn.types import Drawing, HeatMap, IntArray

MAX_WORDS = 48


@dataclass(frozen=True, eq=False)
class DrawnResult:
    """The pictures of a result, each drawn when it is asked for.

    Attributes:
        result: what is drawn.
        drawing: how.
        headline: the maps of `overlay.png`.
        notes: what the reader of the pictures should know, a line each.
    """

    result: Result
    drawing: Drawing
    headline: tuple[HeatMap, ...]
    notes: tuple[str, ...]

    def images(self) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Names relative to the folder, and what draws them, in any thread: (H, W, 3) uint8 RGB."""
        result, drawing = self.result, self.drawing
        pictures = [resize_picture(media.frames[0], drawn_size_px(media.size_px, drawing)) for media in result.media]
        for i, picture in enumerate(pictures):
            yield f"picture_{i + 1}.png", partial(np.asarray, picture)
        caption = _headline_caption(result, self.headline[0])
        yield "overlay.png", partial(self._large, pictures, Panel("", self.headline), caption)

        own = self._layer_panels()
        shared = _on_one_scale(own)
        heads = "mean of all heads" if result.headline_heads() is None else "heads as named, else the mean of all"
        asked = f"{_query_words(result, self.headline[0])} · {heads}"
        for name, panels, scale in (
            ("layers", own, "each on its own scale"),
            ("layers_shared", shared, "all on one scale"),
        ):
            lines = [*self._title(), f"{asked} · a layer at a time, {scale}"]
            yield f"{name}.png", partial(sheet, pictures, panels, title_lines=lines, drawing=drawing)
        words, count = self._word_panels()
        if drawing.scale == "shared":
            words = _on_one_scale(words)
        cap = f" · the first {len(words)} of {count} words" if len(words) < count else ""
        layers, heads = _layer_words(self.headline[0]), _head_words(result, self.headline[0])
        title = f"each word of the question, and what produced each word of the answer · {layers}, {heads}{cap}"
        titles = [*self._title(), title]
        yield "tokens.png", partial(sheet, pictures, words, title_lines=titles, drawing=drawing)

        for panel in own if drawing.scale == "layer" else shared:
            (layer,) = panel.maps[0].layers
            scale = "own scale" if drawing.scale == "layer" else "scale shared by all layers"
            caption = [f"{panel.label} · {asked} · {scale}"]
            yield f"layers/layer_{layer:02d}.png", partial(self._large, pictures, panel, caption)

    def _title(self) -> list[str]:
        return [self.result.question, f"Answer: {self._answer() or '(no answer)'}"]

    def _answer(self) -> str:
        own = self.result.answer
        if self.result.supplied_answer is None:
            return own
        return f"{self.result.supplied_answer}   (supplied; its own answer: {own})"

    def _large(self, pictures: Sequence[np.ndarray], panel: Panel, caption: Sequence[str]) -> np.ndarray:
        return headline(
            pictures,
            panel,
            question=self.result.question,
            answer=self._answer(),
            caption_lines=caption,
            drawing=self.drawing,
        )

    def _layer_panels(self) -> list[Panel]:
        """A panel for every captured layer with the headline's query and, where the layer has some, its heads."""
        result = self.result
        rows = query_rows(result.capture, result.question, result.settings.query)
        named = result.headline_heads() or ()
        panels = []
        for layer in result.capture.layers.tolist():
            heads = [pair for pair in named if pair[0] == layer]
            maps = self._maps([layer], heads or None, rows, result.settings.query)
            label = f"layer {layer}" + (f" · heads {','.join(str(head) for _, head in heads)}" if heads else "")
            panels += [Panel(label, maps)] if maps else []
        return panels

    def _word_panels(self) -> tuple[list[Panel], int]:
        """A panel for each word with the headline's layers and heads, and how many words there are."""
        result, layers, heads = self.result, self.headline[0].layers, self.result.headline_heads()
        words: list[tuple[str, IntArray]] = [
            *((f"question: {word}", rows) for word, rows in question_words(result.capture, result.question)),
            *((f"answer: {word}", rows) for word, rows in produced_words(result.capture, result.mapped_answer)),
        ]
        chosen = heads and [pair for pair in heads if pair[0] in layers]
        panels = []
        for label, rows in words[:MAX_WORDS]:
            maps = self._maps(layers, chosen, rows, label)
            panels += [Panel(label, maps)] if maps else []
        return panels, len(words)

    def _maps(
        self, layers: Sequence[int], heads: Sequence[tuple[int, int]] | None, rows: IntArray, query: str
    ) -> tuple[HeatMap, ...]:
        """Maps as they are drawn; none where there is no attention on the picture: nothing to draw."""
        try:
            maps = heat_maps(self.result.capture, layers=layers, heads=heads, rows=rows, query=query)
        except CaptureError:
            return ()
        return _blurred(maps, self.drawing)


def _blurred(maps: tuple[HeatMap, ...], drawing: Drawing) -> tuple[HeatMap, ...]:
    """Blurred maps have a scale of their own, and all numbers beneath them are those of the blurred cells."""
    if drawing.blur_cells == 0:
        return maps
    values = [np.stack([blur(step, drawing.blur_cells) for step in m.values]) for m in maps]
    scale = percentile_scale(values)
    return tuple(replace(m, values=v, scale=scale) for m, v in zip(maps, values, strict=True))


def draw_result(result: Result, drawing: Drawing) -> DrawnResult:
    """Prepare the pictures of a result.

    Raises:
        CaptureError: there is no attention to draw.
    """
    notes = [f"picture {i + 1}: {note}" for i, media in enumerate(result.media) for note in media.notes]
    missing = undrawable(result.question + result.answer + (result.supplied_answer or ""))
    if missing:
        notes.append(
            f"no font on this machine has {missing!r}: the pictures say where it is left out; install a font "
            "that has it (such as fonts-noto-cjk) or name one in QVL_ATTN_FONT"
        )
    made = result.provenance
    if made.dtype != "float32" and (made.shared_pictures or made.batch > 1):
        notes.append(
            f"run together with other questions in {made.dtype}: where two tokens were all but equally likely, "
            "the answer can be another than the question's alone"
        )
    if result.is_cut:
        notes.append(f"the answer was cut at {result.settings.max_new_tokens} tokens (--max-new-tokens)")
    return DrawnResult(result, drawing, _blurred(result.heatmaps(), drawing), tuple(notes))


def _headline_caption(result: Result, one: HeatMap) -> list[str]:
    made = result.provenance
    heads = _head_words(result, one)
    chosen = "" if result.settings.layers or "." in (result.settings.heads or "") else " (50 to 85 % of the depth)"
    layers = f"{_layer_words(one)} of 0-{made.layer_count - 1}{chosen}"
    return [
        f"{_query_words(result, one)} · {layers} · {heads}",
        f"{made.model} · {made.attention} attention in {made.dtype}",
    ]


def _layer_words(one: HeatMap) -> str:
    return f"layer{'s' if len(one.layers) > 1 else ''} {describe(one.layers)}"


def _head_words(result: Result, one: HeatMap) -> str:
    return f"mean of all {result.provenance.head_count} heads" if one.heads == "all" else f"heads {one.heads}"


def _query_words(result: Result, one: HeatMap) -> str:
    count = len(one.queries)
    tokens = f"{count} token{'s' if count != 1 else ''}"
    if one.query == "last":
        return "attention of the last prompt token, which produces the answer's first"
    if one.query == "answer":
        return f"attention of the {tokens} that produced the answer"
    if one.query == "question":
        return f"attention of the question, {tokens}"
    return f"attention of “{one.query.removeprefix('text:')}”, {tokens}"


def _on_one_scale(panels: Sequence[Panel]) -> list[Panel]:
    scale = percentile_scale([m.values for panel in panels for m in panel.maps])
    return [Panel(panel.label, tuple(replace(m, scale=scale) for m in panel.maps)) for panel in panels]
