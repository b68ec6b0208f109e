"""Compare finished runs of `check`, paired by the ids of their samples. No model is needed.

Each figure's difference is computed per sample, and its mean has a percentile bootstrap interval over groups of
pictures (`summary.bootstrap`). What is easy or hard in a sample for both runs cancels in the difference, so that the
interval is narrower than that of two separate means.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.grounding import GROUNDING
from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.options import of_type
from qvl_attn.core.text import argument, inert, pluralize
from qvl_attn.evaluation.rows import as_json, read_all_scores
from qvl_attn.evaluation.score import Score
from qvl_attn.evaluation.summary import DRAWS, FEW_GROUPS, LEVEL, bootstrap
from qvl_attn.evaluation.summary_json import read_summary
from qvl_attn.results.run_folder import differences, read_finished_run

COMPARED = ("accuracy", *GROUNDING, "vision_mass", "entropy", "distance")
_CELLS = {(True, True): "both", (True, False): "first_only", (False, True): "other_only", (False, False): "neither"}


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        folder: the folder as the caller named it.
        same: the field `same` of `run.json`, and the name of the data set.
        model: the name of the model.
        headline_map: a text that says what the headline averages.
        calibrated: whether the heads were chosen on the first half of the samples.
        scores: the scores of the summary by id, in the order of the data set; of a calibration those of the second
            half.
    """

    folder: Path
    same: Mapping[str, Any]
    model: str
    headline_map: str
    calibrated: bool
    scores: dict[str, Score]


