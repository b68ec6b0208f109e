"""What a page tells of a look: who asks, the maps of layers and heads, patches to click, figures, what went in."""

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
from qvl_attn.render.html.payload import Payload, jpeg
from qvl_attn.render.layout import Panel, scale_line
from qvl_attn.render.overlay import blend, upsample
from qvl_attn.render.style import Drawing
from qvl_attn.results.codec import base_name
from qvl_attn.results.page_data import MAX_VALUES, LeftOut, drawn_px_of

OTHERS: tuple[Over, ...] = ("max", "min")


def kept_steps(attention: EncoderAttention, left_out: LeftOut) -> list[int]:
    """The steps of a clip that a page has room for, evenly chosen, when it shows each once by layer."""
    t, h, w = attention.grid
    most = max(MAX_VALUES // 2 // (attention.layer_count * h * w), 1)
    if t > most:
        left_out.append(["steps", most, t])
    return [int(step) for step in np.linspace(0, t - 1, min(t, most)).round()]


def page_maps(record: EncoderRecord, steps: Sequence[int], payload: Payload, left_out: LeftOut) -> dict[str, Any]:
    """All maps of a look.

    Args:
        record: made, or read back.
        steps: those of a clip that the page shows.
        payload: is added to.
        left_out: is added to.
    """
    attention = record.attention
    pack = _Pack(payload, steps, attention.grid[1] * attention.grid[2])
    queries = [_query(record, name, steps) for name in attention.queries]
    for name, query in zip(attention.queries, queries, strict=True):
        if pack.has_room(attention.layer_count) or name == attention.queries[0]:
            query["maps"]["mean"] = _of_layers(attention, name, "mean", pack)
        else:
            left_out.append(["query", name])
    found = [(name, query) for name, query in zip(attention.queries, queries, strict=True) if query["maps"]]
    clicked = None
    if (
        record.patch_rows is not None
        and record.patch_row_places is not None
        and pack.has_room(record.patch_rows.shape[0] * record.patch_rows.shape[1])
    ):
        blocks = [pack.add(rows) for rows in record.patch_rows]
        clicked = {
            "places": record.patch_row_places.tolist(),
            "blocks": blocks,
            "window_tokens": _window_tokens(attention, record.patch_row_places.tolist()),
        }
    else:
        left_out.append(["clicked"])
    for name, query in found:
        for over in OTHERS:
            if pack.has_room(attention.layer_count):
                query["maps"][over] = _of_layers(attention, name, over, pack)
            else:
                left_out.append(["over", over, name])
    similarity = None
    if record.similarity is not None and record.similarity_layers is not None:
        if pack.has_room(record.similarity.shape[0] * record.similarity.shape[1]):
            # A cosine may be negative, a packed value may not.
            blocks = [pack.add((one + 1) / 2) for one in record.similarity.swapaxes(0, 1)]
            similarity = {"layers": record.similarity_layers.tolist(), "blocks": blocks}
        else:
            left_out.append(["similarity"])
    saliency = []
    for one in record.saliency:
        if pack.has_room(1):
            description = {"method": one.method, "target": plain(one.target), "score": one.score}
            description |= {"of_text": one.target in record.settings.texts}
            saliency.append(
                description | {"block": pack.add(one.values[None]), "high": percentile_scale([one.values]).high}
            )
        else:
            left_out.append(["saliency", one.method, plain(one.target)])
    for name, query in found:
        query["heads"] = _heads(record, name, pack, left_out)
    return {
        "queries": [query for _, query in found],
        "clicked": clicked,
        "similarity": similarity,
        "saliency": saliency,
    }


class _Pack:
    """Maps into a parcel, of the steps that are shown, as long as there is room."""

    def __init__(self, payload: Payload, steps: Sequence[int], cells: int) -> None:
        self.payload, self.steps, self.cells = payload, list(steps), cells

    def has_room(self, maps: int) -> bool:
        """Whether so many maps fit."""
        return self.payload.values + maps * len(self.steps) * self.cells <= MAX_VALUES

    def add(self, maps: FloatArray) -> int:
        """Keep (N, t, h, w) maps: the number of their block."""
        return self.payload.add_rows(maps[:, self.steps].reshape(len(maps), -1))


def _query(record: EncoderRecord, name: str, steps: Sequence[int]) -> dict[str, Any]:
    """Who asks, how many tokens it sees by layer, and what went to [CLS] and to registers, by layer, head and step."""
    attention = record.attention
    asked = int(name.removeprefix("at_")) - 1 if name.startswith("at_") else None
    tokens = attention.tokens(name)[:, :, list(steps)]
    prefix = {
        role: tokens[..., np.flatnonzero(np.array(attention.prefix) == role)]
        .sum(axis=-1, dtype=np.float64)
        .round(5)
        .tolist()
        for role in dict.fromkeys(attention.prefix)
    }
    return {
        "kind": name if asked is None else "at",
        "number": None if asked is None else asked + 1,
        "point": None if asked is None else list(record.settings.at[asked]),
        "place": None if asked is None else int(attention.query_patches[asked]),
        "tokens": [round(1 / attention.even(name, layer)) for layer in range(attention.layer_count)],
        "prefix": prefix,
        "maps": {},
        "heads": None,
    }


def _window_tokens(attention: EncoderAttention, places: Sequence[int]) -> list[int] | None:
    """How many tokens the patches at some places see in layers of windows; None where there are no such layers."""
    if attention.full.all():
        return None
    layer = int(np.flatnonzero(~attention.full)[0])
    return [round(1 / attention.even_at(place, layer)) for place in places]


def _of_layers(attention: EncoderAttention, name: str, over: Over, pack: _Pack) -> dict[str, Any]:
    maps = np.stack([attention.map(name, layer, over) for layer in range(attention.layer_count)])
    return {
        "block": pack.add(maps),
        "high": [percentile_scale([one]).high for one in maps],
        "shared": percentile_scale([maps]).high,
    }


def _heads(record: EncoderRecord, name: str, pack: _Pack, left_out: LeftOut) -> dict[str, Any] | None:
    """Each head, of all layers, or of the one whose heads were asked for."""
    attention, maps = record.attention, record.attention.maps(name)
    layers = list(range(attention.layer_count))
    if not pack.has_room(len(maps) * attention.head_count):
        layers = [record.head_layer] if pack.has_room(attention.head_count) else []
        left_out.append(["heads_but_one", name, record.head_layer] if layers else ["heads", name])
    if not layers:
        return None
    return {
        "layers": layers,
        "blocks": [pack.add(maps[layer]) for layer in layers],
        "high": [[percentile_scale([head]).high for head in maps[layer]] for layer in layers],
        "shared": percentile_scale([maps[layer] for layer in layers]).high,
    }


# Of the picture that is there without scripts.
STILL_PX = 640


def encoder_html(record: EncoderRecord, notes: Sequence[str] = ()) -> str:
    """The page of a look.

    Args:
        record: made, or read back.
        notes: what its reader should know, a line each.
    """
    payload = Payload()
    description = page_data(record, notes, payload)
    title = f"{shortened(description['name'])} · {shortened(record.provenance.model)} · qvl-attn"
    maps = description["queries"][0]["maps"]
    first = maps.get(record.settings.over, maps["mean"])["block"]
    return page_html("encoder", title, description, payload, {first}, b64encode(jpeg(still_picture(record))).decode())


def page_data(record: EncoderRecord, notes: Sequence[str], payload: Payload) -> dict[str, Any]:
    """What the page is told of a look; its maps and pictures go into the parcel."""
    left_out: LeftOut = []
    attention, media = record.attention, record.media
    drawn_px, (_, h, w) = drawn_px_of(media), attention.grid
    boxes = attention.boxes_px[: h * w].reshape(h, w, 4)
    steps = kept_steps(attention, left_out)
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
        "figures": list(_figures(attention)),
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


def _figures(attention: EncoderAttention) -> Iterator[dict[str, Any]]:
    """Each figure, to four digits."""
    for name, figure in statistics_of(attention).items():
        values, chance = ([_four_digits(one) for one in part] for part in (figure.values, figure.chance[None]))
        yield {"name": name, "values": values, "chance": chance[0]}


def _four_digits(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def describe_still(record: EncoderRecord) -> str:
    """What the picture shows that is there without scripts."""
    attention, query = record.attention, record.attention.queries[0]
    shown = (
        describe_layer(attention, attention.layer_count - 1),
        describe_query(record, query),
        describe_joining(attention, record.settings.over),
    )
    step = [f"step 1 of {attention.grid[0]}"] if attention.grid[0] > 1 else []
    scale = scale_line(Panel("", (_still_map(record),)), Drawing())
    return plain(" · ".join([base_name(record.media.source), *shown, *step, scale, describe_provenance(record)]))


def still_picture(record: EncoderRecord) -> Picture:
    """The last layer's map of who is shown first, over the first step's picture; where it does not see, the picture."""
    attention, drawing = record.attention, Drawing()
    width, height = drawn_px_of(record.media, STILL_PX)
    picture = resize_picture(record.media.frames[record.frames[0, 0]], (width, height))
    scale = np.array([width / record.media.size_px[0], height / record.media.size_px[1]] * 2)
    x0, y0, x1, y1 = np.rint(np.array(visible_box_px(attention)) * scale).astype(int).tolist()
    one = _still_map(record)
    spread = upsample(np.ascontiguousarray(one.values[0]), (max(x1 - x0, 1), max(y1 - y0, 1)), drawing)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    seen = np.ascontiguousarray(spread[top - y0 : bottom - y0, left - x0 : right - x0])
    drawn = picture.copy()
    part = np.ascontiguousarray(picture[top:bottom, left:right])
    drawn[top:bottom, left:right] = blend(part, seen, one.scale, drawing)
    return drawn


def _still_map(record: EncoderRecord) -> HeatMap:
    """The headline's map, of the first step alone and on its scale."""
    whole = draw_encoder_result(record, Drawing()).headline
    return replace(whole, values=whole.values[:1], scale=percentile_scale([whole.values[:1]]))
