from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_attn.attribution.selection import (
    default_layers,
    describe,
    parse_heads,
    parse_layers,
    parse_query,
    text_positions,
    words,
)
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Token


@pytest.mark.parametrize(
    ("typed", "layers"),
    [
        (None, tuple(range(28))),
        ("all", tuple(range(28))),
        ("18", (18,)),
        ("14-20", (14, 15, 16, 17, 18, 19, 20)),
        ("4,8,12", (4, 8, 12)),
        ("12, 4-5,4", (4, 5, 12)),
        ("0-27", tuple(range(28))),
    ],
)
def test_layers(typed, layers):
    assert parse_layers(typed, 28) == layers


@pytest.mark.parametrize("typed", ["28", "0-28", "20-14", "-1", "x", "", "1,,2", "1.5", "٣", "99999999999999999999"])
def test_invalid_layers(typed):
    with pytest.raises(InputError, match=r"--layers|layer"):
        parse_layers(typed, 28)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_describe_is_the_inverse_of_parse(numbers):
    assert set(parse_layers(describe(sorted(numbers)), 61)) == numbers


def test_heads():
    assert parse_heads(None, [1, 2], 4) is None
    assert parse_heads("all", [1, 2], 4) is None
    assert parse_heads("0,3", [1, 2], 4) == ((1, 0), (1, 3), (2, 0), (2, 3))
    assert parse_heads("2.1,1.3", [1, 2], 4) == ((1, 3), (2, 1))


NINES = "9" * 5000


@pytest.mark.parametrize(
    ("typed", "fault"),
    [
        (f"1.{NINES}", f"no head {NINES[:59]}…"),
        (f"{NINES}.1", f"layer {NINES[:59]}… is not among layers 1-2"),
        (f"0-{NINES}", f"no head {NINES[:59]}…"),
        ("99-2", "no head 99"),
        ("3-2", "'3-2' is descending"),
        ("1,2.3", "'1' is not layer.head"),
    ],
)
def test_what_is_wrong_with_heads(typed, fault):
    with pytest.raises(InputError) as caught:
        parse_heads(typed, [1, 2], 4)
    assert caught.value.message.split(": ", 1)[1] == fault


@pytest.mark.parametrize("typed", ["4", "1.4", "3.0", "a.b", "1.", "1.2.3", "1,2.3"])
def test_invalid_heads(typed):
    with pytest.raises(InputError, match="--heads"):
        parse_heads(typed, [1, 2], 4)


def test_default_layers_are_the_middle_of_the_depth():
    assert default_layers(36) == tuple(range(18, 31))
    assert default_layers(28) == tuple(range(14, 24))
    assert default_layers(4) == (2,)
    assert all(default_layers(n) for n in range(1, 100))


@pytest.mark.parametrize("typed", ["", "cats", "text:", "text: ", "Question"])
def test_unknown_query(typed):
    with pytest.raises(InputError, match="--query"):
        parse_query(typed)


def tokens(*pieces: tuple[str, int, int], role: str = "question") -> tuple[Token, ...]:
    return tuple(Token(i, text, role, (start, stop)) for i, (text, start, stop) in enumerate(pieces))


def test_words_join_pieces_but_not_punctuation():
    text = "How many Katzen's, 2x?"
    pieces = tokens(
        ("How", 0, 3),
        (" many", 3, 8),
        (" Kat", 8, 12),
        ("zen", 12, 15),
        ("'s", 15, 17),
        (",", 17, 18),
        (" ", 18, 19),
        ("2", 19, 20),
        ("x", 20, 21),
        ("?", 21, 22),
    )
    assert [word.text for word in words(pieces, text, "question")] == ["How", "many", "Katzen", "'s", ",", "2x", "?"]
    assert words(pieces, text, "question")[2].positions == (2, 3)


def test_words_of_chinese_are_its_tokens_and_an_emoji_is_one():
    text = "几只猫🐈?"
    pieces = tokens(("几", 0, 1), ("只", 1, 2), ("猫", 2, 3), ("a", 3, 4), ("b", 3, 4), ("c", 3, 4), ("?", 4, 5))
    assert [(word.text, word.positions) for word in words(pieces, text, "question")] == [
        ("几", (0,)),
        ("只", (1,)),
        ("猫", (2,)),
        ("🐈", (3, 4, 5)),
        ("?", (6,)),
    ]


def test_text_is_found_at_every_place():
    text = "is a cat a cat?"
    pieces = tokens(("is", 0, 2), (" a", 2, 4), (" cat", 4, 8), (" a", 8, 10), (" cat", 10, 14), ("?", 14, 15))
    assert text_positions(pieces, text, "cat") == (2, 4)
    assert text_positions(pieces, text, "a cat") == (1, 2, 3, 4)
    assert text_positions(pieces, text, "t a") == (2, 3)


def test_an_unknown_text_names_the_words():
    with pytest.raises(InputError, match="its words are: is, a, dog"):
        text_positions(tokens(("is", 0, 2), (" a", 2, 4), (" dog", 4, 8)), "is a dog", "cat")
