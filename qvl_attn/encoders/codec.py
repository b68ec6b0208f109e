"""Convert an encoder's result to arrays and JSON (schema 1) and back: the names and shapes on disk. Opens no file.

A file may come from anywhere: the dataclasses that are built from it check everything that is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.types import Media
from qvl_attn.encoders.attention import EncoderAttention, join_heads
from qvl_attn.encoders.record import EncoderProvenance, EncoderRecord, EncoderSettings, PatchEmbedding, SaliencyMap
from qvl_attn.encoders.statistics import describe_statistics, statistics_of
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.results.codec import media_json

SCHEMA_VERSION = 1
R = TypeVar("R", bound=EncoderRecord)
KIND = "encoder"
# Of the rows for clicked patches: means over heads, for which half precision is enough.
GRID_DTYPE = np.float16
Arrays = dict[str, NDArray[Any]]


def record_arrays(record: EncoderRecord) -> Arrays:
    """Return the contents of `attention.npz`. Names are those of a question's result where they mean the same.

    `weights` (L, Q, V) and `weights_by_head` (L, H, Q, V): a row for each query of `EncoderAttention.queries`, a column
    for each patch; the column of a patch of a clip has the attention of the query of its own step. `queries` (Q,):
    their places in a step's sequence, -1 for the mean over all patches. `query_role` (Q,): `cls` or `patch`.
    `prefix_weights` (L, H, Q, t, R): the attention on the prefix tokens.
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
    indices = np.array(record.media[0].clip.frame_indices if record.media[0].clip else [0], dtype=np.int64)
    arrays: Arrays = {
        "weights": by_head.mean(axis=1, dtype=np.float32),
        "weights_by_head": np.ascontiguousarray(by_head),
        "prefix_weights": np.ascontiguousarray(tokens[..., :R]),
        "prefix_role": np.array(attention.prefix, dtype=np.str_),
        "layers": np.arange(attention.layer_count, dtype=np.int64),
        "queries": np.array(
            [0 if query == "cls" else R + places[query] if query in places else -1 for query in queries], dtype=np.int64
        ),
        "query_role": np.array(["cls" if query == "cls" else "patch" for query in queries]),
        "vision_tokens": step * (R + cells) + R + np.tile(np.arange(cells), t),
        "vision_mass": np.stack([attention.patch_share(query).mean(axis=1) for query in queries], axis=1),
        "grid_thw": np.array([attention.grid], dtype=np.int64),
        "merge_size": np.array(1, dtype=np.int64),
        "media_index": np.zeros(t * cells, dtype=np.int64),
        "boxes_px": attention.boxes_px,
        "frame_span": indices[record.frames][step],
        "times_s": record.media[0].times_s[record.frames][step],
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


def record_json(record: EncoderRecord, files: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
    """Return the contents of `result.json`.

    Args:
        record: the result.
        files: names relative to the folder.
        notes: notes for the reader, a line each.
    """
    attention = record.attention
    _, h, w = attention.grid
    statistics = statistics_of(attention)
    headline = attention.queries[0]
    values = join_heads(attention.maps(headline)[-1], record.settings.over)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "family": attention.family,
        "media": [media_json(record.media[0], attention.grid)],
        # Of one step; all steps of a clip have the same.
        "tokens": [
            {"role": role, "first": attention.prefix.index(role), "count": attention.prefix.count(role)}
            for role in dict.fromkeys(attention.prefix)
        ]
        + [{"role": "patch", "first": len(attention.prefix), "count": h * w}],
        "input_px": list(attention.input_px),
        "patch_px": attention.patch_px,
        "queries": [_query_json(record, query) for query in attention.queries],
        "headline": {
            "query": headline,
            "layer": attention.layer_count - 1,
            "over": record.settings.over,
            "uniform": attention.uniform(headline, attention.layer_count - 1),
            "minimum": float(values.min()),
            "maximum": float(values.max()),
        },
        "layers": [
            {
                "layer": layer,
                "full": bool(attention.full[layer]),
                **{
                    name: {
                        "mean": float(statistic.values[layer].mean()),
                        "least": float(statistic.values[layer].min()),
                        "most": float(statistic.values[layer].max()),
                        "chance": float(statistic.chance[layer]),
                    }
                    for name, statistic in statistics.items()
                },
            }
            for layer in range(attention.layer_count)
        ],
        "said": describe_statistics(statistics),
        "saliency": [
            {"method": saliency.method, "target": saliency.target, "score": saliency.score}
            for saliency in record.saliency
        ],
        "settings": asdict(record.settings),
        "provenance": asdict(record.provenance),
        "seconds": dict(record.seconds),
        "peak_memory_bytes": {stage: dict(peak) for stage, peak in record.peak_memory_bytes.items()},
        "notes": list(notes),
        "files": sorted(files),
    }


def _query_json(record: EncoderRecord, query: str) -> dict[str, Any]:
    """Return the JSON of a query: its role and, for a single patch, its place."""
    if not query.startswith("at_"):
        return {"name": query, "role": query, "at_px": None, "place": None}
    i = int(query.removeprefix("at_")) - 1
    place = int(record.attention.query_patches[i])
    return {"name": query, "role": "patch", "at_px": list(record.settings.at[i]), "place": place}


def record_from(
    kind: type[R], value: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], media: tuple[Media, ...]
) -> R:
    """Build a result from its JSON, arrays and media. Its `reconstruction` is black until the caller replaces it.

    Raises:
        KeyError: a field is missing.
        TypeError: an unknown field, or one of the wrong type.
        ValueError: a field is out of range.
    """
    attention = _attention_from(value, arrays)
    settings = _settings_from(value["settings"])
    embedding = None
    if "space_layers" in arrays:
        embedding = PatchEmbedding(**{name: arrays.get(f"space_{name}") for name in SPACE})  # type: ignore[arg-type]
    saliency = tuple(
        SaliencyMap(str(saved["method"]), str(saved["target"]), float(saved["score"]), arrays[f"saliency_{i}"])
        for i, saved in enumerate(value["saliency"])
    )
    _, h, w = attention.grid
    patch_rows = arrays.get("grid_rows")
    return kind(
        media=media,
        attention=attention,
        reconstruction=np.zeros((attention.grid[0], h * attention.patch_px, w * attention.patch_px, 3), dtype=np.uint8),
        settings=settings,
        provenance=EncoderProvenance(**{name: str(text) for name, text in value["provenance"].items()}),
        frames=arrays["step_frames"],
        similarity=arrays.get("similarity"),
        similarity_layers=arrays.get("similarity_layers"),
        embedding=embedding,
        saliency=saliency,
        patch_rows=None if patch_rows is None else patch_rows.astype(np.float32),
        patch_row_places=arrays.get("grid_places"),
        seconds={str(stage): float(seconds) for stage, seconds in value["seconds"].items()},
        peak_memory_bytes={
            str(stage): {"host": int(peak["host"]), "before": int(peak["before"])}
            | {str(memory): int(size) for memory, size in peak.items()}
            for stage, peak in value["peak_memory_bytes"].items()
        },
    )


