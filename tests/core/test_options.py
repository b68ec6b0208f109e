"""Options by name: an unknown one is refused with the nearest name, and a TypedDict takes its part of others."""

from __future__ import annotations

from typing import TypedDict

import pytest

from qvl_attn.core.errors import ArgumentError, InputError
from qvl_attn.core.options import check_names, part_of


class Few(TypedDict, total=False):
    query: str
    layers: str


class More(Few, total=False):
    max_pixels: int


def asked(picture: str, images: tuple[str, ...] = (), *, progress: object = None, **options: str) -> None:
    del picture, images, progress, options


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quary", "did you mean `query`?"),
        ("max_pixel", "did you mean `max_pixels`?"),
        ("image", "did you mean `images`?"),
        ("zzz", "there are images, progress, query, layers, max_pixels"),
        ("options", "there are images, progress, query, layers, max_pixels"),
        ("progres", "did you mean `progress`?"),
        ("player_no", "there are images, progress, query, layers, max_pixels"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, hint):
    with pytest.raises(ArgumentError) as caught:
        check_names({"query": "last", name: 1}, More, asked)
    assert (caught.value.message, caught.value.hint) == (f"`{name}`: no such argument", hint)
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, TypeError)
    assert caught.value.exit_code == 2


def test_names_of_the_dict_and_of_its_bases_are_known():
    check_names({"query": "last", "layers": "1", "max_pixels": 3}, More, asked)


def test_a_dict_takes_its_part():
    given = {"max_pixels": 3, "query": "last", "fps": 2}
    assert part_of(given, Few) == {"query": "last"}
    assert part_of(given, More) == {"max_pixels": 3, "query": "last"}
