"""Settings that were added after the first results were written: at these values a request is what it was before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ADDED = {"stretch": False}


def settings_key(settings: DataclassInstance) -> dict[str, Any]:
    """Return settings as a part of the key of a request, without added ones that were left at their default."""
    return {name: value for name, value in asdict(settings).items() if name not in ADDED or value != ADDED[name]}


def with_added(same: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field `same` of a run, with the added settings that its version did not have."""
    return {f"--{name.replace('_', '-')}": value for name, value in ADDED.items()} | {**same}
