"""Build the model's input from a question and pictures by the model card's recipe, and find the role of each token.

Only the processor is needed here: prompts are built before weights are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import psutil
from PIL import Image
from qwen_vl_utils import process_vision_info

from qvl_attn.core.errors import CaptureError, InputError, MemoryLimitError, ModelError
from qvl_attn.core.runtime import describe_size
from qvl_attn.core.text import argument, check_written
from qvl_attn.core.types import Media, Token, TokenGrid
from qvl_attn.model.chat_template import Message, render
from qvl_attn.model.checkpoint import guarded
from qvl_attn.model.token_grid import VISION_TYPES, locate_grids

# Replaces the question in a second rendering of the template, to find its place. Private use characters.
_SENTINEL = "\ue000\ue001\ue002"

# Said when the processor fails.
PREPARE, REMEDY = "the model's processor cannot prepare the input", "take the processor files of the base model"
CELL_PX = 28
PIXELS = {"pixel_values", "pixel_values_videos"}
# The processor's own minimum: two by two cells.
MIN_PIXELS = 4 * CELL_PX**2
# The pixels of 128,000 cells, as many as the longest context has tokens.
MOST_PIXELS = 128_000 * CELL_PX**2
# Memory for each pixel to which a picture is enlarged: the picture, its float32 values twice (one pair of frames), and
# the patches; 43 bytes were measured for 5 to 40 million pixels.
ENLARGED_BYTES = 48


@dataclass(frozen=True, eq=False)
class Prompt:
    """The model's input with the role of each token.

    Attributes:
        inputs: the processor's tensors, a batch of one.
        question: as the user typed it.
        tokens: (S) tokens with their roles.
        grids: the grid of each picture, in prompt order.
    """

    inputs: Mapping[str, Any]
    question: str
    tokens: tuple[Token, ...]
    grids: tuple[TokenGrid, ...]

    @property
    def length(self) -> int:
        """Number of tokens of the prompt."""
        return len(self.tokens)

    def positions(self, role: str) -> tuple[int, ...]:
        """Return the positions of all tokens of one role."""
        return tuple(token.position for token in self.tokens if token.role == role)


def chat_messages(
    media: Sequence[Media],
    question: str,
    system: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> list[Message]:
    """Return the model card's conversation: a system prompt if given, then the pictures or clips, then the question.

    A clip is only a placeholder here: its sampled and resized frames are passed to the processor directly.
    """
    limits = {
        name: value for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)) if value is not None
    }
    content: list[Message] = [
        {"type": "image", "image": Image.fromarray(item.frames[0]), **limits}
        if item.clip is None
        else {"type": "video"}
        for item in media
    ]
    user = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    if system is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user]


def control_words(processor: Any) -> list[str]:
    """Return the special and added tokens of the tokenizer."""
    return sorted({*processor.tokenizer.all_special_tokens, *processor.tokenizer.get_added_vocab()})


def check_text(name: str, text: str, control_tokens: Sequence[str]) -> None:
    """Refuse a text that is empty or contains control tokens.

    Raises:
        InputError: the text is empty, is not valid Unicode, or contains one of `control_tokens`.
    """
    check_written(name, text)
    if _SENTINEL[0] in text:
        raise InputError(f"the {name} contains the private use character U+E000, which no tokenizer knows")
    commands = [repr(token) for token in control_tokens if token in text]
    if commands:
        raise InputError(
            f"the {name} contains {' and '.join(commands)}, which the model would read as a command and not as text",
            "write it another way",
        )


def pixel_limits(processor: Any, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int] | tuple[None, None]:
    """Return both limits if one is given: the other is the processor's own, moved if the two would cross.

    Raises:
        InputError: a limit is out of range, or the minimum is above the maximum.
        MemoryLimitError: a picture of `min_pixels` does not fit the free memory.
    """
    for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
        if value is not None and not MIN_PIXELS <= value <= MOST_PIXELS:
            raise InputError(
                f"{argument(name, value)}: want {MIN_PIXELS} to {MOST_PIXELS}, the pixels of 4 and of 128,000 cells"
            )
    if min_pixels is None and max_pixels is None:
        return None, None
    size = processor.image_processor.size
    low = min(size["shortest_edge"], max_pixels or size["shortest_edge"]) if min_pixels is None else min_pixels
    high = max(size["longest_edge"], low) if max_pixels is None else max_pixels
    if low > high:
        raise InputError(f"{argument('min_pixels', min_pixels)} is above {argument('max_pixels', max_pixels)}")
    free = psutil.virtual_memory().available
    if min_pixels is not None and min_pixels * ENLARGED_BYTES > free:
        raise MemoryLimitError(
            f"{argument('min_pixels', min_pixels)}: pictures of so many pixels need about "
            f"{describe_size(min_pixels * ENLARGED_BYTES)}, and {describe_size(free)} are free",
            f"lower {argument('min_pixels')}",
        )
    return low, high


def build_prompt(
    processor: Any,
    messages: Sequence[Message],
    media: Sequence[Media],
    merge_size: int,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    like: Prompt | None = None,
) -> Prompt:
    """Run the model card's recipe and find the role of each token.

    The last text item of the last message is the question. It may stand before, between or after the pictures.

    Args:
        processor: the model's processor.
        messages: a conversation as `chat_messages` returns it.
        media: its pictures, or its clip, in order.
        merge_size: the model's `spatial_merge_size`.
        min_pixels: replaces the processor's own limit, together with `max_pixels`.
        max_pixels: both as `pixel_limits` returns them.
        like: a prompt about the same media with the same limits. Its grids are reused, and the result has no pixels.

    Raises:
        CaptureError: the template or the processor changed the question or the grids.
        InputError: the processor does not accept a picture of this shape.
    """
    text, before, question = _render(processor, messages)
    clips = [item for item in media if item.clip is not None]
    vision_token = processor.video_token if clips else processor.image_token
    if like is None:
        inputs = _run_processor(processor, text, messages, media, min_pixels, max_pixels)
    else:
        inputs = _reused_inputs(processor, _expand(text, vision_token, [grid.cells for grid in like.grids]), like)
    spans = inputs.pop("offset_mapping")[0].tolist()
    type_ids = inputs["mm_token_type_ids"][0].tolist()
    if clips and like is None:
        _check_times(processor, inputs, clips)
    grids_thw = inputs["video_grid_thw" if clips else "image_grid_thw"].tolist()
    grids = locate_grids(type_ids, grids_thw, merge_size, media)

    expanded = _expand(text, vision_token, [grid.cells for grid in grids])
    start = len(_expand(before, vision_token, [grid.cells for grid in grids]))
    stop = start + len(question)
    ids = inputs["input_ids"][0].tolist()
    if expanded[start:stop] != question or spans[-1][1] != len(expanded) or len(spans) != len(ids):
        raise CaptureError("the processor's text is not the chat template's, so the question's tokens cannot be found")
    system = re.search(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", expanded[:start], re.DOTALL)
    tokens = tuple(
        _token(i, span, kind, expanded, (start, stop), system.span(1) if system else (0, 0), i == len(ids) - 1)
        for i, (span, kind) in enumerate(zip(spans, type_ids, strict=True))
    )
    return Prompt(inputs=dict(inputs), question=question, tokens=tokens, grids=grids)


def _run_processor(
    processor: Any,
    text: str,
    messages: Sequence[Message],
    media: Sequence[Media],
    min_pixels: int | None,
    max_pixels: int | None,
) -> dict[str, Any]:
    clips = [item for item in media if item.clip is not None]
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels} if min_pixels and max_pixels else {}
    try:
        with guarded(PREPARE, REMEDY):
            inputs: dict[str, Any] = processor(
                text=[text],
                **(video_kwargs(processor, clips) if clips else {"images": process_vision_info(messages)[0]}),
                padding=True,
                return_tensors="pt",
                return_offsets_mapping=True,
                size=dict((processor.video_processor if clips else processor.image_processor).size) | size,
            )
    except ModelError as error:
        if "aspect ratio" not in str(error) and "height and width" not in str(error):
            raise
        sizes = ", ".join(f"{item.source} is {item.size_px[0]}x{item.size_px[1]}" for item in media)
        raise InputError(
            f"{sizes}: too long and narrow for the processor: a cell has {CELL_PX} pixels a side, "
            "and the longer side may be at most 200 times the shorter",
            f"crop it, or raise {argument('max_pixels')} if you gave it",
        ) from None
    return inputs


def _reused_inputs(processor: Any, expanded: str, like: Prompt) -> dict[str, Any]:
    """Return the inputs of another text about the same media: new tokens, the other tensors of `like`, no pixels."""
    text = processor.tokenizer([expanded], return_tensors="pt", return_offsets_mapping=True)
    ids = text["input_ids"]
    kinds = (ids == processor.image_token_id).long() + 2 * (ids == processor.video_token_id).long()
    reused = {name: value for name, value in like.inputs.items() if name not in PIXELS}
    return {**reused, **text, "mm_token_type_ids": kinds}


def video_kwargs(processor: Any, clips: Sequence[Media]) -> dict[str, Any]:
    """Return the processor's arguments for clips, with all metadata that it would otherwise assume, such as 24 fps.

    The processor computes the seconds between sampled frames from their number, the total and the clip's rate.
    `total_num_frames` is set so that the result is exactly the sampling interval.
    """
    facts = [item.clip for item in clips if item.clip is not None]
    # Frames are already resized; newer versions would cap them again and warn.
    capped = {"cap_pixels_per_frame": False} if hasattr(processor.video_processor, "cap_pixels_per_frame") else {}
    return {
        **capped,
        "videos": [item.frames for item in clips],
        "video_metadata": [
            {
                "fps": clip.rate_fps,
                "frames_indices": list(clip.frame_indices),
                "total_num_frames": len(clip.frame_indices) / clip.sampled_fps * clip.rate_fps,
            }
            for clip in facts
        ],
        "do_sample_frames": False,
    }


def _check_times(processor: Any, inputs: Mapping[str, Any], clips: Sequence[Media]) -> None:
    """Check the processor's seconds per step. Wrong ones would raise no error and only shift the position ids."""
    frames = processor.video_processor.temporal_patch_size
    expected = [frames / item.clip.sampled_fps for item in clips if item.clip is not None]
    actual = [float(value) for value in inputs.get("second_per_grid_ts", [])]
    if len(actual) != len(expected) or any(abs(a - b) > 1e-6 * b for a, b in zip(actual, expected, strict=True)):
        raise CaptureError(f"the processor says that a step lasts {actual} s, expected {expected} s")


