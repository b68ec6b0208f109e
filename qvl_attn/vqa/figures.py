"""The pictures of a result and their captions: headline, sheets of layers, single layers, words.

A few steps of a clip appear side by side, like the pictures of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.heatmap import heat_maps, split_by_picture
from qvl_attn.attribution.methods.maps import method_heat_maps
from qvl_attn.attribution.methods.registry import METHODS, MethodMap
from qvl_attn.attribution.selection import Pairs, describe_heads, describe_layers, produced_words, question_words
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.files import slug
from qvl_attn.core.text import pluralize
from qvl_attn.core.types import HeatMap, IntArray
from qvl_attn.media.resize import Picture, fit_px, resize_picture
from qvl_attn.render.layout import (
    LEAST_STEP_PX,
    MAX_ROW_PX,
    ROW_SCALE,
    Panel,
    drawn_steps,
    filtered,
    headline,
    marked,
    on_one_scale,
    sheet,
)
from qvl_attn.render.lettering import undrawable
from qvl_attn.render.overlay import drawn_size_px
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay
from qvl_attn.vqa.record import VqaRecord

MAX_WORDS = 48


@dataclass(frozen=True, eq=False)
class DrawnResult:
    """The pictures of a result, each drawn on demand.

    Attributes:
        result: the result to draw.
        drawing: how to draw.
        headline: the maps of `overlay.png`.
        notes: what the reader of the pictures should know, a line each.
    """

    result: VqaRecord
    drawing: Drawing
    headline: tuple[HeatMap, ...]
    notes: tuple[str, ...]

    def images(self) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Yield file names relative to the folder, each with a thread-safe function that draws (H, W, 3) uint8 RGB."""
        result, drawing = self.result, self.drawing
        pictures = self._pictures()
        if result.media[0].clip is None:
            for i, picture in enumerate(pictures):
                yield f"picture_{i + 1}.png", partial(np.asarray, picture)
        yield "overlay.png", self.overlay
        if result.settings.faithfulness:
            from qvl_attn.render.charts import draw_faithfulness  # loads matplotlib

            title = f"{' · '.join(self._title())} · {headline_caption(result, self.headline[0])[0]}"
            yield "faithfulness.png", partial(draw_faithfulness, result.curves, result.sanity or {}, title)

        own_scale = self._layer_panels()
        shared_scale = on_one_scale(own_scale)
        description = self._describe_sheets()
        for name, panels, scale in (
            ("layers", own_scale, "each on its own scale"),
            ("layers_shared", shared_scale, "all on one scale"),
        ):
            lines = [*self._title(), f"{description} · a layer at a time, {scale}", *self._describe_steps()]
            yield f"{name}.png", partial(sheet, pictures, panels, title_lines=lines, drawing=drawing)
        words, count = self._word_panels()
        produced = (result.capture.query_role == "answer").any() or (result.capture.produces >= 0).any()
        if drawing.scale == "shared":
            words = on_one_scale(words)
        cap = f" · the first {len(words)} of {count} words" if len(words) < count else ""
        layers, heads = describe_layers(self._plain.layers), headline_heads_text(result)
        answered = ", and what produced each word of the answer" if result.mapped_answer and produced else ""
        method = "plain attention, whatever the method: " if result.methods else ""
        title = f"{method}each word of the question{answered} · {layers}, {heads}{cap}"
        titles = [*self._title(), title, *self._describe_steps()]
        yield "tokens.png", partial(sheet, pictures, words, title_lines=titles, drawing=drawing)

        yield from self._answer_tokens(pictures)
        for panel in own_scale if drawing.scale == "layer" else shared_scale:
            (layer,) = panel.maps[0].layers
            scale = "own scale" if drawing.scale == "layer" else "scale shared by all layers"
            caption = [f"{panel.label} · {description} · {scale}", *self._describe_steps()]
            yield f"layers/layer_{layer:02d}.png", partial(self._draw_large, pictures, panel, caption)

    def frame_overlay(self) -> FrameOverlay:
        """Return the maps and texts for the frames of a clip's video."""
        from qvl_attn.vqa.timeline import frame_overlay  # loads matplotlib

        return frame_overlay(self.result, self.headline[0], self.foot)

    def timeline(self) -> Picture:
        """Draw the timeline of a clip: (H, W, 3) uint8 RGB."""
        from qvl_attn.vqa.timeline import draw_timeline  # loads matplotlib

        return draw_timeline(self.result)

    def overlay(self, boxes: Sequence[NDArray[np.float64]] = (), further_lines: Sequence[str] = ()) -> np.ndarray:
        """Draw the headline map, large: (H, W, 3) uint8 RGB.

        Args:
            boxes: boxes to outline: for each picture, or each drawn step of a clip, (G, 4) xyxy in shares of its size.
            further_lines: lines to add to the caption.
        """
        caption = [*headline_caption(self.result, self.headline[0]), *self._describe_steps(), *further_lines]
        panel = Panel("", self._visible_maps(self.headline), tuple(self._marks(boxes)))
        return self._draw_large(self._pictures(), panel, caption, ROW_SCALE)

    def _marks(self, boxes: Sequence[NDArray[np.float64]]) -> Iterator[Callable[[Picture], Picture]]:
        """Yield for each map of the overlay a function that crosses out removed cells and outlines boxes."""
        capture, methods = self.result.capture, self.result.methods
        removed = np.zeros(len(capture.vision_tokens), dtype=np.float32)
        removed[list(methods[0].removed) if methods else []] = 1
        maps = tuple(
            replace(heat, values=values)
            for heat, values in zip(self.headline, split_by_picture(removed, capture.grids), strict=True)
        )
        for i, heat in enumerate(self._visible_maps(maps)):
            picture_boxes = boxes[i] if boxes else np.zeros((0, 4))
            yield partial(marked, cells=heat.values[0] > 0, boxes=picture_boxes)

    @property
    def _plain(self) -> HeatMap:
        """The headline map of the plain attention."""
        result = self.result
        return result.plain_maps()[0] if result.methods else self.headline[0]

    def _describe_sheets(self) -> str:
        """Return the caption of the sheets of layers."""
        result = self.result
        heads = "mean of all heads" if result.headline_heads() is None else "named heads, else the mean of all"
        query = describe_query(result, self._plain)
        if result.methods and result.methods[0].layer_numbers:
            follows = METHODS[result.methods[0].method].follows_query
            return f"method {result.methods[0].method}" + (f" · {query}" if follows else "")
        plain = f"{query} · {heads}"
        return f"{result.methods[0].method} has no layers: plain attention · {plain}" if result.methods else plain

    def _title(self) -> list[str]:
        return [self.result.question, f"Answer: {self._answer() or '(no answer)'}"]

    def _answer(self) -> str:
        if self.result.supplied_answer is None:
            return self.result.answer
        return f"{self.result.supplied_answer}   (supplied; the model's own answer: {self.result.answer})"

    def _pictures(self) -> list[np.ndarray]:
        """Return the pictures of the prompt, or the first frame of each drawn step of a clip."""
        media, drawing = self.result.media, self.drawing
        if media[0].clip is None:
            return [resize_picture(picture.frames[0], drawn_size_px(picture.size_px, drawing)) for picture in media]
        frames = first_frames(self.result, self.steps)
        single_px = max(drawn_size_px(media[0].size_px, drawing))
        longest_px = min(single_px, max(LEAST_STEP_PX, ROW_SCALE * single_px // len(frames)))
        size_px = fit_px(media[0].size_px, longest_px)
        return [resize_picture(frame, size_px) for frame in frames]

    @property
    def foot(self) -> tuple[str, ...]:
        """Description of the map for the foot of each frame of a clip."""
        return tuple(headline_caption(self.result, self.headline[0]))

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of a clip that are drawn side by side."""
        return drawn_steps(self.headline[0].values)

    def _describe_steps(self) -> list[str]:
        if self.result.media[0].clip is None:
            return []
        grid = self.result.capture.grids[0]
        steps = ", ".join(f"{step + 1} ({grid.times_s[step, 0]:.2f} s)" for step in self.steps)
        limit = "" if len(self.steps) == grid.shape[0] else "; minimum, maximum and cells are of these steps only"
        return [f"from left to right: step {steps} of {grid.shape[0]}{limit}"]

    def _visible_maps(self, maps: tuple[HeatMap, ...]) -> tuple[HeatMap, ...]:
        """Return a map for each picture, or for each drawn step of a clip."""
        if self.result.media[0].clip is None:
            return maps
        (heat,) = maps
        return tuple(
            replace(heat, values=heat.values[step : step + 1], media_index=i) for i, step in enumerate(self.steps)
        )

    def _draw_large(
        self,
        pictures: Sequence[np.ndarray],
        panel: Panel,
        caption: Sequence[str],
        row_scale: int = 1,
    ) -> np.ndarray:
        drawing = self.drawing
        if len(panel.maps) > 2 and self.result.media[0].clip is not None:
            drawing = replace(drawing, draw_size_px=min(drawing.draw_size_px * row_scale, MAX_ROW_PX))
        return headline(
            pictures,
            panel,
            question=self.result.question,
            answer=self._answer(),
            caption_lines=caption,
            drawing=drawing,
        )

    def _layer_panels(self) -> list[Panel]:
        """Return a panel for every captured layer, with the headline's query and the layer's named heads, if any."""
        result, rows = self.result, self.result.query_rows()
        if result.methods and result.methods[0].layer_numbers:
            return self._method_panels(result.methods[0], rows)
        named = result.headline_heads() or ()
        panels = []
        for layer in result.capture.layers.tolist():
            heads = tuple(pair for pair in named if pair[0] == layer)
            maps = self._maps([layer], heads or None, rows, str(result.selection.query))
            label = f"layer {layer}" + (f" · heads {','.join(str(head) for _, head in heads)}" if heads else "")
            panels += [Panel(label, maps)] if maps else []
        return panels

    def _method_panels(self, method: MethodMap, rows: IntArray) -> list[Panel]:
        panels, label, query = [], METHODS[method.method].layer_label, str(self.result.selection.query)
        for layer in method.layer_numbers:
            try:
                maps = method_heat_maps(method, self.result.capture, rows, query, layer=layer)
            except CaptureError:  # nothing on the pictures to draw
                continue
            panels.append(Panel(f"{label} {layer}", self._visible_maps(filtered(maps, self.drawing))))
        return panels

    def _word_panels(self) -> tuple[list[Panel], int]:
        """Return a panel for each word, with the headline's layers and heads, and the number of words."""
        result, headline = self.result, self.result.headline
        words: list[tuple[str, IntArray]] = [
            *((f"question: {word}", rows) for word, rows in question_words(result.capture, result.question)),
            *((f"answer: {word}", rows) for word, rows in produced_words(result.capture, result.mapped_answer)),
        ]
        panels = []
        for label, rows in words[:MAX_WORDS]:
            maps = self._maps(headline.layers, headline.heads, rows, label)
            panels += [Panel(label, maps)] if maps else []
        return panels, len(words)

    def _answer_tokens(self, pictures: Sequence[np.ndarray]) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Yield a picture for each token of the answer, for a clip with the query `answer`."""
        result = self.result
        if result.media[0].clip is None or result.selection.query.kind != "answer":
            return
        texts = {token.position: token.text for token in result.capture.tokens if token.role == "answer"}
        positions = result.capture.produces.tolist()
        produced = [(row, texts[position]) for row, position in enumerate(positions) if position in texts]
        for i, (row, text) in enumerate(produced[:MAX_WORDS]):
            label = f"answer token {i + 1} of {len(produced)}: “{text.strip()}”"
            maps = self._maps(result.headline.layers, result.headline.heads, np.array([row]), label)
            if maps:
                caption = [describe_layers(self._plain.layers), *self._describe_steps()]
                yield (
                    f"answer/{i + 1:02d}_{slug(text, 24)}.png",
                    partial(self._draw_large, pictures, Panel(label, maps), caption),
                )

    def _maps(self, layers: Sequence[int], heads: Pairs | None, rows: IntArray, query: str) -> tuple[HeatMap, ...]:
        """Return maps ready to draw; empty if there is no attention on the pictures."""
        try:
            maps = heat_maps(self.result.capture, layers=layers, heads=heads, rows=rows, query=query)
        except CaptureError:
            return ()
        return self._visible_maps(filtered(maps, self.drawing))


def first_frames(result: VqaRecord, steps: Sequence[int]) -> list[Picture]:
    """Return the first sampled frame of each of the given steps of a clip."""
    clip, indices = result.media[0], list(result.media[0].facts.frame_indices)
    numbers = result.capture.grids[0].frame_span[list(steps), 0].tolist()
    return [clip.frames[indices.index(number)] for number in numbers]


def draw_result(result: VqaRecord, drawing: Drawing) -> DrawnResult:
    """Prepare the pictures of a result.

    Raises:
        CaptureError: there is no attention to draw.
    """
    notes = [
        f"{media.kind} {i + 1}: {note}" if media.clip is None else f"clip: {note}"
        for i, media in enumerate(result.media)
        for note in media.notes
    ]
    for i, media in enumerate(result.media):
        stored_px, drawn_px = media.frames.shape[2], min(media.size_px[0], drawn_size_px(media.size_px, drawing)[0])
        if media.clip is None and stored_px < drawn_px:
            notes.append(
                f"picture {i + 1} is stored {stored_px} pixels wide and drawn larger: --media names the original"
            )
    missing = undrawable(result.question + result.answer + (result.supplied_answer or ""))
    if missing:
        notes.append(
            f"no font on this machine has {missing!r}: the pictures mark where it is left out; install a font "
            "that has it (such as fonts-noto-cjk) or name one in QVL_ATTN_FONT"
        )
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
    return DrawnResult(result, drawing, filtered(result.heatmaps(), drawing), tuple(notes))


MAX_NAMED_CELLS = 12


def headline_caption(result: VqaRecord, heat: HeatMap) -> list[str]:
    """Return the lines that describe the headline map."""
    provenance, profile = result.provenance, result.settings.profile
    model = f"{provenance.model} · {provenance.attention} attention in {provenance.dtype}"
    if result.methods:
        return [*_method_caption(result, heat), model]
    heads = headline_heads_text(result)
    depth = "" if result.settings.names_layers else " (50 to 85 % of the depth)"
    layers = f"{describe_layers(heat.layers)} of 0-{provenance.layer_count - 1}{depth} · {heads}"
    if result.headline.heads is not None:  # the heads include their layers
        layers = f"{heads} of {provenance.layer_count} layers of {provenance.head_count} heads"
    return [f"{describe_query(result, heat)} · {layers}", *([profile.status] if profile else []), model]


def _method_caption(result: VqaRecord, heat: HeatMap) -> list[str]:
    method, profile = result.methods[0], result.settings.profile
    spec = METHODS[method.method]
    query = f"{describe_query(result, heat)} · " if spec.follows_query else ""
    lines = [f"method {method.method} · {query}{method.caption}"]
    lines += [profile.status] if profile and (spec.heads or set(method.layers) == set(profile.layers)) else []
    return lines + ([f"crossed out: {describe_removed(result)}"] if method.removed else [])


def describe_removed(result: VqaRecord) -> str:
    """Return the cells that a method removed, by row and column counted from 1."""
    method, named = result.methods[0], []
    pictures, steps = len(result.capture.grids), max(grid.shape[0] for grid in result.capture.grids)
    for number in method.removed[:MAX_NAMED_CELLS]:
        media, (step, row, column) = place_of(result, number)
        where = f"picture {media + 1}, " if pictures > 1 else f"step {step + 1}, " if steps > 1 else ""
        named.append(f"{where}row {row + 1}, column {column + 1}")
    more = len(method.removed) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def place_of(result: VqaRecord, cell: int) -> tuple[int, tuple[int, int, int]]:
    """Return the picture of a cell on the V axis, and the cell's (step, row, column) in it."""
    for i, grid in enumerate(result.capture.grids):
        if cell < grid.cells:
            _, rows, columns = grid.shape
            return i, (cell // (rows * columns), cell // columns % rows, cell % columns)
        cell -= grid.cells
    raise IndexError("no such cell")


def headline_heads_text(result: VqaRecord) -> str:
    """Return the heads of the plain headline as text."""
    heads = result.headline.heads
    return f"mean of all {result.provenance.head_count} heads" if heads is None else f"heads {describe_heads(heads)}"


def describe_query(result: VqaRecord, heat: HeatMap) -> str:
    """Return the headline's query, whose map this is, as text."""
    query, tokens = result.selection.query, pluralize(len(heat.queries), "token")
    if query.kind == "last":
        return "attention of the last prompt token, which produces the answer's first token"
    if query.kind == "answer":
        return f"attention of the {tokens} that produced the answer"
    if query.kind == "question":
        return f"attention of the question, {tokens}"
    return f"attention of “{query.words}”, {tokens}"
