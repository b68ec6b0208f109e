"""The pictures of a folder, whose sub-folders are classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qvl_attn.errors import InputError
from qvl_attn.media import check_local

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
        results = _within(folder, out)
        files = sorted(
            path
            for path in folder.rglob("*")
            if results not in path.parents
            and path.suffix.lower() in SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        )
    except OSError as error:
        raise InputError(f"--input-dir {name}: cannot be read ({error.strerror})") from None
    if not 0 < len(files) <= MAX_PICTURES:
        raise InputError(f"--input-dir {name}: {len(files):,} pictures in it", f"want 1 to {MAX_PICTURES:,}")
    items = []
    for path in files:
        within = path.relative_to(folder)
        items.append(Item(within.as_posix(), within.parts[0] if len(within.parts) > 1 else "", path))
    return items


def _within(folder: Path, out: Path | None) -> Path | None:
    """A folder within another, as `rglob` gives it; None where it is elsewhere."""
    if out is None:
        return None
    inner, outer = out.resolve(), folder.resolve()
    return folder / inner.relative_to(outer) if outer in inner.parents else None
