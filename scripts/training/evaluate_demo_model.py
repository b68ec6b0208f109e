"""Evaluates a checkpoint of the embedded model on the held-out distribution: answers and grounding.

    .venv/bin/python scripts/training/evaluate_demo_model.py --scenes 500 --clips 504

Prints the tables of the model card; exit code 1 if a figure misses its range. Uses the real processors and `generate`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from demo_model import grounding
from demo_model.arguments import count
from demo_model.build import build_model
from demo_model.measures import EvaluatedQuestion, ask_all
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from qvl_attn.demo import heldout
from qvl_attn.demo.wording import LANGUAGES

MODEL = Path(__file__).parents[2] / "qvl_attn" / "demo" / "model"
PLACE = ("side", "level", "where")
MOVING = ("move_color", "move_shape")
EVENTS = (*MOVING, "appear", "vanish", "recolor")
# The range of lifts by chance; an uninformative map has a lift of 1.0 on average.
NO_LIFT = (0.95, 1.5)


@dataclass(frozen=True)
class Bar:
    """A figure with its required range, from `least` to `most`."""

    name: str
    value: float
    least: float = -np.inf
    most: float = np.inf

    @property
    def met(self) -> bool:
        """Whether the value is in the range."""
        return self.least <= self.value <= self.most

    def __str__(self) -> str:
        required = f"at least {self.least:g}" if np.isfinite(self.least) else f"at most {self.most:g}"
        if np.isfinite(self.least) and np.isfinite(self.most):
            required = f"{self.least:g} to {self.most:g}"
        return f"{'ok    ' if self.met else 'MISSED'} {self.name}: {self.value:.3f} ({required})"


def accuracy(items: Sequence[EvaluatedQuestion], language: str, kinds: Sequence[str] = ()) -> float:
    """Return the share of correct answers, of all kinds if none is given."""
    chosen = [item for item in items if item.question.language == language]
    return float(np.mean([item.correct for item in chosen if not kinds or item.question.kind in kinds]))


def table(title: str, columns: Sequence[str], rows: dict[str, Sequence[float]]) -> str:
    lines = [f"| {title} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |" for name, values in rows.items()]
    return "\n".join(lines) + "\n"


def accuracy_by(name: str, items: Sequence[EvaluatedQuestion], key: Callable[[EvaluatedQuestion], str]) -> str:
    rows: dict[str, Sequence[float]] = {}
    for value in sorted({key(item) for item in items}):
        chosen = [item for item in items if key(item) == value]
        rows[f"{value}, n={len(chosen) // 2}"] = [accuracy(chosen, language) for language in LANGUAGES]
    return table(name, ["English", "Chinese"], rows)


def answer_bars(
    scenes: Sequence[EvaluatedQuestion], pairs: Sequence[EvaluatedQuestion], clips: Sequence[EvaluatedQuestion]
) -> list[Bar]:
    bars = []
    for language in LANGUAGES:
        for kind, least in (("color", 0.98), ("shape", 0.98), ("exist", 0.98), ("count", 0.95), ("side", 0.8)):
            bars.append(Bar(f"{kind}, {language}: right", accuracy(scenes, language, [kind]), least))
        bars.append(Bar(f"place ({', '.join(PLACE)}), {language}: right", accuracy(scenes, language, PLACE), 0.8))
        bars.append(Bar(f"two pictures, {language}: right", accuracy(pairs, language), 0.9))
        bars.append(Bar(f"clips, {language}: right", accuracy(clips, language), 0.95))
        bars.append(Bar(f"clips, what happens, {language}: right", accuracy(event_questions(clips), language), 0.9))
    return bars


def event_questions(items: Sequence[EvaluatedQuestion]) -> list[EvaluatedQuestion]:
    """Return the questions that no single frame answers; of kind "when" only those whose answer is not "start"."""
    return [
        item
        for item in items
        if item.question.kind in EVENTS or (item.question.kind == "when" and item.question.fact.answer != "start")
    ]


def picture_grounding(items: Sequence[EvaluatedQuestion], random: Sequence[EvaluatedQuestion]) -> tuple[str, list[Bar]]:
    rows: dict[str, Sequence[float]] = {}
    bars = [Bar("pictures, chance of pointing", grounding.chance_of_pointing(items), most=0.1)]
    for query, name, least in (("last", "last prompt token", 5), ("words", "question tokens", 2)):
        figures = {grid: grounding.on_pictures(items, query, change) for grid, change in grounding.WRONG_GRIDS.items()}
        figures["random weights"] = grounding.on_pictures(random, query, grounding.WRONG_GRIDS["right grid"])
        rows |= {f"{name}, {grid}": [row.pointing, row.lift] for grid, row in figures.items()}
        right = figures.pop("right grid")
        bars.append(Bar(f"pictures, {name}: lift", right.lift, least))
        if query == "last":
            bars.append(Bar(f"pictures, {name}: pointing", right.pointing, 0.9))
        for grid, row in figures.items():
            if grid in ("transposed", "shuffled", "random weights"):
                bars.append(Bar(f"pictures, {name}, {grid}: lift", row.lift, *NO_LIFT))
            else:
                bars.append(Bar(f"pictures, {name}, {grid}: of the right lift", row.lift / right.lift, most=0.8))
    return table(f"pictures, n={right.maps}", ["pointing", "lift"], rows), bars


def clip_grounding(items: Sequence[EvaluatedQuestion], random: Sequence[EvaluatedQuestion]) -> tuple[str, list[Bar]]:
    changing = [item for item in items if grounding.changes(item)]
    moving = [item for item in items if item.question.kind in MOVING]
    right_grid = grounding.WRONG_TIMES["right grid"]
    rows: dict[str, Sequence[float]] = {}
    for name, chosen in (("all", items), ("what changes place or comes or goes", changing), ("what moves", moving)):
        for wrong, change in grounding.WRONG_TIMES.items():
            figures = grounding.on_clips(chosen, change)
            lift = grounding.in_space_and_time(chosen, change)
            rows[f"{name}, {wrong}"] = [figures.pointing, figures.lift, lift]
    figures = grounding.on_clips(random, right_grid)
    rows["all, random weights"] = [figures.pointing, figures.lift, grounding.in_space_and_time(random, right_grid)]
    all_right, changing_name = rows["all, right grid"], "what changes place or comes or goes"
    bars = [
        Bar("clips, step by step: pointing", all_right[0], 0.75),
        Bar("clips, step by step: lift", all_right[1], 3.5),
        Bar("clips, what moves: pointing", rows["what moves, right grid"][0], 0.6),
        Bar("clips, transposed: lift", rows["all, transposed"][1], *NO_LIFT),
        Bar("clips, random weights: lift", rows["all, random weights"][1], *NO_LIFT),
    ]
    for wrong in ("steps shuffled", "another step's map"):
        share = rows[f"{changing_name}, {wrong}"][2] / rows[f"{changing_name}, right grid"][2]
        bars.append(Bar(f"clips, {changing_name}, {wrong}: of the right lift in space and time", share, most=0.8))
    for kind in dict.fromkeys(item.question.kind for item in items):
        chosen = [item for item in items if item.question.kind == kind]
        figures = grounding.on_clips(chosen, right_grid)
        rows[f"{kind}, right grid"] = [figures.pointing, figures.lift, grounding.in_space_and_time(chosen, right_grid)]
    steps = grounding.on_clips(items, right_grid).maps
    return table(f"clips, step by step, n={steps}", ["pointing", "lift", "lift in space and time"], rows), bars


def evaluate(model_folder: Path, scenes: int, pairs: int, clips: int) -> list[Bar]:
    """Print all tables and return the required figures."""
    processor = AutoProcessor.from_pretrained(model_folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    random = build_model(model.config, seed=1).eval()
    started = time.monotonic()
    scene_samples = [heldout.scene(i) for i in range(scenes)]
    clip_samples = [heldout.clip(i) for i in range(clips)]
    on_scenes = ask_all(model, processor, scene_samples)
    on_pairs = ask_all(model, processor, [heldout.pair(i) for i in range(pairs)])
    on_clips = ask_all(model, processor, clip_samples)
    picture_table, picture_bars = picture_grounding(
        on_scenes, ask_all(random, processor, scene_samples[: -(-scenes // 4)])
    )
    clip_table, clip_bars = clip_grounding(on_clips, ask_all(random, processor, clip_samples[: -(-clips // 4)]))
    counts = [item for item in on_scenes if item.question.kind == "count"]
    for text in (
        accuracy_by(f"right, {scenes} pictures", on_scenes, lambda item: item.question.kind),
        accuracy_by("right, by true count", counts, lambda item: item.question.fact.answer),
        accuracy_by(f"right, {pairs} pairs of pictures", on_pairs, lambda item: item.question.kind),
        accuracy_by(f"right, {clips} clips", on_clips, lambda item: item.question.kind),
        accuracy_by("right, what happens", event_questions(on_clips), lambda item: item.question.kind),
        accuracy_by(
            "right, by length and interval", on_clips, lambda item: f"{item.frames} frames, {2 / item.fps:g} s a step"
        ),
        picture_table,
        clip_table,
        f"{time.monotonic() - started:.0f} s\n",
    ):
        print(text, flush=True)
    return [*answer_bars(on_scenes, on_pairs, on_clips), *picture_bars, *clip_bars]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of a checkpoint")
    parser.add_argument("--scenes", type=count, default=500)
    parser.add_argument("--pairs", type=count, default=500)
    parser.add_argument("--clips", type=count, default=504)
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        sys.exit(f"--model {options.model}: there is no checkpoint")
    bars = evaluate(options.model, options.scenes, options.pairs, options.clips)
    print("\n".join(map(str, bars)))
    sys.exit(0 if all(bar.met for bar in bars) else 1)


if __name__ == "__main__":
    main()
