"""Samples through a model, and what each scores: the loop over a data set.

Samples are worked on in portions that their order alone decides, and the questions of a portion in groups that all of
it decides: who goes on with a stopped run meets the same groups, and so the same numbers (to rounding, where the memory
that is free then allows other batches).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from threading import Event

import numpy as np

from qvl_attn.attribution.selection import parse_query
from qvl_attn.attribution.settings import Headline, Settings
from qvl_attn.core.errors import CaptureError, InputError, MemoryLimitError, QvlAttnError, describe_error
from qvl_attn.core.runtime import prefetch
from qvl_attn.core.types import Media
from qvl_attn.evaluation.data.samples import MediaRef, Sample, all_faults
from qvl_attn.evaluation.examples import example_of
from qvl_attn.evaluation.score import Score, score_sample
from qvl_attn.media.image import fingerprint, load_picture, picture_from
from qvl_attn.media.video import open_clip
from qvl_attn.model.preprocess import clip_pixel_limits
from qvl_attn.model.prompt import check_text, control_words
from qvl_attn.vqa.batching import Group
from qvl_attn.vqa.clip import load_clip
from qvl_attn.vqa.engine import DOT, Engine
from qvl_attn.vqa.question import Question, read_question
from qvl_attn.vqa.result import Result
from qvl_attn.vqa.sanity import with_sanity

# What spoils one sample and not the run.
FAULTS = (InputError, CaptureError, MemoryLimitError)


@dataclass(frozen=True)
class ScoringPlan:
    """What is asked of every sample, and what is scored.

    Attributes:
        settings: of every question.
        headline: layers or heads of the headline.
        by_head: whether every head is scored.
        keep_maps: whether the maps of every head are kept.
        others: for each sample's id, the one whose boxes are its control.
        batch_size: how many prompts run at once, at most.
        chosen_examples: the ids of the samples of which an exhibit is kept.
    """

    settings: Settings
    headline: Headline
    by_head: bool
    keep_maps: bool
    others: dict[str, Sample]
    batch_size: int = 1
    chosen_examples: frozenset[str] = frozenset()


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


def score_chunks(
    engine: Engine,
    asked: Iterable[Sequence[Sample]],
    plan: ScoringPlan,
    done: Callable[[], Collection[str]] = tuple,
) -> Iterator[Score]:
    """Answer and score samples, each as soon as it is there; what spoils one becomes its error.

    The next portion is read from the disk while the model is at work on this one.

    Args:
        engine: the model.
        asked: as `chunks` gives them.
        plan: what is asked and scored.
        done: gives the ids of samples that are not wanted any more; asked before each portion.
    """
    _ = engine.model  # a model that cannot be loaded is nobody's sample's fault
    stop = Event()

    def read() -> Generator[list[Prepared], None, None]:
        for chunk in asked:
            finished = done()
            if any(one.id not in finished for one in chunk):
                yield read_chunk(engine, chunk, plan.settings, stop)

    with closing(prefetch(read(), depth=1)) as prepared:
        try:
            for chunk in prepared:
                yield from _score_chunk(engine, chunk, plan, done())
        finally:
            stop.set()


def _score_chunk(
    engine: Engine, chunk: Sequence[Prepared], plan: ScoringPlan, done: Collection[str]
) -> Iterator[Score]:
    asked: list[Prepared] = []
    questions: list[Question] = []
    refused: list[Prepared] = []
    for one in chunk:
        if one.question is not None and (question := _fitting(engine, one)):
            asked.append(one)
            questions.append(question)
        elif one.question is not None:
            refused.append(one)
        elif one.sample.id not in done:
            yield error_score(one)
    for group in engine.groups(questions, plan.batch_size):
        if any(asked[i].sample.id not in done for i in group.indices):
            for score in _of_group(engine, asked, questions, group, plan):
                if score.id not in done:
                    yield score
    for one in refused:  # by now there may be more memory
        if one.sample.id not in done:
            one.first_fault = one.fault
            question = _fitting(engine, one)
            yield _alone(engine, one, question, plan) if question else error_score(one)


def _fitting(engine: Engine, one: Prepared) -> Question | None:
    assert one.question is not None
    try:
        return engine.fit([one.question])[0]
    except MemoryLimitError as fault:
        one.fault = describe_error(fault)
        return None


def _of_group(
    engine: Engine, asked: Sequence[Prepared], questions: Sequence[Question], group: Group, plan: ScoringPlan
) -> Iterator[Score]:
    """Together; after a fault each that is left by itself, so that the fault spoils its own sample only.

    Where memory ended, this is what is tried once more.
    """
    left = list(group.indices)
    try:
        for i, result in with_sanity(engine, engine.answer_group(questions, group)):
            yield _score(asked[i], result, plan)
            left.remove(i)
        return
    except Exception as fault:
        _check_device(fault)
        words, memory = describe_error(fault), isinstance(fault, MemoryLimitError)
    # Beyond the `except`: what the fault held of the failed attempt is free now.
    for i in left:
        asked[i].fault = words
        if memory:
            asked[i].first_fault = words
        again = memory or len(group.indices) > 1
        yield _alone(engine, asked[i], questions[i], plan) if again else error_score(asked[i])


def _alone(engine: Engine, one: Prepared, question: Question, plan: ScoringPlan) -> Score:
    try:
        alone = engine.answer_group([question], Group(((0,),), shared=False))
        ((_, result),) = with_sanity(engine, alone)
        return _score(one, result, plan)
    except Exception as fault:  # one of fifty thousand does not end the night's run
        _check_device(fault)
        one.fault = describe_error(fault)
        return error_score(one)


def _check_device(fault: Exception) -> None:
    """Let pass what every further sample would meet as well."""
    if "CUDA error" in str(fault):
        raise fault


def _score(one: Prepared, result: Result, plan: ScoringPlan) -> Score:
    sample, other = one.sample, plan.others.get(one.sample.id)
    score = score_sample(sample, result, plan.headline, other, by_head=plan.by_head, keep_maps=plan.keep_maps)
    example = None
    if sample.id in plan.chosen_examples:
        with suppress(CaptureError):  # without any attention on the pictures there is no map, but there are figures
            example = example_of(sample, result)
    return replace(score, retried=one.first_fault, example=example)


def error_score(one: Prepared) -> Score:
    """The score of a sample with a fault."""
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
        error=one.fault,
        retried=one.first_fault,
    )


def ask_again(engine: Engine, sample: Sample, settings: Settings) -> Result:
    """One sample's whole result, to be drawn.

    Raises:
        InputError: it cannot be read any more.
        CaptureError: the attention is not what attention must be.
        MemoryLimitError: it does not fit the memory.
    """
    try:
        media = [load_media(engine, one, settings, {}) for one in sample.media_refs]
    except QvlAttnError:
        raise
    except Exception as fault:  # as when it was scored
        raise InputError(describe_error(fault)) from None
    ((_, result),) = engine.answer(engine.prepare([(media, sample.question)], settings))
    return result


# Questions in a row that are prepared together, and batches of which they should make several; with more bytes of
# pictures the portion is cut before.
AT_ONCE, BATCHES_AT_ONCE, CHUNK_BYTES = 16, 4, 2**29


def chunks(samples: Sequence[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Samples about the same pictures together, else in their order; cut where the pictures change if that is soon."""
    most = max(AT_ONCE, BATCHES_AT_ONCE * batch_size)
    about: dict[tuple[bool, tuple[str, ...]], list[Sample]] = {}
    for sample in samples:
        about.setdefault((sample.is_clip, sample.names), []).append(sample)
    together: list[Sample] = []
    held = 0
    for alike in about.values():
        if together and (len(together) >= most or held >= CHUNK_BYTES or alike[0].is_clip):
            yield together
            together, held = [], 0
        held += _bytes(alike[0])
        for sample in alike:
            if len(together) >= 4 * most:
                yield together
                together, held = [], _bytes(sample)
            together.append(sample)
    if together:
        yield together


