"""What can be asked of a scene, of two pictures and of a clip without doubt, with the answer and where it stands.

Facts are found first and put into words afterwards, so that both languages ask the same.
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
# A thing whose centre is nearer to the middle of the picture than this share of its side is on no side of it.
MIDDLE = 0.1


@dataclass(frozen=True)
class Fact:
    """Something to ask: a kind, a form of the wording, its slots, the answer and the boxes it stands on.

    Attributes:
        kind: what it is about.
        form: which templates of `wording.FORMS` ask it.
        answer: in English.
        shape: slot of the template.
        color: slot of the template.
        boxes_xyxy_px: [x0, x1) x [y0, y1) of the things it is about.
        frames: of each box, the frame of the clip or the number of the picture it lies in; zeros for one picture.
        things: of a description, the colours and shapes named.
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
    """A fact in words."""

    question: str
    answer: str
    language: Language
    fact: Fact

    @property
    def kind(self) -> str:
        """What it is about."""
        return self.fact.kind


def put_into_words(fact: Fact, language: Language, rng: np.random.Generator) -> Question:
    """Asks for a fact with one of the phrasings of its form."""
    text = wording.ask(language, fact.form, int(rng.integers(64)), fact.shape, fact.color)
    if fact.things:
        return Question(text, wording.description(language, list(fact.things)), language, fact)
    return Question(text, wording.answer(language, fact.answer), language, fact)


def scene_facts(scene: Scene, rng: np.random.Generator) -> list[Fact]:
    """All that is true of a scene and asked in the demo; `rng` chooses what to ask for in vain."""
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
    """Two that are there and two that are not, by shape alone and by colour and shape."""
    present = sorted({t.shape for t in things})
    absent = [shape for shape in SHAPES if shape not in present]
    for word, shapes in (("yes", present), ("no", absent)):
        if shapes:
            shape = str(rng.choice(shapes))
            yield _fact([t for t in things if t.shape == shape], "exist", word, shape)
    pairs = {(t.shape, t.color) for t in things}
    # The nearest misses: a shape that is there in another colour, or a colour on another shape.
    misses = [
        (shape, color)
        for shape in SHAPES
        for color in COLORS
        if (shape, color) not in pairs and (shape in present or color in {t.color for t in things})
    ]
    for word, among in (("yes", sorted(pairs)), ("no", misses)):
        shape, color = among[rng.integers(len(among))]
        found = [t for t in things if (t.shape, t.color) == (shape, color)]
        yield _fact(found, "exist", word, shape, color, "exist_colored")


def _counts(things: Sequence[Thing], rng: np.random.Generator) -> Iterator[Fact]:
    shapes = [t.shape for t in things]
    absent = [shape for shape in SHAPES if shape not in shapes]
    for shape in [*dict.fromkeys(shapes), *([str(rng.choice(absent))] if absent else [])]:
        found = [t for t in things if t.shape == shape]
        if len(found) <= MOST_COUNTED:
            yield _fact(found, "count", str(len(found)), shape)


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
    named = tuple((thing.color, thing.shape) for thing in ordered)
    boxes = tuple(thing.box_xyxy_px for thing in ordered)
    yield Fact("describe", "describe", "", boxes_xyxy_px=boxes, frames=(0,) * len(boxes), things=named)


def _center(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def pair_facts(pair: tuple[Scene, Scene]) -> list[Fact]:
    """In which of two pictures something is: shapes that one picture alone has, and pairs of shape and colour."""
    facts = []
    for index, word in enumerate(("first", "second")):
        mine, other = pair[index].things, pair[1 - index].things
        for shape in sorted({t.shape for t in mine} - {t.shape for t in other}):
            facts.append(_fact([t for t in mine if t.shape == shape], "which", word, shape, picture=index))
        for shape, color in sorted({(t.shape, t.color) for t in mine} - {(t.shape, t.color) for t in other}):
            found = [t for t in mine if (t.shape, t.color) == (shape, color)]
            facts.append(_fact(found, "which", word, shape, color, "which_colored", index))
    return facts


def clip_facts(clip: Clip, rng: np.random.Generator) -> list[Fact]:
    """What happens in a clip, in which third of it, and what is true of its things; `rng` picks what is not there."""
    actor, *others = clip.tracks
    facts = [*_event_facts(clip, actor)]
    for track in others:
        color = str(track.colors[0])
        facts += [
            _seen(track, "color", color, track.shape),
            _seen(track, "shape", track.shape, color=color),
            _seen(track, "exist", "yes", track.shape),
            _seen(track, "color_at_end", color, track.shape),
            _seen(track, "color_at_start", color, track.shape),
        ]
        if clip.event != "appear":
            facts.append(_seen(track, "when", "start", track.shape))
    absent = [shape for shape in SHAPES if shape not in {t.shape for t in clip.tracks}]
    return [*facts, Fact("exist", "exist", "no", str(rng.choice(absent)))]


def _event_facts(clip: Clip, actor: Track) -> Iterator[Fact]:
    if clip.event == "move":
        yield _seen(actor, "move_color", str(actor.colors[0]))
        yield _seen(actor, "move_shape", actor.shape)
    elif clip.event == "recolor":
        yield _seen(actor, "recolor", actor.shape)
        # The evidence is in the frames in which it has the colour that is the answer.
        for kind, color in (("color_at_end", actor.colors[-1]), ("color_at_start", actor.colors[0])):
            colored = [
                box if seen == color else None for box, seen in zip(actor.boxes_xyxy_px, actor.colors, strict=True)
            ]
            yield _seen(replace(actor, boxes_xyxy_px=tuple(colored)), kind, str(color), actor.shape)
    else:
        yield _seen(actor, clip.event, actor.shape)
    if clip.event == "appear":
        yield _seen(actor, "exist", "yes", actor.shape)
        third = 3 * clip.event_frame // len(clip.frames)
        yield _seen(actor, "when", ("start", "middle", "end")[third], actor.shape)


def _seen(track: Track, kind: str, answer: str, shape: str = "", color: str = "") -> Fact:
    seen = [(box, frame) for frame, box in enumerate(track.boxes_xyxy_px) if box is not None]
    return Fact(kind, kind, answer, shape, color, tuple(box for box, _ in seen), tuple(frame for _, frame in seen))
