"""Runs of `check`: run.json, rows, summary and examples; resumed, compared, merged, printed, and written as a page."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from qvl_attn.cli.gate import apply_gate
from qvl_attn.cli.tables import check_table
from qvl_attn.evaluation.compare import compare_runs, csv_rows, read_runs
from qvl_attn.evaluation.sharding import merge_runs
from qvl_attn.evaluation.summary_json import read_summary
from qvl_attn.report import make_report
from qvl_attn.results.run_folder import SUMMARY_FILE, open_run
from qvl_attn.results.store import damage
from tests.helpers.kept import kept_files, write_kept
from tests.helpers.mutations import mutate_bytes, mutate_json

NAME = "runs"
QUICK_INPUTS = 40


def _mutated(rng: random.Random, file: str, data: bytes) -> bytes:
    if rng.random() < 0.1 or file.endswith(".npz"):
        return mutate_bytes(rng, data)
    lines = data.splitlines() if file.endswith(".jsonl") else [data]
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutate_json(rng, json.loads(lines[at]))).encode()
    return b"\n".join(lines) + b"\n"


def _part(files: dict[str, bytes], number: int) -> dict[str, bytes]:
    """Return the files of a part of the kept run: the row of one picture is not in it, so both have all."""
    run = json.loads(files["run.json"])
    run["facts"]["shard"], run["same"]["--shard"] = {"number": number, "of": 2}, f"{number}/2"
    rows = [json.loads(line) for line in files["scores.jsonl"].splitlines()]
    own = rows[:1] if number == 1 else rows[1:]
    run["samples"] = {row["id"]: run["samples"][row["id"]] for row in own}
    lines = "".join(json.dumps(row) + "\n" for row in own)
    return files | {"run.json": json.dumps(run).encode(), "scores.jsonl": lines.encode()}


def _resume(folder: Path, rng: random.Random) -> None:
    with open_run(folder, json.loads(kept_files("check")["run.json"])):
        pass


def _compare(folder: Path, rng: random.Random) -> None:
    runs = [write_kept("check", folder.parent / "whole"), folder]
    rng.shuffle(runs)
    json.dumps(compare_runs(runs), allow_nan=False)
    list(csv_rows(read_runs(runs)))


def _merge(folder: Path, rng: random.Random) -> None:
    other = write_kept("check", folder.parent / "second", **_part(kept_files("check"), 2))
    merge_runs([folder, other], folder.parent / "all")


def _print(folder: Path, rng: random.Random) -> None:
    summary = {**read_summary(folder)}
    with damage(folder / SUMMARY_FILE):  # as `check` does
        check_table(summary, folder, None)
        try:
            apply_gate(summary, {"pointing": 0.5, "accuracy": 0.5})
        except RuntimeError as exit_1:
            assert type(exit_1).__name__ == "Exit"  # noqa: PT017


def _report(folder: Path, rng: random.Random) -> None:
    make_report(folder)


USES: tuple[Callable[[Path, random.Random], None], ...] = (_resume, _compare, _print, _report, _report)


def try_one(rng: random.Random, folder: Path) -> None:
    files = kept_files("check")
    use = _merge if rng.random() < 0.04 else rng.choice(USES)
    if use is _merge:
        files = _part(files, 1)
    if rng.random() < 0.9:
        file = rng.choice(["run.json", "scores.jsonl", "scores.jsonl", "summary.json", "summary.json", *files])
        files = files | {file: _mutated(rng, file, files[file])}
    run = write_kept("check", folder / "run", **files)
    use(run, rng)
