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
from qvl_attn.encoders.attention import Over, Sight
from qvl_attn.encoders.captions import asks, heads_words, layer_words, maker_words, seen_box_px
from qvl_attn.encoders.figures import draw_look
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.encoders.statistics import figures_of
from qvl_attn.media.resize import Picture, resize_picture
from qvl_attn.render.html.page import page_html
from qvl_attn.render.html.payload import Parcel, jpeg
from qvl_attn.render.layout import Panel, scale_line
from qvl_attn.render.overlay import blend, upsample
from qvl_attn.render.style import Drawing
from qvl_attn.results.codec import base_name
from qvl_attn.results.page_data import MAX_VALUES, LeftOut, drawn_px_of

OTHERS: tuple[Over, ...] = ("max", "min")


def kept_steps(sight: Sight, left_out: LeftOut) -> list[int]:
    """The steps of a clip that a page has room for, evenly chosen, when it shows each once by layer."""
    t, h, w = sight.grid
    most = max(MAX_VALUES // 2 // (sight.layer_count * h * w), 1)
    if t > most:
        left_out.append(["steps", most, t])
    return [int(step) for step in np.linspace(0, t - 1, min(t, most)).round()]


def eye_maps(look: EncoderRecord, steps: Sequence[int], parcel: Parcel, left_out: LeftOut) -> dict[str, Any]:
    """All maps of a look.

    Args:
        look: made, or read back.
        steps: those of a clip that the page shows.
        parcel: is added to.
        left_out: is added to.
    """
    sight = look.sight
    pack = _Pack(parcel, steps, sight.grid[1] * sight.grid[2])
    queries = [_query(look, name, steps) for name in sight.queries]
    for name, query in zip(sight.queries, queries, strict=True):
        if pack.has_room(sight.layer_count) or name == sight.queries[0]:
            query["maps"]["mean"] = _of_layers(sight, name, "mean", pack)
        else:
            left_out.append(["query", name])
    found = [(name, query) for name, query in zip(sight.queries, queries, strict=True) if query["maps"]]
    clicked = None
    if (
        look.grid_rows is not None
        and look.grid_places is not None
        and pack.has_room(look.grid_rows.shape[0] * look.grid_rows.shape[1])
    ):
        blocks = [pack.add(rows) for rows in look.grid_rows]
        clicked = {
            "places": look.grid_places.tolist(),
            "blocks": blocks,
            "window_tokens": _window_tokens(sight, look.grid_places.tolist()),
        }
    else:
        left_out.append(["clicked"])
    for name, query in found:
        for over in OTHERS:
            if pack.has_room(sight.layer_count):
                query["maps"][over] = _of_layers(sight, name, over, pack)
            else:
                left_out.append(["over", over, name])
    similarity = None
    if look.similarity is not None and look.similarity_layers is not None:
        if pack.has_room(look.similarity.shape[0] * look.similarity.shape[1]):
            # A cosine may be negative, a packed value may not.
            blocks = [pack.add((one + 1) / 2) for one in look.similarity.swapaxes(0, 1)]
            similarity = {"layers": look.similarity_layers.tolist(), "blocks": blocks}
        else:
            left_out.append(["similarity"])
    saliency = []
    for one in look.saliency:
        if pack.has_room(1):
            told = {"method": one.method, "target": plain(one.target), "score": one.score}
            told |= {"of_text": one.target in look.settings.texts}
            saliency.append(told | {"block": pack.add(one.values[None]), "high": percentile_scale([one.values]).high})
        else:
            left_out.append(["saliency", one.method, plain(one.target)])
    for name, query in found:
        query["heads"] = _heads(look, name, pack, left_out)
    return {
        "queries": [query for _, query in found],
        "clicked": clicked,
        "similarity": similarity,
        "saliency": saliency,
    }


class _Pack:
    """Maps into a parcel, of the steps that are shown, as long as there is room."""

    def __init__(self, parcel: Parcel, steps: Sequence[int], cells: int) -> None:
        self.parcel, self.steps, self.cells = parcel, list(steps), cells

    def has_room(self, maps: int) -> bool:
        """Whether so many maps fit."""
        return self.parcel.values + maps * len(self.steps) * self.cells <= MAX_VALUES

    def add(self, maps: FloatArray) -> int:
        """Keep (N, t, h, w) maps: the number of their block."""
        return self.parcel.add_rows(maps[:, self.steps].reshape(len(maps), -1))


def _query(look: EncoderRecord, name: str, steps: Sequence[int]) -> dict[str, Any]:
    """Who asks, how many tokens it sees by layer, and what went to [CLS] and to registers, by layer, head and step."""
    sight = look.sight
    asked = int(name.removeprefix("at_")) - 1 if name.startswith("at_") else None
    tokens = sight.tokens(name)[:, :, list(steps)]
    prefix = {
        role: tokens[..., np.flatnonzero(np.array(sight.prefix) == role)]
        .sum(axis=-1, dtype=np.float64)
        .round(5)
        .tolist()
        for role in dict.fromkeys(sight.prefix)
    }
    return {
        "kind": name if asked is None else "at",
        "number": None if asked is None else asked + 1,
        "point": None if asked is None else list(look.settings.at[asked]),
        "place": None if asked is None else int(sight.asked[asked]),
        "tokens": [round(1 / sight.even(name, layer)) for layer in range(sight.layer_count)],
        "prefix": prefix,
        "maps": {},
        "heads": None,
    }


def _window_tokens(sight: Sight, places: Sequence[int]) -> list[int] | None:
    """How many tokens the patches at some places see in layers of windows; None where there are no such layers."""
    if sight.full.all():
        return None
    layer = int(np.flatnonzero(~sight.full)[0])
    return [round(1 / sight.even_at(place, layer)) for place in places]


def _of_layers(sight: Sight, name: str, over: Over, pack: _Pack) -> dict[str, Any]:
    maps = np.stack([sight.map(name, layer, over) for layer in range(sight.layer_count)])
    return {
        "block": pack.add(maps),
        "high": [percentile_scale([one]).high for one in maps],
        "shared": percentile_scale([maps]).high,
    }


def _heads(look: EncoderRecord, name: str, pack: _Pack, left_out: LeftOut) -> dict[str, Any] | None:
    """Each head, of all layers, or of the one whose heads were asked for."""
    sight, maps = look.sight, look.sight.maps(name)
    layers = list(range(sight.layer_count))
    if not pack.has_room(len(maps) * sight.head_count):
        layers = [look.head_layer] if pack.has_room(sight.head_count) else []
        left_out.append(["heads_but_one", name, look.head_layer] if layers else ["heads", name])
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


def encoder_html(look: EncoderRecord, notes: Sequence[str] = ()) -> str:
    """The page of a look.

    Args:
        look: made, or read back.
        notes: what its reader should know, a line each.
    """
    parcel = Parcel()
    told = look_data(look, notes, parcel)
    title = f"{shortened(told['name'])} · {shortened(look.maker.model)} · qvl-attn"
    maps = told["queries"][0]["maps"]
    first = maps.get(look.settings.over, maps["mean"])["block"]
    return page_html("encoder", title, told, parcel, {first}, b64encode(jpeg(still_picture(look))).decode())


def look_data(look: EncoderRecord, notes: Sequence[str], parcel: Parcel) -> dict[str, Any]:
    """What the page is told of a look; its maps and pictures go into the parcel."""
    left_out: LeftOut = []
    sight, media = look.sight, look.media
    drawn_px, (_, h, w) = drawn_px_of(media), sight.grid
    boxes = sight.boxes_px[: h * w].reshape(h, w, 4)
    steps = kept_steps(sight, left_out)
    frames = [media.frames[look.frames[step, 0]] for step in steps]
    return {
        "name": base_name(media.source),
        "still": still_words(look),
        "size_px": list(media.size_px),
        "drawn_px": list(drawn_px),
        "grid": [len(steps), *sight.grid[1:]],
        "xs": [*boxes[0, :, 0].tolist(), float(boxes[0, -1, 2])],
        "ys": [*boxes[:, 0, 1].tolist(), float(boxes[-1, 0, 3])],
        "input_px": list(sight.input_px),
        "patch_px": sight.patch_px,
        "steps": {
            "numbers": steps,
            "of": sight.grid[0],
            "pictures": [parcel.add_picture(resize_picture(frame, drawn_px)) for frame in frames],
            "turned_back": [parcel.add_picture(look.turned_back[step]) for step in steps],
            "times_s": [float(media.sampled_s[look.frames[step, 0]]) for step in steps] if media.clip else [],
        },
        "layer_count": sight.layer_count,
        "head_count": sight.head_count,
        "head_layer": look.head_layer,
        "over": look.settings.over,
        "full": sight.full.tolist(),
        "windowed": sight.window is not None,
        "prefix": {role: sight.prefix.count(role) for role in dict.fromkeys(sight.prefix)},
        "tokens": int(sight.received.shape[-1]),
        **eye_maps(look, steps, parcel, left_out),
        "figures": list(_figures(sight)),
        "made": {
            **{name: getattr(look.maker, name) for name in ("qvl_attn", "transformers", "torch", "model", "revision")},
            **{name: getattr(look.maker, name) for name in ("dtype", "device", "family")},
        },
        "notes": [plain(note) for note in notes],
        "left_out": left_out,
    }


def _figures(sight: Sight) -> Iterator[dict[str, Any]]:
    """Each figure, to four digits."""
    for name, figure in figures_of(sight).items():
        values, chance = ([_four_digits(one) for one in part] for part in (figure.values, figure.chance[None]))
        yield {"name": name, "values": values, "chance": chance[0]}


def _four_digits(values: Any) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def still_words(look: EncoderRecord) -> str:
    """What the picture shows that is there without scripts."""
    sight, query = look.sight, look.sight.queries[0]
    shown = layer_words(sight, sight.layer_count - 1), asks(look, query), heads_words(sight, look.settings.over)
    step = [f"step 1 of {sight.grid[0]}"] if sight.grid[0] > 1 else []
    scale = scale_line(Panel("", (_still_map(look),)), Drawing())
    return plain(" · ".join([base_name(look.media.source), *shown, *step, scale, maker_words(look)]))


def still_picture(look: EncoderRecord) -> Picture:
    """The last layer's map of who is shown first, over the first step's picture; where it does not see, the picture."""
    sight, drawing = look.sight, Drawing()
    width, height = drawn_px_of(look.media, STILL_PX)
    picture = resize_picture(look.media.frames[look.frames[0, 0]], (width, height))
    scale = np.array([width / look.media.size_px[0], height / look.media.size_px[1]] * 2)
    x0, y0, x1, y1 = np.rint(np.array(seen_box_px(sight)) * scale).astype(int).tolist()
    one = _still_map(look)
    spread = upsample(np.ascontiguousarray(one.values[0]), (max(x1 - x0, 1), max(y1 - y0, 1)), drawing)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    seen = np.ascontiguousarray(spread[top - y0 : bottom - y0, left - x0 : right - x0])
    drawn = picture.copy()
    part = np.ascontiguousarray(picture[top:bottom, left:right])
    drawn[top:bottom, left:right] = blend(part, seen, one.scale, drawing)
    return drawn


def _still_map(look: EncoderRecord) -> HeatMap:
    """The headline's map, of the first step alone and on its scale."""
    whole = draw_look(look, Drawing()).headline
    return replace(whole, values=whole.values[:1], scale=percentile_scale([whole.values[:1]]))
