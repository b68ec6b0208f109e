"""`qvl-attn render`: saved results drawn again, without a model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn import Drawing, Result
from qvl_attn.attribution.profiles import Profile, Shape
from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError
from qvl_attn.kinds import read_saved
from qvl_attn.results.redraw import redrawn
from qvl_attn.vqa.captions import headline_caption
from qvl_attn.vqa.figures import draw_result
from tests.conftest import CLIP_FPS, numbered_frames

QUESTION = "how many cats?"
MOVES = "what moves?"
ROOT = Path(__file__).parents[2]
FAITHFUL = ("relative", "gradient", "mean")
SMALL = ("--draw-size", 320)
CLIPS_OWN = "--scale frame --smooth --side-by-side"


@pytest.fixture(scope="module")
def saved(demo, cats, wide, tmp_path_factory):
    """A result of two pictures with every single head."""
    return demo.ask(cats, QUESTION, [wide], heads="0-3").save(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def plain(demo, cats, tmp_path_factory):
    return demo.ask(cats, QUESTION).save(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def several(demo, cats, tmp_path_factory):
    """A result with three methods and their faithfulness."""
    result = demo.ask(cats, QUESTION, method=",".join(FAITHFUL), faithfulness=True, max_pixels=16 * 28**2)
    return result.save(tmp_path_factory.mktemp("methods"))


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    from qvl_attn.media.mp4 import write_mp4

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    times = [i / CLIP_FPS for i in range(8)]
    write_mp4(path, zip(numbered_frames(8, (112, 84)), times, strict=True), 0.8, rate_fps=CLIP_FPS)
    return path


@pytest.fixture(scope="module")
def clips(demo, clip_path, tmp_path_factory):
    """Results of a clip in one prompt, in windows, frame by frame, and both ways, drawn at 320 pixels."""
    ways = {
        "clip": {"fps": CLIP_FPS / 2},
        "windows": {"fps": CLIP_FPS, "window": 4, "query": "last"},
        "frames": {"fps": CLIP_FPS / 2, "mode": "frames"},
        "both": {"fps": CLIP_FPS / 2, "mode": "both"},
    }
    out = tmp_path_factory.mktemp("clips")
    return {
        name: demo.ask_video(clip_path, MOVES, **how).save(out / name, Drawing(draw_size_px=320))
        for name, how in ways.items()
    }


def invoke(folder, *args):
    return CliRunner().invoke(app, ["render", str(folder), *(str(arg) for arg in args)])


def render(folder, *args):
    """Run the command, expect success, and return the new folder."""
    done = invoke(folder, *args, "--json")
    assert done.exit_code == 0, done.output
    return Path(json.loads(done.stdout)["folder"])


def render_small(folder, *args):
    return render(folder, *SMALL, *args)


def refused(folder, *args, code=2):
    """Run the command; expect one error line and nothing written; return stderr on one line."""
    before = sorted(folder.parent.rglob("*")) if folder.parent.is_dir() else []
    done = invoke(folder, *args)
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    assert before == (sorted(folder.parent.rglob("*")) if folder.parent.is_dir() else [])
    return " ".join(done.stderr.split())


def result_json(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def arrays_of(folder):
    with np.load(folder / "attention.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_drawings(first, second):
    """Compare all files byte by byte, except result.json, which contains the time of the drawing."""
    ours, theirs = content(first), content(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name] and not name.endswith("result.json")] == []
    for name in (name for name in ours if name.endswith("result.json")):
        values = [json.loads(files[name]) for files in (ours, theirs)]
        for value in values:
            del value["seconds"], value["peak_memory_bytes"], value["provenance"]["attention_reason"]  # free memory
        assert values[0] == values[1], name


def caption(folder):
    result = Result.load(folder)
    return " | ".join(headline_caption(result, result.heatmaps()[0]))


def question_mean(arrays, layers):
    """Return the plain mean (V,) of the question's rows, computed by hand."""
    rows = np.flatnonzero(arrays["query_role"] == "question")
    index = [arrays["layers"].tolist().index(layer) for layer in layers]
    return np.mean([arrays["weights"][i, q].astype(np.float64) for i in index for q in rows], axis=0)


