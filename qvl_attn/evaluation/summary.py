"""The summary of a data set's scores: means with 95 % intervals, and chance.

Intervals are percentile bootstraps (Efron 1979) over groups. A group is a picture with all its samples, and the
pictures that share a prompt with it, because these samples are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.grounding import GROUNDING
from qvl_attn.evaluation.figures import CONTROLS, FIGURES, HEAD_FIGURES
from qvl_attn.evaluation.score import Score

DRAWS = 1000
LEVEL = 0.95
FEW_GROUPS = 10  # with fewer groups the intervals are not reliable
_DRAWS_AT_ONCE = 50  # draws held in memory


Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimates:
    """Means of F figures, the ends of their intervals, and their counts, each (F,); NaN where not defined."""

    mean: Numbers
    low: Numbers
    high: Numbers
    count: NDArray[np.int64]


def bootstrap(values: Numbers, groups: Sequence[Any], seed: int) -> Estimates:
    """Return means over samples with percentile bootstrap intervals over groups.

    Args:
        values: (N, F), NaN where a sample does not define a figure.
        groups: (N,) the group of each sample.
        seed: the seed of the draws.

    Returns:
        The estimates; the ends of an interval are NaN where fewer than two groups define the figure.
    """
    numbers = {name: i for i, name in enumerate(sorted(set(groups)))}
    group_index = np.array([numbers[name] for name in groups], dtype=np.int64)
    defined = np.isfinite(values)
    sums = np.zeros((len(numbers), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, group_index, np.where(defined, values, 0.0))
    np.add.at(counts, group_index, defined.astype(np.float64))
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, DRAWS, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, DRAWS - start)
        weights = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=size).astype(np.float64)
        means.append(_ratio(weights @ sums, weights @ counts))
    resampled = np.concatenate(means)
    low, high = (_quantile(resampled, q) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    low, high = (np.where((counts > 0).sum(axis=0) > 1, end, np.nan) for end in (low, high))
    return Estimates(_ratio(sums.sum(axis=0), counts.sum(axis=0)), low, high, defined.sum(axis=0))


def _ratio(numerator: Numbers, denominator: Numbers) -> Numbers:
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)


def _quantile(values: Numbers, q: float) -> Numbers:
    """Return a quantile over the draws, without the draws that have no sample that defines the figure."""
    quantiles = np.full(values.shape[1], np.nan)
    defined = np.isfinite(values).any(axis=0)
    if defined.any():
        quantiles[defined] = np.nanquantile(values[:, defined], q, axis=0)
    return quantiles


def _estimate_row(estimates: Estimates, i: int) -> dict[str, float | int]:
    return {
        "mean": float(estimates.mean[i]),
        "low": float(estimates.low[i]),
        "high": float(estimates.high[i]),
        "n": int(estimates.count[i]),
    }


def _mean(values: Sequence[float] | Numbers) -> float:
    defined = np.asarray(values)[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def headline_figures(scores: Sequence[Score], seed: int) -> dict[str, dict[str, Any]]:
    """Return each figure of the headline with its interval, the controls, and the mean of all layers.

    `over_all_layers` is the mean difference to the mean of all layers on the same samples, with its interval.
    """
    headline = np.array([[score.headline[name] for name in FIGURES] for score in scores])
    all_layers = np.array([[score.all_layers[name] for name in FIGURES] for score in scores])
    groups = [score.group for score in scores]
    estimates = bootstrap(np.concatenate([headline, all_layers, headline - all_layers], axis=1), groups, seed)
    figures: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(FIGURES):
        figures[name] = _estimate_row(estimates, i)
        for control in CONTROLS:
            figures[name][control] = _mean([score.controls[control].get(name, np.nan) for score in scores])
        figures[name]["all_layers"] = _estimate_row(estimates, i + len(FIGURES))
        figures[name]["over_all_layers"] = _estimate_row(estimates, i + 2 * len(FIGURES))
    return figures


def layer_table(scores: Sequence[Score], layers: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Return for each layer its figures with their intervals, chance, and the figures with another sample's boxes."""
    groups = [score.group for score in scores]
    table: list[dict[str, Any]] = [{"layer": layer} for layer in layers]
    for name in FIGURES:
        estimates = bootstrap(np.stack([score.layers[name] for score in scores]), groups, seed)
        controls = {
            control: np.array([score.layer_controls[control][name] for score in scores])
            for control in ("chance", "other")
            if name in (*GROUNDING, "vision_mass")
        }
        for i, row in enumerate(table):
            means = {control: _mean(values[:, i]) for control, values in controls.items()}
            row[name] = _estimate_row(estimates, i) | means
    return table


