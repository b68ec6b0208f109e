"""Question sets: JSONL files with one `{"id": ..., "question": ...}` per line. Some ship with the package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument, placeholder, pluralize, quoted
from qvl_attn.evaluation.data.jsonl import read_jsonl
from qvl_attn.evaluation.data.rows import MEDIA, Faults, unknown_fields

MAX_BYTES = 16 * 2**20
FIELDS = ("id", "question", "language")
_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class PromptItem:
    """One question of a question set.

    Attributes:
        id: unique in its set.
        question: the text of the question.
        language: the language of the question, `en` or `zh` in the sets that ship; None if the line names none.
    """

    id: str
    question: str
    language: str | None = None


def shipped_sets() -> dict[str, Path]:
    """Return the files of the question sets that ship with the package, by name.

    An installed package contains them; in a checkout they are beside the package.
    """
    in_checkout = (_PACKAGE.parent / "pyproject.toml").is_file()
    folder = (_PACKAGE.parent if in_checkout else _PACKAGE) / "prompts"
    return {file.stem: file for file in sorted(folder.glob("*.jsonl"))}


def load_prompts(name: str, typed: str | None = None) -> tuple[PromptItem, ...]:
    """Read a question set.

    Args:
        name: a path, or the name of a set that ships with the package.
        typed: what messages call it; by default the argument `prompts`.

    Raises:
        InputError: it does not exist, or has invalid lines; every fault is listed with its line.
    """
    path, typed = Path(name), argument("prompts", name) if typed is None else typed
    # A folder with the name of a shipped set is ignored; pathlib raises on names that are too long.
    if not os.path.isfile(name) and (name in shipped_sets() or not os.path.exists(name)):  # noqa: PTH110, PTH113
        shipped = shipped_sets()
        if name not in shipped:
            raise InputError(f"{typed}: no such file or question set", f"sets that ship: {', '.join(sorted(shipped))}")
        path = shipped[name]
    if not path.is_file():
        raise InputError(f"{typed}: not a file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{typed}: larger than {MAX_BYTES >> 20} MiB")
    items: dict[str, PromptItem] = {}
    faults = Faults()
    for place, value in read_jsonl(path, typed, faults):
        messages = list(_faults(value)) if isinstance(value, dict) else ["not a JSON object"]
        if isinstance(value, dict) and not messages:
            if value["id"] in items:
                messages = [f"id {quoted(value['id'])} is used twice"]
            else:
                items[value["id"]] = PromptItem(value["id"], value["question"], value.get("language"))
        for message in messages:
            faults.add(place, "", message)
    if faults.lines:
        count = pluralize(len(faults.lines), "fault")
        hint = 'want {"id": "...", "question": "..."} per line'
        raise InputError(f"{typed}: the question set has {count}", hint, tuple(faults.lines))
    if not items:
        raise InputError(f"{typed}: contains no question")
    return tuple(items.values())


def _faults(value: dict[str, Any]) -> Iterator[str]:
    for field in ("id", "question"):
        if not isinstance(value.get(field), str) or not value[field].strip():
            yield f"{field}: want a non-empty string"
        elif any("\ud800" <= char <= "\udfff" for char in value[field]):
            yield f"{field}: not valid Unicode"
        elif field == "question" and (mark := placeholder(value[field])):
            yield f"question: contains {mark}: leave it out; the pictures come before the question"
    if "language" in value and not (isinstance(value["language"], str) and value["language"].strip()):
        yield "language: want a non-empty string"
    pictures = [field for field in MEDIA if field in value]
    if pictures:
        yield f"{pictures[0]}: a question set names no pictures; this looks like a data set"
    else:
        yield from (f"{field}: {message}" for field, message in unknown_fields(value, FIELDS))
