"""One record of a data set, as it was written: its fields checked, no file opened. Pure.

What a record holds: `id`; one of `image` (a path), `images` (paths of one prompt) and `video` (a path); `question`;
`answer`, a text or a list of them; `boxes`, each four numbers, with `box_format` and `box_units`; of a video `frame`,
the number of each box's frame, and of several images `frame`, the number of each box's image, both from 0. Other fields
are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Box = tuple[float, float, float, float]

BOX_FORMATS = ("xyxy", "xywh", "cxcywh")
# What a coordinate is divided by to be a share of the picture's side; None for that side in pixels.
BOX_UNITS = {"px": None, "normalized": 1.0, "permille": 1000.0}
MEDIA = ("image", "images", "video")
MOST_FRAMES = 2**31


@dataclass(frozen=True)
class Row:
    """A record whose fields are sound.

    Attributes:
        place: where it stands, such as `line 3`.
        id: of the sample.
        media: which of `MEDIA`.
        paths: as they were written.
        question: None where a set of questions is to be asked.
        answers: accepted ones, or those of VQA's annotators; empty if there are none.
        boxes: xyxy, in the units they were written in.
        box_units: one of `BOX_UNITS`.
        frames: one a box: the number of its frame, or of its image.
    """

    place: str
    id: str
    media: str
    paths: tuple[str, ...]
    question: str | None
    answers: tuple[str, ...]
    boxes: tuple[Box, ...]
    box_units: str
    frames: tuple[int, ...]


class Faults:
    """Everything that is wrong with a data set, each with its place and field."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, place: str, field: str, message: str) -> None:
        """One more."""
        self.lines.append(f"{place}: {field}: {message}" if field else f"{place}: {message}")


def parse_row(value: Any, place: str, faults: Faults) -> Row | None:
    """A record's fields; None where any is wrong, and what is wrong goes to `faults`.

    Args:
        value: what stood there, read as JSON.
        place: where, such as `line 3`.
        faults: told everything.
    """
    before = len(faults.lines)
    if not isinstance(value, dict):
        faults.add(place, "", "not a JSON object")
        return None

    def fault(field: str, message: str) -> None:
        faults.add(place, field, message)

    media, paths = _media(value, fault)
    boxes = _boxes(value, fault)
    row = Row(
        place=place,
        id=_id(value, fault),
        media=media,
        paths=paths,
        question=_question(value, fault),
        answers=_answers(value, fault),
        boxes=boxes,
        box_units=value["box_units"] if boxes else "px",
        frames=_frames(value, media, len(paths), fault),
    )
    return row if len(faults.lines) == before else None


def _text(value: Any) -> bool:
    """Whether it is a text that is not empty, and Unicode: JSON may hold half a character."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= one <= "\udfff" for one in value)


def _id(value: Mapping[str, Any], fault: Any) -> str:
    found = value.get("id")
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not _text(found):
        fault("id", "missing" if found is None else "want a text that is not empty, or a whole number")
    return str(found)


def _media(value: Mapping[str, Any], fault: Any) -> tuple[str, tuple[str, ...]]:
    there = [name for name in MEDIA if value.get(name) is not None]
    if len(there) != 1:
        named = " and ".join(there) if there else "none"
        fault("image", f"want one of image, images and video, there is {named}")
        return "image", ()
    (name,) = there
    found = value[name]
    if name == "images":
        if not isinstance(found, list) or not found or not all(_text(path) for path in found):
            fault(name, "want a list of paths")
            return name, ()
        return name, tuple(found)
    if not _text(found):
        fault(name, "want a path")
        return name, ()
    return name, (found,)


def _question(value: Mapping[str, Any], fault: Any) -> str | None:
    found = value.get("question")
    if found is not None and not _text(found):
        fault("question", "want a text that is not empty")
        return None
    return found


def _answers(value: Mapping[str, Any], fault: Any) -> tuple[str, ...]:
    found = value.get("answer")
    if found is None:
        return ()
    several = found if isinstance(found, list) else [found]
    if not several or not all(_text(one) for one in several):
        fault("answer", "want a text that is not empty, or a list of them")
        return ()
    return tuple(several)


def _number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _boxes(value: Mapping[str, Any], fault: Any) -> tuple[Box, ...]:
    found = value.get("boxes")
    if found is None:
        return ()
    if not isinstance(found, list):
        fault("boxes", "want a list of boxes")
        return ()
    if not found:
        return ()
    form, units = value.get("box_format"), value.get("box_units")
    for field, typed, known in (("box_format", form, BOX_FORMATS), ("box_units", units, BOX_UNITS)):
        if not isinstance(typed, str) or typed not in known:
            said = "missing" if typed is None else f"{typed!r} is unknown"
            fault(field, f"{said}: want {', '.join(known)}")
    if not isinstance(form, str) or form not in BOX_FORMATS or not isinstance(units, str) or units not in BOX_UNITS:
        return ()
    boxes = []
    for i, box in enumerate(found):
        if not isinstance(box, list) or len(box) != 4 or not all(_number(one) for one in box):
            fault(f"boxes[{i}]", "want four finite numbers")
        else:
            boxes.append(_xyxy(box, form, f"boxes[{i}]", fault))
    return tuple(boxes)


def _xyxy(box: list[float], form: str, field: str, fault: Any) -> Box:
    a, b, c, d = (float(one) for one in box)
    if form == "xyxy":
        if c <= a:
            fault(field, f"x2 {c:g} is not right of x1 {a:g}")
        if d <= b:
            fault(field, f"y2 {d:g} is not below y1 {b:g}")
        return a, b, c, d
    for name, size in (("width", c), ("height", d)):
        if size <= 0:
            fault(field, f"{name} {size:g} is not positive")
    return (a, b, a + c, b + d) if form == "xywh" else (a - c / 2, b - d / 2, a + c / 2, b + d / 2)


def _frames(value: Mapping[str, Any], media: str, count: int, fault: Any) -> tuple[int, ...]:
    """One a box, whatever the boxes are worth."""
    found, boxes = value.get("frame"), value.get("boxes")
    boxed = len(boxes) if isinstance(boxes, list) else 0
    if media == "image":
        if found not in (None, []):
            fault("frame", "only of a video or of several images")
        return (0,) * boxed
    if not boxed:
        return ()
    several = [found] * boxed if isinstance(found, int) else found
    noun = "frame" if media == "video" else "image"
    if (
        not isinstance(several, list)
        or len(several) != boxed
        or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in several)
    ):
        fault("frame", f"want for each box the number of its {noun}, from 0")
        return ()
    beyond = [one for one in several if one >= (count if media == "images" else MOST_FRAMES)]
    if beyond:
        known = f"they are 0 to {count - 1}" if media == "images" else "no clip has so many"
        fault("frame", f"there is no {noun} {beyond[0]}: {known}")
    return tuple(several)
