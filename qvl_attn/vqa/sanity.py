"""Sanity checks after Adebayo et al. 2018 (arXiv 1810.03292): does a map change with what it should depend on?

The maps of an answered question are compared with those under changed conditions: with layers of the language model
scrambled, from the top down; for another question; for another picture. If the map stays the same, it does not show
what the model has learned, what was asked, or what is in the picture.
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
from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.core.text import argument
from qvl_attn.core.types import FloatArray, Media
from qvl_attn.demo.heldout import scene
from qvl_attn.model.memory import on_device
from qvl_attn.vqa.question import Question
from qvl_attn.vqa.result import Result

if TYPE_CHECKING:
    from qvl_attn.vqa.engine import Engine

DEPTHS = 8
FIRST_SCENE = 1_000_000  # beyond the scenes that `demo-data` writes
# Label, question, and the layers that are scrambled while it is answered.
Condition = tuple[str, Question, list[Any]]
OTHER_QUESTIONS = ("What is in the corner?", "What is at the top?")


def sanity_checks(engine: Engine, result: Result, progress: Progress = no_progress) -> dict[str, Sanity]:
    """Compare the maps of a result with those under changed conditions.

    Args:
        engine: the engine that answered.
        result: a result of one prompt, with its pictures as they were asked about.
        progress: called with (stage, done, total).

    Returns:
        The checks by map: one for each of the result's methods, or one for `HEADLINE`.

    Raises:
        InputError: the result is of several prompts.
        CaptureError: the result itself has no map.
        MemoryLimitError: a question does not fit the memory.
    """
    if result.pass_mode in ("windows", "frames"):
        raise InputError(
            "a clip that was asked about in several prompts has no single map to check",
            f"use {argument('mode', 'clip')}",
        )
    layers = list(engine.model.model.language_model.layers)[::-1]
    settings = replace(result.settings, faithfulness=False)
    same_answer = replace(
        settings, answer=result.mapped_answer if result.mapped_answer.strip() else None, max_new_tokens=1
    )
    same_question = _prepare(engine, result.media, result.question, same_answer)
    conditions: list[Condition] = [
        *(
            (f"scrambled weights of the top {n} of {len(layers)} layers", same_question, layers[:n])
            for n in depths(len(layers))
        ),
        _other_question(engine, result, replace(settings, answer=None)),
        _other_pictures(engine, result, replace(settings, answer=None)),
    ]
    seed = seed_of(settings.seed, result.media, result.question)
    highest = {method.method: max(method.layers, default=len(layers)) for method in result.methods}
    highest = highest or {HEADLINE: max(result.heatmap().layers)}
    own, likenesses = _values(result), dict[str, list[Likeness]]()
    for done, (label, question, scrambled_layers) in enumerate(conditions):
        progress("sanity checks", done, len(conditions))
        with on_device(engine.placement, 0), scrambled(scrambled_layers, seed):
            changed = _maps(engine, question)
        for name, values in own.items():
            unaffected = bool(scrambled_layers) and len(layers) - len(scrambled_layers) > highest[name]
            full_label = label + (" (above the map's layers)" if unaffected else "")
            likenesses.setdefault(name, []).append(_likeness(full_label, values, changed.get(name)))
    progress("sanity checks", len(conditions), len(conditions))
    return {name: Sanity(tuple(items[:-2]), items[-2], items[-1]) for name, items in likenesses.items()}


def with_sanity(
    engine: Engine, answers: Iterable[tuple[int, Result]], progress: Progress = no_progress
) -> Iterator[tuple[int, Result]]:
    """Yield results, with their sanity checks if faithfulness was requested."""
    for i, result in answers:
        yield i, add_sanity(engine, result, progress)


def add_sanity(engine: Engine, result: Result, progress: Progress = no_progress) -> Result:
    """Return a result with its sanity checks, if faithfulness was requested."""
    return replace(result, sanity=sanity_checks(engine, result, progress)) if result.settings.faithfulness else result


def depths(layers: int) -> tuple[int, ...]:
    """Return how many layers to scramble, from one to all: every number, or `DEPTHS` evenly spaced ones."""
    return tuple(np.rint(np.linspace(1, layers, min(DEPTHS, layers))).astype(int).tolist())


def other_question(question: str) -> str:
    """Return another question about the same pictures, independent of the methods."""
    return next(text for text in OTHER_QUESTIONS if text != question.strip())


def other_picture(media: Media, number: int) -> Media:
    """Return a drawn scene of the same size; for a clip, in every frame."""
    height, width = media.frames.shape[1:3]
    drawn = cv2.resize(scene(FIRST_SCENE + number).content.picture, (width, height), interpolation=cv2.INTER_LINEAR)
    frames = np.repeat(np.asarray(drawn, np.uint8)[None], len(media.frames), axis=0)
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    return replace(media, frames=frames, source=f"scene {FIRST_SCENE + number}", sha256=digest, notes=(), path=None)


def _other_question(engine: Engine, result: Result, settings: Settings) -> Condition:
    text = other_question(result.question)
    query = "question" if result.selection.query.words else settings.query
    return f"another question: {text}", _prepare(engine, result.media, text, replace(settings, query=query)), []


def _other_pictures(engine: Engine, result: Result, settings: Settings) -> Condition:
    media = [other_picture(medium, i) for i, medium in enumerate(result.media)]
    return "another picture (a drawn scene)", _prepare(engine, media, result.question, settings), []


def _prepare(engine: Engine, media: Sequence[Media], text: str, settings: Settings) -> Question:
    (question,) = engine.prepare([(media, text)], settings)
    return question


def _maps(engine: Engine, question: Question) -> dict[str, Sequence[FloatArray]]:
    """Answer a question and return its maps as `_values` does; empty if there is nothing to map."""
    try:
        ((_, result),) = engine.answer([question])
        return _values(result)
    except (CaptureError, InputError):  # the latter if the answer is empty and the query is the answer
        return {}


def _values(result: Result) -> dict[str, Sequence[FloatArray]]:
    """Return the maps of all pictures, by the map's name."""
    if not result.methods:
        return {HEADLINE: [heat.values for heat in result.heatmaps()]}
    return {method.method: split_by_picture(method.values, result.capture.grids) for method in result.methods}


