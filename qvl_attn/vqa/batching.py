"""Grouping of questions that run together, and the run of a group: answers, attention, time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig

from qvl_attn.attribution.settings import recorded_apart
from qvl_attn.core.runtime import OnToken, Progress, Stages, no_progress
from qvl_attn.core.types import Capture
from qvl_attn.model.generate import Pass, Recording, SharedPictures, greedy, own_answers, supplied_answer
from qvl_attn.vqa.question import Question, same_pictures, with_pixels, with_pixels_of


@dataclass(frozen=True, eq=False)
class Group:
    """Questions that run together, as indices into the list of questions.

    Attributes:
        batches: the indices, one tuple for each batch that is generated at once.
        shared: whether the questions share their pictures, which then run once; otherwise there is one batch.
    """

    batches: tuple[tuple[int, ...], ...]
    shared: bool

    @property
    def indices(self) -> tuple[int, ...]:
        """All indices, in the order in which the questions are answered."""
        return tuple(i for batch in self.batches for i in batch)


@dataclass(frozen=True, eq=False)
class Run:
    """What the model returned for one question; `generic` has the generic prompt's rows, if a method needs them."""

    own: Pass
    supplied: Pass | None
    generic: Capture | None
    generation: GenerationConfig
    seconds: dict[str, float]
    peak_memory_bytes: dict[str, dict[str, int]]


def recording_of(question: Question) -> Recording:
    """Return which attention a question records."""
    settings, selection = question.settings, question.selection
    apart = recorded_apart(settings, selection)
    return Recording(
        question.attention,
        selection.layers,
        by_head=selection.heads is not None or apart is not None,
        apart=apart,
        half=settings.store_heads == "float16",
        head_max=settings.head_max,
    )


def groups(
    questions: Sequence[Question], config: Any, batch_size: int, fits: Callable[[Question, int, bool], bool]
) -> Iterator[Group]:
    """Group questions about the same pictures; other questions, and clips, form batches of similar length.

    Args:
        questions: the questions to group.
        config: configuration of the model.
        batch_size: the largest batch.
        fits: called with (longest question, batch size, shared pictures); returns whether such a batch fits the memory.
    """

    def split(indices: Sequence[int], shared: bool) -> list[tuple[int, ...]]:
        batches: list[list[int]] = []
        for i in sorted(indices, key=lambda i: questions[i].prompt.length):
            if not batches or len(batches[-1]) == batch_size or not fits(questions[i], len(batches[-1]) + 1, shared):
                batches.append([])
            batches[-1].append(i)
        return [tuple(batch) for batch in batches]

    by_pictures: dict[tuple[Recording, int, tuple[str, ...]], list[int]] = {}
    for i, question in enumerate(questions):
        pictures = tuple(media.sha256 for media in question.media)
        key = recording_of(question), question.settings.max_new_tokens, pictures
        by_pictures.setdefault(key, []).append(i)
    # A layer with sliding-window attention drops the start of the prompt while it generates.
    shareable = "sliding_attention" not in (config.text_config.layer_types or ())
    separate: dict[tuple[Recording, int, str], list[int]] = {}
    for (recording, new_tokens, _), indices in by_pictures.items():
        first = questions[indices[0]]
        # The positions after a clip continue from its height and width, not from its last step (transformers 5.23): the
        # clip alone does not determine where the question starts.
        is_still = all(media.clip is None for media in first.media)
        # A generic prompt is about the same pictures, so it shares them as well.
        several = len(indices) > 1 or first.generic is not None
        if several and shareable and is_still and all(same_pictures(first, questions[i]) for i in indices):
            yield Group(tuple(sorted(tuple(sorted(batch)) for batch in split(indices, True))), shared=True)
        else:
            separate.setdefault((recording, new_tokens, first.media[0].kind), []).extend(indices)
    for indices in separate.values():
        for batch in split(indices, False):
            yield Group((batch,), shared=False)


def run_group(
    model: Any,
    processor: Any,
    config: Any,
    batches: Sequence[Sequence[Question]],
    *,
    shared: bool,
    progress: Progress = no_progress,
    on_token: OnToken | None = None,
) -> Iterator[Run]:
    """Run the questions of a group batch by batch, in order; `progress` counts the tokens of each batch.

    `on_token` gets the text of the answer of a single question.

    Raises:
        CaptureError: the captured attention fails its checks.
    """
    tokenizer, first = processor.tokenizer, batches[0][0]
    torch.manual_seed(first.settings.seed)
    recording, generation = recording_of(first), greedy(model, first.settings.max_new_tokens)
    pictures, generic = None, None
    for batch in batches:
        batch_stages = Stages()
        with batch_stages.stage("answer"):
            if shared:
                prompts = [question.prompt for question in batch]
                pictures = pictures or SharedPictures(model, with_pixels(first, processor, config).prompt, recording)
                answers = pictures.own_answers(tokenizer, prompts, recording, generation, progress, on_token)
                supply = pictures.supplied_answer
            else:
                prompts = [with_pixels(question, processor, config).prompt for question in batch]
                answers = own_answers(model, tokenizer, prompts, recording, generation, progress, on_token)
                supply = partial(supplied_answer, model)
        batch_stages.seconds["answer"] = round(batch_stages.seconds["answer"] / len(batch), 3)
        for question, prompt, own in zip(batch, prompts, answers, strict=True):
            stages, supplied, supplied_text = Stages(), None, question.settings.answer
            if supplied_text is not None:
                with stages.stage("supplied_answer"):
                    supplied = supply(tokenizer, prompt, recording, supplied_text)
            if question.generic is not None and (generic is None or not shared):
                with stages.stage("generic_prompt"):
                    mean_only = replace(recording, by_head=False, apart=None, head_max=False)
                    generic = supply(tokenizer, with_pixels_of(question.generic, prompt), mean_only, "").capture
            seconds, peak_bytes = batch_stages.seconds | stages.seconds, batch_stages.peak_bytes | stages.peak_bytes
            yield Run(own, supplied, generic, generation, seconds, peak_bytes)
