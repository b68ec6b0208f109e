"""What was asked for, as it was typed, and what follows from it for the headline. Knows no model but its counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qvl_attn.attribution.methods import METHODS, parse_methods
from qvl_attn.attribution.profiles import Profile, choose_profile
from qvl_attn.attribution.selection import default_layers, parse_heads, parse_layers
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import Apart
from qvl_attn.media.sampling import ClipSettings


@dataclass(frozen=True)
class Headline:
    """What the headline averages: layers, or (layer, head) pairs."""

    layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True)
class Settings:
    """What was asked for, as it was typed: with the media, the question and the model it determines the result.

    `headline` is what is averaged where it is not what `layers`, `heads` and `profile` say: in a check, which captures
    all layers, and where a saved result is drawn again with other layers or heads.
    """

    query: str = "question"
    layers: str | None = None
    heads: str | None = None
    system: str | None = None
    answer: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
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
        """Whether all heads are kept apart as well as averaged."""
        return self.heads is not None and self.heads.strip().lower() != "all"

    @property
    def apart(self) -> Apart | None:
        """Which heads are kept apart where not all are: those of the profile."""
        if self.all_heads_apart or self.profile is None or not self.profile.heads:
            return None
        layers, heads = zip(*self.profile.heads, strict=True)
        return Apart(tuple(sorted({*layers})), tuple(sorted({*heads})))

    @property
    def heads_apart(self) -> bool:
        """Whether any head is kept apart as well as averaged."""
        return self.all_heads_apart or self.apart is not None

    @property
    def head_max(self) -> bool:
        """Whether the maximum over heads is kept as well as their mean."""
        return any(METHODS[name].head_max for name in self.methods)


def headline_from(value: Mapping[str, Any]) -> Headline:
    """From what `asdict` made of it, and JSON of that."""
    heads = value["heads"]
    pairs = None if heads is None else tuple((int(layer), int(head)) for layer, head in heads)
    return Headline(tuple(int(layer) for layer in value["layers"]), pairs)


def headline_of(settings: Settings, config: Any) -> Headline:
    """What the headline averages: what was named, else the profile's, else the layers at 50 to 85 % of the depth.

    In a check, which captures more than that, what the settings say of it.
    """
    if settings.headline is not None:
        return settings.headline
    text = config.text_config
    count, profile = text.num_hidden_layers, settings.profile
    if profile is not None:
        return Headline(profile.layers, profile.heads or None)
    layers = default_layers(count) if settings.layers is None else parse_layers(settings.layers, count)
    # layer.head pairs name layers of their own
    within = range(count) if settings.layers is None and "." in (settings.heads or "") else layers
    return Headline(layers, parse_heads(settings.heads, list(within), text.num_attention_heads))


def settings_of(
    config: Any,
    say: Callable[[str], None],
    *,
    query: str | None = None,
    profile: str | None = None,
    method: str | Sequence[str] | None = None,
    method_option: str = "--method",
    **others: Any,
) -> Settings:
    """What is asked for, with the profile that belongs to the model, and its query, where none is named.

    Args:
        config: of the model.
        say: is told of a profile.
        query: as it was typed; by default the profile's, else `question`.
        profile: a name, a path, `none`, or None.
        method: how the headline map is made; of several, `mean,relative` or apart, the first.
        method_option: what `method` is called in a fault.
        others: the other fields of `Settings`.

    Raises:
        InputError: the profile cannot be read, or does not fit; a method is unknown, or stands beside what it excludes.
    """
    names = () if method is None else parse_methods(method, method_option)
    named = others.get("layers") is not None or others.get("heads") is not None
    chosen = choose_profile(profile, config, chosen=named)
    if chosen is not None:
        say(f"headline: {chosen.words} ({chosen.standing}; --profile none for the usual layers)")
    query = query or (chosen.query if chosen else None) or "question"
    found = Settings(query=query, profile=chosen, methods=names, **others)
    _check_methods(found, method_option)
    return found


def _check_methods(settings: Settings, option: str) -> None:
    """Find methods that the other settings leave without what they need.

    Raises:
        InputError: no heads for `heads`, or heads beside a method that averages all of them.
    """
    for name in settings.methods:
        heads = settings.all_heads_apart or (settings.profile is not None and bool(settings.profile.heads))
        if METHODS[name].heads and not heads:
            raise InputError(
                f"{option} {name}: there is no profile with heads for this model",
                "name heads with --heads, or a profile with --profile (check --calibrate makes one)",
            )
        if settings.all_heads_apart and not METHODS[name].heads:
            raise InputError(f"{option} {name} stands beside --heads {settings.heads}", f"heads are for {option} heads")
