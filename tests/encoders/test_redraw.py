"""`qvl-attn render` and `redrawn` of encoders' results: the same figures, drawn again without the encoder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn import ClipSettings, Drawing, EncoderResult, EncoderSettings, InputError, redrawn
from qvl_attn.cli.app import app
from qvl_attn.media.mp4 import write_mp4
from tests.conftest import numbered_frames
from tests.helpers import tiny_encoders

SMALL = Drawing(draw_size_px=96)
SAME = ("--draw-size", 96)
ROOT = Path(__file__).parents[2]


def encoded(path, out, drawing=SMALL, name="dino", **options):
    """Return the folder of a result of a small encoder."""
    return tiny_encoders.encoder(name).encode(path, EncoderSettings(**options)).save(out, drawing)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(tiny_encoders.pixels(150, 120)[0]).save(path)
    return path


@pytest.fixture(scope="module")
def saved(picture, tmp_path_factory):
    return encoded(picture, tmp_path_factory.mktemp("saved"), at=[(40, 30)])


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_mp4(path, zip(numbered_frames(6, (112, 84)), [i / 10 for i in range(6)], strict=True), 0.6, rate_fps=10)
    return path


@pytest.fixture(scope="module")
def saved_clip(clip_path, tmp_path_factory):
    return encoded(clip_path, tmp_path_factory.mktemp("clips"), clip=ClipSettings(fps=5))


def invoke(folder, *args):
    return CliRunner().invoke(app, ["render", str(folder), *map(str, args)])


def render(folder, *args):
    done = invoke(folder, *args, "--json")
    assert done.exit_code == 0, done.output
    return Path(json.loads(done.stdout)["folder"])


def refused(folder, *args):
    done = invoke(folder, *args)
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == 1
    return " ".join(done.stderr.split())


def content(folder):
    """Return all files, of result.json what was not measured."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    value = json.loads(files.pop("result.json"))
    del value["seconds"], value["peak_memory_bytes"]
    return files | {"result.json": value}


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_nothing_named_is_the_same_result_and_is_found(saved, picture, tmp_path):
    done = invoke(saved, *SAME)
    assert done.exit_code == 0, done.output
    assert "nothing was drawn (--overwrite does it again)" in " ".join(done.stderr.split())
    again = render(saved, *SAME, "--media", picture, "--out", tmp_path)
    assert again.name == saved.name
    assert content(again) == content(saved)


@pytest.mark.parametrize(
    ("words", "options", "drawing"),
    [
        ("--layer 0 --over max", {"layer": 0, "over": "max"}, SMALL),
        (
            "--denoise median --blur 0.5 --scale shared --colormap jet --alpha 0.7 --interp cells --top-percent 60",
            {},
            Drawing("jet", 0.7, "cells", 0.5, "shared", 60.0, 96, denoise="median"),
        ),
    ],
)
def test_a_render_is_what_encoding_so_would_give(saved, picture, tmp_path, words, options, drawing):
    asked = encoded(picture, tmp_path / "asked", drawing, at=[(40, 30)], **options)
    drawn = render(saved, *SAME, *words.split(), "--media", picture, "--out", tmp_path / "drawn")
    assert drawn.name == asked.name
    assert content(drawn) == content(asked)
    assert not np.array_equal(pixels(drawn / "cls" / "heads.png"), pixels(saved / "cls" / "heads.png"))


def test_the_original_gives_full_size(saved, picture, tmp_path):
    small = render(saved, "--draw-size", "full", "--out", tmp_path / "kept")
    (note,) = content(small)["result.json"]["notes"]
    assert note == "picture 1 is stored 96 pixels wide and drawn larger: --media names the original"
    full = render(saved, "--draw-size", "full", "--media", picture, "--out", tmp_path / "full")
    assert np.array_equal(pixels(full / "picture_1.png"), pixels(picture))
    assert content(full)["result.json"]["notes"] == []


def test_a_clip(saved_clip, clip_path, tmp_path):
    again = render(saved_clip, *SAME, "--media", clip_path, "--out", tmp_path)
    assert again.name == saved_clip.name
    assert content(again) == content(saved_clip)
    alone = render(saved_clip, *SAME, "--scale", "frame", "--side-by-side", "--over", "min", "--out", tmp_path)
    value = content(alone)["result.json"]
    assert "drawn from the sampled frames alone" in " ".join(value["notes"])
    assert value["headline"]["over"] == "min"
    frames = sorted((saved_clip / "frames").iterdir())
    assert [path.name for path in sorted((alone / "frames").iterdir())] == [path.name for path in frames]
    width = pixels(alone / "frames" / frames[0].name).shape[1]
    assert width == pixels(frames[0]).shape[1], "both are as wide as their text needs"
    assert not np.array_equal(pixels(alone / "frames" / frames[0].name), pixels(frames[0]))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--layers 1", "--layers 1 is not for a result of encoder hint: it has --layer, --over"),
        ("--heads 1", "--heads 1 is not for a result of encoder"),
        ("--query last", "--query last is not for a result of encoder"),
        ("--method mean", "--method mean is not for a result of encoder"),
        ("--layer 3", "--layer 3: the encoder has layers 0 to 2"),
        ("--layer=-1", "--layer -1: the encoder has layers 0 to 2"),
        ("--scale clip", "--scale clip is for clips, and no clip is drawn"),
        ("--smooth", "--smooth is for clips"),
        ("--alpha 7", "--alpha 7: want 0 to 1"),
        ("--media nowhere.png", "nowhere.png does not exist hint: name the picture of the result"),
        ("--media {cats}", "not the file of the result hint: name the file with sha256"),
    ],
)
def test_what_cannot_be_served(saved, cats, tmp_path, words, says):
    assert says in refused(saved, *words.format(cats=cats).split(), "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_question_has_no_choices_of_encoders(demo, cats, tmp_path):
    folder = demo.ask(cats, "how many cats?").save(tmp_path, SMALL)
    for words in (("--layer", 1), ("--over", "max")):
        says = refused(folder, *words)
        assert f"{words[0]} {words[1]} is not for a result of ask or video" in says
        assert "hint: it has --layers, --heads, --query, --method" in says


def test_a_damaged_result(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "copy")
    (folder / "input" / "000000.png").unlink()
    done = invoke(folder, "--layer", 0)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "input/000000.png" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_in_python(saved):
    result = EncoderResult.load(saved)
    assert redrawn(result) is result
    drawn = redrawn(result, layer=1, over="max")
    assert drawn.attention is result.attention
    assert (drawn.settings.layer, drawn.settings.over, drawn.head_layer) == (1, "max", 1)
    with pytest.raises(InputError, match="`over='median'`: unknown"):
        redrawn(result, over="median")
    with pytest.raises(TypeError, match="`layer`: want int or None"):
        redrawn(result, layer="1")


def test_no_torch(saved, saved_clip, clip_path, tmp_path):
    code = (
        "import json, sys; from typer.testing import CliRunner; from qvl_attn.cli.app import app\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    done = CliRunner().invoke(app, ['render', *words]); assert done.exit_code == 0, done.output\n"
        "print(sorted({'torch', 'torchvision', 'transformers', 'qwen_vl_utils'} & set(sys.modules)))"
    )
    out = ["--out", str(tmp_path)]
    words = [
        [str(saved), "--layer", "1", *out],
        [str(saved_clip), "--media", str(clip_path), "--draw-size", "96", "--over", "max", *out],
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(words)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"
    assert len(list(tmp_path.iterdir())) == 2
