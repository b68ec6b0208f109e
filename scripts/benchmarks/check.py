"""Times a check, rows of attention, figures and all, against a plain generate loop over the same samples.

`python scripts/benchmarks/check.py` makes scenes; `--data` names another set, `--model` another model, and `--wide`
takes one with random weights, 16 times as large as the embedded one, so that less of the time is Python's. The plain
loop is the model card's: open, processor, `generate` with SDPA, decode, one by one. Turns of both in one process;
prints medians and their ratios: above 1, the check is the faster.
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

import torch
from memory import make_checkpoint
from PIL import Image

from qvl_attn import Analyzer, load_samples
from qvl_attn.attribution.settings import headline_of
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.loop import ScoringPlan, other_samples
from qvl_attn.evaluation.score import score_row
from qvl_attn.evaluation.workers import InProcess
from qvl_attn.model.generate import greedy, on_model

# hidden, MLP, layers, heads, key heads of the language model; hidden, MLP, depth, heads of the vision tower
WIDE = ((1024, 4096, 8, 8, 2), (640, 1710, 4, 8))


def plain(analyzer: Analyzer, samples: Sequence[Sample], options: argparse.Namespace) -> None:
    model, processor = analyzer.model, analyzer.processor
    generation = greedy(model, options.max_new_tokens)
    size = dict(processor.image_processor.size) | ({"shortest_edge": options.min_pixels} if options.min_pixels else {})
    for sample in samples:
        shown = [{"type": "image", "image": Image.open(one.source).convert("RGB")} for one in sample.media_refs]
        messages = [{"role": "user", "content": [*shown, {"type": "text", "text": sample.question}]}]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        pictures = [item["image"] for item in shown]
        inputs = processor(text=[text], images=pictures, size=size, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**on_model(inputs, model), generation_config=generation)
        processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def check(analyzer: Analyzer, samples: Sequence[Sample], settings: Any, batch_size: int) -> None:
    plan = ScoringPlan(
        settings, headline_of(settings, analyzer.config), False, False, other_samples(samples, 0), batch_size=batch_size
    )
    with tempfile.NamedTemporaryFile("w") as rows:
        for score in InProcess().score(analyzer, samples, plan, tuple):
            assert score.status == "ok", score.error
            rows.write(json.dumps(score_row(score)) + "\n")
            rows.flush()
            os.fsync(rows.fileno())


def seconds_of(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(name: str, analyzer: Analyzer, samples: Sequence[Sample], options: argparse.Namespace) -> None:
    settings = analyzer.settings(query="last", max_new_tokens=options.max_new_tokens, min_pixels=options.min_pixels)
    ways: dict[str, Callable[[], None]] = {"plain": lambda: plain(analyzer, samples, options)}
    for size in options.batch_sizes:
        ways[f"batches of {size}"] = lambda size=size: check(analyzer, samples, settings, size)
    found: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(options.repeats + 1):  # the first warms up
        for way, run in ways.items():
            seconds = seconds_of(run)
            if turn:
                found[way].append(seconds)
    print(f"{name}: {len(samples)} samples, {len({one.names for one in samples})} pictures", flush=True)
    base = statistics.median(found["plain"])
    print(f"  plain loop         {base:7.2f} s  {len(samples) / base:6.2f} a second")
    for way in list(ways)[1:]:
        ratios = sorted(one / other for one, other in zip(found["plain"], found[way], strict=True))
        middle = statistics.median(found[way])
        print(
            f"  check, {way:<13}{middle:6.2f} s  {len(samples) / middle:6.2f} a second  "
            f"{statistics.median(ratios):5.2f} times the plain loop ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="Hugging Face id or folder; demo is embedded")
    parser.add_argument("--wide", action="store_true", help="instead, random weights, 1024 wide, 8 layers")
    parser.add_argument("--attn", default="auto")
    parser.add_argument("--min-pixels", type=int)
    parser.add_argument("--data", type=Path, help="JSONL of pictures; by default demo scenes are made")
    parser.add_argument("--scenes", type=int, default=20, help="how many of them")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.wide:
            options.model = str(Path(folder) / "wide")
            make_checkpoint(WIDE, Path(options.model))
        analyzer = Analyzer.load(options.model, attn=options.attn)
        if options.data is None:
            write_dataset(Path(folder) / "scenes", options.scenes)
        samples = load_samples(options.data or Path(folder) / "scenes" / "questions.jsonl", limit=options.limit)
        seen: set[tuple[str, ...]] = set()
        alone = [one for one in samples if not (one.names in seen or seen.add(one.names))]
        compare("all questions", analyzer, samples, options)
        if len(alone) < len(samples):
            compare("one question a picture", analyzer, alone, options)


if __name__ == "__main__":
    main()
