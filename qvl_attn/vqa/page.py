"""What a page tells of a result: its words, its maps, its pictures or frames, what made it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.heatmap import mean_over, percentile_scale
from qvl_attn.attribution.methods import METHODS, MethodMap
from qvl_attn.attribution.selection import QUERY_KINDS, query_rows, words
from qvl_attn.core.text import plain, shortened
from qvl_attn.core.types import Capture, IntArray, Media, TokenGrid
from qvl_attn.media.resize import resize_picture
from qvl_attn.model.token_grid import frames_per_step
from qvl_attn.render.html.page import page_html
from qvl_attn.render.html.payload import Payload, coarse
from qvl_attn.results.codec import base_name
from qvl_attn.results.page_data import MAX_FRAMES, MAX_PICTURE_PX, MAX_VALUES, LeftOut, drawn_px_of
from qvl_attn.vqa.codec import faithfulness_json
from qvl_attn.vqa.record import VqaRecord

# Whose values are attention themselves, and sum to its share on vision.
OF_ATTENTION = ("mean", "heads")
Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Row:
    """Whose attention: a query as a whole, or a word.

    Attributes:
        kind: `question`, `last`, `answer`, `text`, `question word` or `answer word`.
        text: of a word or a `text:` query.
        rows: indices into the capture's Q axis.
        positions: of a word, its tokens'.
    """

    kind: str
    text: str
    rows: IntArray
    positions: tuple[int, ...] = ()

    @property
    def is_word(self) -> bool:
        """Whether it is one word."""
        return bool(self.positions)


def fitting(rows: Sequence[Row], cells: int, left_out: LeftOut) -> list[Row]:
    """The rows that a page has room for, words last, when it shows each once."""
    queries = [row for row in rows if not row.is_word]
    words = [row for row in rows if row.is_word]
    room = max(MAX_VALUES // 2 // cells - len(queries), 0)
    if len(words) > room:
        left_out.append(["words", room, len(words)])
    return [*queries, *words[:room]]


def result_maps(result: VqaRecord, rows: Sequence[Row], payload: Payload, left_out: LeftOut) -> list[dict[str, Any]]:
    """Plain attention, then each method.

    Args:
        result: captured, or read back.
        rows: the headline's query first, words last.
        payload: is added to.
        left_out: is added to.
    """
    most = payload.values + MAX_VALUES
    found = [_attention(result, rows, payload, left_out)]
    found[0]["heads"] = _heads(result, rows[0].rows, most, payload, left_out)
    return [*found, *(_method(one, result, most, payload, left_out) for one in result.methods)]


def _attention(result: VqaRecord, rows: Sequence[Row], payload: Payload, left_out: LeftOut) -> dict[str, Any]:
    """For every row the headline and, of the queries at least, the mean of all layers and each layer."""
    queries, layers = sum(not row.is_word for row in rows), len(result.capture.layers)
    cells = len(result.capture.vision_tokens)
    kept = len(rows)
    if (layers + 2) * kept * cells > MAX_VALUES and kept > queries:
        left_out.append(["words_by_layer"])
        kept = queries
    sources, of_layers = _packed(_sources(result, rows), kept, result.capture.grids, payload)
    own = sources["sources"][0]["high"]
    shared = [percentile_scale([maps[i] for maps in of_layers]).high if i < kept else own[i] for i in range(len(rows))]
    return {"name": "attention", "caption": "", "is_attention": True, **sources, "shared": shared, "removed": []}


def _sources(result: VqaRecord, rows: Sequence[Row]) -> Iterator[tuple[dict[str, Any], Maps]]:
    """(R, V) maps of all rows: the headline's, the mean of all layers, each layer with the heads that were named."""
    capture, named = result.capture, result.headline_heads() or ()
    share = np.stack([np.isin(np.arange(len(capture.queries)), row.rows) / len(row.rows) for row in rows])
    plain = result.heatmaps(query=result.settings.query)[0]
    heads = [pair for pair in named if pair[0] in plain.layers] or None
    layers = capture.layers.tolist()
    about = {"id": "headline", "layers": list(plain.layers), "heads": _describe_heads(result, heads or ())}
    yield about, np.stack([mean_over(capture, plain.layers, heads, row.rows) for row in rows])
    if len(layers) > 1 and not (plain.heads == "all" and list(plain.layers) == layers):
        maps = share @ capture.weights.mean(axis=0, dtype=np.float64)
        yield {"id": "all", "layers": layers, "heads": "all"}, maps.astype(np.float32)
    for layer, weights in zip(layers, capture.weights, strict=True):
        own = [pair for pair in named if pair[0] == layer]
        if own:
            maps = np.stack([mean_over(capture, [layer], own, row.rows) for row in rows])
        else:
            maps = (share @ weights.astype(np.float64)).astype(np.float32)
        yield {"id": "layer", "layers": [layer], "heads": _describe_heads(result, own)}, maps


