"""Whether two runs say the same."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from qvl_attn.evaluation.examples import read_examples

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "qvl_attn"]
# Of this checkout, whatever is installed: Ray's workers and launchers inherit it.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def differing(one, other, where="", abs_tol=1e-5):
    """Where two values of JSON differ: numbers by more than rounding, all else at all."""
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        return [line for name in one for line in differing(one[name], other[name], f"{where}.{name}", abs_tol)]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            line
            for i, (a, b) in enumerate(zip(one, other, strict=True))
            for line in differing(a, b, f"{where}[{i}]", abs_tol)
        ]
    if isinstance(one, float) and isinstance(other, float):
        # Files hold six digits.
        return [] if abs(one - other) <= abs_tol + 2e-6 * abs(one) else [f"{where}: {one} {other}"]
    return [] if type(one) is type(other) and one == other else [f"{where}: {one} {other}"]


def summary_of(folder):
    return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))


def rows_of(folder):
    """In the order of the data set, without the time that each took."""
    lines = (Path(folder) / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    rows = sorted(map(json.loads, lines), key=lambda row: row["index"])
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def pictures_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.png")}


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def assert_alike(one, other):
    """Rows, summary, pictures, exhibits and the names of all files."""
    assert differing(rows_of(one), rows_of(other)) == []
    assert differing(summary_of(one), summary_of(other)) == []
    assert pictures_of(one) == pictures_of(other)
    assert files_of(one) == files_of(other)
    assert_same_exhibits(read_examples(one), read_examples(other))


def assert_same_exhibits(ours, theirs, rtol=1e-4):
    """Of the same samples, the same pictures under the same boxes, and values that differ by rounding alone."""
    assert ours.keys() == theirs.keys()
    for name, example in ours.items():
        other = theirs[name]
        for field in ("id", "jpegs", "places", "of", "times_s"):
            assert getattr(example, field) == getattr(other, field), (name, field)
        for boxes, values, others, other_values in zip(
            example.boxes, example.values, other.boxes, other.values, strict=True
        ):
            assert np.array_equal(boxes, others)
            np.testing.assert_allclose(values, other_values, rtol=rtol, atol=1e-7)
        for field in ("uniform", "high"):
            assert abs(getattr(example, field) / getattr(other, field) - 1) < rtol, (name, field)
