"""Records of a data set: what is read from each field, and the line that names each fault."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qvl_attn.evaluation.data.rows import BOX_FORMATS, BOX_UNITS, Faults, parse_row

BOXED = {"id": "a", "image": "a.png", "question": "Where?", "box_format": "xyxy", "box_units": "px"}
CLIP = {**BOXED, "image": None, "video": "a.mp4"}
SEVERAL = {**BOXED, "image": None, "images": ["a.png", "b.png"]}
BOX = [1, 2, 5, 8]


def parsed(value):
    faults = Faults()
    return parse_row(value, "line 3", faults), faults.lines


def sound(value):
    row, faults = parsed(value)
    assert faults == []
    return row


def told(value):
    """Everything that is wrong, without the place, which all of it must name."""
    row, faults = parsed(value)
    assert row is None
    assert faults
    assert all(line.startswith("line 3: ") for line in faults)
    return [line.removeprefix("line 3: ") for line in faults]


def without(field):
    return {name: value for name, value in {**BOXED, "boxes": [BOX]}.items() if name != field}


# What is read.


def test_a_picture_and_its_question():
    row = sound({"id": "a", "image": "deep/a.png", "question": " Where? "})
    assert (row.place, row.id, row.media, row.paths) == ("line 3", "a", "image", ("deep/a.png",))
    assert row.question == " Where? "
    assert (row.answers, row.boxes, row.frames) == ((), (), ())


def test_several_pictures_and_a_clip():
    several, clip = sound(SEVERAL), sound(CLIP)
    assert (several.media, several.paths) == ("images", ("a.png", "b.png"))
    assert (clip.media, clip.paths) == ("video", ("a.mp4",))


def test_a_question_may_be_left_out():
    assert sound({"id": "a", "image": "a.png"}).question is None
    assert sound({"id": "a", "image": "a.png", "question": None}).question is None


def test_a_whole_number_is_an_id():
    assert sound({**BOXED, "id": 0}).id == "0"


@pytest.mark.parametrize(
    ("answer", "answers"), [(None, ()), ("red", ("red",)), (["red", "red", "pink"], ("red", "red", "pink"))]
)
def test_answers(answer, answers):
    assert sound({**BOXED, "answer": answer}).answers == answers


@pytest.mark.parametrize("units", BOX_UNITS)
@pytest.mark.parametrize(("form", "box"), [("xyxy", [1, 2, 5, 8]), ("xywh", [1, 2, 4, 6]), ("cxcywh", [3, 5, 4, 6])])
def test_every_format_becomes_xyxy_in_its_own_units(form, box, units):
    row = sound({**BOXED, "boxes": [box, box], "box_format": form, "box_units": units})
    assert row.boxes == ((1, 2, 5, 8),) * 2
    assert all(type(value) is float for value in row.boxes[0])
    assert row.box_units == units


@given(st.lists(st.integers(-4000, 4000).map(lambda n: n / 4), min_size=4, max_size=4).map(sorted))
def test_the_formats_agree(values):
    x1, y1, x2, y2 = values[0], values[1], values[2] + 1, values[3] + 1
    w, h = x2 - x1, y2 - y1
    typed = {"xyxy": [x1, y1, x2, y2], "xywh": [x1, y1, w, h], "cxcywh": [x1 + w / 2, y1 + h / 2, w, h]}
    assert set(typed) == set(BOX_FORMATS)
    for form, box in typed.items():
        assert sound({**BOXED, "boxes": [box], "box_format": form}).boxes == ((x1, y1, x2, y2),)


@pytest.mark.parametrize("boxes", [None, []])
@pytest.mark.parametrize("value", [BOXED, CLIP, SEVERAL])
def test_no_boxes_want_neither_format_nor_units_nor_frame(value, boxes):
    row = sound({**value, "boxes": boxes, "box_format": None, "box_units": None})
    assert (row.boxes, row.frames) == ((), ())


@pytest.mark.parametrize("units", [None, "furlong"])
def test_a_sound_row_has_units_that_are_known(units):
    assert sound({**BOXED, "box_units": units}).box_units in BOX_UNITS


@pytest.mark.parametrize("frame", [None, []])
def test_boxes_of_one_picture_are_on_it(frame):
    assert sound({**BOXED, "boxes": [BOX, BOX], "frame": frame}).frames == (0, 0)


@pytest.mark.parametrize(("frame", "frames"), [([7, 0], (7, 0)), (7, (7, 7)), (0, (0, 0))])
def test_frames_of_a_clip_are_one_a_box_or_one_for_all(frame, frames):
    assert sound({**CLIP, "boxes": [BOX, BOX], "frame": frame}).frames == frames


@pytest.mark.parametrize(("frame", "frames"), [([1, 0], (1, 0)), (1, (1, 1))])
def test_of_several_pictures_the_frame_is_the_picture(frame, frames):
    assert sound({**SEVERAL, "boxes": [BOX, BOX], "frame": frame}).frames == frames


def test_other_fields_are_left_alone():
    more = {"split": None, "Boxes": "x", "bbox": [[0]], "nested": {"image": 3}, "images": None, "": math.nan}
    assert sound({**BOXED, "boxes": [BOX], **more}) == sound({**BOXED, "boxes": [BOX]})


# What is wrong.


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "a.png", [], [BOXED]])
def test_what_is_no_object(value):
    assert told(value) == ["not a JSON object"]


@pytest.mark.parametrize("value", [without("id"), {**BOXED, "id": None}])
def test_a_missing_id(value):
    assert told(value) == ["id: missing"]


@pytest.mark.parametrize("value", ["", " \n", True, False, 1.0, math.nan, ["a"], {"a": 1}])
def test_what_is_no_id(value):
    assert told({**BOXED, "id": value}) == ["id: want a text that is not empty, or a whole number"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "none"),
        ({"image": None}, "none"),
        ({"image": "a.png", "video": "a.mp4"}, "image and video"),
        ({"image": "a.png", "images": ["b.png"]}, "image and images"),
        ({"image": 0, "images": [], "video": ""}, "image and images and video"),
    ],
)
def test_one_thing_is_shown(fields, named):
    wanted = f"image: want one of image, images and video, there is {named}"
    assert told({"id": "a", "question": "?", **fields}) == [wanted]


@pytest.mark.parametrize("name", ["image", "video"])
@pytest.mark.parametrize("path", ["", " ", 3, True, ["a.png"], {"bytes": "", "path": "a.png"}])
def test_what_is_no_path(name, path):
    assert told({"id": "a", "question": "?", name: path}) == [f"{name}: want a path"]


@pytest.mark.parametrize("paths", ["a.png", [], [""], ["a.png", None], ["a.png", 3], {"a.png": 1}])
def test_what_is_no_list_of_paths(paths):
    assert told({"id": "a", "question": "?", "images": paths}) == ["images: want a list of paths"]


@pytest.mark.parametrize("question", ["", " \t", 3, False, ["Where?"], {"en": "Where?"}])
def test_what_is_no_question(question):
    assert told({**BOXED, "question": question}) == ["question: want a text that is not empty"]


@pytest.mark.parametrize("answer", ["", "  ", 3, True, [], ["red", ""], ["red", 3], [["red"]], {"a": "red"}])
def test_what_is_no_answer(answer):
    assert told({**BOXED, "answer": answer}) == ["answer: want a text that is not empty, or a list of them"]


def test_boxes_say_their_format():
    assert told(without("box_format")) == ["box_format: missing: want xyxy, xywh, cxcywh"]


def test_boxes_say_their_units():
    assert told(without("box_units")) == ["box_units: missing: want px, normalized, permille"]


@pytest.mark.parametrize("field", ["box_format", "box_units"])
@pytest.mark.parametrize("typed", ["", "XYXY", "pixels", 3, True, "px\x1b[31m"])
def test_an_unknown_format_or_unit_is_named(field, typed):
    (line,) = told({**BOXED, "boxes": [BOX], field: typed})
    assert line.startswith(f"{field}: {typed!r} is unknown: want ")
    assert line.isprintable()


@pytest.mark.parametrize("typed", [[], ["px"], {}, {"px": 1}])
@pytest.mark.parametrize("field", ["box_format", "box_units"])
def test_a_format_or_unit_is_a_text(field, typed):
    (line,) = told({**BOXED, "boxes": [BOX], field: typed})
    assert line.startswith(f"{field}: {typed!r} is unknown: want ")


@pytest.mark.parametrize("boxes", [3, "1,2,3,4", {"x": 1}, True])
def test_what_is_no_list_of_boxes(boxes):
    assert told({**BOXED, "boxes": boxes}) == ["boxes: want a list of boxes"]


@pytest.mark.parametrize(
    "box",
    [
        None,
        3,
        [],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 5, "8"],
        [1, 2, 5, None],
        [False, False, True, True],
        [1, 2, 5, True],
        [[1, 2, 5, 8]],
        {"x": 1, "y": 2, "w": 3, "h": 4},
        *(json.loads(f"[1, 2, 5, {word}]") for word in ("NaN", "Infinity", "-Infinity", "1e999")),
        pytest.param([1, 2, 5, 10**400], id="beyond floats"),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", BOX_FORMATS)
def test_what_is_no_box(form, box):
    right = [1, 1, 2, 2]
    assert told({**BOXED, "box_format": form, "boxes": [right, box]}) == ["boxes[1]: want four finite numbers"]


def test_four_numbers_that_do_not_stand_in_a_list():
    assert told({**BOXED, "boxes": BOX}) == [f"boxes[{i}]: want four finite numbers" for i in range(4)]


@pytest.mark.parametrize(
    ("box", "faults"),
    [
        ([5, 2, 1, 8], ["x2 1 is not right of x1 5"]),
        ([5, 2, 5, 8], ["x2 5 is not right of x1 5"]),
        ([1, 8, 5, 2.5], ["y2 2.5 is not below y1 8"]),
        ([1, 8, 5, 8], ["y2 8 is not below y1 8"]),
        ([5, 8, 1, 2], ["x2 1 is not right of x1 5", "y2 2 is not below y1 8"]),
    ],
)
def test_corners_that_are_swapped(box, faults):
    assert told({**BOXED, "boxes": [box]}) == [f"boxes[0]: {fault}" for fault in faults]


@pytest.mark.parametrize("form", ["xywh", "cxcywh"])
@pytest.mark.parametrize(
    ("box", "faults"),
    [
        ([1, 2, -4, 6], ["width -4 is not positive"]),
        ([1, 2, 0, 6], ["width 0 is not positive"]),
        ([1, 2, 4, -0.5], ["height -0.5 is not positive"]),
        ([9, 9, 0, 0], ["width 0 is not positive", "height 0 is not positive"]),
    ],
)
def test_sides_that_are_not_positive(form, box, faults):
    assert told({**BOXED, "box_format": form, "boxes": [box]}) == [f"boxes[0]: {fault}" for fault in faults]


@pytest.mark.parametrize(("value", "noun"), [(CLIP, "frame"), (SEVERAL, "image")])
@pytest.mark.parametrize(
    "frame", [None, [], [0], [0, 0, 0], [0, -1], -1, [0, 1.0], 0.0, "0", ["0", "0"], [0, True], True, [None, 0], {}]
)
def test_each_box_says_where_it_is(value, noun, frame):
    wanted = f"frame: want for each box the number of its {noun}, from 0"
    assert told({**value, "boxes": [BOX, BOX], "frame": frame}) == [wanted]


@pytest.mark.parametrize("frame", [2, [0, 2], [2, 3]])
def test_a_picture_beyond_the_last(frame):
    wanted = "frame: there is no image 2: they are 0 to 1"
    assert told({**SEVERAL, "boxes": [BOX, BOX], "frame": frame}) == [wanted]


@pytest.mark.parametrize("frame", [0, 3, [0], "0", False])
def test_one_picture_has_no_frames(frame):
    assert told({**BOXED, "boxes": [BOX], "frame": frame}) == ["frame: only of a video or of several images"]


@pytest.mark.parametrize("value", [CLIP, SEVERAL])
def test_a_faulty_box_does_not_make_the_frames_wrong(value):
    assert told({**value, "boxes": [BOX, ["x"]], "frame": [0, 1]}) == ["boxes[1]: want four finite numbers"]


def test_frames_are_looked_at_whatever_the_boxes_are_worth():
    for boxes, fault in (([BOX], "box_units: missing"), ([["x"]], "boxes[0]: want four finite numbers")):
        units = None if boxes == [BOX] else "px"
        first, second = told({**CLIP, "boxes": boxes, "box_units": units, "frame": [0, 1]})
        assert first.startswith(fault)
        assert second == "frame: want for each box the number of its frame, from 0"


def test_all_faults_of_a_row_are_told():
    value = {
        "id": "",
        "image": "a.png",
        "video": "a.mp4",
        "question": 3,
        "answer": [],
        "boxes": [[5, 2, 1, 8], [1, 2], BOX],
        "box_format": "xyxy",
        "box_units": "px",
        "frame": 3,
    }
    fields = [line.split(": ")[0] for line in told(value)]
    assert sorted(fields) == ["answer", "boxes[0]", "boxes[1]", "frame", "id", "image", "question"]
    both = told({**value, "box_format": "yolo", "box_units": None})
    assert [line.split(":")[0] for line in both if line.startswith("box")] == ["box_format", "box_units"]


def test_faults_of_rows_before_do_not_spoil_a_row():
    faults = Faults()
    assert parse_row({}, "line 1", faults) is None
    before = list(faults.lines)
    assert parse_row(BOXED, "line 2", faults).id == "a"
    assert faults.lines == before
    assert {line.split(":")[0] for line in before} == {"line 1"}


numbers = st.integers(-2, 9) | st.floats() | st.just(10**400)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=3)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)
boxes = st.lists(st.lists(numbers, min_size=4, max_size=4), max_size=3)
rows = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text() | anything,
        "image": st.just("a.png") | anything,
        "images": st.lists(st.text(max_size=2), max_size=3) | anything,
        "video": st.just("a.mp4") | anything,
        "question": st.just("Where?") | anything,
        "answer": st.lists(st.text(max_size=2), max_size=3) | anything,
        "boxes": boxes | anything,
        "box_format": st.sampled_from(BOX_FORMATS) | anything,
        "box_units": st.sampled_from(list(BOX_UNITS)) | anything,
        "frame": st.lists(st.integers(-1, 3), max_size=3) | anything,
    },
)


@example({**BOXED, "boxes": [BOX], "box_units": []})
@example({**BOXED, "boxes": [[1, 2, 3, 10**400]]})
@given(rows | anything)
def test_whatever_stands_there_is_a_row_or_told(value):
    row, faults = parsed(value)
    assert (row is None) == bool(faults)
    assert all(line.startswith("line 3: ") for line in faults)
    if row:
        assert row.id.strip()
        assert row.paths
        assert all(path.strip() for path in (*row.paths, *row.answers))
        assert row.question is None or row.question.strip()
        assert len(row.frames) == len(row.boxes)
        assert all(frame >= 0 for frame in row.frames)


@given(
    st.sampled_from([BOXED, CLIP, SEVERAL]),
    st.sampled_from(BOX_FORMATS),
    st.sampled_from(list(BOX_UNITS)),
    st.lists(st.lists(st.integers(1, 9) | st.floats(0.25, 99), min_size=4, max_size=4), min_size=1, max_size=4),
    st.integers(0, 1),
)
def test_a_sound_row_has_a_frame_and_an_area_for_each_box(value, form, units, boxes, frame):
    if form == "xyxy":
        boxes = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    more = {} if value is BOXED else {"frame": frame}
    row = sound({**value, "boxes": boxes, "box_format": form, "box_units": units, **more})
    assert row.frames == (0 if value is BOXED else frame,) * len(boxes)
    assert all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in row.boxes)
