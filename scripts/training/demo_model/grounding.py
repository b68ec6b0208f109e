"""Grounding figures of a checkpoint's attention maps: on the right grid, and on wrong grids, which must be worse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from demo_model.measures import EvaluatedQuestion, Map, inside, lift, points
from qvl_attn.demo.scenes import Box

GROUNDED_KINDS = ("color", "shape", "exist")
Change = Callable[[Map], Map]


@dataclass(frozen=True)
class Figures:
    """Means over maps of pointing game and lift, and the number of maps."""

    pointing: float
    lift: float
    maps: int


def _window_order(values: Map) -> Map:
    """Return the map that results if the tokens were in the window order of the vision encoder."""
    rows, columns = values.shape
    cells = np.arange(rows * columns).reshape(rows, columns)
    order = [cells[y : y + 4, x : x + 4].ravel() for y in range(0, rows, 4) for x in range(0, columns, 4)]
    return values.ravel()[np.concatenate(order)].reshape(values.shape)


def _shuffled(values: Map) -> Map:
    return _generator(values).permutation(values.ravel()).reshape(values.shape)


def _generator(values: Map) -> np.random.Generator:
    """Return a random generator seeded by the map."""
    return np.random.default_rng(list(values.tobytes()[:8]))


WRONG_GRIDS: dict[str, Change] = {
    "right grid": lambda values: values,
    "transposed": lambda values: values.ravel().reshape(values.shape[::-1]).T,
    "shuffled": _shuffled,
    "window order": _window_order,
    "shifted by one cell": lambda values: np.roll(values.ravel(), 1).reshape(values.shape),
    "shifted by one row": lambda values: np.roll(values, 1, axis=0),
}


def on_pictures(questions: Sequence[EvaluatedQuestion], query: str, change: Change) -> Figures:
    """Score the maps of colour, shape and existence questions against the boxes of the things asked about.

    Args:
        questions: questions on single pictures.
        query: "last" or "words".
        change: function that is applied to each map first.
    """
    results = []
    for item, boxes in _with_boxes(questions):
        values = getattr(item, query)[0]
        share, centers = inside(boxes, values.shape, item.size_px)
        changed = change(values)
        results.append((points(changed, centers), lift(changed, share)))
    return _mean(results)


def _with_boxes(questions: Sequence[EvaluatedQuestion]) -> Iterator[tuple[EvaluatedQuestion, Sequence[Box]]]:
    """Yield the questions of colour, shape and existence about present things, with their boxes."""
    for item in questions:
        boxes = item.question.fact.boxes_xyxy_px
        if item.question.kind in GROUNDED_KINDS and boxes:
            yield item, boxes


def _mean(results: Sequence[tuple[bool, float]]) -> Figures:
    if not results:
        return Figures(float("nan"), float("nan"), 0)
    pointing, lifts = np.mean(np.array(results, dtype=np.float64), axis=0)
    return Figures(float(pointing), float(lifts), len(results))


def chance_of_pointing(questions: Sequence[EvaluatedQuestion]) -> float:
    """Return the mean share of cells whose centre lies in a box, over the maps of `on_pictures`."""
    shares = [inside(boxes, item.last.shape[1:], item.size_px)[1].mean() for item, boxes in _with_boxes(questions)]
    return float(np.mean(shares))


def _steps(item: EvaluatedQuestion) -> Iterator[tuple[int, Sequence[Box]]]:
    """Yield each temporal step in which the thing asked about is visible, and its boxes in the step's two frames."""
    fact = item.question.fact
    for step in range(len(item.last)):
        boxes = [box for box, frame in zip(fact.boxes_xyxy_px, fact.frames, strict=True) if frame // 2 == step]
        if boxes:
            yield step, boxes


def changes(item: EvaluatedQuestion) -> bool:
    """Whether the boxes of the thing asked about differ between steps: only then do wrong times lower figures."""
    boxes = dict(_steps(item))
    return len({tuple(sorted(set(boxes.get(step, ())))) for step in range(len(item.last))}) > 1


def _other_step(maps: Map) -> Map:
    return np.roll(maps, len(maps) // 2, axis=0)


def _steps_shuffled(maps: Map) -> Map:
    generator, steps = _generator(maps), np.arange(len(maps))
    while True:
        order = generator.permutation(steps)
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


def on_clips(questions: Sequence[EvaluatedQuestion], change: Change) -> Figures:
    """Score the map of each step, by itself, against the boxes in the step's frames.

    Args:
        questions: questions on clips; steps without the thing asked about are left out.
        change: function that is applied to the maps of all steps first.
    """
    results = []
    for item in questions:
        changed = change(item.last)
        for step, boxes in _steps(item):
            share, centers = inside(boxes, changed.shape[1:], item.size_px)
            results.append((points(changed[step], centers), lift(changed[step], share)))
    return _mean(results)


def in_space_and_time(questions: Sequence[EvaluatedQuestion], change: Change) -> float:
    """Return the mean lift over all steps of a clip together, which also depends on the steps being in order."""
    lifts = []
    for item in questions:
        if item.question.fact.boxes_xyxy_px:
            changed = change(item.last)
            share = np.zeros(changed.shape)
            for step, boxes in _steps(item):
                share[step] = inside(boxes, changed.shape[1:], item.size_px)[0]
            lifts.append(lift(changed, share))
    return float(np.mean(lifts))
