"""Checks of data sets, in this process and in ones of their own, and what they left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
# A process of its own imports the package that lies beside these tests.
ENV = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
# What is not the same in two runs that are.
TIMES = ("seconds",)


def command(data, *args, out="run") -> list[str]:
    """As it would be typed."""
    words = [str(arg) for arg in (data, "--out", out, *args)]
    return [sys.executable, "-m", "qvl_attn", "check", "--model", "demo", *words]


def start(cwd: Path, data, *args, out="run") -> subprocess.Popen[str]:
    """A process of its own."""
    return subprocess.Popen(
        command(data, *args, out=out), cwd=cwd, env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def whole(cwd: Path, data, *args, out="run") -> subprocess.CompletedProcess[str]:
    """The same, and wait for its end."""
    return subprocess.run(
        command(data, *args, out=out), cwd=cwd, env=ENV, text=True, capture_output=True, check=False, timeout=600
    )


def invoke(data, *args, out="run"):
    """The command in this process."""
    from typer.testing import CliRunner

    from qvl_attn.cli import app

    return CliRunner().invoke(app, command(data, *args, out=out)[3:])


def undrawn(monkeypatch) -> None:
    """Without charts, gallery and exhibits, for tests of what is in the rows: they take most of a small run's time."""
    monkeypatch.setattr("qvl_attn.evaluation.outputs.write_charts", lambda *args: [])
    monkeypatch.setattr("qvl_attn.evaluation.outputs.EACH", 0)
    monkeypatch.setattr("qvl_attn.evaluation.examples.SHOWN", 0)


def wait_until(there: Callable[[], Any], process: subprocess.Popen[str], within_s: float = 180) -> None:
    """Until something is so; a process that ends before is a fault of the test."""
    end = time.monotonic() + within_s
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never came to be so"
        time.sleep(0.002)


def line_count(out: Path) -> int:
    """How many rows are whole, while they are being written."""
    try:
        return (out / "scores.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def rows_of(out: Path | str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(out) / "scores.jsonl").read_text(encoding="utf-8").splitlines()]


def timeless(out: Path | str) -> dict[str, dict[str, Any]]:
    """Rows by id, each once, without what no two runs have in common."""
    rows = rows_of(out)
    found = {row["id"]: {name: value for name, value in row.items() if name not in TIMES} for row in rows}
    assert len(found) == len(rows), "an id stands twice"
    return found


def files_of(out: Path | str) -> dict[str, bytes]:
    """All that a run left but its rows, and no drafts or locks."""
    root = Path(out)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return {name: (root / name).read_bytes() for name in names if name != "scores.jsonl"}


def assert_same_run(one: Path | str, other: Path | str) -> None:
    """The same summary, charts and gallery to the last byte, and rows that differ in their times alone."""
    ours, theirs = files_of(one), files_of(other)
    assert ours.keys() == theirs.keys()
    assert ours["summary.json"] == theirs["summary.json"]
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert timeless(one) == timeless(other)


def write_rows(folder: Path, rows, name="rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(text: str) -> str:
    """What was printed, however the lines were broken."""
    return " ".join(text.split())


# Data sets of which one sample is spoiled

COUNT, BAD = 12, 3


def make_data(folder, count=COUNT):
    """A picture a sample."""
    rows = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        box = {"boxes": [[0, 0, 56, 56]], "box_format": "xyxy", "box_units": "px"}
        rows.append({"id": str(i), "image": f"{i}.png", "question": "what color is it?", "answer": "red", **box})
    return rows


def summary_of(out="run"):
    return json.loads((Path(out) / "summary.json").read_text(encoding="utf-8"))


def assert_spoiled(done, error, name=str(BAD), count=COUNT):
    """It is a row with this error, the others are scored, and it counts."""
    assert done.exit_code == 0, done.output
    assert "Traceback" not in done.output
    found = timeless("run")
    assert len(found) == count
    bad = found.pop(name)
    assert bad["status"] == "error"
    assert error in bad["error"].replace(f"{Path.cwd()}/", "")
    assert bad["accuracy"] == 0
    assert bad["boxes"] > 0
    assert {one["status"] for one in found.values()} == {"ok"}
    reported = summary_of()
    assert (reported["samples"], reported["errors"], reported["with_boxes"]) == (count, 1, count - 1)
    assert reported["errors_with_boxes"] == 1
    assert reported["accuracy"]["n"] == count
    right = sum(one["accuracy"] for one in found.values())
    assert reported["accuracy"]["mean"] == pytest.approx(right / count, abs=1e-6)
    assert reported["first_error"] == bad["error"]
    assert f"1 of {count} samples could not be scored" in said(done.stdout)
    return bad
