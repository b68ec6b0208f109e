"""Finished runs of `check` beside each other, paired by the ids of samples: differences, and what changed most.

Each figure's difference is taken sample by sample, and its mean has a percentile bootstrap over groups of pictures
(`summary.bootstrap`): what both runs find easy or hard in a sample is in both figures and leaves the difference, so
that the interval is of the difference and not of two means apart. Needs no model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.grounding import GROUNDING
from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import read_json
from qvl_attn.core.text import inert
from qvl_attn.evaluation.score import Score, as_json, read_scores
from qvl_attn.evaluation.summary import DRAWS, FEW_GROUPS, LEVEL, bootstrap
from qvl_attn.results.run_folder import SUMMARY_FILE, differences, is_finished, read_run

COMPARED = ("accuracy", *GROUNDING, "vision_mass", "entropy", "distance")
_CELLS = {(True, True): "both", (True, False): "first_only", (False, True): "other_only", (False, False): "neither"}


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: as it was named.
        same: of `run.json`, with the name of the data set.
        model: its name.
        headline_map: what its headline averages, to be read.
        calibrated: whether it chose its heads on a first half of the samples.
        scores: what its summary is about, by id, in the order of the data set: of a calibration the second half.
    """

    folder: Path
    same: dict[str, Any]
    model: str
    headline_map: str
    calibrated: bool
    scores: dict[str, Score]


