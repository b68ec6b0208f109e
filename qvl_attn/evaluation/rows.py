"""Scores as the lines of `scores.jsonl`, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from qvl_attn.core.errors import StoreError
from qvl_attn.core.text import quoted
from qvl_attn.core.typed_json import Count, Finite, Number, Share, decoded
from qvl_attn.evaluation.figures import HEAD_FIGURES, Controlled, Controls, Figures, LayerControls
from qvl_attn.evaluation.score import Score
from qvl_attn.results.run_folder import REMEDIES, ROWS_FILE, Run, read_typed_rows

_FRACTIONS = ("pointing", "mass", "auc", "iou")


class _Row(TypedDict):
    id: str
    status: Literal["ok", "error"]
    index: Count
    media: tuple[str, ...]
    question: str
    references: tuple[str, ...]
    group: str
    evidence: str
    boxes: Count
    accuracy: Share


class _Failed(_Row):
    error: str


class _Scored(_Row):
    answer: str
    right: bool | None
    grounded: bool | None
    unsampled: bool
    area: Share
    inside: Share
    headline: Figures[Number]
    all_layers: Figures[Number]
    controls: Controls[Controlled[Number]]
    layers: Figures[list[Number]]
    layer_controls: LayerControls[Controlled[list[Number]]]
    heads: dict[str, list[list[Number]]]
    attention: str
    seconds: Finite


# What is left out if it is empty.
class ErrorRow(_Failed, total=False):
    """The line of a sample that could not be scored."""

    retried: str
    half: str
    headline_map: str


class ScoredRow(_Scored, total=False):
    """The line of a scored sample."""

    retried: str
    half: str
    headline_map: str
    methods: dict[str, dict[str, Number]]
    method_chance: dict[str, dict[str, Number]]


_ROWS: dict[str, Any] = {"ok": ScoredRow, "error": ErrorRow}


def score_row(score: Score) -> dict[str, Any]:
    """Return a score as a line of `scores.jsonl`: six digits, null where a figure is not defined."""
    kind = _ROWS[score.status]
    values = {name: getattr(score, name) for name in kind.__annotations__}
    row: dict[str, Any] = as_json(
        {name: value for name, value in values.items() if value or name not in kind.__optional_keys__}
    )
    return row


def score_of(row: object) -> Score:
    """Return the score of a line of `scores.jsonl`, which has six digits.

    Raises:
        ValueError: it is not such a line.
    """
    status = decoded(row, _Row, "row")["status"]
    fields = {name: _from_json(value) for name, value in decoded(row, _ROWS[status], "row").items()}
    if status == "error":
        return Score(**fields)
    del fields["right"], fields["grounded"]  # they follow from the others
    score = Score(**fields)
    for part, figures in (("headline", score.headline), ("all_layers", score.all_layers)):
        for name in _FRACTIONS:
            if not np.isnan(figures[name]) and not 0 <= figures[name] <= 1:
                raise ValueError(f"row.{part}.{name}: want 0 to 1")
    layers = {len(values) for part in (score.layers, *score.layer_controls.values()) for values in part.values()}
    heads = {values.shape for values in score.heads.values()}
    if len(layers) != 1 or len(heads) > 1 or not {shape[0] for shape in heads} <= layers:
        raise ValueError("row: not one number of layers and of heads")
    if score.heads and score.heads.keys() != {*HEAD_FIGURES}:
        raise ValueError("row.heads: not the figures of this version")
    return score


def read_scores(folder: Path) -> list[Score]:
    """Read all scores of a run, in the order of its data set.

    Raises:
        StoreError: a line is not a row.
    """
    return sorted(read_typed_rows(folder, "check", score_of), key=lambda score: score.index)


def read_all_scores(folder: Path, run: Run) -> list[Score]:
    """Read the scores of a finished run, one for each sample of its `run.json`, in the order of its data set.

    Raises:
        StoreError: a line is not a row, or a sample has none.
    """
    scores = read_scores(folder)
    # A part, or a calibration on the samples with boxes, has the indices of a larger data set.
    if run["same"].get("--shard") is None and run["same"].get("--calibrate") is None:
        check_indices(folder, scores, len(run["samples"]))
    if len(scores) != len(run["samples"]):  # no row is about another sample, and no sample has two
        raise StoreError(
            f"{folder}: its rows are not those of its samples: {len(scores)} rows, {len(run['samples'])} samples",
            "run the same check again: it asks the missing samples again",
        )
    return scores


def check_indices(folder: Path, scores: Sequence[Score], count: int) -> None:
    """Check that the indices of rows are below the number of samples.

    Raises:
        StoreError: one is not.
    """
    for score in scores:
        if score.index >= count:
            raise StoreError(
                f"{folder / ROWS_FILE}: the row of {quoted(score.id)} has index {score.index} of {count} samples",
                REMEDIES["check"],
            )


def as_json(value: Any) -> Any:
    """Return a value as JSON can hold it: lists for arrays, floats of six digits, None for NaN and infinity."""
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value


def _from_json(value: Any) -> Any:
    """Return a value of a row as a score has it: arrays for lists, NaN for None."""
    if isinstance(value, dict):
        return {name: _from_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return np.array(value, dtype=np.float64)
    return float("nan") if value is None else value
