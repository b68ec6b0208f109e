"""Measures a checkpoint of the embedded model on the held-out distribution: answers, and where it looked.

    .venv/bin/python scripts/evaluate_demo_model.py --scenes 500 --clips 504

Prints the tables of the model card; exit code 1 if a bar is missed. The real processors and `generate` do the work.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from demo_model import grounding
from demo_model.build import build_model
from demo_model.measures import Asked, ask_all
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from qvl_attn.demo import heldout
from qvl_attn.demo.wording import LANGUAGES

MODEL = Path(__file__).parents[1] / "qvl_attn" / "demo" / "model"
PICTURE_KINDS = ("color", "shape", "exist", "count", "side", "level", "where", "describe")
PLACE = ("side", "level", "where")


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


def right(asked: Sequence[Asked], language: str, kinds: Sequence[str]) -> float:
    chosen = [one.right for one in asked if one.question.language == language and one.question.kind in kinds]
    return float(np.mean(chosen)) if chosen else float("nan")


def table(title: str, columns: Sequence[str], rows: dict[str, Sequence[float]]) -> str:
    lines = [f"| {title} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(f'{value:.3f}' for value in values)} |" for name, values in rows.items()]
    return "\n".join(lines) + "\n"


def answers(asked: Sequence[Asked], title: str) -> str:
    kinds = dict.fromkeys(one.question.kind for one in asked)
    rows: dict[str, Sequence[float]] = {}
    for kind in kinds:
        count = sum(one.question.kind == kind for one in asked) // 2
        rows[f"{kind}, n={count}"] = [right(asked, language, [kind]) for language in LANGUAGES]
    return table(title, ["English", "Chinese"], rows)


def counts(asked: Sequence[Asked]) -> str:
    rows: dict[str, Sequence[float]] = {}
    for true in "01234":
        chosen = [one for one in asked if one.question.kind == "count" and one.question.answer == true]
        if chosen:
            rows[f"{true}, n={len(chosen) // 2}"] = [right(chosen, language, ["count"]) for language in LANGUAGES]
    return table("true count", ["English", "Chinese"], rows)


def look_at_pictures(asked: Sequence[Asked], random: Sequence[Asked]) -> tuple[str, list[Bar]]:
    rows: dict[str, Sequence[float]] = {}
    bars = [Bar("chance of pointing on pictures", grounding.chance_of_pointing(asked), most=0.1)]
    for query, name in (("last", "last prompt token"), ("words", "question tokens")):
        whole = grounding.on_pictures(asked, query, grounding.WRONG_GRIDS["right grid"])
        for wrong, change in grounding.WRONG_GRIDS.items():
            figures = grounding.on_pictures(asked, query, change)
            rows[f"{name}, {wrong}"] = [figures.pointing, figures.lift]
            if wrong in ("transposed", "shuffled"):
                bars.append(Bar(f"{name}, {wrong}: lift", figures.lift, 1.0 - 0.1, 1.5))
            elif wrong != "right grid":
                bars.append(Bar(f"{name}, {wrong}: lift over the right grid's", figures.lift / whole.lift, most=0.8))
        figures = grounding.on_pictures(random, query, grounding.WRONG_GRIDS["right grid"])
        rows[f"{name}, random weights"] = [figures.pointing, figures.lift]
        bars.append(Bar(f"{name}, random weights: lift", figures.lift, 1.0 - 0.1, 1.5))
        bars.append(Bar(f"{name}: lift", whole.lift, 5 if query == "last" else 2))
        if query == "last":
            bars.append(Bar(f"{name}: pointing", whole.pointing, 0.9))
    return table(f"pictures, n={whole.maps}", ["pointing", "lift"], rows), bars


def look_at_clips(asked: Sequence[Asked], random: Sequence[Asked]) -> tuple[str, list[Bar]]:
    moving = ("move_color", "move_shape")
    rows: dict[str, Sequence[float]] = {}
    for wrong, change in grounding.WRONG_TIMES.items():
        figures, moved = grounding.on_clips(asked, change), grounding.on_clips(asked, change, moving)
        whole = grounding.in_space_and_time(asked, change)
        rows[wrong] = [figures.pointing, figures.lift, moved.pointing, moved.lift, whole]
    change = grounding.WRONG_TIMES["right grid"]
    figures, moved = grounding.on_clips(random, change), grounding.on_clips(random, change, moving)
    whole = grounding.in_space_and_time(random, change)
    rows["random weights"] = [figures.pointing, figures.lift, moved.pointing, moved.lift, whole]
    good = rows["right grid"]
    bars = [
        Bar("clips, step by step: pointing", good[0], 0.75),
        Bar("clips, step by step: lift", good[1], 3.5),
        Bar("clips, moving things: pointing", good[2], 0.6),
        *(
            Bar(f"clips, {wrong}: lift in space and time over the right one's", rows[wrong][4] / good[4], most=0.9)
            for wrong in ("transposed", "steps shuffled", "another step's map")
        ),
    ]
    for kind in dict.fromkeys(one.question.kind for one in asked):
        figures = grounding.on_clips(asked, change, [kind])
        rows[f"{kind}, right grid"] = [figures.pointing, figures.lift, np.nan, np.nan, np.nan]
    columns = ["pointing", "lift", "pointing, moving", "lift, moving", "lift in space and time"]
    steps = grounding.on_clips(asked, change).maps
    return table(f"clips, step by step, n={steps}", columns, rows).replace("nan", ""), bars


def answer_bars(scenes: Sequence[Asked], pairs: Sequence[Asked], clips: Sequence[Asked]) -> list[Bar]:
    bars = []
    for language in LANGUAGES:
        for kinds, least in ((["color"], 0.98), (["shape"], 0.98), (["exist"], 0.98), (["count"], 0.95), (PLACE, 0.8)):
            name = "place" if kinds is PLACE else kinds[0]
            bars.append(Bar(f"{name}, {language}: right", right(scenes, language, kinds), least))
        bars.append(Bar(f"left or right, {language}: right", right(scenes, language, ["side"]), 0.8))
        bars.append(Bar(f"two pictures, {language}: right", right(pairs, language, ["which"]), 0.9))
        kinds = list(dict.fromkeys(one.question.kind for one in clips))
        bars.append(Bar(f"clips, {language}: right", right(clips, language, kinds), 0.95))
    return bars


def clip_lengths(asked: Sequence[Asked]) -> str:
    rows: dict[str, Sequence[float]] = {}
    for frames in sorted({one.frames for one in asked}):
        chosen = [one for one in asked if one.frames == frames]
        kinds = list(dict.fromkeys(one.question.kind for one in chosen))
        rows[f"{frames} frames"] = [right(chosen, language, kinds) for language in LANGUAGES]
    return table("clips by length", ["English", "Chinese"], rows)


def evaluate(model_folder: Path, scenes: int, pairs: int, clips: int, say: Callable[[str], None]) -> list[Bar]:
    processor = AutoProcessor.from_pretrained(model_folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(model_folder, dtype=torch.float32).eval()
    random = build_model(model.config, seed=1).eval()
    started = time.monotonic()
    shown = [heldout.scene(i) for i in range(scenes)]
    pictures = ask_all(model, processor, shown)
    say(f"{scenes} scenes, {time.monotonic() - started:.0f} s\n")
    say(answers(pictures, "pictures: right"))
    say(counts(pictures))
    which = ask_all(model, processor, [heldout.pair(i) for i in range(pairs)])
    say(answers(which, "two pictures: right"))
    films = [heldout.clip(i) for i in range(clips)]
    filmed = ask_all(model, processor, films)
    say(answers(filmed, "clips: right"))
    say(clip_lengths(filmed))
    few = ask_all(random, processor, shown[: scenes // 4])
    look, bars = look_at_pictures(pictures, few)
    say(look)
    watch, more = look_at_clips(filmed, ask_all(random, processor, films[: clips // 4]))
    say(watch)
    say(f"{time.monotonic() - started:.0f} s\n")
    return [*answer_bars(pictures, which, filmed), *bars, *more]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of a checkpoint")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--clips", type=int, default=504)
    parser.add_argument("--json", type=Path, help="also write the bars there")
    wanted = parser.parse_args()
    bars = evaluate(wanted.model, wanted.scenes, wanted.pairs, wanted.clips, lambda text: print(text, flush=True))
    print("\n".join(map(str, bars)))
    if wanted.json:
        wanted.json.write_text(json.dumps([asdict(bar) for bar in bars], indent=1) + "\n")
    sys.exit(0 if all(bar.met for bar in bars) else 1)


if __name__ == "__main__":
    main()
