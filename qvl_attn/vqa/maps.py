"""The maps of a result as a page carries them: plain attention by layer, word and head, and what methods made of it.

All averages are taken here, with the functions that the pictures are drawn with; the page only looks them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.heatmap import mean_over, percentile_scale
from qvl_attn.attribution.methods import METHODS, MethodMap
from qvl_attn.core.types import IntArray, TokenGrid
from qvl_attn.render.html.payload import Parcel, coarse
from qvl_attn.vqa.record import Result

# The most values of maps that a page carries of one result, some 2 bytes each; what is beyond is left out, and said.
MAX_VALUES = 4_000_000
# Whose values are attention themselves, and sum to its share on vision.
OF_ATTENTION = ("mean", "heads")
Maps = NDArray[np.float32]
# What was left out: a key of the page's words, and what they speak of.
LeftOut = list[list[str | int]]


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


def result_maps(result: Result, rows: Sequence[Row], parcel: Parcel, left_out: LeftOut) -> list[dict[str, Any]]:
    """Plain attention, then each method.

    Args:
        result: captured, or read back.
        rows: the headline's query first, words last.
        parcel: is added to.
        left_out: is added to.
    """
    most = parcel.values + MAX_VALUES
    found = [_attention(result, rows, parcel, left_out)]
    found[0]["heads"] = _heads(result, rows[0].rows, most, parcel, left_out)
    return [*found, *(_method(one, result, most, parcel, left_out) for one in result.methods)]


def _attention(result: Result, rows: Sequence[Row], parcel: Parcel, left_out: LeftOut) -> dict[str, Any]:
    """For every row the headline and, of the queries at least, the mean of all layers and each layer."""
    queries, layers = sum(not row.is_word for row in rows), len(result.capture.layers)
    cells = len(result.capture.vision_tokens)
    kept = len(rows)
    if (layers + 2) * kept * cells > MAX_VALUES and kept > queries:
        left_out.append(["words_by_layer"])
        kept = queries
    sources, of_layers = _packed(_sources(result, rows), kept, result.capture.grids, parcel)
    own = sources["sources"][0]["high"]
    shared = [percentile_scale([maps[i] for maps in of_layers]).high if i < kept else own[i] for i in range(len(rows))]
    return {"name": "attention", "caption": "", "is_attention": True, **sources, "shared": shared, "removed": []}


def _sources(result: Result, rows: Sequence[Row]) -> Iterator[tuple[dict[str, Any], Maps]]:
    """(R, V) maps of all rows: the headline's, the mean of all layers, each layer with the heads that were named."""
    capture, named = result.capture, result.headline_heads() or ()
    share = np.stack([np.isin(np.arange(len(capture.queries)), row.rows) / len(row.rows) for row in rows])
    plain = result.heatmaps(query=result.settings.query)[0]
    heads = [pair for pair in named if pair[0] in plain.layers] or None
    layers = capture.layers.tolist()
    about = {"id": "headline", "layers": list(plain.layers), "heads": _head_words(result, heads or ())}
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
        yield {"id": "layer", "layers": [layer], "heads": _head_words(result, own)}, maps


def _head_words(result: Result, pairs: Sequence[tuple[int, int]]) -> str:
    """Named heads, as text: `all` where they are all of their layers."""
    whole = len(pairs) == len({layer for layer, _ in pairs}) * result.provenance.head_count
    return "all" if whole else ",".join(f"{layer}.{head}" for layer, head in pairs)


def _packed(
    sources: Iterable[tuple[dict[str, Any], Maps]], kept: int, grids: Sequence[TokenGrid], parcel: Parcel
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
                "block": parcel.add_rows(there),
                "rows": len(there),
                "coarse_at": start,
                "mass": maps.sum(axis=1, dtype=np.float64).tolist(),
                "high": [percentile_scale([row]).high for row in there],
            }
        )
        start += len(there)
    return {"sources": told, "coarse": parcel.add_rows(np.concatenate(small))}, of_layers


def _heads(result: Result, rows: IntArray, most: int, parcel: Parcel, left_out: LeftOut) -> dict[str, Any] | None:
    """Each head that was kept apart, for the headline's query alone."""
    capture, by_head = result.capture, result.capture.weights_by_head
    if by_head is None:
        return None
    if parcel.values + by_head.shape[0] * by_head.shape[1] * by_head.shape[3] > most:
        left_out.append(["heads"])
        return None
    maps = np.stack([layer[:, rows].mean(axis=1, dtype=np.float64).astype(np.float32) for layer in by_head])
    ordered = np.sort(maps, axis=-1)[..., ::-1]
    mass = maps.sum(axis=-1, dtype=np.float64)
    left_out.append(["heads_by_word"])
    return {
        "layers": list(capture.apart.layers if capture.apart else capture.layers.tolist()),
        "numbers": list(capture.apart.heads if capture.apart else range(maps.shape[1])),
        "blocks": [parcel.add_rows(layer) for layer in maps],
        "mass": mass.tolist(),
        "top10": (ordered[..., :10].sum(axis=-1) / np.where(mass > 0, mass, 1)).tolist(),
        "high": [[percentile_scale([row]).high for row in layer] for layer in maps],
        "shared": percentile_scale([maps]).high,
    }


def _method(method: MethodMap, result: Result, most: int, parcel: Parcel, left_out: LeftOut) -> dict[str, Any]:
    """A method's map, and those of its layers."""
    known = METHODS[method.method]
    by_layer = () if method.layer_values is None else method.layer_values
    layers = list(zip(method.layer_numbers, by_layer, strict=True))
    if parcel.values + (1 + len(layers)) * len(method.values) > most:
        left_out.append(["method_layers", method.method])
        layers = []
    sources: list[tuple[dict[str, Any], Maps]] = [
        ({"id": "headline", "layers": list(method.layers)}, method.values[None])
    ]
    sources += [({"id": "layer", "layers": [layer]}, values[None]) for layer, values in layers]
    packed, of_layers = _packed(sources, 1, result.capture.grids, parcel)
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