def _likeness(label: str, own: Sequence[FloatArray], changed: Sequence[FloatArray] | None) -> Likeness:
    """Return the similarity of two lists of maps, averaged over the pictures."""
    if changed is None:
        return Likeness(label, None, None)
    pairs = list(zip(own, changed, strict=True))
    figures = (float(np.mean([measure(*pair) for pair in pairs])) for measure in (rank_correlation, ssim))
    return Likeness(label, *(None if np.isnan(value) else value for value in figures))


@contextmanager
def scrambled(layers: Sequence[torch.nn.Module], seed: int) -> Iterator[None]:
    """Shuffle the elements of each parameter of some layers inside the block; afterwards every bit is restored.

    The permutation of the n-th parameter does not depend on the parameters after it. A parameter whose elements are all
    equal, such as an untrained norm, stays the same. Needs memory for one parameter and its permutation in int64.

    Args:
        layers: layers whose parameters are shuffled; a shared parameter is shuffled once.
        seed: seed of the permutations.

    Raises:
        MemoryLimitError: a parameter is not in memory.
    """
    parameters = list(dict.fromkeys(parameter for layer in layers for parameter in layer.parameters()))
    if any(parameter.is_meta for parameter in parameters):
        raise MemoryLimitError("some weights are on the disk, where they cannot be shuffled", "take a smaller model")
    with ExitStack() as stack:
        for number, parameter in enumerate(parameters):
            _shuffle(parameter, seed + number)
            stack.callback(_unshuffle, parameter, seed + number)
        yield


def _permutation(parameter: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the permutation: (elements,) index of the element that moves to each position."""
    generator = torch.Generator(parameter.device).manual_seed(seed)
    return torch.randperm(parameter.numel(), generator=generator, device=parameter.device)


@torch.no_grad()
def _shuffle(parameter: torch.Tensor, seed: int) -> None:
    parameter.copy_(parameter.reshape(-1)[_permutation(parameter, seed)].reshape(parameter.shape))


@torch.no_grad()
def _unshuffle(parameter: torch.Tensor, seed: int) -> None:
    elements = torch.empty_like(parameter.reshape(-1))
    elements[_permutation(parameter, seed)] = parameter.reshape(-1)
    parameter.copy_(elements.reshape(parameter.shape))
