"""What the page of a question's result has of its own: its words, the maps of its methods, and faithfulness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.heatmap import mean_over
from qvl_attn.attribution.methods.registry import METHODS, MethodMap
from qvl_attn.attribution.selection import QUERY_KINDS, Pairs, Query, describe_heads, query_rows, words
from qvl_attn.core.text import plain, shortened
from qvl_attn.core.types import Capture, IntArray
from qvl_attn.model.token_grid import frames_per_step
from qvl_attn.render.html.payload import MAX_FRAMES, MAX_VALUES, LeftOut, Payload
from qvl_attn.results.page_data import PagePart, clip_data, common_data, heads_data, map_data, medium_data
from qvl_attn.vqa.codec import faithfulness_json
from qvl_attn.vqa.record import VqaRecord

# Methods whose values are attention weights and sum to the share on vision.
ATTENTION_METHODS = ("mean", "heads")
# Browsers need seconds to lay out an endless word; `result.json` has it whole.
MAX_WORD, MAX_TEXT = 500, 5000
Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Row:
    """The source of the attention in a map: a query as a whole, or a word.

    Attributes:
        kind: `question`, `last`, `answer`, `text`, `question word` or `answer word`.
        text: text of the word or of the `text:` query; else empty.
        rows: indices into the capture's Q axis.
        positions: positions of a word's tokens; empty for a query.
    """

    kind: str
    text: str
    rows: IntArray
    positions: tuple[int, ...] = ()

    @property
    def is_word(self) -> bool:
        """Whether the row is one word."""
        return bool(self.positions)


def fit_rows(rows: Sequence[Row], cells: int, left_out: LeftOut) -> list[Row]:
    """Return the rows that fit into a page if each has one map, words last."""
    queries = [row for row in rows if not row.is_word]
    words = [row for row in rows if row.is_word]
    max_words = max(MAX_VALUES // 2 // cells - len(queries), 0)
    if len(words) > max_words:
        left_out.append(["words", max_words, len(words)])
    return [*queries, *words[:max_words]]


def result_maps(result: VqaRecord, rows: Sequence[Row], payload: Payload, left_out: LeftOut) -> list[dict[str, Any]]:
    """Return the page data of all maps: plain attention, then each method.

    Args:
        result: the result, fresh or read back.
        rows: the headline's query first, words last.
        payload: the maps are added to it.
        left_out: what does not fit is added to it.
    """
    max_values = payload.values + MAX_VALUES
    attention = _attention(result, rows, payload, left_out)
    attention["heads"] = _heads(result, rows[0].rows, max_values, payload, left_out)
    return [attention, *(_method(method, result, max_values, payload, left_out) for method in result.methods)]


def _attention(result: VqaRecord, rows: Sequence[Row], payload: Payload, left_out: LeftOut) -> dict[str, Any]:
    """Return plain attention: the headline of every row, and all layers together and singly at least of the queries."""
    queries, layers = sum(not row.is_word for row in rows), len(result.capture.layers)
    cells = len(result.capture.vision_tokens)
    layer_rows = len(rows)
    if (layers + 2) * layer_rows * cells > MAX_VALUES and layer_rows > queries:
        left_out.append(["words_by_layer"])
        layer_rows = queries
    shapes = [grid.shape for grid in result.capture.grids]
    return map_data("attention", "attention", _sources(result, rows), shapes, payload, layer_rows=layer_rows)


def _sources(result: VqaRecord, rows: Sequence[Row]) -> Iterator[tuple[dict[str, Any], Maps]]:
    """Yield (R, V) maps of all rows: the headline, the mean of all layers, each layer (with its named heads)."""
    capture, named = result.capture, result.headline_heads() or ()
    row_weights = np.stack([np.isin(np.arange(len(capture.queries)), row.rows) / len(row.rows) for row in rows])
    plain, heads = result.plain_maps()[0], result.headline.heads
    layers = capture.layers.tolist()
    entry = {"id": "headline", "layers": list(plain.layers), "heads": _describe_heads(result, heads or ())}
    yield entry, np.stack([mean_over(capture, plain.layers, heads, row.rows) for row in rows])
    if len(layers) > 1 and not (heads is None and list(plain.layers) == layers):
        maps = row_weights @ capture.weights.mean(axis=0, dtype=np.float64)
        yield {"id": "all", "layers": layers, "heads": "all"}, maps.astype(np.float32)
    for layer, weights in zip(layers, capture.weights, strict=True):
        layer_heads = tuple(pair for pair in named if pair[0] == layer)
        if layer_heads:
            maps = np.stack([mean_over(capture, [layer], layer_heads, row.rows) for row in rows])
        else:
            maps = (row_weights @ weights.astype(np.float64)).astype(np.float32)
        yield {"id": "layer", "layers": [layer], "heads": _describe_heads(result, layer_heads)}, maps


def _describe_heads(result: VqaRecord, pairs: Pairs) -> str:
    """Return named heads as text: `all` if they are all heads of their layers."""
    complete = len(pairs) == len({layer for layer, _ in pairs}) * result.provenance.head_count
    return describe_heads(None if complete else pairs)


def _heads(
    result: VqaRecord, rows: IntArray, max_values: int, payload: Payload, left_out: LeftOut
) -> dict[str, Any] | None:
    """Return the page data of each recorded head, for the headline's query only."""
    capture, by_head = result.capture, result.capture.weights_by_head
    if by_head is None:
        return None
    if payload.values + by_head.shape[0] * by_head.shape[1] * by_head.shape[3] > max_values:
        left_out.append(["heads"])
        return None
    maps = np.stack([layer[:, rows].mean(axis=1, dtype=np.float64).astype(np.float32) for layer in by_head])
    descending = np.sort(maps, axis=-1)[..., ::-1]
    mass = maps.sum(axis=-1, dtype=np.float64)
    left_out.append(["heads_by_word"])
    layers = capture.apart.layers if capture.apart else tuple(capture.layers.tolist())
    numbers = capture.apart.heads if capture.apart else tuple(range(maps.shape[1]))
    return {
        **heads_data(layers, numbers, [[layer] for layer in maps], payload),
        "mass": mass.tolist(),
        "top10": (descending[..., :10].sum(axis=-1) / np.where(mass > 0, mass, 1)).tolist(),
    }


