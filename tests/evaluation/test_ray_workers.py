"""A check with Ray: the same outputs as a local run, even if actors die. Each test runs Ray in new processes."""

from __future__ import annotations

import json
import os
import re
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

from qvl_attn.cli.app import app
from tests.conftest import DEMO_MODEL, DEMO_PICTURES
from tests.helpers.loading import without_loading
from tests.helpers.processes import PATIENCE_S, signal_at_call, wait_until, wait_until_stopped
from tests.helpers.run_comparison import COMMAND, ENVIRONMENT, assert_runs_match, json_differences, rows_of, summary_of

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'qvl-attn[ray]'")
WITH_RAY = ("--engine", "ray", "--concurrency", "2")
RAY_ENVIRONMENT = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_")}
# A line of progress, of which a slow run prints one a minute.
PROGRESS = re.compile(r"[a-z ]+: [\d,]+ of [\d,]+, ")


@pytest.fixture
def local(demo, monkeypatch):
    """Run the command in this process, without loading the weights."""
    without_loading(monkeypatch, demo)
    return lambda data, out, *words: CliRunner().invoke(app, arguments_of(data, out, *words))


def arguments_of(data, out, *words):
    return ["check", *map(str, (data, "--out", out, "--model", "demo", "--max-new-tokens", 3, "--batch-size", 1))] + [
        str(word) for word in words
    ]


def command(data, out, *words, code=None, **options):
    """Start the command in a new process, optionally with Python code that runs first."""
    start = COMMAND if code is None else [sys.executable, "-c", code + "\nfrom qvl_attn.__main__ import main\nmain()\n"]
    return subprocess.Popen(
        [*start, *arguments_of(data, out, *words)],
        env=RAY_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a terminal does
        **options,
    )


