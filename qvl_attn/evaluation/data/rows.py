"""One record of a data set: its fields are checked, no file is opened. Pure.

A record has `id`; one of `image` (a path), `images` (the paths of one prompt) and `video` (a path); `question`;
`answer`, a string or a list of strings; `boxes`, each four numbers, with `box_format` and `box_units`. `frame` is the
frame number of each box of a video, or the image number of each box of several images, counted from 0. `meta` and
fields whose names begin with `x_` are free and not read; any other field is a fault: it may be a misspelt one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from qvl_attn.core.text import placeholder, shortened

Box = tuple[float, float, float, float]

BOX_FORMATS = ("xyxy", "xywh", "cxcywh")
# The number that a coordinate is divided by to give a share of the picture's side; None for pixels.
BOX_UNITS = {"px": None, "normalized": 1.0, "permille": 1000.0}
MEDIA = ("image", "images", "video")
FIELDS = ("id", *MEDIA, "question", "answer", "boxes", "box_format", "box_units", "frame")
FREE_FIELD, FREE_PREFIX = "meta", "x_"
MAX_FRAMES = 2**31


@dataclass(frozen=True)
class Row:
    """The fields of a record. A field with a fault is empty, so that the others can still be checked.

    Attributes:
        place: the position in the data set, such as `line 3`.
        id: the id of the sample; empty if it has a fault.
        media: one of `MEDIA`; empty if the record names none or several.
        paths: the paths as the record spells them; empty if they have a fault.
        question: the question; None if a question set supplies it.
        answers: the accepted answers, or those of VQA's annotators; empty if there are none.
        boxes: xyxy in `box_units`; None for a box with a fault.
        box_units: one of `BOX_UNITS`.
        frames: for each box the number of its frame or image; empty if they have a fault.
    """

    place: str
    id: str
    media: str
    paths: tuple[str, ...]
    question: str | None
    answers: tuple[str, ...]
    boxes: tuple[Box | None, ...]
    box_units: str
    frames: tuple[int, ...]


class Faults:
    """All faults of a data set, each with its place and field."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, place: str, field: str, message: str) -> None:
        """Add a fault."""
        self.lines.append(f"{place}: {field}: {message}" if field else f"{place}: {message}")


