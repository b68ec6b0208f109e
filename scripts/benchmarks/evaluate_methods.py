"""Evaluates every method on held-out scenes and clips with the embedded model, and prints the tables of the README.

    OMP_NUM_THREADS=1 python scripts/benchmarks/evaluate_methods.py --out runs/methods

One question with boxes is drawn at random for each scene and clip. `heads` is calibrated first, on other scenes and
clips. Grounding, deletion, insertion and sanity checks are those of `qvl-attn check --methods ... --faithfulness`; an
interrupted run is continued. Time is the median ratio of the seconds of an answer with one method to those of the plain
capture of the same question just before; memory is the median peak that torch allocates besides weights and prompt. One
question takes about 15 s on one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch

from qvl_attn import Analyzer, load_samples
from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.data.samples import Sample

COLUMNS = ("pointing", "lift", "auc", "iou", "deletion_blur", "insertion_blur")
TITLES = ("pointing", "lift", "ROC-AUC", "IoU", "deletion", "insertion", "× plain time", "MiB")
SANITY = ("weights_rank", "question_rank", "picture_rank")
SANITY_TITLES = ("scrambled weights", "another question", "another picture")
CALIBRATION_SHARE = 0.4  # of the scenes: the last ones, which are used for nothing else
QUERY = "last"
FAITHFULNESS = True


def one_per_scene(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Draw one question with boxes for each scene."""
    rng = np.random.default_rng(seed)
    boxed: dict[str, list[Sample]] = {}
    for sample in samples:
        if len(sample.boxes_px):
            boxed.setdefault(sample.group, []).append(sample)
    return [group[int(rng.integers(len(group)))] for group in boxed.values()]


def print_progress(stage: str, done: int, total: int) -> None:
    """Print a line of progress for every tenth item."""
    if done and done % 10 == 0:
        print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)


def measure(analyzer: Analyzer, sample: Sample, method: str | None, profile: str) -> tuple[float, int]:
    """Return the seconds of an answer with a method, and the peak bytes that torch allocated."""
    options: dict[str, Any] = {"query": QUERY, "method": method}
    if method == "heads":
        options["profile"] = profile
    source = str(sample.media_refs[0].source)
    ask = analyzer.ask_video if sample.is_clip else analyzer.ask
    result = ask(source, sample.question, **options)
    seconds = sum(value for stage, value in result.seconds.items() if stage in ("answer", "generic_prompt", "methods"))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        ask(source, sample.question, **options)
    allocated = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            peak = max(peak, allocated)
    return seconds, peak


def costs(analyzer: Analyzer, samples: Sequence[Sample], profile: str) -> dict[str, tuple[float, float]]:
    """Return for each method the time relative to the plain capture, and MiB; medians over the samples."""
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    for sample in samples:
        measure(analyzer, sample, None, profile)  # warm-up
        for name in METHODS:
            plain_s, _ = measure(analyzer, sample, None, profile)
            seconds, peak_bytes = measure(analyzer, sample, name, profile)
            rows[name].append((seconds / plain_s, peak_bytes / 2**20))
    return {name: tuple(map(statistics.median, zip(*pairs, strict=True))) for name, pairs in rows.items()}


def table(summary: dict[str, Any], cost: dict[str, tuple[float, float]]) -> list[list[str]]:
    """Return rows of the grounding, faithfulness and cost of each method."""
    rows = []
    for name, figures in summary["methods"].items():
        cells = [_cell(figures.get(column)) for column in COLUMNS[:4]]
        cells += [_against_random(figures.get(column)) for column in COLUMNS[4:]]
        cells += [f"{cost[name][0]:.2f}", f"{cost[name][1]:.1f}"] if name in cost else ["", ""]
        rows.append([name, *cells])
    mean = summary["methods"]["mean"]
    return [*rows, ["chance", *(f"{mean[column]['chance']:.3f}" for column in COLUMNS[:4]), "", "", "", ""]]


def _against_random(figure: dict[str, Any] | None) -> str:
    """Format the area under the curve, and its difference to random orders."""
    if figure is None or "over_random" not in figure:
        return "" if figure is None else f"{figure['mean']:.1f}"
    over = figure["over_random"]
    interval = "" if over["low"] is None else f" [{over['low']:+.1f}, {over['high']:+.1f}]"
    return f"{figure['mean']:.1f} ({over['mean']:+.1f}{interval})"


def sanity_table(summary: dict[str, Any]) -> list[list[str]]:
    """Return rows of the rank correlations of the sanity checks."""
    return [
        [name, *(_cell(figures.get(column)) for column in SANITY)]
        for name, figures in summary["methods"].items()
        if SANITY[0] in figures
    ]


def print_markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (titles, ["---"] * len(titles), *rows)]
    print("\n".join(lines), flush=True)


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None or figure["mean"] is None:
        return ""
    interval = "" if figure["low"] is None else f" [{figure['low']:.2f}, {figure['high']:.2f}]"
    return f"{figure['mean']:.2f}{interval}"


def evaluate(
    analyzer: Analyzer, out: Path, count: int, timed: int, *, video: bool
) -> tuple[list[list[str]], list[list[str]]]:
    """Calibrate `heads`, evaluate all methods, and print and return the two tables."""
    data, total = out / "data", round(count / (1 - CALIBRATION_SHARE))
    if not data.exists():
        write_dataset(data, total, video=video)
    samples = load_samples(str(data / "questions.jsonl"))
    scenes = list(dict.fromkeys(sample.group for sample in samples))
    profile = out / "profile.json"
    calibration_samples = [sample for sample in samples if sample.group in scenes[count:]]
    if not profile.exists():
        analyzer.check(
            calibration_samples, out / "calibration", query=QUERY, calibrate=profile, progress=print_progress
        )
    chosen = one_per_scene([sample for sample in samples if sample.group in scenes[:count]], seed=0)
    options: dict[str, Any] = {"query": QUERY, "profile": str(profile), "progress": print_progress}
    summary = analyzer.check(chosen, out / "check", methods=list(METHODS), faithfulness=FAITHFULNESS, **options)
    cost = costs(analyzer, chosen[:timed], str(profile))
    noun = "clips" if video else "scenes"
    print(f"\n{len(chosen)} questions, one of each of {len(chosen)} held-out {noun}, `--query {QUERY}`\n")
    tables = table(summary, cost), sanity_table(summary)
    print_markdown(["method", *TITLES], tables[0])
    print()
    print_markdown(["method", *SANITY_TITLES], tables[1])
    return tables


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to create or to continue in")
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--timed", type=int, default=10, help="number of questions that are timed")
    measuring.add_write_option(parser, "evaluate_methods")
    options = parser.parse_args(arguments)
    analyzer = Analyzer.load("demo", dtype="float32", device="cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    tables = {}
    for noun, count in (("scenes", options.scenes), ("clips", options.clips)):
        if count:
            (options.out / noun).mkdir(exist_ok=True)
            evaluated = evaluate(analyzer, options.out / noun, count, options.timed, video=noun == "clips")
            tables[noun], tables[f"{noun} sanity"] = evaluated
    measuring.write_figures(options.write, "evaluate_methods", arguments, {}, tables)


if __name__ == "__main__":
    main()
