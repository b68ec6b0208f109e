"""Counts with their nouns, quoted words, and messages that repeat something long."""

import pytest

from qvl_attn.core.text import pluralize, quoted, without_middle


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "sample", "0 samples"),
        (1, "sample", "1 sample"),
        (2000, "sample", "2,000 samples"),
        (1, "picture or clip", "1 picture or clip"),
        (2, "independent picture or clip", "2 independent pictures or clips"),
    ],
)
def test_a_count_with_its_noun(count, noun, text):
    assert pluralize(count, noun) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\n", r"'a\n'"),
        ("it's", '"it\'s"'),
        ("1." + "9" * 5000, f"'1.{'9' * 55}…'"),
        (["a" * 100], f"['{'a' * 57}…"),
        (None, "None"),
    ],
)
def test_a_word_is_quoted_to_its_end(value, text):
    assert quoted(value) == text


def test_a_message_keeps_its_own_words():
    path = "/tmp/" + "x" * 300
    assert without_middle(f"{path} does not exist") == f"{path} does not exist", "a path that can be copied"
    shown = without_middle(f"{path} is not a run: {path}/run.json cannot be read")
    start, end = "/tmp/" + "x" * 95, "x" * 59
    assert shown == f"{start}…{end} is not a run: {start}…{end[9:]}/run.json cannot be read"
    shown = without_middle(f"--query text:{'two words ' * 500}: unknown")
    assert shown.startswith("--query text:two words")
    assert shown.endswith("words : unknown")
    assert len(shown) < 600