def _render(processor: Any, messages: Sequence[Message]) -> tuple[str, str, str]:
    """Return the prompt's text, the part of it before the question, and the question."""
    *earlier, last = messages
    at = max(i for i, item in enumerate(last["content"]) if item["type"] == "text")
    question = last["content"][at]["text"]
    content = [
        {**item, "text": _SENTINEL} if i == at else item for i, item in enumerate(last["content"])
    ]  # rendered again with a sentinel, since the question's text may also occur elsewhere in the template
    text = render(processor, messages)
    marked = render(processor, [*earlier, {**last, "content": content}])
    before, sentinel, after = marked.partition(_SENTINEL)
    if not sentinel or text != before + question + after:
        raise CaptureError("the model's chat template changes the question, so its tokens cannot be found")
    return text, before, question


def _expand(text: str, token: str, cells: Sequence[int]) -> str:
    pieces = text.split(token)
    return "".join(piece + (token * cells[i] if i < len(pieces) - 1 else "") for i, piece in enumerate(pieces))


def _token(
    position: int,
    span: tuple[int, int],
    kind: int,
    text: str,
    question: tuple[int, int],
    system: tuple[int, int],
    is_last: bool,
) -> Token:
    start, stop = span
    piece = text[start:stop]

    def within(part: tuple[int, int]) -> bool:
        return stop > part[0] and start < part[1]

    if kind in VISION_TYPES:
        return Token(position, piece, "vision")
    if within(question):
        return Token(
            position,
            piece,
            "question",
            (max(start, question[0]) - question[0], min(stop, question[1]) - question[0]),
        )
    if is_last:
        return Token(position, piece, "last")
    return Token(position, piece, "system" if within(system) else "template")


