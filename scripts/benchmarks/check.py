"""Measures the time of a check, with attention rows and figures, against a plain generate loop over the same samples.

`python scripts/benchmarks/check.py` draws scenes; `--data` names another data set, `--model` another model, and
`--wide` uses random weights, 16 times as large as the embedded model, so that Python takes a smaller part of the time.
The plain loop is that of the model card: open, processor, `generate` with SDPA, decode, one sample at a time. Both
alternate in one process. Prints medians and their ratios; above 1, the check is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measuring
import torch
from PIL import Image
from random_checkpoint import make_checkpoint

from qvl_attn import load_samples
from qvl_attn.attribution.settings import headline_of
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.loop import ScoringPlan, other_samples
from qvl_attn.evaluation.rows import score_row
from qvl_attn.evaluation.workers import InProcess
from qvl_attn.model.generate import greedy, on_model
from qvl_attn.vqa.engine import Engine

# Language model: hidden, MLP, layers, heads, key heads. Vision encoder: hidden, MLP, depth, heads.
WIDE = ((1024, 4096, 8, 8, 2), (640, 1710, 4, 8))


def plain(engine: Engine, samples: Sequence[Sample], options: argparse.Namespace) -> None:
    model, processor = engine.model, engine.processor
    generation = greedy(model, options.max_new_tokens)
    size = dict(processor.image_processor.size) | ({"shortest_edge": options.min_pixels} if options.min_pixels else {})
    for sample in samples:
        images = [{"type": "image", "image": Image.open(ref.source).convert("RGB")} for ref in sample.media_refs]
        messages = [{"role": "user", "content": [*images, {"type": "text", "text": sample.question}]}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        pictures = [item["image"] for item in images]
        inputs = processor(text=[text], images=pictures, size=size, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**on_model(inputs, model), generation_config=generation)
        processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def check(engine: Engine, samples: Sequence[Sample], settings: Any, batch_size: int) -> None:
    headline = headline_of(settings, engine.selection(settings))
    plan = ScoringPlan(settings, headline, False, False, other_samples(samples, 0), batch_size=batch_size)
    with tempfile.NamedTemporaryFile("w") as rows:
        for score in InProcess().score(engine, samples, plan, tuple):
            assert score.status == "ok", score.error
            rows.write(json.dumps(score_row(score)) + "\n")
            rows.flush()
            os.fsync(rows.fileno())


def seconds_of(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(name: str, engine: Engine, samples: Sequence[Sample], options: argparse.Namespace) -> list[str]:
    """Return the samples a second of a check over those of the plain loop, for each batch size."""
    settings = engine.settings(query="last", max_new_tokens=options.max_new_tokens, min_pixels=options.min_pixels)
    ways: dict[str, Callable[[], None]] = {"plain": lambda: plain(engine, samples, options)}
    for size in options.batch_sizes:
        ways[f"batches of {size}"] = lambda size=size: check(engine, samples, settings, size)
    times_s: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(options.repeats + 1):  # the first warms up
        for way, run in ways.items():
            seconds = seconds_of(run)
            if turn:
                times_s[way].append(seconds)
    print(f"{name}: {len(samples)} samples, {len({sample.names for sample in samples})} pictures", flush=True)
    base = statistics.median(times_s["plain"])
    print(f"  plain loop         {base:7.2f} s  {len(samples) / base:6.2f} a second")
    medians = []
    for way in list(ways)[1:]:
        ratios = sorted(plain_s / check_s for plain_s, check_s in zip(times_s["plain"], times_s[way], strict=True))
        medians.append(f"{statistics.median(ratios):.2f}")
        median_s = statistics.median(times_s[way])
        print(
            f"  check, {way:<13}{median_s:6.2f} s  {len(samples) / median_s:6.2f} a second  "
            f"{medians[-1]:>5} times the plain loop ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )
    return medians


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="Hugging Face id or folder; demo is embedded")
    parser.add_argument(
        "--wide", action="store_true", help="use a model with random weights instead, 1,024 wide, 8 layers"
    )
    parser.add_argument("--attn", default="auto")
    parser.add_argument("--min-pixels", type=int)
    parser.add_argument("--data", type=Path, help="JSONL of questions about pictures; by default demo scenes are drawn")
    parser.add_argument("--scenes", type=int, default=20, help="number of demo scenes")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    measuring.add_write_option(parser, "check")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.wide:
            options.model = str(Path(folder) / "wide")
            make_checkpoint(WIDE, Path(options.model))
        engine = Engine.load(options.model, attn=options.attn)
        if options.data is None:
            write_dataset(Path(folder) / "scenes", options.scenes)
        samples = load_samples(options.data or Path(folder) / "scenes" / "questions.jsonl", limit=options.limit)
        known: set[tuple[str, ...]] = set()
        first_questions = [sample for sample in samples if not (sample.names in known or known.add(sample.names))]
        columns = [compare("all questions", engine, samples, options)]
        if len(first_questions) < len(samples):
            columns.append(compare("one question a picture", engine, first_questions, options))
        rows = [[str(size), *cells] for size, *cells in zip(options.batch_sizes, *columns, strict=True)]
        counts: dict[str, float | str] = {"questions": len(samples), "pictures": len(first_questions)}
        measuring.write_figures(options.write, "check", arguments, counts, {"batches": rows})


if __name__ == "__main__":
    main()
