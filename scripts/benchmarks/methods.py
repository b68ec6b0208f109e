"""Compares time and memory of each method with those of the plain capture on the same picture.

    python scripts/benchmarks/methods.py

It creates a checkpoint with random weights (8 layers, 1,024 wide, 8 heads, 2 key heads) and asks about pictures of
noise of several sizes, with the plain capture and with each method. Every run is a separate process that has answered a
small question before; the methods alternate, so that a slowdown of the machine affects all of them. The time is that of
answer, generic prompt and methods together; `x plain` is the median ratio to the plain run of the same turn. Memory is
the peak of the process's resident size, sampled every 5 ms, minus its size with the weights loaded; `estimated` is the
estimate that is compared with the free memory. The last column is the exponent with which memory grows from the
smallest to the largest picture: 1 is linear, 2 quadratic. Exit code 1 if `relative` takes more than 1.5 times the plain
time, `gradient` more than 4 times, or the exponent is above 1.3.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from memory import make_checkpoint, noise

from qvl_attn import Analyzer
from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.core.runtime import Stages
from qvl_attn.model.memory import peak_bytes

PLAIN = "plain"
WAYS = (PLAIN, *(name for name in METHODS if name != "heads"))
GEOMETRY = ((1024, 2816, 8, 8, 2), (640, 1712, 4, 10))
BARS = {"relative": 1.5, "gradient": 4.0}
MOST_EXPONENT = 1.3
QUESTION = "how many people are standing in front of the red house?"


def measure(model: str, picture: str, small: str, way: str) -> dict[str, Any]:
    """Ask once; return the time, and the measured and estimated memory."""
    analyzer = Analyzer.load(model, dtype="float32", device="cpu", attn="rows")
    method = None if way == PLAIN else way
    settings = analyzer.settings(query="last", method=method, max_new_tokens=8, max_pixels=2**25)
    list(analyzer.answer(analyzer.prepare([([small], QUESTION)], settings)))
    (question,) = analyzer.prepare([([picture], QUESTION)], settings)
    stages = Stages()
    with stages.stage("all"):
        ((_, result),) = analyzer.answer([question])
    seconds = sum(seconds for stage, seconds in result.seconds.items() if stage not in ("prepare", "load"))
    peak = stages.peak_bytes["all"]
    estimated = peak_bytes(analyzer.config, "float32", question.job, "rows")
    return {
        "tokens": question.prompt.length,
        "seconds": seconds,
        "measured": peak["host"] - peak["before"],
        "estimated": estimated,
    }


def in_own_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", *arguments]
    environment = {"MALLOC_MMAP_THRESHOLD_": str(4 * 2**20), **os.environ}
    completed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    row: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return row


def run_all(options: argparse.Namespace) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Return the runs of each method and size, in the order of the turns."""
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoint(GEOMETRY, folder / "model")
        noise(64, folder / "small.png")
        for cells in options.cells:
            noise(cells, folder / "noise.png")
            for turn in range(options.repeats):
                for way in options.ways:
                    row = in_own_process(
                        str(folder / "model"), str(folder / "noise.png"), str(folder / "small.png"), way
                    )
                    runs.setdefault((way, cells), []).append(row)
                    print(f"turn {turn + 1} of {cells} cells, {way}: {row['seconds']:.2f} s", file=sys.stderr)
    return runs


def main(options: argparse.Namespace) -> int:
    """Print the table; return 1 if a limit is exceeded."""
    runs, failures = run_all(options), 0
    head = f"{'method':<20}{'tokens':>8}{'seconds':>9}{'x plain':>9}{'MiB':>8}{'estimated':>11}{'grows as':>10}"
    print(head, flush=True)
    for way in options.ways:
        for cells in options.cells:
            rows, plain_rows = runs[way, cells], runs[PLAIN, cells]
            ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(rows, plain_rows, strict=True))
            memory = {c: statistics.median(row["measured"] for row in runs[way, c]) for c in options.cells}
            first, last = options.cells[0], options.cells[-1]
            lengths = [runs[way, c][0]["tokens"] for c in (first, last)]
            exponent = math.log(memory[last] / memory[first]) / math.log(lengths[1] / lengths[0])
            seconds = statistics.median(row["seconds"] for row in rows)
            failures += ratio > BARS.get(way, math.inf) or exponent > MOST_EXPONENT
            estimated = rows[0]["estimated"] / 2**20
            grows = f"{exponent:>10.2f}" if cells == last else ""
            numbers = (
                f"{rows[0]['tokens']:>8}{seconds:>9.2f}{ratio:>9.2f}{memory[cells] / 2**20:>8.0f}{estimated:>11.0f}"
            )
            print(f"{way:<20}{numbers}{grows}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--ways", nargs="+", default=list(WAYS), choices=WAYS, help="methods to run; must include plain"
    )
    parser.add_argument("--cells", nargs="+", type=int, default=[500, 1000, 2000, 4000], help="vision tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
    else:
        sys.exit(main(arguments))
