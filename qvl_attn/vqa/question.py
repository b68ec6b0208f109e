"""A question about pictures or a clip, with every check that needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np

from qvl_attn.attribution.methods.registry import GENERIC_PROMPT, needs_of
from qvl_attn.attribution.profiles import shape_of
from qvl_attn.attribution.selection import Selection, text_positions
from qvl_attn.attribution.settings import Headline, Settings, checked_selection, headline_of, recorded_apart
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import placeholder
from qvl_attn.core.types import Media
from qvl_attn.model.memory import Job
from qvl_attn.model.preprocess import clip_pixel_limits
from qvl_attn.model.prompt import PIXELS, Prompt, build_prompt, chat_messages, check_text, control_words, pixel_limits
from qvl_attn.model.signals import ATTENTION, GENERIC, RELEVANCE, TOWER

# Older tokenizers raise "Already borrowed" if two threads encode at once.
_TOKENIZER = Lock()


@dataclass(frozen=True, eq=False)
class Question:
    """A question, ready for the model.

    Attributes:
        media: the pictures, or the clip, in prompt order.
        settings: settings of the question.
        prompt: the model's input.
        selection: the layers to record, the heads and the query of the settings, parsed.
        headline: the layers or heads that the headline averages.
        job: sizes that decide its cost.
        generic: prompt with a generic question about the same pictures, without pixels; None if no method needs it.
        attention: `eager` or `rows`.
        attention_reason: why this mode was chosen.
        seconds: duration of the preparation, by stage.
        peak_memory_bytes: peak memory of the preparation, by stage.
    """

    media: tuple[Media, ...]
    settings: Settings
    prompt: Prompt
    selection: Selection
    headline: Headline
    job: Job
    generic: Prompt | None = None
    attention: str = "eager"
    attention_reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def pictures(self) -> int:
        """Number of pictures, or of steps of a clip, that share the vision tokens."""
        return sum(grid.shape[0] for grid in self.prompt.grids)


def read_question(
    processor: Any, config: Any, media: Sequence[Media], text: str, settings: Settings, like: Prompt | None = None
) -> Question:
    """Check a question and its settings, and build the prompt.

    Args:
        processor: processor of the model.
        config: configuration of the model.
        media: the pictures, or the clip.
        text: the question.
        settings: settings of the question.
        like: a prompt about the same media with the same settings, whose grids are reused; the new one has no pixels.

    Raises:
        InputError: the media, the question or a setting is invalid.
    """
    if not media:
        raise InputError("no picture to ask about")
    if not isinstance(text, str):
        raise TypeError(f"the question is {type(text).__name__}, not str")
    shape = shape_of(config)
    selection = checked_selection(settings, shape)
    control = control_words(processor)
    for name, typed in (("question", text), ("system prompt", settings.system), ("answer", settings.answer)):
        if typed is not None:
            check_text(name, typed, control)
    if mark := placeholder(text):
        raise InputError(
            f"the question contains {mark}, which would be asked as text",
            "leave it out: the pictures come before the question, in their order",
        )
    requested = settings.min_pixels, settings.max_pixels
    limits = (
        clip_pixel_limits(processor, *requested, len(media[0].frames))
        if media[0].clip
        else pixel_limits(processor, *requested)
    )
    needs = needs_of(settings.methods)
    messages = chat_messages(media, text, settings.system, *limits)
    merge_size = config.vision_config.spatial_merge_size
    with _TOKENIZER:
        prompt = build_prompt(processor, messages, media, merge_size, limits[0], limits[1], like)
        generic = None
        if GENERIC in needs:
            generic_messages = chat_messages(media, GENERIC_PROMPT, settings.system, *limits)
            generic = build_prompt(processor, generic_messages, media, merge_size, limits[0], limits[1], prompt)
        supplied = processor.tokenizer(settings.answer or "", add_special_tokens=False)["input_ids"]
    if selection.query.words:
        text_positions(prompt.tokens, text, selection.query.words)
    cells = sum(grid.cells for grid in prompt.grids)
    job = Job(
        cells=cells,
        words=prompt.length - cells,
        new_tokens=max(settings.max_new_tokens, len(supplied)),
        queries=len(prompt.positions("question")) + 1,
        layers=len(selection.layers),
        heads=_heads_per_layer(settings, selection, shape.heads) + settings.head_max,
        probed=bool(needs - {GENERIC}),
        products=bool({ATTENTION, RELEVANCE} & needs),
        gradients=bool({RELEVANCE, TOWER} & needs),
        head_bytes=2 if settings.store_heads == "float16" else 4,
    )
    return Question(tuple(media), settings, prompt, selection, headline_of(settings, selection), job, generic)


def _heads_per_layer(settings: Settings, selection: Selection, heads: int) -> int:
    """Return how many single heads are recorded per layer: the average, rounded up."""
    if selection.heads is not None:
        return heads
    apart = recorded_apart(settings, selection)
    return -(-len(apart.layers) * len(apart.heads) // len(selection.layers)) if apart else 0


def without_pixels(question: Question) -> Question:
    """Return the question without its pixels, so that of many questions only those that run hold theirs."""
    inputs = {name: value for name, value in question.prompt.inputs.items() if name not in PIXELS}
    return replace(question, prompt=replace(question.prompt, inputs=inputs))


def with_pixels(question: Question, processor: Any, config: Any) -> Question:
    """Return the question with its pixels, computed again if they were dropped."""
    if PIXELS & question.prompt.inputs.keys():
        return question
    complete = read_question(processor, config, question.media, question.prompt.question, question.settings)
    return replace(question, prompt=complete.prompt)


def with_pixels_of(prompt: Prompt, source: Prompt) -> Prompt:
    """Return a prompt with the pixels of another prompt about the same pictures, if that has any."""
    pixels = {name: value for name, value in source.inputs.items() if name in PIXELS}
    return replace(prompt, inputs={**prompt.inputs, **pixels})


def same_pictures(first: Question, second: Question) -> bool:
    """Return whether two prompts begin with the same pictures at the same sizes, whatever the questions."""
    questions, stop = (first, second), first.prompt.grids[-1].stop
    first_ids, second_ids = (question.prompt.inputs["input_ids"][0, :stop].tolist() for question in questions)
    limits = [(question.settings.min_pixels, question.settings.max_pixels) for question in questions]
    return (
        first_ids == second_ids
        and limits[0] == limits[1]
        and [grid.grid_thw for grid in first.prompt.grids] == [grid.grid_thw for grid in second.prompt.grids]
        and all(a is b or np.array_equal(a.frames, b.frames) for a, b in zip(first.media, second.media, strict=True))
    )
