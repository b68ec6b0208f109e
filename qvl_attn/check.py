"""Samples through a model, and what each scores: the loop over a data set.

Samples are worked on in portions that their order alone decides, and the questions of a portion in groups that all of
it decides: who goes on with a stopped run meets the same groups, and so the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from threading import Event

import numpy as np

from qvl_attn.ahead import ahead
from qvl_attn.clip import open_clip
from qvl_attn.engine import DOT, Engine
from qvl_attn.errors import CaptureError, InputError, MemoryLimitError, QvlAttnError
from qvl_attn.media import load_picture, picture_from
from qvl_attn.prompt import check_text, control_words
from qvl_attn.question import Question, read_question
from qvl_attn.resize import clip_pixel_limits
from qvl_attn.result import Result, Settings
from qvl_attn.runs import Group
from qvl_attn.samples import Sample, all_faults
from qvl_attn.scoring import Headline, Score, score_sample
from qvl_attn.select import parse_query
from qvl_attn.shown import Shown
from qvl_attn.types import Media
from qvl_attn.video import load_clip

# Questions in a row that are prepared together, and batches of which they should make several; with more bytes of
# pictures the portion is cut before.
AT_ONCE, BATCHES_AT_ONCE, PORTION_BYTES = 16, 4, 2**29
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
        batch_size: how many prompts run at once, at most.
    """

    settings: Settings
    headline: Headline
    by_head: bool
    keep_maps: bool
    others: dict[str, Sample]
    batch_size: int = 1


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


