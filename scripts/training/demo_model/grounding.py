"""Figures of where a checkpoint looked: on the right grid, and on wrong ones, which must do clearly worse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from demo_model.measures import Asked, Map, inside, lift, points
from qvl_attn.demo.scenes import Box

POINTED = ("color", "shape", "exist")
Change = Callable[[Map], Map]


@dataclass(frozen=True)
class Figures:
    """Means over maps: pointing game and lift, and how many maps there were."""

    pointing: float
    lift: float
    maps: int


def _window_order(values: Map) -> Map:
    """The map as it comes out if the tokens stood in the vision tower's window order."""
    rows, columns = values.shape
    cells = np.arange(rows * columns).reshape(rows, columns)
    order = [cells[y : y + 4, x : x + 4].ravel() for y in range(0, rows, 4) for x in range(0, columns, 4)]
    return values.ravel()[np.concatenate(order)].reshape(values.shape)


def _shuffled(values: Map) -> Map:
    return _dice(values).permutation(values.ravel()).reshape(values.shape)


def _dice(values: Map) -> np.random.Generator:
    """Other dice for each map, the same ones whenever it is asked for."""
    return np.random.default_rng(list(values.tobytes()[:8]))


WRONG_GRIDS: dict[str, Change] = {
    "right grid": lambda values: values,
    "transposed": lambda values: values.ravel().reshape(values.shape[::-1]).T,
    "shuffled": _shuffled,
    "window order": _window_order,
    "shifted by one cell": lambda values: np.roll(values.ravel(), 1).reshape(values.shape),
    "shifted by one row": lambda values: np.roll(values, 1, axis=0),
}


def on_pictures(asked: Sequence[Asked], query: str, change: Change) -> Figures:
    """Colour, shape and existence: the map against the boxes of what was asked about.

    Args:
        asked: questions on single pictures.
        query: "last" or "words".
        change: what is done to the map first.
    """
    results = []
    for one, boxes in _pointed(asked):
        values = getattr(one, query)[0]
        share, centers = inside(boxes, values.shape, one.size_px)
        changed = change(values)
        results.append((points(changed, centers), lift(changed, share)))
    return _mean(results)


def _pointed(asked: Sequence[Asked]) -> Iterator[tuple[Asked, Sequence[Box]]]:
    """The questions of colour, shape and existence that are about something there, and its boxes."""
    for one in asked:
        boxes = one.question.fact.boxes_xyxy_px
        if one.question.kind in POINTED and boxes:
            yield one, boxes


def _mean(results: Sequence[tuple[bool, float]]) -> Figures:
    if not results:
        return Figures(float("nan"), float("nan"), 0)
    pointing, lifts = np.mean(np.array(results, dtype=np.float64), axis=0)
    return Figures(float(pointing), float(lifts), len(results))


def chance_of_pointing(asked: Sequence[Asked]) -> float:
    """Mean share of cells whose centre lies in a box, over the maps of `on_pictures`."""
    shares = [inside(boxes, one.last.shape[1:], one.size_px)[1].mean() for one, boxes in _pointed(asked)]
    return float(np.mean(shares))


def _steps(one: Asked) -> Iterator[tuple[int, Sequence[Box]]]:
    """Each temporal step in which something asked about is seen, and its boxes in the step's two frames."""
    fact = one.question.fact
    for step in range(len(one.last)):
        boxes = [box for box, frame in zip(fact.boxes_xyxy_px, fact.frames, strict=True) if frame // 2 == step]
        if boxes:
            yield step, boxes


def changes(one: Asked) -> bool:
    """Whether what is asked about is not in the same place in all steps: only then can a wrong time show."""
    seen = dict(_steps(one))
    return len({tuple(sorted(set(seen.get(step, ())))) for step in range(len(one.last))}) > 1


def _other_step(maps: Map) -> Map:
    return np.roll(maps, len(maps) // 2, axis=0)


def _steps_shuffled(maps: Map) -> Map:
    dice, steps = _dice(maps), np.arange(len(maps))
    while True:
        order = dice.permutation(steps)
        if (order != steps).any():
            return maps[order]


def _each(change: Change) -> Change:
    return lambda maps: np.stack([change(values) for values in maps])


WRONG_TIMES: dict[str, Change] = {
    "right grid": lambda maps: maps,
    "transposed": _each(WRONG_GRIDS["transposed"]),
    "steps shuffled": _steps_shuffled,
    "another step's map": _other_step,
}


def on_clips(asked: Sequence[Asked], change: Change) -> Figures:
    """Step by step: the map of a step, on its own scale, against the boxes in the step's frames.

    Args:
        asked: questions on clips; steps without the thing asked about are left out.
        change: what is done to the maps of all steps first.
    """
    results = []
    for one in asked:
        changed = change(one.last)
        for step, boxes in _steps(one):
            share, centers = inside(boxes, changed.shape[1:], one.size_px)
            results.append((points(changed[step], centers), lift(changed[step], share)))
    return _mean(results)


def in_space_and_time(asked: Sequence[Asked], change: Change) -> float:
    """Mass in the boxes over their share of the whole clip, all steps together: one scale, so times count too."""
    lifts = []
    for one in asked:
        if one.question.fact.boxes_xyxy_px:
            changed = change(one.last)
            share = np.zeros(changed.shape)
            for step, boxes in _steps(one):
                share[step] = inside(boxes, changed.shape[1:], one.size_px)[0]
            lifts.append(lift(changed, share))
    return float(np.mean(lifts))