def _attention_from(value: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> EncoderAttention:
    t, h, w = (int(n) for n in arrays["grid_thw"][0])
    by_head, prefix = arrays["weights_by_head"], arrays["prefix_weights"]
    L, H, Q = by_head.shape[:3]
    if by_head.shape[3:] != (t * h * w,) or prefix.shape[:4] != (L, H, Q, t):
        raise ValueError("weights_by_head and prefix_weights do not fit the grid")
    tokens = np.concatenate([prefix, by_head.reshape(L, H, Q, t, h * w)], axis=-1)
    if arrays["patch_px"].shape:
        raise ValueError("patch_px: not one number")
    roles = arrays["query_role"].tolist()
    has_cls, first = roles[0] == "cls", 1 + (roles[0] == "cls")
    if roles != ["cls"] * has_cls + ["patch"] * (Q - has_cls):
        raise ValueError(f"query_role: {roles}")
    return EncoderAttention(
        family=str(value["family"]),
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


def _settings_from(value: Mapping[str, Any]) -> EncoderSettings:
    clip, label = value.get("clip"), value["label"]
    numbers = {name: value[name] for name in ("min_pixels", "max_pixels", "layer")}
    return EncoderSettings(
        **{
            **value,
            **{name: None if number is None else int(number) for name, number in numbers.items()},
            "stretch": bool(value.get("stretch")),
            "seed": int(value["seed"]),
            "saliency": bool(value["saliency"]),
            "label": None if label is None else str(label),
            "at": tuple((float(x), float(y)) for x, y in value["at"]),
            "embeddings": tuple(str(name) for name in value["embeddings"]),
            "texts": tuple(str(text) for text in value["texts"]),
            "clip": None if clip is None else ClipSettings(**clip),
        }
    )
