"""The data of the page of an encoder's result: queries, maps of layers and heads, patches to click, statistics."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.text import plain, shortened
from qvl_attn.core.types import FloatArray, HeatMap
from qvl_attn.encoders.attention import EncoderAttention, Over
from qvl_attn.encoders.captions import (
    describe_joining,
    describe_layer,
    describe_provenance,
    describe_query,
    visible_box_px,
)
from qvl_attn.encoders.figures import draw_encoder_result
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.encoders.statistics import statistics_of
from qvl_attn.media.resize import Picture, resize_picture
from qvl_attn.render.html.page import page_html
from qvl_attn.render.html.payload import MAX_VALUES, LeftOut, Payload, drawn_px_of, jpeg
from qvl_attn.render.layout import Panel, scale_line
from qvl_attn.render.overlay import blend, upsample
from qvl_attn.render.style import Drawing
from qvl_attn.results.codec import base_name

OTHERS: tuple[Over, ...] = ("max", "min")


def page_steps(attention: EncoderAttention, left_out: LeftOut) -> list[int]:
    """Return the steps of a clip that fit into a page with one map for each layer, evenly spaced."""
    t, h, w = attention.grid
    most = max(MAX_VALUES // 2 // (attention.layer_count * h * w), 1)
    if t > most:
        left_out.append(["steps", most, t])
    return [int(step) for step in np.linspace(0, t - 1, min(t, most)).round()]


def page_maps(record: EncoderRecord, steps: Sequence[int], payload: Payload, left_out: LeftOut) -> dict[str, Any]:
    """Return the maps of a result, most important first, until the page is full.

    Args:
        record: the result.
        steps: the steps of the clip that the page shows.
        payload: the maps are added to it.
        left_out: what does not fit is added to it.
    """
    attention = record.attention
    packer = _MapPacker(payload, steps, attention.grid[1] * attention.grid[2])
    queries = [_query_data(record, name, steps) for name in attention.queries]
    for name, query in zip(attention.queries, queries, strict=True):
        if packer.has_room(attention.layer_count) or name == attention.queries[0]:
            query["maps"]["mean"] = _layer_maps(attention, name, "mean", packer)
        else:
            left_out.append(["query", name])
    included = [(name, query) for name, query in zip(attention.queries, queries, strict=True) if query["maps"]]
    clicked = None
    if (
        record.patch_rows is not None
        and record.patch_row_places is not None
        and packer.has_room(record.patch_rows.shape[0] * record.patch_rows.shape[1])
    ):
        blocks = [packer.add(rows) for rows in record.patch_rows]
        clicked = {
            "places": record.patch_row_places.tolist(),
            "blocks": blocks,
            "window_tokens": _window_tokens(attention, record.patch_row_places.tolist()),
        }
    else:
        left_out.append(["clicked"])
    for name, query in included:
        for over in OTHERS:
            if packer.has_room(attention.layer_count):
                query["maps"][over] = _layer_maps(attention, name, over, packer)
            else:
                left_out.append(["over", over, name])
    similarity = None
    if record.similarity is not None and record.similarity_layers is not None:
        if packer.has_room(record.similarity.shape[0] * record.similarity.shape[1]):
            # A cosine may be negative, a packed value may not.
            blocks = [packer.add((layers + 1) / 2) for layers in record.similarity.swapaxes(0, 1)]
            similarity = {"layers": record.similarity_layers.tolist(), "blocks": blocks}
        else:
            left_out.append(["similarity"])
    saliency = []
    for saliency_map in record.saliency:
        method, target, values = saliency_map.method, saliency_map.target, saliency_map.values
        if packer.has_room(1):
            saliency.append(
                {
                    "method": method,
                    "target": plain(target),
                    "score": saliency_map.score,
                    "of_text": target in record.settings.texts,
                    "block": packer.add(values[None]),
                    "high": percentile_scale([values]).high,
                }
            )
        else:
            left_out.append(["saliency", method, plain(target)])
    for name, query in included:
        query["heads"] = _head_maps(record, name, packer, left_out)
    return {
        "queries": [query for _, query in included],
        "clicked": clicked,
        "similarity": similarity,
        "saliency": saliency,
    }


class _MapPacker:
    """Adds the maps of the steps of a page to its payload, up to `MAX_VALUES`."""

    def __init__(self, payload: Payload, steps: Sequence[int], cells: int) -> None:
        self.payload, self.steps, self.cells = payload, list(steps), cells

    def has_room(self, maps: int) -> bool:
        """Return whether so many more maps fit into the page."""
        return self.payload.values + maps * len(self.steps) * self.cells <= MAX_VALUES

    def add(self, maps: FloatArray) -> int:
        """Add (N, t, h, w) maps and return the number of their block."""
        return self.payload.add_rows(maps[:, self.steps].reshape(len(maps), -1))


def _query_data(record: EncoderRecord, name: str, steps: Sequence[int]) -> dict[str, Any]:
    """Return a query: its place, its token count by layer, and its attention on the prefix by layer, head and step."""
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
        "number": None if index is None else index + 1,
        "point": None if index is None else list(record.settings.at[index]),
        "place": None if index is None else int(attention.query_patches[index]),
        "tokens": [round(1 / attention.uniform(name, layer)) for layer in range(attention.layer_count)],
        "prefix": prefix,
        "maps": {},
        "heads": None,
    }


def _window_tokens(attention: EncoderAttention, places: Sequence[int]) -> list[int] | None:
    """Return how many tokens some patches attend to in windowed layers; None if the encoder has no such layers."""
    if attention.full.all():
        return None
    layer = int(np.flatnonzero(~attention.full)[0])
    return [round(1 / attention.uniform_at(place, layer)) for place in places]


def _layer_maps(attention: EncoderAttention, name: str, over: Over, packer: _MapPacker) -> dict[str, Any]:
    maps = np.stack([attention.map(name, layer, over) for layer in range(attention.layer_count)])
    return {
        "block": packer.add(maps),
        "high": [percentile_scale([values]).high for values in maps],
        "shared": percentile_scale([maps]).high,
    }


def _head_maps(record: EncoderRecord, name: str, packer: _MapPacker, left_out: LeftOut) -> dict[str, Any] | None:
    """Return the maps of each head, of all layers or, if these do not fit, of `head_layer` only."""
    attention, maps = record.attention, record.attention.maps(name)
    layers = list(range(attention.layer_count))
    if not packer.has_room(len(maps) * attention.head_count):
        layers = [record.head_layer] if packer.has_room(attention.head_count) else []
        left_out.append(["heads_but_one", name, record.head_layer] if layers else ["heads", name])
    if not layers:
        return None
    return {
        "layers": layers,
        "blocks": [packer.add(maps[layer]) for layer in layers],
        "high": [[percentile_scale([head]).high for head in maps[layer]] for layer in layers],
        "shared": percentile_scale([maps[layer] for layer in layers]).high,
    }


# The longest side of the picture that the page shows without scripts.
STILL_PX = 640


def encoder_html(record: EncoderRecord, notes: Sequence[str] = ()) -> str:
    """Return the page of a result as HTML.

    Args:
        record: the result.
        notes: notes for the reader, a line each.
    """
    payload = Payload()
    data = page_data(record, notes, payload)
    title = f"{shortened(data['name'])} · {shortened(record.provenance.model)} · qvl-attn"
    maps = data["queries"][0]["maps"]
    first = maps.get(record.settings.over, maps["mean"])["block"]
    return page_html("encoder", title, data, payload, {first}, b64encode(jpeg(still_picture(record))).decode())


def page_data(record: EncoderRecord, notes: Sequence[str], payload: Payload) -> dict[str, Any]:
    """Return the JSON data of the page; maps and pictures are added to the payload."""
    left_out: LeftOut = []
    attention, media = record.attention, record.media[0]
    drawn_px, (_, h, w) = drawn_px_of(media), attention.grid
    boxes = attention.boxes_px[: h * w].reshape(h, w, 4)
    steps = page_steps(attention, left_out)
    frames = [media.frames[record.frames[step, 0]] for step in steps]
    return {
        "name": base_name(media.source),
        "still": describe_still(record),
        "size_px": list(media.size_px),
        "drawn_px": list(drawn_px),
        "grid": [len(steps), *attention.grid[1:]],
        "xs": [*boxes[0, :, 0].tolist(), float(boxes[0, -1, 2])],
        "ys": [*boxes[:, 0, 1].tolist(), float(boxes[-1, 0, 3])],
        "input_px": list(attention.input_px),
        "patch_px": attention.patch_px,
        "steps": {
            "numbers": steps,
            "of": attention.grid[0],
            "pictures": [payload.add_picture(resize_picture(frame, drawn_px)) for frame in frames],
            "turned_back": [payload.add_picture(record.reconstruction[step]) for step in steps],
            "times_s": [float(media.sampled_s[record.frames[step, 0]]) for step in steps] if media.clip else [],
        },
        "layer_count": attention.layer_count,
        "head_count": attention.head_count,
        "head_layer": record.head_layer,
        "over": record.settings.over,
        "full": attention.full.tolist(),
        "windowed": attention.window is not None,
        "prefix": {role: attention.prefix.count(role) for role in dict.fromkeys(attention.prefix)},
        "tokens": int(attention.received.shape[-1]),
        **page_maps(record, steps, payload, left_out),
        "figures": list(_statistics_data(attention)),
        "made": {
            **{
                name: getattr(record.provenance, name)
                for name in ("qvl_attn", "transformers", "torch", "model", "revision")
            },
            **{name: getattr(record.provenance, name) for name in ("dtype", "device", "family")},
        },
        "notes": [plain(note) for note in notes],
        "left_out": left_out,
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
    (heat,) = draw_encoder_result(record, Drawing()).headline
    return replace(heat, values=heat.values[:1], scale=percentile_scale([heat.values[:1]]))
