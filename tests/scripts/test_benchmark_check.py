"""The benchmark of a check runs, on sizes too small to measure anything."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.helpers.run_comparison import ENVIRONMENT, ROOT

SCRIPT = ROOT / "scripts" / "benchmarks" / "check.py"


@pytest.mark.slow
def test_the_benchmark_of_a_check_times_all_ways(tmp_path):
    words = ["--scenes", "2", "--limit", "12", "--batch-sizes", "1", "4", "--max-new-tokens", "2", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        env={**ENVIRONMENT, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "all questions: 12 samples, 2 pictures",
        "one question a picture: 2 samples, 2 pictures",
    ]
    assert [re.sub(r" +[\d.]+$", "", line.split(" s ")[0]) for line in lines if line.startswith(" ")] == [
        "  plain loop",
        "  check, batches of 1",
        "  check, batches of 4",
    ] * 2
    ratio = re.compile(r"([\d.]+) times the plain loop \(([\d.]+) to ([\d.]+)\)")
    ratios = [[float(part) for part in match.groups()] for match in map(ratio.search, lines) if match]
    assert len(ratios) == 4
    assert all(0 < low == median == high for median, low, high in ratios), "there is only one turn"
    assert not list(tmp_path.iterdir()), "temporary files are removed"
