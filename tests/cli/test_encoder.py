"""`qvl-attn encoder`: what it takes, prints and refuses, and with which exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import weakref
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn.cli import app
from qvl_attn.encoder import Encoder
from qvl_attn.encoders import engine as encoder_room
from qvl_attn.encoders import inputs as clip_room
from qvl_attn.encoders import result as folder_room
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.media import image as media_room
from qvl_attn.media.mp4 import write_mp4
from tests.conftest import numbered_frames
from tests.helpers import tiny_encoders
from tests.helpers.check_runs import ENV


@cache
def shown() -> Path:
    """Pictures, clips and what is none."""
    folder = tiny_encoders.root() / "shown"
    (folder / "frames").mkdir(parents=True)
    for i, size in enumerate([(90, 80), (80, 120)]):
        Image.fromarray(tiny_encoders.pixels(*size, i)[0]).save(folder / f"{'ab'[i]}.png")
    frames = numbered_frames(6)
    write_mp4(folder / "clip.mp4", zip(frames, [i / 10 for i in range(6)], strict=True), 0.6, rate_fps=10)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / "frames" / f"{i:03d}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    (folder / "words.png").write_text("words")
    (folder / "empty.png").write_bytes(b"")
    (folder / "broken.mp4").write_bytes(b"no clip")
    return folder


def undraw(patch) -> None:
    """Pictures take most of a small look's time; the page is another test's."""
    drawn = folder_room.DrawnEncoderResult
    patch.setattr(folder_room, "embedding_images", lambda *args: ())
    patch.setattr(drawn, "images", lambda one: () if one._is_clip else [("picture_1.png", one._original)])
    patch.setattr("qvl_attn.encoders.timeline.export_clip", lambda *args: ([], []))
    patch.setattr(folder_room, "encoder_html", lambda *args: "<!doctype html>")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    undraw(monkeypatch)
    monkeypatch.setattr(encoder_room, "load_encoder_weights", loaded)


WEIGHTS, READ = {}, encoder_room.load_encoder_weights


def loaded(checkpoint, *args):
    """Weights, once."""
    if checkpoint.folder not in WEIGHTS:
        WEIGHTS[checkpoint.folder] = READ(checkpoint, *args)
    return WEIGHTS[checkpoint.folder]


def run(*words, model: str | Path = "dino"):
    where = tiny_encoders.folder(model) if model in tiny_encoders.NAMES else model
    return CliRunner().invoke(app, ["encoder", "--device", "cpu", "--model", str(where), *map(str, words)])


def refused(*words, model: str | Path = "dino", code: int = 2) -> str:
    """What stands on stderr where it is refused: one line, perhaps a hint; no traceback, nothing on stdout."""
    done = run(*words, model=model)
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, done.stderr
    assert "loading the weights" not in done.stderr
    return done.stderr


def test_a_picture(tmp_path):
    done = run(shown() / "a.png", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    (folder,) = tmp_path.iterdir()
    assert f"report: {folder / 'report.html'}" in done.stdout
    assert "5 x 5 patches of 14 px, 3 layers, 2 heads" in done.stdout
    assert "ViT or DINO" in done.stdout
    for word in ("loading the weights", "peak memory, look: ", "peak memory, prepare: "):
        assert word in done.stderr
        assert word not in done.stdout
    assert EncoderResult.load(folder).settings.at == ()


def test_found_again_and_nothing_is_computed(tmp_path, monkeypatch):
    first = run(shown() / "a.png", "--out", tmp_path, "--json")
    monkeypatch.setattr(encoder_room, "load_encoder_weights", lambda *args: pytest.fail("weights were loaded"))
    again = run(shown() / "a.png", "--out", tmp_path, "--json")
    assert again.exit_code == 0, again.output
    assert "nothing was computed" in again.stderr
    one, other = json.loads(first.stdout), json.loads(again.stdout)
    assert (one.pop("reused"), other.pop("reused")) == (False, True)
    assert one == other
    assert {*one["seconds"]} == {"prepare", "look", "draw"}
    monkeypatch.undo()
    undraw(monkeypatch)
    over = run(shown() / "a.png", "--out", tmp_path, "--json", "--overwrite")
    assert json.loads(over.stdout)["reused"] is False
    assert len([*tmp_path.iterdir()]) == 1


def test_one_object_a_picture(tmp_path):
    names = ["a.png", "b.png", "clip.mp4", "frames"]
    done = run(*(shown() / name for name in names), "--out", tmp_path, "--json", "--max-frames", 3)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["media"] for row in rows] == [str(shown() / name) for name in names]
    assert [row["grid"] for row in rows] == [[1, 5, 5], [1, 5, 5], [2, 5, 5], [1, 5, 5]]
    for row in rows:
        look = EncoderResult.load(row["folder"])
        assert list(look.attention.grid) == row["grid"]
        assert ("heatmap" in row) == (look.media.clip is not None)
        assert row["headline"]["query"] == "cls"
        assert len(row["layers"]) == tiny_encoders.LAYERS


def test_no_more_than_one_picture_is_held(tmp_path, monkeypatch):
    """Whether a clip's frames are decoded before it is their turn, too."""
    held, real, order = [], media_room.load_picture, []

    def load_once(name):
        assert not any(one() is not None for one in held)
        found = real(name)
        held.append(weakref.ref(found.frames))
        return found

    real_clip, real_look = clip_room.load_encoder_clip, Encoder.encode
    monkeypatch.setattr(media_room, "load_picture", load_once)
    monkeypatch.setattr(clip_room, "load_encoder_clip", lambda *args: order.append("clip") or real_clip(*args))
    monkeypatch.setattr(Encoder, "look", lambda *args: order.append("look") or real_look(*args))
    names = ["a.png", "b.png", "clip.mp4"]
    done = run(*(shown() / name for name in names), "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    assert len(held) == 6
    assert order == ["look", "look", "clip", "look"]


def test_how_far_a_look_has_come_is_told(tmp_path, monkeypatch):
    reported = []

    @contextmanager
    def bars(*, shown):
        yield lambda *one: reported.append(one)

    monkeypatch.setattr(sys.modules["qvl_attn.cli.encoder"], "progress_bars", bars)
    assert run(shown() / "a.png", "--out", tmp_path / "a").exit_code == 0
    assert ("looking", tiny_encoders.LAYERS, tiny_encoders.LAYERS) in reported
    reported.clear()
    assert run("--input-dir", shown(), "--out", tmp_path / "b").exit_code == 0
    assert {total for what, _, total in reported if what == "looking"} == {11}


def test_quiet(tmp_path):
    done = run(shown() / "a.png", shown() / "b.png", "--out", tmp_path, "--quiet")
    assert done.exit_code == 0
    assert sorted(done.stdout.split()) == sorted(map(str, tmp_path.iterdir()))
    assert done.stderr == ""
    done = run(shown() / "a.png", "--out", tmp_path, "--quiet", "--json")
    assert json.loads(done.stdout)["reused"] is True
    assert done.stderr == ""


def test_every_option_arrives(tmp_path, monkeypatch):
    drawings = []
    real = folder_room.draw_encoder_result
    monkeypatch.setattr(
        folder_room, "draw_encoder_result", lambda look, drawing: drawings.append(drawing) or real(look, drawing)
    )
    words = "--at 40,30 --at 20.5,10 --layer 1 --over max --embeddings tsne,pca --saliency --text cat --text dog"
    words += " --seed 5 --min-pixels 2000 --max-pixels 6000 --fps 5 --max-frames 4 --start 0.1 --end 0.5"
    words += " --scale frame --smooth --side-by-side --colormap jet --alpha 0.25 --interp cells --blur 0.5"
    words += " --top-percent 60 --draw-size 99 --dtype float32"
    done = run(shown() / "clip.mp4", *words.split(), "--out", tmp_path, "--json", model="clip")
    assert done.exit_code == 0, done.output
    found = EncoderResult.load(json.loads(done.stdout)["folder"]).settings
    assert found.at == ((40, 30), (20.5, 10))
    assert (found.layer, found.over, {*found.embeddings}, found.seed) == (1, "max", {"pca", "tsne"}, 5)
    assert (found.saliency, found.texts, found.min_pixels, found.max_pixels) == (True, ("cat", "dog"), 2000, 6000)
    assert (found.clip.fps, found.clip.max_frames, found.clip.start_s, found.clip.end_s) == (5, 4, 0.1, 0.5)
    (drawn,) = drawings
    assert (drawn.clip_scale, drawn.smooth, drawn.side_by_side, drawn.colormap) == ("frame", True, True, "jet")
    assert (drawn.alpha, drawn.interp, drawn.blur_cells, drawn.top_percent) == (0.25, "cells", 0.5, 60)
    assert drawn.draw_size_px == 99


def test_a_class_is_told(tmp_path):
    words = (shown() / "a.png", "--saliency", "--label", "blue circle", "--out", tmp_path)
    done = run(*words, model="vit-classes")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("blue circle") >= 2


# Faults, all of them before the weights are loaded

FAULTS = [
    ((), "no picture"),
    (("{a}", "--input-dir", "{.}"), "not both"),
    (("{a}", "--at", "400,10"), "--at 400,10"),
    (("{.}/b.png", "{a}", "--at", "40,110"), "--at 40,110"),
    (("{a}", "--at=-1,10"), "--at -1,10"),
    (("{a}", "--at", "nan,nan"), "--at nan,nan"),
    (("{a}", "--at", "inf,1"), "--at inf,1"),
    (("{a}", "--at", "1"), "--at 1: want x,y"),
    (("{a}", "--at", "1,2,3"), "--at 1,2,3: want x,y"),
    (("{a}", "--at", "a,b"), "--at a,b: want x,y"),
    (("{a}", "--at", "\x1b[31m,1"), "want x,y"),
    (("{a}", "--layer", "3"), "layers 0 to 2"),
    (("{a}", "--layer", "-1"), "layers 0 to 2"),
    (("{a}", "--embeddings", "umap"), "--embeddings umap: unknown"),
    (("{a}", "--embeddings", "pca,,tsne"), "--embeddings"),
    (("{a}", "--text", "a cat"), "--saliency"),
    (("{a}", "--label", "cat"), "--saliency"),
    (("{a}", "--saliency"), "neither classes nor a text side"),
    (("{a}", "--max-pixels", "3"), "--max-pixels 3"),
    (("{a}", "--max-pixels", str(2**40)), "--max-pixels"),
    (("{a}", "--min-pixels", "9000", "--max-pixels", "8000"), "above --max-pixels"),
    (("{a}", "https://example.org/x.png"), "is a URL"),
    (("{.}/gone.png",), "does not exist"),
    (("{a}", "{.}/broken.png"), "broken.png"),
    (("{.}/words.png",), "is not a"),
    (("{.}/empty.png",), "is empty"),
    (("{.}/broken.mp4",), "broken.mp4"),
    (("{.}/gone.mp4",), "does not exist"),
    (("{.}/clip.mp4", "--start", "99"), "--start"),
    (("{.}/clip.mp4", "--start", "2", "--end", "1"), "--end"),
    (("{.}/clip.mp4", "--fps", "0"), "--fps"),
    (("{.}/clip.mp4", "--fps", "nan"), "--fps"),
    (("{.}/clip.mp4", "--max-frames", "0"), "--max-frames"),
    (("{.}/frames", "--source-fps", "-1"), "--source-fps"),
    (("{a}", "--alpha", "7"), "alpha"),
    (("{a}", "--draw-size", "1"), "draw"),
    (("{a}", "--device", "tpu"), "tpu"),
    (("--input-dir", "{.}/gone"), "no folder"),
    (("--input-dir", "{.}/a.png"), "no folder"),
    (("--input-dir", "https://example.org/x"), "URL"),
    (("--input-dir", "{.}", "--overwrite"), "--overwrite"),
    (("--input-dir", "{.}", "--at", "1,1"), "--at"),
    (("--input-dir", "{.}", "--saliency"), "--saliency"),
    (("--input-dir", "{.}", "--layer", "0"), "--layer"),
    (("--input-dir", "{.}", "--over", "min"), "--over"),
    *(
        (("--input-dir", "{.}", *words.split()), f"{words.split()[0]} is for single pictures and clips")
        for words in (
            *("--colormap jet", "--alpha 0.2", "--interp cells", "--blur 1", "--top-percent 50", "--draw-size full"),
            *("--scale frame", "--smooth", "--side-by-side", "--fps 1", "--max-frames 5", "--start 1", "--end 3"),
            "--source-fps 10",
        )
    ),
    *((("{a}", *words.split()), "is for clips") for words in ("--smooth", "--side-by-side", "--start 1", "--end 3")),
]


@pytest.fixture(scope="module")
def weightless(tmp_path_factory) -> Path:
    """A model whose weights would be no weights."""
    folder = shutil.copytree(tiny_encoders.folder("dino"), tmp_path_factory.mktemp("weightless") / "dino")
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    return folder


@pytest.mark.parametrize(("words", "reported"), FAULTS, ids=str)
def test_faults_are_told_before_the_weights(tmp_path, monkeypatch, weightless, words, reported):
    monkeypatch.undo()
    there = {"a": str(shown() / "a.png"), ".": str(shown())}
    typed = [word.replace("{a}", there["a"]).replace("{.}", there["."]) for word in words]
    stderr = refused(*typed, "--out", tmp_path / "out", model=weightless)
    assert reported in " ".join(stderr.split())
    assert "\x1b" not in stderr
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("model", "words", "reported"),
    [
        ("clip", ["--saliency"], "there is none"),
        ("clip", ["--saliency", "--label", "cat"], "no classes"),
        ("clip", ["--saliency", "--text", ""], "the text after --text is empty"),
        ("clip", ["--saliency", "--text", "cat", "--text", "cat"], "twice"),
        ("clip", ["--saliency", "--text", "cat " * 50], "--text"),
        ("clip", ["--saliency", "--text", "a</s>b"], "</s>"),
        ("vit-classes", ["--saliency", "--text", "cat"], "--label"),
        ("vit-classes", ["--saliency", "--label", "zebra"], "zebra"),
        ("qwen", ["--saliency"], "--saliency"),
        ("qwen", ["--at", "99,1"], "--at 99,1"),
        ("qwen", ["--max-pixels", "10"], "--max-pixels"),
    ],
)
def test_faults_of_a_family(tmp_path, model, words, reported):
    assert reported in refused(shown() / "a.png", *words, "--out", tmp_path, model=model)


