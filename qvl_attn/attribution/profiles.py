"""Profiles: which layers or heads of a model the headline averages, and how it is known that they look.

JSON files: those that ship stand beside this file, others are written by `qvl-attn check --calibrate`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qvl_attn.attribution.selection import describe_layers, parse_query
from qvl_attn.core.errors import InputError

VERSION = 1
MAX_BYTES = 2**20
EVIDENCE = ("published", "measured")
NO_PROFILE = "none"
_SHIPPED = Path(__file__).parent / "shipped_profiles"


@dataclass(frozen=True)
class Shape:
    """What tells one size of a model from the others: layers, heads a layer, hidden size."""

    layers: int
    heads: int
    hidden_size: int

    def __str__(self) -> str:
        return f"{self.layers} layers of {self.heads} heads, hidden size {self.hidden_size}"


@dataclass(frozen=True)
class Profile:
    """Layers, or heads, of a model of one shape.

    Attributes:
        name: to be read.
        evidence: `published` (by others, and not measured with this tool) or `measured` (by `--calibrate`).
        source: who published it and where, or on what it was measured.
        model: the shape of the models it belongs to.
        layers: 0-based layers whose heads are all averaged; empty where there are heads.
        heads: (layer, head) pairs.
        query: whose attention it was found in, which is then the default; None where that is none of ours, as the
            source then says.
    """

    name: str
    evidence: str
    source: str
    model: Shape
    layers: tuple[int, ...] = ()
    heads: tuple[tuple[int, int], ...] = ()
    query: str | None = None

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE or not self.name or not self.source:
            raise ValueError(f"want a name, a source, and as evidence {' or '.join(EVIDENCE)}")
        if bool(self.layers) == bool(self.heads):
            raise ValueError("want either layers or heads")
        for numbers in (self.layers, self.heads):
            if list(numbers) != sorted({*numbers}):
                raise ValueError("layers and heads: want each once, ascending")
        if not all(0 <= layer < self.model.layers for layer in (*self.layers, *(layer for layer, _ in self.heads))):
            raise ValueError(f"a layer that a model of {self.model} does not have")
        if not all(0 <= head < self.model.heads for _, head in self.heads):
            raise ValueError(f"a head that a model of {self.model} does not have")
        if self.query is not None:
            parse_query(self.query)

    @property
    def words(self) -> str:
        """What it takes, to be read."""
        if self.heads:
            return "heads " + ",".join(f"{layer}.{head}" for layer, head in self.heads)
        return describe_layers(self.layers)

    @property
    def standing(self) -> str:
        """Its name and how far it is to be trusted, to be read."""
        return f"profile {self.name}: " + (
            "published, not measured here" if self.evidence == "published" else "calibrated"
        )


def shape_of(config: Any) -> Shape:
    """The shape of a model, from its configuration."""
    text = config.text_config
    return Shape(text.num_hidden_layers, text.num_attention_heads, text.hidden_size)


def profile_from(value: Mapping[str, Any]) -> Profile:
    """A profile from its JSON.

    Raises:
        KeyError: a field is missing.
        TypeError: a field of another type.
        ValueError: a field out of range.
    """
    model, query = value["model"], value.get("query")
    return Profile(
        name=str(value["name"]),
        evidence=str(value["evidence"]),
        source=str(value["source"]),
        model=Shape(_whole(model["layers"]), _whole(model["heads"]), _whole(model["hidden_size"])),
        layers=tuple(_whole(layer) for layer in value.get("layers") or ()),
        heads=tuple((_whole(layer), _whole(head)) for layer, head in value.get("heads") or ()),
        query=None if query is None else str(query),
    )


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def profile_json(profile: Profile, figures: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of a profile's file; `figures` say how well it did, and where."""
    return {"profile_version": VERSION, **asdict(profile), "figures": dict(figures)}


def shipped_profiles() -> dict[str, Path]:
    """The profiles that ship with the package, by name."""
    return {file.stem: file for file in sorted(_SHIPPED.glob("*.json"))}


def load_profile(name: str) -> Profile:
    """Read a profile.

    Args:
        name: of one that ships, or a path.

    Raises:
        InputError: it is not there, or is none.
    """
    shipped = shipped_profiles()
    path = shipped.get(name, Path(name))
    if not os.path.isfile(path):  # pathlib raises on names that are too long  # noqa: PTH113
        raise InputError(
            f"--profile {name}: no such file or profile", f"profiles that ship: {', '.join(shipped)}; or {NO_PROFILE}"
        )
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        value = json.loads(path.read_text(encoding="utf-8"))
        if value.get("profile_version") != VERSION:
            raise ValueError(f"profile_version {value.get('profile_version')!r}, this version reads {VERSION}")
        return profile_from(value)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"--profile {name}: not a profile ({why})", "qvl-attn check --calibrate writes one") from None
    except InputError as error:
        raise InputError(f"--profile {name}: {error.message}", error.hint) from None


def choose_profile(typed: str | None, config: Any, *, chosen: bool) -> Profile | None:
    """The profile of a run: the one that was named, else the one that ships for models of this shape.

    A fine-tuned or local copy is taken for what its shape says: its folder's name tells nothing.

    Args:
        typed: a name or path, `none`, or None.
        config: of the model.
        chosen: whether layers or heads were named, which leaves no room for a profile.

    Raises:
        InputError: it cannot be read, is for another model, or stands beside layers or heads.
    """
    if typed == NO_PROFILE or (typed is None and chosen):
        return None
    shape = shape_of(config)
    if typed is None:
        fitting = [load_profile(name) for name in shipped_profiles() if not name.endswith("-text")]
        return next((one for one in fitting if one.model == shape), None)
    if chosen:
        raise InputError(f"--profile {typed} stands beside --layers or --heads", "name one of them")
    profile = load_profile(typed)
    if profile.model != shape:
        raise InputError(f"--profile {typed} is for a model of {profile.model}; this one has {shape}")
    return profile
