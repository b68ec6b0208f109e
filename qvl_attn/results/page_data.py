"""The data of a result's page that every kind shares: rows, maps, heads, pictures, frames, provenance; and the page."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.types import FloatArray, IntArray, Media
from qvl_attn.media.resize import Picture, resize_picture
from qvl_attn.render.html.page import Still, page_html
from qvl_attn.render.html.payload import MAX_PICTURE_PX, MAX_VALUES, LeftOut, Payload, coarse, drawn_px_of, jpeg
from qvl_attn.results.codec import base_name
from qvl_attn.results.record import MapSelection, MapSource, Provenance, Record, first_frame_index

GridShape = tuple[int, int, int]
Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PagePart:
    """One result in a page.

    Attributes:
        data: its JSON data, as `common_data` and the kind of result make them.
        title: its part of the window's title.
        still: a picture of it, (H, W, 3) uint8 RGB, and its caption, for readers without scripts.
    """

    data: dict[str, Any]
    title: str
    still: tuple[Picture, str] | None = None


class Paged(Protocol):
    """A result that a page can show."""

    def _page_part(self, notes: Sequence[str], payload: Payload) -> PagePart:
        """Return the result's part of a page; its maps and pictures go into the payload.

        Args:
            notes: what the reader should know, a line each.
            payload: maps and pictures are added to it.
        """


def results_html(results: Sequence[Paged], notes: Sequence[Sequence[str]] = ()) -> str:
    """Return the HTML page of one or several results, of any kinds.

    Args:
        results: the results, fresh or read back; several appear side by side.
        notes: for each result, what its reader should know, a line each.
    """
    payload = Payload()
    parts = [result._page_part(notes[i] if notes else (), payload) for i, result in enumerate(results)]
    title = " · ".join(dict.fromkeys(part.title for part in parts))
    first = {map_["coarse"] for part in parts for map_ in part.data["maps"]}
    picture = parts[0].still if len(parts) == 1 else None
    still = None if picture is None else Still(b64encode(jpeg(picture[0])).decode(), picture[1])
    return page_html("result", f"{title} · qvl-attn", {"results": [part.data for part in parts]}, payload, first, still)


def common_data(
    record: Record,
    kind: str,
    title: str,
    *,
    rows: list[dict[str, Any]],
    maps: list[dict[str, Any]],
    media: list[dict[str, Any]],
    clip: dict[str, Any] | None,
    layer_count: int,
    head_count: int,
    made: Sequence[str],
    notes: Sequence[str],
    left_out: LeftOut,
    headline: int = 0,
) -> dict[str, Any]:
    """Return what the page needs of every result.

    Args:
        record: the result.
        kind: the kind whose own parts and texts the page draws besides; any other is drawn without.
        title: the text above: the question, or the name of the file.
        rows: whose attention the maps show, the headline's first: `kind`, and `text` or `parts` for its name.
        maps: as `map_data` makes them.
        media: as `medium_data` makes them.
        clip: as `clip_data` makes it.
        layer_count: number of the model's layers.
        head_count: number of heads of each layer.
        made: further fields of the provenance.
        notes: what the reader should know, a line each.
        left_out: what does not fit into the page.
        headline: number of the map that is shown first.
    """
    return {
        "kind": kind,
        "title": title,
        "rows": rows,
        "maps": maps,
        "headline": headline,
        "media": media,
        "clip": clip,
        "layer_count": layer_count,
        "head_count": head_count,
        "made": _made(record.provenance, made),
        "notes": list(notes),
        "left_out": left_out,
    }


def _made(provenance: Provenance, more: Sequence[str]) -> dict[str, Any]:
    names = ("qvl_attn", "transformers", "torch", "model", "revision", "dtype", "device", *more)
    return {name: getattr(provenance, name) for name in names}


def medium_data(
    media: Media, shape: GridShape, boxes_px: FloatArray, payload: Payload, *, pictures: int = 1
) -> dict[str, Any]:
    """Return the page data of a picture, or of a clip without its frames.

    Args:
        media: the picture or clip.
        shape: steps, rows and columns of its cells in the page.
        boxes_px: (cells, 4) float32 xyxy, those of the first step first.
        payload: the picture is added to it.
        pictures: how many stand side by side; of several, each is smaller.
    """
    _, rows, columns = shape
    boxes = boxes_px[: rows * columns].reshape(rows, columns, 4)
    drawn_px = drawn_px_of(media, round(MAX_PICTURE_PX / sqrt(pictures)))
    return {
        "name": base_name(media.source),
        "size_px": list(media.size_px),
        "grid": list(shape),
        "xs": [*boxes[0, :, 0].tolist(), float(boxes[0, -1, 2])],
        "ys": [*boxes[:, 0, 1].tolist(), float(boxes[-1, 0, 3])],
        "drawn_px": list(drawn_px),
        "picture": None if media.clip else payload.add_picture(resize_picture(media.frames[0], drawn_px)),
    }


def clip_data(
    media: Media, frames: Sequence[int], step_of: Sequence[int], steps: int, payload: Payload
) -> dict[str, Any]:
    """Return the page data of a clip's frames.

    Args:
        media: the clip.
        frames: indices of the sampled frames that the page shows.
        step_of: the step in the page of each.
        steps: number of steps of the clip.
        payload: the frames are added to it.
    """
    drawn_px = drawn_px_of(media, MAX_PICTURE_PX)
    return {
        "frames": [payload.add_picture(resize_picture(media.frames[i], drawn_px)) for i in frames],
        "times_s": [float(media.sampled_s[i]) for i in frames],
        "step_of": list(step_of),
        "steps": steps,
    }


def map_data(
    kind: str,
    name: str,
    sources: Iterable[tuple[Mapping[str, Any], Maps]],
    shapes: Sequence[GridShape],
    payload: Payload,
    *,
    layer_rows: int | None = None,
    known_rows: int | None = None,
    cells: IntArray | None = None,
    mass: bool = True,
    signed: bool = False,
) -> dict[str, Any]:
    """Pack a map: the values of every row at some averages and layers.

    Args:
        kind: `attention`, or what the kind of result calls it.
        name: its name in the list of maps.
        sources: an entry and (R, V) values each. An entry has `id` (`layer` for a single layer) and `layers`; further
            fields are kept: `heads`, which heads are joined; `tokens`, by row how many tokens the query can attend to.
        shapes: the shape of the page's cells of each picture.
        payload: the values are added to it.
        layer_rows: how many rows of all sources but the first are packed; by default all.
        known_rows: how many rows have coarse maps and the ends of their scales; of the others the page computes them.
        cells: indices of the cells in the page, by default all. Scales are those of all cells.
        mass: whether values are shares of an attention, whose sum is its mass.
        signed: whether values are between -1 and 1, on a fixed scale.
    """
    entries: list[dict[str, Any]] = []
    coarse_maps, layer_maps, start = [], [], 0
    for entry, values in sources:
        full = values[:layer_rows] if entries else values
        packed, known = full if cells is None else full[:, cells], full[:known_rows]
        coarse_maps.append(_coarse(packed[:known_rows], shapes))
        layer_maps += [known] if entry["id"] == "layer" else []
        entries.append(
            {
                **entry,
                "block": payload.add_rows(packed, signed=signed),
                "rows": len(packed),
                "coarse_rows": len(known),
                "coarse_at": start,
                "high": [1.0 if signed else percentile_scale([row]).high for row in known],
            }
        )
        if mass:
            # Also of the rows that are not packed: the page lists their shares.
            entries[-1] |= {"mass": entry.get("mass", values.sum(axis=1, dtype=np.float64).tolist())}
        start += len(known)
    shared = list(entries[0]["high"])
    for i in range(len(layer_maps[0]) if layer_maps and not signed else 0):
        shared[i] = percentile_scale([maps[i] for maps in layer_maps]).high
    return {
        "kind": kind,
        "name": name,
        "is_attention": mass,
        "sources": entries,
        "coarse": payload.add_rows(np.concatenate(coarse_maps), signed=signed),
        "shared": shared,
        "signed": signed,
        "rows": None,
        "heads": None,
        "removed": [],
    }


def _coarse(maps: Maps, shapes: Sequence[GridShape]) -> NDArray[np.float64]:
    """Return the coarse maps of all pictures, (N, V'), of (N, V) maps."""
    parts = np.split(maps, np.cumsum([np.prod(shape) for shape in shapes])[:-1], axis=1)
    return np.concatenate([coarse(part.reshape(-1, *shape)) for part, shape in zip(parts, shapes, strict=True)], axis=1)


def heads_data(
    layers: Sequence[int],
    numbers: Sequence[int],
    maps: Sequence[Sequence[Maps]],
    payload: Payload,
    cells: IntArray | None = None,
) -> dict[str, Any]:
    """Pack the maps of single heads.

    Args:
        layers: numbers of the layers.
        numbers: numbers of the heads.
        maps: for each layer, (H, V) values of each of the first rows of the map; at least one row.
        payload: the values are added to it.
        cells: as in `map_data`.
    """
    rows = max(len(layer) for layer in maps)
    return {
        "layers": list(layers),
        "numbers": list(numbers),
        "rows": [len(layer) for layer in maps],
        "blocks": [
            payload.add_rows(np.concatenate(layer)[:, slice(None) if cells is None else cells]) for layer in maps
        ],
        "high": [[percentile_scale([head]).high for row in layer for head in row] for layer in maps],
        "shared": [percentile_scale([layer[i] for layer in maps if i < len(layer)]).high for i in range(rows)],
    }


def maps_page_part(record: Record, source: MapSource, title: str, notes: Sequence[str], payload: Payload) -> PagePart:
    """Return the page's part of a result of any kind, from its maps alone: each query's headline and layers.

    Args:
        record: the result.
        source: its maps.
        title: the text above.
        notes: what the reader should know, a line each.
        payload: maps and pictures are added to it.
    """
    shapes = [grid.shape for grid in source.grids]
    size = (len(source.layer_maps(source.queries[0])) + 1) * sum(grid.cells for grid in source.grids)
    count = max(MAX_VALUES // size, 1)
    queries = source.queries[:count]
    sheets = [list(source.layer_maps(query).values()) for query in queries]
    # One map of every query in a block: the headline's selection, then each layer.
    selections = [("layer", of_queries) for of_queries in zip(*sheets, strict=True)]
    if source.headline not in sheets[0]:
        of_headline = tuple(replace(source.headline, query=query) for query in queries)
        selections.insert(0, ("headline", of_headline))
    layers = sorted({layer for _, (first, *_) in selections for layer in first.layers})

    data = common_data(
        record,
        "",
        title,
        rows=[{"kind": "", "text": query} for query in queries],
        maps=[
            map_data(
                "attention",
                "attention",
                (
                    ({"id": name, "layers": list(of_queries[0].layers)}, _stacked(source, of_queries))
                    for name, of_queries in selections
                ),
                shapes,
                payload,
            )
        ],
        media=[
            medium_data(media, grid.shape, grid.boxes_px, payload, pictures=len(record.media))
            for media, grid in zip(record.media, source.grids, strict=True)
        ],
        clip=_frames(record, source, payload),
        layer_count=layers[-1] + 1,
        head_count=0,
        made=(),
        notes=notes,
        left_out=[["query", query] for query in source.queries[count:]],
    )
    return PagePart(data, title)


def _stacked(source: MapSource, selections: Sequence[MapSelection]) -> Maps:
    """Return maps as rows over all cells of the prompt: (N, V) float32."""
    maps = [source.heat_map(selection) for selection in selections]
    return np.stack([np.concatenate([heat.values.ravel() for heat in parts]) for parts in maps])


def _frames(record: Record, source: MapSource, payload: Payload) -> dict[str, Any] | None:
    """Return a clip's first frame of each step, and its timeline."""
    if not record.is_clip:
        return None
    from qvl_attn.results.clip_export import step_edges_s  # loads PyAV

    media, grid = record.media[0], source.grids[0]
    steps = grid.shape[0]
    frames = [first_frame_index(media, grid, step) for step in range(steps)]
    data = clip_data(media, frames, range(steps), steps, payload)
    return {**data, "edges_s": step_edges_s(media, steps).tolist()}