def wait_for_end(process):
    """Wait until a process ends, and return its exit code, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    return process.returncode, stdout, stderr


def write_data(folder, copies, questions) -> Path:
    """Write questions about copies of the demo pictures, and one about a truncated picture."""
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
    wait_until(lambda: len(lines_of(out)) >= count, process)
    assert not (out / "summary.json").exists(), "the run must still be going on"


def family_of(process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def actors_in(family) -> list[psutil.Process]:
    return [process for process in family if "ray::MapWorker" in " ".join(process.cmdline())]


def assert_gone(family):
    """Check that processes end soon, and kill those that remain. Zombies do not count.

    Two small agents of Ray may stay for a minute if the driver was killed; they hold no model.
    """

    def running():
        return [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    def command_lines():
        lines = [" ".join(process.cmdline()).strip() for process in running()]
        return [line for line in lines if not (line.startswith("ray::") and line.endswith("Agent"))]

    end = time.monotonic() + PATIENCE_S
    while command_lines() and time.monotonic() < end:
        time.sleep(0.1)
    remaining = command_lines()
    for process in running():
        process.kill()
    assert remaining == []


# Equal outputs


@needs_ray
def test_two_actors_make_the_run_that_this_process_makes(local, tmp_path):
    """Equal to the byte except for the order of the rows and their times; no usage is reported."""
    data = write_data(tmp_path, 1, 3)
    code = (
        "import atexit, os, sys\n"
        "def report():\n"
        "    from ray._common.usage import usage_lib\n"
        "    enabled = 'not imported' if 'ray' not in sys.modules else usage_lib.usage_stats_enabled()\n"
        "    print(f'usage stats: {enabled}')\n"
        "atexit.register(report)\n"
    )
    code += signal_at_call("qvl_attn.results.run_folder:_write", 2, signal.SIGSTOP)
    done = command(data, tmp_path / "ray", *WITH_RAY, "--json", "--csv", code=code)
    wait_until_stopped(done)
    family = family_of(done)
    done.send_signal(signal.SIGCONT)
    returned, stdout, stderr = wait_for_end(done)
    assert returned == 0, stderr
    assert local(data, tmp_path / "local", "--csv").exit_code == 0
    printed, report = stdout.splitlines()
    assert json.loads(printed) == summary_of(tmp_path / "ray")
    assert report == "usage stats: False"
    messages = [line for line in stderr.splitlines() if not PROGRESS.match(line)]
    assert [line.partition(" ")[0] for line in messages] == ["19", "connecting", "demo", "Ray:", "Ray:"], stderr
    assert "Ray: 2 actors to score, with " in stderr
    summary = (tmp_path / "local" / "summary.json").read_bytes()
    assert (tmp_path / "ray" / "summary.json").read_bytes() == summary
    assert summary_of(tmp_path / "ray")["errors"] == 1
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "local")
    assert_runs_match(tmp_path / "ray", tmp_path / "local")
    assert_gone(family)


# Kills and resumed runs


@needs_ray
@pytest.mark.slow
def test_an_actor_that_is_killed_costs_no_row(local, tmp_path):
    data = write_data(tmp_path, 10, 10)
    process = command(data, tmp_path / "ray", *WITH_RAY, "--quiet")
    wait_for_rows(process, tmp_path / "ray", 20)
    family = family_of(process)
    actors_in(family)[0].kill()
    returned, stdout, stderr = wait_for_end(process)
    assert (returned, stdout, stderr) == (0, f"{tmp_path / 'ray' / 'summary.json'}\n", "")
    assert local(data, tmp_path / "local").exit_code == 0
    assert_runs_match(tmp_path / "ray", tmp_path / "local")
    assert_gone(family)


@needs_ray
@pytest.mark.slow
def test_a_run_that_is_interrupted_and_killed_goes_on_with_either_engine(local, tmp_path):
    data, out = write_data(tmp_path, 10, 10), tmp_path / "ray"
    process = command(data, out, *WITH_RAY)
    wait_for_rows(process, out, 10)
    family = family_of(process)
    os.killpg(process.pid, signal.SIGINT)
    returned, stdout, stderr = wait_for_end(process)
    assert (returned, stdout) == (130, "")
    assert f"interrupted; finished rows are kept in {out}: run the same command to continue" in " ".join(stderr.split())
    assert "Traceback" not in stderr
    assert_gone(family)
    lines = lines_of(out)
    assert len(lines) >= 10
    assert not (out / "summary.json").exists()

    process = command(data, out, *WITH_RAY)
    wait_for_rows(process, out, len(lines) + 100)
    family = family_of(process)
    assert len(actors_in(family)) == 2
    process.kill()
    assert f"{len(lines)} of 601 samples are already done" in wait_for_end(process)[2]
    assert_gone(family)
    assert lines_of(out)[: len(lines)] == lines

    lines = lines_of(out)
    done = local(data, out)
    assert done.exit_code == 0, done.output
    whole = [line for line in lines if line.endswith("}")]  # the last line may be incomplete
    assert len(whole) >= len(lines) - 1
    assert lines_of(out)[: len(whole)] == whole
    assert local(data, tmp_path / "local").exit_code == 0
    assert_runs_match(out, tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_a_sample_that_kills_every_actor_costs_only_its_own_row(local, tmp_path):
    """The samples of a task whose actor died are tried again one per task, however often the actor is restarted."""
    data, out = write_data(tmp_path, 1, 10), tmp_path / "ray"
    code = (
        "import os\n"
        "import qvl_attn.evaluation.ray_workers as ray_workers\n"
        "ray_workers.RESTARTS = 0\n"
        "class Deadly(ray_workers._Scorer):\n"
        "    def answer(self, task):\n"
        "        if any(sample.id == '2-3' for i in task for sample in self.work[0][i]): os._exit(1)\n"
        "        yield from super().answer(task)\n"
        "ray_workers._Scorer = Deadly\n"
    )
    returned, _, stderr = wait_for_end(command(data, out, "--engine", "ray", code=code))
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
def test_with_all_rows_written_no_actor_scores(local, tmp_path):
    """Only the gallery is drawn by an actor."""
    data = write_data(tmp_path, 1, 2)
    assert local(data, tmp_path / "local").exit_code == 0
    shutil.copytree(tmp_path / "local", tmp_path / "ray")
    (tmp_path / "ray" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "ray" / "gallery")
    returned, _, stderr = wait_for_end(command(data, tmp_path / "ray", *WITH_RAY))
    assert returned == 0, stderr
    assert stderr.count("Ray: ") == 1
    assert_runs_match(tmp_path / "ray", tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_a_bug_in_an_actor_is_shown_with_its_traceback(tmp_path):
    code = (
        "import qvl_attn.evaluation.ray_workers as ray_workers\n"
        "class Wrong(ray_workers._Scorer):\n"
        "    def answer(self, task):\n"
        "        yield {'row': 1 / 0}\n"
        "ray_workers._Scorer = Wrong\n"
    )
    returned, stdout, stderr = wait_for_end(command(write_data(tmp_path, 1, 1), tmp_path / "run", *WITH_RAY, code=code))
    assert (returned, stdout) == (1, "")
    assert "RuntimeError: in an actor of Ray:" in stderr
    assert "ZeroDivisionError: division by zero" in stderr
    assert "yield {'row': 1 / 0}" in stderr or "in answer" in stderr


@needs_ray
@pytest.mark.slow
def test_a_model_that_no_actor_can_load_is_one_line(tmp_path):
    """This process never reads the weights: only an actor can find the damage."""
    shutil.copytree(DEMO_MODEL, tmp_path / "model")
    (weights,) = (tmp_path / "model").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:100_000])
    process = command(write_data(tmp_path, 1, 1), tmp_path / "run", *WITH_RAY, "--quiet", "--model", tmp_path / "model")
    returned, stdout, stderr = wait_for_end(process)
    assert (returned, stdout) == (1, "")
    assert len(stderr.splitlines()) <= 2, stderr
    assert "error: an actor of Ray: " in stderr
    assert str(tmp_path / "model") in stderr
    assert not list((tmp_path / "run").glob("*"))


@needs_ray
@pytest.mark.slow
def test_more_gpus_than_there_are_are_one_line(tmp_path):
    words = (*WITH_RAY, "--gpus-per-worker", 64, "--quiet")
    returned, stdout, stderr = wait_for_end(command(write_data(tmp_path, 1, 1), tmp_path / "run", *words))
    assert (returned, stdout) == (2, "")
    assert stderr.startswith("error: --gpus-per-worker 64: this machine has ")
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
