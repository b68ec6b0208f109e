"""The settings of a question and the headline that follows from them. Of the model only its counts are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qvl_attn.attribution.methods.registry import METHODS, parse_methods
from qvl_attn.attribution.profiles import Profile, Shape, choose_profile
from qvl_attn.attribution.selection import default_layers, parse_heads, parse_layers, parse_query
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import check_written
from qvl_attn.core.types import Apart
from qvl_attn.media.sampling import ClipSettings

MAX_NEW_TOKENS = 4096
HEAD_DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Headline:
    """The layers, or (layer, head) pairs, that the headline averages."""

    layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...] | None

    def __post_init__(self) -> None:
        if not (self.layers or self.heads):
            raise ValueError("a headline without layers or heads")


@dataclass(frozen=True)
class Settings:
    """The user's settings, as typed. Together with the media, the question and the model they determine the result.

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
    def all_heads_apart(self) -> bool:
        """Whether all heads are recorded one by one, besides their mean."""
        return self.heads is not None and self.heads.strip().lower() != "all"

    @property
    def apart(self) -> Apart | None:
        """The profile's heads, if only these are recorded one by one; else None."""
        if self.all_heads_apart or self.profile is None or not self.profile.heads:
            return None
        layers, heads = zip(*self.profile.heads, strict=True)
        return Apart(tuple(sorted({*layers})), tuple(sorted({*heads})))

    @property
    def heads_apart(self) -> bool:
        """Whether any head is recorded on its own, besides the mean."""
        return self.all_heads_apart or self.apart is not None

    @property
    def head_max(self) -> bool:
        """Whether the maximum over heads is recorded, besides the mean."""
        return any(METHODS[name].head_max for name in self.methods)


def headline_from(value: Mapping[str, Any]) -> Headline:
    """Return a headline from the JSON value of its `asdict`."""
    heads = value["heads"]
    pairs = None if heads is None else tuple((int(layer), int(head)) for layer, head in heads)
    return Headline(tuple(int(layer) for layer in value["layers"]), pairs)


def headline_of(settings: Settings, config: Any) -> Headline:
    """Return the headline: the named layers or heads, else the profile's, else the layers at 50 to 85 % of the depth.

    `settings.headline` takes precedence if it is set.
    """
    if settings.headline is not None:
        return settings.headline
    text = config.text_config
    count, profile = text.num_hidden_layers, settings.profile
    if profile is not None:
        return Headline(profile.layers, profile.heads or None)
    layers = default_layers(count) if settings.layers is None else parse_layers(settings.layers, count)
    # layer.head pairs name their own layers
    captured = range(count) if settings.layers is None and "." in (settings.heads or "") else layers
    return Headline(layers, parse_heads(settings.heads, list(captured), text.num_attention_heads))


def settings_of(
    shape: Shape,
    say: Callable[[str], None],
    *,
    query: str | None = None,
    profile: str | None = None,
    method: str | Sequence[str] | None = None,
    method_option: str = "--method",
    **fields: Any,
) -> Settings:
    """Return the settings, with the model's default profile and the profile's query unless they are given.

    Args:
        shape: the model's shape.
        say: called with a line about the profile.
        query: the value of `--query`; by default the profile's query, else `question`.
        profile: a name, a path, `none`, or None.
        method: the methods, as `mean,relative` or a sequence; the first makes the headline map.
        method_option: the option's name in error messages about `method`.
        fields: the other fields of `Settings`.

    Raises:
        InputError: the profile cannot be read or is for another model; a method is unknown or cannot be combined with
            the other settings.
    """
    names = () if method is None else parse_methods(method, method_option)
    named = fields.get("layers") is not None or fields.get("heads") is not None
    chosen = choose_profile(profile, shape, chosen=named)
    if chosen is not None:
        say(f"headline: {chosen.selection} ({chosen.status}; --profile none for the default layers)")
    query = query or (chosen.query if chosen else None) or "question"
    settings = Settings(query=query, profile=chosen, methods=names, **fields)
    _check_methods(settings, method_option)
    return settings


def check_new_tokens(count: int) -> None:
    """Check the length of an answer.

    Raises:
        InputError: it is out of range.
    """
    if not 1 <= count <= MAX_NEW_TOKENS:
        raise InputError(f"--max-new-tokens {count}: want 1 to {MAX_NEW_TOKENS}")


def captured_layers(settings: Settings, shape: Shape) -> tuple[int, ...]:
    """Check settings against the model's shape, and return the layers to record.

    Raises:
        InputError: no such layer or head, an unknown query or precision, a length out of range, or an empty text.
    """
    layers = parse_layers(settings.layers, shape.layers)
    parse_heads(settings.heads, layers, shape.heads)
    parse_query(settings.query)
    if settings.store_heads not in HEAD_DTYPES:
        raise InputError(f"--store-heads {settings.store_heads}: unknown", f"write {' or '.join(HEAD_DTYPES)}")
    check_new_tokens(settings.max_new_tokens)
    for name, typed in (("system prompt", settings.system), ("answer", settings.answer)):
        if typed is not None:
            check_written(name, typed)
    return layers


def _check_methods(settings: Settings, option: str) -> None:
    """Check that the methods can be combined with the other settings.

    Raises:
        InputError: method `heads` without heads, or `--heads` with a method that averages all heads.
    """
    for name in settings.methods:
        heads = settings.all_heads_apart or (settings.profile is not None and bool(settings.profile.heads))
        if METHODS[name].heads and not heads:
            raise InputError(
                f"{option} {name}: there is no profile with heads for this model",
                "name heads with --heads, or a profile with --profile (check --calibrate makes one)",
            )
        if settings.all_heads_apart and not METHODS[name].heads:
            raise InputError(
                f"{option} {name} cannot be combined with --heads {settings.heads}", f"use --heads with {option} heads"
            )