def place_of(picture, page):
    """Return (top, left) of a picture on a page."""
    height, width, _ = picture.shape
    for top, left in np.argwhere((page[: -height + 1, : -width + 1] == picture[0, 0]).all(axis=-1)):
        if np.array_equal(page[top : top + height, left : left + width], picture):
            return int(top), int(left)
    raise AssertionError("the picture is not on the page")


def test_cells_have_the_colours_of_the_table(plain, tmp_path):
    picture = pixels(plain / "picture_1.png")
    bare = render(plain, "--layers", 3, "--alpha", 0, "-o", tmp_path)
    top, left = place_of(picture, pixels(bare / "overlay.png"))
    options = ["--layers", 3, "--colormap", "viridis", "--alpha", 1, "--interp", "cells"]
    folder = render(plain, *options, "-o", tmp_path)
    arrays, page = arrays_of(folder), pixels(folder / "overlay.png")
    values = question_mean(arrays, [3])
    level = np.rint(255 * np.minimum(1, values / np.percentile(values.astype(np.float32), 99.5)))
    table = mpl.colormaps["viridis"](np.arange(256), bytes=True)[:, :3].astype(int)
    width, height = result_json(folder)["media"][0]["size_px"]
    assert len(np.unique(level)) > 10
    for cell, (x0, y0, x1, y1) in enumerate(arrays["boxes_px"]):
        row = top + int((y0 + y1) / 2 / height * picture.shape[0])
        column = left + int((x0 + x1) / 2 / width * picture.shape[1])
        assert np.abs(page[row, column] - table[int(level[cell])]).max() <= 4, cell


def test_weights_are_the_same_and_the_headline_is_the_one_that_was_named(saved, tmp_path):
    folder = render_small(saved, "--layers", "1,3", "--heads", "all", "--query", "question", "-o", tmp_path)
    ours, theirs = arrays_of(folder), arrays_of(saved)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    value, back = result_json(folder), Result.load(folder)
    expected = question_mean(theirs, [1, 3])
    assert np.allclose(np.concatenate([heat.values.ravel() for heat in back.heatmaps()]), expected, atol=1e-8)
    headline = value["headline"]
    assert (headline["layers"], headline["heads"], headline["query"]) == ([1, 3], "all", "question")
    assert headline["maximum"] == pytest.approx(expected.max())
    assert value["scale"]["high"] == pytest.approx(np.percentile(expected, 99.5))
    assert [entry["layer"] for entry in value["layers"]] == [0, 1, 2, 3], "the captured layers stay"
    assert value["answer"] == result_json(saved)["answer"]
    assert sorted(value["files"]) == sorted(content(folder))


def test_nothing_named_is_the_same_result_and_is_found(saved, tmp_path):
    before = content(saved)
    done = invoke(saved)
    assert done.exit_code == 0
    assert f"found complete in {saved}, nothing was drawn" in " ".join(done.stderr.split()).replace("\n", "")
    assert content(saved) == before
    again = render(saved, "--out", tmp_path)
    assert again.name == saved.name
    assert_same_drawings(again, saved)


def test_a_render_is_what_asking_so_would_give(demo, cats, several, tmp_path):
    """The pictures of a headline are the same whether it was asked for or redrawn."""
    query = demo.ask(cats, QUESTION).save(tmp_path / "question")
    direct = demo.ask(cats, QUESTION, query="last").save(tmp_path / "last", Drawing(colormap="jet", scale="shared"))
    folder = render(query, "--query", "last", "--colormap", "jet", "--scale", "shared")
    assert folder.name == direct.name
    assert_same_drawings(folder, direct)
    named = demo.ask(cats, QUESTION, layers="1,3").save(tmp_path / "layers")
    folder = render(query, "--layers", "1,3")
    assert (folder / "overlay.png").read_bytes() == (named / "overlay.png").read_bytes()
    method = demo.ask(cats, QUESTION, method="gradient", max_pixels=16 * 28**2).save(tmp_path / "gradient")
    folder = render(several, "--method", "gradient", "-o", tmp_path)
    assert (folder / "overlay.png").read_bytes() == (method / "overlay.png").read_bytes()