def compare_runs(
    folders: Sequence[str | os.PathLike[str]], *, by: str = "mass", top: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Compare the first run with each other one, on the samples that both have.

    Args:
        folders: two or more that `check` wrote.
        by: the figure by whose change samples are listed, one of `COMPARED`.
        top: how many of them.
        seed: of the bootstrap.

    Returns:
        `runs`, and a `comparisons` entry for each run but the first: what `differences` there are between the two; the
        mean of each of `figures` in both and of the difference (the other minus the first), with `low` and `high` ends
        of its 95 % interval, over the `n` samples that define it in both; answers `right`, and maps `grounded`, in
        both, one or neither; `changed_most`; `flipped` answers. None where a figure is not defined, six digits.

    Raises:
        InputError: fewer than two folders, one that is no finished run or is named twice, no samples in common, or
            samples that are not about the same pictures and boxes; no such figure; a negative `top`.
        StoreError: a run's files are damaged, or cannot be read.
    """
    return compare(read_runs(folders), by=by, top=top, seed=seed)


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Runs that can be compared: each of the others has samples of the first, about the same evidence.

    Raises:
        InputError: they cannot.
        StoreError: a run's files are damaged, or cannot be read.
    """
    if len(folders) < 2:
        raise InputError(f"{len(folders)} runs: want two or more", "the first is what the others are compared with")
    paths = [Path(folder) for folder in folders]
    try:
        seen: dict[Path, Path] = {}
        for path in paths:
            _check_finished(path)
            if path.resolve() in seen:
                raise InputError(f"{seen[path.resolve()]} and {path} are one folder", "name each run once")
            seen[path.resolve()] = path
        runs = [_read(path) for path in paths]
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be read ({error.strerror})") from None
    for other in runs[1:]:
        _check_paired(runs[0], other)
    return runs


def _check_finished(folder: Path) -> None:
    try:
        read_run(folder)
    except StoreError as error:
        raise InputError(
            f"{folder} is no run of qvl-attn check: {error.message}", "name a folder that its --out made"
        ) from None
    if not is_finished(folder):
        raise InputError(
            f"{folder} is not finished: it has no {SUMMARY_FILE}", "the same qvl-attn check command goes on with it"
        )


def _read(folder: Path) -> Run:
    run, summary, scores = read_run(folder), read_json(folder / SUMMARY_FILE), read_scores(folder)
    try:
        return Run(
            folder,
            run["same"] | {"data set": summary["data"]},
            model=summary["model"]["name"],
            headline_map=summary["headline_map"],
            calibrated=summary["calibration"] is not None,
            scores={one.id: one for one in scores if one.half != "first"},
        )
    except (KeyError, TypeError):
        raise StoreError(f"{folder}: run.json or {SUMMARY_FILE} is not of this version") from None


def _check_paired(first: Run, other: Run) -> None:
    common = _common(first, other)
    if not common:
        raise InputError(
            f"{first.folder} and {other.folder} have no sample in common: none of {len(first.scores)} and "
            f"{len(other.scores)} ids is in both",
            "samples are paired by id",
        )
    changed = [name for name in common if first.scores[name].evidence != other.scores[name].evidence]
    if changed:
        raise InputError(
            f"{first.folder} and {other.folder}: {len(changed)} of {len(common)} samples have other pictures or boxes "
            "under the same id",
            "their figures are not about the same thing",
            tuple(f"sample {name}" for name in changed),
        )


def _common(first: Run, other: Run) -> list[str]:
    return [name for name in first.scores if name in other.scores]


def compare(runs: Sequence[Run], *, by: str, top: int, seed: int) -> dict[str, Any]:
    """As `compare_runs`, of runs that were read.

    Raises:
        InputError: no such figure; fewer than no samples.
    """
    if top < 0:
        raise InputError(f"--top {top}: want 0 or more")
    if by not in COMPARED:
        raise InputError(f"--by {by}: is no figure that is compared", f"figures: {', '.join(COMPARED)}")
    found: dict[str, Any] = as_json(
        {
            "runs": [_told(run) for run in runs],
            "by": by,
            "comparisons": [_compared(runs, i, by, top, seed) for i in range(1, len(runs))],
            "bootstrap": {"draws": DRAWS, "level": LEVEL, "unit": "group of pictures", "seed": seed},
            "notes": _notes(runs),
        }
    )
    return found


def _told(run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "model": run.model,
        "data": run.same["data set"],
        "headline_map": run.headline_map,
        "calibrated": run.calibrated,
        "samples": len(run.scores),
        "errors": sum(one.status != "ok" for one in run.scores.values()),
    }


def _notes(runs: Sequence[Run]) -> list[str]:
    notes = [
        f"{run.folder} is a calibration: compared is its second half, {len(run.scores)} samples that had no part in "
        "the choice of its heads"
        for run in runs
        if run.calibrated
    ]
    notes.append(
        "where an interval includes 0, these samples cannot tell the two runs apart in that figure; each is for its "
        "figure by itself, not corrected for looking at many"
    )
    return notes


def _compared(runs: Sequence[Run], number: int, by: str, top: int, seed: int) -> dict[str, Any]:
    first, other = runs[0], runs[number]
    pairs = [(first.scores[name], other.scores[name]) for name in _common(first, other)]
    values = np.array([[_figures(score) for score in side] for side in zip(*pairs, strict=True)])  # (2, N, F)
    changes = values[1] - values[0]
    estimates = bootstrap(changes, [one.group for one, _ in pairs], seed)
    sums = np.where(np.isfinite(changes), values, 0.0).sum(axis=1)
    means = np.where(estimates.count > 0, sums / np.maximum(estimates.count, 1), np.nan)  # (2, F), where both define it
    place = COMPARED.index(by)
    listed = [_change(pair, values[:, i, place]) for i, pair in enumerate(pairs)]
    moved = [i for i in np.argsort(-np.abs(changes[:, place]), kind="stable") if np.abs(changes[i, place]) > 0]
    found = {
        "first": str(first.folder),
        "other": str(other.folder),
        "differences": differences(first.same, other.same, ("in 1", f"in {number + 1}")),
        "samples": len(pairs),
        "groups": len({one.group for one, _ in pairs}),
        "only_first": len(first.scores) - len(pairs),
        "only_other": len(other.scores) - len(pairs),
        "errors": {
            "first": sum(one.status != "ok" for one, _ in pairs),
            "other": sum(two.status != "ok" for _, two in pairs),
            "either": sum(one.status != "ok" or two.status != "ok" for one, two in pairs),
        },
        "other_questions": sum(one.question != two.question for one, two in pairs),
        "other_references": sum(one.references != two.references for one, two in pairs),
        "figures": {
            name: {
                "first": means[0, i],
                "other": means[1, i],
                "difference": estimates.mean[i],
                "low": estimates.low[i],
                "high": estimates.high[i],
                "n": int(estimates.count[i]),
            }
            for i, name in enumerate(COMPARED)
        },
        "right": _counts([(one.right, two.right) for one, two in pairs]),
        "grounded": _counts([(one.grounded, two.grounded) for one, two in pairs]),
        "changed_most": [listed[i] for i in moved[:top]],
        "flipped": {
            "right_to_wrong": [
                one for one in listed if (one["first"]["right"], one["other"]["right"]) == (True, False)
            ],
            "wrong_to_right": [
                one for one in listed if (one["first"]["right"], one["other"]["right"]) == (False, True)
            ],
        },
    }
    return found | {"notes": _pair_notes(found)}


def _pair_notes(found: dict[str, Any]) -> list[str]:
    errors, samples = found["errors"], found["samples"]
    notes = []
    if errors["either"]:
        notes.append(
            f"{errors['either']} of {samples} samples have an error ({errors['first']} in the first run, "
            f"{errors['other']} in the other): it counts as a wrong answer, and they are in no other figure"
        )
    if found["other_questions"]:
        notes.append(f"in {found['other_questions']} of {samples} samples the two runs asked different questions")
    if found["other_references"]:
        notes.append(
            f"in {found['other_references']} of {samples} samples the accepted answers differ: answers of the two runs "
            "were not judged alike"
        )
    if found["groups"] < FEW_GROUPS:
        notes.append(f"the intervals rest on {found['groups']} independent pictures or clips: too few to trust them")
    return notes


def _figures(score: Score) -> list[float]:
    return [score.accuracy, *(score.headline.get(name, np.nan) for name in COMPARED[1:])]


def _counts(pairs: Sequence[tuple[bool | None, bool | None]]) -> dict[str, int]:
    """The four cells of McNemar's table (1947), of the samples where both are known."""
    return {name: pairs.count(cell) for cell, name in _CELLS.items()}


def _change(pair: tuple[Score, Score], values: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
    """A sample in both runs; the values are those of the figure by which samples are listed."""
    sides = {
        side: {"question": one.question, "answer": one.answer, "error": one.error, "right": one.right, "value": value}
        for side, one, value in zip(("first", "other"), pair, values, strict=True)
    }
    return {"id": pair[0].id, "difference": values[1] - values[0], **sides}


def csv_rows(runs: Sequence[Run]) -> Iterator[list[Any]]:
    """A heading, then a row for each sample of the first run that another one has: `mass_1`, `mass_2`, and so on.

    Runs are numbered as they were named; cells of a run that lacks the sample are empty. What a spreadsheet would run
    is quoted.
    """
    columns = ("question", "answer", "error", "right", "grounded", *COMPARED)
    yield ["id", *(f"{column}_{number}" for column in columns for number in range(1, len(runs) + 1))]
    for name in runs[0].scores:
        if any(name in run.scores for run in runs[1:]):
            sides = [_cells(run.scores[name]) if name in run.scores else [None] * len(columns) for run in runs]
            yield [inert(name), *(cell for column in zip(*sides, strict=True) for cell in column)]


def _cells(score: Score) -> list[Any]:
    texts = [inert(text) for text in (score.question, score.answer, score.error)]
    judged = [None if known is None else str(known).lower() for known in (score.right, score.grounded)]
    return [*texts, *judged, *as_json(_figures(score))]
