"""Draws the pictures and the clip that ship with the demo, and writes JSON files that describe them.

The layouts and the clip's seed were chosen so that the checkpoint answers the questions correctly: they are examples,
not an evaluation.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from qvl_attn.demo.clips import draw_clip
from qvl_attn.demo.scenes import COLORS, Scene, ScenePlan, draw_ground, paint
from qvl_attn.media.mp4 import write_mp4

FOLDER = Path(__file__).parents[1] / "qvl_attn" / "demo" / "pictures"


@dataclass(frozen=True)
class Layout:
    """One picture: its background, its things, and questions, each with its answer and the indices of its things."""

    file: str
    size_px: tuple[int, int]
    ground: Literal["plain", "noisy", "striped"]
    seed: int
    plans: tuple[ScenePlan, ...]
    questions: tuple[tuple[str, str, tuple[int, ...]], ...]


def _plan(shape: str, color: str, x_px: int, y_px: int, size_px: int, mirrored: bool = False) -> ScenePlan:
    return ScenePlan(shape, color, (x_px, y_px), size_px, COLORS[color], mirrored)


LAYOUTS = (
    Layout(
        "cats.png",
        (252, 224),
        "plain",
        2,
        (
            _plan("cat", "orange", 49, 164, 59),
            _plan("cat", "purple", 116, 83, 59),
            _plan("dog", "green", 182, 57, 59),
            _plan("star", "yellow", 129, 163, 56),
        ),
        (
            ("how many cats?", "2", (0, 1)),
            ("what color is the dog?", "green", (2,)),
            ("is there a purple cat?", "yes", (1,)),
            ("有几只猫？", "2", (0, 1)),
        ),
    ),
    Layout(
        "shapes.png",
        (224, 224),
        "striped",
        5,
        (
            _plan("circle", "red", 62, 60, 72),
            _plan("square", "blue", 160, 62, 66),
            _plan("triangle", "green", 64, 162, 74),
            _plan("star", "yellow", 160, 160, 80),
        ),
        (
            ("what color is the star?", "yellow", (3,)),
            ("what shape is the red object?", "circle", (0,)),
            ("is there a purple square?", "no", ()),
            ("蓝色的物体是什么？", "正方形", (1,)),
        ),
    ),
    Layout(
        "two_animals.png",
        (196, 168),
        "plain",
        4,
        (_plan("cat", "orange", 56, 66, 80), _plan("dog", "blue", 142, 102, 80)),
        (
            ("what color is the cat?", "orange", (0,)),
            ("what shape is the blue object?", "dog", (1,)),
            ("狗是什么颜色？", "蓝色", (1,)),
            ("有绿色的猫吗？", "没有", ()),
        ),
    ),
    Layout(
        "fish.png",
        (224, 168),
        "striped",
        9,
        (
            _plan("fish", "orange", 60, 52, 80),
            _plan("fish", "purple", 158, 112, 82, mirrored=True),
            _plan("circle", "green", 64, 128, 44),
        ),
        (
            ("how many fish?", "2", (0, 1)),
            ("how many dogs?", "0", ()),
            ("what color is the circle?", "green", (2,)),
            ("有几条鱼？", "2", (0, 1)),
        ),
    ),
    Layout(
        "wide.png",
        (252, 140),
        "noisy",
        1,
        (
            _plan("fish", "red", 46, 68, 72),
            _plan("dog", "purple", 128, 70, 76),
            _plan("star", "yellow", 210, 66, 66),
        ),
        (
            ("what color is the dog?", "purple", (1,)),
            ("what shape is the yellow object?", "star", (2,)),
            ("is there a red fish?", "yes", (0,)),
            ("红色的是什么？", "鱼", (0,)),
        ),
    ),
    Layout(
        "tall.png",
        (140, 252),
        "plain",
        6,
        (
            _plan("cat", "green", 78, 52, 76),
            _plan("triangle", "red", 52, 134, 62),
            _plan("fish", "blue", 82, 208, 76, mirrored=True),
        ),
        (
            ("what color is the triangle?", "red", (1,)),
            ("what shape is the green object?", "cat", (0,)),
            ("how many stars?", "0", ()),
            ("鱼是什么颜色？", "蓝色", (2,)),
        ),
    ),
)


CLIP_SEED, CLIP_FRAMES, CLIP_FPS, CLIP_SIZE_PX = 7049, 8, 4.0, (168, 140)
CLIP_QUESTIONS = (
    ("what color is the moving shape?", "orange"),
    ("what is moving?", "fish"),
    ("移动的物体是什么颜色？", "橙色"),
)


def write_clip(folder: Path) -> None:
    clip = draw_clip(np.random.default_rng(CLIP_SEED), CLIP_FRAMES, CLIP_FPS, CLIP_SIZE_PX, 3, "move")
    timed_frames = ((pixels, i / clip.fps) for i, pixels in enumerate(clip.frames))
    write_mp4(folder / "clip.mp4", timed_frames, CLIP_FRAMES / CLIP_FPS, rate_fps=clip.fps, quality=8)
    questions = [{"question": text, "answer": answer} for text, answer in CLIP_QUESTIONS]
    boxes = clip.tracks[0].boxes_xyxy_px
    description = {"file": "clip.mp4", "fps": clip.fps, "boxes_xyxy_px": boxes, "questions": questions}
    (folder / "clip.json").write_text(json.dumps(description, ensure_ascii=False) + "\n", encoding="utf-8")


def draw(layout: Layout) -> Scene:
    return paint(draw_ground(np.random.default_rng(layout.seed), layout.size_px, layout.ground), layout.plans)


def describe(layout: Layout, scene: Scene) -> dict[str, Any]:
    return {
        "file": layout.file,
        "things": [asdict(thing) for thing in scene.things],
        "questions": [
            {"question": text, "answer": answer, "boxes_xyxy_px": [scene.things[i].box_xyxy_px for i in indices]}
            for text, answer, indices in layout.questions
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write (default: the shipped pictures)")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [draw(layout) for layout in LAYOUTS]
    for layout, scene in zip(LAYOUTS, scenes, strict=True):
        Image.fromarray(scene.picture).save(folder / layout.file, optimize=True)
    rows = [json.dumps(describe(*pair), ensure_ascii=False) for pair in zip(LAYOUTS, scenes, strict=True)]
    (folder / "pictures.json").write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")
    write_clip(folder)


if __name__ == "__main__":
    main()