def answer_tokens(tokenizer: Any, ids: Sequence[int], first_position: int) -> tuple[tuple[Token, ...], str]:
    """Return the generated tokens with their roles, and their text.

    Control tokens, such as the end of the turn, are `template`. The others are `answer` and have the span of the
    characters that they cover; several tokens can share one character.

    Args:
        tokenizer: the model's tokenizer.
        ids: ids of the tokens, in order.
        first_position: position of the first token in the sequence.
    """
    special = set(tokenizer.all_special_ids)
    plain = [token for token in ids if token not in special]
    text = tokenizer.decode(plain, clean_up_tokenization_spaces=False)

    def complete_length(count: int) -> int:
        return len(tokenizer.decode(plain[:count], clean_up_tokenization_spaces=False).rstrip("\ufffd"))

    ends = list(accumulate((complete_length(i + 1) for i in range(len(plain))), max))
    tokens, plain_count = [], 0
    for i, token in enumerate(ids):
        piece = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if token in special:
            tokens.append(Token(first_position + i, piece, "template"))
            continue
        start = ends[plain_count - 1] if plain_count else 0
        stop = min(max(ends[plain_count], start + 1), len(text))
        tokens.append(Token(first_position + i, piece, "answer", (min(start, stop), stop)))
        plain_count += 1
    return tuple(tokens), text