def _describe_heads(result: VqaRecord, pairs: Sequence[tuple[int, int]]) -> str:
    """Named heads, as text: `all` where they are all of their layers."""
    whole = len(pairs) == len({layer for layer, _ in pairs}) * result.provenance.head_count
    return "all" if whole else ",".join(f"{layer}.{head}" for layer, head in pairs)


def _packed(
    sources: Iterable[tuple[dict[str, Any], Maps]], kept: int, grids: Sequence[TokenGrid], payload: Payload
) -> tuple[dict[str, Any], list[Maps]]:
    """A block a source, all rows of the headline and `kept` of the others; their coarse maps in one block.

    Returns:
        What the page is told of them, and the maps of the layers that it has.
    """
    told: list[dict[str, Any]] = []
    small, of_layers, start = [], [], 0
    for about, maps in sources:
        there = maps if about["id"] == "headline" else maps[:kept]
        parts = np.split(there, np.cumsum([grid.cells for grid in grids])[:-1], axis=1)
        coarse_parts = [coarse(part.reshape(-1, *grid.shape)) for part, grid in zip(parts, grids, strict=True)]
        small.append(np.concatenate(coarse_parts, axis=1))
        of_layers += [there] if about["id"] == "layer" else []
        told.append(
            {
                **about,
                "block": payload.add_rows(there),
                "rows": len(there),
                "coarse_at": start,
                "mass": maps.sum(axis=1, dtype=np.float64).tolist(),
                "high": [percentile_scale([row]).high for row in there],
            }
        )
        start += len(there)
    return {"sources": told, "coarse": payload.add_rows(np.concatenate(small))}, of_layers


def _heads(result: VqaRecord, rows: IntArray, most: int, payload: Payload, left_out: LeftOut) -> dict[str, Any] | None:
    """Each head that was kept apart, for the headline's query alone."""
    capture, by_head = result.capture, result.capture.weights_by_head
    if by_head is None:
        return None
    if payload.values + by_head.shape[0] * by_head.shape[1] * by_head.shape[3] > most:
        left_out.append(["heads"])
        return None
    maps = np.stack([layer[:, rows].mean(axis=1, dtype=np.float64).astype(np.float32) for layer in by_head])
    ordered = np.sort(maps, axis=-1)[..., ::-1]
    mass = maps.sum(axis=-1, dtype=np.float64)
    left_out.append(["heads_by_word"])
    return {
        "layers": list(capture.apart.layers if capture.apart else capture.layers.tolist()),
        "numbers": list(capture.apart.heads if capture.apart else range(maps.shape[1])),
        "blocks": [payload.add_rows(layer) for layer in maps],
        "mass": mass.tolist(),
        "top10": (ordered[..., :10].sum(axis=-1) / np.where(mass > 0, mass, 1)).tolist(),
        "high": [[percentile_scale([row]).high for row in layer] for layer in maps],
        "shared": percentile_scale([maps]).high,
    }


