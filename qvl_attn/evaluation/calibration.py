"""Calibration: rank layers and heads on one half of the pictures, and measure them on the other half. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution import grounding
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument, pluralize
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.score import Score

# The maximum number of heads in a profile, and of heads it is chosen from, which are the best single heads.
MAX_HEADS, CANDIDATES = 12, 48
MASS_WEIGHT = 0.1
# The limit for kept maps of heads; further samples count for the ranking, but not for the choice of heads.
MAPS_BYTES = 2**30
# Heads are ranked by the pointing game, and by the lift where that ties.
RANKED_BY = ("pointing", "lift")
RANKED_HEADS = 20
MIN_SAMPLES = 10


def halves(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split the samples with boxes into two halves with no picture in common, by a hash of group and seed.

    Raises:
        InputError: there are too few samples.
    """
    boxed = [sample for sample in samples if len(sample.boxes_px)]

    def order(group: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{group}".encode()).digest()

    groups = sorted({sample.group for sample in boxed}, key=order)
    rank = {group: i for i, group in enumerate(groups)}
    boxed.sort(key=lambda sample: rank[sample.group])
    middle = len(groups) // 2
    first = [sample for sample in boxed if rank[sample.group] < middle]
    second = [sample for sample in boxed if rank[sample.group] >= middle]
    if min(len(first), len(second)) < MIN_SAMPLES:
        raise InputError(
            f"{argument('calibrate')}: no two halves of at least {MIN_SAMPLES} samples: the data set has "
            f"{pluralize(len(boxed), 'sample')} with boxes, about {pluralize(len(groups), 'picture')} (or groups of "
            "pictures that share prompts)",
            "add samples with boxes",
        )
    return first, second


def mean_figures(scores: Sequence[Score], part: str) -> dict[str, NDArray[np.float64]]:
    """Return the mean over samples of each of `RANKED_BY`: (L,) for the part `layers`, (L, H) for `heads`."""
    return {name: np.stack([getattr(score, part)[name] for score in scores]).mean(axis=0) for name in RANKED_BY}


def ranking(first: Sequence[Score], second: Sequence[Score], layers: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Rank layers and heads from best to worst on the first half, with their figures on both halves.

    Returns:
        All `layers`, and the best `RANKED_HEADS` `heads`. The figures of `first_half` are biased upwards, because the
        ranking uses them; those of `second_half` are not.
    """
    table: dict[str, list[dict[str, Any]]] = {}
    for part in ("layers", "heads"):
        first_means, second_means = mean_figures(first, part), mean_figures(second, part)
        table[part] = []
        for index in _ranked(first_means)[: RANKED_HEADS if part == "heads" else None]:
            row: dict[str, Any] = {"layer": layers[index[0]]} | ({"head": index[1]} if part == "heads" else {})
            for half, means in (("first_half", first_means), ("second_half", second_means)):
                row[half] = {name: float(values[index]) for name, values in means.items()}
            table[part].append(row)
    return table


def best_heads(first: Sequence[Score], layers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Choose the heads of the profile: those whose mean map does best on the first half.

    Greedy forward selection: it starts with the best head and adds the head that improves the mean map most, until no
    head improves it or there are `MAX_HEADS`. The best single heads often point well in the same pictures, so they need
    not have the best mean. The objective is the pointing game plus `MASS_WEIGHT` of the mass in the boxes, both
    averaged over samples: the pointing game alone is coarse, and with the mass alone a single narrow head would win.

    Args:
        first: the scores of the first half with their `head_maps`.
        layers: the numbers of the layers.

    Returns:
        (layer, head), ascending.
    """
    candidates = _ranked(mean_figures(first, "heads"))[:CANDIDATES]
    with_maps = [score for score in first if score.head_maps]
    flat = [int(np.ravel_multi_index(index, with_maps[0].heads["pointing"].shape)) for index in candidates]
    regions = [
        (maps[flat], region, 1 / len(score.head_maps)) for score in with_maps for maps, region in score.head_maps
    ]
    sums = [np.zeros(maps.shape[1]) for maps, _, _ in regions]
    selected: list[int] = []
    best = 0.0
    while len(selected) < min(MAX_HEADS, len(candidates)):
        objective = np.zeros(len(candidates))
        for (maps, region, weight), selected_sum in zip(regions, sums, strict=True):
            trial = selected_sum + maps
            points = grounding.pointing(trial, region.inside) + MASS_WEIGHT * grounding.mass(trial, region.covered)
            objective += weight * points
        objective[selected] = 0
        next_head = int(objective.argmax())
        if objective[next_head] <= best:
            break
        best = float(objective[next_head])
        selected.append(next_head)
        for selected_sum, (maps, _, _) in zip(sums, regions, strict=True):
            selected_sum += maps[next_head]
    return tuple(sorted((layers[candidates[i][0]], candidates[i][1]) for i in selected))


def _ranked(figures: dict[str, NDArray[np.float64]]) -> list[tuple[int, ...]]:
    """Return the indices of layers or heads, from best to worst."""
    indices = list(np.ndindex(figures[RANKED_BY[0]].shape))
    return sorted(indices, key=lambda index: tuple(-figures[name][index] for name in RANKED_BY))
