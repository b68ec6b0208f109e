"""Draws scenes of simple shapes, the training data of the embedded model.

Independent of questions and of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDES_PX = (140, 168, 196, 224, 252)
PAIR_SIDES_PX = (140, 168, 196)
THING_SIZES_PX = (34, 84)
COLORS = {
    "red": (215, 45, 45),
    "green": (50, 165, 70),
    "blue": (50, 90, 210),
    "yellow": (240, 205, 50),
    "purple": (140, 60, 180),
    "orange": (240, 135, 40),
}
SUPERSAMPLING = 2
GAP_PX = 3

Rgb = tuple[int, int, int]
Box = tuple[int, int, int, int]
Points = list[tuple[float, float]]
Ground = Literal["plain", "noisy", "striped"]
GROUNDS: tuple[Ground, ...] = get_args(Ground)
Part = tuple[str, Points]  # an ink and a polygon in a square from -1 to 1, y down


@dataclass(frozen=True)
class Thing:
    """One object of a scene; `box_xyxy_px` is tight around its pixels, [x0, x1) and [y0, y1)."""

    shape: str
    color: str
    box_xyxy_px: Box


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture (H, W, 3) uint8 RGB and the things in it."""

    picture: NDArray[np.uint8]
    things: tuple[Thing, ...]


@dataclass(frozen=True)
class ScenePlan:
    """How to draw one thing: the centre and side of the square that it fits into, and its exact colour."""

    shape: str
    color: str
    center_px: tuple[float, float]
    size_px: float
    rgb: Rgb
    mirrored: bool = False


def _oval(x: float, y: float, rx: float, ry: float) -> Points:
    return [(x + rx * cos(k * pi / 24), y + ry * sin(k * pi / 24)) for k in range(48)]


def _pair(ink: str, points: Points) -> list[Part]:
    return [(ink, points), (ink, [(-x, y) for x, y in points])]


def _star() -> Points:
    radii = (1.0, 0.45) * 5
    return [(r * sin(k * pi / 5), -r * cos(k * pi / 5)) for k, r in enumerate(radii)]


GLYPHS: dict[str, list[Part]] = {
    "circle": [("body", _oval(0, 0, 1, 1))],
    "square": [("body", [(-1, -1), (1, -1), (1, 1), (-1, 1)])],
    "triangle": [("body", [(0, -1), (1, 1), (-1, 1)])],
    "star": [("body", _star())],
    "cat": [
        *_pair("body", [(-0.85, -1), (-0.88, 0.1), (-0.1, -0.5)]),
        ("body", _oval(0, 0.15, 0.92, 0.8)),
        *_pair("light", [(-0.73, -0.74), (-0.73, -0.28), (-0.36, -0.47)]),
        *_pair("white", _oval(-0.36, 0.05, 0.19, 0.19)),
        *_pair("dark", _oval(-0.36, 0.05, 0.09, 0.16)),
        ("dark", [(-0.11, 0.34), (0.11, 0.34), (0, 0.47)]),
        *_pair("dark", [(-0.35, 0.46), (-1, 0.36), (-1, 0.41), (-0.35, 0.51)]),
        *_pair("dark", [(-0.35, 0.56), (-0.97, 0.66), (-0.97, 0.71), (-0.35, 0.61)]),
    ],
    "dog": [
        ("body", _oval(0, 0, 0.75, 0.88)),
        *_pair("shade", _oval(-0.75, 0.05, 0.25, 0.7)),
        ("white", _oval(0, 0.42, 0.4, 0.34)),
        *_pair("dark", _oval(-0.28, -0.14, 0.12, 0.12)),
        ("dark", _oval(0, 0.3, 0.16, 0.12)),
        ("dark", [(-0.03, 0.35), (0.03, 0.35), (0.03, 0.58), (-0.03, 0.58)]),
    ],
    "fish": [
        ("body", [(0.4, 0), (1, -0.66), (0.85, 0), (1, 0.66)]),
        ("body", _oval(-0.2, 0, 0.8, 0.66)),
        ("white", _oval(-0.6, -0.14, 0.13, 0.13)),
        ("dark", _oval(-0.62, -0.14, 0.08, 0.08)),
    ],
}
SHAPES = tuple(GLYPHS)


def _mix(rgb: Rgb, target: Rgb, share: float) -> Rgb:
    r, g, b = (round(a + (t - a) * share) for a, t in zip(rgb, target, strict=True))
    return r, g, b


def _inks(rgb: Rgb) -> dict[str, Rgb]:
    black, white = (0, 0, 0), (255, 255, 255)
    return {
        "body": rgb,
        "shade": _mix(rgb, black, 0.4),
        "light": _mix(rgb, white, 0.5),
        "dark": (30, 30, 30),
        "white": (250, 250, 250),
    }


def _polygons(plan: ScenePlan) -> list[tuple[Rgb, Points]]:
    inks, (cx, cy) = _inks(plan.rgb), plan.center_px
    half = plan.size_px / 2
    flip = -half if plan.mirrored else half
    return [
        (inks[ink], [(SUPERSAMPLING * (cx + flip * x), SUPERSAMPLING * (cy + half * y)) for x, y in points])
        for ink, points in GLYPHS[plan.shape]
    ]


