"""An encoder's result as arrays and JSON (schema 1), and back: names and shapes on disk. Opens no file.

A file may come from anywhere: the dataclasses that are built from it check everything that is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.typed_json import Count, Finite, LayerOrHead, decoded
from qvl_attn.core.types import _require_array
from qvl_attn.encoders.attention import EncoderAttention, join_heads
from qvl_attn.encoders.maps import EncoderMaps
from qvl_attn.encoders.record import (
    EncoderProvenance,
    EncoderRecord,
    EncoderSettings,
    PatchEmbedding,
    SaliencyMap,
    SaliencyMethod,
)
from qvl_attn.encoders.statistics import ByStatistic, Statistic, describe_statistics, statistics_of
from qvl_attn.results.codec import Arrays, ResultJson, grid_sizes, shared_arrays
from qvl_attn.results.record import Over

R = TypeVar("R", bound=EncoderRecord)
KIND = "encoder"
# Of the rows for clicked patches: means over heads, for which half precision is enough.
GRID_DTYPE = np.float16


@dataclass(frozen=True)
class TokensJson:
    """The tokens of a role, of one step; all steps of a clip have the same."""

    role: str
    first: Count
    count: Count


@dataclass(frozen=True)
class QueryJson:
    """A query: its role and, for a single patch, its place in a step."""

    name: str
    role: str
    at_px: tuple[Finite, Finite] | None
    place: Count | None


@dataclass(frozen=True)
class HeadlineJson:
    """The headline map, and the extremes of its patches."""

    query: str
    layer: LayerOrHead
    over: Over
    uniform: Finite
    minimum: Finite
    maximum: Finite


@dataclass(frozen=True)
class StatisticJson:
    """A statistic of the heads of a layer, and its value by chance."""

    mean: Finite
    least: Finite
    most: Finite
    chance: Finite


class LayerJson(ByStatistic[StatisticJson]):
    """The statistics of a layer, and whether its patches attend to the whole step."""

    layer: LayerOrHead
    full: bool


@dataclass(frozen=True)
class SaliencyJson:
    """A saliency map, whose values are in `attention.npz`."""

    method: SaliencyMethod
    target: str
    score: Finite


@dataclass(frozen=True, kw_only=True)
class EncoderJson(ResultJson):
    """The contents of an encoder's `result.json`."""

    provenance: EncoderProvenance
    family: str
    tokens: tuple[TokensJson, ...]
    input_px: tuple[Count, Count]
    patch_px: Count
    queries: tuple[QueryJson, ...]
    headline: HeadlineJson
    layers: tuple[LayerJson, ...]
    said: tuple[str, ...]
    saliency: tuple[SaliencyJson, ...]


