"""A check that is killed at random moments and resumed has the same outputs as an uninterrupted one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from qvl_attn.demo.dataset import write_dataset
from tests.helpers.check_runs import assert_same_run, line_count, run_process, start_process
from tests.helpers.processes import ENV, PATIENCE_S, wait_until

pytestmark = pytest.mark.slow


def moments(rng, rows, early_s, late_s):
    """Return when to kill, as (rows to wait for, seconds after them): before, between and after the rows."""
    first = [(0, rng.uniform(0, early_s)) for _ in range(3)]
    between = [(rng.randint(1, rows - 1), rng.uniform(0, 0.05)) for _ in range(5)]
    last = [(rows, rng.uniform(0, late_s)) for _ in range(4)]
    return sorted([*first, *between, *last])


def time_run(cwd, data, args, rows):
    """Time an uninterrupted run: seconds until its first row, and from its last row to its end."""
    started_s = time.monotonic()
    process = start_process(cwd, data, *args, out="whole")
    wait_until(lambda: line_count(cwd / "whole") >= 1, process)
    first_s = time.monotonic()
    wait_until(lambda: line_count(cwd / "whole") >= rows, process)
    last_s = time.monotonic()
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, stderr
    return first_s - started_s, time.monotonic() - last_s


@pytest.mark.parametrize("kind", ["plain", "by head", "calibrate", "clips"])
def test_killed_at_a_dozen_random_moments(tmp_path, scenes, kind):
    """Each kill has its own folder and is resumed once; QVL_ATTN_SEED chooses the moments."""
    seed = int(os.environ.get("QVL_ATTN_SEED", time.time_ns() % 10**6))
    print(f"QVL_ATTN_SEED={seed}")
    args, data = {"by head": ("--by-head", "--csv"), "calibrate": ("--calibrate", "found.json")}.get(kind, ()), scenes
    if kind == "clips":
        write_dataset(tmp_path / "clips", 3, video=True)
        data = tmp_path / "clips" / "questions.jsonl"
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    rows = sum(bool(line["boxes"]) or kind != "calibrate" for line in lines)
    early_s, late_s = time_run(tmp_path, data, args, rows)
    kills = []
    for i, (count, then_s) in enumerate(moments(random.Random(seed), rows, early_s, late_s)):
        cwd = tmp_path / str(i)
        cwd.mkdir()
        process = start_process(cwd, data, *args, out="whole")
        if count:
            wait_until(lambda cwd=cwd, count=count: line_count(cwd / "whole") >= count, process)
        time.sleep(then_s)
        process.kill()
        process.communicate()
        files = {path.name for path in cwd.rglob("*") if path.is_file()}
        kills.append((count, round(then_s, 2), line_count(cwd / "whole"), "summary.json" in files))
        print(*kills[-1], flush=True)
        done = run_process(cwd, data, *args, out="whole")
        assert done.returncode == 0, (kills[-1], done.stderr)
        assert_same_run(cwd / "whole", tmp_path / "whole")
        if kind == "calibrate":
            assert (cwd / "found.json").read_bytes() == (tmp_path / "found.json").read_bytes(), kills[-1]
        shutil.rmtree(cwd)
    assert len({row_count for _, _, row_count, _ in kills}) > 4, "the kills must be spread over the run"


def test_killed_before_every_rename_of_a_draft(tmp_path, scenes, once):
    """In one folder, each run is killed before the next rename of a draft, until a run reaches its end."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "at, original = int(sys.argv.pop(1)), Path.replace\n"
        "count = [0]\n"
        "def replace(self, target):\n"
        "    if self.name.endswith('.draft'):\n"
        "        count[0] += 1\n"
        "        if count[0] == at: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, target)\n"
        "Path.replace = replace\n"
        "from qvl_attn.__main__ import main\n"
        "main()\n"
    )
    arguments = ["check", str(scenes), "--model", "demo", "--out", "run"]
    killed = []
    for at in range(1, 40):
        command = [sys.executable, "-c", code, str(at), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed.append(at)
    assert len(killed) > 8
    assert_same_run(tmp_path / "run", once)
