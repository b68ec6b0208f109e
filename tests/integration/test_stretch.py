"""`--stretch`: a 16-bit picture that uses a sixteenth of its range is asked as its 8-bit original is."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn import Encoder, Result
from qvl_attn.cli.app import app
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.media.image import load_picture
from qvl_attn.results.redraw import redrawn
from tests.helpers.check_runs import invoke, without_drawings
from tests.helpers.loading import without_loading

QUESTION = "how many cats?"
HINT = " (--stretch scales what it uses)"
NOTE = f"it uses 0 to 4095 of 0 to 65535, 6.2% of the range: the model sees little contrast{HINT}"


@pytest.fixture
def dark(cats, tmp_path, monkeypatch):
    """A grey picture of cats, and the same with 12 bits in 16."""
    monkeypatch.chdir(tmp_path)
    grey = np.asarray(Image.open(cats).convert("L"))
    levels = (grey.astype(float) - grey.min()) / (grey.max() - grey.min())
    Image.fromarray(np.rint(levels * 255).astype(np.uint8)).save("bright.png")
    cv2.imwrite("dark.png", np.rint(levels * 4095).astype(np.uint16))
    return tmp_path / "dark.png"


def test_a_question(demo, dark, tmp_path):
    faint, stretched = demo.ask(dark, QUESTION), demo.ask(dark, QUESTION, stretch=True)
    bright = demo.ask(tmp_path / "bright.png", QUESTION)
    assert any(NOTE in note for note in faint.media[0].notes)
    assert stretched.media[0].notes == ("16-bit grey: 0 to 4095 scaled to 8 bits",)
    assert np.abs(stretched.media[0].frames.astype(int) - bright.media[0].frames).max() <= 1
    assert np.abs(stretched.capture.weights - bright.capture.weights).max() < 0.02
    assert np.abs(faint.capture.weights - bright.capture.weights).max() > 0.1
    folder = stretched.save(tmp_path / "out")
    assert folder != faint.save(tmp_path / "out")
    assert json.loads((folder / "result.json").read_text())["settings"]["stretch"] is True
    loaded = Result.load(folder)
    assert loaded.settings.stretch
    done = CliRunner().invoke(
        app, ["ask", str(dark), QUESTION, "-m", "demo", "--stretch", "--out", str(tmp_path / "out")]
    )
    assert f"found complete in {folder}" in done.stderr
    again = redrawn(loaded, media=[dark])
    assert np.array_equal(again.media[0].frames, stretched.media[0].frames)


def test_a_check(demo, dark, tmp_path, monkeypatch):
    without_loading(monkeypatch, demo)
    without_drawings(monkeypatch)
    row = {"image": "dark.png", "question": QUESTION, "answer": "2"}
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"id": str(i), **row}) + "\n" for i in range(2)), encoding="utf-8"
    )
    faint = invoke(tmp_path / "rows.jsonl", out="faint")
    assert faint.exit_code == 0, faint.output
    assert faint.stderr.count(f"dark.png: {NOTE}; said of the first such picture only") == 1
    stretched = invoke(tmp_path / "rows.jsonl", "--stretch", out="stretched")
    assert NOTE not in stretched.stderr
    masses = [
        json.loads((tmp_path / run / "scores.jsonl").read_text().splitlines()[0])["headline"]["vision_mass"]
        for run in ("faint", "stretched")
    ]
    assert masses[1] == pytest.approx(demo.ask(dark, QUESTION, stretch=True).heatmap().vision_mass, rel=1e-3)
    assert masses[0] != pytest.approx(masses[1], rel=1e-2)


def test_an_encoder(demo, dark, tmp_path):
    encoder = Encoder.load("demo", dtype="float32", device="cpu")
    stretched = encoder.encode(dark, stretch=True)
    assert np.array_equal(stretched.media[0].frames, load_picture(dark, stretch=True).frames)
    folder = stretched.save(tmp_path / "out")
    assert EncoderResult.load(folder).settings.stretch
    words = [str(dark), "-m", "demo", "--dtype", "float32", "--stretch", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["encoder", *words])
    assert f"found complete in {folder}" in done.stderr
    assert not encoder.encode(dark).settings.stretch
