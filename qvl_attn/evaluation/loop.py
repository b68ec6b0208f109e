"""The loop over a data set: samples are answered by a model and scored.

Samples are processed in chunks that depend only on their order, and the questions of a chunk in groups that depend only
on the whole chunk. A resumed run therefore has the same groups and the same numbers, up to rounding where another
amount of free memory leads to other batches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from threading import Event

import numpy as np

from qvl_attn.attribution.settings import Headline, Settings
from qvl_attn.core.errors import CaptureError, InputError, MemoryLimitError, QvlAttnError, describe_error
from qvl_attn.core.runtime import prefetch
from qvl_attn.core.text import argument
from qvl_attn.core.types import Media
from qvl_attn.evaluation.data.samples import MediaRef, Sample, all_faults
from qvl_attn.evaluation.examples import example_of
from qvl_attn.evaluation.score import Score, score_sample
from qvl_attn.media.image import fingerprint, first_of_little_range, load_picture, picture_from
from qvl_attn.media.video import open_clip
from qvl_attn.model.preprocess import clip_pixel_limits, load_clip
from qvl_attn.model.prompt import check_text, control_words
from qvl_attn.vqa.batching import Group
from qvl_attn.vqa.engine import DOT, Engine
from qvl_attn.vqa.question import Question, read_question
from qvl_attn.vqa.result import Result
from qvl_attn.vqa.sanity import with_sanity

LOG = logging.getLogger(__name__)
# Errors that make one sample an error and do not end the run.
FAULTS = (InputError, CaptureError, MemoryLimitError)


@dataclass(frozen=True)
class ScoringPlan:
    """How every sample is answered and scored.

    Attributes:
        settings: the settings of every question.
        headline: the layers or heads of the headline.
        by_head: whether every head is scored.
        keep_maps: whether the maps of every head are kept.
        others: for each sample's id, the sample whose boxes are its control.
        batch_size: the maximum number of prompts that run at once.
        chosen_examples: the ids of the samples that get an example.
    """

    settings: Settings
    headline: Headline
    by_head: bool
    keep_maps: bool
    others: dict[str, Sample]
    batch_size: int = 1
    chosen_examples: frozenset[str] = frozenset()


def other_samples(samples: Sequence[Sample], seed: int) -> dict[str, Sample]:
    """Return for each sample with boxes the sample whose boxes are its control.

    It is the next sample of another group, in a random order of the pictures or of the clips.

    Args:
        samples: the whole data set.
        seed: the seed of the order.

    Returns:
        The other sample by the id of each sample; a sample has none if all samples with boxes are of its group.
    """
    others: dict[str, Sample] = {}
    for clips in (False, True):
        boxed = [sample for sample in samples if len(sample.boxes_px) and sample.is_clip == clips]
        order = [boxed[i] for i in np.random.default_rng(seed).permutation(len(boxed))]
        other: Sample | None = None
        # Twice through the order, backwards, so that the next sample of another group is known.
        for following, sample in pairwise([*order, *order][::-1]):
            if following.group != sample.group:
                other = following
            if other is not None:
                others[sample.id] = other
    return others


def check_questions(engine: Engine, samples: Sequence[Sample], settings: Settings) -> None:
    """Check settings and questions before the weights are loaded.

    Raises:
        InputError: a setting is invalid for every sample, or questions are invalid; it lists all of them.
    """
    query = engine.selection(settings).query
    trial = replace(settings, query="last" if query.words else settings.query, clip=None)
    read_question(engine.processor, engine.config, [DOT], "?", trial)
    if any(sample.is_clip for sample in samples):
        clip_pixel_limits(engine.processor, settings.min_pixels, settings.max_pixels, 2)
    control, faults, faulty_places = control_words(engine.processor), [], set()
    for sample in samples:
        try:
            check_text("question", sample.question, control)
        except InputError as error:
            if sample.place not in faulty_places:
                faults.append(f"{sample.place}: {error}")
            faulty_places.add(sample.place)
    if not faults and query.words and not any(query.words in sample.question for sample in samples):
        raise InputError(f"{argument('query', str(query))}: no question of the data set contains {query.words!r}")
    if faults:
        raise all_faults(faults)


def score_chunks(
    engine: Engine,
    sample_chunks: Iterable[Sequence[Sample]],
    plan: ScoringPlan,
    done: Callable[[], Collection[str]] = tuple,
) -> Generator[Score, None, None]:
    """Answer and score samples, and yield each score as soon as it is known; a fault becomes the sample's error.

    The next chunk is read from the disk while the model runs on the current one.

    Args:
        engine: the model.
        sample_chunks: the chunks that `chunks` yields.
        plan: how to answer and score.
        done: returns the ids of samples to skip; called before each chunk.
    """
    _ = engine.model  # if the weights cannot be loaded, this fails here and not in a sample
    stop = Event()

    def read() -> Generator[list[Prepared], None, None]:
        said = False
        for chunk in sample_chunks:
            finished = done()
            if any(sample.id not in finished for sample in chunk):
                prepared_chunk = read_chunk(engine, chunk, plan.settings, stop)
                media = (medium for item in prepared_chunk if item.question for medium in item.question.media)
                if not said and (note := first_of_little_range(media)):
                    LOG.info(note)
                    said = True
                yield prepared_chunk

    with closing(prefetch(read(), depth=1)) as prepared_chunks:
        try:
            for chunk in prepared_chunks:
                yield from _score_chunk(engine, chunk, plan, done())
        finally:
            stop.set()


def _score_chunk(
    engine: Engine, chunk: Sequence[Prepared], plan: ScoringPlan, done: Collection[str]
) -> Iterator[Score]:
    ready: list[Prepared] = []
    questions: list[Question] = []
    too_large: list[Prepared] = []
    for prepared in chunk:
        if prepared.question is not None and (question := _fit_memory(engine, prepared)):
            ready.append(prepared)
            questions.append(question)
        elif prepared.question is not None:
            too_large.append(prepared)
        elif prepared.sample.id not in done:
            yield error_score(prepared)
    for group in engine.groups(questions, plan.batch_size):
        if any(ready[i].sample.id not in done for i in group.indices):
            for score in _score_group(engine, ready, questions, group, plan):
                if score.id not in done:
                    yield score
    for prepared in too_large:  # more memory may be free now
        if prepared.sample.id not in done:
            prepared.first_fault = prepared.fault
            question = _fit_memory(engine, prepared)
            yield _score_alone(engine, prepared, question, plan) if question else error_score(prepared)


def _fit_memory(engine: Engine, prepared: Prepared) -> Question | None:
    """Return the question as it fits the memory, or None, with the fault set."""
    assert prepared.question is not None
    try:
        return engine.fit([prepared.question])[0]
    except MemoryLimitError as fault:
        prepared.fault = describe_error(fault)
        return None


def _score_group(
    engine: Engine, ready: Sequence[Prepared], questions: Sequence[Question], group: Group, plan: ScoringPlan
) -> Iterator[Score]:
    """Answer the questions of a group together. After a fault, answer each remaining one alone.

    So a fault affects only its own sample. After a memory fault this is the second attempt.
    """
    remaining = list(group.indices)
    try:
        for i, result in with_sanity(engine, engine.answer_group(questions, group)):
            yield _score(ready[i], result, plan)
            remaining.remove(i)
        return
    except Exception as fault:
        _check_fault(fault)
        message, memory = describe_error(fault), isinstance(fault, MemoryLimitError)
    # Outside the `except` block, so that the memory that the fault's traceback held is free.
    for i in remaining:
        ready[i].fault = message
        if memory:
            ready[i].first_fault = message
        again = memory or len(group.indices) > 1
        yield _score_alone(engine, ready[i], questions[i], plan) if again else error_score(ready[i])


def _score_alone(engine: Engine, prepared: Prepared, question: Question, plan: ScoringPlan) -> Score:
    try:
        answered = engine.answer_group([question], Group(((0,),), shared=False))
        ((_, result),) = with_sanity(engine, answered)
        return _score(prepared, result, plan)
    except Exception as fault:  # one sample of fifty thousand must not end the run
        _check_fault(fault)
        prepared.fault = describe_error(fault)
        return error_score(prepared)


def _check_fault(fault: Exception) -> None:
    """Re-raise a device fault, which would fail every later sample."""
    if "CUDA error" in str(fault):
        raise fault


def _score(prepared: Prepared, result: Result, plan: ScoringPlan) -> Score:
    sample, other = prepared.sample, plan.others.get(prepared.sample.id)
    score = score_sample(sample, result, plan.headline, other, by_head=plan.by_head, keep_maps=plan.keep_maps)
    example = None
    if sample.id in plan.chosen_examples:
        with suppress(CaptureError):  # without attention on the pictures there are figures, but no map
            example = example_of(sample, result)
    return replace(score, retried=prepared.first_fault, example=example)


def error_score(prepared: Prepared) -> Score:
    """Return the score of a sample that has a fault."""
    sample = prepared.sample
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
        error=prepared.fault,
        retried=prepared.first_fault,
    )


def ask_again(engine: Engine, sample: Sample, settings: Settings) -> Result:
    """Answer one sample again and return its whole result, to draw it.

    Raises:
        InputError: its files can no longer be read.
        CaptureError: the captured attention is not valid.
        MemoryLimitError: it does not fit the memory.
    """
    try:
        media = [load_media(engine, media_ref, settings, {}) for media_ref in sample.media_refs]
    except QvlAttnError:
        raise
    except Exception as fault:  # as in `_read_one`
        raise InputError(describe_error(fault)) from None
    ((_, result),) = engine.answer(engine.prepare([(media, sample.question)], settings))
    return result


# A chunk has at least CHUNK_QUESTIONS questions and CHUNK_BATCHES batches, unless its pictures exceed CHUNK_BYTES or a
# clip follows.
CHUNK_QUESTIONS, CHUNK_BATCHES, CHUNK_BYTES = 16, 4, 2**29


def chunks(samples: Sequence[Sample], batch_size: int) -> Iterator[list[Sample]]:
    """Yield chunks of samples, with samples about the same pictures together and otherwise in their order.

    A chunk ends where the pictures change, unless that would make it four times as long.
    """
    chunk_size = max(CHUNK_QUESTIONS, CHUNK_BATCHES * batch_size)
    samples_by_media: dict[tuple[bool, tuple[str, ...]], list[Sample]] = {}
    for sample in samples:
        samples_by_media.setdefault((sample.is_clip, sample.names), []).append(sample)
    chunk: list[Sample] = []
    chunk_bytes = 0
    for same_media in samples_by_media.values():
        if chunk and (len(chunk) >= chunk_size or chunk_bytes >= CHUNK_BYTES or same_media[0].is_clip):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk_bytes += _bytes(same_media[0])
        for sample in same_media:
            if len(chunk) >= 4 * chunk_size:
                yield chunk
                chunk, chunk_bytes = [], _bytes(sample)
            chunk.append(sample)
    if chunk:
        yield chunk


def _bytes(sample: Sample) -> int:
    """Return the size of a sample's pictures: decoded, and as the processor's tensors, which are five times larger."""
    return sum(3 * width * height for width, height in (media_ref.size_px for media_ref in sample.media_refs)) * 6


@dataclass(eq=False)
class Prepared:
    """A sample that was read for the model.

    Attributes:
        sample: the sample.
        question: the prompt; None if there was a fault.
        fault: the fault of the last attempt.
        unreadable: whether its files could not be read.
        first_fault: the fault of the first attempt, if there was a second one.
    """

    sample: Sample
    question: Question | None = None
    fault: str = ""
    unreadable: bool = False
    first_fault: str = ""


def read_chunk(engine: Engine, chunk: Sequence[Sample], settings: Settings, stop: Event) -> list[Prepared]:
    """Read the files of a chunk and build the prompts. Files that cannot be read are tried again after the others."""
    loaded: dict[tuple[str, str], Media] = {}
    by_media: dict[tuple[int, ...], Question] = {}
    prepared_samples = [Prepared(sample) for sample in chunk]
    for prepared in prepared_samples:
        if not stop.is_set():
            _read_one(engine, prepared, settings, loaded, by_media)
    for prepared in prepared_samples:
        if prepared.unreadable and not stop.is_set():
            prepared.first_fault = prepared.fault
            _read_one(engine, prepared, settings, loaded, by_media)
    return prepared_samples


def _read_one(
    engine: Engine,
    prepared: Prepared,
    settings: Settings,
    loaded: dict[tuple[str, str], Media],
    by_media: dict[tuple[int, ...], Question],
) -> None:
    prepared.fault, prepared.unreadable = "", True
    try:
        media = [load_media(engine, media_ref, settings, loaded) for media_ref in prepared.sample.media_refs]
        prepared.unreadable = False
        prepared.question = engine.read(media, prepared.sample.question, settings, {}, by_media)
    except Exception as fault:  # a damaged file may raise any error
        prepared.fault = describe_error(fault)


def load_media(engine: Engine, media_ref: MediaRef, settings: Settings, loaded: dict[tuple[str, str], Media]) -> Media:
    """Load a picture, or the sampled frames of a clip.

    Args:
        engine: its processor decides the size of the frames.
        media_ref: the picture or clip.
        settings: `clip` decides which frames are sampled, `stretch` how pictures of more than 8 bits are scaled.
        loaded: media that are already loaded, by kind and name; the new one is added.

    Raises:
        InputError: it cannot be read, or has changed since the data set was checked.
    """
    key = media_ref.kind, media_ref.name
    if key not in loaded:
        if not isinstance(media_ref.source, Path):
            media = picture_from(media_ref.source(), media_ref.name, settings.stretch)
        elif media_ref.kind == "clip":
            media = load_clip(engine.processor, open_clip(media_ref.source), settings)
        else:
            media = load_picture(media_ref.source, settings.stretch)
        changed = isinstance(media_ref.source, Path) and fingerprint(media_ref.source) != media_ref.fingerprint
        if changed or media.size_px != media_ref.size_px:
            raise InputError(f"{media_ref.name} has changed since the data set was checked")
        loaded[key] = media
    return loaded[key]
