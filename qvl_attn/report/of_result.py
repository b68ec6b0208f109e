"""What a page tells of a result: its words, its maps by layer, word, head and method, its pictures or frames.

All averages are taken here, with the functions that the pictures are drawn with; the page only looks them up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.grid import frames_per_step
from qvl_attn.methods import METHODS, MethodMap
from qvl_attn.methods.drawn import method_heat_maps
from qvl_attn.plain import shortened
from qvl_attn.reduce import mean_over
from qvl_attn.render import fit_px, percentile_scale, resize_picture
from qvl_attn.report.pack import Parcel, coarse
from qvl_attn.report.page import page_html
from qvl_attn.result import Result
from qvl_attn.schema import base_name, faithfulness_json
from qvl_attn.select import QUERY_KINDS, produced_words, query_rows, words
from qvl_attn.types import Capture, IntArray, Media, TokenGrid

# The most values of maps that a page of one result carries, some 2 bytes each; what is beyond is left out, and said.
MAX_VALUES = 4_000_000
MAX_PICTURE_PX, MAX_FRAMES = 1280, 128
Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Row:
    """Whose attention: a query as a whole, or a word, with rows of the capture."""

    kind: str
    text: str
    rows: IntArray


def result_html(results: Sequence[Result], notes: Sequence[Sequence[str]] = ()) -> str:
    """One page of one or several results.

    Args:
        results: captured, or read back; several stand side by side.
        notes: for each result what its reader should know, a line each.
    """
    parcel = Parcel()
    told = [result_data(one, notes[i] if notes else (), parcel) for i, one in enumerate(results)]
    title = " · ".join(dict.fromkeys(shortened(one["question"]) for one in told))
    first = {map_["coarse"] for one in told for map_ in one["maps"]}
    return page_html("result", f"{title} · qvl-attn", {"results": told}, parcel, first)


def result_data(result: Result, notes: Sequence[str], parcel: Parcel) -> dict[str, Any]:
    """What the page is told of one result; its maps and pictures go into the parcel.

    Args:
        result: captured, or read back.
        notes: what the reader should know, a line each.
        parcel: is added to.
    """
    rows = list(_rows(result))
    left_out: list[str] = []
    attention = _attention(result, rows, parcel, left_out)
    made = result.provenance
    return {
        "question": result.question,
        "answer": result.mapped_answer,
        "own_answer": None if result.supplied_answer is None else result.answer,
        "logprob": result.answer_logprob if result.supplied_answer is None else result.supplied_logprob,
        "pieces": {
            "question": _pieces(result.capture, result.question, "question", rows),
            "answer": _pieces(result.capture, result.mapped_answer, "answer", rows),
        },
        "rows": [{"kind": row.kind, "text": row.text, "tokens": len(row.rows)} for row in rows],
        "maps": [attention, *(_method(one, result, parcel) for one in result.methods)],
        "headline": len(result.methods[:1]),
        "layer_count": made.layer_count,
        "head_count": made.head_count,
        "media": [_medium(*pair, parcel) for pair in zip(result.media, result.capture.grids, strict=True)],
        "clip": None if result.media[0].clip is None else _clip(result, parcel, left_out),
        "faith": faithfulness_json(result),
        "made": {
            **{name: getattr(made, name) for name in ("qvl_attn", "transformers", "torch", "model", "revision")},
            **{name: getattr(made, name) for name in ("dtype", "device", "attention")},
        },
        "profile": result.settings.profile.standing if result.settings.profile else "",
        "notes": list(notes),
        "left_out": left_out,
    }


def _rows(result: Result) -> Iterator[_Row]:
    """The headline's query first, then the other queries, then each word of the question and of the answer."""
    capture, asked = result.capture, result.settings.query
    for name in dict.fromkeys((asked, *QUERY_KINDS)):
        if name != "answer" or _words_of_answer(result):
            kind, text = ("text", name.removeprefix("text:")) if name.startswith("text:") else (name, "")
            yield _Row(kind, text, query_rows(capture, result.question, name))
    row_of = dict(zip(capture.queries.tolist(), range(len(capture.queries)), strict=True))
    for word in words(capture.tokens, result.question, "question"):
        yield _Row("question word", word.text, np.array([row_of[at] for at in word.positions], dtype=np.int64))
    for text, rows in produced_words(capture, result.mapped_answer):
        yield _Row("answer word", text, rows)


