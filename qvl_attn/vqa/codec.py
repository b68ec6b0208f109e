"""Conversion of a result to arrays and JSON (schema 1) and back: names and shapes on disk. Opens no file.

Saved files are untrusted: the dataclasses check every value that is read, and no path from the files is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict, TypeVar

import numpy as np

from qvl_attn.attribution.faithfulness import CONTROLS, HEADLINE, Curves, curves_from, curves_json
from qvl_attn.attribution.heatmap import CLIP_PERCENTILE, heat_maps, layer_figures, over_chance
from qvl_attn.attribution.methods.maps import method_arrays, methods_from, methods_json
from qvl_attn.attribution.settings import Settings, settings_from
from qvl_attn.attribution.similarity import Sanity
from qvl_attn.core.typed_json import Finite, LayerOrHead, Number, decoded
from qvl_attn.core.types import Apart, Capture, HeatMap, Media, Token, TokenGrid
from qvl_attn.model.token_grid import grid_of
from qvl_attn.results.codec import media_json
from qvl_attn.vqa.merge_passes import RULE
from qvl_attn.vqa.record import VqaProvenance, VqaRecord

SCHEMA_VERSION = 1
R = TypeVar("R", bound=VqaRecord)


def capture_arrays(capture: Capture) -> dict[str, np.ndarray]:
    """Return the arrays of a capture in `attention.npz`."""
    grids = capture.grids
    steps = [np.repeat(np.arange(grid.shape[0]), grid.shape[1] * grid.shape[2]) for grid in grids]
    arrays: dict[str, np.ndarray] = {
        "weights": capture.weights,
        "layers": capture.layers,
        "queries": capture.queries,
        "query_role": capture.query_role,
        "produces": capture.produces,
        "vision_tokens": capture.vision_tokens,
        "vision_mass": capture.vision_mass,
        "grid_thw": np.array([grid.grid_thw for grid in grids], dtype=np.int64),
        "merge_size": np.array(grids[0].merge_size, dtype=np.int64),
        "media_index": capture.media_index,
        "boxes_px": np.concatenate([grid.boxes_px for grid in grids]),
        "frame_span": np.concatenate([grid.frame_span[step] for grid, step in zip(grids, steps, strict=True)]),
        "times_s": np.concatenate([grid.times_s[step] for grid, step in zip(grids, steps, strict=True)]),
    }
    if capture.weights_by_head is not None:
        arrays["weights_by_head"] = capture.weights_by_head
    if capture.weights_max is not None:
        arrays["weights_max"] = capture.weights_max
    if capture.apart is not None:
        arrays["head_layers"] = np.array(capture.apart.layers, dtype=np.int64)
        arrays["heads"] = np.array(capture.apart.heads, dtype=np.int64)
    return arrays


def record_arrays(result: VqaRecord) -> dict[str, np.ndarray]:
    """Return the contents of `attention.npz`: the arrays of the capture and of each method."""
    return capture_arrays(result.capture) | method_arrays(result.methods)


def capture_from(arrays: Mapping[str, np.ndarray], tokens: Sequence[Token], media: Sequence[Media]) -> Capture:
    """Return the capture of these arrays: the inverse of `capture_arrays`.

    Raises:
        KeyError: an array is missing.
        ValueError: shapes or types do not follow the schema.
    """
    merge_size = int(arrays["merge_size"])
    grids: list[TokenGrid] = []
    start = 0
    patches = int(np.prod(arrays["grid_thw"].astype(object), axis=1).sum())
    if merge_size < 1 or patches != len(arrays["vision_tokens"]) * merge_size**2:
        raise ValueError("grid_thw does not fit the vision tokens")
    for grid_thw, medium in zip(arrays["grid_thw"].tolist(), media, strict=True):
        grid = grid_of(grid_thw, merge_size, int(arrays["vision_tokens"][start]), medium)
        start += grid.cells
        grids.append(grid)
    apart = None
    if "heads" in arrays:
        apart = Apart(tuple(arrays["head_layers"].tolist()), tuple(arrays["heads"].tolist()))
    capture = Capture(
        layers=arrays["layers"],
        queries=arrays["queries"],
        query_role=arrays["query_role"],
        produces=arrays["produces"],
        weights=arrays["weights"],
        vision_mass=arrays["vision_mass"],
        grids=tuple(grids),
        tokens=tuple(tokens),
        weights_by_head=arrays.get("weights_by_head"),
        apart=apart,
        weights_max=arrays.get("weights_max"),
    )
    derived = capture_arrays(capture)
    for name in ("vision_tokens", "boxes_px", "frame_span", "times_s"):
        if not np.array_equal(derived[name], arrays[name]):
            raise ValueError(f"{name} does not fit the grids")
    return capture


def record_json(
    result: VqaRecord, drawn: Sequence[HeatMap], files: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
    """Return the contents of `result.json`.

    Args:
        result: the result.
        drawn: the headline maps as drawn, after filters.
        files: file names relative to the folder.
        notes: what the reader should know, a line each.
    """
    capture, headline = result.capture, result.heatmaps()
    first, scale = headline[0], drawn[0].scale
    rows = result.query_rows()
    cells = sum(grid.cells for grid in capture.grids)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "ask" if result.settings.clip is None else "video",
        "question": result.question,
        "answer": result.answer,
        "answer_logprob": result.answer_logprob,
        "supplied_answer": result.supplied_answer,
        "supplied_logprob": result.supplied_logprob,
        "tokens": [asdict(token) for token in capture.tokens],
        "media": [media_json(media, grid.grid_thw) for media, grid in zip(result.media, capture.grids, strict=True)],
        "steps": _steps(result),
        "passes": _passes(result),
        "headline": {
            "query": first.query,
            "layers": list(first.layers),
            "heads": first.heads,
            "method": first.method,
            "queries": list(first.queries),
            "uniform": first.uniform,
            "maximum": float(max(heat.values.max() for heat in headline)),
            "minimum": float(min(heat.values.min() for heat in headline)),
            **layer_figures(headline, capture.grids),
        },
        "faithfulness": faithfulness_json(result),
        "methods": methods_json(result.methods, capture),
        "scale": {
            "low": scale.low,
            "high": scale.high,
            "percentile": CLIP_PERCENTILE,
            "clipped_cells": sum(heat.clipped for heat in drawn),
            "cells": cells,
        },
        "layers": [
            {"layer": layer, **_figures_or_none(capture, layer, rows, first.query)} for layer in capture.layers.tolist()
        ],
        "settings": asdict(result.settings),
        "provenance": asdict(result.provenance),
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "notes": list(notes),
        "files": sorted(files),
    }


def faithfulness_json(result: VqaRecord) -> dict[str, Any] | None:
    """Return the deletion and insertion curves and the sanity checks; None if faithfulness was not requested."""
    if not result.settings.faithfulness:
        return None
    curves = result.curves
    return {
        "curves": curves and {**curves_json(curves), "areas": curves.figures()},
        "sanity": {name: asdict(sanity) for name, sanity in (result.sanity or {}).items()},
    }


def _steps(result: VqaRecord) -> list[dict[str, Any]] | None:
    """Return each step's times, share of the headline's attention, and ratio to a uniform map; None for pictures."""
    if result.media[0].clip is None:
        return None
    values = result.heatmaps()[0].values
    totals = values.sum(axis=(1, 2), dtype=np.float64)
    return [
        {"times_s": times.tolist(), "share": float(total / totals.sum()), "over_chance": float(over)}
        for times, total, over in zip(result.capture.grids[0].times_s, totals, over_chance(values), strict=True)
    ]


def pass_folder(number: int) -> str:
    """Return the folder of a pass's result, relative to the folder of the whole result."""
    return f"passes/{number:03d}"


