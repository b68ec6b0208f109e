"""Small results and a run that are kept as test data, for tests that need one without running a model."""

from functools import cache
from pathlib import Path

KEPT = Path(__file__).parents[1] / "data" / "kept" / "schema-1"


@cache
def kept_files(kind: str) -> dict[str, bytes]:
    """Return the content of each file of a kept result by its name: `ask`, `video`, `encoder`, `check` and others."""
    folder = KEPT / kind
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def write_kept(kind: str, folder: Path, **changed: bytes) -> Path:
    """Write a kept result into a new folder, some of its files changed, and return the folder."""
    for name, data in (kept_files(kind) | changed).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
