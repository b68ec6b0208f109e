"""A check with Ray: the same run as a local one, whoever dies in the middle. Ray runs in processes of its own here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from qvl_attn.cli import app
from tests.conftest import DEMO_MODEL, DEMO_PICTURES
from tests.helpers.run_comparison import COMMAND, ENVIRONMENT, assert_runs_match, json_differences, rows_of, summary_of

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'qvl-attn[ray]'")
WITH_RAY = ("--engine", "ray", "--concurrency", "2")
RAY_ENVIRONMENT = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_")}
PATIENCE_S = 240


@pytest.fixture
def local(demo, monkeypatch):
    """The command in this process, without loading the weights."""
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: demo.model)
    return lambda data, out, *words: CliRunner().invoke(app, words_of(data, out, *words))


def words_of(data, out, *words):
    return ["check", *map(str, (data, "--out", out, "--model", "demo", "--max-new-tokens", 3, "--batch-size", 1))] + [
        str(word) for word in words
    ]


def command(data, out, *words, code=None, **more):
    """The command as a process; with Python code that is run before it."""
    start = COMMAND if code is None else [sys.executable, "-c", code + "\nfrom qvl_attn.__main__ import main\nmain()\n"]
    return subprocess.Popen(
        [*start, *words_of(data, out, *words)],
        env=RAY_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal does
        **more,
    )


def finished(process):
    """Exit code, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    return process.returncode, stdout, stderr