def test_every_drawing_option_arrives(plain, clips, tmp_path):
    words = "--colormap jet --alpha 0.7 --interp cells --denoise median --blur 0.5 --top-percent 40 --draw-size 400"
    same = {"colormap": "jet", "alpha": 0.7, "interp": "cells", "denoise": "median", "blur_cells": 0.5}
    same |= {"top_percent": 40.0, "draw_size_px": 400}
    for folder, own, kind in (
        (plain, {"scale": "shared"}, "--scale shared"),
        (clips["clip"], {"clip_scale": "frame", "smooth": True, "side_by_side": True}, CLIPS_OWN),
    ):
        ours = render(folder, *words.split(), *kind.split(), "-o", tmp_path / "ours")
        theirs = Result.load(folder).save(tmp_path / "theirs", Drawing(**same, **own))
        assert ours.name == theirs.name
        assert_same_drawings(ours, theirs)


def test_nothing_is_overwritten_unless_told(plain, tmp_path, monkeypatch):
    folder = render_small(plain, "--layers", 1, "-o", tmp_path)
    (folder / "overlay.png").write_bytes(b"mine")
    with monkeypatch.context() as patch:
        patch.setattr("qvl_attn.vqa.result.draw_result", None)
        done = invoke(plain, *SMALL, "--layers", 1, "-o", tmp_path)
    assert done.exit_code == 0
    assert "nothing was drawn (--overwrite does it again)" in " ".join(done.stderr.split())
    assert (folder / "overlay.png").read_bytes() == b"mine"
    assert json.loads(invoke(plain, *SMALL, "--layers", 1, "-o", tmp_path, "--json").stdout)["reused"]
    assert render_small(plain, "--layers", 1, "-o", tmp_path, "--overwrite") == folder
    assert pixels(folder / "overlay.png").any()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_another_run_that_was_faster_is_left_alone(plain, tmp_path, monkeypatch):
    folder = render_small(plain, "--layers", 1, "-o", tmp_path)
    (folder / "overlay.png").write_bytes(b"its")
    monkeypatch.setattr("qvl_attn.results.store.is_complete", lambda folder: False)
    done = invoke(plain, *SMALL, "--layers", 1, "-o", tmp_path, "--json")
    assert (done.exit_code, json.loads(done.stdout)["reused"]) == (0, True)
    assert (folder / "overlay.png").read_bytes() == b"its"


def test_a_result_can_take_its_own_place(plain, tmp_path):
    copy = shutil.copytree(plain, tmp_path / plain.name)
    assert render(copy, "--overwrite") == copy
    assert_same_drawings(copy, plain)


def test_beside_the_old_one_from_wherever_it_is_named(plain, tmp_path, monkeypatch):
    copy = shutil.copytree(plain, tmp_path / plain.name)
    monkeypatch.chdir(copy)
    assert render_small(".", "--layers", 1).parent == tmp_path
    monkeypatch.chdir(tmp_path)
    assert render_small(copy.name, "--layers", 0).absolute().parent == tmp_path


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--layers", "3"], "attention of the question, 4 tokens · layer 3 of 0-3 · mean of all 4 heads |"),
        (["--layers", "2"], "attention of the question, 4 tokens · layer 2 of 0-3 · mean of all 4 heads |"),
        (["--query", "last"], "the answer's first token · layer 2 of 0-3 (50 to 85 % of the depth) · mean of all"),
        (["--query", "text:cats"], "attention of “cats”, 1 token · layer 2 of 0-3 (50 to 85 % of the depth) ·"),
    ],
)
def test_the_caption_says_what_is_drawn(plain, tmp_path, args, says):
    assert says in caption(render_small(plain, *args, "-o", tmp_path))


def test_heads(saved, tmp_path):
    arrays = arrays_of(saved)
    rows = np.flatnonzero(arrays["query_role"] == "question")
    by_head = arrays["weights_by_head"][:, :, rows].mean(axis=2)
    cases = {
        ("--heads", "1"): ("2.1", by_head[2, 1]),
        ("--layers", "1,3", "--heads", "0,2"): ("1.0,1.2,3.0,3.2", by_head[[1, 1, 3, 3], [0, 2, 0, 2]].mean(axis=0)),
        ("--heads", "0.3,3.1"): ("0.3,3.1", by_head[[0, 3], [3, 1]].mean(axis=0)),
        ("--heads", "all"): ("all", by_head[2].mean(axis=0)),
    }
    for args, (heads, expected) in cases.items():
        folder = render_small(saved, *args, "-o", tmp_path)
        maps = Result.load(folder).heatmaps()
        assert np.allclose(np.concatenate([heat.values.ravel() for heat in maps]), expected, atol=1e-7), args
        assert result_json(folder)["headline"]["heads"] == heads
        headline = Result.load(folder).settings.headline
        assert headline.layers == headline.averaged_layers == Result.load(folder).heatmap().layers
        assert heads in caption(folder) or heads == "all"


