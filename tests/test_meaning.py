"""The embedded model really sees: its attention lies on what was asked about, and a wrong grid would show.

Chance for the lift is 1. The thresholds leave room: what is measured is printed with `pytest -rP`.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import DEMO_PICTURES

from qvl_attn.demo.scenes import draw_scene, questions
from qvl_attn.types import Media

SCENES = 24
SEED = 20_260_101
# Four would do; a grid shifted by one token still reaches 3.7.
LEAST_LIFT = 5
KINDS = ("color", "shape", "exist")


def share_inside(boxes_px, cells_px):
    """(cells,) share of each cell's area that lies in the union of some boxes, by counting a fine raster."""
    width, height = cells_px[-1, 2], cells_px[-1, 3]
    x, y = np.meshgrid(np.arange(0.5, width), np.arange(0.5, height))
    inside = np.zeros(x.shape, dtype=bool)
    for left, top, right, bottom in boxes_px:
        inside |= (x >= left) & (x < right) & (y >= top) & (y < bottom)
    shares = []
    for left, top, right, bottom in cells_px:
        cell = inside[int(top) : int(bottom), int(left) : int(right)]
        shares.append(cell.mean())
    return np.array(shares)


def ask_scenes(analyzer, count, **settings):
    """Colour, shape and yes questions on drawn scenes: the answer, the map, the share of each cell in the box."""
    rows = []
    for seed in range(count):
        rng = np.random.default_rng([SEED, seed])
        scene = draw_scene(rng)
        height, width, _ = scene.picture.shape
        media = Media("picture", scene.picture[None], np.zeros(1), (width, height), f"scene {seed}", "0" * 64)
        for item in questions(scene, rng):
            if item.kind in KINDS and item.boxes_xyxy_px:
                result = analyzer.ask(media, item.question, **settings)
                values = result.heatmap(layers="all", query="last").values[0]
                inside = share_inside(item.boxes_xyxy_px, result.capture.grids[0].boxes_px)
                rows.append((result.answer == item.answer, values, inside))
    return rows


@pytest.fixture(scope="module")
def asked(demo):
    return ask_scenes(demo, SCENES)


def mean_lift(rows, change=lambda values: values):
    lifts = []
    for _, values, inside in rows:
        wrong = change(values).ravel()
        lifts.append((wrong * inside).sum() / wrong.sum() / inside.mean())
    return float(np.mean(lifts))


def test_it_answers(asked):
    right = np.mean([right for right, _, _ in asked])
    print(f"{len(asked)} questions on {SCENES} scenes, {right:.3f} right")
    assert len(asked) >= 40
    assert right >= 0.9


def test_it_looks_at_what_was_asked_about(asked):
    lift = mean_lift(asked)
    print(f"lift {lift:.2f}")
    assert lift >= LEAST_LIFT


WRONG_GRIDS = {
    "transposed": lambda v: v.ravel().reshape(v.shape[::-1]).T,
    "columns mirrored": lambda v: v[:, ::-1],
    "rows mirrored": lambda v: v[::-1],
    "shifted by one token": lambda v: np.roll(v.ravel(), 1),
    "shifted by one row": lambda v: np.roll(v, 1, axis=0),
    "shuffled": lambda v: np.random.default_rng(0).permutation(v.ravel()),
}


@pytest.mark.parametrize("name", sorted(WRONG_GRIDS))
def test_a_wrong_grid_fails(asked, name):
    lift = mean_lift(asked, WRONG_GRIDS[name])
    print(f"lift {lift:.2f} {name}")
    assert lift < LEAST_LIFT


def test_random_weights_have_no_lift(genuine):
    assert 0.7 < mean_lift(ask_scenes(genuine, 6, max_new_tokens=1)) < 1.4


SHIPPED = json.loads((DEMO_PICTURES / "pictures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("file", "question", "answer"),
    [(one["file"], item["question"], item["answer"]) for one in SHIPPED for item in one["questions"]],
)
def test_the_shipped_pictures_are_understood(demo, file, question, answer):
    assert demo.ask(DEMO_PICTURES / file, question).answer == answer
