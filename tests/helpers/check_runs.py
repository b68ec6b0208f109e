"""Run `qvl-attn check` in this process or in a new one, and read and compare the outputs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.processes import Command, start_command

# Fields that differ between two identical runs.
TIMES = ("seconds",)


def words_of(data, *args, out="run") -> list[str]:
    """Return the words of a check."""
    return ["check", "--model", "demo", *(str(arg) for arg in (data, "--out", out, *args))]


def start_process(cwd: Path, data, *args, out="run", code="") -> Command:
    """Start a check in a new process, optionally with Python code that runs first."""
    return start_command(words_of(data, *args, out=out), cwd, code)


def run_process(cwd: Path, data, *args, out="run", code="") -> subprocess.CompletedProcess[str]:
    """Run a check in a new process, and wait until it ends."""
    return start_process(cwd, data, *args, out=out, code=code).completed()


def invoke(data, *args, out="run"):
    """Run a check in this process."""
    from typer.testing import CliRunner

    from qvl_attn.cli.app import app

    return CliRunner().invoke(app, words_of(data, *args, out=out))


def without_drawings(monkeypatch) -> None:
    """Switch off charts, gallery and examples, which take most of the time of a small run, for tests of the rows."""
    monkeypatch.setattr("qvl_attn.evaluation.outputs.write_charts", lambda *args: [])
    monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 0)
    monkeypatch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", 0)


def line_count(out: Path) -> int:
    """Return the number of complete rows, while they are being written."""
    try:
        return (out / "scores.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def rows_of(out: Path | str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(out) / "scores.jsonl").read_text(encoding="utf-8").splitlines()]


def rows_without_times(out: Path | str) -> dict[str, dict[str, Any]]:
    """Return the rows by id, without the fields that differ between runs; ids must be unique."""
    rows = rows_of(out)
    by_id = {row["id"]: {name: value for name, value in row.items() if name not in TIMES} for row in rows}
    assert len(by_id) == len(rows), "an id is used twice"
    return by_id


def files_of(out: Path | str) -> dict[str, bytes]:
    """Return the contents of all files of a run except its rows."""
    root = Path(out)
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return {name: (root / name).read_bytes() for name in names if name != "scores.jsonl"}


def assert_same_run(actual: Path | str, expected: Path | str) -> None:
    """Check that summary, charts and gallery are equal to the byte, and that rows differ only in their times."""
    files, expected_files = files_of(actual), files_of(expected)
    assert files.keys() == expected_files.keys()
    assert files["summary.json"] == expected_files["summary.json"]
    assert [name for name in files if files[name] != expected_files[name]] == []
    assert rows_without_times(actual) == rows_without_times(expected)


def write_rows(folder: Path, rows, name="rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def one_line(text: str) -> str:
    """Return printed text without its line breaks."""
    return " ".join(text.split())


# Data sets with one faulty sample

COUNT, BAD = 12, 3


def make_data(folder, count=COUNT):
    """Write a picture for each row, and return the rows."""
    rows = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        box = {"boxes": [[0, 0, 56, 56]], "box_format": "xyxy", "box_units": "px"}
        rows.append({"id": str(i), "image": f"{i}.png", "question": "what color is it?", "answer": "red", **box})
    return rows


def summary_of(out="run"):
    return json.loads((Path(out) / "summary.json").read_text(encoding="utf-8"))


def assert_one_error(done, error, name=str(BAD), count=COUNT):
    """Check that only one sample has an error, that the summary counts it, and return its row."""
    assert done.exit_code == 0, done.output
    assert "Traceback" not in done.output
    rows = rows_without_times("run")
    assert len(rows) == count
    faulty = rows.pop(name)
    assert faulty["status"] == "error"
    assert error in faulty["error"].replace(f"{Path.cwd()}/", "")
    assert faulty["accuracy"] == 0
    assert faulty["boxes"] > 0
    assert {row["status"] for row in rows.values()} == {"ok"}
    summary = summary_of()
    assert (summary["samples"], summary["errors"], summary["with_boxes"]) == (count, 1, count - 1)
    assert summary["errors_with_boxes"] == 1
    assert summary["accuracy"]["n"] == count
    right = sum(row["accuracy"] for row in rows.values())
    assert summary["accuracy"]["mean"] == pytest.approx(right / count, abs=1e-6)
    assert summary["first_error"] == faulty["error"]
    assert f"1 of {count} samples could not be scored" in one_line(done.stdout)
    return faulty