def test_a_render_of_a_render(saved, tmp_path):
    """A redrawn result keeps everything, so any other headline can follow."""
    first = render_small(saved, "--layers", 3, "--heads", 1, "--query", "last", "-o", tmp_path)
    for args in (["--heads", "0.2"], ["--layers", "0-1", "--heads", "all"], ["--query", "question"], ["--blur", 1]):
        second = render_small(first, *args)
        assert arrays_of(second).keys() == arrays_of(saved).keys()
    assert Result.load(render_small(first, "--heads", "0.2")).heatmaps()[0].heads == "0.2"
    assert Result.load(render_small(first, "--query", "question")).heatmaps()[0].heads == "3.1"
    from_saved = render_small(saved, "--layers", "0-1", "--heads", "all", "-o", tmp_path)
    from_first = render_small(first, "--layers", "0-1", "--heads", "all", "--query", "question")
    assert from_saved == from_first
    done = invoke(from_first, *SMALL)
    assert done.exit_code == 0
    assert "nothing was drawn" in " ".join(done.stderr.split())


def test_layers_that_were_chosen_when_it_was_asked(demo, cats, tmp_path):
    folder = demo.ask(cats, QUESTION, layers="1-3", heads="0,1").save(tmp_path)
    for named in (("--layers", "0"), ("--heads", "0.1")):
        assert "layer 0 was not captured hint: captured: 1-3" in refused(folder, *named)
    first = render_small(folder, "--layers", "2")
    second = render_small(first, "--heads", "3.0")
    assert result_json(second)["headline"]["heads"] == "3.0", "captured, though not in the first headline"


def test_a_profile_is_not_said_of_layers_that_are_named(plain, tmp_path):
    shape = Shape(4, 4, 64)
    result = Result.load(plain)
    profile = Profile("mine", "measured", "here", shape, layers=(1,))
    folder = replace(result, settings=replace(result.settings, profile=profile)).save(tmp_path)
    assert "profile mine: calibrated" in caption(folder)
    assert "profile mine: calibrated" in caption(render_small(folder, "--query", "last"))
    assert "profile" not in caption(render_small(folder, "--layers", "3"))


def test_methods_one_by_one(several, tmp_path):
    saved_arrays = arrays_of(several)
    for method in FAITHFUL:
        folder = render(several, "--method", method, "-o", tmp_path)
        value, result = result_json(folder), Result.load(folder)
        assert value["settings"]["methods"][0] == value["headline"]["method"] == method
        assert sorted(value["settings"]["methods"]) == sorted(FAITHFUL)
        assert np.array_equal(result.heatmaps()[0].values.ravel(), saved_arrays[f"{method}_values"])
        assert caption(folder).startswith(f"method {method} · ")
        ours, theirs = (read_saved(path).curves.figures() for path in (folder, several))
        assert ours == theirs, "each map keeps its own curves"
        assert result.sanity == read_saved(several).sanity
        assert set(arrays_of(folder)) == saved_arrays.keys()
    assert render(several, "--method", FAITHFUL[0], "-o", tmp_path).name == several.name


def test_what_a_redraw_drops_is_logged(several, caplog):
    saved = Result.load(several)
    with caplog.at_level("INFO", "qvl_attn"):
        redrawn(saved, method="gradient")
        assert caplog.messages == []
        redrawn(saved, layers=1)
    parts = ["method relative", "method gradient", "method mean", "faithfulness"]
    assert [line.split(" belongs")[0] for line in caplog.messages] == [f"note: {part}" for part in parts]


