"""Finding the layers and heads that look: ranked on one half of the pictures, stated on the other. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution import grounding
from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.score import Score

# A profile has no more; and it is chosen among so many, those that do best by themselves.
MOST_HEADS, CANDIDATES = 12, 48
MASS_COUNTS = 0.1
# Of maps of heads that are kept to choose among; samples beyond it are ranked by their figures alone.
MAPS_BYTES = 2**30
# What ranks: the pointing game first, and where that ties the lift.
RANKED_BY = ("pointing", "lift")
SHOWN_HEADS = 20
LEAST_SAMPLES = 10


def halves(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples with boxes in two halves with no picture in common, in an order that a hash of names and seed gives.

    Raises:
        InputError: too few of them.
    """
    boxed = [one for one in samples if len(one.boxes_px)]

    def order(group: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{group}".encode()).digest()

    groups = sorted({one.group for one in boxed}, key=order)
    place = {group: i for i, group in enumerate(groups)}
    boxed.sort(key=lambda one: place[one.group])
    middle = len(groups) // 2
    parts = [one for one in boxed if place[one.group] < middle], [one for one in boxed if place[one.group] >= middle]
    if min(map(len, parts)) < LEAST_SAMPLES:
        raise InputError(
            f"--calibrate: {len(boxed)} samples with boxes about {len(groups)} pictures (or groups of them that share "
            f"prompts) do not make two halves of at least {LEAST_SAMPLES} samples",
            "give more of them",
        )
    return parts


def mean_figures(scores: Sequence[Score], part: str) -> dict[str, NDArray[np.float64]]:
    """The means of what ranks, over samples: (L,) of layers, (L, H) of heads."""
    return {name: np.stack([getattr(one, part)[name] for one in scores]).mean(axis=0) for name in RANKED_BY}


def ranking(first: Sequence[Score], second: Sequence[Score], layers: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Layers, and heads, from best to worst on the first half, with their figures on both.

    Returns:
        `layers`, all of them, and `heads`, the best `SHOWN_HEADS`; `first_half` is what they were ranked by, and too
        good for that reason; `second_half` is what they did on pictures that had no part in it.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for part in ("layers", "heads"):
        there, here = mean_figures(first, part), mean_figures(second, part)
        found[part] = []
        for place in _ranked(there)[: SHOWN_HEADS if part == "heads" else None]:
            named: dict[str, Any] = {"layer": layers[place[0]]} | ({"head": place[1]} if part == "heads" else {})
            for half, figures in (("first_half", there), ("second_half", here)):
                named[half] = {name: float(values[place]) for name, values in figures.items()}
            found[part].append(named)
    return found


def best_heads(first: Sequence[Score], layers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The heads of the profile: those whose mean map does best on the first half.

    The best head, and then again and again the one that makes the mean map better by most, until none does or there are
    `MOST_HEADS`: heads that point well by themselves often do so in the same pictures, so that the best few need not
    make the best mean. What is made larger is the pointing game plus `MASS_COUNTS` of the mass in the boxes, both
    averaged over samples: the first alone is coarse, and with the second alone a single narrow head would win.

    Args:
        first: scores of the first half with their `head_maps`.
        layers: the numbers of the layers.

    Returns:
        (layer, head), ascending.
    """
    places = _ranked(mean_figures(first, "heads"))[:CANDIDATES]
    kept = [one for one in first if one.head_maps]
    flat = [int(np.ravel_multi_index(place, kept[0].heads["pointing"].shape)) for place in places]
    parts = [(maps[flat], region, 1 / len(one.head_maps)) for one in kept for maps, region in one.head_maps]
    sums = [np.zeros(maps.shape[1]) for maps, _, _ in parts]
    taken: list[int] = []
    best = 0.0
    while len(taken) < min(MOST_HEADS, len(places)):
        gained = np.zeros(len(places))
        for (maps, region, weight), before in zip(parts, sums, strict=True):
            means = before + maps
            points = grounding.pointing(means, region.inside) + MASS_COUNTS * grounding.mass(means, region.covered)
            gained += weight * points
        gained[taken] = 0
        found = int(gained.argmax())
        if gained[found] <= best:
            break
        best = float(gained[found])
        taken.append(found)
        for before, (maps, _, _) in zip(sums, parts, strict=True):
            before += maps[found]
    return tuple(sorted((layers[places[i][0]], places[i][1]) for i in taken))


def _ranked(figures: dict[str, NDArray[np.float64]]) -> list[tuple[int, ...]]:
    places = list(np.ndindex(figures[RANKED_BY[0]].shape))
    return sorted(places, key=lambda place: tuple(-figures[name][place] for name in RANKED_BY))
