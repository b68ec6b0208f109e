"""Answers are normalised and scored as VQA does."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_attn.evaluation.answer_accuracy import accuracy, normalise

# Characters of the rules, and characters for which NFKC and lower case are not idempotent.
TRICKY = st.text("aAnoneth ThE.,-'’!。“ 019Ⅸ½´ſİΣ\t\u00a0\u0301\u0323\u0338<", max_size=12)
TEXTS = st.one_of(TRICKY, st.text(max_size=12))
ANSWERS = st.sampled_from(["2", "two.", "a red car", "red car", "Blue", "no", "don't", ""])


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Two.", "2"),
        ("a Red car", "red car"),
        ("  red \t car\n", "red car"),
        ("red\u00a0car", "red car"),
        ("", ""),
        (" . ", ""),
    ],
)
def test_case_and_white_space(text, want):
    assert normalise(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("black-white", "black white"),
        ("black - white", "black white"),
        ("black- white", "black white"),
        ("well-lit, black -white", "welllit black white"),  # one hyphen is next to a space: all hyphens are removed
        ("yes/no", "yes no"),
        ("red!", "red"),
        ('"stop" (sign)', "stop sign"),
        ("1,000", "1000"),
        ("1,000 yes/no", "1000 yesno"),  # a comma in a number: all marks are removed
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("10:30", "10:30"),
        ("100%", "100%"),
    ],
)
def test_marks(text, want):
    assert normalise(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [("2.5", "2.5"), ("2.", "2"), (".5", ".5"), ("u.s.a.", "usa"), ("red. car", "red car"), ("red...", "red")],
)
def test_periods(text, want):
    assert normalise(text) == want


def test_numbers_to_ten_are_digits():
    words = "zero one two three four five six seven eight nine ten eleven"
    assert normalise(words) == "0 1 2 3 4 5 6 7 8 9 10 eleven"
    assert normalise("None") == "0"
    assert normalise("someone") == "someone"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("the cat on a mat", "cat on mat"),
        ("an apple", "apple"),
        ("Theatre", "theatre"),
        ("A.", "a"),
        ("a the", "a the"),
    ],
)
def test_articles(text, want):
    assert normalise(text) == want


@pytest.mark.parametrize(("text", "want"), [("don't", "dont"), ("don’t", "dont"), ("'red'", "red"), ("‘a’ cat", "cat")])
def test_apostrophes(text, want):
    assert normalise(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("红色。", "红色"),
        ("是！", "是"),
        ("是？", "是"),
        ("红色，蓝色", "红色 蓝色"),
        ("红色、蓝色", "红色 蓝色"),
        ("“红色”", "红色"),
        ("２", "2"),
        ("ＲＥＤ．", "red"),
    ],
)
def test_chinese_and_full_width(text, want):
    assert normalise(text) == want


@given(TEXTS)
def test_normalisation_is_idempotent(text):
    once = normalise(text)
    assert normalise(once) == once


@pytest.mark.parametrize(
    ("answer", "references", "want"),
    [
        ("Two.", ["2"], 1.0),
        ("a Red car", ["blue car", "red car"], 1.0),
        ("red", ["red car"], 0.0),
        ("dont", ["don't"] + ["no"] * 8, 1.0),  # nine are alternatives
        ("B", ["A"], 0.0),
        ("", ["A"], 0.0),
        ("红色", ["红色。"], 1.0),
    ],
)
def test_alternatives(answer, references, want):
    assert accuracy(answer, references) == want


@pytest.mark.parametrize("matches", range(11))
def test_ten_annotators(matches):
    figures = [0, 0.3, 0.6, 0.9, 1, 1, 1, 1, 1, 1, 1]
    assert accuracy("two", ["2"] * matches + ["3"] * (10 - matches)) == pytest.approx(figures[matches])


def test_references_are_normalised_too():
    """VQA's evaluate compares "2", the normalised answer, with "two", of which it only removes marks: 0."""
    assert accuracy("two", ["two"] * 9 + ["yes"]) == 1
    assert accuracy("2", ["two"] * 9 + ["Yes!"]) == 1


@given(ANSWERS, st.lists(ANSWERS, min_size=10, max_size=14))
def test_each_annotator_is_left_out_once(answer, references):
    values = [
        min(1, sum(normalise(reference) == normalise(answer) for reference in others) / 3)
        for others in combinations(references, len(references) - 1)
    ]
    assert accuracy(answer, references) == pytest.approx(sum(values) / len(values))


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=14))
def test_accuracy_is_a_share(answer, references):
    assert 0 <= accuracy(answer, references) <= 1
    assert accuracy(answer, [answer] * len(references)) == 1


@given(st.lists(ANSWERS, min_size=1, max_size=14), st.data())
def test_the_order_of_references_does_not_matter(references, data):
    shuffled = data.draw(st.permutations(references))
    for answer in {"2", *references}:
        assert accuracy(answer, references) == accuracy(answer, shuffled)


def test_accuracy_needs_references():
    with pytest.raises(ValueError, match="without references"):
        accuracy("2", [])