def portions(samples: Sequence[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Samples in their order, cut where the pictures change if that is soon enough."""
    most = max(AT_ONCE, BATCHES_AT_ONCE * batch_size)
    together: list[Sample] = []
    held = 0
    for sample in samples:
        another = bool(together) and sample.names != together[-1].names
        full = another and (len(together) >= most or held >= PORTION_BYTES or sample.is_clip)
        if full or len(together) >= 4 * most:
            yield together
            together, held = [], 0
        held += _bytes(sample) if another or not together else 0
        together.append(sample)
    if together:
        yield together


def _bytes(sample: Sample) -> int:
    """Of its pictures, decoded, and as the processor gives them, which is about five times as many."""
    return sum(3 * width * height for width, height in (one.size_px for one in sample.shown)) * 6


@dataclass(eq=False)
class _Prepared:
    """A sample that was read, or what was wrong with it, if its files could not be read; and what was so at first."""

    sample: Sample
    question: Question | None = None
    fault: Exception | None = None
    unread: bool = False
    first_fault: Exception | None = None


def score_portions(
    engine: Engine,
    asked: Iterable[Sequence[Sample]],
    plan: Plan,
    done: Callable[[], Collection[str]] = tuple,
) -> Iterator[Score]:
    """Answer and score samples, each as soon as it is there; what spoils one becomes its error.

    The next portion is read from the disk while the model is at work on this one.

    Args:
        engine: the model.
        asked: as `portions` gives them.
        plan: what is asked and scored.
        done: gives the ids of samples that are not wanted any more; asked before each portion.
    """
    _ = engine.model  # a model that cannot be loaded is nobody's sample's fault
    stop = Event()

    def read() -> Generator[list[_Prepared], None, None]:
        for portion in asked:
            finished = done()
            if any(one.id not in finished for one in portion):
                yield _read(engine, portion, plan.settings, stop)

    with closing(ahead(read(), depth=1)) as prepared:
        try:
            for portion in prepared:
                yield from _score_portion(engine, portion, plan, done())
        finally:
            stop.set()


def _read(engine: Engine, portion: Sequence[Sample], settings: Settings, stop: Event) -> list[_Prepared]:
    """Read a portion's files, and make prompts; what cannot be read is tried once more when the others are there."""
    loaded: dict[str, Media] = {}
    known: dict[tuple[int, ...], Question] = {}
    found = [_Prepared(sample) for sample in portion]
    for one in found:
        if not stop.is_set():
            _read_one(engine, one, settings, loaded, known)
    for one in found:
        if one.unread and not stop.is_set():
            one.first_fault = one.fault
            _read_one(engine, one, settings, loaded, known)
    return found


def _read_one(
    engine: Engine,
    one: _Prepared,
    settings: Settings,
    loaded: dict[str, Media],
    known: dict[tuple[int, ...], Question],
) -> None:
    one.fault, one.unread = None, True
    try:
        media = [_load(engine, shown, settings, loaded) for shown in one.sample.shown]
        one.unread = False
        one.question = engine.read(media, one.sample.question, settings, loaded, known)
    except Exception as fault:  # files hold anything, and one of fifty thousand does not end the night's run
        one.fault = fault


def _load(engine: Engine, shown: Shown, settings: Settings, loaded: dict[str, Media]) -> Media:
    if shown.name not in loaded:
        if not isinstance(shown.source, Path):
            found = picture_from(shown.source(), shown.name)
        elif shown.kind == "clip":
            found = load_clip(engine.processor, open_clip(shown.source), settings)
        else:
            found = load_picture(shown.source)
        if found.size_px != shown.size_px:
            raise InputError(f"{shown.name} has another size than when it was checked")
        loaded[shown.name] = found
    return loaded[shown.name]


def _score_portion(engine: Engine, portion: Sequence[_Prepared], plan: Plan, done: Collection[str]) -> Iterator[Score]:
    ready: list[tuple[_Prepared, Question]] = []
    for one in portion:
        try:
            if one.question is None:
                raise one.fault or AssertionError
            (question,) = engine.fit([one.question])
            ready.append((one, question))
        except Exception as fault:
            if one.sample.id not in done:
                yield _spoiled(one, fault)
    asked, questions = [one for one, _ in ready], [question for _, question in ready]
    for group in engine.groups(questions, plan.batch_size):
        if any(asked[i].sample.id not in done for i in group.indices):
            for score in _of_group(engine, asked, questions, group, plan):
                if score.id not in done:
                    yield score


def _of_group(
    engine: Engine, asked: Sequence[_Prepared], questions: Sequence[Question], group: Group, plan: Plan
) -> Iterator[Score]:
    """Together; after a fault each that is left by itself, so that the fault spoils its own sample only.

    Where memory ended, this is what is tried once more.
    """
    left = list(group.indices)
    try:
        for i, result in engine.answer_group(questions, group):
            yield _score(asked[i], result, plan)
            left.remove(i)
        return
    except FAULTS as fault:
        if len(group.indices) == 1 and not isinstance(fault, MemoryLimitError):
            yield _spoiled(asked[left[0]], fault)
            return
        first = fault
    for i in left:
        if isinstance(first, MemoryLimitError):
            asked[i].first_fault = first
        try:
            for _, result in engine.answer_group(questions, Group(((i,),), shared=False)):
                yield _score(asked[i], result, plan)
        except FAULTS as fault:
            yield _spoiled(asked[i], fault)


def _score(one: _Prepared, result: Result, plan: Plan) -> Score:
    sample, other = one.sample, plan.others.get(one.sample.id)
    score = score_sample(sample, result, plan.headline, other, by_head=plan.by_head, keep_maps=plan.keep_maps)
    return replace(score, retried=_told(one.first_fault))


def _told(fault: Exception | None) -> str:
    return "" if fault is None else f"{type(fault).__name__}: {fault}"


def _spoiled(one: _Prepared, fault: Exception) -> Score:
    sample = one.sample
    return Score(
        id=sample.id,
        media=sample.names,
        question=sample.question,
        status="error",
        references=sample.answers,
        accuracy=0.0 if sample.answers else np.nan,
        boxes=len(sample.boxes_px),
        group=sample.group,
        index=sample.index,
        evidence=sample.evidence,
        error=_told(fault),
        retried=_told(one.first_fault),
    )


def ask_again(engine: Engine, sample: Sample, settings: Settings) -> Result:
    """One sample's whole result, to be drawn.

    Raises:
        InputError: it cannot be read any more.
        CaptureError: the attention is not what attention must be.
        MemoryLimitError: it does not fit the memory.
    """
    try:
        media = [_load(engine, one, settings, {}) for one in sample.shown]
    except QvlAttnError:
        raise
    except Exception as fault:  # as when it was scored
        raise InputError(_told(fault)) from None
    ((_, result),) = engine.answer(engine.prepare([(media, sample.question)], settings))
    return result
