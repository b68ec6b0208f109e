"""Draws short clips in which one thing moves, appears, vanishes or changes its colour while the others stay.

Independent of the wording of questions and of models.
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
STEP_START_SHARE = 0.85  # of events that begin with the first frame of a temporal step

Square = tuple[float, float, float]


@dataclass(frozen=True)
class Track:
    """One thing in a clip: its colour and its box [x0, x1) x [y0, y1) in each frame, None where it is absent."""

    shape: str
    colors: tuple[str | None, ...]
    boxes_xyxy_px: tuple[Box | None, ...]


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip with its frame rate and its things.

    Attributes:
        frames: (F, H, W, 3) uint8 RGB.
        fps: frames per second.
        tracks: the things; the first is the one that the event happens to.
        event: what happens to the first thing.
        event_frame: the first frame after the event (0 for a move, which lasts from the first frame to the last).
    """

    frames: NDArray[np.uint8]
    fps: float
    tracks: tuple[Track, ...]
    event: EventKind
    event_frame: int


def _add_squares(
    rng: np.random.Generator, width: int, height: int, trajectories: list[list[Square]], things: int
) -> bool:
    """Add still squares until there are `things`, none touching another's trajectory; False if they do not fit."""
    for _ in range(40 * things):
        if len(trajectories) == things:
            return True
        square = _square(rng, width, height)
        if all(_separated(square, trajectory) for trajectory in trajectories):
            trajectories.append([square])
    return len(trajectories) == things


def _square(rng: np.random.Generator, width: int, height: int) -> Square:
    smallest, largest = CLIP_THING_SIZES_PX
    size = float(rng.integers(smallest, min(largest, int(0.42 * min(width, height))) + 1))
    inset = size / 2 + GAP_PX
    return rng.uniform(inset, width - inset), rng.uniform(inset, height - inset), size


def _separated(square: Square, trajectory: list[Square]) -> bool:
    x, y, size = square
    xs, ys = [s[0] for s in trajectory], [s[1] for s in trajectory]
    distance = (size + trajectory[0][2]) / 2 + GAP_PX
    return min(xs) - x >= distance or x - max(xs) >= distance or min(ys) - y >= distance or y - max(ys) >= distance


def _trajectory(rng: np.random.Generator, width: int, height: int, frames: int) -> list[Square] | None:
    """Draw a straight trajectory at constant speed; None if it leaves the picture."""
    x, y, size = _square(rng, width, height)
    angle = rng.choice(8) * np.pi / 4
    stride = rng.uniform(*STRIDES_PX)
    trajectory = [(x + k * stride * np.cos(angle), y + k * stride * np.sin(angle), size) for k in range(frames)]
    inset = size / 2 + GAP_PX
    x, y, _ = trajectory[-1]
    return trajectory if inset <= x <= width - inset and inset <= y <= height - inset else None


def _event_frame(rng: np.random.Generator, frames: int) -> int:
    """Draw the frame of the event: mostly the first of a temporal step, never in the first step."""
    if rng.random() < STEP_START_SHARE:
        return int(rng.choice(range(2, frames, 2)))
    return int(rng.choice(range(3, frames, 2)))


def _layout(
    rng: np.random.Generator, width: int, height: int, frames: int, moves: bool, things: int
) -> list[list[Square]]:
    while True:
        trajectory = _trajectory(rng, width, height, frames) if moves else [_square(rng, width, height)]
        if trajectory is None:
            continue
        trajectories = [trajectory]
        if _add_squares(rng, width, height, trajectories, things):
            return trajectories


def draw_clip(
    rng: np.random.Generator,
    frames: int | None = None,
    fps: float | None = None,
    size_px: tuple[int, int] | None = None,
    things: int | None = None,
    event: EventKind | None = None,
) -> Clip:
    """Draw a random clip of two or three things of different shapes and colours, one of which has an event.

    Args:
        rng: random generator for everything that is not given.
        frames: one of `FRAME_COUNTS`.
        fps: one of `FRAME_RATES`.
        size_px: (width, height); two of `CLIP_SIDES_PX` if not given.
        things: number of things.
        event: what happens to the first thing; if not given, moves and appearances are more frequent.
    """
    frames = int(rng.choice(FRAME_COUNTS)) if frames is None else frames
    fps = float(rng.choice(FRAME_RATES)) if fps is None else fps
    width, height = size_px or (int(rng.choice(CLIP_SIDES_PX)), int(rng.choice(CLIP_SIDES_PX)))
    event = EVENTS[rng.choice(4, p=(0.3, 0.3, 0.15, 0.25))] if event is None else event
    things = int(rng.integers(2, 4)) if things is None else things
    trajectories = _layout(rng, width, height, frames, event == "move", things)
    shapes = rng.choice(SHAPES, things, replace=False)
    colors = [str(color) for color in rng.choice(list(COLORS), things + 1, replace=False)]
    plans = [
        ScenePlan(str(shape), color, path[0][:2], path[0][2], jitter(rng, COLORS[color]), bool(rng.random() < 0.5))
        for shape, color, path in zip(shapes, colors, trajectories, strict=False)
    ]
    start = 0 if event == "move" else _event_frame(rng, frames)
    changed = replace(plans[0], color=colors[-1], rgb=jitter(rng, COLORS[colors[-1]]))
    ground = draw_ground(rng, (width, height), GROUNDS[rng.integers(len(GROUNDS))])

    def actor(frame: int) -> ScenePlan | None:
        if event == "move":
            return replace(plans[0], center_px=trajectories[0][frame][:2])
        if event == "recolor":
            return changed if frame >= start else plans[0]
        return plans[0] if (frame >= start) == (event == "appear") else None

    return _render_clip(ground, [actor(k) for k in range(frames)], plans, fps, event, start)


def _render_clip(
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
    still_tracks = [Track(thing.shape, (thing.color,) * count, (thing.box_xyxy_px,) * count) for thing in still]
    return Clip(np.stack([scene.picture for scene in scenes]), fps, (first, *still_tracks), event, start)
