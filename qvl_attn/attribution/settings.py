"""The settings of a question and the headline that follows from them. Of the model only its counts are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qvl_attn.attribution.methods.registry import METHODS, parse_methods
from qvl_attn.attribution.profiles import Profile, Shape, choose_profile
from qvl_attn.attribution.selection import Pairs, Selection, parse_selection
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument, check_written
from qvl_attn.core.types import Apart
from qvl_attn.media.sampling import ClipSettings

MAX_NEW_TOKENS = 4096
HEAD_DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Headline:
    """The layers, or (layer, head) pairs, that the headline averages."""

    layers: tuple[int, ...]
    heads: Pairs | None

    def __post_init__(self) -> None:
        if not (self.layers or self.heads):
            raise ValueError("a headline without layers or heads")

    @property
    def averaged_layers(self) -> tuple[int, ...]:
        """The layers that are averaged, whole or with some of their heads."""
        return tuple(sorted({layer for layer, _ in self.heads})) if self.heads else self.layers


@dataclass(frozen=True)
class Settings:
    """The user's settings, as typed. Together with the media, the question and the model they determine the result.

    The texts of `layers`, `heads` and `query` are kept as they were typed, to be written; `selection_of` parses them.
    `headline` is set if the headline does not follow from `layers`, `heads` and `profile`: in a check, which captures
    all layers, and if a saved result is drawn again with other layers or heads.
    """

    query: str = "question"
    layers: str | None = None
    heads: str | None = None
    system: str | None = None
    answer: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    stretch: bool = False
    max_new_tokens: int = 128
    seed: int = 0
    store_heads: str = "float32"
    clip: ClipSettings | None = None
    profile: Profile | None = None
    methods: tuple[str, ...] = ()
    faithfulness: bool = False
    headline: Headline | None = None

    @property
    def names_layers(self) -> bool:
        """Whether the headline's layers are named, by the user or a profile, and not the default ones."""
        return self.headline is not None or self.layers is not None or self.profile is not None

    @property
    def head_max(self) -> bool:
        """Whether the maximum over heads is recorded, besides the mean."""
        return any(METHODS[name].head_max for name in self.methods)


def headline_from(value: Mapping[str, Any]) -> Headline:
    """Return a headline from the JSON value of its `asdict`."""
    heads = value["heads"]
    pairs = None if heads is None else tuple((int(layer), int(head)) for layer, head in heads)
    return Headline(tuple(int(layer) for layer in value["layers"]), pairs)


def selection_of(settings: Settings, layer_count: int, head_count: int) -> Selection:
    """Return the layers to record, the heads and the query of settings, parsed.

    Raises:
        InputError: a text cannot be parsed, or the model has no such layer or head.
    """
    return parse_selection(settings.layers, settings.heads, settings.query, layer_count, head_count)


def headline_of(settings: Settings, selection: Selection) -> Headline:
    """Return the headline: the named layers or heads, else the profile's, else the layers at 50 to 85 % of the depth.

    `settings.headline` takes precedence if it is set. (layer, head) pairs are averaged whatever the layers.

    Args:
        settings: the settings.
        selection: what `selection_of` returns for them.
    """
    profile, heads = settings.profile, selection.heads
    if settings.headline is not None:
        return settings.headline
    if settings.layers is None and heads is None and profile is not None:
        return Headline(profile.layers, profile.heads or None)
    # Without named layers the selection has all of the model's.
    layers = default_layers(len(selection.layers)) if settings.layers is None else selection.layers
    return Headline(layers, heads.of(layers) if heads else None)


def whole_layers(headline: Headline, layer_count: int) -> tuple[int, ...]:
    """Return the layers of methods that average all heads: the headline's, else the default ones."""
    return headline.layers or default_layers(layer_count)


