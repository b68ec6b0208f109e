"""Does a map change when what it should depend on does? Sanity checks after Adebayo et al. 2018 (arXiv 1810.03292).

The maps of an answered question are compared with those under changed circumstances: with layers of the language model
scrambled, from the top down; of another question; of another picture. A method whose map stays the same does not
show what the model has learned, what was asked, or what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from qvl_attn.attribution.faithfulness import HEADLINE, seed_of
from qvl_attn.attribution.heatmap import split_by_picture
from qvl_attn.attribution.settings import Settings
from qvl_attn.attribution.similarity import Likeness, Sanity, rank_correlation, ssim
from qvl_attn.core.errors import CaptureError, InputError, MemoryLimitError
from qvl_attn.core.runtime import Progress, no_op
from qvl_attn.core.types import FloatArray, Media
from qvl_attn.demo.heldout import scene
from qvl_attn.model.memory import on_device
from qvl_attn.vqa.question import Question
from qvl_attn.vqa.result import Result

if TYPE_CHECKING:
    from qvl_attn.vqa.engine import Engine

DEPTHS = 8
FIRST_SCENE = 1_000_000  # beyond those that `demo-data` writes
# Words for it, what is asked, and which layers are scrambled meanwhile.
Circumstance = tuple[str, Question, list[Any]]
OTHER_QUESTIONS = ("What is in the corner?", "What is at the top?")


def sanity_checks(engine: Engine, result: Result, progress: Progress = no_op) -> dict[str, Sanity]:
    """Compare the maps of a result with those under changed circumstances.

    Args:
        engine: that answered.
        result: with the pictures as they were asked about, in one prompt.
        progress: told what is being done, how much of it is done, and of how much.

    Returns:
        By the name of each map: those of the result's methods, or `HEADLINE`.

    Raises:
        InputError: it was asked in several prompts.
        CaptureError: the result itself has no map.
        MemoryLimitError: it does not fit the memory.
    """
    if result.pass_mode in ("windows", "frames"):
        raise InputError("a clip that was looked at in several prompts has no one map to check", "use --mode clip")
    layers = list(engine.model.model.language_model.layers)[::-1]
    settings = replace(result.settings, faithfulness=False)
    same = replace(settings, answer=result.mapped_answer if result.mapped_answer.strip() else None, max_new_tokens=1)
    alike = _prepared(engine, result.media, result.question, same)
    circumstances: list[Circumstance] = [
        *(
            (f"scrambled weights of the top {n} of {len(layers)} layers", alike, layers[:n])
            for n in depths(len(layers))
        ),
        _about_something_else(engine, result, replace(settings, answer=None)),
        _of_other_pictures(engine, result, replace(settings, answer=None)),
    ]
    seed = seed_of(settings.seed, result.media, result.question)
    highest = {one.method: max(one.layers, default=len(layers)) for one in result.methods}
    highest = highest or {HEADLINE: max(result.heatmap().layers)}
    own, found = _values(result), dict[str, list[Likeness]]()
    for done, (label, question, forgotten) in enumerate(circumstances):
        progress("sanity checks", done, len(circumstances))
        with on_device(engine.placement, 0), scrambled(forgotten, seed):
            other = _maps(engine, question)
        for name, values in own.items():
            idle = bool(forgotten) and len(layers) - len(forgotten) > highest[name]
            told = label + (" (above the map's layers)" if idle else "")
            found.setdefault(name, []).append(_likeness(told, values, other.get(name)))
    progress("sanity checks", len(circumstances), len(circumstances))
    return {name: Sanity(tuple(all_of[:-2]), all_of[-2], all_of[-1]) for name, all_of in found.items()}


def with_sanity(
    engine: Engine, answers: Iterable[tuple[int, Result]], progress: Progress = no_op
) -> Iterator[tuple[int, Result]]:
    """Results with their sanity checks, where faithfulness was asked for."""
    for i, result in answers:
        asked = result.settings.faithfulness
        yield i, replace(result, sanity=sanity_checks(engine, result, progress)) if asked else result


def depths(layers: int) -> tuple[int, ...]:
    """How many layers are scrambled, from one to all: every number of up to eight layers, else eight even ones."""
    return tuple(np.rint(np.linspace(1, layers, min(DEPTHS, layers))).astype(int).tolist())


def other_question(question: str) -> str:
    """What else is asked about the same pictures, whatever the methods."""
    return next(text for text in OTHER_QUESTIONS if text != question.strip())


def other_picture(media: Media, number: int) -> Media:
    """A drawn scene of the same size, in every frame of a clip."""
    height, width = media.frames.shape[1:3]
    drawn = cv2.resize(scene(FIRST_SCENE + number).shown.picture, (width, height), interpolation=cv2.INTER_LINEAR)
    frames = np.repeat(np.asarray(drawn, np.uint8)[None], len(media.frames), axis=0)
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    return replace(media, frames=frames, source=f"scene {FIRST_SCENE + number}", sha256=digest, notes=(), path=None)


def _about_something_else(engine: Engine, result: Result, settings: Settings) -> Circumstance:
    text = other_question(result.question)
    query = "question" if settings.query.startswith("text:") else settings.query
    asked = _prepared(engine, result.media, text, replace(settings, query=query))
    return f"another question: {text}", asked, []


def _of_other_pictures(engine: Engine, result: Result, settings: Settings) -> Circumstance:
    media = [other_picture(one, i) for i, one in enumerate(result.media)]
    return "another picture (a drawn scene)", _prepared(engine, media, result.question, settings), []


def _prepared(engine: Engine, media: Sequence[Media], text: str, settings: Settings) -> Question:
    (question,) = engine.prepare([(media, text)], settings)
    return question


def _maps(engine: Engine, question: Question) -> dict[str, Sequence[FloatArray]]:
    """As `_values`; none where there is nothing to map."""
    try:
        ((_, result),) = engine.answer([question])
        return _values(result)
    except (CaptureError, InputError):  # the latter of an empty answer that is to be mapped
        return {}


def _values(result: Result) -> dict[str, Sequence[FloatArray]]:
    """The map of each picture, by the map's name."""
    if not result.methods:
        return {HEADLINE: [one.values for one in result.heatmaps()]}
    return {one.method: split_by_picture(one.values, result.capture.grids) for one in result.methods}


