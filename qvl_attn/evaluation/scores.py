"""Scores as lines of `scores.jsonl`, and back: every figure of a run is computed from what stands there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qvl_attn.core.errors import StoreError
from qvl_attn.evaluation.score import Numbers, Score
from qvl_attn.results.run_folder import ROWS_FILE, read_rows

_ALWAYS = ("id", "status", "index", "media", "question", "references", "group", "evidence", "boxes", "accuracy")
_FIGURES = ("area", "inside", "headline", "all_layers", "controls", "layers", "layer_controls", "heads")
_SCORED = ("answer", "right", "grounded", "unsampled", *_FIGURES, "attention", "seconds")
_IF_ANY = ("retried", "half", "headline_map", "methods", "method_chance")


def score_row(score: Score) -> dict[str, Any]:
    """A line of `scores.jsonl`: six digits, null where a figure is not defined."""
    named = [*_ALWAYS, *(_SCORED if score.status == "ok" else ("error",))]
    row = {name: getattr(score, name) for name in (*named, *(name for name in _IF_ANY if getattr(score, name)))}
    found: dict[str, Any] = as_json(row)
    return found


def read_scores(folder: Path) -> list[Score]:
    """All scores of a run, in the order of its data set.

    Raises:
        StoreError: a line is no row.
    """
    found = []
    for number, row in enumerate(read_rows(folder), 1):
        try:
            found.append(score_of(row))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise StoreError(f"{folder / ROWS_FILE}: line {number} is not a row of this version") from None
    return sorted(found, key=lambda score: score.index)


def score_of(row: Mapping[str, Any]) -> Score:
    """The score that a line of `scores.jsonl` tells of, to six digits.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, OverflowError: it is not such a line.
    """
    told: dict[str, Any] = {name: row[name] for name in _ALWAYS}
    told |= {name: row[name] for name in _IF_ANY if name in row}
    told |= {name: tuple(row[name]) for name in ("media", "references")}
    told["index"] = int(row["index"])
    told["accuracy"] = _number(row["accuracy"])
    if row["status"] != "ok":
        return Score(**told, error=row["error"])
    told |= {name: row[name] for name in ("answer", "unsampled", "attention", "seconds")}
    told |= {name: _number(row[name]) for name in ("area", "inside")}
    told |= {name: _numbers(row[name]) for name in ("headline", "all_layers")}
    told |= {name: _arrays(row[name]) for name in ("layers", "heads")}
    for name in ("controls", *(name for name in ("methods", "method_chance") if name in row)):
        told[name] = {key: _numbers(values) for key, values in row[name].items()}
    told["layer_controls"] = {name: _arrays(values) for name, values in row["layer_controls"].items()}
    return Score(**told)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: _number(value) for name, value in values.items()}


def _arrays(values: Mapping[str, list[Any]]) -> dict[str, Numbers]:
    return {name: np.array(value, dtype=np.float64) for name, value in values.items()}


def as_json(value: Any) -> Any:
    """A value as JSON may hold it: lists for arrays, six digits, null for what is not defined."""
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