def test_plain_attention_of_a_result_of_methods(several, tmp_path):
    done = invoke(several, *SMALL, "--layers", 1, "-o", tmp_path)
    assert done.exit_code == 0
    for part in ("method relative", "method gradient", "faithfulness"):
        assert f"note: {part} belongs to another map" in " ".join(done.stderr.split())
    assert "deletion" not in done.stdout
    folder = render_small(several, "--layers", 1, "-o", tmp_path)
    value = result_json(folder)
    assert (value["methods"], value["faithfulness"], value["headline"]["method"]) == ([], None, "mean")
    assert not (folder / "faithfulness.png").exists()
    assert np.allclose(Result.load(folder).heatmap().values.ravel(), question_mean(arrays_of(several), [1]), atol=1e-8)
    assert "method" not in caption(folder)
    assert "relative_values" not in arrays_of(folder)


def test_mean_is_always_there(demo, cats, plain, tmp_path):
    relative = demo.ask(cats, QUESTION, method="relative").save(tmp_path)
    folder = render_small(relative, "--method", "mean", "--query", "last")
    value = result_json(folder)
    assert (value["headline"]["method"], value["headline"]["query"], value["methods"]) == ("mean", "last", [])
    done = invoke(plain, "--method", "mean")
    assert done.exit_code == 0
    assert "nothing was drawn" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ["--method", "relative", "--layers", "1"],
            "--method relative cannot be combined with --layers hint: --layers alone",
        ),
        (["--method", "mean", "--heads", "1"], "--method mean cannot be combined with --heads"),
        (["--method", "relative", "--query", "last"], "the map of method relative is for --query question"),
        (["--method", "gradient", "--query", "last"], "the map of method gradient depends on no query"),
        (["--method", "tam"], "--method tam: not saved in this result, which has relative, gradient, mean"),
        (["--method", "wrong"], "no method 'wrong'"),
        (["--method", ""], "no method ''"),
        (["--heads", "1"], "head 2.1 was not recorded"),
        (["--layers", "7"], "no layer 7"),
        (["--layers", "3-1"], "is descending"),
        (["--layers", "3", "--heads", "2.1"], "layer 2 is not among layers 3"),
        (["--query", "text:dogs"], "not in the question 'how many cats?'"),
        (["--query", ""], "--query : unknown"),
        (["--query", "all"], "--query all: unknown"),
        (["--alpha", "7"], "error: --alpha 7: want 0 to 1"),
        (["--draw-size", "small"], "--draw-size small"),
        (["--scale", "frame"], "--scale frame is for clips, and no clip is drawn hint: use --scale layer or shared"),
        (["--smooth"], "--smooth is for clips"),
        (["--side-by-side"], "--side-by-side is for clips"),
        (["--media", "nowhere.png"], "nowhere.png does not exist"),
        (["--out", "/dev/null/x"], "--out /dev/null/x: cannot be written to"),
    ],
)
def test_what_cannot_be_served(several, args, says):
    assert says in refused(several, *args)


def test_an_empty_answer(plain, tmp_path):
    result = Result.load(plain)
    prompt_rows = result.capture.query_role != "answer"
    last = int(result.capture.queries[prompt_rows].max())
    capture = replace(
        result.capture,
        weights=result.capture.weights[:, prompt_rows],
        vision_mass=result.capture.vision_mass[:, prompt_rows],
        **{name: getattr(result.capture, name)[prompt_rows] for name in ("queries", "query_role")},
        produces=np.full(int(prompt_rows.sum()), -1),
        tokens=result.capture.tokens[: last + 1],
    )
    folder = replace(result, answer="", answer_logprob=0.0, capture=capture).save(tmp_path)
    assert "--query answer: the answer is empty" in refused(folder, "--query", "answer")


def test_no_result_at_all(plain, tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "does not exist" in refused(tmp_path / ("x" * 3000))
    assert "is not a folder" in refused(plain / "result.json")
    assert "it has no result.json" in refused(plain.parent)
    check = tmp_path / "check"
    check.mkdir()
    (check / "run.json").write_text("{}")
    (check / "summary.json").write_text("{}")
    assert "is the folder of a run over many samples" in refused(check)
    (check / "scores.jsonl").write_text("")
    (check / "run.json").unlink()
    assert "has the rows of a run over many samples, but no run.json" in refused(check)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "attention.npz").write_bytes(b"x"),
        lambda folder: (folder / "picture_1.png").unlink(),
        lambda folder: (folder / "result.json").write_text("[]"),
        lambda folder: edit(folder, "provenance", layer_count="4"),
        lambda folder: edit(folder, "settings", query=3),
        lambda folder: edit(folder, "settings", headline={"layers": ["x"], "heads": None}),
        lambda folder: sized(folder, (10**6, 10**6)),
    ],
)
def test_a_damaged_result(plain, tmp_path, damage):
    folder = shutil.copytree(plain, tmp_path / "copy")
    damage(folder)
    refused(folder, "--draw-size", "full", code=1)