def encoder_arrays(record: EncoderRecord) -> Arrays:
    """Return the contents of `attention.npz`: those of `shared_arrays`, and an encoder's own.

    `weights` and `weights_by_head` have a row for each query of `EncoderAttention.queries`, and a column for each
    patch; the column of a patch of a clip has the attention of the query of its own step. `queries` (Q,): their places
    in a step's sequence, -1 for the mean over all patches. `query_role` (Q,): `cls` or `patch`. `prefix_weights`
    (L, H, Q, t, R): the attention on the prefix tokens.
    """
    attention = record.attention
    t, h, w = attention.grid
    cells, R, queries = h * w, len(attention.prefix), attention.queries
    tokens = np.stack([attention.tokens(query) for query in queries], axis=2)  # (L, H, Q, t, T)
    by_head = tokens[..., R:].reshape(*tokens.shape[:3], t * cells)
    step = np.repeat(np.arange(t), cells)
    places = dict(
        zip((query for query in queries if query.startswith("at_")), attention.query_patches.tolist(), strict=True)
    )
    arrays = shared_arrays(
        EncoderMaps(record).grids,
        weights=by_head.mean(axis=1, dtype=np.float32),
        weights_by_head=np.ascontiguousarray(by_head),
        layers=np.arange(attention.layer_count, dtype=np.int64),
        queries=np.array(
            [0 if query == "cls" else R + places[query] if query in places else -1 for query in queries], dtype=np.int64
        ),
        query_role=np.array(["cls" if query == "cls" else "patch" for query in queries]),
        vision_tokens=step * (R + cells) + R + np.tile(np.arange(cells), t),
        vision_mass=np.stack([attention.patch_share(query).mean(axis=1) for query in queries], axis=1),
    )
    arrays |= {
        "prefix_weights": np.ascontiguousarray(tokens[..., :R]),
        "prefix_role": np.array(attention.prefix, dtype=np.str_),
        "step_frames": record.frames,
        "patch_px": np.array(attention.patch_px, dtype=np.int64),
        "full": attention.full,
        "distance_px": attention.distance_px,
        "entropy_bits": attention.entropy_bits,
    }
    optional = {
        "window": attention.window,
        "window_share": attention.window_share,
        "similarity": record.similarity,
        "similarity_layers": record.similarity_layers,
        "grid_rows": None if record.patch_rows is None else record.patch_rows.astype(GRID_DTYPE),
        "grid_places": record.patch_row_places,
    }
    if record.embedding is not None:
        optional |= {f"space_{name}": getattr(record.embedding, name) for name in SPACE}
    optional |= {f"saliency_{i}": saliency.values for i, saliency in enumerate(record.saliency)}
    return arrays | {name: values for name, values in optional.items() if values is not None}


SPACE = ("layers", "components", "explained", "tsne", "tsne_patches")


def encoder_json(record: EncoderRecord, **common: Any) -> EncoderJson:
    """Return the contents of `result.json`.

    Args:
        record: the result.
        common: the fields that every kind has.
    """
    attention = record.attention
    _, h, w = attention.grid
    statistics = statistics_of(attention)
    headline = attention.queries[0]
    values = join_heads(attention.maps(headline)[-1], record.settings.over)
    roles = [
        TokensJson(role, attention.prefix.index(role), attention.prefix.count(role))
        for role in dict.fromkeys(attention.prefix)
    ]
    return EncoderJson(
        **common,
        family=attention.family,
        tokens=(*roles, TokensJson("patch", len(attention.prefix), h * w)),
        input_px=attention.input_px,
        patch_px=attention.patch_px,
        queries=tuple(_query_json(record, query) for query in attention.queries),
        headline=HeadlineJson(
            query=headline,
            layer=attention.layer_count - 1,
            over=record.settings.over,
            uniform=attention.uniform(headline, attention.layer_count - 1),
            minimum=float(values.min()),
            maximum=float(values.max()),
        ),
        layers=tuple(_layer_json(layer, bool(full), statistics) for layer, full in enumerate(attention.full)),
        said=tuple(describe_statistics(statistics)),
        saliency=tuple(SaliencyJson(saliency.method, saliency.target, saliency.score) for saliency in record.saliency),
    )


def _layer_json(layer: int, full: bool, statistics: Mapping[str, Statistic]) -> LayerJson:
    figures = {
        name: StatisticJson(
            mean=float(statistic.values[layer].mean()),
            least=float(statistic.values[layer].min()),
            most=float(statistic.values[layer].max()),
            chance=float(statistic.chance[layer]),
        )
        for name, statistic in statistics.items()
    }
    return cast(LayerJson, {"layer": layer, "full": full, **figures})


def _query_json(record: EncoderRecord, query: str) -> QueryJson:
    if not query.startswith("at_"):
        return QueryJson(query, query, None, None)
    i = int(query.removeprefix("at_")) - 1
    return QueryJson(query, "patch", record.settings.at[i], int(record.attention.query_patches[i]))


