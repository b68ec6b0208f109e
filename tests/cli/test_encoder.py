"""`qvl-attn encoder`: its input, its output, its errors and exit codes."""

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

from qvl_attn import Drawing
from qvl_attn.cli.app import app
from qvl_attn.encoders import engine as encoder_engine
from qvl_attn.encoders import inputs as encoder_inputs
from qvl_attn.encoders import result as encoder_result
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.media import image as media_image
from qvl_attn.media.mp4 import write_mp4
from qvl_attn.results import result as stored_result
from tests.conftest import numbered_frames
from tests.helpers import tiny_encoders
from tests.helpers.encoder_records import skip_drawing
from tests.helpers.processes import ENV, PATIENCE_S


@cache
def media_dir() -> Path:
    """A folder of pictures, clips and broken files."""
    folder = tiny_encoders.root() / "media"
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
    """Skip drawings and page: they take most of the time of a small result, and have tests of their own."""
    skip_drawing(patch)
    patch.setattr(stored_result, "results_html", lambda *args: "<!doctype html>")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    undraw(monkeypatch)
    monkeypatch.setattr(encoder_engine, "load_encoder_weights", loaded)


WEIGHTS, READ = {}, encoder_engine.load_encoder_weights


def loaded(checkpoint, *args):
    """Load the weights of a model once."""
    if checkpoint.folder not in WEIGHTS:
        WEIGHTS[checkpoint.folder] = READ(checkpoint, *args)
    return WEIGHTS[checkpoint.folder]


def run(*words, model: str | Path = "dino"):
    name = tiny_encoders.folder(model) if model in tiny_encoders.NAMES else model
    return CliRunner().invoke(app, ["encoder", "--device", "cpu", "--model", str(name), *map(str, words)])


def refused(*words, model: str | Path = "dino", code: int = 2) -> str:
    """Return the stderr of a refused command: one error line, maybe a hint; no traceback, nothing on stdout."""
    done = run(*words, model=model)
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stdout) == (code, ""), done.output
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, done.stderr
    assert "loading the weights" not in done.stderr
    return done.stderr


