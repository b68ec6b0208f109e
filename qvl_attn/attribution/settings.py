"""The settings of a question and the headline that follows from them. Of the model only its counts are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NotRequired, TypedDict, Unpack

from qvl_attn.attribution.methods.registry import METHODS, parse_methods
from qvl_attn.attribution.profiles import Profile, Shape, choose_profile
from qvl_attn.attribution.selection import Pairs, Selection, layers_text, parse_selection
from qvl_attn.core.errors import InputError
from qvl_attn.core.options import with_types
from qvl_attn.core.text import argument, check_written
from qvl_attn.core.typed_json import decoded
from qvl_attn.core.types import Apart
from qvl_attn.media.sampling import ClipOptions, ClipSettings, SamplingOptions

MAX_NEW_TOKENS = 4096
HEAD_DTYPES = ("float32", "float16")


class CommonOptions(TypedDict, total=False):
    """Options of every question, asked alone or in a check.

    Attributes:
        query: tokens whose attention the headline map shows: `question`, `last`, `answer` or `text:words`; by default
            the profile's, else `question`.
        profile: layers or heads that the headline map averages: the name of a built-in profile, a file, or `none`; by
            default the profile for models of this shape.
        faithfulness: also measure how the answer's probability changes when cells are removed in the map's order
            (`Result.curves`), and how similar the map is under scrambled weights, another question and another picture
            (`Result.sanity`); False by default. In a check, for each method's map.
        layers: layers to capture and average, in place of a profile: `18`, `14-20`, `4,8,12`, `all` or numbers. Without
            layers and profile all are captured, and the headline map averages those at 50 to 85 % of the depth. A check
            captures all, and averages these.
        heads: heads to store one by one and to average: `3,5`, or `21.9,21.11` for layer.head.
        system: a system prompt, in place of the template's.
        min_pixels: pictures are resized to at least this many pixels; by default the checkpoint's limit.
        max_pixels: pictures are resized to at most this many pixels; by default the checkpoint's limit, and for each
            frame of a clip 151,200.
        stretch: of pictures of more than 8 bits per channel, scale the range that they use, not the whole one; False by
            default.
        max_new_tokens: longest answer, in tokens; 128 by default.
        seed: seed for torch, 0 by default; the answer is greedy and does not depend on it. In a check, seed of
            intervals, halves and controls.
        store_heads: `float32`, the default, or `float16` to store single heads in half the space; each weight is then
            rounded by at most 2^-11 of its value (by 2^-25 below 2^-14).
    """

    query: str | None
    profile: str | None
    faithfulness: bool
    layers: str | int | Sequence[int] | None
    heads: str | None
    system: str | None
    min_pixels: int | None
    max_pixels: int | None
    stretch: bool
    max_new_tokens: int
    seed: int
    store_heads: Literal["float32", "float16"]


class QuestionOptions(CommonOptions, total=False):
    """Options of a question: `CommonOptions`, and these.

    Attributes:
        method: how the headline map is computed: one of the methods that `qvl-attn methods` lists; by default the mean
            over the layers or heads of the headline map.
        answer: an answer to teacher-force: the maps are those of its tokens; the model's own answer is kept too.
    """

    method: str | None
    answer: str | None


class VideoOptions(QuestionOptions, ClipOptions, total=False):
    """Options of a question about a clip: those of a question and those of a clip."""


class CheckOptions(CommonOptions, SamplingOptions, total=False):
    """Options of all questions of a check, and of the clips that they are about."""


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

    The texts of `layers`, `heads` and `query` are kept as they were typed (numbers of layers as text, `1-2`), to be
    written; `selection_of` parses them.
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
    def excludes_profile(self) -> bool:
        """Whether layers or heads are named, be it `all` of them: then no profile chooses those of the headline."""
        return self.layers is not None or self.heads is not None

    @property
    def names_layers(self) -> bool:
        """Whether the headline's layers are named, by the user or a profile, and not the default ones."""
        return self.headline is not None or self.layers is not None or self.profile is not None

    @property
    def head_max(self) -> bool:
        """Whether the maximum over heads is recorded, besides the mean."""
        return any(METHODS[name].head_max for name in self.methods)


class _Saved(TypedDict):
    """What the settings of every saved result have; some of before have layers as numbers."""

    query: str
    layers: NotRequired[str | int | list[int] | None]
    heads: str | None
    system: str | None
    answer: str | None
    store_heads: str


def settings_from(value: object, layer_count: int) -> Settings:
    """Return settings from the JSON value of their `asdict`; what was added since has its default.

    Args:
        value: the JSON value.
        layer_count: number of layers of the model.

    Raises:
        InputError: the model has no such layer, or there is no such method.
        ValueError: a field is missing, unknown, or of another type.
    """
    saved = decoded(value, _Saved, "settings")
    fields = decoded(value, dict[str, Any], "settings") | {"layers": layers_text(saved.get("layers"), layer_count)}
    settings = decoded(fields, Settings, "settings", exact=True)
    if settings.methods:
        parse_methods(settings.methods)
    return settings


def selection_of(settings: Settings, layer_count: int, head_count: int) -> Selection:
    """Return the layers to record, the heads and the query of settings; equal settings are parsed once.

    Raises:
        InputError: a text cannot be parsed, or the model has no such layer or head.
    """
    return _parsed(settings.layers, settings.heads, settings.query, layer_count, head_count)


_parsed = lru_cache(parse_selection)


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
    if profile is not None and not settings.excludes_profile:
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
    *,
    methods: str | Sequence[str] | None = None,
    clip: ClipSettings | None = None,
    **options: Unpack[QuestionOptions],
) -> Settings:
    """Return the settings, with the model's default profile and the profile's query unless they are given.

    Args:
        shape: the model's shape.
        methods: in place of `method`, several: `mean,relative` or a sequence; the first makes the headline map.
        clip: the settings of a clip.
        options: the options of the question.

    Raises:
        InputError: the profile cannot be read or is for another model; a method is unknown or cannot be combined with
            the other settings; a setting is invalid, or the model has no such layer or head.
        TypeError: an option is of another type.
    """
    fields = with_types(options, QuestionOptions)
    query, profile, method = (fields.pop(name, None) for name in ("query", "profile", "method"))
    name, typed = ("method", method) if methods is None else ("methods", methods)
    names = () if typed is None else parse_methods(typed, name)
    fields["layers"] = layers_text(fields.get("layers"), shape.layers)
    settings = Settings(methods=names, clip=clip, **fields)
    chosen = choose_profile(profile, shape, chosen=settings.excludes_profile)
    query = query or (chosen.query if chosen else None) or settings.query
    settings = replace(settings, query=query, profile=chosen)
    _check_methods(settings, checked_selection(settings, shape), name)
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