def write_data(folder, copies, questions) -> Path:
    """Some questions about copies of the demo pictures, and about one that is cut off after its header."""
    rows = []
    for i, picture in enumerate([*sorted(DEMO_PICTURES.glob("*.png"))] * copies):
        shutil.copyfile(picture, folder / f"{i}.png")
        row = {"image": f"{i}.png", "boxes": [[20, 30, 60, 80]], "box_format": "xyxy", "box_units": "px", "answer": "2"}
        rows += [row | {"id": f"{i}-{j}", "question": f"how many cats?{' ' * j}"} for j in range(questions)]
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:400])
    rows.insert(5, rows[0] | {"id": "cut", "image": "cut.png"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "rows.jsonl"


def lines_of(out) -> list[str]:
    path = out / "scores.jsonl"
    return path.read_text("utf-8").splitlines() if path.exists() else []


def wait_for_rows(process, out, count):
    end = time.monotonic() + PATIENCE_S
    while len(lines_of(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    assert not (out / "summary.json").exists(), "it is in the middle"


def family_of(process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def actors_in(family) -> list[psutil.Process]:
    return [one for one in family if "ray::MapWorker" in " ".join(one.cmdline())]


def assert_gone(family):
    """Soon, and what is left is ended here. A zombie is only an entry that nobody has asked for.

    Two small agents of Ray may stay for a minute after a driver that did not say goodbye; they hold no model.
    """

    def running():
        return [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def told():
        words = [" ".join(one.cmdline()).strip() for one in running()]
        return [line for line in words if not (line.startswith("ray::") and line.endswith("Agent"))]

    end = time.monotonic() + 20
    while told() and time.monotonic() < end:
        time.sleep(0.1)
    left = told()
    for one in running():
        one.kill()
    assert left == []


# The same run


@needs_ray
def test_two_actors_make_the_run_that_this_process_makes(local, tmp_path):
    """To the last byte, but for the order of the rows and the time they took; and nobody is told of it."""
    data = write_data(tmp_path, 1, 3)
    code = (
        "import atexit, os, sys\n"
        "def tell():\n"
        "    from ray._common.usage import usage_lib\n"
        "    told = 'not there' if 'ray' not in sys.modules else usage_lib.usage_stats_enabled()\n"
        "    print(f'report of usage: {told}')\n"
        "atexit.register(tell)\n"
    )
    done = command(data, tmp_path / "ray", *WITH_RAY, "--json", "--csv", code=code)
    wait_for_rows(done, tmp_path / "ray", 1)
    family = family_of(done)
    returned, stdout, stderr = finished(done)
    assert returned == 0, stderr
    assert local(data, tmp_path / "local", "--csv").exit_code == 0
    printed, report = stdout.splitlines()
    assert json.loads(printed) == summary_of(tmp_path / "ray")
    assert report == "report of usage: False"
    assert [line.partition(" ")[0] for line in stderr.splitlines()] == ["19", "connecting", "demo", "Ray:", "Ray:"], (
        stderr
    )
    assert "Ray: 2 actors to score, with " in stderr
    summary = (tmp_path / "local" / "summary.json").read_bytes()
    assert (tmp_path / "ray" / "summary.json").read_bytes() == summary
    assert summary_of(tmp_path / "ray")["errors"] == 1
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "local")
    assert_runs_match(tmp_path / "ray", tmp_path / "local")
    assert_gone(family)


# Who dies in the middle


@needs_ray
@pytest.mark.slow
def test_an_actor_that_is_killed_costs_no_row(local, tmp_path):
    data = write_data(tmp_path, 10, 10)
    run = command(data, tmp_path / "ray", *WITH_RAY, "--quiet")
    wait_for_rows(run, tmp_path / "ray", 20)
    family = family_of(run)
    actors_in(family)[0].kill()
    returned, stdout, stderr = finished(run)
    assert (returned, stdout, stderr) == (0, f"{tmp_path / 'ray' / 'summary.json'}\n", "")
    assert local(data, tmp_path / "local").exit_code == 0
    assert_runs_match(tmp_path / "ray", tmp_path / "local")
    assert_gone(family)


@needs_ray
@pytest.mark.slow
def test_a_run_that_is_interrupted_and_killed_goes_on_with_either_engine(local, tmp_path):
    data, out = write_data(tmp_path, 10, 10), tmp_path / "ray"
    run = command(data, out, *WITH_RAY)
    wait_for_rows(run, out, 10)
    family = family_of(run)
    os.killpg(run.pid, signal.SIGINT)
    returned, stdout, stderr = finished(run)
    assert (returned, stdout) == (130, "")
    assert f"interrupted; finished rows are kept in {out}: run the same command to continue" in " ".join(stderr.split())
    assert "Traceback" not in stderr
    assert_gone(family)
    kept = lines_of(out)
    assert len(kept) >= 10
    assert not (out / "summary.json").exists()

    run = command(data, out, *WITH_RAY)
    wait_for_rows(run, out, len(kept) + 100)
    family = family_of(run)
    assert len(actors_in(family)) == 2
    run.kill()
    assert f"{len(kept)} of 601 samples are already done" in finished(run)[2]
    assert_gone(family)
    assert lines_of(out)[: len(kept)] == kept

    kept = lines_of(out)
    done = local(data, out)
    assert done.exit_code == 0, done.output
    whole = [line for line in kept if line.endswith("}")]  # the last may be torn
    assert len(whole) >= len(kept) - 1
    assert lines_of(out)[: len(whole)] == whole
    assert local(data, tmp_path / "local").exit_code == 0
    assert_runs_match(out, tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_what_kills_every_actor_costs_its_own_row(local, tmp_path):
    """All that an actor had in hand is lost with it, and then asked one by one, however often it is started again."""
    data, out = write_data(tmp_path, 1, 10), tmp_path / "ray"
    code = (
        "import os\n"
        "import qvl_attn.evaluation.ray_workers as room\n"
        "room.RESTARTS = 0\n"
        "class Deadly(room._Scorer):\n"
        "    def answer(self, hand):\n"
        "        if any(one.id == '2-3' for i in hand for one in self.work[0][i]): os._exit(1)\n"
        "        yield from super().answer(hand)\n"
        "room._Scorer = Deadly\n"
    )
    returned, _, stderr = finished(command(data, out, "--engine", "ray", code=code))
    assert returned == 0, stderr
    assert "Traceback" not in stderr
    assert local(data, tmp_path / "local").exit_code == 0
    rows, sound = rows_of(out), rows_of(tmp_path / "local")
    (place,) = [i for i, row in enumerate(sound) if row["id"] == "2-3"]
    killed = rows.pop(place)
    sound.pop(place)
    assert (killed["id"], killed["error"]) == ("2-3", "the actor that ran this sample died 4 times")
    assert json_differences(rows, sound) == []


@needs_ray
@pytest.mark.slow
def test_with_every_row_there_no_actor_scores(local, tmp_path):
    """But one draws the pictures."""
    data = write_data(tmp_path, 1, 2)
    assert local(data, tmp_path / "local").exit_code == 0
    shutil.copytree(tmp_path / "local", tmp_path / "ray")
    (tmp_path / "ray" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "ray" / "gallery")
    returned, _, stderr = finished(command(data, tmp_path / "ray", *WITH_RAY))
    assert returned == 0, stderr
    assert stderr.count("Ray: ") == 1
    assert_runs_match(tmp_path / "ray", tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_a_bug_in_an_actor_is_told_with_its_traceback(tmp_path):
    code = (
        "import qvl_attn.evaluation.ray_workers as room\n"
        "class Wrong(room._Scorer):\n"
        "    def answer(self, hand):\n"
        "        yield {'row': 1 / 0}\n"
        "room._Scorer = Wrong\n"
    )
    returned, stdout, stderr = finished(command(write_data(tmp_path, 1, 1), tmp_path / "run", *WITH_RAY, code=code))
    assert (returned, stdout) == (1, "")
    assert "RuntimeError: in an actor of Ray:" in stderr
    assert "ZeroDivisionError: division by zero" in stderr
    assert "yield {'row': 1 / 0}" in stderr or "in answer" in stderr


@needs_ray
@pytest.mark.slow
def test_a_model_that_no_actor_can_load_is_one_line(tmp_path):
    """This process never reads the weights: only an actor can find that they are broken."""
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    (weights,) = (tmp_path / "model").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100_000])
    run = command(write_data(tmp_path, 1, 1), tmp_path / "run", *WITH_RAY, "--quiet", "--model", tmp_path / "model")
    returned, stdout, stderr = finished(run)
    assert (returned, stdout) == (1, "")
    assert len(stderr.splitlines()) <= 2, stderr
    assert "error: an actor of Ray: " in stderr
    assert str(tmp_path / "model") in stderr
    assert not list((tmp_path / "run").glob("*"))


@needs_ray
@pytest.mark.slow
def test_more_gpus_than_there_are_are_one_line(tmp_path):
    words = (*WITH_RAY, "--gpus-per-worker", 64, "--quiet")
    returned, stdout, stderr = finished(command(write_data(tmp_path, 1, 1), tmp_path / "run", *words))
    assert (returned, stdout) == (2, "")
    assert stderr.startswith("error: --gpus-per-worker 64: this machine has ")
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