def _method(
    method: MethodMap, result: VqaRecord, max_values: int, payload: Payload, left_out: LeftOut
) -> dict[str, Any]:
    """Return the page data of a method's map and of the maps of its layers."""
    spec = METHODS[method.method]
    by_layer = () if method.layer_values is None else method.layer_values
    layers = list(zip(method.layer_numbers, by_layer, strict=True))
    if payload.values + (1 + len(layers)) * len(method.values) > max_values:
        left_out.append(["method_layers", method.method])
        layers = []
    sources: list[tuple[dict[str, Any], Maps]] = [
        ({"id": "headline", "layers": list(method.layers)}, method.values[None])
    ]
    sources += [({"id": "layer", "layers": [layer]}, values[None]) for layer, values in layers]
    shapes = [grid.shape for grid in result.capture.grids]
    follows = spec.follows_query and method.values.any()
    return {
        **map_data("method", method.method, sources, shapes, payload),
        "caption": method.caption,
        "is_attention": method.method in ATTENTION_METHODS,
        "follows_query": spec.follows_query,
        "share": result.method_maps(method)[0].vision_mass if follows else None,
        "layer_label": spec.layer_label,
        "rows": [],
        "removed": list(method.removed),
    }


def question_page_part(result: VqaRecord, notes: Sequence[str], payload: Payload) -> PagePart:
    """Return the page's part of one result; its maps and pictures go into the payload.

    Args:
        result: the result, fresh or read back.
        notes: what the reader should know, a line each.
        payload: maps and pictures are added to it.
    """
    left_out: LeftOut = []
    capture, question = result.capture, shortened(result.question, MAX_TEXT)
    rows = fit_rows(list(_rows(result)), len(capture.vision_tokens), left_out)
    pieces = {
        "question": _pieces(capture, result.question, "question", rows, left_out),
        "answer": _pieces(capture, result.mapped_answer, "answer", rows, left_out),
    }
    data = common_data(
        result,
        "question",
        question,
        rows=[_row_data(row) for row in rows],
        maps=result_maps(result, rows, payload, left_out),
        media=[
            medium_data(medium, grid.shape, grid.boxes_px, payload, pictures=len(result.media))
            for medium, grid in zip(result.media, capture.grids, strict=True)
        ],
        clip=_clip(result, payload, left_out) if result.is_clip else None,
        layer_count=result.provenance.layer_count,
        head_count=result.provenance.head_count,
        made=("attention",),
        notes=[*([result.settings.profile.status] if result.settings.profile else []), *notes],
        left_out=left_out,
        headline=len(result.methods[:1]),
    )
    data |= {
        "question": question,
        "answer": shortened(result.mapped_answer, MAX_TEXT),
        "own_answer": None if result.supplied_answer is None else shortened(result.answer, MAX_TEXT),
        "pieces": pieces,
        "faith": faithfulness_json(result),
    }
    return PagePart(data, shortened(question))


