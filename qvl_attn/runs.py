"""Which questions run together, and what each of them gave, how fast and with how much memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from qvl_attn.passes import Pass, Recording, SharedPictures, greedy, own_answers, supplied_answer
from qvl_attn.question import Question, same_pictures, with_pixels
from qvl_attn.stages import Stages


@dataclass(frozen=True, eq=False)
class Group:
    """Questions that run together, as their places in the order in which they were asked.

    Attributes:
        indices: their places.
        shared: whether they are about the same pictures, which are then read once; otherwise they are one batch.
    """

    indices: tuple[int, ...]
    shared: bool


@dataclass(frozen=True, eq=False)
class Run:
    """What one question gave."""

    own: Pass
    supplied: Pass | None
    generation: GenerationConfig
    seconds: dict[str, float]
    peak_memory_bytes: dict[str, dict[str, int]]


def recording_of(question: Question) -> Recording:
    """What is recorded for a question, and how."""
    settings = question.settings
    return Recording(
        question.attention,
        question.layers,
        by_head=settings.heads_apart,
        apart=settings.apart,
        half=settings.store_heads == "float16",
    )


def groups(
    questions: Sequence[Question], config: Any, batch_size: int, fits: Callable[[Question, int], bool]
) -> Iterator[Group]:
    """Questions about the same pictures together, in their order; the others, and clips, in batches of like length.

    Args:
        questions: what is asked.
        config: of the model.
        batch_size: the largest batch.
        fits: whether the memory holds a batch of so many questions as long as this one.
    """
    about: dict[tuple[Recording, int, tuple[str, ...]], list[int]] = {}
    for i, one in enumerate(questions):
        pictures = tuple(media.sha256 for media in one.media)
        about.setdefault((recording_of(one), one.settings.max_new_tokens, pictures), []).append(i)
    # A sliding layer forgets the head of the prompt while it answers.
    shareable = "sliding_attention" not in (config.text_config.layer_types or ())
    alone: dict[tuple[Recording, int, str], list[int]] = {}
    for (recording, new_tokens, _), indices in about.items():
        first = questions[indices[0]]
        # What follows a clip is counted on from its height and width, not from its last step (transformers 5.23): from
        # the clip alone it cannot be told where the question begins.
        still = all(media.clip is None for media in first.media)
        if len(indices) > 1 and shareable and still and all(same_pictures(first, questions[i]) for i in indices):
            yield Group(tuple(indices), shared=True)
        else:
            alone.setdefault((recording, new_tokens, first.media[0].kind), []).extend(indices)
    for indices in alone.values():
        batch: list[int] = []
        for i in sorted(indices, key=lambda i: questions[i].prompt.length):
            if batch and (len(batch) == batch_size or not fits(questions[i], len(batch) + 1)):
                yield Group(tuple(batch), shared=False)
                batch = []
            batch.append(i)
        yield Group(tuple(batch), shared=False)


def run_group(model: Any, processor: Any, config: Any, group: Sequence[Question], *, shared: bool) -> Iterator[Run]:
    """Run the questions of a group, in their order.

    Raises:
        CaptureError: the attention is not what attention must be.
    """
    torch.manual_seed(group[0].settings.seed)
    generation = greedy(model, group[0].settings.max_new_tokens)
    if shared:
        yield from _run_shared(model, processor, config, group, generation)
    else:
        yield from _run_batch(model, processor, config, group, generation)


def _run_shared(
    model: Any, processor: Any, config: Any, group: Sequence[Question], generation: GenerationConfig
) -> Iterator[Run]:
    tokenizer, recording = processor.tokenizer, recording_of(group[0])
    pictures = None
    for question in group:
        stages, supplied, words = Stages(), None, question.settings.answer
        with stages.stage("answer"):
            if pictures is None:
                pictures = SharedPictures(model, with_pixels(question, processor, config).prompt, recording)
            own = pictures.own_answer(tokenizer, question.prompt, recording, generation)
        if words is not None:
            with stages.stage("supplied_answer"):
                supplied = pictures.supplied_answer(tokenizer, question.prompt, recording, words)
        yield Run(own, supplied, generation, stages.seconds, stages.peak_bytes)


def _run_batch(
    model: Any, processor: Any, config: Any, group: Sequence[Question], generation: GenerationConfig
) -> Iterator[Run]:
    tokenizer, recording, together = processor.tokenizer, recording_of(group[0]), Stages()
    with together.stage("answer"):
        prompts = [with_pixels(question, processor, config).prompt for question in group]
        answers = own_answers(model, tokenizer, prompts, recording, generation)
    together.seconds["answer"] = round(together.seconds["answer"] / len(group), 3)
    for question, prompt, own in zip(group, prompts, answers, strict=True):
        stages, supplied, words = Stages(), None, question.settings.answer
        if words is not None:
            with stages.stage("supplied_answer"):
                supplied = supplied_answer(model, tokenizer, prompt, recording, words)
        yield Run(own, supplied, generation, together.seconds | stages.seconds, together.peak_bytes | stages.peak_bytes)
