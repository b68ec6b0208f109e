"""Results with methods and faithfulness: what is stored and drawn, their captions, saving and loading."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from qvl_attn import Drawing, Result
from qvl_attn.attribution.settings import Headline
from qvl_attn.core.errors import CaptureError, InputError, StoreError
from qvl_attn.render.layout import Panel, scale_line
from qvl_attn.vqa.captions import headline_caption
from qvl_attn.vqa.figures import draw_result
from tests.helpers.small import SMALL_DRAWING

QUESTION = "how many cats?"
METHODS = ("relative", "mean", "max", "gradient", "tam")
SMALL = 16 * 28**2  # pixels: 4 x 4 cells


@pytest.fixture(scope="module")
def result(demo, cats, wide):
    return demo.ask(cats, QUESTION, [wide], method=" relative,mean , max,gradient,tam,mean")


@pytest.fixture(scope="module")
def plain(demo, cats, wide):
    return demo.ask(cats, QUESTION, [wide])


@pytest.fixture(scope="module")
def faithful(demo, cats):
    return demo.ask(cats, QUESTION, method="mean,rollout", faithfulness=True, max_pixels=SMALL)


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    return result.save(tmp_path_factory.mktemp("several"), SMALL_DRAWING)


@pytest.fixture(scope="module")
def saved_faithful(faithful, tmp_path_factory):
    return faithful.save(tmp_path_factory.mktemp("faithful"), SMALL_DRAWING)


def result_json(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def arrays_of(folder):
    with np.load(folder / "attention.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def flat(maps):
    return np.concatenate([heat.values.ravel() for heat in maps])


def test_the_first_method_is_the_headline_on_a_scale_of_its_own(result):
    maps, values = result.heatmaps(), result.methods[0].values
    assert [heat.method for heat in result.methods] == list(METHODS)
    assert np.array_equal(flat(maps), values)
    assert [heat.values.shape for heat in maps] == [grid.shape for grid in result.capture.grids]
    assert {heat.method for heat in maps} == {"relative"}
    assert {heat.uniform for heat in maps} == {float(values.mean())}
    assert {heat.scale.high for heat in maps} == {float(np.percentile(values, 99.5))}
    assert maps[0].layers == (2,)


@pytest.mark.parametrize("named", [{"layers": 2}, {"heads": "all"}, {"query": "question"}])
def test_what_is_named_is_plain_attention_whatever_the_method(result, plain, named):
    for ours, theirs in zip(result.heatmaps(**named), plain.heatmaps(), strict=True):
        assert np.allclose(ours.values, theirs.values, atol=1e-6)
        assert (ours.method, ours.layers, ours.heads) == ("mean", (2,), "all")


def test_methods_change_nothing_that_is_captured(result, plain):
    assert (result.answer, result.answer_logprob) == (plain.answer, plain.answer_logprob)
    for name in ("weights", "vision_mass", "queries", "layers"):
        ours, theirs = getattr(result.capture, name), getattr(plain.capture, name)
        assert np.allclose(ours, theirs, rtol=0, atol=1e-6), name  # the generic prompt shares the pictures
    assert plain.methods == ()


def test_the_arrays_of_methods_stand_beside_the_raw_ones(saved, result, plain):
    arrays = arrays_of(saved)
    own = {name for name in arrays if name.endswith("_values")}
    layered = {f"{name}_layer_values" for name in METHODS if name != "tam"}
    assert own == {f"{name}_values" for name in METHODS} | layered
    assert np.allclose(arrays["weights"], plain.capture.weights, atol=1e-6)
    assert np.array_equal(arrays["weights"], result.capture.weights)
    question_rows = arrays["query_role"] == "question"
    by_layer = arrays["weights"][:, question_rows].mean(axis=1, dtype=np.float64)
    assert np.allclose(arrays["mean_values"], by_layer[2], atol=1e-8), "only layer 2 is at 50 to 85 % of the depth"
    assert np.allclose(arrays["mean_layer_values"], by_layer, atol=1e-8)
    assert np.allclose(arrays["max_layer_values"], arrays["weights_max"][:, question_rows].mean(axis=1), atol=1e-7)
    assert (arrays["max_values"] >= arrays["mean_values"] - 1e-7).all()
    for method in result.methods:
        assert np.array_equal(arrays[f"{method.method}_values"], method.values)


def test_what_the_json_says_of_methods(saved, result):
    value, arrays = result_json(saved), arrays_of(saved)
    assert [saved_method["name"] for saved_method in value["methods"]] == list(METHODS) == value["settings"]["methods"]
    for entry, saved_method in zip(value["methods"], result.methods, strict=True):
        assert entry["caption"] == saved_method.caption
        assert entry["removed"] == []
        numbers = [] if saved_method.method == "tam" else [0, 1, 2, 3]
        assert entry["layer_numbers"] == numbers
    assert value["methods"][1]["layers"] == [2]
    headline, values = value["headline"], arrays["relative_values"]
    assert (headline["method"], headline["heads"], headline["layers"]) == ("relative", "all", [2])
    assert headline["maximum"] == pytest.approx(values.max())
    assert headline["minimum"] == pytest.approx(values.min())
    assert headline["uniform"] == pytest.approx(values.mean())
    assert value["scale"]["high"] == pytest.approx(np.percentile(values, 99.5))
    assert value["scale"]["clipped_cells"] == (values > np.percentile(values, 99.5)).sum()
    assert value["faithfulness"] is None


def assert_same_methods(first, second):
    assert first.settings == second.settings
    assert len(first.methods) == len(second.methods)
    for ours, theirs in zip(first.methods, second.methods, strict=True):
        for name in ("method", "caption", "layers", "layer_numbers", "removed"):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert np.array_equal(ours.values, theirs.values)
        if ours.layer_values is None:
            assert theirs.layer_values is None
        else:
            assert np.array_equal(ours.layer_values, theirs.layer_values)
    for ours, theirs in zip(first.heatmaps(), second.heatmaps(), strict=True):
        assert np.array_equal(ours.values, theirs.values)
        assert vars(ours) | {"values": None} == vars(theirs) | {"values": None}


def test_methods_come_back_and_are_drawn_the_same(saved, result, tmp_path):
    back = Result.load(saved)
    assert_same_methods(result, back)
    again = back.save(tmp_path, SMALL_DRAWING)
    assert again.name == saved.name
    for file in ("overlay.png", "layers.png", "tokens.png", "layers/layer_00.png", "attention.npz"):
        assert (again / file).read_bytes() == (saved / file).read_bytes(), file


def test_faithfulness_comes_back(saved_faithful, faithful):
    back = Result.load(saved_faithful)
    assert_same_methods(faithful, back)
    assert back.curves.names == faithful.curves.names == ("mean", "rollout", "random", "uniform")
    assert np.array_equal(back.curves.logprobs, faithful.curves.logprobs)
    assert dict(back.sanity) == dict(faithful.sanity)
    assert list(back.sanity) == ["mean", "rollout"]


def test_areas_are_the_means_of_the_curves(saved_faithful):
    curves = result_json(saved_faithful)["faithfulness"]["curves"]
    logprobs = np.array(curves["logprobs"])
    assert logprobs.shape == (4, 2, 2, logprobs.shape[-1])
    areas = (logprobs[..., 1:] + logprobs[..., :-1]).mean(axis=-1) / 2
    for n, name in enumerate(curves["names"]):
        for k, kind in enumerate(("deletion", "insertion")):
            for f, fill in enumerate(("blur", "mean")):
                assert curves["areas"][name][f"{kind}_{fill}"] == pytest.approx(areas[n, k, f])


def test_curves_begin_and_end_at_the_answers_own_probability(saved_faithful):
    value = result_json(saved_faithful)
    logprobs = np.array(value["faithfulness"]["curves"]["logprobs"])
    assert np.allclose(logprobs[:, 0, :, 0], value["answer_logprob"], atol=1e-4), "nothing is deleted"
    assert np.allclose(logprobs[:, 1, :, -1], value["answer_logprob"], atol=1e-4), "everything is inserted"


def test_a_result_of_before_methods_loads(plain, tmp_path):
    folder = plain.save(tmp_path, SMALL_DRAWING)
    value = result_json(folder)
    for name in ("methods", "faithfulness"):
        del value[name]
    for name in ("methods", "faithfulness", "headline"):
        del value["settings"][name]
    (folder / "result.json").write_text(json.dumps(value))
    back = Result.load(folder)
    assert (back.methods, back.curves, back.sanity, back.settings) == ((), None, None, plain.settings)


def test_a_headline_in_the_settings_comes_back_and_is_the_maps(plain, tmp_path):
    named = replace(plain, settings=replace(plain.settings, headline=Headline((1, 3), None)))
    back = Result.load(named.save(tmp_path, SMALL_DRAWING))
    assert back.settings == named.settings
    question_rows = plain.capture.query_role == "question"
    expected = plain.capture.weights[[1, 3]][:, question_rows].mean(axis=(0, 1))
    for shown_result in (named, back):
        assert np.allclose(flat(shown_result.heatmaps()), expected, atol=1e-8)
        assert shown_result.heatmaps()[0].layers == (1, 3)


DAMAGE = {
    "none are there": lambda value, arrays: value.update(methods=[]),
    "none were asked for": lambda value, arrays: value["settings"].update(methods=[]),
    "in another order": lambda value, arrays: value["methods"].reverse(),
    "of an unknown name": lambda value, arrays: value["methods"][0].update(name="x"),
    "unknown ones asked for": lambda value, arrays: value["settings"].update(methods=["x", "rollout"]),
    "a number": lambda value, arrays: value.update(methods=3),
    "a cell that is not there": lambda value, arrays: value["methods"][0].update(removed=[{"cell": 16}]),
    "no map": lambda value, arrays: arrays.pop("mean_values"),
    "no layers": lambda value, arrays: arrays.pop("rollout_layer_values"),
    "a cell too few": lambda value, arrays: arrays.update(mean_values=arrays["mean_values"][1:]),
    "both too many": lambda value, arrays: [
        arrays.update({name: np.concatenate([arrays[name], arrays[name]], axis=-1)})
        for name in ("mean_values", "mean_layer_values")
    ],
    "not finite": lambda value, arrays: arrays["mean_values"].__setitem__(3, np.nan),
    "below zero": lambda value, arrays: arrays["rollout_layer_values"].__setitem__((1, 3), -1),
    "another precision": lambda value, arrays: arrays.update(mean_values=arrays["mean_values"].astype(float)),
    "faithfulness gone": lambda value, arrays: value.update(faithfulness=None),
    "faithfulness not asked for": lambda value, arrays: value["settings"].update(faithfulness=False),
    "no sanity": lambda value, arrays: value["faithfulness"].pop("sanity"),
    "sanity of fewer": lambda value, arrays: value["faithfulness"]["sanity"].pop("mean"),
    "no weights": lambda value, arrays: value["faithfulness"]["sanity"]["mean"].update(weights=[]),
    "too alike": lambda value, arrays: value["faithfulness"]["sanity"]["mean"]["picture"].update(ssim=7),
    "other curves": lambda value, arrays: value["faithfulness"]["curves"]["names"].__setitem__(0, "tam"),
    "a curve too few": lambda value, arrays: value["faithfulness"]["curves"]["logprobs"].pop(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_of_methods_is_one_clear_fault(saved_faithful, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(saved_faithful, folder)
    value, arrays = result_json(folder), arrays_of(folder)
    DAMAGE[damage](value, arrays)
    (folder / "result.json").write_text(json.dumps(value))
    np.savez(folder / "attention.npz", **arrays)
    with pytest.raises(StoreError, match="damaged") as caught:
        Result.load(folder)
    assert "\n" not in str(caught.value)


def test_the_heads_of_a_map_of_heads_are_named(demo, cats):
    result = demo.ask(cats, QUESTION, method="heads", heads="1.0,2.1")
    (heat,) = result.heatmaps()
    assert (heat.method, heat.heads, heat.layers) == ("heads", "1.0,2.1", (1, 2))
    question_rows = result.capture.query_role == "question"
    by_head = result.capture.weights_by_head[:, :, question_rows].mean(axis=2)
    assert np.allclose(heat.values.ravel(), (by_head[1, 0] + by_head[2, 1]) / 2, atol=1e-8)


def test_a_filter_is_named_before_the_blur_and_leaves_what_is_kept_as_it_was(result, saved, tmp_path):
    drawn = draw_result(result, Drawing(denoise="median", blur_cells=1.0))
    line = scale_line(Panel("", drawn.headline), Drawing(denoise="median", blur_cells=1.0))
    assert line.index("after the filter median (3x3 cells)") < line.index("after a blur (sigma 1 in cells)")
    assert "filter" not in scale_line(Panel("", drawn.headline), Drawing(blur_cells=1.0))
    folder = result.save(tmp_path, Drawing(denoise="median"))
    assert folder.name != saved.name
    ours, theirs = arrays_of(folder), arrays_of(saved)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert np.array_equal(ours[name], theirs[name]), name
    value, filtered = result_json(folder), []
    for heat in result.heatmaps():
        padded = np.pad(heat.values[0], 1, mode="reflect")
        rows, columns = heat.values.shape[1:]
        filtered += [np.median(padded[r : r + 3, c : c + 3]) for r in range(rows) for c in range(columns)]
    assert value["scale"]["high"] == pytest.approx(np.percentile(filtered, 99.5))
    assert value["headline"]["maximum"] == result_json(saved)["headline"]["maximum"], "of the map before the filter"


def test_what_a_filter_or_a_method_leaves_empty_is_a_clear_fault(result, tmp_path):
    lone = np.zeros_like(result.methods[0].values)
    lone[8] = 1
    spot = replace(result, methods=(replace(result.methods[0], values=lone),))
    with pytest.raises(CaptureError, match="`denoise='median'` leaves nothing of the map"):
        spot.save(tmp_path, Drawing(denoise="median"))
    dark = replace(result, methods=(replace(result.methods[0], values=np.zeros_like(lone)),))
    with pytest.raises(CaptureError, match="`method='relative'`: its map is zero everywhere"):
        dark.save(tmp_path, SMALL_DRAWING)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_filter_is_refused():
    with pytest.raises(InputError, match="`denoise='mean'`: want median, rank-gaussian"):
        Drawing(denoise="mean")


def test_the_caption_says_which_method_and_of_which_query(result, demo, cats):
    first, model = headline_caption(result, result.heatmaps()[0])
    assert first == f"method relative · attention of the question, 4 tokens · {result.methods[0].caption}"
    assert "demo" in model
    gradient = demo.ask(cats, QUESTION, method="gradient", max_pixels=SMALL)
    (first, _) = headline_caption(gradient, gradient.heatmaps()[0])
    assert first == f"method gradient · {gradient.methods[0].caption}", "it does not follow the query"
