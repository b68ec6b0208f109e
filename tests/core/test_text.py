"""Counts with their nouns."""

import pytest

from qvl_attn.core.text import pluralize


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "sample", "0 samples"),
        (1, "sample", "1 sample"),
        (1, "picture or clip", "1 picture or clip"),
        (2, "independent picture or clip", "2 independent pictures or clips"),
    ],
)
def test_a_count_with_its_noun(count, noun, text):
    assert pluralize(count, noun) == text
