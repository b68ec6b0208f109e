"""The maps of a look as its page carries them, as many as there is room for.

What comes first has room first: the mean over the heads of who asks, by layer; single patches to click; the maximum and
the minimum over the heads; likeness and saliency; single heads, of all layers or of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.text import plain
from qvl_attn.core.types import FloatArray
from qvl_attn.encoders.attention import Over, Sight
from qvl_attn.encoders.record import Look
from qvl_attn.render.html.payload import Parcel
from qvl_attn.vqa.maps import MAX_VALUES, LeftOut

OTHERS: tuple[Over, ...] = ("max", "min")


def kept_steps(sight: Sight, left_out: LeftOut) -> list[int]:
    """The steps of a clip that a page has room for, evenly chosen, when it shows each once by layer."""
    t, h, w = sight.grid
    most = max(MAX_VALUES // 2 // (sight.layer_count * h * w), 1)
    if t > most:
        left_out.append(["steps", most, t])
    return [int(step) for step in np.linspace(0, t - 1, min(t, most)).round()]


def eye_maps(look: Look, steps: Sequence[int], parcel: Parcel, left_out: LeftOut) -> dict[str, Any]:
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


def _query(look: Look, name: str, steps: Sequence[int]) -> dict[str, Any]:
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


def _heads(look: Look, name: str, pack: _Pack, left_out: LeftOut) -> dict[str, Any] | None:
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