def _passes(result: VqaRecord) -> dict[str, Any] | None:
    if not result.passes:
        return None
    return {
        "mode": "windows" if result.pass_mode == "windows" else "frames",
        "merged": None if result.pass_mode == "both" else RULE,
        "results": [
            {
                "folder": pass_folder(i),
                "frame_indices": _frame_indices(result, pass_result),
                "times_s": pass_result.media[0].times_s.tolist(),
                "answer": pass_result.answer,
                "answer_logprob": pass_result.answer_logprob,
                "vision_mass": pass_result.heatmaps()[0].vision_mass,
            }
            for i, pass_result in enumerate(result.passes)
        ],
    }


def _frame_indices(result: VqaRecord, pass_result: VqaRecord) -> list[int]:
    """Return the numbers of the source frames in a pass."""
    facts = pass_result.media[0].clip
    if facts is not None:
        return list(facts.frame_indices)
    whole = result.media[0]
    return [whole.clip.frame_indices[result.passes.index(pass_result)]] if whole.clip else []


def _figures_or_none(capture: Capture, layer: int, rows: np.ndarray, query: str) -> dict[str, float | None]:
    index = capture.layers.tolist().index(layer)
    if not capture.weights[index][rows].any():
        return {"vision_mass": 0.0, "entropy_bits": None, "top10_share": None, "spread_px": None}
    maps = heat_maps(capture, layers=[layer], heads=None, rows=rows, query=query)
    return {**layer_figures(maps, capture.grids)}


