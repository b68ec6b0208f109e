"""Records of a data set: the values of their fields, and the message of each fault."""

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


def valid_row(value):
    row, faults = parsed(value)
    assert faults == []
    return row


def faults_of(value):
    """Return all faults without their place, which each must name."""
    _, faults = parsed(value)
    assert faults
    assert all(line.startswith("line 3: ") for line in faults)
    return [line.removeprefix("line 3: ") for line in faults]


def without(field):
    return {name: value for name, value in {**BOXED, "boxes": [BOX]}.items() if name != field}


# Valid records.


def test_a_picture_and_its_question():
    row = valid_row({"id": "a", "image": "deep/a.png", "question": " Where? "})
    assert (row.place, row.id, row.media, row.paths) == ("line 3", "a", "image", ("deep/a.png",))
    assert row.question == " Where? "
    assert (row.answers, row.boxes, row.frames) == ((), (), ())


def test_several_pictures_and_a_clip():
    images_row, video_row = valid_row(SEVERAL), valid_row(CLIP)
    assert (images_row.media, images_row.paths) == ("images", ("a.png", "b.png"))
    assert (video_row.media, video_row.paths) == ("video", ("a.mp4",))


def test_a_question_may_be_left_out():
    assert valid_row({"id": "a", "image": "a.png"}).question is None
    assert valid_row({"id": "a", "image": "a.png", "question": None}).question is None


def test_a_whole_number_is_an_id():
    assert valid_row({**BOXED, "id": 0}).id == "0"


@pytest.mark.parametrize(
    ("answer", "answers"), [(None, ()), ("red", ("red",)), (["red", "red", "pink"], ("red", "red", "pink"))]
)
def test_answers(answer, answers):
    assert valid_row({**BOXED, "answer": answer}).answers == answers


@pytest.mark.parametrize("units", BOX_UNITS)
@pytest.mark.parametrize(("form", "box"), [("xyxy", [1, 2, 5, 8]), ("xywh", [1, 2, 4, 6]), ("cxcywh", [3, 5, 4, 6])])
def test_every_format_becomes_xyxy_in_its_own_units(form, box, units):
    row = valid_row({**BOXED, "boxes": [box, box], "box_format": form, "box_units": units})
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
        assert valid_row({**BOXED, "boxes": [box], "box_format": form}).boxes == ((x1, y1, x2, y2),)


@pytest.mark.parametrize("boxes", [None, []])
@pytest.mark.parametrize("value", [BOXED, CLIP, SEVERAL])
def test_no_boxes_want_neither_format_nor_units_nor_frame(value, boxes):
    row = valid_row({**value, "boxes": boxes, "box_format": None, "box_units": None})
    assert (row.boxes, row.frames) == ((), ())


@pytest.mark.parametrize("units", [None, "furlong"])
def test_a_sound_row_has_units_that_are_known(units):
    assert valid_row({**BOXED, "box_units": units}).box_units in BOX_UNITS


@pytest.mark.parametrize("frame", [None, []])
def test_boxes_of_one_picture_are_on_it(frame):
    assert valid_row({**BOXED, "boxes": [BOX, BOX], "frame": frame}).frames == (0, 0)


@pytest.mark.parametrize(("frame", "frames"), [([7, 0], (7, 0)), (7, (7, 7)), (0, (0, 0))])
def test_frames_of_a_clip_are_one_a_box_or_one_for_all(frame, frames):
    assert valid_row({**CLIP, "boxes": [BOX, BOX], "frame": frame}).frames == frames


@pytest.mark.parametrize(("frame", "frames"), [([1, 0], (1, 0)), (1, (1, 1))])
def test_of_several_pictures_the_frame_is_the_picture(frame, frames):
    assert valid_row({**SEVERAL, "boxes": [BOX, BOX], "frame": frame}).frames == frames


def test_meta_and_fields_of_ones_own_are_free():
    more = {"meta": {"image": 3}, "x_split": None, "x_": [[0]], "images": None}
    assert valid_row({**BOXED, "boxes": [BOX], **more}) == valid_row({**BOXED, "boxes": [BOX]})


