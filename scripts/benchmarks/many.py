"""Compares the time of many questions asked together with the same questions asked one by one.

`python scripts/benchmarks/many.py` asks about different pictures of noise, in batches and one by one, and several
questions about one picture, together and one by one. All alternate in one process. Prints medians and their ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import measuring
import numpy as np

from qvl_attn import Analyzer
from qvl_attn.core.types import Media

QUESTIONS = [f"what color is the {shape}?" for shape in ("cat", "dog", "fish", "star", "circle", "square", "triangle")]


def noise(side_px: int, seed: int) -> Media:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, side_px, side_px, 3), dtype=np.uint8)
    return Media("picture", pixels, np.zeros(1), (side_px, side_px), f"noise {seed}", f"{seed:064x}")


def compare(name: str, together: Callable[[], object], alone: Callable[[], object], repeats: int) -> float | None:
    """Return how many times as fast questions are together."""
    seconds: dict[str, list[float]] = {"together": [], "alone": []}
    for _ in range(repeats + 1):  # the first round is a warm-up
        for way, run in (("alone", alone), ("together", together)):
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    alone_s, together_s = (statistics.median(seconds[way][1:]) for way in ("alone", "together"))
    ratio = measuring.median_ratio(seconds["alone"][1:], seconds["together"][1:])
    figures = f"one by one {alone_s:6.2f} s   together {together_s:6.2f} s   {measuring.shown(ratio)} times as fast"
    print(f"{name:<46} {figures}", flush=True)
    return ratio


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="Hugging Face id or folder; demo is embedded")
    parser.add_argument("--side-px", type=int, default=280, help="side of the pictures, in pixels")
    parser.add_argument("--pictures", type=int, default=16, help="number of pictures in the batched part")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    measuring.add_write_option(parser, "many")
    options = parser.parse_args(arguments)
    analyzer = Analyzer.load(options.model, attn="rows")
    pictures = [noise(options.side_px, seed) for seed in range(options.pictures)]
    pairs = [(picture, QUESTIONS[i % len(QUESTIONS)]) for i, picture in enumerate(pictures)]
    about_one = [(pictures[0], question) for question in QUESTIONS]
    figures = {}
    for key, name, questions in (
        ("pictures", f"{len(pairs)} pictures, batches of {options.batch_size}", pairs),
        ("one picture", f"{len(about_one)} questions about one picture", about_one),
    ):
        ratio = compare(
            name,
            lambda questions=questions: analyzer.ask_many(questions, batch_size=options.batch_size, max_new_tokens=8),
            lambda questions=questions: [analyzer.ask(picture, text, max_new_tokens=8) for picture, text in questions],
            options.repeats,
        )
        figures[key] = measuring.shown(ratio, 1)
    measuring.write_figures(options.write, "many", arguments, figures)


if __name__ == "__main__":
    main()
