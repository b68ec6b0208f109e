"""The attention benchmark runs, on sizes too small to measure anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "attention.py"


@pytest.mark.slow
def test_benchmark_runs_all_ways_and_writes_figures_and_plot(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    arguments = ["--tokens", "64,16", "--shape", "small", "--dtype", "float32", "--device", "cpu", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--new-tokens", "3", "--out", str(out)],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads((out / "benchmark.json").read_text())
    assert {"machine", "versions", "arguments", "runs", "skipped", "medians", "bars"} == set(report)
    assert report["skipped"] == []
    assert [(run["tokens"], run["way"]) for run in report["runs"]] == [
        (tokens, way) for tokens in (16, 64) for way in ("usual", "eager", "rows", "plain")
    ]
    for row in report["medians"]:
        assert row["seconds"] > 0
        assert row["time_ratio"] > 0
        assert row["way"] != "plain" or row["time_ratio"] == row["memory_ratio"] == 1
    for tokens in (16, 64):
        *shares, plain = (run["vision_share"] for run in report["runs"] if run["tokens"] == tokens)
        assert shares == pytest.approx([shares[0]] * 3, abs=1e-5)
        assert plain is None
    assert "x plain" in done.stdout
    assert (out / "benchmark.png").read_bytes().startswith(b"\x89PNG")