def _words_of_answer(result: Result) -> bool:
    return any(True for _ in produced_words(result.capture, result.mapped_answer))


def _pieces(capture: Capture, text: str, role: str, rows: Sequence[_Row]) -> list[list[Any]]:
    """A text cut into `[part, number of its row or None]`, so that its words can be clicked."""
    numbers = iter(i for i, row in enumerate(rows) if row.kind == f"{role} word")
    found: list[list[Any]] = []
    end = 0
    spans = {token.position: token.span for token in capture.tokens if token.role == role and token.span}
    produced = {*capture.produces.tolist()}
    for word in words(capture.tokens, text, role):
        start, stop = (of(spans[at][i] for at in word.positions) for i, of in ((0, min), (1, max)))
        known = role == "question" or any(at in produced for at in word.positions)
        found += [[text[end:start], None], [text[start:stop], next(numbers) if known else None]]
        end = stop
    return [piece for piece in [*found, [text[end:], None]] if piece[0]]


def _attention(result: Result, rows: Sequence[_Row], parcel: Parcel, left_out: list[str]) -> dict[str, Any]:
    """The plain attention: headline, mean of all layers, each layer; each for every row."""
    capture = result.capture
    layers = capture.layers.tolist()
    share = np.stack([np.isin(np.arange(len(capture.queries)), row.rows) / len(row.rows) for row in rows])
    by_layer = [(share @ weights.astype(np.float64)).astype(np.float32) for weights in capture.weights]
    plain = result.heatmaps(query=result.settings.query)[0]
    named = result.headline_heads()
    heads = named and [pair for pair in named if pair[0] in plain.layers]
    headline = np.stack([mean_over(capture, plain.layers, heads, row.rows) for row in rows])
    sources: list[tuple[dict[str, Any], Maps]] = [({"id": "headline", "layers": list(plain.layers)}, headline)]
    if len(layers) > 1 and not (plain.heads == "all" and list(plain.layers) == layers):
        everything: Maps = np.asarray(np.mean(by_layer, axis=0, dtype=np.float64), dtype=np.float32)
        sources.append(({"id": "all", "layers": layers}, everything))
    sources += [({"id": "layer", "layers": [layer]}, maps) for layer, maps in zip(layers, by_layer, strict=True)]
    values = len(sources) * headline.size
    queries = sum(not row.kind.endswith(" word") for row in rows)
    if values > MAX_VALUES:
        left_out.append("words by layer: words have the map of the headline alone")
        sources = [sources[0], *((about, maps[:queries]) for about, maps in sources[1:])]
        values = sum(maps.size for _, maps in sources)
    shared = [
        percentile_scale(
            [maps[i] for about, maps in sources if about["id"] == "layer" and i < len(maps)] or [headline[i]]
        )
        for i in range(len(rows))
    ]
    return {
        "name": "attention",
        "caption": "",
        "heads_of": plain.heads,
        **_packed(sources, capture.grids, parcel),
        "shared": [scale.high for scale in shared],
        "heads": _heads(capture, rows[0].rows, MAX_VALUES - values, parcel, left_out),
        "removed": [],
    }


def _packed(
    sources: Sequence[tuple[Mapping[str, Any], Maps]], grids: Sequence[TokenGrid], parcel: Parcel
) -> dict[str, Any]:
    """Coarse maps of all rows of all sources in one block, and a block a source."""
    every = np.concatenate([maps for _, maps in sources])
    split = np.split(every, np.cumsum([grid.cells for grid in grids])[:-1], axis=1)
    small = [coarse(part.reshape(-1, *grid.shape)) for part, grid in zip(split, grids, strict=True)]
    start, told = 0, []
    for about, maps in sources:
        told.append(
            {
                **about,
                "block": parcel.add_rows(maps),
                "rows": len(maps),
                "coarse_at": start,
                "mass": maps.sum(axis=1, dtype=np.float64).tolist(),
                "high": [percentile_scale([row]).high for row in maps],
            }
        )
        start += len(maps)
    return {"sources": told, "coarse": parcel.add_rows(np.concatenate(small, axis=1))}


