"""What a page tells of a result: its words, its maps, its pictures or frames, what made it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Any

import numpy as np

from qvl_attn.attribution.selection import QUERY_KINDS, query_rows, words
from qvl_attn.core.text import plain, shortened
from qvl_attn.core.types import Capture, Media, TokenGrid
from qvl_attn.media.resize import fit_px, resize_picture
from qvl_attn.model.token_grid import frames_per_step
from qvl_attn.render.html.page import page_html
from qvl_attn.render.html.payload import Parcel
from qvl_attn.results.codec import base_name
from qvl_attn.vqa.codec import faithfulness_json
from qvl_attn.vqa.maps import LeftOut, Row, fitting, result_maps
from qvl_attn.vqa.record import Result

MAX_PICTURE_PX, MAX_FRAMES = 1280, 128


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
        "maps": result_maps(result, rows, parcel, left_out),
        "headline": len(result.methods[:1]),
        "layer_count": made.layer_count,
        "head_count": made.head_count,
        "media": [
            _medium(one, grid, _drawn_px(one, len(result.media)), parcel)
            for one, grid in zip(result.media, result.capture.grids, strict=True)
        ],
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


def _rows(result: Result) -> Iterator[Row]:
    """The headline's query first, then the other queries, then each word of the question and of the answer."""
    capture, asked, of_words = result.capture, result.settings.query, list(_word_rows(result))
    answered = any(row.kind == "answer word" for row in of_words)
    for name in dict.fromkeys((asked, *QUERY_KINDS)):
        if name == asked or name != "answer" or answered:
            kind, text = ("text", name.removeprefix("text:")) if name.startswith("text:") else (name, "")
            yield Row(kind, plain(text), query_rows(capture, result.question, name))
    yield from of_words


def _word_rows(result: Result) -> Iterator[Row]:
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


def _medium(media: Media, grid: TokenGrid, drawn_px: tuple[int, int], parcel: Parcel) -> dict[str, Any]:
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
        "picture": None if media.clip else parcel.add_picture(resize_picture(media.frames[0], drawn_px)),
    }


def _drawn_px(media: Media, pictures: int = 1) -> tuple[int, int]:
    """How large a page has a picture: of several, which stand beside one another, each is smaller."""
    return drawn_px_of(media, round(MAX_PICTURE_PX / sqrt(pictures)))


def drawn_px_of(media: Media, longest_px: int = MAX_PICTURE_PX) -> tuple[int, int]:
    """How large a page has a picture: no larger than it is, its longer side at most `longest_px`."""
    return fit_px(media.size_px, min(max(media.frames.shape[1:3]), longest_px))


def _clip(result: Result, parcel: Parcel, left_out: LeftOut) -> dict[str, Any]:
    """The frames that were sampled, when each is shown, which step it fed, and what each pass answered."""
    from qvl_attn.vqa.timeline import step_edges_s  # loads matplotlib

    media, grid = result.media[0], result.capture.grids[0]
    count = len(media.frames)
    per_step = frames_per_step(count, grid.shape[0])
    masses = [one.heatmap().vision_mass for one in result.passes] if result.way == "both" else []
    shown = np.linspace(0, count - 1, min(count, MAX_FRAMES)).round().astype(int).tolist()
    if len(shown) < count:
        left_out.append(["frames", len(shown), count])
    return {
        "frames": [parcel.add_picture(resize_picture(media.frames[i], _drawn_px(media))) for i in shown],
        "times_s": [float(media.sampled_s[i]) for i in shown],
        "step_of": [i // per_step for i in shown],
        "edges_s": step_edges_s(media, grid.shape[0]).tolist(),
        "way": result.way,
        "alone": [float(masses[i] / np.mean(masses)) for i in shown] if masses else [],
        "passes": [{"when": one.media[0].shown_when, "answer": one.mapped_answer} for one in result.passes],
    }