def _row_data(row: Row) -> dict[str, Any]:
    word = {"is_word": True} if row.is_word else {}
    return {"kind": row.kind, "text": shortened(row.text, MAX_WORD), "tokens": len(row.rows), **word}


def _rows(result: VqaRecord) -> Iterator[Row]:
    """Yield the headline's query, then the other queries, then each word of the question and of the answer."""
    capture, headline_query, word_rows = result.capture, result.selection.query, list(_word_rows(result))
    answered = any(row.kind == "answer word" for row in word_rows)
    for query in dict.fromkeys((headline_query, *map(Query, QUERY_KINDS))):
        if query == headline_query or query.kind != "answer" or answered:
            yield Row(query.kind, plain(query.words), query_rows(capture, result.question, query))
    yield from word_rows


# Line and paragraph separators, which browsers draw as nothing.
_DRAWN = str.maketrans("\u2028\u2029", "\n\n")


def _word_rows(result: VqaRecord) -> Iterator[Row]:
    capture = result.capture
    row_of = {position: row for row, position in enumerate(capture.queries.tolist())}
    producer_of = {position: row for row, position in enumerate(capture.produces.tolist()) if position >= 0}
    for role, text, rows in (("question", result.question, row_of), ("answer", result.mapped_answer, producer_of)):
        for word in words(capture.tokens, text, role):
            word_rows = [rows[position] for position in word.positions if position in rows]
            if word_rows:
                yield Row(f"{role} word", plain(word.text), np.array(word_rows, dtype=np.int64), word.positions)


def _pieces(capture: Capture, text: str, role: str, rows: Sequence[Row], left_out: LeftOut) -> list[list[Any]]:
    """Return a text as `[piece, index of its row or None]`, so that its words can be clicked; long words are cut."""
    numbers = {row.positions: i for i, row in enumerate(rows) if row.is_word}
    spans = {token.position: token.span for token in capture.tokens if token.role == role and token.span}
    pieces: list[list[Any]] = []
    end = 0
    for word in words(capture.tokens, text, role):
        start, stop = (of(spans[at][i] for at in word.positions) for i, of in ((0, min), (1, max)))
        pieces += [[text[end:start], None], [text[start:stop], numbers.get(word.positions)]]
        end = stop
    pieces.append([text[end:], None])
    if any(len(piece) > MAX_WORD for piece, _ in pieces):
        left_out.append(["long_words", MAX_WORD])
    return [[shortened(piece, MAX_WORD).translate(_DRAWN), row] for piece, row in pieces if piece]


def _clip(result: VqaRecord, payload: Payload, left_out: LeftOut) -> dict[str, Any]:
    """Return the page data of a clip: sampled frames, their times and steps, and the answer of each pass."""
    from qvl_attn.results.clip_export import step_edges_s  # loads PyAV

    media, grid = result.media[0], result.capture.grids[0]
    count = len(media.frames)
    per_step = frames_per_step(count, grid.shape[0])
    masses = [pass_result.heatmap().vision_mass for pass_result in result.passes] if result.pass_mode == "both" else []
    indices = np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int).tolist()
    if len(indices) < count:
        left_out.append(["frames", len(indices), count])
    return {
        **clip_data(media, indices, [i // per_step for i in indices], grid.shape[0], payload),
        "edges_s": step_edges_s(media, grid.shape[0]).tolist(),
        "way": result.pass_mode,
        "alone": [float(masses[i] / np.mean(masses)) for i in indices] if masses else [],
        "passes": [{"when": part.media[0].time_label, "answer": part.mapped_answer} for part in result.passes],
    }
