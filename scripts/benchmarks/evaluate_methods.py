"""Measures every method on held-out scenes and clips of the embedded model, and prints the README's tables.

    OMP_NUM_THREADS=1 python scripts/benchmarks/evaluate_methods.py --out runs/methods

One question with boxes is drawn at random of each scene and clip. `heads` are calibrated before, on other scenes and
clips. Grounding, deletion, insertion and sanity checks are those of `qvl-attn check --methods ... --faithfulness`,
which goes on where a stopped run ended. Seconds are those of the answer by one method alone over those of the plain
capture of the same question right before, the median over questions; memory is the most that torch holds beside weights
and prompt, the median likewise. It takes about 15 s a question on one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qvl_attn import Analyzer, load_samples
from qvl_attn.attribution.methods import METHODS
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.data.samples import Sample

COLUMNS = ("pointing", "lift", "auc", "iou", "deletion_blur", "insertion_blur")
SANITY = ("weights_rank", "question_rank", "picture_rank")
CALIBRATION_SHARE = 0.4  # of the scenes: the last ones, of which nothing else is asked
QUERY = "last"


def one_a_scene(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Of each scene one question that has boxes."""
    rng = np.random.default_rng(seed)
    boxed: dict[str, list[Sample]] = {}
    for one in samples:
        if len(one.boxes_px):
            boxed.setdefault(one.group, []).append(one)
    return [some[int(rng.integers(len(some)))] for some in boxed.values()]


def told(message: str, done: int, total: int) -> None:
    """Progress, a line at a time."""
    if done and done % 10 == 0:
        print(f"{message}: {done} of {total}", file=sys.stderr, flush=True)


def measured(analyzer: Analyzer, sample: Sample, method: str | None, profile: str) -> tuple[float, int]:
    """Seconds of a method's answer, and the most bytes that torch held meanwhile."""
    options: dict[str, Any] = {"query": QUERY, "method": method}
    if method == "heads":
        options["profile"] = profile
    source = str(sample.shown[0].source)
    ask = analyzer.ask_video if sample.is_clip else analyzer.ask
    result = ask(source, sample.question, **options)
    seconds = sum(value for stage, value in result.seconds.items() if stage in ("answer", "generic_prompt", "methods"))
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        ask(source, sample.question, **options)
    held = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return seconds, most


def costs(analyzer: Analyzer, samples: Sequence[Sample], profile: str) -> dict[str, tuple[float, float]]:
    """For each method seconds over those of the plain capture, and MiB; medians over the samples."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    for sample in samples:
        measured(analyzer, sample, None, profile)  # what is slow the first time
        for name in METHODS:
            plain, _ = measured(analyzer, sample, None, profile)
            seconds, most = measured(analyzer, sample, name, profile)
            found[name].append((seconds / plain, most / 2**20))
    return {name: tuple(map(statistics.median, zip(*rows, strict=True))) for name, rows in found.items()}


def table(summary: dict[str, Any], cost: dict[str, tuple[float, float]]) -> list[str]:
    """Markdown: grounding, faithfulness and cost of each method."""
    heads = ["pointing", "lift", "ROC-AUC", "IoU", "deletion", "insertion", "× plain time", "MiB"]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, own in summary["methods"].items():
        cells = [_cell(own.get(column)) for column in COLUMNS[:4]]
        cells += [_against_random(own.get(column)) for column in COLUMNS[4:]]
        spent = [f"{cost[name][0]:.2f}", f"{cost[name][1]:.1f}"] if name in cost else ["", ""]
        lines.append(f"| {name} | " + " | ".join([*cells, *spent]) + " |")
    mean = summary["methods"]["mean"]
    lines.append("| chance | " + " | ".join(f"{mean[column]['chance']:.3f}" for column in COLUMNS[:4]) + " | | | | |")
    return lines


def _against_random(one: dict[str, Any] | None) -> str:
    """The area, and its difference to random orders."""
    if one is None or "over_random" not in one:
        return "" if one is None else f"{one['mean']:.1f}"
    over = one["over_random"]
    ends = "" if over["low"] is None else f" [{over['low']:+.1f}, {over['high']:+.1f}]"
    return f"{one['mean']:.1f} ({over['mean']:+.1f}{ends})"


def sanity_table(summary: dict[str, Any]) -> list[str]:
    """Markdown: rank correlations under changed circumstances."""
    lines = ["| method | scrambled weights | another question | another picture |", "|---|---|---|---|"]
    for name, own in summary["methods"].items():
        if SANITY[0] in own:
            lines.append(f"| {name} | " + " | ".join(_cell(own.get(column)) for column in SANITY) + " |")
    return lines


def _cell(one: dict[str, Any] | None) -> str:
    if one is None or one["mean"] is None:
        return ""
    ends = "" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]"
    return f"{one['mean']:.2f}{ends}"


def evaluate(analyzer: Analyzer, out: Path, count: int, timed: int, *, video: bool) -> None:
    """Calibrate, measure, print."""
    data, total = out / "data", round(count / (1 - CALIBRATION_SHARE))
    if not data.exists():
        write_dataset(data, total, video=video)
    samples = load_samples(str(data / "questions.jsonl"))
    scenes = list(dict.fromkeys(one.group for one in samples))
    profile, calibrating = out / "profile.json", [one for one in samples if one.group in scenes[count:]]
    if not profile.exists():
        analyzer.check(calibrating, out / "calibration", query=QUERY, calibrate=profile, progress=told)
    chosen = one_a_scene([one for one in samples if one.group in scenes[:count]], seed=0)
    options: dict[str, Any] = {"query": QUERY, "profile": str(profile), "progress": told}
    summary = analyzer.check(chosen, out / "check", methods=list(METHODS), faithfulness=True, **options)
    cost = costs(analyzer, chosen[:timed], str(profile))
    noun = "clips" if video else "scenes"
    print(f"\n{len(chosen)} questions, one of each of {len(chosen)} held-out {noun}, `--query {QUERY}`\n")
    print("\n".join([*table(summary, cost), "", *sanity_table(summary)]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to make, or to go on in")
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--timed", type=int, default=10, help="questions that are timed")
    options = parser.parse_args()
    analyzer = Analyzer.load("demo", dtype="float32", device="cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    for noun, count in (("scenes", options.scenes), ("clips", options.clips)):
        if count:
            (options.out / noun).mkdir(exist_ok=True)
            evaluate(analyzer, options.out / noun, count, options.timed, video=noun == "clips")


if __name__ == "__main__":
    main()
