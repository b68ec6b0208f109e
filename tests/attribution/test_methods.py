"""What all methods share: names, checks of their maps, and drawing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.attribution.methods.maps import method_heat_maps
from qvl_attn.attribution.methods.registry import METHODS, MethodMap, parse_methods
from qvl_attn.attribution.selection import Query
from qvl_attn.core.errors import CaptureError, InputError
from qvl_attn.core.types import Scale
from tests.helpers.plain_eager import cut_by_picture


def values(*numbers):
    return np.array(numbers, np.float32)


def test_methods_are_named_as_they_are_typed():
    assert parse_methods("mean") == ("mean",)
    assert parse_methods(" relative ,mean,relative") == ("relative", "mean")
    assert parse_methods(["gradient", "mean,tam"]) == ("gradient", "mean", "tam")
    assert parse_methods(",".join(METHODS)) == tuple(METHODS)
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("typed", ["", "men", "mean,", "mean;max", "Mean", ",", "all"])
def test_an_unknown_method_is_refused_with_the_known_ones(typed):
    with pytest.raises(InputError, match="no method") as caught:
        parse_methods(typed, "method")
    assert caught.value.message.startswith(f"`method={typed!r}`: ")
    assert all(name in caught.value.hint for name in METHODS)


@pytest.mark.parametrize("typed", [3, [3], ("mean", None), {"mean": 1}, True])
def test_what_is_no_name_of_a_method_is_refused_as_such(typed):
    with pytest.raises(TypeError, match=r"`method`: want str or a sequence of str, got "):
        parse_methods(typed, "method")


def test_every_method_is_documented():
    for method in METHODS.values():
        assert all((method.shows, method.source, method.cost, method.when, method.wrong))


@pytest.mark.parametrize(
    "fields",
    [
        {"values": values()},
        {"values": np.ones(3)},
        {"values": np.ones((2, 2), np.float32)},
        {"values": values(1, -1e-9)},
        {"values": values(1, np.nan)},
        {"values": values(1, np.inf)},
        {"layer_values": np.ones((1, 3), np.float32), "layer_numbers": (0,)},
        {"layer_values": np.ones((1, 2)), "layer_numbers": (0,)},
        {"layer_values": -np.ones((1, 2), np.float32), "layer_numbers": (0,)},
        {"layer_values": np.full((1, 2), np.nan, np.float32), "layer_numbers": (0,)},
        {"layer_values": np.ones((1, 2), np.float32)},
        {"layer_values": np.ones((1, 2), np.float32), "layer_numbers": (0, 1)},
        {"layer_numbers": (0,)},
        {"removed": (2,)},
        {"removed": (-1,)},
    ],
)
def test_invalid_maps_are_refused(fields):
    with pytest.raises(ValueError, match=r"values|layer|removed|below zero"):
        MethodMap(**{"method": "mean", "values": values(1, 2), "caption": ""} | fields)
    assert MethodMap("mean", values(1, 2), "", removed=(0, 1))


def test_maps_are_drawn_by_picture_on_one_scale(examples):
    example = examples("genuine", "two")
    result = example.result("gradient", "sinks", "gradcam", query="question", layers="1-2")
    gradient, sinks, cam = result.methods
    drawn = result.heatmaps()
    for map_, part in zip(drawn, cut_by_picture(gradient.values, example.grids), strict=True):
        assert np.array_equal(map_.values, part)
        assert (map_.method, map_.query, map_.heads) == ("gradient", "question", "all")
        assert map_.uniform == pytest.approx(gradient.values.mean())
        assert map_.queries == (), "the map explains the answer, not the query"
        assert map_.scale == drawn[0].scale
        assert map_.layers == (0, 1, 2)
    assert [map_.media_index for map_ in drawn] == [0, 1]
    assert result.heatmaps(query="question")[0].method == "mean"
    rows = result.query_rows()
    (first, _) = method_heat_maps(sinks, result.capture, rows, "question")
    assert first.queries == tuple(example.question_positions)
    alone = method_heat_maps(sinks, result.capture, rows, "question", Scale(0, 1), layer=2)
    for map_, part in zip(alone, cut_by_picture(sinks.layer_values[1], example.grids), strict=True):
        assert np.array_equal(map_.values, part)
        assert (map_.layers, map_.scale) == ((2,), Scale(0, 1))
        assert map_.vision_mass == pytest.approx(result.capture.vision_mass[1, rows].mean())
    (first, _) = method_heat_maps(cam, result.capture, rows, "question")
    assert first.vision_mass == pytest.approx(result.capture.vision_mass[:, rows].mean())


def test_a_map_of_zeros_is_not_drawn(examples):
    result = examples("demo", "one").result("mean")
    nothing = replace(result.methods[0], values=np.zeros_like(result.methods[0].values))
    with pytest.raises(CaptureError, match="zero everywhere"):
        method_heat_maps(nothing, result.capture, result.query_rows(), "last")


def test_methods_stand_in_the_order_in_which_they_were_named(examples):
    names = ("tam", "mean", "rollout")
    assert [method.method for method in examples("demo", "one").result(*names).methods] == [*names]
    assert examples("demo", "one").result().methods == ()


def test_layers_of_the_headline_that_were_not_captured_are_named(examples):
    from qvl_attn.attribution.methods.registry import View
    from qvl_attn.model.signals import Signals

    result = examples("demo", "one").result(layers="1")
    nothing = Signals(np.zeros(1), "")
    view = View(result.capture, Query("last"), result.query_rows(), (1, 2), None, nothing)
    with pytest.raises(InputError, match="layer 2 was not captured"):
        METHODS["mean"].compute(view)
    with pytest.raises(ValueError, match="not recorded"):
        METHODS["max"].compute(replace(view, layers=(1,)))