def compare_runs(
    folders: Sequence[str | os.PathLike[str]], *, by: str = "mass", top: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Compare the first run with each of the others, on the samples that both have.

    Args:
        folders: two or more folders that `check` wrote.
        by: the figure by whose change samples are listed, one of `COMPARED`.
        top: the maximum number of listed samples.
        seed: the seed of the bootstrap.

    Returns:
        `runs`, and an entry in `comparisons` for each run but the first: the `differences` in settings; for each of
        `figures` the means of both runs, and the mean difference (the other minus the first) with the ends `low` and
        `high` of its 95 % interval, over the `n` samples that define the figure in both; the numbers of answers `right`
        and maps `grounded` in both, one or neither; the samples that `changed_most`; the `flipped` answers. Floats have
        six digits; None where a figure is not defined.

    Raises:
        InputError: fewer than two folders; a folder is not a finished run, or is named twice; two runs have no samples
            in common, or samples with other pictures or boxes; there is no such figure; `top` is negative.
        StoreError: the files of a run are damaged or cannot be read.
    """
    return compare(read_runs(folders), by=by, top=top, seed=seed)


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """Read runs, and check that each of the others has samples of the first, with the same pictures and boxes.

    Raises:
        InputError: the runs cannot be compared.
        StoreError: the files of a run are damaged or cannot be read.
    """
    if len(of_type("folders", folders, Sequence[str | os.PathLike[str]])) < 2:
        raise InputError(
            f"{pluralize(len(folders), 'run')}: want two or more", "the others are compared with the first"
        )
    paths = [Path(folder) for folder in folders]
    try:
        by_real_path: dict[Path, Path] = {}
        for path in paths:
            read_finished_run(path)
            if path.resolve() in by_real_path:
                raise InputError(f"{by_real_path[path.resolve()]} and {path} are the same folder", "name each run once")
            by_real_path[path.resolve()] = path
        runs = [_read(path) for path in paths]
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be read ({error.strerror})") from None
    for other in runs[1:]:
        _check_paired(runs[0], other)
    return runs


def _read(folder: Path) -> Run:
    run, summary = read_finished_run(folder), read_summary(folder)
    return Run(
        folder,
        run["same"] | {"data set": summary["data"]},
        model=summary["model"]["name"],
        headline_map=summary["headline_map"],
        calibrated=summary["calibration"] is not None,
        scores={score.id: score for score in read_all_scores(folder, run) if score.half != "first"},
    )


def _check_paired(first: Run, other: Run) -> None:
    common = _common(first, other)
    if not common:
        raise InputError(
            f"{first.folder} and {other.folder} have no samples in common: none of {len(first.scores)} and "
            f"{len(other.scores)} ids is in both",
            "compare runs over the same data set: samples are paired by id",
        )
    changed = [name for name in common if first.scores[name].evidence != other.scores[name].evidence]
    if changed:
        raise InputError(
            f"{first.folder} and {other.folder}: {len(changed)} of {len(common)} samples have other pictures or boxes "
            "under the same id",
            "compare runs over the same version of the data set",
            tuple(f"sample {name}" for name in changed),
        )


def _common(first: Run, other: Run) -> list[str]:
    return [name for name in first.scores if name in other.scores]


def compare(runs: Sequence[Run], *, by: str, top: int, seed: int) -> dict[str, Any]:
    """Compare runs that were read, as `compare_runs` does.

    Raises:
        InputError: there is no such figure, or `top` is negative.
    """
    if top < 0:
        raise InputError(f"{argument('top', top)}: want 0 or more")
    if by not in COMPARED:
        raise InputError(f"{argument('by', by)}: is not a compared figure", f"figures: {', '.join(COMPARED)}")
    comparison: dict[str, Any] = as_json(
        {
            "runs": [_run_facts(run) for run in runs],
            "by": by,
            "comparisons": [_compare_pair(runs, i, by, top, seed) for i in range(1, len(runs))],
            "bootstrap": {"draws": DRAWS, "level": LEVEL, "unit": "group of pictures", "seed": seed},
            "notes": _notes(runs),
        }
    )
    return comparison


def _run_facts(run: Run) -> dict[str, Any]:
    return {
        "folder": str(run.folder),
        "model": run.model,
        "data": run.same["data set"],
        "headline_map": run.headline_map,
        "calibrated": run.calibrated,
        "samples": len(run.scores),
        "errors": sum(score.status != "ok" for score in run.scores.values()),
    }


def _notes(runs: Sequence[Run]) -> list[str]:
    notes = [
        f"{run.folder} is a calibration: only its second half is compared, "
        f"{pluralize(len(run.scores), 'sample')} not used to choose its heads"
        for run in runs
        if run.calibrated
    ]
    notes.append(
        "where an interval includes 0, these samples show no difference between the two runs in that figure; the "
        "intervals are not corrected for multiple comparisons"
    )
    return notes


def _compare_pair(runs: Sequence[Run], number: int, by: str, top: int, seed: int) -> dict[str, Any]:
    first, other = runs[0], runs[number]
    pairs = [(first.scores[name], other.scores[name]) for name in _common(first, other)]
    values = np.array([[_figures(score) for score in side] for side in zip(*pairs, strict=True)])  # (2, N, F)
    changes = values[1] - values[0]
    estimates = bootstrap(changes, [score.group for score, _ in pairs], seed)
    sums = np.where(np.isfinite(changes), values, 0.0).sum(axis=1)
    means = np.where(estimates.count > 0, sums / np.maximum(estimates.count, 1), np.nan)  # (2, F), where both define it
    column = COMPARED.index(by)
    listed = [_change(pair, values[:, i, column]) for i, pair in enumerate(pairs)]
    changed = [i for i in np.argsort(-np.abs(changes[:, column]), kind="stable") if np.abs(changes[i, column]) > 0]
    comparison = {
        "first": str(first.folder),
        "other": str(other.folder),
        "differences": differences(first.same, other.same, ("in 1", f"in {number + 1}")),
        "samples": len(pairs),
        "groups": len({score.group for score, _ in pairs}),
        "only_first": len(first.scores) - len(pairs),
        "only_other": len(other.scores) - len(pairs),
        "errors": {
            "first": sum(a.status != "ok" for a, _ in pairs),
            "other": sum(b.status != "ok" for _, b in pairs),
            "either": sum(a.status != "ok" or b.status != "ok" for a, b in pairs),
        },
        "other_questions": sum(a.question != b.question for a, b in pairs),
        "other_references": sum(a.references != b.references for a, b in pairs),
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
        "right": _counts([(a.right, b.right) for a, b in pairs]),
        "grounded": _counts([(a.grounded, b.grounded) for a, b in pairs]),
        "changed_most": [listed[i] for i in changed[:top]],
        "flipped": {
            "right_to_wrong": [
                change for change in listed if (change["first"]["right"], change["other"]["right"]) == (True, False)
            ],
            "wrong_to_right": [
                change for change in listed if (change["first"]["right"], change["other"]["right"]) == (False, True)
            ],
        },
    }
    return comparison | {"notes": _pair_notes(comparison)}


def _pair_notes(comparison: dict[str, Any]) -> list[str]:
    errors, samples = comparison["errors"], comparison["samples"]
    notes = []
    if errors["either"]:
        notes.append(
            f"{errors['either']} of {samples} samples have an error ({errors['first']} in the first run, "
            f"{errors['other']} in the other): an error counts as a wrong answer and is in no other figure"
        )
    if comparison["other_questions"]:
        notes.append(f"in {comparison['other_questions']} of {samples} samples the two runs asked different questions")
    if comparison["other_references"]:
        notes.append(
            f"in {comparison['other_references']} of {samples} samples the accepted answers differ: the answers of the "
            "two runs were judged by different references"
        )
    if comparison["groups"] < FEW_GROUPS:
        notes.append(
            f"the intervals are based on only {pluralize(comparison['groups'], 'independent picture or clip')}: "
            "do not trust them"
        )
    return notes


def _figures(score: Score) -> list[float]:
    return [score.accuracy, *(score.headline.get(name, np.nan) for name in COMPARED[1:])]


def _counts(pairs: Sequence[tuple[bool | None, bool | None]]) -> dict[str, int]:
    """Return the four cells of McNemar's table (1947), for samples where both values are known."""
    return {name: pairs.count(cell) for cell, name in _CELLS.items()}


def _change(pair: tuple[Score, Score], values: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
    """Return a sample in both runs; `values` are those of the figure by which samples are listed."""
    sides = {
        side: {
            "question": score.question,
            "answer": score.answer,
            "error": score.error,
            "right": score.right,
            "value": value,
        }
        for side, score, value in zip(("first", "other"), pair, values, strict=True)
    }
    return {"id": pair[0].id, "difference": values[1] - values[0], **sides}


def csv_rows(runs: Sequence[Run]) -> Iterator[list[Any]]:
    """Yield a header, then a row for each sample of the first run that another run has: `mass_1`, `mass_2`, and so on.

    Runs are numbered in the given order; the cells of a run without the sample are empty. Text that a spreadsheet would
    run as a formula is quoted.
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