def _tokens_from(items: Sequence[Mapping[str, Any]]) -> tuple[Token, ...]:
    """Return the tokens of a `result.json`."""
    return tuple(
        Token(
            int(item["position"]),
            str(item["text"]),
            str(item["role"]),
            None if item["span"] is None else (int(item["span"][0]), int(item["span"][1])),
        )
        for item in items
    )


def _faithfulness_from(
    value: Mapping[str, Any] | None, settings: Settings
) -> tuple[Curves | None, dict[str, Sanity] | None]:
    if bool(value) != settings.faithfulness:
        raise ValueError("faithfulness: does not agree with the settings")
    if not value:
        return None, None
    curves = curves_from(value["curves"]) if value["curves"] else None
    sanity = decoded(value["sanity"], dict[str, Sanity], "sanity")
    maps = settings.methods or (HEADLINE,)
    if (curves and curves.names != (*maps, *CONTROLS)) or {*sanity} != {*maps}:
        raise ValueError(f"faithfulness: not of the maps {maps}")
    return curves, sanity


class _Figures(TypedDict):
    vision_mass: Number


class _Layer(_Figures):
    layer: LayerOrHead


class _Saved(TypedDict):
    question: str
    answer: str
    answer_logprob: Finite
    supplied_answer: str | None
    headline: _Figures
    layers: list[_Layer]


def record_from(kind: type[R], value: Mapping[str, Any], arrays: Mapping[str, np.ndarray], media: Sequence[Media]) -> R:
    """Return a record from its JSON, arrays and media.

    Args:
        kind: class of the record.
        value: contents of `result.json`.
        arrays: contents of `attention.npz`.
        media: the pictures, or the clip.

    Raises:
        InputError: layers, heads or query of the settings cannot be parsed.
        KeyError: a field is missing.
        TypeError: a field is unknown, or has another type.
        ValueError: a field is out of range.
    """
    saved, provenance = decoded(value, _Saved, "result"), decoded(value["provenance"], VqaProvenance, "provenance")
    settings = settings_from(value["settings"], provenance.layer_count)
    supplied = saved["supplied_answer"]
    methods = methods_from(value.get("methods") or (), arrays, settings.methods)
    curves, sanity = _faithfulness_from(value.get("faithfulness"), settings)
    record = kind(
        question=saved["question"],
        answer=saved["answer"],
        answer_logprob=saved["answer_logprob"],
        supplied_answer=supplied,
        supplied_logprob=None if supplied is None else float(value["supplied_logprob"]),
        media=tuple(media),
        capture=capture_from(arrays, _tokens_from(value["tokens"]), media),
        methods=methods,
        curves=curves,
        sanity=sanity,
        settings=settings,
        provenance=provenance,
        seconds={str(stage): float(seconds) for stage, seconds in value["seconds"].items()},
        peak_memory_bytes={
            str(stage): {str(memory): int(size) for memory, size in peak.items()}
            for stage, peak in value.get("peak_memory_bytes", {}).items()
        },
    )
    _ = record.selection  # what was typed is parsed here, and not where it is needed
    return record