def parse_row(value: Any, place: str, faults: Faults) -> Row | None:
    """Return the fields of a record, those with a fault empty, or None if it is not an object.

    Args:
        value: the JSON value of the record.
        place: its position in the data set, such as `line 3`.
        faults: every fault is added to it.
    """
    if not isinstance(value, dict):
        faults.add(place, "", "not a JSON object")
        return None

    def fault(field: str, message: str) -> None:
        faults.add(place, field, message)

    for field, message in unknown_fields(value, FIELDS):
        fault(field, message)
    media, paths = _media(value, fault)
    boxes = _boxes(value, fault)
    return Row(
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


def unknown_fields(value: Mapping[str, Any], known: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the name of each field that is neither known nor free, and what is wrong with it.

    Args:
        value: a JSON object.
        known: the names of its fields.
    """
    for name in value:
        if name not in known and name != FREE_FIELD and not name.startswith(FREE_PREFIX):
            close = get_close_matches(name.lower()[:40], known, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"want {', '.join(known)}"
            shown = name if name.isidentifier() else repr(name)
            yield shortened(shown), f"unknown field: {remedy} ({FREE_FIELD} and {FREE_PREFIX}... are free)"


def _text(value: Any) -> bool:
    """Whether a value is a non-empty string without lone surrogates, which JSON allows."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)


def _id(value: Mapping[str, Any], fault: Any) -> str:
    sample_id = value.get("id")
    if isinstance(sample_id, int) and not isinstance(sample_id, bool):
        return str(sample_id)
    if not _text(sample_id):
        fault("id", "missing" if sample_id is None else "want a non-empty string or a whole number")
        return ""
    return str(sample_id)


def _media(value: Mapping[str, Any], fault: Any) -> tuple[str, tuple[str, ...]]:
    names = [name for name in MEDIA if value.get(name) is not None]
    if len(names) != 1:
        fault("image", f"want one of image, images and video; there is {' and '.join(names) if names else 'none'}")
        return "", ()
    (name,) = names
    paths = value[name]
    if name == "images":
        if not isinstance(paths, list) or not paths or not all(_text(path) for path in paths):
            fault(name, "want a list of paths")
            return name, ()
        return name, tuple(paths)
    if not _text(paths):
        fault(name, "want a path")
        return name, ()
    return name, (paths,)


def _question(value: Mapping[str, Any], fault: Any) -> str | None:
    question = value.get("question")
    if question is None:
        return None
    if not _text(question):
        fault("question", "want a non-empty string")
        return ""
    if mark := placeholder(question):
        fault("question", f"contains {mark}: leave it out; the pictures come before the question, in their order")
    return str(question)


def _answers(value: Mapping[str, Any], fault: Any) -> tuple[str, ...]:
    answer = value.get("answer")
    if answer is None:
        return ()
    answers = answer if isinstance(answer, list) else [answer]
    if not answers or not all(_text(text) for text in answers):
        fault("answer", "want a non-empty string or a list of them")
        return ()
    return tuple(answers)


def _number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def _boxes(value: Mapping[str, Any], fault: Any) -> tuple[Box | None, ...]:
    values = value.get("boxes")
    if values is None:
        return ()
    if not isinstance(values, list):
        fault("boxes", "want a list of boxes")
        return ()
    if not values:
        return ()
    box_format, units = value.get("box_format"), value.get("box_units")
    for field, typed, known in (("box_format", box_format, BOX_FORMATS), ("box_units", units, BOX_UNITS)):
        if not isinstance(typed, str) or typed not in known:
            reason = "missing" if typed is None else f"{typed!r} is unknown"
            fault(field, f"{reason}: want {', '.join(known)}")
    if not isinstance(box_format, str) or box_format not in BOX_FORMATS:
        return ()
    if not isinstance(units, str) or units not in BOX_UNITS:
        return ()
    return tuple(_box(box, box_format, f"boxes[{i}]", fault) for i, box in enumerate(values))


def _box(box: Any, box_format: str, field: str, fault: Any) -> Box | None:
    if not isinstance(box, list) or len(box) != 4 or not all(_number(number) for number in box):
        fault(field, "want four finite numbers")
        return None
    a, b, c, d = (float(number) for number in box)
    if box_format == "xyxy":
        faults = [f"x2 {c:g} is not right of x1 {a:g}"] * (c <= a) + [f"y2 {d:g} is not below y1 {b:g}"] * (d <= b)
    else:
        faults = [f"{name} {size:g} is not positive" for name, size in (("width", c), ("height", d)) if size <= 0]
    for message in faults:
        fault(field, message)
    if faults:
        return None
    if box_format == "xyxy":
        return a, b, c, d
    return (a, b, a + c, b + d) if box_format == "xywh" else (a - c / 2, b - d / 2, a + c / 2, b + d / 2)


def _frames(value: Mapping[str, Any], media: str, count: int, fault: Any) -> tuple[int, ...]:
    """Return one number for each box, even if the boxes themselves are invalid."""
    if not media:
        return ()
    frame, boxes = value.get("frame"), value.get("boxes")
    box_count = len(boxes) if isinstance(boxes, list) else 0
    if media == "image":
        if frame not in (None, []):
            fault("frame", "only for a video or several images")
        return (0,) * box_count
    if not box_count:
        return ()
    frames = [frame] * box_count if isinstance(frame, int) else frame
    noun = "frame" if media == "video" else "image"
    if (
        not isinstance(frames, list)
        or len(frames) != box_count
        or not all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in frames)
    ):
        fault("frame", f"want one {noun} number for each box, counted from 0")
        return ()
    beyond = [number for number in frames if number >= (count if media == "images" else MAX_FRAMES)]
    if beyond:
        known = f"want 0 to {count - 1}" if media == "images" else "no clip has that many frames"
        fault("frame", f"{noun} {beyond[0]} does not exist: {known}")
        return ()
    return tuple(frames)
