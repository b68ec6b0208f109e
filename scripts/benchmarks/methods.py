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
import math
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring
from random_checkpoint import make_checkpoint, noise

from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.core.runtime import Stages
from qvl_attn.model.memory import peak_bytes
from qvl_attn.vqa.engine import Engine

PLAIN = "plain"
WAYS = (PLAIN, *(name for name in METHODS if name != "heads"))
GEOMETRY = ((1024, 2816, 8, 8, 2), (640, 1712, 4, 10))
BARS = {"relative": 1.5, "gradient": 4.0}
MOST_EXPONENT = 1.3
QUESTION = "how many people are standing in front of the red house?"


def measure(model: str, picture: str, small: str, way: str) -> dict[str, Any]:
    """Ask once; return the time, and the measured and estimated memory."""
    engine = Engine.load(model, dtype="float32", device="cpu", attn="rows")
    method = None if way == PLAIN else way
    settings = engine.settings(query="last", method=method, max_new_tokens=8, max_pixels=2**25)
    list(engine.answer(engine.prepare([([small], QUESTION)], settings)))
    (question,) = engine.prepare([([picture], QUESTION)], settings)
    stages = Stages()
    with stages.stage("all"):
        ((_, result),) = engine.answer([question])
    seconds = sum(seconds for stage, seconds in result.seconds.items() if stage not in ("prepare", "load"))
    peak = stages.peak_bytes["all"]
    estimated = peak_bytes(engine.config, "float32", question.job, "rows")
    return {
        "tokens": question.prompt.length,
        "seconds": seconds,
        "measured": peak["host"] - peak["before"],
        "estimated": estimated,
    }


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
                    names = ("model", "noise.png", "small.png")
                    row = measuring.in_own_process(measure, *(str(folder / name) for name in names), way)
                    runs.setdefault((way, cells), []).append(row)
                    print(f"turn {turn + 1} of {cells} cells, {way}: {row['seconds']:.2f} s", file=sys.stderr)
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="methods; must include plain")
    parser.add_argument("--cells", nargs="+", type=int, default=[500, 1000, 2000, 4000], help="vision tokens")
    parser.add_argument("--repeats", type=int, default=3)
    measuring.add_write_option(parser, "methods")
    options = parser.parse_args(arguments)
    measuring.keep_no_freed_blocks()
    runs, failures, table = run_all(options), 0, []
    first, last = options.cells[0], options.cells[-1]
    titles = ("method", "tokens", "x plain", "MiB", "estimated MiB", "grows as")
    print(("{:<20}" + "{:>14}" * 5).format(*titles), flush=True)
    for way in options.ways:
        memory = {cells: statistics.median(row["measured"] for row in runs[way, cells]) for cells in options.cells}
        growth = exponent(memory[first], memory[last], *(runs[way, cells][0]["tokens"] for cells in (first, last)))
        failures += growth is not None and growth > MOST_EXPONENT
        for cells in options.cells:
            rows = runs[way, cells]
            times_s = [[row["seconds"] for row in runs[name, cells]] for name in (way, PLAIN)]
            ratio = measuring.median_ratio(*times_s)
            failures += ratio is not None and ratio > BARS.get(way, math.inf)
            sizes = [f"{size / 2**20:,.0f}" for size in (memory[cells], rows[0]["estimated"])]
            cells_shown = [f"{rows[0]['tokens']:,}", measuring.shown(ratio), *sizes, measuring.shown(growth)]
            table.append([way, *cells_shown])
            print(("{:<20}" + "{:>14}" * 5).format(*table[-1]), flush=True)
    measuring.write_figures(options.write, "methods", arguments, {}, {"costs": table})
    return int(failures > 0)


def exponent(small: float, large: float, short: int, long: int) -> float | None:
    """Return the power of the number of tokens with which memory grows; None where nothing was measured."""
    return math.log(large / small) / math.log(long / short) if min(small, large) > 0 and long > short else None


if __name__ == "__main__":
    sys.exit(main())
