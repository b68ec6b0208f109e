"""What a data set's scores say together: means, 95 % intervals, chance beside them. Pure.

Intervals are percentile bootstraps (Efron 1979) over groups: what is drawn anew is a picture with all of its samples,
and with those of the pictures that prompts share with it, since they are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.grounding import GROUNDING
from qvl_attn.evaluation.score import CONTROLS, FIGURES, HEAD_FIGURES, Score

DRAWS = 1000
LEVEL = 0.95
FEW_GROUPS = 10  # with fewer a bootstrap says little
_AT_ONCE = 50  # draws that are held in memory

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimates:
    """Means of F columns and their intervals, each (F,); NaN where nothing is defined."""

    mean: Numbers
    low: Numbers
    high: Numbers
    count: NDArray[np.int64]


def bootstrap(values: Numbers, groups: Sequence[Any], seed: int) -> Estimates:
    """Means over samples, and how far they would vary with other pictures.

    Args:
        values: (N, F), NaN where a sample does not define a figure.
        groups: (N,) which samples belong together.
        seed: of the draws.

    Returns:
        NaN for the ends of an interval where fewer than two groups define the figure.
    """
    numbers = {name: i for i, name in enumerate(sorted(set(groups)))}
    which = np.array([numbers[name] for name in groups], dtype=np.int64)
    known = np.isfinite(values)
    sums = np.zeros((len(numbers), values.shape[1]))
    counts = np.zeros_like(sums)
    np.add.at(sums, which, np.where(known, values, 0.0))
    np.add.at(counts, which, known.astype(np.float64))
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, DRAWS, _AT_ONCE):
        many = min(_AT_ONCE, DRAWS - start)
        weights = rng.multinomial(len(numbers), np.full(len(numbers), 1 / len(numbers)), size=many).astype(np.float64)
        drawn.append(_ratio(weights @ sums, weights @ counts))
    resampled = np.concatenate(drawn)
    low, high = (_quantile(resampled, q) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    low, high = (np.where((counts > 0).sum(axis=0) > 1, end, np.nan) for end in (low, high))
    return Estimates(_ratio(sums.sum(axis=0), counts.sum(axis=0)), low, high, known.sum(axis=0))


def _ratio(above: Numbers, below: Numbers) -> Numbers:
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)


def _quantile(values: Numbers, q: float) -> Numbers:
    """Along the draws; of the few that drew no sample that defines a figure nothing is known."""
    found = np.full(values.shape[1], np.nan)
    some = np.isfinite(values).any(axis=0)
    if some.any():
        found[some] = np.nanquantile(values[:, some], q, axis=0)
    return found


def _stated(one: Estimates, i: int) -> dict[str, float | int]:
    return {
        "mean": float(one.mean[i]),
        "low": float(one.low[i]),
        "high": float(one.high[i]),
        "n": int(one.count[i]),
    }


def _mean(values: Sequence[float] | Numbers) -> float:
    known = np.asarray(values)[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def headline_figures(scores: Sequence[Score], seed: int) -> dict[str, dict[str, Any]]:
    """Each figure of the headline with its interval, each control, the mean of all layers, and how far it beats it.

    `over_all_layers` is the mean difference to the mean of all layers on the same samples, with its interval.
    """
    headline = np.array([[one.headline[name] for name in FIGURES] for one in scores])
    everything = np.array([[one.all_layers[name] for name in FIGURES] for one in scores])
    groups = [one.group for one in scores]
    both = bootstrap(np.concatenate([headline, everything, headline - everything], axis=1), groups, seed)
    found: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(FIGURES):
        found[name] = _stated(both, i)
        for control in CONTROLS:
            found[name][control] = _mean([one.controls[control].get(name, np.nan) for one in scores])
        found[name]["all_layers"] = _stated(both, i + len(FIGURES))
        found[name]["over_all_layers"] = _stated(both, i + 2 * len(FIGURES))
    return found


def layer_table(scores: Sequence[Score], layers: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """For each layer its figures with their intervals, chance, and the same map under another picture's boxes."""
    groups = [one.group for one in scores]
    table: list[dict[str, Any]] = [{"layer": layer} for layer in layers]
    for name in FIGURES:
        estimates = bootstrap(np.stack([one.layers[name] for one in scores]), groups, seed)
        controls = {
            control: np.array([one.layer_controls[control][name] for one in scores])
            for control in ("chance", "other")
            if name in (*GROUNDING, "vision_mass")
        }
        for i, row in enumerate(table):
            row[name] = _stated(estimates, i) | {control: _mean(values[:, i]) for control, values in controls.items()}
    return table


