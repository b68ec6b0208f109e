"""What a page tells of a look: who asks, the maps of layers and heads, patches to click, figures, what went in."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.text import plain, shortened
from qvl_attn.core.types import HeatMap
from qvl_attn.encoders.attention import Sight
from qvl_attn.encoders.captions import asks, heads_words, layer_words, maker_words
from qvl_attn.encoders.eye_maps import eye_maps, kept_steps
from qvl_attn.encoders.figures import draw_look
from qvl_attn.encoders.record import Look
from qvl_attn.encoders.seen import seen_box_px
from qvl_attn.encoders.statistics import figures_of
from qvl_attn.media.resize import Picture, resize_picture
from qvl_attn.render.html.jpeg import jpeg
from qvl_attn.render.html.page import page_html
from qvl_attn.render.html.payload import Parcel
from qvl_attn.render.layout import Panel, scale_line
from qvl_attn.render.overlay import blend, upsample
from qvl_attn.render.style import Drawing
from qvl_attn.results.codec import base_name
from qvl_attn.vqa.maps import LeftOut
from qvl_attn.vqa.page import drawn_px_of

# Of the picture that is there without scripts.
STILL_PX = 640


def encoder_html(look: Look, notes: Sequence[str] = ()) -> str:
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


def look_data(look: Look, notes: Sequence[str], parcel: Parcel) -> dict[str, Any]:
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


def still_words(look: Look) -> str:
    """What the picture shows that is there without scripts."""
    sight, query = look.sight, look.sight.queries[0]
    shown = layer_words(sight, sight.layer_count - 1), asks(look, query), heads_words(sight, look.settings.over)
    step = [f"step 1 of {sight.grid[0]}"] if sight.grid[0] > 1 else []
    scale = scale_line(Panel("", (_still_map(look),)), Drawing())
    return plain(" · ".join([base_name(look.media.source), *shown, *step, scale, maker_words(look)]))


def still_picture(look: Look) -> Picture:
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


def _still_map(look: Look) -> HeatMap:
    """The headline's map, of the first step alone and on its scale."""
    whole = draw_look(look, Drawing()).headline
    return replace(whole, values=whole.values[:1], scale=percentile_scale([whole.values[:1]]))
