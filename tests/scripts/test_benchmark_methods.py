"""The scripts that measure methods: the tables they print for a few small questions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qvl_attn.attribution.methods.registry import METHODS

ROOT = Path(__file__).parents[2]


def printed(script: str, *arguments: str) -> list[list[str]]:
    """Run a script and return the rows of its table as lists of cells."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.strip()]
    return [[cell.strip() for cell in row.strip("|").split("|")] if "|" in row else row.split() for row in rows]


@pytest.mark.slow
def test_every_method_is_measured_on_scenes_and_clips(tmp_path):
    rows = printed(
        "benchmarks/evaluate_methods.py",
        "--out",
        str(tmp_path / "out"),
        "--scenes",
        "3",
        "--clips",
        "3",
        "--timed",
        "1",
    )
    for name in METHODS:
        grounding, sanity, *_ = [row for row in rows if row[0] == name]
        assert len(grounding) == 9
        assert float(grounding[7]) > 0
        assert float(grounding[8]) > 0
        assert len(sanity) == 4
    chances = [row for row in rows if row[0] == "chance"]
    assert len(chances) == 2
    assert all(float(row[3]) == 0.5 for row in chances)


@pytest.mark.slow
def test_a_method_is_timed_against_the_plain_capture():
    rows = printed("benchmarks/methods.py", "--ways", "plain", "gradient", "--cells", "100", "300", "--repeats", "1")
    plain, gradient = ([row for row in rows if row[0] == way] for way in ("plain", "gradient"))
    assert [float(row[3]) for row in plain] == [1, 1]
    assert all(float(row[3]) > 0 for row in gradient)
    assert float(gradient[1][4]) > float(plain[1][4])  # activations are stored
    assert len(gradient[0]) == len(gradient[1]) - 1 == 6