def _method(method: MethodMap, result: VqaRecord, most: int, payload: Payload, left_out: LeftOut) -> dict[str, Any]:
    """A method's map, and those of its layers."""
    known = METHODS[method.method]
    by_layer = () if method.layer_values is None else method.layer_values
    layers = list(zip(method.layer_numbers, by_layer, strict=True))
    if payload.values + (1 + len(layers)) * len(method.values) > most:
        left_out.append(["method_layers", method.method])
        layers = []
    sources: list[tuple[dict[str, Any], Maps]] = [
        ({"id": "headline", "layers": list(method.layers)}, method.values[None])
    ]
    sources += [({"id": "layer", "layers": [layer]}, values[None]) for layer, values in layers]
    packed, of_layers = _packed(sources, 1, result.capture.grids, payload)
    follows = known.follows_query and method.values.any()
    return {
        "name": method.method,
        "caption": method.caption,
        "is_attention": method.method in OF_ATTENTION,
        "follows_query": known.follows_query,
        "share": result.method_maps(method)[0].vision_mass if follows else None,
        "layer_label": known.layer_label,
        **packed,
        "shared": [percentile_scale(of_layers or [method.values]).high],
        "heads": None,
        "removed": list(method.removed),
    }


def result_html(results: Sequence[VqaRecord], notes: Sequence[Sequence[str]] = ()) -> str:
    """One page of one or several results.

    Args:
        results: captured, or read back; several stand side by side.
        notes: for each result what its reader should know, a line each.
    """
    payload = Payload()
    told = [result_data(one, notes[i] if notes else (), payload) for i, one in enumerate(results)]
    title = " · ".join(dict.fromkeys(shortened(one["question"]) for one in told))
    first = {map_["coarse"] for one in told for map_ in one["maps"]}
    return page_html("result", f"{title} · qvl-attn", {"results": told}, payload, first)


def result_data(result: VqaRecord, notes: Sequence[str], payload: Payload) -> dict[str, Any]:
    """What the page is told of one result; its maps and pictures go into the parcel.

    Args:
        result: captured, or read back.
        notes: what the reader should know, a line each.
        payload: is added to.
    """
    left_out: LeftOut = []
    rows = fitting(list(_rows(result)), len(result.capture.vision_tokens), left_out)
    made = result.provenance
    return {
        "question": result.question,
        "answer": result.mapped_answer,
        "own_answer": None if result.supplied_answer is None else result.answer,
        "pieces": {
            "question": _pieces(result.capture, result.question, "question", rows),
            "answer": _pieces(result.capture, result.mapped_answer, "answer", rows),
        },
        "rows": [{"kind": row.kind, "text": row.text, "tokens": len(row.rows)} for row in rows],
        "maps": result_maps(result, rows, payload, left_out),
        "headline": len(result.methods[:1]),
        "layer_count": made.layer_count,
        "head_count": made.head_count,
        "media": [
            _medium(one, grid, _drawn_px(one, len(result.media)), payload)
            for one, grid in zip(result.media, result.capture.grids, strict=True)
        ],
        "clip": None if result.media[0].clip is None else _clip(result, payload, left_out),
        "faith": faithfulness_json(result),
        "made": {
            **{name: getattr(made, name) for name in ("qvl_attn", "transformers", "torch", "model", "revision")},
            **{name: getattr(made, name) for name in ("dtype", "device", "attention")},
        },
        "profile": result.settings.profile.standing if result.settings.profile else "",
        "notes": list(notes),
        "left_out": left_out,
    }


def _rows(result: VqaRecord) -> Iterator[Row]:
    """The headline's query first, then the other queries, then each word of the question and of the answer."""
    capture, asked, of_words = result.capture, result.settings.query, list(_word_rows(result))
    answered = any(row.kind == "answer word" for row in of_words)
    for name in dict.fromkeys((asked, *QUERY_KINDS)):
        if name == asked or name != "answer" or answered:
            kind, text = ("text", name.removeprefix("text:")) if name.startswith("text:") else (name, "")
            yield Row(kind, plain(text), query_rows(capture, result.question, name))
    yield from of_words


