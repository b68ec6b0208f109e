"""Measures a checkpoint of the embedded model on the held-out distribution: answers, and where it looked.

    .venv/bin/python scripts/training/evaluate_demo_model.py --scenes 500 --clips 504

Prints the tables of the model card; exit code 1 if a bar is missed. The real processors and `generate` do the work.
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
from demo_model.measures import Asked, ask_all
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from qvl_attn.demo import heldout
from qvl_attn.demo.wording import LANGUAGES

MODEL = Path(__file__).parents[2] / "qvl_attn" / "demo" / "model"
PLACE = ("side", "level", "where")
MOVING = ("move_color", "move_shape")
EVENTS = (*MOVING, "appear", "vanish", "recolor")
# A map that knows nothing has a lift of 1.0 but for the luck of the sample.
NO_LIFT = (0.95, 1.5)


@dataclass(frozen=True)
class Bar:
    """A figure that is asked for: at least `least`, at most `most`."""

    name: str
    value: float
    least: float = -np.inf
    most: float = np.inf

    @property
    def met(self) -> bool:
        """Whether the value is within."""
        return self.least <= self.value <= self.most

    def __str__(self) -> str:
        wanted = f"at least {self.least:g}" if np.isfinite(self.least) else f"at most {self.most:g}"
        if np.isfinite(self.least) and np.isfinite(self.most):
            wanted = f"{self.least:g} to {self.most:g}"
        return f"{'ok    ' if self.met else 'MISSED'} {self.name}: {self.value:.3f} ({wanted})"


def right(asked: Sequence[Asked], language: str, kinds: Sequence[str] = ()) -> float:
    """Share of the answers that are right, of all kinds if none is given."""
    chosen = [one for one in asked if one.question.language == language]
    return float(np.mean([one.right for one in chosen if not kinds or one.question.kind in kinds]))


def table(title: str, columns: Sequence[str], rows: dict[str, Sequence[float]]) -> str:
    lines = [f"| {title} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |" for name, values in rows.items()]
    return "\n".join(lines) + "\n"


def by(name: str, asked: Sequence[Asked], part: Callable[[Asked], str]) -> str:
    rows: dict[str, Sequence[float]] = {}
    for value in sorted({part(one) for one in asked}):
        chosen = [one for one in asked if part(one) == value]
        rows[f"{value}, n={len(chosen) // 2}"] = [right(chosen, language) for language in LANGUAGES]
    return table(name, ["English", "Chinese"], rows)


def answer_bars(scenes: Sequence[Asked], pairs: Sequence[Asked], clips: Sequence[Asked]) -> list[Bar]:
    bars = []
    for language in LANGUAGES:
        for kind, least in (("color", 0.98), ("shape", 0.98), ("exist", 0.98), ("count", 0.95), ("side", 0.8)):
            bars.append(Bar(f"{kind}, {language}: right", right(scenes, language, [kind]), least))
        bars.append(Bar(f"place ({', '.join(PLACE)}), {language}: right", right(scenes, language, PLACE), 0.8))
        bars.append(Bar(f"two pictures, {language}: right", right(pairs, language), 0.9))
        bars.append(Bar(f"clips, {language}: right", right(clips, language), 0.95))
        bars.append(Bar(f"clips, what happens, {language}: right", right(happenings(clips), language), 0.9))
    return bars


def happenings(asked: Sequence[Asked]) -> list[Asked]:
    """Questions that no single frame answers; "when" is mostly "start", and so counts only where it is not."""
    return [
        one
        for one in asked
        if one.question.kind in EVENTS or (one.question.kind == "when" and one.question.fact.answer != "start")
    ]


def look_at_pictures(asked: Sequence[Asked], random: Sequence[Asked]) -> tuple[str, list[Bar]]:
    rows: dict[str, Sequence[float]] = {}
    bars = [Bar("pictures, chance of pointing", grounding.chance_of_pointing(asked), most=0.1)]
    for query, name, least in (("last", "last prompt token", 5), ("words", "question tokens", 2)):
        figures = {
            wrong: grounding.on_pictures(asked, query, change) for wrong, change in grounding.WRONG_GRIDS.items()
        }
        figures["random weights"] = grounding.on_pictures(random, query, grounding.WRONG_GRIDS["right grid"])
        rows |= {f"{name}, {wrong}": [one.pointing, one.lift] for wrong, one in figures.items()}
        whole = figures.pop("right grid")
        bars.append(Bar(f"pictures, {name}: lift", whole.lift, least))
        if query == "last":
            bars.append(Bar(f"pictures, {name}: pointing", whole.pointing, 0.9))
        for wrong, one in figures.items():
            if wrong in ("transposed", "shuffled", "random weights"):
                bars.append(Bar(f"pictures, {name}, {wrong}: lift", one.lift, *NO_LIFT))
            else:
                bars.append(Bar(f"pictures, {name}, {wrong}: of the right lift", one.lift / whole.lift, most=0.8))
    return table(f"pictures, n={whole.maps}", ["pointing", "lift"], rows), bars


def look_at_clips(asked: Sequence[Asked], random: Sequence[Asked]) -> tuple[str, list[Bar]]:
    changing = [one for one in asked if grounding.changes(one)]
    moving = [one for one in asked if one.question.kind in MOVING]
    right_grid = grounding.WRONG_TIMES["right grid"]
    rows: dict[str, Sequence[float]] = {}
    for name, chosen in (("all", asked), ("what changes place or comes or goes", changing), ("what moves", moving)):
        for wrong, change in grounding.WRONG_TIMES.items():
            figures = grounding.on_clips(chosen, change)
            together = grounding.in_space_and_time(chosen, change)
            rows[f"{name}, {wrong}"] = [figures.pointing, figures.lift, together]
    figures = grounding.on_clips(random, right_grid)
    rows["all, random weights"] = [figures.pointing, figures.lift, grounding.in_space_and_time(random, right_grid)]
    good, turning = rows["all, right grid"], "what changes place or comes or goes"
    bars = [
        Bar("clips, step by step: pointing", good[0], 0.75),
        Bar("clips, step by step: lift", good[1], 3.5),
        Bar("clips, what moves: pointing", rows["what moves, right grid"][0], 0.6),
        Bar("clips, transposed: lift", rows["all, transposed"][1], *NO_LIFT),
        Bar("clips, random weights: lift", rows["all, random weights"][1], *NO_LIFT),
    ]
    for wrong in ("steps shuffled", "another step's map"):
        share = rows[f"{turning}, {wrong}"][2] / rows[f"{turning}, right grid"][2]
        bars.append(Bar(f"clips, {turning}, {wrong}: of the right lift in space and time", share, most=0.8))
    for kind in dict.fromkeys(one.question.kind for one in asked):
        chosen = [one for one in asked if one.question.kind == kind]
        figures = grounding.on_clips(chosen, right_grid)
        rows[f"{kind}, right grid"] = [figures.pointing, figures.lift, grounding.in_space_and_time(chosen, right_grid)]
    steps = grounding.on_clips(asked, right_grid).maps
    return table(f"clips, step by step, n={steps}", ["pointing", "lift", "lift in space and time"], rows), bars


def evaluate(model_folder: Path, scenes: int, pairs: int, clips: int) -> list[Bar]:
    """Prints all tables and returns the bars."""
    processor = AutoProcessor.from_pretrained(model_folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    random = build_model(model.config, seed=1).eval()
    started = time.monotonic()
    shown, films = [heldout.scene(i) for i in range(scenes)], [heldout.clip(i) for i in range(clips)]
    pictures = ask_all(model, processor, shown)
    which = ask_all(model, processor, [heldout.pair(i) for i in range(pairs)])
    filmed = ask_all(model, processor, films)
    look, bars = look_at_pictures(pictures, ask_all(random, processor, shown[: -(-scenes // 4)]))
    watch, more = look_at_clips(filmed, ask_all(random, processor, films[: -(-clips // 4)]))
    counted = [one for one in pictures if one.question.kind == "count"]
    for text in (
        by(f"right, {scenes} pictures", pictures, lambda one: one.question.kind),
        by("right, by true count", counted, lambda one: one.question.fact.answer),
        by(f"right, {pairs} pairs of pictures", which, lambda one: one.question.kind),
        by(f"right, {clips} clips", filmed, lambda one: one.question.kind),
        by("right, what happens", happenings(filmed), lambda one: one.question.kind),
        by("right, by length and interval", filmed, lambda one: f"{one.frames} frames, {2 / one.fps:g} s a step"),
        look,
        watch,
        f"{time.monotonic() - started:.0f} s\n",
    ):
        print(text, flush=True)
    return [*answer_bars(pictures, which, filmed), *bars, *more]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of a checkpoint")
    parser.add_argument("--scenes", type=count, default=500)
    parser.add_argument("--pairs", type=count, default=500)
    parser.add_argument("--clips", type=count, default=504)
    wanted = parser.parse_args()
    if not (wanted.model / "config.json").is_file():
        sys.exit(f"--model {wanted.model}: no checkpoint is there")
    bars = evaluate(wanted.model, wanted.scenes, wanted.pairs, wanted.clips)
    print("\n".join(map(str, bars)))
    sys.exit(0 if all(bar.met for bar in bars) else 1)


if __name__ == "__main__":
    main()