def _heads(capture: Capture, rows: IntArray, room: int, parcel: Parcel, left_out: list[str]) -> dict[str, Any] | None:
    """Each head that was kept apart, for the headline's query alone."""
    by_head = capture.weights_by_head
    if by_head is None:
        return None
    if by_head.shape[0] * by_head.shape[1] * by_head.shape[3] > room:
        left_out.append("heads: attention.npz has them")
        return None
    maps = by_head[:, :, rows].mean(axis=2, dtype=np.float64).astype(np.float32)
    ordered = np.sort(maps, axis=-1)[..., ::-1]
    mass = maps.sum(axis=-1, dtype=np.float64)
    left_out.append("heads by word: each head has the map of the headline's query alone")
    return {
        "layers": list(capture.apart.layers if capture.apart else capture.layers.tolist()),
        "numbers": list(capture.apart.heads if capture.apart else range(maps.shape[1])),
        "blocks": [parcel.add_rows(layer) for layer in maps],
        "mass": mass.tolist(),
        "top10": (ordered[..., :10].sum(axis=-1) / np.where(mass > 0, mass, 1)).tolist(),
        "high": [[percentile_scale([row]).high for row in layer] for layer in maps],
        "shared": percentile_scale([maps]).high,
    }


def _method(method: MethodMap, result: Result, parcel: Parcel) -> dict[str, Any]:
    """A method's map, and those of its layers."""
    known = METHODS[method.method]
    sources: list[tuple[dict[str, Any], Maps]] = [
        ({"id": "headline", "layers": list(method.layers)}, method.values[None])
    ]
    by_layer = () if method.layer_values is None else method.layer_values
    sources += [
        ({"id": "layer", "layers": [layer]}, values[None])
        for layer, values in zip(method.layer_numbers, by_layer, strict=True)
    ]
    every = [maps for about, maps in sources if about["id"] == "layer"] or [method.values]
    asked = result.settings.query
    drawn = method_heat_maps(method, result.capture, result.query_rows(), asked) if method.values.any() else ()
    return {
        "name": method.method,
        "caption": method.caption,
        "follows_query": known.follows_query,
        "share": drawn[0].vision_mass if drawn and known.follows_query else None,
        "layer_label": known.layer_label,
        **_packed(sources, result.capture.grids, parcel),
        "shared": [percentile_scale(every).high],
        "heads": None,
        "removed": list(method.removed),
    }


def _medium(media: Media, grid: TokenGrid, parcel: Parcel) -> dict[str, Any]:
    """A picture or clip: its size, its cells' edges in its pixels, and the picture itself."""
    steps, rows, columns = grid.shape
    boxes = grid.boxes_px[: rows * columns].reshape(rows, columns, 4)
    return {
        "name": base_name(media.source),
        "size_px": list(media.size_px),
        "grid": [steps, rows, columns],
        "xs": [*boxes[0, :, 0].tolist(), float(boxes[0, -1, 2])],
        "ys": [*boxes[:, 0, 1].tolist(), float(boxes[-1, 0, 3])],
        "drawn_px": list(_drawn_px(media)),
        "picture": None if media.clip else _picture(media.frames[0], media, parcel),
    }


def _drawn_px(media: Media) -> tuple[int, int]:
    return fit_px(media.size_px, min(max(media.frames.shape[1:3]), MAX_PICTURE_PX))


def _picture(frame: NDArray[np.uint8], media: Media, parcel: Parcel) -> int:
    return parcel.add_picture(resize_picture(frame, _drawn_px(media)))


def _clip(result: Result, parcel: Parcel, left_out: list[str]) -> dict[str, Any]:
    """The frames that were sampled, when each is shown, which step it fed, and what each pass answered."""
    from qvl_attn.timeline import step_edges_s  # loads matplotlib

    media, grid = result.media[0], result.capture.grids[0]
    count = len(media.frames)
    per_step = frames_per_step(count, grid.shape[0])
    masses = [one.heatmap().vision_mass for one in result.passes] if result.way == "both" else []
    shown = np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int).tolist()
    if len(shown) < count:
        left_out.append(f"frames: {len(shown)} of {count} are here, evenly chosen")
    return {
        "frames": [_picture(media.frames[i], media, parcel) for i in shown],
        "times_s": [float(media.sampled_s[i]) for i in shown],
        "step_of": [i // per_step for i in shown],
        "edges_s": step_edges_s(media, grid.shape[0]).tolist(),
        "way": result.way,
        "alone": [float(masses[i] / np.mean(masses)) for i in shown] if masses else [],
        "passes": [{"when": one.media[0].shown_when, "answer": one.mapped_answer} for one in result.passes],
    }
