"""Compare the outputs of two runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from qvl_attn.evaluation.examples import read_examples

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "qvl_attn"]
# New processes import the package of this checkout; Ray's workers and launchers inherit it.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def json_differences(a, b, path="", abs_tol=1e-5):
    """Return where two JSON values differ: floats by more than rounding, everything else by any difference."""
    if isinstance(a, dict) and isinstance(b, dict) and list(a) == list(b):
        return [line for name in a for line in json_differences(a[name], b[name], f"{path}.{name}", abs_tol)]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [
            line
            for i, (item_a, item_b) in enumerate(zip(a, b, strict=True))
            for line in json_differences(item_a, item_b, f"{path}[{i}]", abs_tol)
        ]
    if isinstance(a, float) and isinstance(b, float):
        # Files have six digits.
        return [] if abs(a - b) <= abs_tol + 2e-6 * abs(a) else [f"{path}: {a} {b}"]
    return [] if type(a) is type(b) and a == b else [f"{path}: {a} {b}"]


def summary_of(folder):
    return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))


def rows_of(folder):
    """Return the rows in the order of the data set, without their times."""
    lines = (Path(folder) / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    rows = sorted(map(json.loads, lines), key=lambda row: row["index"])
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def pictures_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*.png")}


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def assert_runs_match(actual, expected):
    """Check that rows, summary and examples match up to rounding, and that drawings and file names are equal."""
    assert json_differences(rows_of(actual), rows_of(expected)) == []
    assert json_differences(summary_of(actual), summary_of(expected)) == []
    assert pictures_of(actual) == pictures_of(expected)
    assert files_of(actual) == files_of(expected)
    assert_same_examples(read_examples(actual), read_examples(expected))


def assert_same_examples(actual, expected, rtol=1e-4):
    """Check that examples are of the same samples, pictures and boxes, and that their values match up to rounding."""
    assert actual.keys() == expected.keys()
    for name, example in actual.items():
        want = expected[name]
        for field in ("id", "jpegs", "places", "of", "times_s"):
            assert getattr(example, field) == getattr(want, field), (name, field)
        for boxes, values, want_boxes, want_values in zip(
            example.boxes, example.values, want.boxes, want.values, strict=True
        ):
            assert np.array_equal(boxes, want_boxes)
            np.testing.assert_allclose(values, want_values, rtol=rtol, atol=1e-7)
        for field in ("uniform", "high"):
            assert abs(getattr(example, field) / getattr(want, field) - 1) < rtol, (name, field)
