"""Scores as lines and back: only digits after the sixth are lost, and invalid rows are reported by line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_attn.attribution.grounding import GROUNDING, PATTERNS
from qvl_attn.core.errors import StoreError
from qvl_attn.core.typed_json import decoded
from qvl_attn.evaluation.figures import CONTROLS, FIGURES, HEAD_FIGURES
from qvl_attn.evaluation.rows import ScoredRow, read_scores, score_of, score_row
from qvl_attn.evaluation.score import Score
from tests.helpers.kept import kept_files
from tests.helpers.made_up_scores import OTHER_FIGURES

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBER = st.floats(-1e100, 1e100) | st.just(float("nan")) | st.floats(0, 1)
LAYERS, HEADS = 3, 2


def numbers(names):
    """Figures; of those that are fractions, numbers from 0 to 1."""
    fraction = st.floats(0, 1) | st.just(float("nan"))
    return st.fixed_dictionaries(
        {name: fraction if name in {"pointing", "mass", "auc", "iou"} else NUMBER for name in names}
    )


def arrays(names, *shape):
    count = int(np.prod(shape))
    lists = st.lists(NUMBER, min_size=count, max_size=count)
    return st.fixed_dictionaries({name: lists.map(lambda values: np.array(values).reshape(shape)) for name in names})


COMMON = {
    "id": TEXT.filter(bool),
    "media": st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    "question": TEXT,
    "references": st.lists(TEXT, max_size=2).map(tuple),
    "accuracy": st.sampled_from([0.0, 1.0, 1 / 3, 2 / 3, float("nan")]),
    "boxes": st.integers(0, 9),
    "group": TEXT,
    "index": st.integers(0, 10**6),
    "evidence": TEXT,
    "retried": TEXT,
    "half": st.sampled_from(["", "first", "second"]),
    "headline_map": TEXT,
}
CONTROLLED = (*GROUNDING, "vision_mass")
SCORED = st.builds(
    Score,
    **COMMON,
    answer=TEXT,
    unsampled=st.booleans(),
    headline=numbers(FIGURES),
    all_layers=numbers(FIGURES),
    controls=st.fixed_dictionaries({name: numbers(CONTROLLED) for name in CONTROLS}),
    layers=arrays(FIGURES, LAYERS),
    layer_controls=st.fixed_dictionaries({name: arrays(CONTROLLED, LAYERS) for name in ("chance", "other")}),
    heads=st.just({}) | arrays(HEAD_FIGURES, LAYERS, HEADS),
    methods=st.just({}) | st.dictionaries(TEXT, numbers((*GROUNDING, "deletion_blur")), max_size=2),
    method_chance=st.just({}) | st.dictionaries(TEXT, numbers(GROUNDING), max_size=2),
    area=st.just(float("nan")) | st.floats(0.001, 1),
    inside=st.just(float("nan")) | st.floats(0, 1),
    attention=st.sampled_from(["eager", "rows"]),
    seconds=st.floats(0, 1e4),
)
FAILED = st.builds(Score, **COMMON, status=st.just("error"), error=TEXT)
# A sample without boxes, whose grounding is not defined.
WITHOUT_BOXES = SCORED.map(
    lambda score: Score(
        **{
            **vars(score),
            "area": np.nan,
            "inside": np.nan,
            "boxes": 0,
            "headline": score.headline | dict.fromkeys(GROUNDING, np.nan),
            "layers": score.layers | {name: np.full(LAYERS, np.nan) for name in GROUNDING},
        }
    )
)


def line_of(score):
    return json.dumps(score_row(score), ensure_ascii=False, allow_nan=False)


def assert_same(actual, expected):
    """Check that two values are equal to six digits."""
    if isinstance(actual, dict):
        assert actual.keys() == expected.keys()
        for name in actual:
            assert_same(actual[name], expected[name])
    elif isinstance(actual, np.ndarray):
        assert actual.shape == expected.shape
        assert expected.dtype == np.float64
        np.testing.assert_allclose(expected, actual, rtol=1e-5)
    elif isinstance(actual, float):
        assert isinstance(expected, float)
        np.testing.assert_allclose(expected, actual, rtol=1e-5)
    else:
        assert actual == expected
        assert type(actual) is type(expected)


@given(SCORED | FAILED | WITHOUT_BOXES)
def test_a_score_comes_back_from_its_line(score):
    line = line_of(score)
    assert "\n" not in line
    back = score_of(json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")))
    assert_same(vars(score), vars(back))
    assert (back.right, back.grounded, back.boxed) == (score.right, score.grounded, score.boxed)
    assert line_of(back) == line, "and gives the same line again"


def test_figures_are_those_of_grounding_and_patterns():
    assert (*GROUNDING, "vision_mass", *PATTERNS) == FIGURES
    assert (*GROUNDING, "vision_mass") == HEAD_FIGURES


WHOLE = {"headline": dict.fromkeys(FIGURES, 1.0), **OTHER_FIGURES}


@pytest.mark.parametrize("name", ["methods", "method_chance"])
def test_undefined_figures_of_a_method_are_null_and_come_back(name):
    row = score_row(Score("a", ("a.png",), "?", **WHOLE, **{name: {"tam": {"lift": np.nan, "auc": 0.5}}}))
    assert row[name] == {"tam": {"lift": None, "auc": 0.5}}
    assert_same(getattr(score_of(row), name), {"tam": {"lift": np.nan, "auc": 0.5}})
    assert not score_row(Score("a", ("a.png",), "?")).keys() & {"methods", "method_chance"}


def test_an_error_has_no_figures_and_an_answer_no_error():
    failed = score_row(Score("a", ("a.png",), "?", status="error", error="InputError: gone", accuracy=0.0))
    assert failed["error"] == "InputError: gone"
    assert failed["accuracy"] == 0
    assert not failed.keys() & {"answer", "headline", "layers", "seconds", "retried", "half"}
    assert "error" not in score_row(Score("a", ("a.png",), "?"))


def lines_of(folder, *rows):
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"samples": {row["id"]: "1" for row in rows}}))
    return folder


FULL = score_row(Score("a", ("a.png",), "?", **WHOLE, half="first", retried="x"))
BROKEN = score_row(Score("a", ("a.png",), "?", status="error", error="x", accuracy=0.0))


def test_the_types_of_rows_have_every_field_that_is_written():
    assert {**decoded(FULL | {"methods": {}, "method_chance": {}, "headline_map": "x"}, ScoredRow, "row")}.keys() == {
        *ScoredRow.__annotations__
    }
    for row in map(json.loads, kept_files("check")["scores.jsonl"].splitlines()):
        assert json.loads(json.dumps(decoded(row, ScoredRow, "row"))) == row


def test_scores_are_in_the_order_of_the_data_set(tmp_path):
    lines_of(tmp_path, *(FULL | {"id": str(i), "index": i} for i in (3, 1, 2, 0)))
    assert [score.id for score in read_scores(tmp_path)] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("name", sorted((FULL.keys() | {"error"}) - {"right", "grounded", "id", "half", "retried"}))
def test_a_row_that_lacks_a_field_is_reported_by_line(tmp_path, name):
    whole = BROKEN if name == "error" else FULL
    lines_of(tmp_path, whole, {key: value for key, value in whole.items() if key != name} | {"id": "b"})
    with pytest.raises(StoreError, match="line 2 is not a row of this version"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("question", 7),
        ("status", 0),
        ("status", "weird"),
        ("group", None),
        ("references", "red"),
        ("media", [1]),
        ("index", "1"),
        ("index", -1),
        ("accuracy", 7),
        ("accuracy", -0.1),
        ("area", 1.001),
        ("inside", -1),
        ("headline", FULL["headline"] | {"mass": 1.5}),
        ("all_layers", FULL["all_layers"] | {"auc": -0.5}),
        ("boxes", True),
        ("unsampled", "no"),
        ("half", 1),
        ("methods", {"mean": 1}),
        ("area", float("nan")),
        ("layers", FULL["layers"] | {"lift": [1.0]}),
        ("heads", {"lift": [[1.0], [1.0]]}),
        ("headline", {name: 1 for name in FIGURES if name != "pointing"}),
    ],
)
def test_a_value_of_another_kind_is_reported_by_line_and_field(tmp_path, name, value):
    lines_of(tmp_path, FULL, FULL | {"id": "b", name: value})
    with pytest.raises(StoreError, match=f"line 2 is not a .*(row.*{name[:5]}|number of layers|JSON object)"):
        read_scores(tmp_path)


@pytest.mark.parametrize("name", ["headline", "layers", "heads", "controls", "layer_controls", "area", "accuracy"])
@pytest.mark.parametrize(
    "value",
    ["text", [1, 2], {"a": "b"}, {"a": {"b": "c"}}, {"a": [[1], [2, 3]]}, 10**400],
    ids=["text", "list", "words", "deep", "ragged", "huge"],
)
def test_a_row_with_another_value_is_reported_by_line(tmp_path, name, value):
    lines_of(tmp_path, FULL, FULL | {"id": "b", name: value})
    with pytest.raises(StoreError, match="line 2 is not a row of this version"):
        read_scores(tmp_path)
