"""The held-out distribution: the frozen scenes, pairs and clips on which the embedded model is evaluated.

Sample i has its own random generator, with a seed that training never uses, so the first n samples are the same for any
count: things of 34 to 84 px in pictures of 140 to 252 px a side, and clips of 4, 6 and 8 frames at 4, 2 and 1 frames a
second in turn. Any change here changes the data behind every published figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from qvl_attn.demo.clips import FRAME_COUNTS, FRAME_RATES, Clip, draw_clip
from qvl_attn.demo.questions import Fact, Question, clip_facts, pair_facts, put_into_words, scene_facts
from qvl_attn.demo.scenes import PAIR_SIDES_PX, Scene, draw_scene
from qvl_attn.demo.wording import LANGUAGES

HELD_OUT = 20_261_121
_SCENE, _PAIR, _CLIP = range(3)

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class HeldOut(Generic[T]):
    """One sample: a scene, a pair of scenes or a clip, and a question of each kind in English and in Chinese."""

    content: T
    questions: tuple[Question, ...]


def _generator(stream: int, index: int) -> np.random.Generator:
    return np.random.default_rng((HELD_OUT, stream, index))


def _ask(facts: Sequence[Fact], rng: np.random.Generator) -> tuple[Question, ...]:
    questions = []
    for kind in dict.fromkeys(fact.kind for fact in facts):
        candidates = [fact for fact in facts if fact.kind == kind]
        fact = candidates[rng.integers(len(candidates))]
        questions += [put_into_words(fact, language, rng) for language in LANGUAGES]
    return tuple(questions)


def scene(index: int) -> HeldOut[Scene]:
    """Return held-out scene number `index`."""
    rng = _generator(_SCENE, index)
    drawn = draw_scene(rng)
    return HeldOut(drawn, _ask(scene_facts(drawn, rng), rng))


def pair(index: int) -> HeldOut[tuple[Scene, Scene]]:
    """Return held-out pair number `index`: two scenes of one size with different things."""
    rng = _generator(_PAIR, index)
    size_px = (int(rng.choice(PAIR_SIDES_PX)), int(rng.choice(PAIR_SIDES_PX)))
    while True:
        drawn = draw_scene(rng, size_px), draw_scene(rng, size_px)
        facts = pair_facts(drawn)
        if facts:
            return HeldOut(drawn, _ask(facts, rng))


def clip(index: int) -> HeldOut[Clip]:
    """Return held-out clip number `index`; nine in a row have all lengths at all frame rates."""
    rng = _generator(_CLIP, index)
    frames = FRAME_COUNTS[index % len(FRAME_COUNTS)]
    fps = FRAME_RATES[index // len(FRAME_COUNTS) % len(FRAME_RATES)]
    drawn = draw_clip(rng, frames, fps)
    return HeldOut(drawn, _ask(clip_facts(drawn, rng), rng))
