"""The shell recipes for many processes, run with two processes on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DEMO_PICTURES
from tests.helpers.run_comparison import COMMAND, ENVIRONMENT, ROOT, assert_runs_match, rows_of, summary_of

SCRIPTS = ROOT / "scripts"
WORDS = ["--prompts", "counting", "--model", "demo", "--max-new-tokens", "2", "--batch-size", "1"]


@pytest.fixture
def environment(tmp_path):
    """Environment whose PATH has the command of this checkout and the launcher of this Python."""
    commands = tmp_path / "commands"
    commands.mkdir()
    wrapper = commands / "qvl-attn"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m qvl_attn "$@"\n')
    wrapper.chmod(0o755)
    launcher = Path(sys.executable).parent / "accelerate"
    if not launcher.exists():
        pytest.skip("no accelerate beside this Python")
    (commands / "accelerate").symlink_to(launcher)
    variables = {name: value for name, value in ENVIRONMENT.items() if name != "CUDA_VISIBLE_DEVICES"}
    return {**variables, "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "my pictures").mkdir()
    for name in ("cats.png", "wide.png", "tall.png"):
        shutil.copyfile(DEMO_PICTURES / name, tmp_path / "my pictures" / name)
    return tmp_path / "my pictures"


def run(*words, env, **more):
    return subprocess.run([*map(str, words)], env=env, capture_output=True, text=True, check=False, **more)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("check_*.sh")), ids=lambda path: path.name)
def test_a_recipe_is_sound_shell_that_stops_at_a_fault(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = script.read_text()
    assert text.startswith("#!")
    assert "\nset -e" in text


@pytest.mark.parametrize("script", ["check_accelerate.sh", "check_slurm.sh"])
def test_a_recipe_without_its_words_does_nothing(environment, tmp_path, script):
    done = run("bash", SCRIPTS / script, env=environment, cwd=tmp_path)
    assert done.returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["commands"]


@pytest.mark.slow
def test_accelerate_with_two_processes_makes_one_run(environment, pictures, tmp_path):
    """One part is finished and the other is not, as after a kill; a missed `--fail-under` does not stop the recipe."""
    out, part = tmp_path / "my runs", tmp_path / "my runs" / "part-1"
    words = [*WORDS, "--fail-under", "vision_mass=1"]
    done = run(*COMMAND, "check", pictures, *words, "--shard", "1/2", "--out", part, env=environment)
    assert done.returncode == 1, done.stderr
    before = (part / "scores.jsonl").stat().st_mtime_ns
    done = run("bash", SCRIPTS / "check_accelerate.sh", 2, out, pictures, *words, env=environment)
    assert done.returncode == 0, done.stderr
    assert (part / "scores.jsonl").stat().st_mtime_ns == before
    assert sorted(path.name for path in out.iterdir()) == ["all", "part-1", "part-2"]
    assert all(0 < summary_of(out / f"part-{i}")["samples"] < 30 for i in (1, 2))
    assert run(*COMMAND, "check", pictures, *WORDS, "--out", tmp_path / "whole", env=environment).returncode == 0
    assert_runs_match(out / "all", tmp_path / "whole")


@pytest.mark.slow
def test_accelerate_merges_no_run_that_was_begun_with_something_else(environment, pictures, tmp_path):
    words = [2, tmp_path / "out", pictures, *WORDS]
    assert run("bash", SCRIPTS / "check_accelerate.sh", *words, env=environment).returncode == 0
    shutil.rmtree(tmp_path / "out" / "all")
    done = run("bash", SCRIPTS / "check_accelerate.sh", *words, "--query", "last", env=environment)
    assert done.returncode != 0
    assert "was started with other settings or samples" in done.stderr
    assert not (tmp_path / "out" / "all").exists()


@pytest.mark.slow
def test_accelerate_ends_with_a_fault_where_a_part_has_one(environment, tmp_path):
    """And it merges nothing."""
    done = run("bash", SCRIPTS / "check_accelerate.sh", 2, tmp_path / "out", "nowhere.jsonl", *WORDS, env=environment)
    assert done.returncode != 0
    assert "nowhere.jsonl" in done.stderr
    assert "part-*" not in done.stderr, "nothing is merged"
    assert not (tmp_path / "out" / "all").exists()


@pytest.mark.slow
def test_accelerate_gives_each_process_a_gpu_of_those_it_may_see(environment, tmp_path):
    """A command that writes its arguments to a file replaces the check, since there are no GPUs here."""
    command = tmp_path / "commands" / "qvl-attn"
    command.write_text(f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" "$@" >> "{tmp_path}/calls"\n')
    for visible, gpus in (("5,GPU-7", ["5", "GPU-7"]), (None, ["0", "1"])):
        env = environment if visible is None else {**environment, "CUDA_VISIBLE_DEVICES": visible}
        done = run("bash", SCRIPTS / "check_accelerate.sh", 2, tmp_path / "out", "my data", env=env)
        assert done.returncode == 0, done.stderr
        *parts, merge = (tmp_path / "calls").read_text().splitlines()
        (tmp_path / "calls").unlink()
        assert sorted(parts) == [
            f"{gpu} check my data --shard {i}/2 --out {tmp_path}/out/part-{i}" for i, gpu in enumerate(gpus, 1)
        ]
        assert f" merge {tmp_path}/out/part-* --out {tmp_path}/out/all" in f" {merge}"


@pytest.mark.slow
def test_two_jobs_of_a_slurm_array_make_one_run(environment, pictures, tmp_path):
    """Both run at the same time; the second is then cancelled with half of its rows and queued again."""
    out = tmp_path / "my runs"

    def job(number):
        words = ["bash", SCRIPTS / "check_slurm.sh", "2", out, pictures, *WORDS]
        env = {**environment, "SLURM_ARRAY_TASK_ID": str(number)}
        return subprocess.Popen([*map(str, words)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    for number, process in [(i, job(i)) for i in (1, 2)]:
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        assert f"scores.jsonl: {out}/part-{number}/scores.jsonl" in output
    (out / "part-2" / "summary.json").unlink()
    rows = (out / "part-2" / "scores.jsonl").read_text().splitlines(keepends=True)
    (out / "part-2" / "scores.jsonl").write_text("".join(rows[:2]) + rows[2][:40])
    again = job(2)
    assert "samples are already done" in again.communicate()[1]
    assert again.returncode == 0
    assert len(rows_of(out / "part-2")) == len(rows)
    done = run("qvl-attn", "merge", out / "part-1", out / "part-2", "--out", out / "all", env=environment)
    assert done.returncode == 0, done.stderr
    assert run(*COMMAND, "check", pictures, *WORDS, "--out", tmp_path / "whole", env=environment).returncode == 0
    assert_runs_match(out / "all", tmp_path / "whole")
