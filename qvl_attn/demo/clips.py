"""Draws short clips in which one thing moves, appears, vanishes or changes its colour while the others stay.

Knows shapes and frames; the wording of questions and everything about models is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qvl_attn.demo.scenes import COLORS, GAP_PX, GROUNDS, SHAPES, Box, ScenePlan, draw_ground, jitter, paint

EventKind = Literal["move", "appear", "vanish", "recolor"]
EVENTS: tuple[EventKind, ...] = get_args(EventKind)
FRAME_COUNTS = (4, 6, 8)
# Frames per second of 4, 2 and 1 make temporal steps (two frames) of 0.5, 1 and 2 s.
FRAME_RATES = (4.0, 2.0, 1.0)
CLIP_SIDES_PX = (112, 140, 168)
CLIP_THING_SIZES_PX = (34, 56)
STRIDES_PX = (6.0, 14.0)
ON_A_STEP = 0.85

Square = tuple[float, float, float]


@dataclass(frozen=True)
class Track:
    """One thing through a clip: its colour and its box [x0, x1) x [y0, y1) in each frame, None where it is absent."""

    shape: str
    colors: tuple[str | None, ...]
    boxes_xyxy_px: tuple[Box | None, ...]


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip (F, H, W, 3) uint8 RGB, its rate, and what is in it.

    Attributes:
        frames: (F, H, W, 3) uint8 RGB.
        fps: frames per second.
        tracks: the things, the one that the event happens to first.
        event: what happens to it.
        event_frame: the first frame in which it shows (0 for a move, which lasts from the first frame to the last).
    """

    frames: NDArray[np.uint8]
    fps: float
    tracks: tuple[Track, ...]
    event: EventKind
    event_frame: int


def _lay_out(rng: np.random.Generator, width: int, height: int, squares: list[list[Square]], things: int) -> bool:
    """Adds still squares until there are `things`, none touching another's way; False if they do not fit."""
    for _ in range(40 * things):
        if len(squares) == things:
            return True
        square = _square(rng, width, height)
        if all(_apart(square, way) for way in squares):
            squares.append([square])
    return len(squares) == things


def _square(rng: np.random.Generator, width: int, height: int) -> Square:
    smallest, largest = CLIP_THING_SIZES_PX
    size = float(rng.integers(smallest, min(largest, int(0.42 * min(width, height))) + 1))
    inset = size / 2 + GAP_PX
    return rng.uniform(inset, width - inset), rng.uniform(inset, height - inset), size


def _apart(square: Square, way: list[Square]) -> bool:
    x, y, size = square
    xs, ys, reach = [s[0] for s in way], [s[1] for s in way], (size + way[0][2]) / 2 + GAP_PX
    return min(xs) - x >= reach or x - max(xs) >= reach or min(ys) - y >= reach or y - max(ys) >= reach


def _way(rng: np.random.Generator, width: int, height: int, frames: int) -> list[Square] | None:
    """A straight way at an even pace within the picture, or None if the throw leaves it."""
    x, y, size = _square(rng, width, height)
    angle = rng.choice(8) * np.pi / 4
    stride = rng.uniform(*STRIDES_PX)
    way = [(x + k * stride * np.cos(angle), y + k * stride * np.sin(angle), size) for k in range(frames)]
    inset = size / 2 + GAP_PX
    x, y, _ = way[-1]
    return way if inset <= x <= width - inset and inset <= y <= height - inset else None


def _event_frame(rng: np.random.Generator, frames: int) -> int:
    """The frame in which something happens: mostly the first of a temporal step, never within the first step."""
    if rng.random() < ON_A_STEP:
        return int(rng.choice(range(2, frames, 2)))
    return int(rng.choice(range(3, frames, 2)))


def _layout(
    rng: np.random.Generator, width: int, height: int, frames: int, moves: bool, things: int
) -> list[list[Square]]:
    while True:
        way = _way(rng, width, height, frames) if moves else [_square(rng, width, height)]
        if way is None:
            continue
        ways = [way]
        if _lay_out(rng, width, height, ways, things):
            return ways


def draw_clip(
    rng: np.random.Generator,
    frames: int | None = None,
    fps: float | None = None,
    size_px: tuple[int, int] | None = None,
    things: int | None = None,
    event: EventKind | None = None,
) -> Clip:
    """Draws a random clip of two or three things of different shapes and colours, to one of which something happens.

    Args:
        rng: decides everything that is not given.
        frames: one of `FRAME_COUNTS`.
        fps: one of `FRAME_RATES`.
        size_px: (width, height); two of `CLIP_SIDES_PX` if not given.
        things: how many.
        event: what happens to one of them; moves and appearances are more frequent if it is not given.
    """
    frames = int(rng.choice(FRAME_COUNTS)) if frames is None else frames
    fps = float(rng.choice(FRAME_RATES)) if fps is None else fps
    width, height = size_px or (int(rng.choice(CLIP_SIDES_PX)), int(rng.choice(CLIP_SIDES_PX)))
    event = EVENTS[rng.choice(4, p=(0.3, 0.3, 0.15, 0.25))] if event is None else event
    things = int(rng.integers(2, 4)) if things is None else things
    ways = _layout(rng, width, height, frames, event == "move", things)
    shapes = rng.choice(SHAPES, things, replace=False)
    colors = [str(color) for color in rng.choice(list(COLORS), things + 1, replace=False)]
    plans = [
        ScenePlan(str(shape), color, way[0][:2], way[0][2], jitter(rng, COLORS[color]), bool(rng.random() < 0.5))
        for shape, color, way in zip(shapes, colors, ways, strict=False)
    ]
    start = 0 if event == "move" else _event_frame(rng, frames)
    changed = replace(plans[0], color=colors[-1], rgb=jitter(rng, COLORS[colors[-1]]))
    ground = draw_ground(rng, (width, height), GROUNDS[rng.integers(len(GROUNDS))])

    def actor(frame: int) -> ScenePlan | None:
        if event == "move":
            return replace(plans[0], center_px=ways[0][frame][:2])
        if event == "recolor":
            return changed if frame >= start else plans[0]
        return plans[0] if (frame >= start) == (event == "appear") else None

    return _film(ground, [actor(k) for k in range(frames)], plans, fps, event, start)


def _film(
    ground: NDArray[np.uint8],
    actors: list[ScenePlan | None],
    plans: list[ScenePlan],
    fps: float,
    event: EventKind,
    start: int,
) -> Clip:
    painted = {actor: paint(ground, [*([actor] if actor else []), *plans[1:]]) for actor in dict.fromkeys(actors)}
    scenes = [painted[actor] for actor in actors]
    first = Track(
        plans[0].shape,
        tuple(actor.color if actor else None for actor in actors),
        tuple(scene.things[0].box_xyxy_px if actor else None for scene, actor in zip(scenes, actors, strict=True)),
    )
    still = scenes[0].things[len(scenes[0].things) - len(plans) + 1 :]
    count = len(actors)
    others = [Track(thing.shape, (thing.color,) * count, (thing.box_xyxy_px,) * count) for thing in still]
    return Clip(np.stack([scene.picture for scene in scenes]), fps, (first, *others), event, start)
