from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_attn.attribution.selection import (
    QUERY_KINDS,
    Heads,
    Query,
    Selection,
    describe,
    describe_heads,
    parse_selection,
    text_positions,
    words,
)
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Token
from tests.helpers.import_graph import PACKAGE, sources


def layers_of(typed, layer_count=28):
    return parse_selection(typed, None, "question", layer_count, 4).layers


def heads_of(typed, layers="1-2"):
    return parse_selection(layers, typed, "question", 4, 4).heads


@pytest.mark.parametrize(
    ("typed", "layers"),
    [
        (None, tuple(range(28))),
        ("all", tuple(range(28))),
        (" ALL ", tuple(range(28))),
        ("18", (18,)),
        ("14-20", (14, 15, 16, 17, 18, 19, 20)),
        ("4,8,12", (4, 8, 12)),
        ("12, 4-5,4", (4, 5, 12)),
        ("0-27", tuple(range(28))),
        (18, (18,)),
        ([8, 4], (4, 8)),
        (range(3), (0, 1, 2)),
    ],
)
def test_layers(typed, layers):
    assert layers_of(typed) == layers


@pytest.mark.parametrize(
    ("typed", "named"),
    [
        ("28", "`layers='28'`: no layer 28"),
        ("0-28", "`layers='0-28'`: no layer 28"),
        ("20-14", "`layers='20-14'`: '20-14' is descending"),
        ("-1", "`layers='-1'`: '-1' is not a layer"),
        ("x", "`layers='x'`: 'x' is not a layer"),
        ("", "`layers=''`: '' is not a layer"),
        ("1,,2", "`layers='1,,2'`: '' is not a layer"),
        ("1.5", "`layers='1.5'`: '1.5' is not a layer"),
        ("٣", "`layers='٣'`: '٣' is not a layer"),
        ("9" * 20, f"`layers='{'9' * 20}'`: no layer {'9' * 20}"),
        (28, "`layers=28`: no layer 28"),
        ([], "`layers=[]`: '' is not a layer"),
    ],
)
def test_invalid_layers(typed, named):
    with pytest.raises(InputError) as caught:
        layers_of(typed)
    assert caught.value.message == named


@given(st.sets(st.integers(0, 60), min_size=1))
def test_describe_is_the_inverse_of_parse(numbers):
    assert set(layers_of(describe(sorted(numbers)), 61)) == numbers


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_describe_heads_is_the_inverse_of_parse(pairs):
    assert heads_of(describe_heads(tuple(sorted(pairs))), None) == Heads(pairs=tuple(sorted(pairs)))


def test_heads():
    assert heads_of(None) is heads_of("all") is None
    assert heads_of("0,3") == Heads(numbers=(0, 3))
    assert heads_of("2.1,1.3") == Heads(pairs=((1, 3), (2, 1)))
    assert Heads(numbers=(0, 3)).of([1, 2]) == ((1, 0), (1, 3), (2, 0), (2, 3))
    assert Heads(pairs=((1, 3), (2, 1))).of([1]) == ((1, 3), (2, 1)), "they name their own layers"


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
        ("4", "no head 4"),
        ("1.4", "no head 4"),
        ("3.0", "layer 3 is not among layers 1-2"),
        ("a.b", "'a.b' is not layer.head"),
        ("1.", "'1.' is not layer.head"),
        ("1.2.3", "'1.2.3' is not layer.head"),
    ],
)
def test_what_is_wrong_with_heads(typed, fault):
    with pytest.raises(InputError) as caught:
        heads_of(typed)
    named, _, said = caught.value.message.partition(": ")
    assert (named[:8], said) == ("`heads='", fault)


def test_queries():
    assert [Query.parse(kind) for kind in QUERY_KINDS] == [Query("question"), Query("last"), Query("answer")]
    assert Query.parse("text:cats") == Query("text", "cats")
    assert Query.parse("text: text:a ") == Query("text", " text:a ")


@given(st.one_of(st.sampled_from(QUERY_KINDS), st.text().filter(str.strip).map("text:{}".format)))
def test_a_query_is_written_as_it_was_typed(typed):
    assert str(Query.parse(typed)) == typed


@pytest.mark.parametrize("typed", ["", "cats", "text:", "text: ", "Question", "text"])
def test_unknown_query(typed):
    with pytest.raises(InputError) as caught:
        Query.parse(typed)
    assert caught.value.message == f"`query='{typed}'`: unknown"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Query("text"),
        lambda: Query("last", "words"),
        lambda: Query("cats"),
        lambda: Heads(),
        lambda: Heads((1,), ((1, 2),)),
        lambda: Selection((), None, Query("last")),
        lambda: Selection((2, 1), None, Query("last")),
    ],
)
def test_values_that_cannot_be(make):
    with pytest.raises(ValueError, match=r"query|numbers"):
        make()


# Who parses

PARSE = {"parse_selection": {"selection", "settings", "record"}, "Query.parse": {"selection", "profiles"}}
PREFIX = ("startswith", "removeprefix", "partition", "split")


def parsed_in(source: str) -> set[str]:
    """What a file does that only a parser of layers, heads and query would do, and the parsers that it calls."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        constants = [part.value for part in ast.iter_child_nodes(node) if isinstance(part, ast.Constant)]
        if isinstance(node, ast.Compare) and {"all", "."} & {*constants}:
            found.add(ast.unparse(node))
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.rpartition(".")[2] in PREFIX and "text:" in constants:
                found.add(ast.unparse(node))
            found |= {called} & PARSE.keys()
    return found


@pytest.mark.parametrize(
    "source",
    [
        'query.startswith("text:")',
        'settings.query.removeprefix("text:")',
        'heads == "all"',
        'heads.strip().lower() != "all"',
        'x = "." in (settings.heads or "")',
        "parse_selection(layers, heads, query, 4, 4)",
        "Query.parse(text)",
    ],
)
def test_a_parser_is_seen(source):
    assert parsed_in(source)


def test_one_file_parses_and_is_called_at_the_boundary():
    for path in sources():
        found = parsed_in(path.read_text(encoding="utf-8"))
        if path != PACKAGE / "attribution" / "selection.py":
            assert not found - PARSE.keys(), path
        assert not {name for name in found & PARSE.keys() if path.stem not in PARSE[name]}, path


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
