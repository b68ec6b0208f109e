"""What a saliency map is to explain: a class that the encoder's head knows, or texts that a picture is compared with.

Every fault in these is found here, before weights are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from textwrap import shorten
from typing import Any

from qvl_attn.core.errors import InputError
from qvl_attn.encoders.record import LookSettings
from qvl_attn.encoders.spec import QWEN, Eye
from qvl_attn.model.prompt import check_text


@dataclass(frozen=True)
class Aim:
    """What is explained.

    Attributes:
        label: the number of a class; None for the likeliest one, or where there are texts.
        texts: as they were typed; none where the encoder has classes.
        tokens: of each text what the text tower is given, by name.
    """

    label: int | None = None
    texts: tuple[str, ...] = ()
    tokens: tuple[Mapping[str, Sequence[int]], ...] = ()


def check_saliency(eye: Eye, config: Any, settings: LookSettings, tokenizer: Callable[[], Any]) -> Aim:
    """Read what is to be explained.

    Args:
        eye: of the encoder.
        config: the model's whole configuration.
        settings: with `saliency`.
        tokenizer: gives the text side's, where there is one.

    Raises:
        InputError: the encoder has no head; a class that it does not know; no text, one that is empty, too long or has
            control tokens in it; a class for a model that compares with texts, or the other way round.
    """
    if eye.head is None or (eye.head == "classes" and not config.num_labels):
        also = "; of Qwen2.5-VL's answers: qvl-attn ask ... --method gradient" if eye.model_type == QWEN else ""
        raise InputError(
            f"--saliency: this {eye.family.name} encoder has neither classes nor a text side, so nothing is decided",
            f"take one that has, as google/vit-base-patch16-224 or openai/clip-vit-base-patch32{also}",
        )
    if eye.head == "classes":
        if settings.texts:
            raise InputError(
                f"--text: this {eye.family.name} encoder has classes and no text side", "name a class with --label"
            )
        return Aim(label=None if settings.label is None else _number_of(settings.label, config.id2label))
    if settings.label is not None:
        raise InputError(
            f"--label {settings.label}: {eye.family.name} compares with texts and has no classes",
            'write --text "a photo of a cat"',
        )
    if not settings.texts:
        raise InputError(
            f"--saliency: {eye.family.name} compares a picture with texts, and there is none",
            'write --text "a photo of a cat"',
        )
    if len({*settings.texts}) < len(settings.texts):
        raise InputError("--text: the same text is there twice")
    words = tokenizer()
    tokens = tuple(_tokens(eye, config, words, text) for text in settings.texts)
    for i, one in enumerate(tokens):
        if one in tokens[:i]:
            alike = [shorten(settings.texts[at], 60) for at in (tokens.index(one), i)]
            raise InputError(
                f"--text: {alike[0]!r} and {alike[1]!r} are the same to the model's tokenizer",
                "word them so that they differ in more than case or signs",
            )
    return Aim(texts=settings.texts, tokens=tokens)


def _number_of(label: str, names: Mapping[int, str]) -> int:
    """The number of a class.

    Args:
        label: its name, whole and in any case, or its number.
        names: by number.
    """
    typed = label.strip().casefold()
    found = [number for number, name in names.items() if name.casefold() == typed]
    if len(found) > 1:
        numbers = ", ".join(str(number) for number in found)
        raise InputError(f"--label {label}: {len(found)} classes have this name", f"write one of the numbers {numbers}")
    if found:
        return int(found[0])
    if typed.isdecimal() and int(typed) in names:
        return int(typed)
    known = {name.casefold(): name for name in names.values()}
    near = [name for key, name in known.items() if typed and typed in key][:3]
    near += [known[key] for key in get_close_matches(typed, known, n=3) if known[key] not in near]
    hint = f"the nearest: {'; '.join(near)}" if near else f"its name, or a number from {min(names)} to {max(names)}"
    raise InputError(f"--label {label}: the encoder knows {len(names)} classes, and none of this name or number", hint)


def _tokens(eye: Eye, config: Any, tokenizer: Any, text: str) -> dict[str, list[int]]:
    """A text as the family was trained with it: SigLIP's is filled up to its full length, and the filling is read."""
    check_text("text after --text", text, _control_words(tokenizer))
    most = config.text_config.max_position_embeddings
    filled = eye.model_type == "siglip"
    # A length of its own would be one more warning; what is too long is refused below.
    told = {"padding": "max_length", "max_length": most} if filled else {}
    found = tokenizer(text, **told, verbose=False)
    count = len(found["input_ids"])
    if count > most:
        raise InputError(f"--text: {shorten(text, 60)!r} has {count} tokens, and the encoder reads at most {most}")
    names = ("input_ids",) if filled else ("input_ids", "attention_mask")
    return {name: list(found[name]) for name in names if name in found}


def _control_words(tokenizer: Any) -> list[str]:
    """What a tokenizer reads as commands; a plain `!`, with which some of CLIP's fill up, is none."""
    special = {one.content for one in tokenizer.added_tokens_decoder.values() if one.special}
    return sorted(word for word in {*special, *tokenizer.all_special_tokens} if len(word) > 1)
