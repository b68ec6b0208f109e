"""Which pictures a result has, and what stands in them: headline, sheets of layers, single layers, words.

Of a clip a few steps of tokens stand side by side, as the pictures of a prompt do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.heatmap import heat_maps, split_by_picture
from qvl_attn.attribution.methods import METHODS, MethodMap
from qvl_attn.attribution.methods.maps import method_heat_maps
from qvl_attn.attribution.selection import describe_layers, produced_words, question_words
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.files import slug
from qvl_attn.core.types import HeatMap, IntArray
from qvl_attn.media.resize import Picture, fit_px, resize_picture
from qvl_attn.render.layout import Panel, filtered, headline, marked, on_one_scale, sheet
from qvl_attn.render.lettering import undrawable
from qvl_attn.render.overlay import drawn_size_px
from qvl_attn.render.style import Drawing
from qvl_attn.results.figures import LEAST_STEP_PX, MAX_ROW_PX, ROW_SCALE, shown_steps
from qvl_attn.vqa.record import VqaRecord

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

    result: VqaRecord
    drawing: Drawing
    headline: tuple[HeatMap, ...]
    notes: tuple[str, ...]

    def images(self) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Names relative to the folder, and what draws them, in any thread: (H, W, 3) uint8 RGB."""
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

        own = self._layer_panels()
        shared = on_one_scale(own)
        asked = self._describe_sheets()
        for name, panels, scale in (
            ("layers", own, "each on its own scale"),
            ("layers_shared", shared, "all on one scale"),
        ):
            lines = [*self._title(), f"{asked} · a layer at a time, {scale}", *self._shown_steps()]
            yield f"{name}.png", partial(sheet, pictures, panels, title_lines=lines, drawing=drawing)
        words, count = self._word_panels()
        produced = (result.capture.query_role == "answer").any() or (result.capture.produces >= 0).any()
        if drawing.scale == "shared":
            words = on_one_scale(words)
        cap = f" · the first {len(words)} of {count} words" if len(words) < count else ""
        layers, heads = describe_layers(self._plain.layers), describe_heads(result, self._plain)
        answered = ", and what produced each word of the answer" if result.mapped_answer and produced else ""
        method = "plain attention, whatever the method: " if result.methods else ""
        title = f"{method}each word of the question{answered} · {layers}, {heads}{cap}"
        titles = [*self._title(), title, *self._shown_steps()]
        yield "tokens.png", partial(sheet, pictures, words, title_lines=titles, drawing=drawing)

        yield from self._answer_tokens(pictures)
        for panel in own if drawing.scale == "layer" else shared:
            (layer,) = panel.maps[0].layers
            scale = "own scale" if drawing.scale == "layer" else "scale shared by all layers"
            caption = [f"{panel.label} · {asked} · {scale}", *self._shown_steps()]
            yield f"layers/layer_{layer:02d}.png", partial(self._large, pictures, panel, caption)

    def overlay(self, boxes: Sequence[NDArray[np.float64]] = (), further_lines: Sequence[str] = ()) -> np.ndarray:
        """The headline map, large: (H, W, 3) uint8 RGB.

        Args:
            boxes: for each picture, or each step of a clip that is shown, (G, 4) xyxy in its units, to be outlined.
            further_lines: to be said beneath it.
        """
        caption = [*headline_caption(self.result, self.headline[0]), *self._shown_steps(), *further_lines]
        panel = Panel("", self._shown(self.headline), tuple(self._marks(boxes)))
        return self._large(self._pictures(), panel, caption, ROW_SCALE)

    def _marks(self, boxes: Sequence[NDArray[np.float64]]) -> Iterator[Callable[[Picture], Picture]]:
        """For each map of the overlay: cells that the method took out are crossed out, boxes are outlined."""
        capture, methods = self.result.capture, self.result.methods
        removed = np.zeros(len(capture.vision_tokens), dtype=np.float32)
        removed[list(methods[0].removed) if methods else []] = 1
        maps = tuple(
            replace(one, values=values)
            for one, values in zip(self.headline, split_by_picture(removed, capture.grids), strict=True)
        )
        for i, one in enumerate(self._shown(maps)):
            own = boxes[i] if boxes else np.zeros((0, 4))
            yield partial(marked, cells=one.values[0] > 0, boxes=own)

    @property
    def _plain(self) -> HeatMap:
        """The headline map of the plain attention."""
        result = self.result
        return result.heatmaps(query=result.settings.query)[0] if result.methods else self.headline[0]

    def _describe_sheets(self) -> str:
        """What the sheets of layers show."""
        result = self.result
        heads = "mean of all heads" if result.headline_heads() is None else "heads as named, else the mean of all"
        asked = describe_query(result, self._plain)
        if result.methods and result.methods[0].layer_numbers:
            follows = METHODS[result.methods[0].method].follows_query
            return f"method {result.methods[0].method}" + (f" · {asked}" if follows else "")
        plain = f"{asked} · {heads}"
        return f"{result.methods[0].method} has no layers: plain attention · {plain}" if result.methods else plain

    def _title(self) -> list[str]:
        return [self.result.question, f"Answer: {self._answer() or '(no answer)'}"]

    def _answer(self) -> str:
        own = self.result.answer
        if self.result.supplied_answer is None:
            return own
        return f"{self.result.supplied_answer}   (supplied; its own answer: {own})"

    def _pictures(self) -> list[np.ndarray]:
        """The pictures of the prompt, or the first frame of each step of a clip that is shown."""
        media, drawing = self.result.media, self.drawing
        if media[0].clip is None:
            return [resize_picture(one.frames[0], drawn_size_px(one.size_px, drawing)) for one in media]
        firsts = first_frames(self.result, self.steps)
        single = max(drawn_size_px(media[0].size_px, drawing))
        longest = min(single, max(LEAST_STEP_PX, ROW_SCALE * single // len(firsts)))
        size_px = fit_px(media[0].size_px, longest)
        return [resize_picture(first, size_px) for first in firsts]

    @property
    def foot(self) -> tuple[str, ...]:
        """Of a clip, what the map is, for the foot of each of its frames."""
        return tuple(headline_caption(self.result, self.headline[0]))

    @property
    def steps(self) -> tuple[int, ...]:
        """Of a clip, the steps that stand side by side."""
        return shown_steps(self.headline[0].values)

    def _shown_steps(self) -> list[str]:
        if self.result.media[0].clip is None:
            return []
        grid = self.result.capture.grids[0]
        shown = ", ".join(f"{step + 1} ({grid.times_s[step, 0]:.2f} s)" for step in self.steps)
        some = "" if len(self.steps) == grid.shape[0] else "; minimum, maximum and cells are of these alone"
        return [f"from left to right: step {shown} of {grid.shape[0]}{some}"]

    def _shown(self, maps: tuple[HeatMap, ...]) -> tuple[HeatMap, ...]:
        """A map for each picture: of a clip, for each step that is shown."""
        if self.result.media[0].clip is None:
            return maps
        (one,) = maps
        return tuple(
            replace(one, values=one.values[step : step + 1], media_index=i) for i, step in enumerate(self.steps)
        )

    def _large(
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
        """A panel for every captured layer with the headline's query and, where the layer has some, its heads."""
        result, rows = self.result, self.result.query_rows()
        if result.methods and result.methods[0].layer_numbers:
            return self._method_panels(result.methods[0], rows)
        named = result.headline_heads() or ()
        panels = []
        for layer in result.capture.layers.tolist():
            heads = [pair for pair in named if pair[0] == layer]
            maps = self._maps([layer], heads or None, rows, result.settings.query)
            label = f"layer {layer}" + (f" · heads {','.join(str(head) for _, head in heads)}" if heads else "")
            panels += [Panel(label, maps)] if maps else []
        return panels

    def _method_panels(self, method: MethodMap, rows: IntArray) -> list[Panel]:
        panels, label = [], METHODS[method.method].layer_label
        for layer in method.layer_numbers:
            try:
                maps = method_heat_maps(method, self.result.capture, rows, self.result.settings.query, layer=layer)
            except CaptureError:  # nothing on the pictures to draw
                continue
            panels.append(Panel(f"{label} {layer}", self._shown(filtered(maps, self.drawing))))
        return panels

    def _word_panels(self) -> tuple[list[Panel], int]:
        """A panel for each word with the headline's layers and heads, and how many words there are."""
        result, layers, heads = self.result, self._plain.layers, self.result.headline_heads()
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

    def _answer_tokens(self, pictures: Sequence[np.ndarray]) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Of a clip with the query `answer`: each token of the answer, with the headline's layers and heads."""
        result = self.result
        if result.media[0].clip is None or result.settings.query != "answer":
            return
        texts = {token.position: token.text for token in result.capture.tokens if token.role == "answer"}
        produced = [(row, texts[at]) for row, at in enumerate(result.capture.produces.tolist()) if at in texts]
        for i, (row, text) in enumerate(produced[:MAX_WORDS]):
            label = f"answer token {i + 1} of {len(produced)}: “{text.strip()}”"
            maps = self._maps(self._plain.layers, result.headline_heads(), np.array([row]), label)
            if maps:
                caption = [describe_layers(self._plain.layers), *self._shown_steps()]
                yield (
                    f"answer/{i + 1:02d}_{slug(text, 24)}.png",
                    partial(self._large, pictures, Panel(label, maps), caption),
                )

    def _maps(
        self, layers: Sequence[int], heads: Sequence[tuple[int, int]] | None, rows: IntArray, query: str
    ) -> tuple[HeatMap, ...]:
        """Maps as they are drawn; none where there is no attention on the picture: nothing to draw."""
        try:
            maps = heat_maps(self.result.capture, layers=layers, heads=heads, rows=rows, query=query)
        except CaptureError:
            return ()
        return self._shown(filtered(maps, self.drawing))


def first_frames(result: VqaRecord, steps: Sequence[int]) -> list[Picture]:
    """The first sampled frame of each of some steps of a clip."""
    clip, indices = result.media[0], list(result.media[0].facts.frame_indices)
    firsts = result.capture.grids[0].frame_span[list(steps), 0].tolist()
    return [clip.frames[indices.index(first)] for first in firsts]


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
        kept_px, wanted_px = media.frames.shape[2], min(media.size_px[0], drawn_size_px(media.size_px, drawing)[0])
        if media.clip is None and kept_px < wanted_px:
            notes.append(f"picture {i + 1} is kept {kept_px} pixels wide and drawn larger: --media names the original")
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
    tokens = sum(token.role == "answer" for token in result.capture.tokens)
    if result.media[0].clip and result.settings.query == "answer" and tokens > MAX_WORDS:
        notes.append(f"answer/ has the first {MAX_WORDS} of the answer's {tokens} tokens")
    if result.is_cut:
        notes.append(f"the answer was cut at {result.settings.max_new_tokens} tokens (--max-new-tokens)")
    if result.methods and not result.methods[0].removed and result.methods[0].method.startswith("sinks"):
        notes.append("no sinks were found: the map is that of the plain mean")
    if result.methods and {*result.methods[0].layers} - {*result.capture.layers.tolist()}:
        notes.append(f"method {result.methods[0].method} goes through all layers, whatever --layers says")
    if len(result.methods) > 1:
        others = ", ".join(one.method for one in result.methods[1:])
        notes.append(f"the pictures show method {result.methods[0].method}; attention.npz also has {others}")
    if drawing.denoise and result.settings.faithfulness:
        notes.append("faithfulness is measured of the map before the filter")
    return DrawnResult(result, drawing, filtered(result.heatmaps(), drawing), tuple(notes))


MAX_NAMED_CELLS = 12


def headline_caption(result: VqaRecord, one: HeatMap) -> list[str]:
    """What the headline map is, a line each."""
    made, profile = result.provenance, result.settings.profile
    model = f"{made.model} · {made.attention} attention in {made.dtype}"
    if result.methods:
        return [*_method_caption(result, one), model]
    named = profile or result.settings.layers or "." in (result.settings.heads or "")
    heads = describe_heads(result, one)
    depth = "" if named else " (50 to 85 % of the depth)"
    layers = f"{describe_layers(one.layers)} of 0-{made.layer_count - 1}{depth} · {heads}"
    if "." in one.heads:  # which says the layers as well
        layers = f"{heads} of {made.layer_count} layers of {made.head_count} heads"
    return [f"{describe_query(result, one)} · {layers}", *([profile.standing] if profile else []), model]


def _method_caption(result: VqaRecord, one: HeatMap) -> list[str]:
    method, profile = result.methods[0], result.settings.profile
    known = METHODS[method.method]
    asked = f"{describe_query(result, one)} · " if known.follows_query else ""
    lines = [f"method {method.method} · {asked}{method.caption}"]
    lines += [profile.standing] if profile and (known.heads or set(method.layers) == set(profile.layers)) else []
    return lines + ([f"crossed out: {describe_removed(result)}"] if method.removed else [])


def describe_removed(result: VqaRecord) -> str:
    """Which cells a method took out, by row and column from 1."""
    method, named = result.methods[0], []
    pictures, steps = len(result.capture.grids), max(grid.shape[0] for grid in result.capture.grids)
    for number in method.removed[:MAX_NAMED_CELLS]:
        media, (step, row, column) = place_of(result, number)
        where = f"picture {media + 1}, " if pictures > 1 else f"step {step + 1}, " if steps > 1 else ""
        named.append(f"{where}row {row + 1}, column {column + 1}")
    more = len(method.removed) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")


def place_of(result: VqaRecord, cell: int) -> tuple[int, tuple[int, int, int]]:
    """Which picture a cell of the V axis is of, and its step, row and column there."""
    for i, grid in enumerate(result.capture.grids):
        if cell < grid.cells:
            _, rows, columns = grid.shape
            return i, (cell // (rows * columns), cell // columns % rows, cell % columns)
        cell -= grid.cells
    raise IndexError("no such cell")


def describe_heads(result: VqaRecord, one: HeatMap) -> str:
    """The heads of a map."""
    return f"mean of all {result.provenance.head_count} heads" if one.heads == "all" else f"heads {one.heads}"


def describe_query(result: VqaRecord, one: HeatMap) -> str:
    """Whose attention a map is."""
    count = len(one.queries)
    tokens = f"{count} token{'s' if count != 1 else ''}"
    if one.query == "last":
        return "attention of the last prompt token, which produces the answer's first"
    if one.query == "answer":
        return f"attention of the {tokens} that produced the answer"
    if one.query == "question":
        return f"attention of the question, {tokens}"
    return f"attention of “{one.query.removeprefix('text:')}”, {tokens}"