def _likeness(label: str, own: Sequence[FloatArray], other: Sequence[FloatArray] | None) -> Likeness:
    """The mean over the pictures."""
    if other is None:
        return Likeness(label, None, None)
    pairs = list(zip(own, other, strict=True))
    figures = (float(np.mean([measure(*pair) for pair in pairs])) for measure in (rank_correlation, ssim))
    return Likeness(label, *(None if np.isnan(value) else value for value in figures))


@contextmanager
def scrambled(layers: Sequence[torch.nn.Module], seed: int) -> Iterator[None]:
    """Shuffle the elements of each parameter of some layers while this lasts; afterwards every bit is as it was.

    The n-th parameter is shuffled in the same way whatever comes behind it. One whose elements are all equal, as of a
    norm that was never trained, stays what it is. Needs the memory of one tensor, and of its places in int64.

    Args:
        layers: whose parameters to shuffle, each once, however often it is there.
        seed: of the permutations.

    Raises:
        MemoryLimitError: a parameter is not in memory.
    """
    parameters = list(dict.fromkeys(one for layer in layers for one in layer.parameters()))
    if any(one.is_meta for one in parameters):
        raise MemoryLimitError("some weights are on the disk, where they cannot be shuffled", "take a smaller model")
    with ExitStack() as stack:
        for number, parameter in enumerate(parameters):
            _shuffle(parameter, seed + number)
            stack.callback(_put_back, parameter, seed + number)
        yield


def _places(parameter: torch.Tensor, seed: int) -> torch.Tensor:
    """(elements,) from which place each element comes."""
    generator = torch.Generator(parameter.device).manual_seed(seed)
    return torch.randperm(parameter.numel(), generator=generator, device=parameter.device)


@torch.no_grad()
def _shuffle(parameter: torch.Tensor, seed: int) -> None:
    parameter.copy_(parameter.reshape(-1)[_places(parameter, seed)].reshape(parameter.shape))


@torch.no_grad()
def _put_back(parameter: torch.Tensor, seed: int) -> None:
    elements = torch.empty_like(parameter.reshape(-1))
    elements[_places(parameter, seed)] = parameter.reshape(-1)
    parameter.copy_(elements.reshape(parameter.shape))