def default_layers(layer_count: int) -> tuple[int, ...]:
    """Return the default layers of the headline map: those whose middle is at 50 to 85 % of the depth.

    Published work on Qwen2.5-VL finds grounding there (layer 22 of 36 in arXiv 2502.17422), not in the mean of all
    layers and not in the last layer. The middle of layer l of n is at (l + 0.5) / n.
    """
    return tuple(layer for layer in range(layer_count) if 0.5 <= (layer + 0.5) / layer_count <= 0.85)


def recorded_apart(settings: Settings, selection: Selection) -> Apart | None:
    """Return the profile's heads, if only these are recorded one by one; else None."""
    if selection.heads is not None or settings.profile is None or not settings.profile.heads:
        return None
    layers, heads = zip(*settings.profile.heads, strict=True)
    return Apart(tuple(sorted({*layers})), tuple(sorted({*heads})))


def settings_of(
    shape: Shape,
    say: Callable[[str], None],
    *,
    query: str | None = None,
    profile: str | None = None,
    method: str | Sequence[str] | None = None,
    method_option: str = "method",
    **fields: Any,
) -> Settings:
    """Return the settings, with the model's default profile and the profile's query unless they are given.

    Args:
        shape: the model's shape.
        say: called with a line about the profile.
        query: by default the profile's query, else `question`.
        profile: a name, a path, `none`, or None.
        method: the methods, as `mean,relative` or a sequence; the first makes the headline map.
        method_option: what error messages about `method` call it.
        fields: the other fields of `Settings`.

    Raises:
        InputError: the profile cannot be read or is for another model; a method is unknown or cannot be combined with
            the other settings; a setting is invalid, or the model has no such layer or head.
    """
    names = () if method is None else parse_methods(method, method_option)
    named = fields.get("layers") is not None or fields.get("heads") is not None
    chosen = choose_profile(profile, shape, chosen=named)
    if chosen is not None:
        say(f"headline: {chosen.selection} ({chosen.status}; {argument('profile', 'none')} for the default layers)")
    query = query or (chosen.query if chosen else None) or "question"
    settings = Settings(query=query, profile=chosen, methods=names, **fields)
    _check_methods(settings, checked_selection(settings, shape), method_option)
    return settings


def check_new_tokens(count: int) -> None:
    """Check the length of an answer.

    Raises:
        InputError: it is out of range.
    """
    if not 1 <= count <= MAX_NEW_TOKENS:
        raise InputError(f"{argument('max_new_tokens', count)}: want 1 to {MAX_NEW_TOKENS}")


def checked_selection(settings: Settings, shape: Shape) -> Selection:
    """Check settings against the model's shape, and return their layers, heads and query, parsed.

    Raises:
        InputError: no such layer or head, an unknown query or precision, a length out of range, or an empty text.
    """
    selection = selection_of(settings, shape.layers, shape.heads)
    if settings.store_heads not in HEAD_DTYPES:
        raise InputError(
            f"{argument('store_heads', settings.store_heads)}: unknown", f"write {' or '.join(HEAD_DTYPES)}"
        )
    check_new_tokens(settings.max_new_tokens)
    for name, typed in (("system prompt", settings.system), ("answer", settings.answer)):
        if typed is not None:
            check_written(name, typed)
    return selection


def _check_methods(settings: Settings, selection: Selection, option: str) -> None:
    """Check that the methods can be combined with the other settings.

    Raises:
        InputError: method `heads` without heads, or named heads with a method that averages all heads.
    """
    for name in settings.methods:
        heads = selection.heads is not None or (settings.profile is not None and bool(settings.profile.heads))
        if METHODS[name].heads and not heads:
            raise InputError(
                f"{argument(option, name)}: there is no profile with heads for this model",
                f"name heads with {argument('heads')}, or a profile with {argument('profile')} "
                f"(check {argument('calibrate')} makes one)",
            )
        if selection.heads is not None and not METHODS[name].heads:
            raise InputError(
                f"{argument(option, name)} cannot be combined with {argument('heads', settings.heads)}",
                f"use {argument('heads')} with {argument(option, 'heads')}",
            )
