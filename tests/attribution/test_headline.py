"""What is recorded, and which layers or heads the headline averages, by what was named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qvl_attn.attribution.profiles import Profile, Shape, load_profile, shipped_profiles
from qvl_attn.attribution.settings import (
    Headline,
    Settings,
    checked_selection,
    default_layers,
    headline_of,
    recorded_apart,
    selection_of,
    settings_of,
    whole_layers,
)
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Apart

SHAPE = Shape(4, 4, 128)
OF_HEADS = Profile("mine", "measured", "here", SHAPE, heads=((1, 0), (3, 2)))
OF_LAYERS = Profile("mine", "measured", "here", SHAPE, layers=(1, 3))


def test_default_layers_are_the_middle_of_the_depth():
    assert default_layers(36) == tuple(range(18, 31))
    assert default_layers(28) == tuple(range(14, 24))
    assert default_layers(4) == (2,)
    assert all(default_layers(n) for n in range(1, 100))


@pytest.mark.parametrize(
    ("named", "recorded", "headline", "averaged"),
    [
        ({}, (0, 1, 2, 3), Headline((2,), None), (2,)),
        ({"layers": "all"}, (0, 1, 2, 3), Headline((0, 1, 2, 3), None), (0, 1, 2, 3)),
        ({"layers": "0-1"}, (0, 1), Headline((0, 1), None), (0, 1)),
        ({"heads": "all"}, (0, 1, 2, 3), Headline((2,), None), (2,)),
        ({"heads": "1,3"}, (0, 1, 2, 3), Headline((2,), ((2, 1), (2, 3))), (2,)),
        ({"heads": "3.0,0.1"}, (0, 1, 2, 3), Headline((2,), ((0, 1), (3, 0))), (0, 3)),
        ({"layers": "0-1", "heads": "3"}, (0, 1), Headline((0, 1), ((0, 3), (1, 3))), (0, 1)),
        ({"layers": "0-1", "heads": "0.3"}, (0, 1), Headline((0, 1), ((0, 3),)), (0,)),
        ({"profile": OF_HEADS}, (0, 1, 2, 3), Headline((), ((1, 0), (3, 2))), (1, 3)),
        ({"profile": OF_LAYERS}, (0, 1, 2, 3), Headline((1, 3), None), (1, 3)),
        ({"profile": OF_LAYERS, "layers": "0"}, (0,), Headline((0,), None), (0,)),
        ({"profile": OF_HEADS, "heads": "all"}, (0, 1, 2, 3), Headline((2,), None), (2,)),
        ({"profile": OF_HEADS, "heads": "1"}, (0, 1, 2, 3), Headline((2,), ((2, 1),)), (2,)),
    ],
)
def test_the_headline_follows_from_what_is_named(named, recorded, headline, averaged):
    settings = Settings(**named)
    selection = checked_selection(settings, SHAPE)
    assert selection.layers == recorded
    assert headline_of(settings, selection) == headline
    assert headline_of(settings, selection).averaged_layers == averaged
    assert settings.names_layers == ({*named} not in (set(), {"heads"}))
    other = replace(settings, headline=Headline((1,), None))
    assert headline_of(other, selection) == other.headline
    assert other.names_layers


def test_all_heads_are_named_for_the_profile_as_for_the_headline():
    shipped = next(load_profile(name) for name in shipped_profiles() if not name.endswith("-text"))
    assert settings_of(shipped.model).profile == shipped
    named = settings_of(shipped.model, heads="all")
    assert named.profile is None
    selection = checked_selection(named, shipped.model)
    expected = Headline(default_layers(shipped.model.layers), None)
    assert headline_of(named, selection) == headline_of(replace(named, profile=shipped), selection) == expected


def test_what_is_typed_is_parsed_once():
    first, again = (selection_of(Settings(layers="0-1", query="text:cats"), 4, 4) for _ in range(2))
    assert first is again
    assert selection_of(Settings(layers="0-1"), 4, 4) != first
    assert selection_of(Settings(layers="all"), 5, 4) != selection_of(Settings(layers="all"), 4, 4)


def test_methods_that_average_all_heads_take_whole_layers():
    assert whole_layers(Headline((0, 1), ((0, 3),)), 4) == (0, 1)
    assert whole_layers(Headline((), ((1, 0),)), 4) == (2,)


@pytest.mark.parametrize(
    ("settings", "apart"),
    [
        (Settings(), None),
        (Settings(profile=OF_LAYERS), None),
        (Settings(profile=OF_HEADS), Apart((1, 3), (0, 2))),
        (Settings(profile=OF_HEADS, heads="1"), None),
    ],
)
def test_only_the_heads_of_a_profile_are_recorded_apart(settings, apart):
    assert recorded_apart(settings, checked_selection(settings, SHAPE)) == apart


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layers": "4"}, "`layers='4'`: no layer 4"),
        ({"heads": "1.4"}, "`heads='1.4'`: no head 4"),
        ({"layers": "1", "heads": "2.0"}, "`heads='2.0'`: layer 2 is not among layers 1"),
        ({"query": "cats"}, "`query='cats'`: unknown"),
        ({"store_heads": "int8"}, "`store_heads='int8'`: unknown"),
        ({"max_new_tokens": 0}, "`max_new_tokens=0`: want 1 to 4096"),
        ({"answer": " "}, "the answer is empty"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_read(wrong, message):
    with pytest.raises(InputError) as caught:
        checked_selection(Settings(**wrong), SHAPE)
    assert caught.value.message == message
