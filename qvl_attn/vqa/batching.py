"""Which questions run together, and what each of them gave, how fast and with how much memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig

from qvl_attn.core.runtime import Stages
from qvl_attn.core.types import Capture
from qvl_attn.model.generate import Pass, Recording, SharedPictures, greedy, own_answers, supplied_answer
from qvl_attn.vqa.question import Question, same_pictures, with_pixels, with_pixels_of


@dataclass(frozen=True, eq=False)
class Group:
    """Questions that run together, as their places in the order in which they were asked.

    Attributes:
        batches: their places, by what is generated at once.
        shared: whether they are about the same pictures, which are then read once; otherwise they are one batch.
    """

    batches: tuple[tuple[int, ...], ...]
    shared: bool

    @property
    def indices(self) -> tuple[int, ...]:
        """The places of all of them, as they are answered."""
        return tuple(i for batch in self.batches for i in batch)


@dataclass(frozen=True, eq=False)
class Run:
    """What one question gave; `generic` are the rows of the generic prompt, where a method wants them."""

    own: Pass
    supplied: Pass | None
    generic: Capture | None
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
        head_max=settings.head_max,
    )


def groups(
    questions: Sequence[Question], config: Any, batch_size: int, fits: Callable[[Question, int, bool], bool]
) -> Iterator[Group]:
    """Questions about the same pictures together; the others, and clips, apart; all in batches of like length.

    Args:
        questions: what is asked.
        config: of the model.
        batch_size: the largest batch.
        fits: whether the memory holds a batch of so many questions as long as this one, with pictures shared or not.
    """

    def batches(indices: Sequence[int], shared: bool) -> list[tuple[int, ...]]:
        made: list[list[int]] = []
        for i in sorted(indices, key=lambda i: questions[i].prompt.length):
            if not made or len(made[-1]) == batch_size or not fits(questions[i], len(made[-1]) + 1, shared):
                made.append([])
            made[-1].append(i)
        return [tuple(batch) for batch in made]

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
        # Of a generic prompt, which is about the same pictures, they are read once as well.
        several = len(indices) > 1 or first.generic is not None
        if several and shareable and still and all(same_pictures(first, questions[i]) for i in indices):
            yield Group(tuple(sorted(tuple(sorted(batch)) for batch in batches(indices, True))), shared=True)
        else:
            alone.setdefault((recording, new_tokens, first.media[0].kind), []).extend(indices)
    for indices in alone.values():
        for batch in batches(indices, False):
            yield Group((batch,), shared=False)


def run_group(
    model: Any, processor: Any, config: Any, batches: Sequence[Sequence[Question]], *, shared: bool
) -> Iterator[Run]:
    """Run the questions of a group, batch by batch, in their order.

    Raises:
        CaptureError: the attention is not what attention must be.
    """
    tokenizer, first = processor.tokenizer, batches[0][0]
    torch.manual_seed(first.settings.seed)
    recording, generation = recording_of(first), greedy(model, first.settings.max_new_tokens)
    pictures, generic = None, None
    for batch in batches:
        together = Stages()
        with together.stage("answer"):
            if shared:
                prompts = [question.prompt for question in batch]
                pictures = pictures or SharedPictures(model, with_pixels(first, processor, config).prompt, recording)
                answers = pictures.own_answers(tokenizer, prompts, recording, generation)
                supply = pictures.supplied_answer
            else:
                prompts = [with_pixels(question, processor, config).prompt for question in batch]
                answers = own_answers(model, tokenizer, prompts, recording, generation)
                supply = partial(supplied_answer, model)
        together.seconds["answer"] = round(together.seconds["answer"] / len(batch), 3)
        for question, prompt, own in zip(batch, prompts, answers, strict=True):
            stages, supplied, words = Stages(), None, question.settings.answer
            if words is not None:
                with stages.stage("supplied_answer"):
                    supplied = supply(tokenizer, prompt, recording, words)
            if question.generic is not None and (generic is None or not shared):
                with stages.stage("generic_prompt"):
                    lean = replace(recording, by_head=False, apart=None, head_max=False)
                    generic = supply(tokenizer, with_pixels_of(question.generic, prompt), lean, "").capture
            seconds, peaks = together.seconds | stages.seconds, together.peak_bytes | stages.peak_bytes
            yield Run(own, supplied, generic, generation, seconds, peaks)