def _bytes(sample: Sample) -> int:
    """Of its pictures, decoded, and as the processor gives them, which is about five times as many."""
    return sum(3 * width * height for width, height in (one.size_px for one in sample.media_refs)) * 6


@dataclass(eq=False)
class Prepared:
    """A sample that was read, or what was wrong with it, if its files could not be read; and what was so at first."""

    sample: Sample
    question: Question | None = None
    fault: str = ""
    unread: bool = False
    first_fault: str = ""


def read_chunk(engine: Engine, chunk: Sequence[Sample], settings: Settings, stop: Event) -> list[Prepared]:
    """Read a portion's files, and make prompts; what cannot be read is tried once more when the others are there."""
    loaded: dict[tuple[str, str], Media] = {}
    known: dict[tuple[int, ...], Question] = {}
    found = [Prepared(sample) for sample in chunk]
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
    one: Prepared,
    settings: Settings,
    loaded: dict[tuple[str, str], Media],
    known: dict[tuple[int, ...], Question],
) -> None:
    one.fault, one.unread = "", True
    try:
        media = [load_media(engine, shown, settings, loaded) for shown in one.sample.media_refs]
        one.unread = False
        one.question = engine.read(media, one.sample.question, settings, {}, known)
    except Exception as fault:  # files hold anything
        one.fault = describe_error(fault)


def load_media(engine: Engine, shown: MediaRef, settings: Settings, loaded: dict[tuple[str, str], Media]) -> Media:
    """A picture, or a clip's sampled frames.

    Args:
        engine: whose processor says how large the frames are.
        shown: what is wanted.
        settings: their `clip` says which frames.
        loaded: what is there already, by kind and name; it is added.

    Raises:
        InputError: it cannot be read, or is not what was checked.
    """
    key = shown.kind, shown.name
    if key not in loaded:
        if not isinstance(shown.source, Path):
            found = picture_from(shown.source(), shown.name)
        elif shown.kind == "clip":
            found = load_clip(engine.processor, open_clip(shown.source), settings)
        else:
            found = load_picture(shown.source)
        other_file = isinstance(shown.source, Path) and fingerprint(shown.source) != shown.fingerprint
        if other_file or found.size_px != shown.size_px:
            raise InputError(f"{shown.name} is not what it was when it was checked")
        loaded[key] = found
    return loaded[key]
