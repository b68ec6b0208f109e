"""Profiles: JSON files that name the layers or heads that a model's headline averages, and where the choice is from.

Some profiles ship in `shipped_profiles/`; `qvl-attn check --calibrate` writes others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from qvl_attn.attribution.selection import Pairs, Query, describe_heads, describe_layers
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument, json_fault, pluralize, quoted
from qvl_attn.core.typed_json import Count, LayerOrHead, decoded, parse_json

VERSION = 1
MAX_BYTES = 2**20
EVIDENCE = ("published", "measured")
NO_PROFILE = "none"
_SHIPPED = Path(__file__).parent / "shipped_profiles"


@dataclass(frozen=True)
class Shape:
    """The size of a model: number of layers, heads per layer, hidden size."""

    layers: LayerOrHead
    heads: LayerOrHead
    hidden_size: Count

    def __str__(self) -> str:
        return f"{pluralize(self.layers, 'layer')} of {pluralize(self.heads, 'head')}, hidden size {self.hidden_size}"


@dataclass(frozen=True)
class Profile:
    """The layers or heads to average for models of one shape.

    Attributes:
        name: display name.
        evidence: `published` (by others, not measured with this tool) or `measured` (by a check with `calibrate`).
        source: the publication, or the data that it was measured on.
        model: shape of the models that it is for.
        layers: 0-based layers whose heads are all averaged; empty if there are heads.
        heads: (layer, head) pairs.
        query: the query that it was found with, which becomes the default; None if no query of this tool was used.
    """

    name: str
    evidence: str
    source: str
    model: Shape
    layers: tuple[int, ...] = ()
    heads: Pairs = ()
    query: str | None = None

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE or not self.name or not self.source:
            raise ValueError(f"want a name, a source, and evidence {' or '.join(EVIDENCE)}")
        if bool(self.layers) == bool(self.heads):
            raise ValueError("want either layers or heads")
        for numbers in (self.layers, self.heads):
            if list(numbers) != sorted({*numbers}):
                raise ValueError("layers and heads: want unique numbers, ascending")
        if not all(0 <= layer < self.model.layers for layer in (*self.layers, *(layer for layer, _ in self.heads))):
            raise ValueError(f"layers: a model of {self.model} has no such layer")
        if not all(0 <= head < self.model.heads for _, head in self.heads):
            raise ValueError(f"heads: a model of {self.model} has no such head")
        if self.query is not None:
            Query.parse(self.query)

    @property
    def selection(self) -> str:
        """Its heads or layers, as text."""
        if self.heads:
            return f"heads {describe_heads(self.heads)}"
        return describe_layers(self.layers)

    @property
    def status(self) -> str:
        """Its name and whether it is published or calibrated, as text."""
        return f"profile {self.name}: " + (
            "published, not measured here" if self.evidence == "published" else "calibrated"
        )


def shape_of(config: Any) -> Shape:
    """Return the shape of a model from its configuration."""
    text = config.text_config
    return Shape(text.num_hidden_layers, text.num_attention_heads, text.hidden_size)


class _Stated(TypedDict):
    num_hidden_layers: LayerOrHead
    num_attention_heads: LayerOrHead
    hidden_size: Count


def stated_shape(config: Mapping[str, Any]) -> Shape | None:
    """Return the shape that a `config.json` states; None if it leaves a number to the defaults of transformers.

    Args:
        config: the contents of the file. Released checkpoints have the language model's fields beside the others,
            newer files under `text_config`.
    """
    text = config.get("text_config")
    try:
        stated = decoded(config if text is None else text, _Stated, "text_config")
    except ValueError:
        return None
    return Shape(stated["num_hidden_layers"], stated["num_attention_heads"], stated["hidden_size"])


def profile_json(profile: Profile, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the contents of a profile's file; `figures` are its scores on the calibration data."""
    return {"profile_version": VERSION, **asdict(profile), "figures": dict(figures)}


def shipped_profiles() -> dict[str, Path]:
    """Return the paths of the profiles that ship with the package, by name."""
    return {file.stem: file for file in sorted(_SHIPPED.glob("*.json"))}


def load_profile(name: str) -> Profile:
    """Read a profile.

    Args:
        name: name of a profile that ships, or a path.

    Raises:
        InputError: no such file or profile, or the file is not a profile.
    """
    shipped = shipped_profiles()
    path = shipped.get(name, Path(name))
    if not os.path.isfile(path):  # pathlib raises on names that are too long  # noqa: PTH113
        raise InputError(
            f"{argument('profile', name)}: no such file or profile",
            f"profiles that ship: {', '.join(shipped)}; or {NO_PROFILE}",
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        value = decoded(parse_json(path.read_text(encoding="utf-8")), dict[str, Any], "profile")
        if value.get("profile_version") != VERSION:
            raise ValueError(f"profile_version {quoted(value.get('profile_version'))}, this version reads {VERSION}")
        return decoded(value, Profile, "profile")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{argument('profile', name)}: not a profile ({json_fault(error, str(error))})",
            f"a check with {argument('calibrate')} writes one",
        ) from None


def choose_profile(typed: str | None, shape: Shape, *, chosen: bool) -> Profile | None:
    """Return the profile of a run: the named one, else the one that ships for models of this shape.

    Only the shape is compared, so that a fine-tuned or local copy of a model gets its profile as well.

    Args:
        typed: a name, a path, `none`, or None.
        shape: the model's shape.
        chosen: whether layers or heads are given, which exclude a profile.

    Raises:
        InputError: the profile cannot be read, is for another model, or is combined with layers or heads.
    """
    if typed == NO_PROFILE or (typed is None and chosen):
        return None
    if typed is None:
        candidates = [load_profile(name) for name in shipped_profiles() if not name.endswith("-text")]
        return next((profile for profile in candidates if profile.model == shape), None)
    if chosen:
        raise InputError(
            f"{argument('profile', typed)} cannot be combined with {argument('layers')} or {argument('heads')}",
            "give one of them",
        )
    profile = load_profile(typed)
    if profile.model != shape:
        raise InputError(f"{argument('profile', typed)} is for a model of {profile.model}; this model has {shape}")
    return profile