def method_table(scores: Sequence[Score], seed: int) -> dict[str, dict[str, Any]]:
    """Return for each method its figures with their intervals, and chance.

    `over_random` of deletion and insertion is the mean difference to random orders on the same samples, with its
    interval.
    """
    names = list(dict.fromkeys(name for score in scores for name in score.methods))
    figures = list(dict.fromkeys(figure for score in scores for row in score.methods.values() for figure in row))
    groups, table = [score.group for score in scores], dict[str, dict[str, Any]]()
    random = np.array([[score.methods.get("random", {}).get(figure, np.nan) for figure in figures] for score in scores])
    for name in names:
        rows = [score.methods.get(name, {}) for score in scores]
        values = np.array([[row.get(figure, np.nan) for figure in figures] for row in rows])
        estimates = bootstrap(np.concatenate([values, values - random], axis=1), groups, seed)
        table[name] = {figure: _estimate_row(estimates, i) for i, figure in enumerate(figures) if estimates.count[i]}
        for i, figure in enumerate(figures, len(figures)):
            if estimates.count[i] and name != "random":
                table[name][figure]["over_random"] = _estimate_row(estimates, i)
        for figure in GROUNDING:
            if figure in table[name]:
                chance = [score.method_chance.get(name, {}).get(figure, np.nan) for score in scores]
                table[name][figure]["chance"] = _mean(chance)
    return table


def head_table(scores: Sequence[Score]) -> dict[str, Numbers]:
    """Return the mean of each figure of each head, (L, H), over the samples that define it."""
    table = {}
    for name in HEAD_FIGURES:
        total = sum((np.nan_to_num(score.heads[name]) for score in scores), np.zeros_like(scores[0].heads[name]))
        count = sum((np.isfinite(score.heads[name]) for score in scores), np.zeros_like(total))
        table[name] = _ratio(total, count)
    return table


def right_and_grounded(scores: Sequence[Score]) -> dict[str, int]:
    """Count right and wrong answers by whether the headline points into a box, for samples where both are known."""
    cells = {"right_grounded": 0, "right_elsewhere": 0, "wrong_grounded": 0, "wrong_elsewhere": 0}
    for score in scores:
        if score.status == "ok" and score.right is not None and score.grounded is not None:
            cells[f"{'right' if score.right else 'wrong'}_{'grounded' if score.grounded else 'elsewhere'}"] += 1
    return cells


def answer_accuracy(scores: Sequence[Score], seed: int) -> dict[str, float | int]:
    """Return the mean accuracy of answers with references, with its interval; an error counts as a wrong answer."""
    values = np.array([[score.accuracy] for score in scores])
    return _estimate_row(bootstrap(values, [score.group for score in scores], seed), 0)


def summarise(scores: Sequence[Score], layers: Sequence[int], seed: int) -> dict[str, Any]:
    """Return the part of `summary.json` that follows from the scores alone.

    Args:
        scores: the scores of all samples, errors included.
        layers: the numbers of the scored layers.
        seed: the seed of the bootstrap.
    """
    scored = [score for score in scores if score.status == "ok"]
    boxed = [score for score in scored if score.boxed]
    with_heads = [score for score in boxed if score.heads]
    return {
        "samples": len(scores),
        "errors": len(scores) - len(scored),
        "retried": sum(bool(score.retried) for score in scores),
        "pictures": len({name for score in scores for name in score.media}),
        "groups": len({score.group for score in scores}),
        "with_boxes": len(boxed),
        "first_error": next((score.error for score in scores if score.status != "ok"), None),
        "unsampled_boxes": sum(score.unsampled for score in scored),
        "errors_with_boxes": sum(score.status != "ok" and score.boxes > 0 for score in scores),
        "no_cell_inside": sum(score.inside == 0 for score in boxed),
        "with_answers": sum(score.right is not None for score in scored),
        "accuracy": answer_accuracy(scores, seed) if scores else None,
        "headline": headline_figures(scored, seed) if scored else {},
        "answers_and_grounding": right_and_grounded(scored),
        "layers": layer_table(scored, layers, seed) if scored else [],
        "methods": method_table(scored, seed) if scored else {},
        "heads": head_table(with_heads) if with_heads else None,
        "bootstrap": {"draws": DRAWS, "level": LEVEL, "unit": "group of pictures", "seed": seed},
    }