def record_from(
    kind: type[R],
    saved: EncoderJson,
    arrays: Mapping[str, NDArray[Any]],
    reconstruction: NDArray[np.uint8],
    **common: Any,
) -> R:
    """Return a result from its JSON and arrays.

    Args:
        kind: class of the result.
        saved: contents of `result.json`.
        arrays: contents of `attention.npz`.
        reconstruction: the encoder's input, as in `EncoderRecord`.
        common: the fields that every kind has.

    Raises:
        KeyError: an array is missing.
        ValueError: an array has another type or shape, or a value is out of range.
    """
    with _names_on_disk():
        embedding = None
        if "space_layers" in arrays:
            embedding = PatchEmbedding(**{name: arrays.get(f"space_{name}") for name in SPACE})  # type: ignore[arg-type]
        patch_rows = arrays.get("grid_rows")
        settings = decoded(saved.settings, EncoderSettings, "settings", exact=True)
        return kind(
            **{**common, "settings": settings},
            attention=_attention_from(saved.family, arrays),
            reconstruction=reconstruction,
            frames=arrays["step_frames"],
            similarity=arrays.get("similarity"),
            similarity_layers=arrays.get("similarity_layers"),
            embedding=embedding,
            saliency=tuple(
                SaliencyMap(entry.method, entry.target, entry.score, arrays[f"saliency_{i}"])
                for i, entry in enumerate(saved.saliency)
            ),
            patch_rows=None if patch_rows is None else patch_rows.astype(np.float32),
            patch_row_places=arrays.get("grid_places"),
        )


# Arrays that have another name in `attention.npz` than in the record.
ON_DISK = {
    **dict.fromkeys(("received", "cls", "rows"), "weights_by_head"),
    **{"patch_rows": "grid_rows", "patch_row_places": "grid_places", "frames": "step_frames"},
    **{"query_patches": "queries", **{name: f"space_{name}" for name in ("components", "explained", *SPACE[3:])}},
}


@contextmanager
def _names_on_disk() -> Iterator[None]:
    """Name the arrays of a record's error as `attention.npz` does."""
    try:
        yield
    except ValueError as error:
        name, colon, reason = str(error).partition(":")
        raise ValueError(f"{ON_DISK.get(name, name)}{colon}{reason}") from None


def _attention_from(family: str, arrays: Mapping[str, NDArray[Any]]) -> EncoderAttention:
    [(t, h, w)], _ = grid_sizes(arrays, 1)
    by_head, prefix = arrays["weights_by_head"], arrays["prefix_weights"]
    L, H, Q = by_head.shape[:3]
    if by_head.shape[3:] != (t * h * w,) or prefix.shape[:4] != (L, H, Q, t):
        raise ValueError("weights_by_head and prefix_weights do not fit the grid")
    tokens = np.concatenate([prefix, by_head.reshape(L, H, Q, t, h * w)], axis=-1)
    _require_array("patch_px", arrays["patch_px"], np.int64, ())
    roles = arrays["query_role"].tolist()
    has_cls, first = roles[0] == "cls", 1 + (roles[0] == "cls")
    if roles != ["cls"] * has_cls + ["patch"] * (Q - has_cls):
        raise ValueError(f"query_role: {roles}")
    return EncoderAttention(
        family=family,
        grid=(t, h, w),
        prefix=tuple(arrays["prefix_role"].tolist()),
        boxes_px=arrays["boxes_px"],
        patch_px=int(arrays["patch_px"]),
        full=arrays["full"],
        window=arrays.get("window"),
        received=np.ascontiguousarray(tokens[:, :, first - 1]),
        cls=np.ascontiguousarray(tokens[:, :, 0]) if has_cls else None,
        query_patches=arrays["queries"][first:] - prefix.shape[-1],
        rows=np.ascontiguousarray(tokens[:, :, first:]),
        distance_px=arrays["distance_px"],
        entropy_bits=arrays["entropy_bits"],
        window_share=arrays.get("window_share"),
    )
