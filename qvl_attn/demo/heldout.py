"""The held-out distribution: scenes, pairs and clips that the embedded model is measured on, frozen.

Sample i is drawn from a generator of its own, under a number that training never uses, so any count of them begins with
the same ones: things of 34 to 84 px on sides of 140 to 252 px, and clips of 4, 6 and 8 frames at 4, 2 and 1 a second in
turn. Changing anything here changes what every published figure was measured on.
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
    """One sample and what is asked about it: a question of each kind, in English and in Chinese."""

    shown: T
    questions: tuple[Question, ...]


def _generator(stream: int, index: int) -> np.random.Generator:
    return np.random.default_rng((HELD_OUT, stream, index))


def _ask(facts: Sequence[Fact], rng: np.random.Generator) -> tuple[Question, ...]:
    questions = []
    for kind in dict.fromkeys(fact.kind for fact in facts):
        same = [fact for fact in facts if fact.kind == kind]
        fact = same[rng.integers(len(same))]
        questions += [put_into_words(fact, language, rng) for language in LANGUAGES]
    return tuple(questions)


def scene(index: int) -> HeldOut[Scene]:
    """The picture of that number."""
    rng = _generator(_SCENE, index)
    drawn = draw_scene(rng)
    return HeldOut(drawn, _ask(scene_facts(drawn, rng), rng))


def pair(index: int) -> HeldOut[tuple[Scene, Scene]]:
    """The two pictures of that number, of one size, with different things on them."""
    rng = _generator(_PAIR, index)
    size_px = (int(rng.choice(PAIR_SIDES_PX)), int(rng.choice(PAIR_SIDES_PX)))
    while True:
        drawn = draw_scene(rng, size_px), draw_scene(rng, size_px)
        facts = pair_facts(drawn)
        if facts:
            return HeldOut(drawn, _ask(facts, rng))


def clip(index: int) -> HeldOut[Clip]:
    """The clip of that number; nine in a row have all lengths at all rates."""
    rng = _generator(_CLIP, index)
    frames = FRAME_COUNTS[index % len(FRAME_COUNTS)]
    fps = FRAME_RATES[index // len(FRAME_COUNTS) % len(FRAME_RATES)]
    drawn = draw_clip(rng, frames, fps)
    return HeldOut(drawn, _ask(clip_facts(drawn, rng), rng))