def edit(folder, part, **fields):
    value = result_json(folder)
    value[part] |= fields
    (folder / "result.json").write_text(json.dumps(value))


def sized(folder, size_px):
    value, arrays = result_json(folder), arrays_of(folder)
    value["media"][0]["size_px"] = list(size_px)
    _, h, w = arrays["grid_thw"][0] // (1, arrays["merge_size"], arrays["merge_size"])
    x, y = (np.arange(n + 1) * size / n for n, size in zip((w, h), size_px, strict=True))
    boxes = [(x[c], y[r], x[c + 1], y[r + 1]) for r in range(h) for c in range(w)]
    arrays["boxes_px"] = np.array(boxes, dtype=np.float32)
    (folder / "result.json").write_text(json.dumps(value))
    np.savez(folder / "attention.npz", **arrays)


def test_the_original_gives_full_size(demo, make_picture, tmp_path):
    path = make_picture(900, 700)
    folder = demo.ask(path, QUESTION, max_pixels=16 * 28**2).save(tmp_path / "out", Drawing(draw_size_px=320))
    stored = pixels(folder / "picture_1.png")
    assert stored.shape == (249, 320, 3)
    small = render(folder, "--draw-size", "full", "-o", tmp_path / "kept")
    assert (
        "picture 1 is stored 320 pixels wide and drawn larger: --media names the original"
        in result_json(small)["notes"]
    )
    full = render(folder, "--draw-size", "full", "--media", path, "-o", tmp_path / "full")
    assert np.array_equal(pixels(full / "picture_1.png"), pixels(path))
    assert result_json(full)["notes"] == []
    assert result_json(render(folder, "--draw-size", "320", "--layers", "1"))["notes"] == []
    direct = demo.ask(path, QUESTION, max_pixels=16 * 28**2).save(tmp_path / "asked", Drawing(draw_size_px=0))
    assert_same_drawings(full, direct)


def test_only_the_original_will_do(saved, cats, wide, tmp_path):
    assert "--media names 1, and the result has 2 pictures" in refused(saved, "--media", cats)
    says = refused(saved, "--media", wide, "--media", cats)
    assert f"--media {wide}: not the file of the result" in says
    assert result_json(saved)["media"][0]["sha256"] in says
    folder = render(saved, "--layers", 1, "--media", cats, "--media", wide, "-o", tmp_path)
    assert (folder / "picture_2.png").read_bytes() == (saved / "picture_2.png").read_bytes()


def test_a_clip_is_not_the_original_of_a_picture(plain, clip_path):
    says = refused(plain, "--media", clip_path)
    assert f"--media {clip_path}" in says
    assert "hint: name the picture of the result" in says


def test_a_clip_with_its_file_is_drawn_as_it_was(clips, clip_path, tmp_path):
    folder = render_small(clips["clip"], "--media", clip_path, "-o", tmp_path)
    assert folder.name == clips["clip"].name
    assert_same_drawings(folder, clips["clip"])


