"""A question about pictures, checked as far as it can be before weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np

from qvl_attn.attribution.methods import GENERIC_PROMPT, needs_of
from qvl_attn.attribution.selection import parse_heads, parse_layers, parse_query, text_positions
from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Media
from qvl_attn.model.memory import Job
from qvl_attn.model.preprocess import clip_pixel_limits
from qvl_attn.model.prompt import PIXELS, Prompt, build_prompt, chat_messages, check_text, control_words, pixel_limits
from qvl_attn.model.signals import ATTENTION, GENERIC, RELEVANCE, TOWER

MAX_NEW_TOKENS = 4096
HEAD_DTYPES = ("float32", "float16")
# Two threads that encode at once are an error to older tokenizers ("Already borrowed").
_TOKENIZER = Lock()


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked, ready for the model.

    Attributes:
        media: the pictures, or the clip, in prompt order.
        settings: as they were typed.
        prompt: the model's input.
        layers: layer numbers to record.
        job: what decides its cost.
        generic: the prompt that asks for nothing in particular, where a method wants it; it has no pixels.
        attention: `eager` or `rows`.
        attention_reason: why.
        seconds: that preparing it took, by stage.
        peak_memory_bytes: of preparing it, by stage.
    """

    media: tuple[Media, ...]
    settings: Settings
    prompt: Prompt
    layers: tuple[int, ...]
    job: Job
    generic: Prompt | None = None
    attention: str = "eager"
    attention_reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def pictures(self) -> int:
        """How many pictures, or steps of a clip, share the vision tokens."""
        return sum(grid.shape[0] for grid in self.prompt.grids)


def read_question(
    processor: Any, config: Any, media: Sequence[Media], text: str, settings: Settings, like: Prompt | None = None
) -> Question:
    """Find every fault in what was typed, and build the prompt.

    Args:
        processor: of the model.
        config: of the model.
        media: the pictures, or the clip.
        text: the question.
        settings: as they were typed.
        like: a prompt about the same media with the same settings, whose grids hold; there are no pixels then.

    Raises:
        InputError: a fault in what was given.
    """
    if not media:
        raise InputError("no picture to ask about")
    if not isinstance(text, str):
        raise TypeError(f"the question is {type(text).__name__}, not str")
    model = config.text_config
    layers = parse_layers(settings.layers, model.num_hidden_layers)
    parse_heads(settings.heads, layers, model.num_attention_heads)
    parse_query(settings.query)
    if settings.store_heads not in HEAD_DTYPES:
        raise InputError(f"--store-heads {settings.store_heads}: unknown", f"write {' or '.join(HEAD_DTYPES)}")
    if not 1 <= settings.max_new_tokens <= MAX_NEW_TOKENS:
        raise InputError(f"--max-new-tokens {settings.max_new_tokens}: want 1 to {MAX_NEW_TOKENS}")
    control = control_words(processor)
    for name, words in (("question", text), ("system prompt", settings.system), ("answer", settings.answer)):
        if words is not None:
            check_text(name, words, control)
    typed = settings.min_pixels, settings.max_pixels
    clip = media[0].clip
    limits = clip_pixel_limits(processor, *typed, len(media[0].frames)) if clip else pixel_limits(processor, *typed)
    needs = needs_of(settings.methods)
    messages = chat_messages(media, text, settings.system, *limits)
    merge_size = config.vision_config.spatial_merge_size
    with _TOKENIZER:
        prompt = build_prompt(processor, messages, media, merge_size, limits[0], limits[1], like)
        generic = None
        if GENERIC in needs:
            about = chat_messages(media, GENERIC_PROMPT, settings.system, *limits)
            generic = build_prompt(processor, about, media, merge_size, limits[0], limits[1], prompt)
        supplied = processor.tokenizer(settings.answer or "", add_special_tokens=False)["input_ids"]
    if settings.query.startswith("text:"):
        text_positions(prompt.tokens, text, settings.query.removeprefix("text:"))
    cells = sum(grid.cells for grid in prompt.grids)
    job = Job(
        cells=cells,
        words=prompt.length - cells,
        new_tokens=max(settings.max_new_tokens, len(supplied)),
        queries=len(prompt.positions("question")) + 1,
        layers=len(layers),
        heads=_heads_a_layer(settings, len(layers), model.num_attention_heads) + settings.head_max,
        probed=bool(needs - {GENERIC}),
        products=bool({ATTENTION, RELEVANCE} & needs),
        gradients=bool({RELEVANCE, TOWER} & needs),
        head_bytes=2 if settings.store_heads == "float16" else 4,
    )
    return Question(tuple(media), settings, prompt, tuple(layers), job, generic)


def _heads_a_layer(settings: Settings, layers: int, heads: int) -> int:
    """How many heads of each layer are kept apart, on average and rounded up."""
    if settings.all_heads_apart:
        return heads
    return -(-len(settings.apart.layers) * len(settings.apart.heads) // layers) if settings.apart else 0


def without_pixels(question: Question) -> Question:
    """The same question with the pixels of its pictures given up: of many questions only those that run hold theirs."""
    inputs = {name: value for name, value in question.prompt.inputs.items() if name not in PIXELS}
    return replace(question, prompt=replace(question.prompt, inputs=inputs))


def with_pixels(question: Question, processor: Any, config: Any) -> Question:
    """The same question with its pixels, made again where they were given up."""
    if PIXELS & question.prompt.inputs.keys():
        return question
    again = read_question(processor, config, question.media, question.prompt.question, question.settings)
    return replace(question, prompt=again.prompt)


def with_pixels_of(prompt: Prompt, other: Prompt) -> Prompt:
    """A prompt with the pixels of another about the same pictures, as far as that has some."""
    pixels = {name: value for name, value in other.inputs.items() if name in PIXELS}
    return replace(prompt, inputs={**prompt.inputs, **pixels})


def same_pictures(one: Question, other: Question) -> bool:
    """Whether two prompts begin with the same pictures at the same sizes, whatever is asked about them."""
    stop = one.prompt.grids[-1].stop
    ids, others = (question.prompt.inputs["input_ids"][0, :stop].tolist() for question in (one, other))
    limits = [(question.settings.min_pixels, question.settings.max_pixels) for question in (one, other)]
    return (
        ids == others
        and limits[0] == limits[1]
        and [grid.grid_thw for grid in one.prompt.grids] == [grid.grid_thw for grid in other.prompt.grids]
        and all(a is b or np.array_equal(a.frames, b.frames) for a, b in zip(one.media, other.media, strict=True))
    )
