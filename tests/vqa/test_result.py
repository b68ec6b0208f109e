"""The public API; saving and loading of results."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from qvl_attn import Analyzer, Drawing, Result
from qvl_attn.attribution.selection import words
from qvl_attn.core.errors import InputError, ResultExistsError, StoreError
from tests.helpers.small import SMALL_DRAWING

QUESTION = "how many cats?"


@pytest.fixture(scope="module")
def result(demo, cats, wide):
    return demo.ask(cats, QUESTION, [wide], heads="0-3", answer="two 猫")


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    return result.save(tmp_path_factory.mktemp("out"), SMALL_DRAWING)


def test_the_promised_lines(cats, tmp_path):
    result = Analyzer.load("demo").ask(str(cats), QUESTION)
    assert result.answer
    assert result.heatmap(layers="1-3").values.shape == result.capture.grids[0].shape
    folder = result.save(tmp_path / "out", SMALL_DRAWING)
    assert Result.load(folder).answer == result.answer


def test_it_comes_back_as_it_went(result, saved):
    back = Result.load(saved)
    for name in (
        "question",
        "answer",
        "answer_logprob",
        "supplied_answer",
        "supplied_logprob",
        "settings",
        "provenance",
    ):
        assert getattr(back, name) == getattr(result, name), name
    for name in ("layers", "queries", "query_role", "produces", "weights", "vision_mass", "weights_by_head"):
        assert np.array_equal(getattr(back.capture, name), getattr(result.capture, name)), name
    assert back.capture.tokens == result.capture.tokens
    for ours, theirs in zip(result.media, back.media, strict=True):
        assert (ours.sha256, ours.size_px) == (theirs.sha256, theirs.size_px)
    for ours, theirs in zip(result.heatmaps(), back.heatmaps(), strict=True):
        assert np.array_equal(ours.values, theirs.values)
        assert ours.scale == theirs.scale


def test_what_came_back_is_drawn_the_same(saved, tmp_path):
    again = Result.load(saved).save(tmp_path, SMALL_DRAWING)
    assert again.name == saved.name
    for file in ("overlay.png", "layers.png", "tokens.png", "attention.npz"):
        assert (again / file).read_bytes() == (saved / file).read_bytes(), file


def test_the_schema(saved, result):
    with np.load(saved / "attention.npz", allow_pickle=False) as arrays:
        L, H, Q, V = arrays["weights_by_head"].shape
        M = 2
        assert (4, 4, len(arrays["grid_thw"])) == (L, H, M)
        shapes = {
            "weights": ((L, Q, V), "float32"),
            "weights_by_head": ((L, H, Q, V), "float32"),
            "layers": ((L,), "int64"),
            "queries": ((Q,), "int64"),
            "produces": ((Q,), "int64"),
            "vision_tokens": ((V,), "int64"),
            "vision_mass": ((L, Q), "float32"),
            "grid_thw": ((M, 3), "int64"),
            "merge_size": ((), "int64"),
            "media_index": ((V,), "int64"),
            "boxes_px": ((V, 4), "float32"),
            "frame_span": ((V, 2), "int64"),
            "times_s": ((V, 2), "float64"),
        }
        for name, (shape, dtype) in shapes.items():
            assert (arrays[name].shape, arrays[name].dtype) == (shape, dtype), name
        assert set(arrays) == {*shapes, "query_role"}
        roles, produces, queries = arrays["query_role"].tolist(), arrays["produces"], arrays["queries"]
        assert roles == ["question"] * 4 + ["last"] + ["answer"] * (Q - 5)
        assert produces[:4].tolist() == [-1] * 4
        assert (produces[4:] == queries[4:] + 1).all()
        total = int(produces.max()) + 1
        assert queries.max() == total - 2, "the last generated token is never a query"
        counts = np.bincount(arrays["media_index"])
        assert counts.tolist() == (arrays["grid_thw"].prod(axis=1) // arrays["merge_size"] ** 2).tolist()
        assert np.allclose(arrays["weights"].sum(axis=-1), arrays["vision_mass"], atol=1e-6)

    value = json.loads((saved / "result.json").read_text(encoding="utf-8"))
    assert (value["schema_version"], value["kind"]) == (1, "ask")
    assert len(value["tokens"]) == total
    assert [layer["layer"] for layer in value["layers"]] == [0, 1, 2, 3]
    assert [media["name"] for media in value["media"]] == ["cats.png", "wide.png"]
    assert {"seconds", "provenance", "scale", "files", "settings", "headline"} <= set(value)


def test_figures_of_a_layer(saved, result):
    """The definitions of the figures written out, for one layer."""
    value = json.loads((saved / "result.json").read_text(encoding="utf-8"))
    capture = result.capture
    rows = capture.query_role == "question"
    mean = capture.weights[2][rows].mean(axis=0).astype(np.float64)
    share = mean / mean.sum()
    figures = value["layers"][2]
    assert figures["vision_mass"] == pytest.approx(mean.sum(), rel=1e-5)
    assert figures["entropy_bits"] == pytest.approx(-sum(p * np.log2(p) for p in share if p > 0), rel=1e-5)
    assert figures["top10_share"] == pytest.approx(sum(sorted(share)[-10:]), rel=1e-5)
    boxes = np.concatenate([grid.boxes_px for grid in capture.grids])
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    total = 0.0
    for i in range(2):
        cells = capture.media_index == i
        p = share[cells] / share[cells].sum()
        mx, my = (p * x[cells]).sum(), (p * y[cells]).sum()
        total += share[cells].sum() * (p * ((x[cells] - mx) ** 2 + (y[cells] - my) ** 2)).sum()
    assert figures["spread_px"] == pytest.approx(np.sqrt(total), rel=1e-4)


def test_heatmap_is_the_plain_mean(result):
    capture = result.capture
    rows = capture.query_role == "question"
    values = np.concatenate([heat.values.ravel() for heat in result.heatmaps(layers="1,3", heads="all")])
    expected = np.mean([capture.weights[layer][row] for layer in (1, 3) for row in np.flatnonzero(rows)], axis=0)
    assert np.allclose(values, expected, atol=1e-7)
    chosen = result.heatmap(layers="1,3", heads="2", query="last", media=1)
    second = capture.media_index == 1
    expected = (capture.weights_by_head[1, 2, 4] + capture.weights_by_head[3, 2, 4])[second] / 2
    assert np.allclose(chosen.values.ravel(), expected, atol=1e-7)
    assert chosen.uniform * len(capture.vision_tokens) == pytest.approx(chosen.vision_mass, rel=1e-5)


def test_the_headline_takes_the_middle_layers_unless_told(result, demo, cats):
    assert result.headline.layers == (2,)
    assert demo.ask(cats, QUESTION, layers="0-1").headline.layers == (0, 1)


def test_what_is_not_in_a_result_is_said(demo, cats):
    result = demo.ask(cats, QUESTION, layers="1-2")
    with pytest.raises(InputError, match="captured"):
        result.heatmap(layers="0")
    with pytest.raises(InputError, match="ask again with `heads`"):
        result.heatmap(heads="1")
    with pytest.raises(InputError, match="pictures 0 to 0"):
        result.heatmap(media=1)


def test_saving_twice(result, saved):
    with pytest.raises(ResultExistsError):
        result.save(saved.parent, SMALL_DRAWING)
    assert result.save(saved.parent, SMALL_DRAWING, overwrite=True) == saved
    assert result.save(saved.parent, Drawing(alpha=0.9)) != saved


def test_an_empty_answer(demo, cats, tmp_path):
    """If the model ends its turn at once, the maps of the question still exist."""
    model = demo.engine.model
    end = model.generation_config.eos_token_id
    bias = {"value": None}

    def hook(module, args, output):
        output[..., end] = 1e4
        bias["value"] = True
        return output

    handle = model.lm_head.register_forward_hook(hook)
    try:
        result = demo.ask(cats, QUESTION)
    finally:
        handle.remove()
    assert bias["value"]
    assert (result.answer, result.answer_logprob) == ("", 0.0)
    assert result.save(tmp_path, SMALL_DRAWING).is_dir()
    with pytest.raises(InputError, match="empty"):
        result.heatmap(query="answer")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "result.json").unlink(),
        lambda folder: (folder / "attention.npz").unlink(),
        lambda folder: (folder / "picture_1.png").unlink(),
        lambda folder: (folder / "attention.npz").write_bytes(b"x"),
        lambda folder: _edit(folder, schema_version=2),
        lambda folder: _edit(folder, media=[]),
        lambda folder: _edit(folder, tokens=[]),
        lambda folder: _edit(folder, tokens=[{"position": 1}]),
        lambda folder: _edit(folder, settings={"shell": "rm"}),
        lambda folder: _edit(folder, provenance={}),
        lambda folder: _edit(folder, answer_logprob="x"),
        lambda folder: _arrays(folder, "weights", lambda a: a[:, :, :-1]),
        lambda folder: _arrays(folder, "weights", lambda a: a * np.nan),
        lambda folder: _arrays(folder, "weights", lambda a: a.astype(np.float64)),
        lambda folder: _arrays(folder, "boxes_px", lambda a: a + 1),
        lambda folder: _arrays(folder, "grid_thw", lambda a: a[:, [0, 2, 1]]),
        lambda folder: _arrays(folder, "vision_tokens", lambda a: a[:0]),
        lambda folder: _arrays(folder, "merge_size", lambda a: a * 0),
        lambda folder: _arrays(folder, "grid_thw", lambda a: a * 10**9),
        lambda folder: _arrays(folder, "layers", lambda a: -a),
        lambda folder: _arrays(folder, "vision_mass", lambda a: a * np.nan),
        lambda folder: _arrays(folder, "weights", lambda a: a * 1e6),
        lambda folder: _flip(folder / "attention.npz"),
    ],
)
def test_damaged_results_are_named(saved, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    damage(folder)
    with pytest.raises(StoreError) as caught:
        Result.load(folder)
    assert "\n" not in str(caught.value)


def _edit(folder, **fields):
    path = folder / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def _arrays(folder, name, change):
    with np.load(folder / "attention.npz") as arrays:
        values = dict(arrays)
    values[name] = change(values[name])
    np.savez(folder / "attention.npz", **values)


def test_layers_as_numbers(result):
    for layers, text in ((1, "1"), ([1, 2], "1-2"), (range(4), "all")):
        assert np.array_equal(result.heatmap(layers=layers).values, result.heatmap(layers=text).values)


def test_layers_named_in_python_win_over_single_heads_of_the_request(demo, cats):
    result = demo.ask(cats, QUESTION, heads="2.0")
    assert result.heatmap(layers="1").heads == "all"
    assert result.heatmap().heads == "2.0"


def test_a_supplied_answer_that_the_tokenizer_composes(demo, cats):
    result = demo.ask(cats, QUESTION, answer="e\u0301 red star")
    assert result.supplied_answer == "\u00e9 red star"
    answer_words = words(result.capture.tokens, result.mapped_answer, "answer")
    assert [word.text for word in answer_words][-2:] == ["red", "star"]


def test_a_drawing_out_of_range():
    for wrong in ({"alpha": 7}, {"colormap": "zz"}, {"interp": "zz"}, {"draw_size_px": 3}):
        with pytest.raises(InputError, match="want"):
            Drawing(**wrong)
