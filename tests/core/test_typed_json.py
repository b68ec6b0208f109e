"""JSON values as typed values: what fits is returned, and what does not is named by its place, in one line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import pytest

from qvl_attn.core.errors import InputError
from qvl_attn.core.typed_json import Count, Finite, LayerOrHead, Number, decoded, parse_json


@dataclass(frozen=True)
class Box:
    width_px: Count
    height_px: Count

    def __post_init__(self) -> None:
        if not self.width_px:
            raise ValueError("width_px: want 1 or more")
        if self.height_px == 7:
            raise InputError("`height_px=7`: unlucky", "choose another")


class Row(TypedDict):
    id: str
    area: Number
    pairs: tuple[tuple[LayerOrHead, LayerOrHead], ...]
    box: NotRequired[Box]
    figures: NotRequired[dict[str, list[Number]]]
    ready: NotRequired[bool]
    seconds: NotRequired[Finite]
    any: NotRequired[dict[str, Any]]


ROW = {"id": "a", "area": None, "pairs": [[1, 2]]}


def test_a_value_that_fits_is_returned_without_what_the_type_does_not_know():
    row = decoded({**ROW, "area": 1, "box": {"width_px": 2, "height_px": 3}, "new": [1]}, Row, "row")
    assert row == {"id": "a", "area": 1.0, "pairs": ((1, 2),), "box": Box(2, 3)}
    assert isinstance(row["area"], float)
    kept = {"id": "\ud800", "any": {"b": [1, {"c": None}]}}
    assert decoded({**ROW, **kept}, Row, "row").items() >= kept.items()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 7}, "row.id: expected str, got int"),
        ({"id": None}, "row.id: expected str, got null"),
        ({"area": True}, "row.area: expected float | null, got bool"),
        ({"area": float("nan")}, "row.area: expected float >= -1e+100"),
        ({"area": float("inf")}, "row.area: expected float <= 1e+100"),
        ({"area": 10**400}, "row.area: number out of range"),
        ({"pairs": [[1]]}, "row.pairs[0]: expected array of length 2, got 1"),
        ({"pairs": [[1, 2.0]]}, "row.pairs[0][1]: expected int, got float"),
        ({"pairs": [[1, True]]}, "row.pairs[0][1]: expected int, got bool"),
        ({"pairs": [[1, -1]]}, "row.pairs[0][1]: expected int >= 0"),
        ({"pairs": [[10**40, 1]]}, "row.pairs[0][0]: expected int <= 65536"),
        ({"box": {"width_px": 1}}, "row.box: object missing required field height_px"),
        ({"box": {"width_px": 0, "height_px": 1}}, "row.box: width_px: want 1 or more"),
        ({"box": {"width_px": 1, "height_px": 7}}, "row: `height_px=7`: unlucky"),
        ({"box": [1, 2]}, "row.box: expected object, got array"),
        ({"figures": {"a": [1, "x"]}}, "row.figures[...][1]: expected float | null, got str"),
        ({"ready": 1}, "row.ready: expected bool, got int"),
        ({"seconds": None}, "row.seconds: expected float, got null"),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_place(change, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        decoded({**ROW, **change}, Row, "row")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("value", "message"), [([], "row: expected object, got array"), ({}, "row: object missing required field id")]
)
def test_a_value_that_is_no_row_at_all(value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        decoded(value, Row, "row")


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "-1e999", "[1", "", b"\xff", "01"])
def test_a_text_that_is_no_json_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_a_text_of_json_is_parsed_with_lone_surrogates():
    value = {"a": [1, 2.5, None, True, "猫", "\ud800"]}
    assert parse_json(json.dumps(value)) == value
