"""Whatever option gets a very long word, the answer is one short error: no traceback, no screenful of the word."""

from __future__ import annotations

import re

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from qvl_attn.cli.app import app

NINES = "9" * 5000  # more digits than Python makes a number of
# Texts may be of any length; a split is only for data sets of another kind.
ANY_TEXT = {"--system", "--answer", "--question", "--text", "--split"}
ARGUMENTS = {
    "ask": ["one.png", "what is this?", "--model", "demo"],
    "video": ["frames", "what is this?", "--model", "demo"],
    "encoder": ["one.png", "--model", "demo"],
    "check": ["rows.jsonl", "--out", "run", "--model", "demo"],
    "render": ["result"],
    "merge": ["a", "b", "--out", "run"],
    "compare": ["a", "b"],
    "report": ["result"],
    "estimate": ["one.png", "--model", "demo"],
    "selftest": ["--model", "demo"],
    "demo-data": [],
    "prompts": [],
    "methods": [],
}
OPTIONS = [
    (command, max(option.opts, key=len))
    for command, parameters in get_command(app).commands.items()
    for option in parameters.params
    if option.param_type_name == "option" and not option.is_flag and not ANY_TEXT & {*option.opts}
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    (folder / "frames").mkdir()
    for name in ("one.png", "frames/0.png", "frames/1.png"):
        Image.new("RGB", (56, 56), (200, 60, 60)).save(folder / name)
    (folder / "rows.jsonl").write_text('{"id": "a", "image": "one.png", "question": "what is this?"}')
    return folder


def refused(words):
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, SystemExit), repr(done.exception)[:200]
    assert done.exit_code == 2, done.stderr[-300:]
    errors = re.findall(r"^error: |─ Error ─", done.stderr, re.MULTILINE)
    assert len(errors) == 1, done.stderr[-300:]
    assert len(done.stderr) < 1500, f"{len(done.stderr)} characters"


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_a_very_long_value(folder, monkeypatch, command, option):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    refused([command, *ARGUMENTS[command], option, NINES])


@pytest.mark.parametrize("command", ["ask", "video", "encoder", "check", "render", "merge", "report", "estimate"])
def test_a_very_long_path(folder, monkeypatch, command):
    monkeypatch.chdir(folder)
    refused([command, NINES, *ARGUMENTS[command][1:]])


def test_a_point_that_no_picture_has(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("qvl_attn.cli.encoder.find_encoder", None)
    refused(["encoder", "one.png", "--at", f"{NINES},1"])