def method_table(scores: Sequence[Score], seed: int) -> dict[str, dict[str, Any]]:
    """For each method its figures with their intervals, and chance.

    `over_random` of deletion and insertion is the mean difference to random orders on the same samples, with its
    interval.
    """
    names = list(dict.fromkeys(name for one in scores for name in one.methods))
    figures = list(dict.fromkeys(figure for one in scores for own in one.methods.values() for figure in own))
    groups, table = [one.group for one in scores], dict[str, dict[str, Any]]()
    for name in names:
        own = [one.methods.get(name, {}) for one in scores]
        values = np.array([[some.get(figure, np.nan) for figure in figures] for some in own])
        random = np.array([[one.methods.get("random", {}).get(figure, np.nan) for figure in figures] for one in scores])
        both = bootstrap(np.concatenate([values, values - random], axis=1), groups, seed)
        stated: dict[str, Any] = {figure: _stated(both, i) for i, figure in enumerate(figures) if both.count[i]}
        table[name] = stated
        for i, figure in enumerate(figures, len(figures)):
            if both.count[i] and name != "random":
                table[name][figure]["over_random"] = _stated(both, i)
        for figure in GROUNDING:
            if figure in table[name]:
                chance = [one.method_chance.get(name, {}).get(figure, np.nan) for one in scores]
                table[name][figure]["chance"] = _mean(chance)
    return table


def head_table(scores: Sequence[Score]) -> dict[str, Numbers]:
    """(L, H) the mean of each figure of each head, over the samples that define it."""
    found = {}
    for name in HEAD_FIGURES:
        total = sum((np.nan_to_num(one.heads[name]) for one in scores), np.zeros_like(scores[0].heads[name]))
        known = sum((np.isfinite(one.heads[name]) for one in scores), np.zeros_like(total))
        found[name] = _ratio(total, known)
    return found


def right_and_grounded(scores: Sequence[Score]) -> dict[str, int]:
    """How many answers were right or wrong, and pointed into a box or not; of samples of which both are known."""
    cells = {"right_grounded": 0, "right_elsewhere": 0, "wrong_grounded": 0, "wrong_elsewhere": 0}
    for one in scores:
        if one.status == "ok" and one.right is not None and one.grounded is not None:
            cells[f"{'right' if one.right else 'wrong'}_{'grounded' if one.grounded else 'elsewhere'}"] += 1
    return cells


def answer_accuracy(scores: Sequence[Score], seed: int) -> dict[str, float | int]:
    """The mean accuracy of the answers that can be judged, with its interval; an error is a wrong answer."""
    return _stated(bootstrap(np.array([[one.accuracy] for one in scores]), [one.group for one in scores], seed), 0)


def summarise(scores: Sequence[Score], layers: Sequence[int], seed: int) -> dict[str, Any]:
    """What goes into `summary.json` from the scores alone.

    Args:
        scores: of all samples, errors too.
        layers: numbers of the layers that were scored.
        seed: of the bootstrap.
    """
    sound = [one for one in scores if one.status == "ok"]
    boxed = [one for one in sound if one.boxed]
    with_heads = [one for one in boxed if one.heads]
    return {
        "samples": len(scores),
        "errors": len(scores) - len(sound),
        "retried": sum(bool(one.retried) for one in scores),
        "pictures": len({name for one in scores for name in one.media}),
        "groups": len({one.group for one in scores}),
        "with_boxes": len(boxed),
        "first_error": next((one.error for one in scores if one.status != "ok"), None),
        "unsampled_boxes": sum(one.unsampled for one in sound),
        "errors_with_boxes": sum(one.status != "ok" and one.boxes > 0 for one in scores),
        "no_cell_inside": sum(one.inside == 0 for one in boxed),
        "with_answers": sum(one.right is not None for one in sound),
        "accuracy": answer_accuracy(scores, seed) if scores else None,
        "headline": headline_figures(sound, seed) if sound else {},
        "answers_and_grounding": right_and_grounded(sound),
        "layers": layer_table(sound, layers, seed) if sound else [],
        "methods": method_table(sound, seed) if sound else {},
        "heads": head_table(with_heads) if with_heads else None,
        "bootstrap": {"draws": DRAWS, "level": LEVEL, "unit": "group of pictures", "seed": seed},
    }