# Faults.


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("awnser", "answer"),
        ("answers", "answer"),
        ("bbox", "boxes"),
        ("Boxes", "boxes"),
        ("img", "image"),
        ("image_path", "image"),
        ("box_unit", "box_units"),
        ("frames", "frame"),
        ("Question", "question"),
    ],
)
def test_an_unknown_field_is_a_fault_that_names_the_nearest(name, near):
    want = f"{name}: unknown field: did you mean {near}? (meta and x_... are free)"
    assert faults_of({**BOXED, name: None}) == [want]


@pytest.mark.parametrize("name", ["split", "label", "", "X_a", "a\nb", "\ud800", "y" * 10_000])
def test_an_unknown_field_without_a_near_one_is_told_all(name):
    (line,) = faults_of({**BOXED, name: 1})
    assert line.endswith(
        "unknown field: want id, image, images, video, question, answer, boxes, box_format, box_units, frame "
        "(meta and x_... are free)"
    )
    assert line.isprintable()
    assert len(line) < 250


@pytest.mark.parametrize("mark", ["<image>", "<video>"])
def test_a_placeholder_for_a_picture_is_a_fault_and_not_asked(mark):
    (line,) = faults_of({**BOXED, "question": f"{mark}\nhow many cats?"})
    assert line.startswith(f"question: contains {mark}: leave it out; ")
    assert valid_row({**BOXED, "question": "what is an image?"})


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "a.png", [], [BOXED]])
def test_values_that_are_not_objects(value):
    assert faults_of(value) == ["not a JSON object"]


@pytest.mark.parametrize("value", [without("id"), {**BOXED, "id": None}])
def test_a_missing_id(value):
    assert faults_of(value) == ["id: missing"]


@pytest.mark.parametrize("value", ["", " \n", True, False, 1.0, math.nan, ["a"], {"a": 1}])
def test_values_that_are_not_ids(value):
    assert faults_of({**BOXED, "id": value}) == ["id: want a non-empty string or a whole number"]


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
def test_a_record_has_one_kind_of_media(fields, named):
    want = f"image: want one of image, images and video; there is {named}"
    assert faults_of({"id": "a", "question": "?", **fields}) == [want]


@pytest.mark.parametrize("name", ["image", "video"])
@pytest.mark.parametrize("path", ["", " ", 3, True, ["a.png"], {"bytes": "", "path": "a.png"}])
def test_values_that_are_not_paths(name, path):
    assert faults_of({"id": "a", "question": "?", name: path}) == [f"{name}: want a path"]


@pytest.mark.parametrize("paths", ["a.png", [], [""], ["a.png", None], ["a.png", 3], {"a.png": 1}])
def test_values_that_are_not_lists_of_paths(paths):
    assert faults_of({"id": "a", "question": "?", "images": paths}) == ["images: want a list of paths"]


@pytest.mark.parametrize("question", ["", " \t", 3, False, ["Where?"], {"en": "Where?"}])
def test_values_that_are_not_questions(question):
    assert faults_of({**BOXED, "question": question}) == ["question: want a non-empty string"]


@pytest.mark.parametrize("answer", ["", "  ", 3, True, [], ["red", ""], ["red", 3], [["red"]], {"a": "red"}])
def test_values_that_are_not_answers(answer):
    assert faults_of({**BOXED, "answer": answer}) == ["answer: want a non-empty string or a list of them"]


def test_boxes_say_their_format():
    assert faults_of(without("box_format")) == ["box_format: missing: want xyxy, xywh, cxcywh"]


def test_boxes_say_their_units():
    assert faults_of(without("box_units")) == ["box_units: missing: want px, normalized, permille"]


@pytest.mark.parametrize("field", ["box_format", "box_units"])
@pytest.mark.parametrize("typed", ["", "XYXY", "pixels", 3, True, "px\x1b[31m"])
def test_an_unknown_format_or_unit_is_named(field, typed):
    (line,) = faults_of({**BOXED, "boxes": [BOX], field: typed})
    assert line.startswith(f"{field}: {typed!r} is unknown: want ")
    assert line.isprintable()


@pytest.mark.parametrize("typed", [[], ["px"], {}, {"px": 1}])
@pytest.mark.parametrize("field", ["box_format", "box_units"])
def test_a_format_or_unit_is_a_text(field, typed):
    (line,) = faults_of({**BOXED, "boxes": [BOX], field: typed})
    assert line.startswith(f"{field}: {typed!r} is unknown: want ")