@pytest.mark.parametrize("pass_mode", ["clip", "windows", "frames", "both"])
def test_a_clip_with_its_samples(clips, tmp_path, pass_mode):
    folder = render_small(clips[pass_mode], "--layers", 3, "--scale", "frame", "-o", tmp_path)
    value, old = result_json(folder), result_json(clips[pass_mode])
    assert "drawn from the sampled frames alone" in " ".join(value["notes"])
    ours, theirs = content(folder), content(clips[pass_mode])
    assert ours.keys() == theirs.keys()
    unchanged = [name for name in ours if "seen/" in name or "picture_" in name or name.endswith("attention.npz")]
    assert len(unchanged) > 1
    for name in unchanged:
        assert ours[name] == theirs[name], name
    assert (value["headline"]["layers"], value["media"]) == ([3], old["media"])
    expected = question_mean(arrays_of(clips[pass_mode]), [3]) if value["headline"]["query"] == "question" else None
    if expected is not None:
        assert np.allclose(Result.load(folder).heatmap().values.ravel(), expected, atol=1e-8)
    assert bool(value["passes"]) == (pass_mode != "clip")
    for i, entry in enumerate(value["passes"]["results"] if value["passes"] else []):
        part = result_json(folder / entry["folder"])
        assert part["headline"]["layers"] == [3]
        assert part["answer"] == old["passes"]["results"][i]["answer"]
        assert entry["vision_mass"] == part["headline"]["vision_mass"]
    again = render_small(folder, "--layers", "0-1")
    assert Result.load(again).heatmap().layers == (0, 1)


def test_a_clips_own_options(clips, clip_path, tmp_path):
    wide = render_small(clips["clip"], "--side-by-side", "--smooth", "--media", clip_path, "-o", tmp_path)
    import av

    with av.open(str(wide / "heatmap.mp4")) as exported, av.open(str(clips["clip"] / "heatmap.mp4")) as old:
        assert exported.streams.video[0].width == 2 * old.streams.video[0].width + 8
        assert exported.streams.video[0].frames == 8
    assert "--scale shared is for pictures, and no picture is drawn" in refused(clips["clip"], "--scale", "shared")
    for pass_mode in ("windows", "frames"):
        assert "has an answer of its own" in refused(clips[pass_mode], "--query", "answer")
    assert (
        result_json(render_small(clips["both"], "--query", "answer", "-o", tmp_path))["headline"]["query"] == "answer"
    )


def test_the_pictures_of_a_clips_answer_are_of_the_headlines_heads(demo, clip_path):
    """A named head was averaged over all layers, under a caption that names those of the headline."""
    result = demo.ask_video(clip_path, MOVES, fps=CLIP_FPS / 4, heads="1", query="answer", max_new_tokens=2)
    drawn = [
        dict(draw_result(again, Drawing(draw_size_px=64)).images()) for again in (result, redrawn(result, heads="2.1"))
    ]
    answers = [name for name in drawn[0] if name.startswith("answer/")]
    assert answers
    for name in answers:
        assert np.array_equal(*(images[name]() for images in drawn)), name


def test_another_clip_will_not_do(clips, clip_file, cats):
    assert "not the file of the result" in refused(clips["clip"], "--media", clip_file(8))
    says = refused(clips["clip"], "--media", cats)
    assert f"--media {cats} is a picture that does not move" in says
    assert "hint: name the clip of the result" in says


def test_a_fault_while_it_is_written_leaves_nothing(plain, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qvl_attn.results.store.write_json", full)
    done = invoke(plain, "--layers", 1, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("kind", ["picture", "clip"])
def test_no_torch(plain, clips, clip_path, tmp_path, kind):
    """The whole command imports neither torch nor a library that needs it."""
    folder, media = (clips["both"], clip_path) if kind == "clip" else (plain, ROOT / "qvl_attn/demo/pictures/cats.png")
    code = (
        "import sys; from typer.testing import CliRunner; from qvl_attn.cli.app import app;"
        "done = CliRunner().invoke(app, sys.argv[1:]); assert done.exit_code == 0, done.output;"
        "print(sorted({'torch', 'torchvision', 'transformers', 'safetensors', 'qwen_vl_utils'} & set(sys.modules)))"
    )
    words = [
        "render",
        str(folder),
        "--layers",
        "3",
        "--draw-size",
        "320",
        "--media",
        str(media),
        "--out",
        str(tmp_path),
    ]
    out = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert out.stdout.strip() == "[]"
    assert len(list(tmp_path.iterdir())) == 1


def test_in_python(saved):
    result = Result.load(saved)
    assert redrawn(result) is result
    drawn = redrawn(result, layers=[0, 1], query="last")
    assert drawn.capture is result.capture
    assert (drawn.heatmap().layers, drawn.heatmap().query) == ((0, 1), "last")
    with pytest.raises(InputError, match="no layer 9"):
        redrawn(result, layers=9)
