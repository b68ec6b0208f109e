"""What needs no model is answered without the libraries that take seconds and hundreds of megabytes to load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from qvl_attn.cli.app import app
from tests.helpers.loading import without_loading

HEAVY = {"torch", "transformers", "torchvision", "qwen_vl_utils", "matplotlib"}
QUESTION = "how many cats?"
IN_ONE_PROCESS = """
import json, sys
from typer.testing import CliRunner
from qvl_attn.cli.app import app
done = [CliRunner().invoke(app, args) for args in json.loads(sys.argv[1])]
json.dump([[one.exit_code, one.stdout, one.stderr] for one in done] + [sorted(sys.modules)], sys.stdout)
"""


def run_together(commands):
    """Run commands in one new process; return (exit code, stdout, stderr) of each, and check what was imported."""
    arguments = [sys.executable, "-c", IN_ONE_PROCESS, json.dumps([[*map(str, command)] for command in commands])]
    out = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    *done, modules = json.loads(out)
    assert not HEAVY & set(modules)
    return done


@pytest.fixture
def in_process(tmp_path, monkeypatch, demo):
    """Run a command here, without loading the embedded model's weights each time."""
    monkeypatch.chdir(tmp_path)
    without_loading(monkeypatch, demo)

    def run(command):
        done = CliRunner().invoke(app, [*map(str, command)])
        assert done.exit_code == 0, done.output
        return done

    return run


def test_saved_results_are_found(in_process, cats, wide, clip_file):
    model, clip = ("--model", "demo", "--draw-size", 128), clip_file(4)
    commands = [
        ("ask", cats, QUESTION, *model),
        ("ask", cats, QUESTION, "what is in the middle?", "--image", wide, *model, "--json"),
        ("ask", cats, QUESTION, "--method", "mean", "--quiet", *model),
        ("video", clip, "what moves?", "--mode", "both", *model),
        ("encoder", cats, clip, *model),
    ]
    before = [in_process(command).stdout for command in commands]
    for command, first, (code, stdout, stderr) in zip(commands, before, run_together(commands), strict=True):
        assert code == 0, stderr
        assert stdout == first.replace('"reused": false', '"reused": true')
        assert ("nothing was computed" in stderr) == ("--quiet" not in command)
        assert "loading the weights" not in stderr


def test_the_command_itself(in_process, cats):
    """With the imports of the whole process, as the interpreter lists them."""
    command = ("ask", str(cats), QUESTION, "--model", "demo")
    in_process(command)
    again = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qvl_attn", *command], capture_output=True, text=True, check=True
    )
    assert "nothing was computed" in again.stderr
    imported = {line.rpartition("|")[2].strip() for line in again.stderr.splitlines() if "import time:" in line}
    assert "numpy" in imported, "the list is complete"
    assert not HEAVY & imported


def test_refusals(tmp_path, cats, clip_file):
    clip = clip_file(4)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": 1, "image": cats.name, "question": QUESTION}))
    shutil.copy(cats, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llava"}')
    (tmp_path / "model" / "model.safetensors").touch()
    model = ("--model", "demo")
    commands = {
        ("ask", cats, " ", *model): (2, "the question is empty"),
        ("ask", cats, QUESTION, "", *model): (2, "question 2 of 2: the question is empty"),
        ("ask", "nowhere.png", QUESTION, *model): (2, "nowhere.png does not exist"),
        ("ask", broken, QUESTION, *model): (2, "broken.png"),
        ("ask", cats, QUESTION, *model, "--method", "foo"): (2, "no method 'foo'"),
        ("ask", cats, QUESTION, *model, "--layers", "9"): (2, "no layer 9"),
        ("ask", cats, QUESTION, *model, "--query", "cats"): (2, "--query cats"),
        ("ask", cats, QUESTION, *model, "--system", " "): (2, "the system prompt is empty"),
        ("ask", cats, QUESTION, *model, "--alpha", 7): (2, "error: --alpha 7"),
        ("ask", cats, QUESTION, *model, "--device", "mps"): (2, "--device mps"),
        ("ask", cats, QUESTION, *model, "--overwrite", "--layers", "9"): (2, "no layer 9"),
        ("ask", cats, QUESTION, "--model", tmp_path / "model"): (1, "'llava' model"),
        ("ask", cats, QUESTION, "--model", "nobody/nothing", "--offline"): (1, "not in the cache"),
        ("video", clip, "", *model): (2, "the question is empty"),
        ("video", "nowhere.mp4", QUESTION, *model): (2, "nowhere.mp4 does not exist"),
        ("video", clip, QUESTION, *model, "--heads", "9"): (2, "no head 9"),
        ("ask", cats, QUESTION, "--model", empty): (2, "not a model hint: name the folder of a checkpoint"),
        ("encoder", "nowhere.png", *model): (2, "nowhere.png does not exist"),
        ("encoder", cats, *model, "--top-percent", 0): (2, "error: --top-percent 0"),
        ("encoder", cats, "--model", "nowhere"): (2, "--model nowhere: no such folder"),
        ("encoder", cats, "--model", empty): (2, "not a model"),
        ("encoder", cats, *model, "--device", "tpu"): (2, "--device tpu"),
        ("encoder", "--input-dir", empty, *model): (2, "0 pictures"),
        ("check", rows, "--out", tmp_path / "run", *model, "--methods", "foo"): (2, "--methods foo: no method 'foo'"),
        ("check", rows, "--out", tmp_path / "run", *model, "--query", "x"): (2, "--query x"),
        ("check", rows, "--out", tmp_path / "run", "--model", "nowhere"): (2, "--model nowhere: no such folder"),
        ("estimate", cats, "--model", "nowhere"): (2, "--model nowhere: no such folder"),
        ("estimate", cats, *model, "--device", "tpu"): (2, "--device tpu"),
        ("selftest", "--model", "nowhere"): (2, "--model nowhere: no such folder"),
        ("selftest", *model, "--device", "tpu"): (2, "--device tpu"),
        ("prompts", "foo"): (2, "error: foo: no such file or question set"),
    }
    done = run_together(commands)
    for command, (code, words), (exit_code, stdout, stderr) in zip(commands, commands.values(), done, strict=True):
        assert (exit_code, stdout) == (code, ""), (command, stderr)
        assert words in " ".join(stderr.split()), (command, stderr)