def _word_rows(result: VqaRecord) -> Iterator[Row]:
    capture = result.capture
    row_of = {position: row for row, position in enumerate(capture.queries.tolist())}
    maker_of = {position: row for row, position in enumerate(capture.produces.tolist()) if position >= 0}
    for role, text, rows in (("question", result.question, row_of), ("answer", result.mapped_answer, maker_of)):
        for word in words(capture.tokens, text, role):
            own = [rows[position] for position in word.positions if position in rows]
            if own:
                yield Row(f"{role} word", plain(word.text), np.array(own, dtype=np.int64), word.positions)


def _pieces(capture: Capture, text: str, role: str, rows: Sequence[Row]) -> list[list[Any]]:
    """A text cut into `[part, number of its row or None]`, so that its words can be clicked."""
    numbers = {row.positions: i for i, row in enumerate(rows) if row.is_word}
    spans = {token.position: token.span for token in capture.tokens if token.role == role and token.span}
    found: list[list[Any]] = []
    end = 0
    for word in words(capture.tokens, text, role):
        start, stop = (of(spans[at][i] for at in word.positions) for i, of in ((0, min), (1, max)))
        found += [[text[end:start], None], [text[start:stop], numbers.get(word.positions)]]
        end = stop
    return [piece for piece in [*found, [text[end:], None]] if piece[0]]


def _medium(media: Media, grid: TokenGrid, drawn_px: tuple[int, int], payload: Payload) -> dict[str, Any]:
    """A picture or clip: its size, its cells' edges in its pixels, and the picture itself."""
    steps, rows, columns = grid.shape
    boxes = grid.boxes_px[: rows * columns].reshape(rows, columns, 4)
    return {
        "name": base_name(media.source),
        "size_px": list(media.size_px),
        "grid": [steps, rows, columns],
        "xs": [*boxes[0, :, 0].tolist(), float(boxes[0, -1, 2])],
        "ys": [*boxes[:, 0, 1].tolist(), float(boxes[-1, 0, 3])],
        "drawn_px": list(drawn_px),
        "picture": None if media.clip else payload.add_picture(resize_picture(media.frames[0], drawn_px)),
    }


def _drawn_px(media: Media, pictures: int = 1) -> tuple[int, int]:
    """How large a page has a picture: of several, which stand beside one another, each is smaller."""
    return drawn_px_of(media, round(MAX_PICTURE_PX / sqrt(pictures)))


def _clip(result: VqaRecord, payload: Payload, left_out: LeftOut) -> dict[str, Any]:
    """The frames that were sampled, when each is shown, which step it fed, and what each pass answered."""
    from qvl_attn.results.clip_export import step_edges_s  # loads matplotlib

    media, grid = result.media[0], result.capture.grids[0]
    count = len(media.frames)
    per_step = frames_per_step(count, grid.shape[0])
    masses = [one.heatmap().vision_mass for one in result.passes] if result.pass_mode == "both" else []
    shown = np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int).tolist()
    if len(shown) < count:
        left_out.append(["frames", len(shown), count])
    return {
        "frames": [payload.add_picture(resize_picture(media.frames[i], _drawn_px(media))) for i in shown],
        "times_s": [float(media.sampled_s[i]) for i in shown],
        "step_of": [i // per_step for i in shown],
        "edges_s": step_edges_s(media, grid.shape[0]).tolist(),
        "way": result.pass_mode,
        "alone": [float(masses[i] / np.mean(masses)) for i in shown] if masses else [],
        "passes": [{"when": one.media[0].shown_when, "answer": one.mapped_answer} for one in result.passes],
    }
