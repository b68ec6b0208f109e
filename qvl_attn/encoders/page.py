"""What the page of an encoder's result has of its own: maps by query, head and patch, its input, and statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.text import plain, shortened
from qvl_attn.core.types import FloatArray, HeatMap, IntArray
from qvl_attn.encoders.attention import EncoderAttention, join_heads
from qvl_attn.encoders.captions import (
    describe_joining,
    describe_layer,
    describe_provenance,
    describe_query,
    visible_box_px,
)
from qvl_attn.encoders.maps import EncoderMaps
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.encoders.statistics import statistics_of
from qvl_attn.media.resize import Picture, resize_picture
from qvl_attn.render.html.payload import MAX_VALUES, LeftOut, Payload, drawn_px_of
from qvl_attn.render.layout import Panel, scale_line
from qvl_attn.render.overlay import blend, upsample
from qvl_attn.render.style import Drawing
from qvl_attn.results.codec import base_name
from qvl_attn.results.page_data import PagePart, clip_data, common_data, heads_data, map_data, medium_data
from qvl_attn.results.record import Over

# The ways to join heads that a page shows after the mean, and their names in the list of maps.
OTHERS: tuple[Over, ...] = ("max", "min")
# The longest side of the picture that the page shows without scripts.
STILL_PX = 640


def page_steps(attention: EncoderAttention, left_out: LeftOut) -> list[int]:
    """Return the steps of a clip that fit into a page with one map for each layer, evenly spaced."""
    t, h, w = attention.grid
    most = max(MAX_VALUES // 2 // (attention.layer_count * h * w), 1)
    if t > most:
        left_out.append(["steps", most, t])
    return [int(step) for step in np.linspace(0, t - 1, min(t, most)).round()]


class _Room:
    """How many more maps fit into a page: at least so many, whatever their size."""

    def __init__(self, cells: int, least: int) -> None:
        self.left = max(MAX_VALUES // cells, least)

    def take(self, maps: int) -> bool:
        """Take the room of some maps, if it is there."""
        taken = maps <= self.left
        self.left -= maps if taken else 0
        return taken


def encoder_page_part(record: EncoderRecord, notes: Sequence[str], payload: Payload) -> PagePart:
    """Return the page's part of a result; its maps and pictures go into the payload.

    What does not fit is left out, least important last: queries, patches to click, other joins of heads, similarity,
    saliency, single heads.

    Args:
        record: the result.
        notes: what the reader should know, a line each.
        payload: maps and pictures are added to it.
    """
    left_out: LeftOut = []
    attention, media = record.attention, record.media[0]
    steps = page_steps(attention, left_out)
    shape = (len(steps), *attention.grid[1:])
    cells = np.arange(np.prod(attention.grid)).reshape(attention.grid)[steps].ravel()
    packer = _Maps(record, shape, cells, payload, left_out)
    maps, title = packer.all(), base_name(media.source)
    drawn = medium_data(media, shape, attention.boxes_px, payload)
    frames = [int(record.frames[step, 0]) for step in steps]
    data = common_data(
        record,
        "encoder",
        title,
        rows=[_row(record, name, steps) for name in packer.queries],
        maps=maps,
        media=[drawn | {"inputs": [payload.add_picture(record.reconstruction[step]) for step in steps]}],
        clip=clip_data(media, frames, range(len(steps)), attention.grid[0], payload) if record.is_clip else None,
        layer_count=attention.layer_count,
        head_count=attention.head_count,
        made=("family",),
        notes=[plain(note) for note in notes],
        left_out=left_out,
        headline=next((i for i, each in enumerate(maps) if each["name"] == f"heads_{record.settings.over}"), 0),
    )
    data |= {
        "input_px": list(attention.input_px),
        "patch_px": attention.patch_px,
        "prefix": list(dict.fromkeys(attention.prefix)),
        "tokens": int(attention.received.shape[-1]),
        "cell_rows": packer.places,
        "statistics": list(_statistics_data(attention)),
    }
    if data["clip"]:
        data["clip"]["numbers"] = steps
    window_title = f"{shortened(title)} · {shortened(record.provenance.model)}"
    return PagePart(data, window_title, (still_picture(record), describe_still(record)))


class _Maps:
    """Packs the maps of a result, most important first, until the page is full.

    Attributes:
        queries: the queries that fit.
        places: the places of the patches whose attention fits; None if there are none.
    """

    def __init__(
        self, record: EncoderRecord, shape: tuple[int, int, int], cells: IntArray, payload: Payload, left_out: LeftOut
    ) -> None:
        self.record, self.shape, self.cells, self.payload, self.left_out = record, shape, cells, payload, left_out
        self.queries: list[str] = []
        self.places: list[int] | None = None

    def all(self) -> list[dict[str, Any]]:
        """Return the page data of all maps that fit."""
        record, attention, room = (
            self.record,
            self.record.attention,
            _Room(len(self.cells), self.record.attention.layer_count),
        )
        for name in attention.queries:
            if room.take(attention.layer_count):
                self.queries.append(name)
            else:
                self.left_out.append(["query", name])
        rows = record.patch_rows
        if rows is not None and record.patch_row_places is not None and room.take(rows.shape[0] * rows.shape[1]):
            self.places = record.patch_row_places.tolist()
        else:
            self.left_out.append(["clicked"])
        joined: dict[Over, int] = dict.fromkeys(OTHERS, 0)
        for name in self.queries:
            for over in OTHERS:
                if room.take(attention.layer_count):
                    joined[over] += 1
                else:
                    self.left_out.append(["over", over, name])
        maps = [self._attention("mean", len(self.queries))]
        maps += [self._attention(over, count) for over, count in joined.items() if count]
        maps += self._similarity(room)
        maps += self._saliency(room)
        maps[0]["heads"] = self._heads(room)
        return maps

    def _pack(self, kind: str, name: str, sources: Iterator[tuple[dict[str, Any], FloatArray]], **how: Any) -> Any:
        return map_data(kind, name, sources, [self.shape], self.payload, cells=self.cells, **how)

    def _attention(self, over: Over, count: int) -> dict[str, Any]:
        """Pack the attention of the first queries, heads joined; of the mean, that of single patches too."""
        places = self.places if over == "mean" else None
        name = "attention" if over == "mean" else f"heads_{over}"
        layers = self._layers(over, count, places or [])
        packed = self._pack("attention", name, layers, known_rows=count, mass=over == "mean")
        return {**packed, "start": self.record.head_layer}

    def _layers(self, over: Over, count: int, places: Sequence[int]) -> Iterator[tuple[dict[str, Any], FloatArray]]:
        attention, rows = self.record.attention, self.record.patch_rows
        for layer in range(attention.layer_count):
            names = self.queries[:count]
            joined = [join_heads(attention.maps(name)[layer], over).ravel() for name in names]
            singles = [] if rows is None or not places else [row.ravel() for row in rows[layer]]
            tokens = [attention.uniform(name, layer) for name in names]
            tokens += [attention.uniform_at(place, layer) for place in places]
            entry: dict[str, Any] = {
                "id": "layer",
                "layers": [layer],
                "heads": "all" if over == "mean" else over,
                "tokens": [round(1 / uniform) for uniform in tokens],
            }
            if over == "mean":
                entry["mass"] = [float(values.sum(dtype=np.float64)) / attention.grid[0] for values in joined]
            if attention.window is not None:
                entry["whole"] = bool(attention.full[layer])
            yield entry, np.stack([*joined, *singles])

    def _similarity(self, room: _Room) -> Iterator[dict[str, Any]]:
        """Pack the cosine similarity of the query patches that fit."""
        similarity, numbers = self.record.similarity, self.record.similarity_layers
        rows = [i for i, name in enumerate(self.queries) if name.startswith("at_")]
        if similarity is None or numbers is None:
            return
        if not rows or not room.take(len(similarity) * len(rows)):
            self.left_out.append(["similarity"])
            return
        sources = (
            ({"id": "layer", "layers": [layer]}, values[: len(rows)].reshape(len(rows), -1))
            for layer, values in zip(numbers.tolist(), similarity, strict=True)
        )
        yield {**self._pack("similarity", "similarity", sources, mass=False, signed=True), "rows": rows}

    def _saliency(self, room: _Room) -> Iterator[dict[str, Any]]:
        for saliency in self.record.saliency:
            target = plain(saliency.target)
            if not room.take(1):
                self.left_out.append(["saliency", saliency.method, target])
                continue
            source = ({"id": "headline", "layers": []}, saliency.values.reshape(1, -1))
            yield {
                **self._pack("saliency", saliency.method, iter([source]), mass=False),
                "target": target,
                "score": saliency.score,
                "of_text": saliency.target in self.record.settings.texts,
                "rows": [],
            }

    def _heads(self, room: _Room) -> dict[str, Any] | None:
        """Pack each head of all layers or, if these do not fit, of `head_layer` only."""
        attention, head_layer = self.record.attention, self.record.head_layer
        by_layer: dict[int, list[FloatArray]] = {layer: [] for layer in range(attention.layer_count)}
        for name in self.queries:
            layers = list(by_layer)
            if not room.take(attention.layer_count * attention.head_count):
                layers = [head_layer] if room.take(attention.head_count) else []
                self.left_out.append(["heads_but_one", name, head_layer] if layers else ["heads", name])
            for layer in layers:
                maps = attention.maps(name)[layer]
                by_layer[layer].append(maps.reshape(len(maps), -1))
        known = {layer: maps for layer, maps in by_layer.items() if maps}
        if not known:
            return None
        return heads_data(list(known), range(attention.head_count), list(known.values()), self.payload, self.cells)


def _row(record: EncoderRecord, name: str, steps: Sequence[int]) -> dict[str, Any]:
    """Return a query: its place, and its attention on the prefix by layer, head and step."""
    attention = record.attention
    index = int(name.removeprefix("at_")) - 1 if name.startswith("at_") else None
    tokens = attention.tokens(name)[:, :, list(steps)]
    prefix = {
        role: tokens[..., np.flatnonzero(np.array(attention.prefix) == role)]
        .sum(axis=-1, dtype=np.float64)
        .round(5)
        .tolist()
        for role in dict.fromkeys(attention.prefix)
    }
    return {
        "kind": name if index is None else "at",
        "parts": [] if index is None else list(record.settings.at[index]),
        "place": None if index is None else int(attention.query_patches[index]),
        "prefix": prefix,
    }


def _statistics_data(attention: EncoderAttention) -> Iterator[dict[str, Any]]:
    """Yield each statistic, to four digits."""
    for name, statistic in statistics_of(attention).items():
        values = [_four_digits(layer) for layer in statistic.values]
        yield {"name": name, "values": values, "chance": _four_digits(statistic.chance)}


def _four_digits(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def describe_still(record: EncoderRecord) -> str:
    """Return the caption of the picture that the page shows without scripts."""
    attention, query = record.attention, record.attention.queries[0]
    labels = (
        describe_layer(attention, attention.layer_count - 1),
        describe_query(record, query),
        describe_joining(attention, record.settings.over),
    )
    step = [f"step 1 of {attention.grid[0]}"] if attention.grid[0] > 1 else []
    scale = scale_line(Panel("", (_still_map(record),)), Drawing())
    return plain(" · ".join([base_name(record.media[0].source), *labels, *step, scale, describe_provenance(record)]))


def still_picture(record: EncoderRecord) -> Picture:
    """Draw the last layer's map of the first query over the visible region of the first step's picture."""
    attention, drawing = record.attention, Drawing()
    width, height = drawn_px_of(record.media[0], STILL_PX)
    picture = resize_picture(record.media[0].frames[record.frames[0, 0]], (width, height))
    scale = np.array([width / record.media[0].size_px[0], height / record.media[0].size_px[1]] * 2)
    x0, y0, x1, y1 = np.rint(np.array(visible_box_px(attention)) * scale).astype(int).tolist()
    heat = _still_map(record)
    upsampled = upsample(np.ascontiguousarray(heat.values[0]), (max(x1 - x0, 1), max(y1 - y0, 1)), drawing)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if right <= left or bottom <= top:  # what the encoder saw of a very long picture is less than a pixel here
        return picture
    values = np.ascontiguousarray(upsampled[top - y0 : bottom - y0, left - x0 : right - x0])
    drawn = picture.copy()
    part = np.ascontiguousarray(picture[top:bottom, left:right])
    drawn[top:bottom, left:right] = blend(part, values, heat.scale, drawing)
    return drawn


def _still_map(record: EncoderRecord) -> HeatMap:
    """Return the headline's map of the first step only, on its own scale."""
    maps = EncoderMaps(record)
    (heat,) = maps.heat_map(maps.headline)
    return replace(heat, values=heat.values[:1], scale=percentile_scale([heat.values[:1]]))