def test_over_unknown_is_told(tmp_path):
    done = run(shown() / "a.png", "--over", "median")
    assert done.exit_code == 2
    assert "median" in done.stderr
    assert done.stdout == ""


def test_without_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setattr("qvl_attn.encoders.embedding.find_spec", lambda name: None)
    for words in ([shown() / "a.png"], ["--input-dir", shown()]):
        assert "qvl-attn[embeddings]" in refused(*words, "--embeddings", "pca", "--out", tmp_path / "x")


def model_with(folder: Path, **config) -> Path:
    """A copy of a model, its configuration changed."""
    shutil.copytree(tiny_encoders.folder("dino"), folder)
    value = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("config", "reported"),
    [
        ({"model_type": "llama"}, "'llama' model"),
        ({"model_type": "\x1b[31m"}, "no vision encoder"),
        ({"model_type": 5}, "no vision encoder"),
        ({"model_type": "beit"}, "Qwen2.5-VL, CLIP, SigLIP, ViT, DINO, DINOv2, DINOv2 with registers"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised"),
        ({"patch_size": [14, 7]}, "squares"),
        ({"num_hidden_layers": "many"}, ""),
    ],
)
def test_models_that_are_not_served(tmp_path, config, reported):
    stderr = refused(shown() / "a.png", "--out", tmp_path / "x", model=model_with(tmp_path / "m", **config), code=1)
    assert reported in " ".join(stderr.split())
    assert "\x1b" not in stderr