@pytest.mark.parametrize("boxes", [3, "1,2,3,4", {"x": 1}, True])
def test_values_that_are_not_lists_of_boxes(boxes):
    assert faults_of({**BOXED, "boxes": boxes}) == ["boxes: want a list of boxes"]


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
def test_values_that_are_not_boxes(form, box):
    right = [1, 1, 2, 2]
    assert faults_of({**BOXED, "box_format": form, "boxes": [right, box]}) == ["boxes[1]: want four finite numbers"]


def test_four_numbers_that_do_not_stand_in_a_list():
    assert faults_of({**BOXED, "boxes": BOX}) == [f"boxes[{i}]: want four finite numbers" for i in range(4)]


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
    assert faults_of({**BOXED, "boxes": [box]}) == [f"boxes[0]: {fault}" for fault in faults]


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
    assert faults_of({**BOXED, "box_format": form, "boxes": [box]}) == [f"boxes[0]: {fault}" for fault in faults]


@pytest.mark.parametrize(("value", "noun"), [(CLIP, "frame"), (SEVERAL, "image")])
@pytest.mark.parametrize(
    "frame", [None, [], [0], [0, 0, 0], [0, -1], -1, [0, 1.0], 0.0, "0", ["0", "0"], [0, True], True, [None, 0], {}]
)
def test_each_box_says_where_it_is(value, noun, frame):
    want = f"frame: want one {noun} number for each box, counted from 0"
    assert faults_of({**value, "boxes": [BOX, BOX], "frame": frame}) == [want]


@pytest.mark.parametrize("frame", [2, [0, 2], [2, 3]])
def test_a_picture_beyond_the_last(frame):
    want = "frame: image 2 does not exist: want 0 to 1"
    assert faults_of({**SEVERAL, "boxes": [BOX, BOX], "frame": frame}) == [want]


@pytest.mark.parametrize("frame", [0, 3, [0], "0", False])
def test_one_picture_has_no_frames(frame):
    assert faults_of({**BOXED, "boxes": [BOX], "frame": frame}) == ["frame: only for a video or several images"]


@pytest.mark.parametrize("value", [CLIP, SEVERAL])
def test_a_faulty_box_does_not_make_the_frames_wrong(value):
    assert faults_of({**value, "boxes": [BOX, ["x"]], "frame": [0, 1]}) == ["boxes[1]: want four finite numbers"]


def test_frames_are_checked_even_if_the_boxes_are_faulty():
    for boxes, fault in (([BOX], "box_units: missing"), ([["x"]], "boxes[0]: want four finite numbers")):
        units = None if boxes == [BOX] else "px"
        first, second = faults_of({**CLIP, "boxes": boxes, "box_units": units, "frame": [0, 1]})
        assert first.startswith(fault)
        assert second == "frame: want one frame number for each box, counted from 0"


def test_all_faults_of_a_row_are_reported():
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
    fields = [line.split(": ")[0] for line in faults_of(value)]
    assert sorted(fields) == ["answer", "boxes[0]", "boxes[1]", "id", "image", "question"]
    both = faults_of({**value, "box_format": "yolo", "box_units": None})
    assert [line.split(":")[0] for line in both if line.startswith("box")] == ["box_format", "box_units"]


def test_faults_of_rows_before_do_not_spoil_a_row():
    faults = Faults()
    assert parse_row({}, "line 1", faults).paths == ()
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
def test_any_value_is_a_row_or_has_faults(value):
    row, faults = parsed(value)
    assert row or faults
    assert all(line.startswith("line 3: ") for line in faults)
    if not faults:
        assert row.id.strip()
        assert row.paths
        assert all(path.strip() for path in (*row.paths, *row.answers))
        assert row.question is None or row.question.strip()
        assert len(row.frames) == len(row.boxes)
        assert None not in row.boxes
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
    row = valid_row({**value, "boxes": boxes, "box_format": form, "box_units": units, **more})
    assert row.frames == (0 if value is BOXED else frame,) * len(boxes)
    assert all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in row.boxes)
