"""Counts with their nouns, and quoted words."""

import pytest

from qvl_attn.core.text import pluralize, quoted


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
