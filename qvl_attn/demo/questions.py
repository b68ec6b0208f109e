"""Unambiguous questions about a scene, two pictures or a clip, with answers and boxes.

Facts are collected first and then put into words, so that both languages ask the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qvl_attn.demo import wording
from qvl_attn.demo.clips import Clip, Track
from qvl_attn.demo.scenes import COLORS, SHAPES, Box, Scene, Thing
from qvl_attn.demo.wording import Language

MOST_COUNTED = 4
# A thing whose centre is closer to the picture's centre than this share of the side counts as neither left nor right.
MIDDLE = 0.1


@dataclass(frozen=True)
class Fact:
    """One fact to ask about: its kind, the form and slots of its question, its answer and its boxes.

    Attributes:
        kind: topic of the question.
        form: key of the templates in `wording.FORMS`.
        answer: the answer in English.
        shape: slot of the template.
        color: slot of the template.
        boxes_xyxy_px: [x0, x1) x [y0, y1) of the things that the question is about.
        frames: for each box, the frame of the clip or the index of the picture; zeros for one picture.
        things: the colours and shapes that a description names; empty for other kinds.
    """

    kind: str
    form: str
    answer: str
    shape: str = ""
    color: str = ""
    boxes_xyxy_px: tuple[Box, ...] = ()
    frames: tuple[int, ...] = ()
    things: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Question:
    """A fact as a question and an answer in one language."""

    question: str
    answer: str
    language: Language
    fact: Fact

    @property
    def kind(self) -> str:
        """Topic of the question."""
        return self.fact.kind


def put_into_words(fact: Fact, language: Language, rng: np.random.Generator) -> Question:
    """Ask for a fact with a random phrasing of its form."""
    text = wording.ask(language, fact.form, int(rng.integers(64)), fact.shape, fact.color)
    if fact.things:
        return Question(text, wording.description(language, list(fact.things)), language, fact)
    return Question(text, wording.answer(language, fact.answer), language, fact)


def scene_facts(scene: Scene, rng: np.random.Generator) -> list[Fact]:
    """Return all facts about a scene; `rng` chooses the absent things to ask about."""
    return [*_singles(scene.things), *_existence(scene.things, rng), *_counts(scene.things, rng), *_places(scene)]


def _fact(
    things: Sequence[Thing], kind: str, answer: str, shape: str = "", color: str = "", form: str = "", picture: int = 0
) -> Fact:
    boxes = tuple(thing.box_xyxy_px for thing in things)
    return Fact(kind, form or kind, answer, shape, color, boxes, (picture,) * len(boxes))


def _singles(things: Sequence[Thing]) -> Iterator[Fact]:
    shapes, colors = [t.shape for t in things], [t.color for t in things]
    for thing in things:
        if shapes.count(thing.shape) == 1:
            yield _fact([thing], "color", thing.color, thing.shape)
        if colors.count(thing.color) == 1:
            yield _fact([thing], "shape", thing.shape, color=thing.color)


def _existence(things: Sequence[Thing], rng: np.random.Generator) -> Iterator[Fact]:
    """Yield up to four questions: for a present and an absent thing, by shape and by colour and shape."""
    present = sorted({t.shape for t in things})
    absent = [shape for shape in SHAPES if shape not in present]
    for word, shapes in (("yes", present), ("no", absent)):
        if shapes:
            shape = str(rng.choice(shapes))
            yield _fact([t for t in things if t.shape == shape], "exist", word, shape)
    pairs = {(t.shape, t.color) for t in things}
    # Absent pairs that are hard to tell: a present shape in another colour, or a present colour on another shape.
    near_misses = [
        (shape, color)
        for shape in SHAPES
        for color in COLORS
        if (shape, color) not in pairs and (shape in present or color in {t.color for t in things})
    ]
    for word, candidates in (("yes", sorted(pairs)), ("no", near_misses)):
        shape, color = candidates[rng.integers(len(candidates))]
        matches = [t for t in things if (t.shape, t.color) == (shape, color)]
        yield _fact(matches, "exist", word, shape, color, "exist_colored")


def _counts(things: Sequence[Thing], rng: np.random.Generator) -> Iterator[Fact]:
    shapes = [t.shape for t in things]
    absent = [shape for shape in SHAPES if shape not in shapes]
    for shape in [*dict.fromkeys(shapes), *([str(rng.choice(absent))] if absent else [])]:
        matches = [t for t in things if t.shape == shape]
        if len(matches) <= MOST_COUNTED:
            yield _fact(matches, "count", str(len(matches)), shape)


def _places(scene: Scene) -> Iterator[Fact]:
    height, width = scene.picture.shape[:2]
    shapes = [t.shape for t in scene.things]
    for thing in scene.things:
        if shapes.count(thing.shape) > 1:
            continue
        x, y = _center(thing.box_xyxy_px)
        side = "" if abs(x / width - 0.5) < MIDDLE else "left" if x < width / 2 else "right"
        level = "" if abs(y / height - 0.5) < MIDDLE else "top" if y < height / 2 else "bottom"
        for kind, answer in (("side", side), ("level", level), ("where", f"{level} {side}")):
            if answer and (kind != "where" or (side and level)):
                yield _fact([thing], kind, answer, thing.shape)
    ordered = sorted(scene.things, key=lambda thing: _center(thing.box_xyxy_px)[0])
    descriptions = tuple((thing.color, thing.shape) for thing in ordered)
    boxes = tuple(thing.box_xyxy_px for thing in ordered)
    yield Fact("describe", "describe", "", boxes_xyxy_px=boxes, frames=(0,) * len(boxes), things=descriptions)


def _center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def pair_facts(pair: tuple[Scene, Scene]) -> list[Fact]:
    """Return the shapes, and the pairs of shape and colour, that only one of two pictures has."""
    facts = []
    for index, word in enumerate(("first", "second")):
        things, others = pair[index].things, pair[1 - index].things
        for shape in sorted({t.shape for t in things} - {t.shape for t in others}):
            facts.append(_fact([t for t in things if t.shape == shape], "which", word, shape, picture=index))
        for shape, color in sorted({(t.shape, t.color) for t in things} - {(t.shape, t.color) for t in others}):
            matches = [t for t in things if (t.shape, t.color) == (shape, color)]
            facts.append(_fact(matches, "which", word, shape, color, "which_colored", index))
    return facts


def clip_facts(clip: Clip, rng: np.random.Generator) -> list[Fact]:
    """Return the facts about a clip: its event, the third with the event, its things; `rng` picks an absent shape."""
    actor, *others = clip.tracks
    facts = [*_event_facts(clip, actor)]
    for track in others:
        color = str(track.colors[0])
        facts += [
            _track_fact(track, "color", color, track.shape),
            _track_fact(track, "shape", track.shape, color=color),
            _track_fact(track, "exist", "yes", track.shape),
            _track_fact(track, "color_at_end", color, track.shape),
            _track_fact(track, "color_at_start", color, track.shape),
        ]
        if clip.event != "appear":
            facts.append(_track_fact(track, "when", "start", track.shape))
    absent = [shape for shape in SHAPES if shape not in {t.shape for t in clip.tracks}]
    return [*facts, Fact("exist", "exist", "no", str(rng.choice(absent)))]


def _event_facts(clip: Clip, actor: Track) -> Iterator[Fact]:
    if clip.event == "move":
        yield _track_fact(actor, "move_color", str(actor.colors[0]))
        yield _track_fact(actor, "move_shape", actor.shape)
    elif clip.event == "recolor":
        yield _track_fact(actor, "recolor", actor.shape)
        # The boxes are those of the frames in which the thing has the colour of the answer.
        for kind, color in (("color_at_end", actor.colors[-1]), ("color_at_start", actor.colors[0])):
            colored = [
                box if frame_color == color else None
                for box, frame_color in zip(actor.boxes_xyxy_px, actor.colors, strict=True)
            ]
            yield _track_fact(replace(actor, boxes_xyxy_px=tuple(colored)), kind, str(color), actor.shape)
    else:
        yield _track_fact(actor, clip.event, actor.shape)
    if clip.event == "appear":
        yield _track_fact(actor, "exist", "yes", actor.shape)
        third = 3 * clip.event_frame // len(clip.frames)
        yield _track_fact(actor, "when", ("start", "middle", "end")[third], actor.shape)


def _track_fact(track: Track, kind: str, answer: str, shape: str = "", color: str = "") -> Fact:
    visible = [(box, frame) for frame, box in enumerate(track.boxes_xyxy_px) if box is not None]
    boxes, frames = tuple(box for box, _ in visible), tuple(frame for _, frame in visible)
    return Fact(kind, kind, answer, shape, color, boxes, frames)