def test_folders_that_are_no_model(tmp_path):
    assert refused(shown() / "a.png", "--out", tmp_path / "x", model=shown(), code=1)
    pickled = shutil.copytree(tiny_encoders.folder("dino"), tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "safetensors" in refused(shown() / "a.png", "--out", tmp_path / "x", model=pickled, code=1)
    torn = shutil.copytree(tiny_encoders.folder("dino"), tmp_path / "torn")
    (torn / "config.json").write_text("{")
    assert "config.json" in refused(shown() / "a.png", "--out", tmp_path / "x", model=torn, code=1)


def test_weights_that_cannot_be_read(tmp_path, monkeypatch, weightless):
    monkeypatch.undo()
    done = run(shown() / "a.png", "--out", tmp_path, model=weightless)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "weights cannot be loaded" in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_a_damaged_look_that_is_found(tmp_path):
    run(shown() / "a.png", "--out", tmp_path)
    (folder,) = tmp_path.iterdir()
    value = json.loads((folder / "result.json").read_text())
    for name in ("said", "notes", "files", "headline", "layers", "peak_memory_bytes", "input_px", "saliency", "family"):
        spoilt = {key: one for key, one in value.items() if key != name}
        (folder / "result.json").write_text(json.dumps(spoilt))
        for flag in ("--json", "--debug"):
            done = run(shown() / "a.png", "--out", tmp_path, flag)
            assert done.exit_code == 1, name
            assert isinstance(done.exception, SystemExit), name
            assert "is damaged" in done.stderr
            assert "--overwrite" in done.stderr
    assert run(shown() / "a.png", "--out", tmp_path, "--overwrite").exit_code == 0


@pytest.mark.skipif(os.name != "posix", reason="names of POSIX")
def test_names_do_not_reach_the_terminal_as_they_are(tmp_path):
    for name in ("x\x1b[31m\ny.png", os.fsdecode(b"\xff\xe9.png"), "猫 cat.png"):
        path = tmp_path / name
        shutil.copy(shown() / "a.png", path)
        done = run(path, "--out", tmp_path / "out")
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.output
        done = run(path, "--out", tmp_path / "out", "--json")
        assert json.loads(done.stdout)["media"] == str(path)
        path.write_bytes(b"x")
        assert "\x1b" not in refused(path, "--out", tmp_path / "out")


def test_an_out_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "--out" in refused(shown() / "a.png", "--out", tmp_path / "file")
    assert "--out" in refused("--input-dir", shown(), "--out", tmp_path / "file")


def test_a_survey_is_told(tmp_path):
    done = run("--input-dir", shown(), "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["looked_at"], found["errors"], found["folder"]) == (8, 3, str(tmp_path / "out"))
    again = run("--input-dir", shown(), "--out", tmp_path / "out")
    assert "8 pictures, 3 could not be looked at" in again.stdout
    assert "the run is finished" in again.stderr
    for i, row in enumerate(found["layers"]):
        line = next(line for line in again.stdout.splitlines() if line.strip().startswith(f"{i} "))
        assert f"{row['entropy_bits']['mean']:.3f} ± {row['entropy_bits']['deviation']:.3f}" in line
    quiet = run("--input-dir", shown(), "--out", tmp_path / "out", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (f"{tmp_path / 'out'}\n", "")


# Real processes


def test_a_process_of_its_own(tmp_path):
    """stdout is data; what the libraries say, and colours, do not reach a pipe."""
    words = [
        str(shown() / "a.png"),
        str(shown() / "clip.mp4"),
        "--model",
        str(tiny_encoders.folder("registers")),
        "--json",
    ]
    words += ["--device", "cpu", "--max-frames", "2", "--draw-size", "64", "--at", "40,30", "--out", "out"]
    done = subprocess.run(
        [sys.executable, "-m", "qvl_attn", "encoder", *words],
        cwd=tmp_path,
        env=ENV,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "peak memory, look" in done.stderr
    for row in rows:
        folder = tmp_path / row["folder"]
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert there == {*json.loads((folder / "result.json").read_text())["files"]}
        assert np.isfinite(EncoderResult.load(folder).attention.received).all()
    assert (tmp_path / rows[1]["heatmap"]).is_file()


def test_the_encoder_of_the_library_is_the_same(tmp_path):
    done = run(shown() / "b.png", "--out", tmp_path, "--json", "--dtype", "float32")
    look = EncoderResult.load(json.loads(done.stdout)["folder"])
    plain = Encoder.load(str(tiny_encoders.folder("dino")), device="cpu", dtype="float32")
    from qvl_attn.media.image import load_picture

    assert np.array_equal(plain.encode(load_picture(shown() / "b.png")).attention.received, look.attention.received)
