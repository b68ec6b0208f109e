"""The data of one training step: pictures, pairs of pictures or clips of one size, and questions.

All data is drawn from the run's seed and the step's number, so a step is reproducible. The held-out distribution has
other seeds (`qvl_attn.demo.heldout`), which are never used here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qvl_attn.demo.clips import CLIP_SIDES_PX, EVENTS, FRAME_COUNTS, FRAME_RATES, Clip, draw_clip
from qvl_attn.demo.questions import Fact, Question, clip_facts, pair_facts, put_into_words, scene_facts
from qvl_attn.demo.scenes import COLORS, PAIR_SIDES_PX, SHAPES, SIDES_PX, Box, Scene, draw_scene
from qvl_attn.demo.wording import LANGUAGES
from qvl_attn.model.prompt import CELL_PX

SAMPLES_PER_LESSON = {"picture": 16, "pair": 8, "clip": 8}
QUESTIONS_EACH = 8
# Relative frequency of each kind among the questions that can be asked about the same scene.
WEIGHTS = {
    "color": 5.0,
    "shape": 5.0,
    "count": 6.0,
    "exist": 5.0,
    "side": 4.0,
    "level": 2.0,
    "where": 2.0,
    "describe": 1.0,
    "which": 5.0,
    "move_color": 6.0,
    "move_shape": 6.0,
    "appear": 6.0,
    "vanish": 6.0,
    "recolor": 6.0,
    "when": 4.0,
    "color_at_end": 4.0,
    "color_at_start": 4.0,
}
LATE_EVENTS = (0.2, 0.2, 0.3, 0.3)  # of `EVENTS`
LATE_SEVERAL = 3
NOTHING = -100
MOST_OF_A_KIND = 5
STATES = ("still", "moving", "appeared", "recolored", "gone")
AFTERWARDS = {"move": "moving", "appear": "appeared", "recolor": "recolored", "vanish": "gone"}

Kind = Literal["picture", "pair", "clip"]
Cells = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lesson:
    """The data of one step: N samples of M pictures, or clips of T steps, of h x w cells each.

    Attributes:
        kind: kind of all samples.
        frames: (N, M, 2T, H, W, 3) uint8; a picture is repeated as two frames.
        seconds_per_step: duration of a clip's temporal step; 0 for pictures.
        questions: the questions of each sample.
        shapes: (N, M * T * h * w, 2) index of the shape in each cell, in both frames of a step; `len(SHAPES)` for the
            background, `NOTHING` for a partly covered cell.
        colors: the same for colours.
        states: (N, M * T * h * w) for clips, index into `STATES`, `len(STATES)` for the background; `NOTHING` for
            pictures.
        inventory: (N, shapes + colours) number of visible things of each shape and colour, at most `MOST_OF_A_KIND`.
    """

    kind: Kind
    frames: NDArray[np.uint8]
    seconds_per_step: float
    questions: tuple[tuple[Question, ...], ...]
    shapes: Cells
    colors: Cells
    states: Cells
    inventory: Cells

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """Pictures per sample, temporal steps, rows and columns of cells."""
        _, pictures, frames, height, width, _ = self.frames.shape
        return pictures, frames // 2, height // CELL_PX, width // CELL_PX


def draw_lesson(rng: np.random.Generator, kind: Kind, most_things: int, late: bool = False) -> Lesson:
    """Draw the data of one step.

    Args:
        rng: random generator for everything else.
        kind: pictures, pairs or clips.
        most_things: maximum number of things in a picture; clips have two or three.
        late: more of the harder data: pictures of several things, counts above one, rare events.
    """
    count = SAMPLES_PER_LESSON[kind]
    if kind == "clip":
        return _clips(rng, count, min(most_things, int(rng.integers(2, 4))), late)
    sides = SIDES_PX if kind == "picture" else PAIR_SIDES_PX
    size_px = (int(rng.choice(sides)), int(rng.choice(sides)))
    pictures = 1 if kind == "picture" else 2
    samples, questions = [], []
    while len(samples) < count:
        scenes = [
            draw_scene(rng, size_px, int(rng.integers(2 if late else 1, most_things + 1))) for _ in range(pictures)
        ]
        facts = scene_facts(scenes[0], rng) if kind == "picture" else pair_facts((scenes[0], scenes[1]))
        # There is no question about two pictures of the same things.
        if facts:
            samples.append(scenes)
            questions.append(_choose(facts, rng, late))
    frames = np.stack([np.stack([scene.picture for scene in scenes]) for scenes in samples])
    labels = [[_labels(scene) for scene in scenes] for scenes in samples]
    shapes, colors = (
        np.stack([np.concatenate([label[index] for label in row]) for row in labels]) for index in range(2)
    )
    return Lesson(
        kind,
        np.repeat(frames[:, :, None], 2, axis=2),
        0.0,
        tuple(questions),
        np.repeat(shapes[..., None], 2, axis=2),
        np.repeat(colors[..., None], 2, axis=2),
        np.full(shapes.shape, NOTHING),
        np.stack([_inventory([(t.shape, t.color) for scene in scenes for t in scene.things]) for scenes in samples]),
    )


def _clips(rng: np.random.Generator, count: int, things: int, late: bool) -> Lesson:
    size_px = (int(rng.choice(CLIP_SIDES_PX)), int(rng.choice(CLIP_SIDES_PX)))
    frames, fps = int(rng.choice(FRAME_COUNTS)), float(rng.choice(FRAME_RATES))
    events = [EVENTS[rng.choice(len(EVENTS), p=LATE_EVENTS)] if late else None for _ in range(count)]
    clips = [draw_clip(rng, frames, fps, size_px, things, event) for event in events]
    return Lesson(
        "clip",
        np.stack([clip.frames[None] for clip in clips]),
        2 / fps,
        tuple(_choose(clip_facts(clip, rng), rng, late) for clip in clips),
        np.stack([_clip_labels(clip, "shape") for clip in clips]),
        np.stack([_clip_labels(clip, "color") for clip in clips]),
        np.stack([_states(clip) for clip in clips]),
        np.stack([_inventory([(t.shape, c) for t in clip.tracks for c in {*t.colors} - {None}]) for clip in clips]),
    )


def _inventory(things: Sequence[tuple[str, str | None]]) -> Cells:
    shapes, colors = zip(*things, strict=True)
    counts = [*(shapes.count(shape) for shape in SHAPES), *(colors.count(color) for color in COLORS)]
    return np.minimum(counts, MOST_OF_A_KIND)


def _choose(facts: Sequence[Fact], rng: np.random.Generator, late: bool) -> tuple[Question, ...]:
    kinds = [fact.kind for fact in facts]
    weights = np.array([WEIGHTS[kind] / kinds.count(kind) for kind in kinds])
    if late:
        weights *= [LATE_SEVERAL if fact.kind == "count" and fact.answer in "234" else 1 for fact in facts]
    chosen = rng.choice(len(facts), min(QUESTIONS_EACH, len(facts)), replace=False, p=weights / weights.sum())
    return tuple(put_into_words(facts[i], LANGUAGES[rng.integers(len(LANGUAGES))], rng) for i in chosen)


def _cells(boxes: Sequence[Box], labels: Sequence[int], height: int, width: int, ground: int) -> Cells:
    """Return (h * w,): label of the box that contains the cell's centre, `ground` if no box touches the cell."""
    y, x = (CELL_PX * np.arange(side // CELL_PX) for side in (height, width))
    cells = np.full((len(y), len(x)), ground)
    for box in boxes:
        touched = _touches(y, box[1], box[3])[:, None] & _touches(x, box[0], box[2])
        cells[touched] = NOTHING
    for box, label in zip(boxes, labels, strict=True):
        cells[_holds(y, box[1], box[3])[:, None] & _holds(x, box[0], box[2])] = label
    return cells.ravel()


def _touches(start: Cells, low: int, high: int) -> NDArray[np.bool_]:
    return (start < high) & (start + CELL_PX > low)


def _holds(start: Cells, low: int, high: int) -> NDArray[np.bool_]:
    middle = start + CELL_PX // 2
    return (middle >= low) & (middle < high)


def _labels(scene: Scene) -> tuple[Cells, Cells]:
    height, width = scene.picture.shape[:2]
    boxes = [thing.box_xyxy_px for thing in scene.things]
    shapes = [SHAPES.index(thing.shape) for thing in scene.things]
    colors = [list(COLORS).index(thing.color) for thing in scene.things]
    return _cells(boxes, shapes, height, width, len(SHAPES)), _cells(boxes, colors, height, width, len(COLORS))


def _clip_labels(clip: Clip, what: Literal["shape", "color"]) -> Cells:
    """Return (T * h * w, 2): the shape or colour in each cell, in both frames of each step."""
    frames, height, width = clip.frames.shape[:3]
    ground = len(SHAPES) if what == "shape" else len(COLORS)
    rows = []
    for k in range(frames):
        visible = [track for track in clip.tracks if track.boxes_xyxy_px[k] is not None]
        boxes = [box for track in visible if (box := track.boxes_xyxy_px[k])]
        labels = [SHAPES.index(t.shape) if what == "shape" else list(COLORS).index(str(t.colors[k])) for t in visible]
        rows.append(_cells(boxes, labels, height, width, ground))
    return np.stack(rows).reshape(frames // 2, 2, -1).transpose(0, 2, 1).reshape(-1, 2)


def _states(clip: Clip) -> Cells:
    """Return (T * h * w,): state of each cell at the end of its step; later steps have no influence."""
    frames, height, width = clip.frames.shape[:3]
    actor, *others = clip.tracks
    steps = []
    for step in range(frames // 2):
        boxes = [box for track in others if (box := track.boxes_xyxy_px[2 * step + 1])]
        labels = [0] * len(boxes)
        # A thing that vanishes did not move before, so its box is that of the first frame.
        box = actor.boxes_xyxy_px[0] if clip.event == "vanish" else actor.boxes_xyxy_px[2 * step + 1]
        if box:
            boxes.append(box)
            labels.append(STATES.index(AFTERWARDS[clip.event]) if 2 * step + 1 >= clip.event_frame else 0)
        steps.append(_cells(boxes, labels, height, width, len(STATES)))
    return np.concatenate(steps)
