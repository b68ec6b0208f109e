"""The pictures of a folder; its sub-folders are classes. Opens no picture, needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument, pluralize
from qvl_attn.media.image import PICTURE_SUFFIXES, check_local

MAX_PICTURES = 1_000_000


@dataclass(frozen=True)
class Item:
    """A picture of a folder.

    Attributes:
        id: its path within the folder, with `/`.
        label: the top-level sub-folder that holds it, at any depth; empty for pictures in the folder itself.
        path: its path.
    """

    id: str
    label: str
    path: Path


def list_pictures(folder: Path, out: Path | None = None) -> list[Item]:
    """Return the pictures of a folder and its sub-folders, sorted by name, without hidden ones.

    Args:
        folder: the folder that is searched.
        out: the folder of the run; if it is within `folder`, its files are left out.

    Raises:
        InputError: there is no such folder, or it has no pictures or too many.
    """
    check_local(str(folder))
    typed = argument("folder", folder)
    if not folder.is_dir():
        raise InputError(f"{typed}: not a folder", "name a folder of pictures")
    try:
        files = sorted(path for path in _files(folder, out) if path.suffix.lower() in PICTURE_SUFFIXES)
    except OSError as error:
        raise InputError(f"{typed}: cannot be read ({error.strerror})") from None
    if not 0 < len(files) <= MAX_PICTURES:
        raise InputError(
            f"{typed}: {pluralize(len(files), 'picture')} in it",
            f"name a folder with 1 to {MAX_PICTURES:,} pictures",
        )
    items = []
    for path in files:
        within = path.relative_to(folder)
        items.append(Item(within.as_posix(), within.parts[0] if len(within.parts) > 1 else "", path))
    return items


def count_others(folder: Path, out: Path | None = None) -> int:
    """Return the number of files that are not pictures, in the same folders."""
    return sum(path.suffix.lower() not in PICTURE_SUFFIXES for path in _files(folder, out))


def _files(folder: Path, out: Path | None) -> Iterator[Path]:
    results = _within(folder, out)
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if results not in path.parents and not hidden and path.is_file():
            yield path


def _within(folder: Path, out: Path | None) -> Path | None:
    """Return a folder within another as a path that `rglob` gives; None if it is not within it."""
    if out is None:
        return None
    inner, outer = out.resolve(), folder.resolve()
    return folder / inner.relative_to(outer) if outer in inner.parents else None
