"""The pictures of a folder, whose sub-folders are classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qvl_attn.core.errors import InputError
from qvl_attn.media.image import check_local

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
MAX_PICTURES = 1_000_000


@dataclass(frozen=True)
class Item:
    """A picture of a folder.

    Attributes:
        id: its path within the folder, with `/`.
        label: the sub-folder that it lies in, at any depth; empty for those in the folder itself.
        path: where it is.
    """

    id: str
    label: str
    path: Path


def list_pictures(folder: Path, out: Path | None = None) -> list[Item]:
    """The pictures of a folder and its sub-folders, in the order of their names; hidden ones are left out.

    Args:
        folder: that is looked through.
        out: where results go: what lies there is left out, if it is within the folder.

    Raises:
        InputError: no such folder, none in it, or too many.
    """
    name = check_local(str(folder))
    if not folder.is_dir():
        raise InputError(f"--input-dir {name}: is no folder", "name a folder of pictures")
    try:
        files = sorted(path for path in _files(folder, out) if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise InputError(f"--input-dir {name}: cannot be read ({error.strerror})") from None
    if not 0 < len(files) <= MAX_PICTURES:
        raise InputError(f"--input-dir {name}: {len(files):,} pictures in it", f"want 1 to {MAX_PICTURES:,}")
    items = []
    for path in files:
        within = path.relative_to(folder)
        items.append(Item(within.as_posix(), within.parts[0] if len(within.parts) > 1 else "", path))
    return items


def count_others(folder: Path, out: Path | None = None) -> int:
    """How many files there are beside the pictures, in the same folders."""
    return sum(path.suffix.lower() not in SUFFIXES for path in _files(folder, out))


def _files(folder: Path, out: Path | None) -> Iterator[Path]:
    results = _within(folder, out)
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if results not in path.parents and not hidden and path.is_file():
            yield path


def _within(folder: Path, out: Path | None) -> Path | None:
    """A folder within another, as `rglob` gives it; None where it is elsewhere."""
    if out is None:
        return None
    inner, outer = out.resolve(), folder.resolve()
    return folder / inner.relative_to(outer) if outer in inner.parents else None
