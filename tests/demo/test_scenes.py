"""Scenes: same seed, same pixels; tight boxes; no overlaps; the shipped pictures are reproducible."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from qvl_attn.demo import scenes
from qvl_attn.demo.scenes import COLORS, SHAPES, Scene, ScenePlan, draw_scene, paint
from qvl_attn.demo.wording import CHINESE

PICTURES = Path(scenes.__file__).parent / "pictures"
ENGLISH = {word: english for english, word in CHINESE.items()}
DESCRIBED = json.loads((PICTURES / "pictures.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "draw_demo_pictures.py"
    spec = importlib.util.spec_from_file_location("draw_demo_pictures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


def drawn_scenes(count: int = 40) -> list[Scene]:
    rng = np.random.default_rng(3)
    return [draw_scene(rng) for _ in range(count)]


def differing_box(a: np.ndarray, b: np.ndarray) -> tuple[int, ...]:
    rows, columns = np.nonzero((a != b).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_a_seed_draws_the_same_scene_twice() -> None:
    first, repeated, different = (draw_scene(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first.things == repeated.things
    assert np.array_equal(first.picture, repeated.picture)
    assert first.things != different.things


def test_scenes_stay_within_the_trained_ranges() -> None:
    for scene in drawn_scenes():
        height, width = scene.picture.shape[:2]
        assert {height, width} <= set(scenes.SIDES_PX)
        assert scene.picture.dtype == np.uint8
        assert 1 <= len(scene.things) <= 5
        assert {(t.shape in SHAPES, t.color in COLORS) for t in scene.things} == {(True, True)}
        for x0, y0, x1, y1 in (t.box_xyxy_px for t in scene.things):
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            # A box that starts between two pixels is up to one pixel wider.
            assert max(x1 - x0, y1 - y0) in range(scenes.THING_SIZES_PX[0] - 2, scenes.THING_SIZES_PX[1] + 3)


@pytest.mark.parametrize("size_px", [(140, 252), (252, 140), (150, 333)])
def test_a_given_size_and_count_are_used(size_px: tuple[int, int]) -> None:
    scene = draw_scene(np.random.default_rng(0), size_px, count=2)
    assert scene.picture.shape == (size_px[1], size_px[0], 3)
    assert len(scene.things) == 2


@pytest.mark.parametrize(("size_px", "count"), [((100, 252), 2), ((252, 139), 2), ((252, 252), 0)])
def test_an_impossible_layout_is_refused(size_px: tuple[int, int], count: int) -> None:
    with pytest.raises(ValueError, match="want 140 px"):
        draw_scene(np.random.default_rng(0), size_px, count)


def test_things_do_not_overlap() -> None:
    for scene in drawn_scenes():
        covered = np.zeros(scene.picture.shape[:2], int)
        for x0, y0, x1, y1 in (t.box_xyxy_px for t in scene.things):
            covered[y0:y1, x0:x1] += 1
        assert covered.max() == 1


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_tight_around_the_drawn_pixels(shape: str, mirrored: bool) -> None:
    ground = np.full((140, 196, 3), 225, np.uint8)
    for center_px, size_px in (((60, 50), 34), ((120.3, 70.8), 83), ((70.5, 64.25), 51)):
        scene = paint(ground, [ScenePlan(shape, "red", center_px, size_px, COLORS["red"], mirrored)])
        assert scene.things[0].box_xyxy_px == differing_box(scene.picture, ground)


def test_each_box_is_that_of_its_own_thing() -> None:
    ground = np.full((140, 252, 3), 225, np.uint8)
    plans = [ScenePlan(s, c, (x, 70), 60, COLORS[c]) for s, c, x in (("cat", "red", 50), ("fish", "blue", 180))]
    complete = paint(ground, plans)
    for index, thing in enumerate(complete.things):
        without = paint(ground, plans[:index] + plans[index + 1 :])
        assert (thing.shape, thing.color) == (plans[index].shape, plans[index].color)
        assert thing.box_xyxy_px == differing_box(complete.picture, without.picture)


def test_a_plan_outside_the_ground_is_refused() -> None:
    with pytest.raises(ValueError, match="outside a ground of 140 x 140 px"):
        paint(np.zeros((140, 140, 3), np.uint8), [ScenePlan("cat", "red", (400, 70), 40, COLORS["red"])])


def test_the_shipped_pictures_are_what_the_script_draws(script: ModuleType) -> None:
    assert sorted(p.name for p in PICTURES.glob("*.png")) == sorted(layout.file for layout in script.LAYOUTS)
    descriptions = []
    for layout in script.LAYOUTS:
        scene = script.draw(layout)
        with Image.open(PICTURES / layout.file) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), scene.picture), layout.file
        descriptions.append(script.describe(layout, scene))
    assert json.loads(json.dumps(descriptions)) == DESCRIBED


@pytest.mark.parametrize("row", DESCRIBED, ids=lambda row: row["file"])
def test_the_shipped_questions_have_true_answers(row: dict) -> None:
    with Image.open(PICTURES / row["file"]) as image:
        assert set(image.size) <= set(scenes.SIDES_PX)
    things = {tuple(thing["box_xyxy_px"]): thing for thing in row["things"]}
    assert len(things) == len(row["things"])
    assert 2 <= len(row["questions"]) <= 4
    for item in row["questions"]:
        boxed = [things[tuple(box)] for box in item["boxes_xyxy_px"]]
        answer = ENGLISH.get(item["answer"], item["answer"])
        if answer in SHAPES or answer in COLORS:
            assert answer in (boxed[0]["shape"], boxed[0]["color"])
            assert len(boxed) == 1
        else:
            assert answer in (str(len(boxed)), "yes" if boxed else "no")