def test_a_picture(tmp_path):
    done = run(media_dir() / "a.png", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    (folder,) = tmp_path.iterdir()
    assert f"report: {folder / 'report.html'}" in done.stdout
    assert "5 x 5 patches of 14 px, 3 layers, 2 heads" in done.stdout
    assert "ViT or DINO" in done.stdout
    for word in ("loading the weights", "peak memory, look: ", "peak memory, prepare: "):
        assert word in done.stderr
        assert word not in done.stdout
    assert EncoderResult.load(folder).settings.at == ()


def test_a_saved_result_is_reused(tmp_path, monkeypatch):
    first = run(media_dir() / "a.png", "--out", tmp_path, "--json")
    monkeypatch.setattr(encoder_engine, "load_encoder_weights", lambda *args: pytest.fail("weights were loaded"))
    again = run(media_dir() / "a.png", "--out", tmp_path, "--json")
    assert again.exit_code == 0, again.output
    assert "nothing was computed" in again.stderr
    assert ("peak memory" in first.stderr, "peak memory" in again.stderr) == (True, False)
    computed, reused = json.loads(first.stdout), json.loads(again.stdout)
    assert (computed.pop("reused"), reused.pop("reused")) == (False, True)
    assert computed == reused
    assert {*computed["seconds"]} == {"prepare", "look", "draw"}
    monkeypatch.undo()
    undraw(monkeypatch)
    overwritten = run(media_dir() / "a.png", "--out", tmp_path, "--json", "--overwrite")
    assert json.loads(overwritten.stdout)["reused"] is False
    assert len([*tmp_path.iterdir()]) == 1


def test_one_json_object_per_result(tmp_path):
    names = ["a.png", "b.png", "clip.mp4", "frames"]
    done = run(*(media_dir() / name for name in names), "--out", tmp_path, "--json", "--max-frames", 3)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    folders = " ".join(row["folder"] for row in rows)
    assert done.stderr.splitlines()[-1] == f"side by side: qvl-attn report {folders} --out page.html"
    assert [row["media"] for row in rows] == [str(media_dir() / name) for name in names]
    assert [row["grid"] for row in rows] == [[1, 5, 5], [1, 5, 5], [2, 5, 5], [1, 5, 5]]
    for row in rows:
        result = EncoderResult.load(row["folder"])
        assert list(result.attention.grid) == row["grid"]
        assert ("heatmap" in row) == (result.media[0].clip is not None)
        assert row["headline"]["query"] == "cls"
        assert len(row["layers"]) == tiny_encoders.LAYERS


def test_only_one_picture_is_in_memory(tmp_path, monkeypatch):
    """And a clip is decoded only when it is its turn."""
    references, real, order = [], media_image.load_picture, []

    def load_once(*args):
        assert not any(reference() is not None for reference in references)
        picture = real(*args)
        references.append(weakref.ref(picture.frames))
        return picture

    real_clip, real_encode = encoder_inputs.load_encoder_clip, EncoderEngine.encode
    for module in ("encoders.session", "media.given"):
        monkeypatch.setattr(f"qvl_attn.{module}.load_picture", load_once)
    clip = "qvl_attn.encoders.engine.load_encoder_clip"
    monkeypatch.setattr(clip, lambda *args: order.append("clip") or real_clip(*args))
    monkeypatch.setattr(EncoderEngine, "encode", lambda *args: order.append("encode") or real_encode(*args))
    names = ["a.png", "b.png", "clip.mp4"]
    done = run(*(media_dir() / name for name in names), "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    assert len(references) == 6
    assert order == ["encode", "encode", "encode", "clip"]


def test_progress_is_reported(tmp_path, monkeypatch):
    reported = []

    @contextmanager
    def bars(*, enabled):
        yield lambda *values: reported.append(values)

    monkeypatch.setattr(sys.modules["qvl_attn.cli.encoder"], "progress_bars", bars)
    assert run(media_dir() / "a.png", "--out", tmp_path / "a").exit_code == 0
    assert ("encoding", tiny_encoders.LAYERS, tiny_encoders.LAYERS) in reported
    reported.clear()
    assert run("--input-dir", media_dir(), "--out", tmp_path / "b").exit_code == 0
    assert {total for what, _, total in reported if what == "encoding"} == {11}


def test_quiet(tmp_path):
    done = run(media_dir() / "a.png", media_dir() / "b.png", "--out", tmp_path, "--quiet")
    assert done.exit_code == 0
    assert sorted(done.stdout.split()) == sorted(map(str, tmp_path.iterdir()))
    assert done.stderr == ""
    done = run(media_dir() / "a.png", "--out", tmp_path, "--quiet", "--json")
    assert json.loads(done.stdout)["reused"] is True
    assert done.stderr == ""


def test_every_option_arrives(tmp_path, monkeypatch):
    drawings = []
    real = encoder_result.draw_encoder_result
    monkeypatch.setattr(
        encoder_result, "draw_encoder_result", lambda result, drawing: drawings.append(drawing) or real(result, drawing)
    )
    words = "--at 40,30 --at 20.5,10 --layer 1 --over max --embeddings tsne,pca --saliency --text cat --text dog"
    words += " --seed 5 --min-pixels 2000 --max-pixels 6000 --fps 5 --max-frames 4 --start 0.1 --end 0.5"
    words += " --scale frame --smooth --side-by-side --colormap jet --alpha 0.25 --interp cells --blur 0.5"
    words += " --denoise rank-gaussian"
    words += " --top-percent 60 --draw-size 99 --dtype float32"
    done = run(media_dir() / "clip.mp4", *words.split(), "--out", tmp_path, "--json", model="clip")
    assert done.exit_code == 0, done.output
    saved = EncoderResult.load(json.loads(done.stdout)["folder"]).settings
    assert saved.at == ((40, 30), (20.5, 10))
    assert (saved.layer, saved.over, {*saved.embeddings}, saved.seed) == (1, "max", {"pca", "tsne"}, 5)
    assert (saved.saliency, saved.texts, saved.min_pixels, saved.max_pixels) == (True, ("cat", "dog"), 2000, 6000)
    assert (saved.clip.fps, saved.clip.max_frames, saved.clip.start_s, saved.clip.end_s) == (5, 4, 0.1, 0.5)
    (drawing,) = drawings
    assert (drawing.clip_scale, drawing.smooth, drawing.side_by_side, drawing.colormap) == ("frame", True, True, "jet")
    assert (drawing.alpha, drawing.interp, drawing.blur_cells, drawing.top_percent) == (0.25, "cells", 0.5, 60)
    assert (drawing.draw_size_px, drawing.denoise) == (99, "rank-gaussian")


def test_the_scale_of_pictures_and_of_clips(tmp_path):
    """Of both together each scale belongs to its own kind; without that kind it is refused."""
    paths = media_dir() / "a.png", media_dir() / "clip.mp4"
    for scale, field in (("shared", "scale"), ("frame", "clip_scale")):
        done = run(*paths, "--scale", scale, "--max-frames", 2, "--out", tmp_path, "--json")
        assert done.exit_code == 0, done.output
        for line in done.stdout.splitlines():
            folder = Path(json.loads(line)["folder"])
            assert EncoderResult.load(folder).folder(tmp_path, Drawing(**{field: scale})) == folder
    assert "--scale frame is for clips, and no clip is drawn" in refused(paths[0], "--scale", "frame")
    assert "--scale shared is for pictures, and no picture is drawn" in refused(paths[1], "--scale", "shared")


def test_one_picture_is_decoded_once(tmp_path, monkeypatch):
    opened, load = [], media_image.load_picture
    for module in ("encoders.session", "media.given"):
        monkeypatch.setattr(f"qvl_attn.{module}.load_picture", lambda *args: opened.append(1) or load(*args))
    for _ in range(2):
        assert run(media_dir() / "a.png", "--out", tmp_path).exit_code == 0
    assert len(opened) == 2, "once for the run, and once to find it again"


def test_a_class_is_printed(tmp_path):
    words = (media_dir() / "a.png", "--saliency", "--label", "blue circle", "--out", tmp_path)
    done = run(*words, model="vit-classes")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("blue circle") >= 2


# Faults that are reported before the weights are loaded

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
    (("{a}", "--saliency"), "neither classes nor a text tower"),
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
    (("{a}", "--source-fps", "8"), "--source-fps is for a folder of frames, and none is given"),
    (("{a}", "--alpha", "7"), "error: --alpha 7: want 0 to 1"),
    (("{a}", "--draw-size", "1"), "error: --draw-size 1: want 64"),
    (("{a}", "--top-percent", "0"), "error: --top-percent 0: want"),
    (("{a}", "--blur", "-1"), "error: --blur -1: want"),
    (("{a}", "--device", "tpu"), "tpu"),
    (("--input-dir", "{.}/gone"), "not a folder"),
    (("--input-dir", "{.}/a.png"), "not a folder"),
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
            "--denoise median",
            *("--scale frame", "--smooth", "--side-by-side", "--fps 1", "--max-frames 5", "--start 1", "--end 3"),
            "--source-fps 10",
        )
    ),
    *((("{a}", *words.split()), "is for clips") for words in ("--smooth", "--side-by-side", "--start 1", "--end 3")),
]


