"""A question about pictures as the model's input, by the model card's recipe, and which token plays which role.

It knows the processor, not the model: everything here happens before weights are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from PIL import Image
from qwen_vl_utils import process_vision_info

from qvl_attn.core.errors import CaptureError, InputError
from qvl_attn.core.types import Media, Token, TokenGrid
from qvl_attn.model.token_grid import VISION_TYPES, locate_grids

Message = dict[str, Any]

# Stands for the question while the template is rendered, to learn where the template puts it. From a private use area.
_SENTINEL = "\ue000\ue001\ue002"

CELL_PX = 28
PIXELS = {"pixel_values", "pixel_values_videos"}
# The processor's own minimum: two by two cells.
LEAST_PIXELS = 4 * CELL_PX**2


@dataclass(frozen=True, eq=False)
class Prompt:
    """What goes into the model, and what each token is.

    Attributes:
        inputs: the processor's tensors, batch of one.
        question: as it was typed.
        tokens: (S) the sequence with roles.
        grids: one for each picture, in prompt order.
    """

    inputs: Mapping[str, Any]
    question: str
    tokens: tuple[Token, ...]
    grids: tuple[TokenGrid, ...]

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.tokens)

    def positions(self, role: str) -> tuple[int, ...]:
        """Positions of all tokens of one role."""
        return tuple(token.position for token in self.tokens if token.role == role)


def chat_messages(
    media: Sequence[Media],
    question: str,
    system: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> list[Message]:
    """The conversation of the model card: pictures or clips, then the question, after a system prompt if there is one.

    Clips are named only: their frames, sampled and resized, go to the processor as they are.
    """
    limits = {
        name: value for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)) if value is not None
    }
    content: list[Message] = [
        {"type": "image", "image": Image.fromarray(one.frames[0]), **limits} if one.clip is None else {"type": "video"}
        for one in media
    ]
    user = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    if system is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user]


def control_words(processor: Any) -> list[str]:
    """What the tokenizer reads as commands."""
    return sorted({*processor.tokenizer.all_special_tokens, *processor.tokenizer.get_added_vocab()})


def check_text(name: str, text: str, control_tokens: Sequence[str]) -> None:
    """Refuse a text that is empty or that would be read as control tokens.

    Raises:
        InputError: empty, no valid Unicode, or one of `control_tokens` stands in it.
    """
    if not text.strip():
        raise InputError(f"the {name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"the {name} is not valid Unicode text") from None
    if _SENTINEL[0] in text:
        raise InputError(f"the {name} has the private character U+E000, which no tokenizer knows")
    for token in control_tokens:
        if token in text:
            raise InputError(
                f"the {name} has {token!r} in it, which the model would read as a command and not as text",
                "write it another way",
            )


def pixel_limits(processor: Any, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int] | tuple[None, None]:
    """Both limits where one was given: the other is the processor's own, moved where the two would cross.

    Raises:
        InputError: below the four cells that the processor makes at least, or the smaller above the larger.
    """
    for flag, value in (("--min-pixels", min_pixels), ("--max-pixels", max_pixels)):
        if value is not None and not LEAST_PIXELS <= value <= 2**31:
            raise InputError(f"{flag} {value}: want at least {LEAST_PIXELS}, the pixels of four cells")
    if min_pixels is None and max_pixels is None:
        return None, None
    size = processor.image_processor.size
    low = min(size["shortest_edge"], max_pixels or size["shortest_edge"]) if min_pixels is None else min_pixels
    high = max(size["longest_edge"], low) if max_pixels is None else max_pixels
    if low > high:
        raise InputError(f"--min-pixels {min_pixels} is above --max-pixels {max_pixels}")
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
    """Run the model card's recipe and say what each token of the outcome is.

    The last text item of the last message is the question; it may stand before, between or after the pictures.

    Args:
        processor: of the model.
        messages: a conversation as `chat_messages` makes it.
        media: the pictures, or the clip, in it, in order.
        merge_size: the model's `spatial_merge_size`.
        min_pixels: overrides the processor's own limit, together with `max_pixels`.
        max_pixels: as `pixel_limits` gives them.
        like: a prompt about the same media within the same limits: its grids hold, and the outcome has no pixels.

    Raises:
        CaptureError: the template or the processor did something to the question or the grids that cannot be followed.
        InputError: the processor does not take a picture of this shape.
    """
    text, before, question = _render(processor, messages)
    clips = [one for one in media if one.clip is not None]
    vision_token = processor.video_token if clips else processor.image_token
    if like is None:
        inputs = _processed(processor, text, messages, media, min_pixels, max_pixels)
    else:
        inputs = _retold(processor, _expand(text, vision_token, [grid.cells for grid in like.grids]), like)
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
        raise CaptureError("the processor's text is not the chat template's, so the question's tokens cannot be told")
    system = re.search(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", expanded[:start], re.DOTALL)
    tokens = tuple(
        _token(i, span, kind, expanded, (start, stop), system.span(1) if system else (0, 0), i == len(ids) - 1)
        for i, (span, kind) in enumerate(zip(spans, type_ids, strict=True))
    )
    return Prompt(inputs=dict(inputs), question=question, tokens=tokens, grids=grids)


def _processed(
    processor: Any,
    text: str,
    messages: Sequence[Message],
    media: Sequence[Media],
    min_pixels: int | None,
    max_pixels: int | None,
) -> dict[str, Any]:
    clips = [one for one in media if one.clip is not None]
    size = {"shortest_edge": min_pixels, "longest_edge": max_pixels} if min_pixels and max_pixels else {}
    try:
        found: dict[str, Any] = processor(
            text=[text],
            **(shown_clips(processor, clips) if clips else {"images": process_vision_info(messages)[0]}),
            padding=True,
            return_tensors="pt",
            return_offsets_mapping=True,
            size=dict((processor.video_processor if clips else processor.image_processor).size) | size,
        )
    except ValueError as error:
        if "aspect ratio" not in str(error) and "height and width" not in str(error):
            raise
        sizes = ", ".join(f"{one.source} is {one.size_px[0]}x{one.size_px[1]}" for one in media)
        raise InputError(
            f"{sizes}: too long and narrow for the processor, whose cells have {CELL_PX} pixels a side "
            "and whose longer side is at most 200 times the shorter",
            "crop it, or raise --max-pixels if you gave it",
        ) from None
    return found


def _retold(processor: Any, expanded: str, like: Prompt) -> dict[str, Any]:
    """The tokens of another text about the same media, and what the processor made of these, but for the pixels."""
    words = processor.tokenizer([expanded], return_tensors="pt", return_offsets_mapping=True)
    ids = words["input_ids"]
    kinds = (ids == processor.image_token_id).long() + 2 * (ids == processor.video_token_id).long()
    kept = {name: value for name, value in like.inputs.items() if name not in PIXELS}
    return {**kept, **words, "mm_token_type_ids": kinds}


def shown_clips(processor: Any, clips: Sequence[Media]) -> dict[str, Any]:
    """Clips as the processor takes them, with all that it would otherwise assume (24 frames a second, say).

    It learns the seconds between sampled frames from their share of all frames and the clip's own rate: with frames at
    even intervals, which rarely divide the clip's length, the total is what makes that right.
    """
    facts = [one.clip for one in clips if one.clip is not None]
    # `resize.py` has done what newer versions offer, and warn that they do not do.
    capped = {"cap_pixels_per_frame": False} if hasattr(processor.video_processor, "cap_pixels_per_frame") else {}
    return {
        **capped,
        "videos": [one.frames for one in clips],
        "video_metadata": [
            {
                "fps": one.rate_fps,
                "frames_indices": list(one.frame_indices),
                "total_num_frames": len(one.frame_indices) / one.sampled_fps * one.rate_fps,
            }
            for one in facts
        ],
        "do_sample_frames": False,
    }


def _check_times(processor: Any, inputs: Mapping[str, Any], clips: Sequence[Media]) -> None:
    """See that the processor understood the times: wrong ones give no error, only wrong positions."""
    frames = processor.video_processor.temporal_patch_size
    right = [frames / one.clip.sampled_fps for one in clips if one.clip is not None]
    found = [float(value) for value in inputs.get("second_per_grid_ts", [])]
    if len(found) != len(right) or any(abs(a - b) > 1e-6 * b for a, b in zip(found, right, strict=True)):
        raise CaptureError(f"the processor takes a step of tokens for {found} s, not {right} s")


def _render(processor: Any, messages: Sequence[Message]) -> tuple[str, str, str]:
    """The prompt's text, the part of it that stands before the question, and the question."""
    *earlier, last = messages
    at = max(i for i, item in enumerate(last["content"]) if item["type"] == "text")
    question = last["content"][at]["text"]
    content = [
        {**item, "text": _SENTINEL} if i == at else item for i, item in enumerate(last["content"])
    ]  # rendered a second time with a stand-in, since a question may also occur elsewhere in the template
    text = processor.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    marked = processor.apply_chat_template(
        [*earlier, {**last, "content": content}], tokenize=False, add_generation_prompt=True
    )
    before, found, after = marked.partition(_SENTINEL)
    if not found or text != before + question + after:
        raise CaptureError("the model's chat template changes the question, so its tokens cannot be told")
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
    """Roles of the tokens that were generated, and the text they make.

    Control tokens (the end of the turn) are `template`; the others are `answer` and carry the characters of the text
    that they cover: several tokens can share one character.

    Args:
        tokenizer: of the model.
        ids: of the tokens, in order.
        first_position: of the first of them.
    """
    special = set(tokenizer.all_special_ids)
    plain = [token for token in ids if token not in special]
    text = tokenizer.decode(plain, clean_up_tokenization_spaces=False)

    def whole(count: int) -> int:
        return len(tokenizer.decode(plain[:count], clean_up_tokenization_spaces=False).rstrip("\ufffd"))

    ends = list(accumulate((whole(i + 1) for i in range(len(plain))), max))
    tokens, seen = [], 0
    for i, token in enumerate(ids):
        piece = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if token in special:
            tokens.append(Token(first_position + i, piece, "template"))
            continue
        start = ends[seen - 1] if seen else 0
        stop = min(max(ends[seen], start + 1), len(text))
        tokens.append(Token(first_position + i, piece, "answer", (min(start, stop), stop)))
        seen += 1
    return tuple(tokens), text