def paint(ground: NDArray[np.uint8], plans: Sequence[ScenePlan]) -> Scene:
    """Draw planned things on a background.

    Args:
        ground: (H, W, 3) uint8 RGB, the background.
        plans: the things to draw, in pixels of the background; the last is on top.

    Returns:
        The scene, with its things in the order of the plans.

    Raises:
        ValueError: a thing outside the background.
    """
    height, width = ground.shape[:2]
    size = (SUPERSAMPLING * width, SUPERSAMPLING * height)
    canvas = Image.fromarray(ground).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    things = []
    for plan in plans:
        mask = Image.new("1", size)
        pen = ImageDraw.Draw(mask)
        for rgb, points in _polygons(plan):
            draw.polygon(points, fill=rgb)
            pen.polygon(points, fill=1)
        drawn = mask.getbbox()
        if drawn is None:
            raise ValueError(f"{plan}: outside a ground of {width} x {height} px")
        x0, y0, x1, y1 = (*(v // SUPERSAMPLING for v in drawn[:2]), *(-(-v // SUPERSAMPLING) for v in drawn[2:]))
        things.append(Thing(plan.shape, plan.color, (x0, y0, x1, y1)))
    picture = np.asarray(canvas.resize((width, height), Image.Resampling.BOX))
    return Scene(picture, tuple(things))


def draw_ground(rng: np.random.Generator, size_px: tuple[int, int], kind: Ground) -> NDArray[np.uint8]:
    """Draw a light background of random tint, (H, W, 3) uint8 RGB; `size_px` is (width, height)."""
    width, height = size_px
    base = rng.integers(178, 245) + rng.integers(-12, 13, 3)
    ground = np.broadcast_to(base, (height, width, 3)).astype(np.float64)
    if kind == "noisy":
        ground += rng.normal(0, rng.uniform(3, 9), (height, width, 1))
    elif kind == "striped":
        y, x = np.mgrid[:height, :width]
        coordinate = (x, y, x + y)[rng.integers(3)]
        ground -= 14.0 * (coordinate // rng.integers(6, 17) % 2)[..., None]
    return ground.clip(0, 255).astype(np.uint8)


def _overlap(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    (ax, ay, a_size), (bx, by, b_size) = a, b
    return max(abs(ax - bx), abs(ay - by)) < (a_size + b_size) / 2 + GAP_PX


def _lay_out(rng: np.random.Generator, width: int, height: int, count: int) -> list[tuple[float, float, float]]:
    """Draw squares (centre x, centre y, side), in pixels, that do not touch: `count`, or at least 1 if crowded."""
    smallest, largest = THING_SIZES_PX
    largest = min(largest, int(0.45 * min(width, height)))
    squares: list[tuple[float, float, float]] = []
    for _ in range(60 * count):
        size = float(rng.integers(smallest, largest + 1))
        inset = size / 2 + GAP_PX
        square = (rng.uniform(inset, width - inset), rng.uniform(inset, height - inset), size)
        if not any(_overlap(square, placed) for placed in squares):
            squares.append(square)
        if len(squares) == count:
            break
    return squares


def jitter(rng: np.random.Generator, rgb: Rgb) -> Rgb:
    """Return a random shade of a colour."""
    r, g, b = (int(v) for v in np.clip(np.array(rgb) + rng.integers(-14, 15, 3), 0, 255))
    return r, g, b


def draw_scene(rng: np.random.Generator, size_px: tuple[int, int] | None = None, count: int | None = None) -> Scene:
    """Draw a random scene: things of random shapes and colours that do not overlap, on a random light background.

    Args:
        rng: random generator for everything that is not given.
        size_px: (width, height), at least 140 each; two of `SIDES_PX` if not given.
        count: maximum number of things; 2 to 5 if not given. A small picture may hold fewer, but at least one.

    Raises:
        ValueError: a side under 140 px, or a count under 1.
    """
    width, height = size_px or (int(rng.choice(SIDES_PX)), int(rng.choice(SIDES_PX)))
    count = int(rng.integers(2, 6)) if count is None else count
    if min(width, height) < SIDES_PX[0] or count < 1:
        raise ValueError(
            f"{width} x {height} px, {count} things: want {SIDES_PX[0]} px a side or more, 1 thing or more"
        )
    ground = draw_ground(rng, (width, height), GROUNDS[rng.integers(len(GROUNDS))])
    squares = _lay_out(rng, width, height, count)
    # With few shapes to choose from, several things have the same shape, which makes counting questions possible.
    shapes = rng.choice(SHAPES, size=int(rng.choice((1, 2, len(SHAPES)), p=(0.1, 0.35, 0.55))), replace=False)
    plans = []
    for x, y, size in squares:
        color = str(rng.choice(list(COLORS)))
        mirrored = bool(rng.random() < 0.5)
        rgb = jitter(rng, COLORS[color])
        plans.append(ScenePlan(str(rng.choice(shapes)), color, (x, y), size, rgb, mirrored))
    return paint(ground, plans)
