"""Types of options and settings: what an annotation takes, which number it becomes, and what is said of the rest."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypedDict, get_args, get_type_hints

import numpy as np
import pytest

from qvl_attn import ClipSettings, Drawing, EncoderSettings
from qvl_attn.analyzer import AskVideoOptions
from qvl_attn.core.options import of_type, set_types, with_types
from qvl_attn.encoder import EncodeOptions
from qvl_attn.model.placement import LoadOptions, LoadSettings

Layers = str | int | Sequence[int] | None


@pytest.mark.parametrize(
    ("value", "hint", "taken"),
    [
        ("a", str, "a"),
        (2, int, 2),
        (np.int64(2), int, 2),
        (2, float, 2.0),
        (np.float32(0.5), float, 0.5),
        (Fraction(1, 2), float, 0.5),
        (10**400, float, math.inf),
        (-(10**400), float, -math.inf),
        (True, bool, True),
        (None, int | None, None),
        (2, int | float, 2),
        ("x", Literal["a", "b"], "x"),
        ((1, 2), Layers, (1, 2)),
        ([np.int64(1), 2], Layers, [1, 2]),
        (range(2), Layers, [0, 1]),
        ("12", Layers, "12"),
        ([(1, 2.5)], Sequence[Sequence[float]], [(1.0, 2.5)]),
        (Path("a"), str | os.PathLike[str], Path("a")),
    ],
)
def test_what_an_annotation_takes(value, hint, taken):
    got = of_type("it", value, hint)
    assert (got, type(got)) == (taken, type(taken))
    if isinstance(taken, list | tuple):
        assert list(map(type, got)) == list(map(type, taken))


@pytest.mark.parametrize(
    ("value", "hint", "said"),
    [
        ("1", int, "want int, got str"),
        (True, int, "want int, got bool"),
        (2.0, int | None, "want int or None, got float"),
        (False, float, "want float, got bool"),
        ("2", float | None, "want float or None, got str"),
        (1, bool, "want bool, got int"),
        (None, str, "want str, got None"),
        (3, Literal["a", "b"], "want str, got int"),
        ([1, "2"], Layers, "want str, int, a sequence of int or None, got list of int and str"),
        ([True], Layers, "want str, int, a sequence of int or None, got list of bool"),
        (2.5, Layers, "want str, int, a sequence of int or None, got float"),
        ("ab", Sequence[str], "want a sequence of str, got str"),
        (b"ab", str | Sequence[int], "want str or a sequence of int, got bytes"),
        ({1: 2}, Sequence[int], "want a sequence of int, got dict"),
        (3, str | os.PathLike[str], "want str or PathLike, got int"),
    ],
)
def test_what_an_annotation_does_not_take(value, hint, said):
    with pytest.raises(TypeError) as caught:
        of_type("it", value, hint)
    assert str(caught.value) == f"`it`: {said}"
    assert type(caught.value) is TypeError


class Named(TypedDict, total=False):
    size: float
    name: str | None


def test_values_by_name_are_those_of_the_annotations_and_other_names_pass():
    assert with_types({"size": 2, "other": 3}, Named) == {"size": 2.0, "other": 3}
    with pytest.raises(TypeError, match="`name`: want str or None, got int"):
        with_types({"name": 3}, Named)


@dataclass(frozen=True)
class Sized:
    size: float = 1.0

    def __post_init__(self) -> None:
        set_types(self)


def test_a_frozen_dataclass_takes_its_own():
    assert isinstance(Sized(2).size, float)
    with pytest.raises(TypeError, match="`size`: want float, got str"):
        Sized("2")


@pytest.mark.parametrize("owner", [AskVideoOptions, EncodeOptions, LoadOptions, ClipSettings, Drawing, LoadSettings])
def test_every_option_refuses_what_is_of_no_type_of_it(owner):
    for name in get_type_hints(owner):
        with pytest.raises(TypeError, match=rf"^`{name}`: want .*, got object$"):
            with_types({name: object()}, owner)


@pytest.mark.parametrize("settings", [ClipSettings, Drawing])
def test_whole_numbers_for_floats_are_the_same_settings(settings):
    floats = [name for name, hint in get_type_hints(settings).items() if float in (hint, *get_args(hint))]
    assert len(floats) >= 3
    for name in floats:
        whole = getattr(settings(**{name: 1}), name)
        assert (whole, type(whole)) == (1.0, float)
    assert repr(settings(**dict.fromkeys(floats[:1], 1))) == repr(settings(**dict.fromkeys(floats[:1], 1.0)))


@pytest.mark.parametrize(
    ("settings", "wrong", "said"),
    [
        (ClipSettings, {"fps": "2"}, "`fps`: want float, got str"),
        (ClipSettings, {"max_frames": 2.0}, "`max_frames`: want int, got float"),
        (ClipSettings, {"window": True}, "`window`: want int, got bool"),
        (ClipSettings, {"mode": None}, "`mode`: want str, got None"),
        (Drawing, {"alpha": "x"}, "`alpha`: want float, got str"),
        (Drawing, {"smooth": 1}, "`smooth`: want bool, got int"),
        (Drawing, {"draw_size_px": 960.0}, "`draw_size_px`: want int, got float"),
        (LoadSettings, {"device": 0}, "`device`: want str, got int"),
        (LoadSettings, {"offline": "yes"}, "`offline`: want bool, got str"),
        (EncoderSettings, {"layer": "1"}, "`layer`: want int or None, got str"),
        (EncoderSettings, {"embeddings": 3}, "`embeddings`: want str or a sequence of str, got int"),
        (EncoderSettings, {"texts": [1]}, "`texts`: want str or a sequence of str, got list of int"),
        (EncoderSettings, {"max_pixels": 9000.0}, "`max_pixels`: want int or None, got float"),
        (EncoderSettings, {"clip": {"fps": 2}}, "`clip`: want ClipSettings or None, got dict"),
    ],
)
def test_settings_name_the_value_of_another_type(settings, wrong, said):
    with pytest.raises(TypeError) as caught:
        settings(**wrong)
    assert str(caught.value) == said


def test_points_of_an_encoder_are_floats():
    at = EncoderSettings(at=[(np.int64(1), 2)]).at
    assert at == ((1.0, 2.0),)
    assert [type(number) for number in at[0]] == [float, float]
