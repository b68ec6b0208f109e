"""Does a map change when what it should depend on does? Sanity checks after Adebayo et al. 2018 (arXiv 1810.03292).

The headline map of an answered question is compared with those under changed circumstances: with layers of the language
model scrambled, from the top down; of another question; of another picture. A method whose map stays the same does not
show what the model has learned, what was asked, or what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from qvl_attn.demo.heldout import scene
from qvl_attn.errors import CaptureError, InputError
from qvl_attn.methods import GENERIC_PROMPT
from qvl_attn.progress import Progress, untold
from qvl_attn.question import Question
from qvl_attn.result import Result, Settings
from qvl_attn.scramble import scrambled
from qvl_attn.similarity import rank_correlation, ssim
from qvl_attn.types import FloatArray, Media

if TYPE_CHECKING:
    from qvl_attn.engine import Engine

# Words for it, what is asked, and which layers are scrambled meanwhile.
Circumstance = tuple[str, Question, list[Any]]
DEPTHS = 8
OTHER_QUESTIONS = (GENERIC_PROMPT, "What is in the corner?", "What is at the top?")


@dataclass(frozen=True)
class Likeness:
    """How alike the map is under one circumstance.

    Attributes:
        label: what was changed, in words.
        rank_correlation: Spearman's, -1 to 1; None where no map can be drawn, or one of the two is constant.
        ssim: structural similarity, -1 to 1; None likewise.
    """

    label: str
    rank_correlation: float | None
    ssim: float | None

    def __post_init__(self) -> None:
        for value in (self.rank_correlation, self.ssim):
            if value is not None and not -1 - 1e-6 <= value <= 1 + 1e-6:
                raise ValueError(f"{self.label}: a likeness of {value}")


@dataclass(frozen=True)
class Sanity:
    """The sanity checks of one headline map.

    Attributes:
        weights: by how many layers were scrambled, ascending.
        question: of another question about the same pictures.
        picture: of the same question about other pictures.
    """

    weights: tuple[Likeness, ...]
    question: Likeness
    picture: Likeness


def sanity_json(sanity: Sanity) -> dict[str, Any]:
    """As plain values."""
    return {**asdict(sanity), "weights": [asdict(one) for one in sanity.weights]}


def sanity_from(written: Mapping[str, Any]) -> Sanity:
    """From what `sanity_json` wrote."""
    weights = tuple(Likeness(**one) for one in written["weights"])
    return Sanity(weights, Likeness(**written["question"]), Likeness(**written["picture"]))


def sanity_checks(engine: Engine, result: Result, progress: Progress = untold) -> Sanity:
    """Compare the headline map of a result with those under changed circumstances.

    Args:
        engine: that answered.
        result: with the pictures as they were asked about, in one prompt.
        progress: told what is being done, how much of it is done, and of how much.

    Raises:
        InputError: it was asked in several prompts.
        CaptureError: the result itself has no map.
        MemoryLimitError: it does not fit the memory.
    """
    if result.way in ("windows", "frames"):
        raise InputError("a clip that was looked at in several prompts has no one map to check", "use --mode clip")
    layers = list(engine.model.model.language_model.layers)[::-1]
    settings = replace(result.settings, methods=result.settings.methods[:1])
    same = replace(settings, answer=result.mapped_answer if result.mapped_answer.strip() else None, max_new_tokens=1)
    alike = _prepared(engine, result.media, result.question, same)
    circumstances: list[Circumstance] = [
        *((f"weights of the top {n} of {len(layers)} layers", alike, layers[:n]) for n in depths(len(layers))),
        _about_something_else(engine, result, replace(settings, answer=None)),
        _of_other_pictures(engine, result, replace(settings, answer=None)),
    ]
    own, found = _values(result), []
    progress("checking the map", 0, len(circumstances))
    for label, question, forgotten in circumstances:
        with scrambled(forgotten, settings.seed):
            found.append(_likeness(label, own, _headline(engine, question)))
        progress("checking the map", len(found), len(circumstances))
    return Sanity(tuple(found[:-2]), found[-2], found[-1])


def depths(layers: int) -> tuple[int, ...]:
    """How many layers are scrambled, from one to all: every number of up to eight layers, else eight even ones."""
    return tuple(np.rint(np.linspace(1, layers, min(DEPTHS, layers))).astype(int).tolist())


def other_question(question: str, settings: Settings) -> str:
    """What else is asked about the same pictures; never the generic prompt of a map that is relative to it."""
    known = {question.strip(), *([GENERIC_PROMPT] if "relative" in settings.methods else [])}
    return next(text for text in OTHER_QUESTIONS if text not in known)


def other_picture(media: Media, number: int) -> Media:
    """A drawn scene of the same size, in every frame of a clip."""
    height, width = media.frames.shape[1:3]
    drawn = cv2.resize(scene(number).shown.picture, (width, height), interpolation=cv2.INTER_LINEAR)
    frames = np.repeat(np.asarray(drawn, np.uint8)[None], len(media.frames), axis=0)
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    return replace(media, frames=frames, source=f"scene {number}", sha256=digest, notes=(), path=None)


def _about_something_else(engine: Engine, result: Result, settings: Settings) -> Circumstance:
    text = other_question(result.question, settings)
    query = "question" if settings.query.startswith("text:") else settings.query
    asked = _prepared(engine, result.media, text, replace(settings, query=query))
    return f"another question: {text}", asked, []


def _of_other_pictures(engine: Engine, result: Result, settings: Settings) -> Circumstance:
    media = [other_picture(one, i) for i, one in enumerate(result.media)]
    return "another picture", _prepared(engine, media, result.question, settings), []


def _prepared(engine: Engine, media: Sequence[Media], text: str, settings: Settings) -> Question:
    (question,) = engine.prepare([(media, text)], settings)
    return question


def _headline(engine: Engine, question: Question) -> list[FloatArray] | None:
    """The headline map of each picture; None where none can be drawn."""
    try:
        ((_, result),) = engine.answer([question])
        return _values(result)
    except (CaptureError, InputError):  # the latter of an empty answer that is to be mapped
        return None


def _values(result: Result) -> list[FloatArray]:
    return [one.values for one in result.heatmaps()]


def _likeness(label: str, own: Sequence[FloatArray], other: Sequence[FloatArray] | None) -> Likeness:
    """The mean over the pictures."""
    if other is None:
        return Likeness(label, None, None)
    pairs = list(zip(own, other, strict=True))
    figures = (float(np.mean([measure(*pair) for pair in pairs])) for measure in (rank_correlation, ssim))
    return Likeness(label, *(None if np.isnan(value) else value for value in figures))
