"""Samples through a model, and what each scores: the loop over a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from qvl_attn.clip import open_clip
from qvl_attn.engine import DOT, Engine
from qvl_attn.errors import CaptureError, InputError, MemoryLimitError
from qvl_attn.media import load_picture, picture_from
from qvl_attn.prompt import check_text, control_words
from qvl_attn.question import Question, read_question, without_pixels
from qvl_attn.resize import clip_pixel_limits
from qvl_attn.result import Result, Settings
from qvl_attn.samples import Sample, Shown, all_faults
from qvl_attn.scoring import Headline, Score, score_sample
from qvl_attn.select import parse_query
from qvl_attn.types import Media
from qvl_attn.video import load_clip

# Questions in a row that are prepared before they run, so that those about the same pictures read them once.
AT_ONCE = 16
# What spoils one sample and not the run.
FAULTS = (InputError, CaptureError, MemoryLimitError)


@dataclass(frozen=True)
class Plan:
    """What is asked of every sample, and what is scored.

    Attributes:
        settings: of every question.
        headline: layers or heads of the headline.
        by_head: whether every head is scored.
        keep_maps: whether the maps of every head are kept.
        others: for each sample's id, the one whose boxes are its control.
    """

    settings: Settings
    headline: Headline
    by_head: bool
    keep_maps: bool
    others: dict[str, Sample]


def other_samples(samples: Sequence[Sample], seed: int) -> dict[str, Sample]:
    """For each sample with boxes the next one of its kind of another group, in a random order that the seed fixes."""
    found: dict[str, Sample] = {}
    for clips in (False, True):
        boxed = [one for one in samples if len(one.boxes_px) and one.is_clip == clips]
        order = [boxed[i] for i in np.random.default_rng(seed).permutation(len(boxed))]
        other: Sample | None = None
        for one, following in pairwise([*order, *order][::-1]):  # twice around, from the end: what follows is known
            if one.group != following.group:
                other = one
            if other is not None:
                found[following.id] = other
    return found


def check_questions(engine: Engine, samples: Sequence[Sample], settings: Settings) -> None:
    """Find settings that fit no sample, and questions that cannot be asked, before the weights are loaded.

    Raises:
        InputError: a setting, or with every question.
    """
    query = parse_query(settings.query)
    known = replace(settings, query="last" if query.startswith("text:") else query, clip=None)
    read_question(engine.processor, engine.config, [DOT], "?", known)
    if any(one.is_clip for one in samples):
        clip_pixel_limits(engine.processor, settings.min_pixels, settings.max_pixels, 2)
    control, faults, seen = control_words(engine.processor), [], set()
    for one in samples:
        try:
            check_text("question", one.question, control)
        except InputError as error:
            if one.place not in seen:
                faults.append(f"{one.place}: {error}")
            seen.add(one.place)
    wanted = query.removeprefix("text:")
    if not faults and wanted != query and not any(wanted in one.question for one in samples):
        raise InputError(f"--query {query}: {wanted!r} stands in no question of the data set")
    if faults:
        raise all_faults(faults)


def score_samples(engine: Engine, samples: Sequence[Sample], plan: Plan) -> Iterator[Score]:
    """Answer and score samples, each as soon as it is there; what spoils one becomes its error."""
    _ = engine.model  # a model that cannot be loaded is nobody's sample's fault
    for together in _portions(samples):
        prepared: list[tuple[Sample, Question]] = []
        loaded: dict[str, Media] = {}
        for sample in together:
            try:
                media = [_load(engine, one, plan.settings, loaded) for one in sample.shown]
                (question,) = engine.prepare([(media, sample.question)], plan.settings)
                prepared.append((sample, without_pixels(question)))
            except FAULTS as error:
                yield _spoiled(sample, error)
        yield from _answered(engine, prepared, plan)


def _portions(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """In their order, cut where the pictures change if that is soon enough."""
    together: list[Sample] = []
    for sample in samples:
        another = bool(together) and sample.names != together[-1].names
        full = another and (len(together) >= AT_ONCE or sample.is_clip)
        if full or len(together) >= 4 * AT_ONCE:
            yield together
            together = []
        together.append(sample)
    if together:
        yield together


def _load(engine: Engine, shown: Shown, settings: Settings, loaded: dict[str, Media]) -> Media:
    if shown.name not in loaded:
        if not isinstance(shown.source, Path):
            loaded[shown.name] = picture_from(shown.source(), shown.name)
        elif shown.kind == "clip":
            loaded[shown.name] = load_clip(engine.processor, open_clip(shown.source), settings)
        else:
            loaded[shown.name] = load_picture(shown.source)
        if loaded[shown.name].size_px != shown.size_px:
            raise InputError(f"{shown.name} has another size than when it was checked")
    return loaded[shown.name]


def _answered(engine: Engine, prepared: Sequence[tuple[Sample, Question]], plan: Plan) -> Iterator[Score]:
    """Together; after a fault each that is left by itself, so that the fault spoils its own sample only."""
    left = dict(enumerate(prepared))
    try:
        for i, result in engine.answer([question for _, question in prepared]):
            score = _score(left[i][0], result, plan)
            del left[i]
            yield score
        return
    except FAULTS as error:
        if len(prepared) == 1:
            yield _spoiled(prepared[0][0], error)
            return
    for one in left.values():
        yield from _answered(engine, [one], plan)


def _score(sample: Sample, result: Result, plan: Plan) -> Score:
    other = plan.others.get(sample.id)
    return score_sample(sample, result, plan.headline, other, by_head=plan.by_head, keep_maps=plan.keep_maps)


def _spoiled(sample: Sample, error: InputError | CaptureError | MemoryLimitError) -> Score:
    return Score(
        id=sample.id,
        media=sample.names,
        question=sample.question,
        status="error",
        references=sample.answers,
        accuracy=0.0 if sample.answers else np.nan,
        boxes=len(sample.boxes_px),
        group=sample.group,
        error=f"{type(error).__name__}: {error}",
    )


def ask_again(engine: Engine, sample: Sample, settings: Settings) -> Result:
    """One sample's whole result, to be drawn."""
    media = [_load(engine, one, settings, {}) for one in sample.shown]
    ((_, result),) = engine.answer(engine.prepare([(media, sample.question)], settings))
    return result