@pytest.fixture(scope="module")
def weightless(tmp_path_factory) -> Path:
    """A model whose weights file is broken."""
    folder = shutil.copytree(tiny_encoders.folder("dino"), tmp_path_factory.mktemp("weightless") / "dino")
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    return folder


@pytest.mark.parametrize(("words", "reported"), FAULTS, ids=str)
def test_faults_are_reported_before_the_weights_are_loaded(tmp_path, monkeypatch, weightless, words, reported):
    monkeypatch.undo()
    paths = {"a": str(media_dir() / "a.png"), ".": str(media_dir())}
    typed = [word.replace("{a}", paths["a"]).replace("{.}", paths["."]) for word in words]
    stderr = refused(*typed, "--out", tmp_path / "out", model=weightless)
    assert reported in " ".join(stderr.split())
    assert "\x1b" not in stderr
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("model", "words", "reported"),
    [
        ("clip", ["--saliency"], "none is given"),
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
    assert reported in refused(media_dir() / "a.png", *words, "--out", tmp_path, model=model)


def test_an_unknown_over_is_refused(tmp_path):
    done = run(media_dir() / "a.png", "--over", "median")
    assert done.exit_code == 2
    assert "median" in done.stderr
    assert done.stdout == ""


def test_without_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setattr("qvl_attn.encoders.embedding.find_spec", lambda name: None)
    for words in ([media_dir() / "a.png"], ["--input-dir", media_dir()]):
        assert "qvl-attn[embeddings]" in refused(*words, "--embeddings", "pca", "--out", tmp_path / "x")


def model_with(folder: Path, **config) -> Path:
    """Copy a model and change its configuration."""
    shutil.copytree(tiny_encoders.folder("dino"), folder)
    value = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("config", "reported"),
    [
        ({"model_type": "llama"}, "'llama' model"),
        ({"model_type": "\x1b[31m"}, "not a supported vision encoder"),
        ({"model_type": 5}, "not a supported vision encoder"),
        ({"model_type": "beit"}, "Qwen2.5-VL, CLIP, SigLIP, ViT, DINO, DINOv2, DINOv2 with registers"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised"),
        ({"patch_size": [14, 7]}, "not square are not supported"),
        ({"num_hidden_layers": "many"}, ""),
    ],
)
def test_unsupported_models(tmp_path, config, reported):
    stderr = refused(media_dir() / "a.png", "--out", tmp_path / "x", model=model_with(tmp_path / "m", **config), code=1)
    assert reported in " ".join(stderr.split())
    assert "\x1b" not in stderr


def test_folders_that_are_not_a_model(tmp_path):
    assert "hint: name the folder of a checkpoint" in refused(media_dir() / "a.png", model=media_dir())
    pickled = shutil.copytree(tiny_encoders.folder("dino"), tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    assert "safetensors" in refused(media_dir() / "a.png", "--out", tmp_path / "x", model=pickled, code=1)
    torn = shutil.copytree(tiny_encoders.folder("dino"), tmp_path / "torn")
    (torn / "config.json").write_text("{")
    assert "config.json" in refused(media_dir() / "a.png", "--out", tmp_path / "x", model=torn, code=1)


def test_weights_that_cannot_be_read(tmp_path, monkeypatch, weightless):
    monkeypatch.undo()
    done = run(media_dir() / "a.png", "--out", tmp_path, model=weightless)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "weights cannot be loaded" in done.stderr
    assert [*tmp_path.iterdir()] == []


def test_a_damaged_saved_result(tmp_path):
    run(media_dir() / "a.png", "--out", tmp_path)
    (folder,) = tmp_path.iterdir()
    value = json.loads((folder / "result.json").read_text())
    for name in ("said", "notes", "files", "headline", "layers", "seconds", "input_px", "saliency", "family"):
        damaged = {key: entry for key, entry in value.items() if key != name}
        (folder / "result.json").write_text(json.dumps(damaged))
        for flag in ("--json", "--debug"):
            done = run(media_dir() / "a.png", "--out", tmp_path, flag)
            assert done.exit_code == 1, name
            assert isinstance(done.exception, SystemExit), name
            assert "is damaged" in done.stderr
            assert "--overwrite" in done.stderr
    assert run(media_dir() / "a.png", "--out", tmp_path, "--overwrite").exit_code == 0


@pytest.mark.skipif(os.name != "posix", reason="names of POSIX")
def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path):
    for name in ("x\x1b[31m\ny.png", os.fsdecode(b"\xff\xe9.png"), "猫 cat.png"):
        path = tmp_path / name
        shutil.copy(media_dir() / "a.png", path)
        done = run(path, "--out", tmp_path / "out")
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.output
        done = run(path, "--out", tmp_path / "out", "--json")
        assert json.loads(done.stdout)["media"] == str(path)
        path.write_bytes(b"x")
        assert "\x1b" not in refused(path, "--out", tmp_path / "out")


def test_an_out_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "--out" in refused(media_dir() / "a.png", "--out", tmp_path / "file")
    assert "--out" in refused("--input-dir", media_dir(), "--out", tmp_path / "file")


def test_a_folder_run_needs_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(media_dir() / "a.png").exit_code == 0
    stderr = refused("--input-dir", media_dir())
    assert "--out qvl-attn-out, where results go without --out, holds something other than a run" in stderr
    assert "name a new folder for the run: --out" in stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    assert "--out mine holds something" in refused("--input-dir", media_dir(), "--out", "mine")


def test_a_folder_run_is_printed(tmp_path):
    done = run("--input-dir", media_dir(), "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["looked_at"], summary["errors"], summary["folder"]) == (8, 3, str(tmp_path / "out"))
    again = run("--input-dir", media_dir(), "--out", tmp_path / "out")
    assert "8 pictures, 3 could not be encoded" in again.stdout
    assert "the run is finished" in again.stderr
    for i, row in enumerate(summary["layers"]):
        line = next(line for line in again.stdout.splitlines() if line.strip().startswith(f"{i} "))
        assert f"{row['entropy_bits']['mean']:.3f} ± {row['entropy_bits']['deviation']:.3f}" in line
    quiet = run("--input-dir", media_dir(), "--out", tmp_path / "out", "--quiet")
    assert (quiet.stdout, quiet.stderr) == (f"{tmp_path / 'out'}\n", "")


# Real processes


def test_in_a_separate_process(tmp_path):
    """stdout has only data; messages of libraries and colours do not reach a pipe."""
    words = [
        str(media_dir() / "a.png"),
        str(media_dir() / "clip.mp4"),
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
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "peak memory, look" in done.stderr
    for row in rows:
        folder = tmp_path / row["folder"]
        written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert written == {*json.loads((folder / "result.json").read_text())["files"]}
        assert np.isfinite(EncoderResult.load(folder).attention.received).all()
    assert (tmp_path / rows[1]["heatmap"]).is_file()


def test_the_python_api_gives_the_same_numbers(tmp_path):
    done = run(media_dir() / "b.png", "--out", tmp_path, "--json", "--dtype", "float32")
    result = EncoderResult.load(json.loads(done.stdout)["folder"])
    plain = EncoderEngine.load(str(tiny_encoders.folder("dino")), device="cpu", dtype="float32")
    from qvl_attn.media.image import load_picture

    assert np.array_equal(
        plain.encode(load_picture(media_dir() / "b.png")).attention.received, result.attention.received
    )
