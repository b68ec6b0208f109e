"""The kinds of results, and a saved result of any of them."""

from __future__ import annotations

import os
from pathlib import Path

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import read_json
from qvl_attn.core.text import argument, quoted
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.media.image import check_local
from qvl_attn.results.codec import ResultJson
from qvl_attn.results.result import StoredResult
from qvl_attn.results.run_folder import ROWS_FILE, RUN_FILE
from qvl_attn.results.store import RESULT_FILE, is_complete, is_pass
from qvl_attn.vqa.result import Result

KINDS: tuple[type[StoredResult], ...] = (Result, EncoderResult)


def read_saved(folder: str | os.PathLike[str]) -> StoredResult:
    """Read a saved result of any kind.

    Raises:
        InputError: the folder does not exist, or holds something else.
        StoreError: the result is damaged.
    """
    return read_with_json(folder)[0]


def read_with_json(folder: str | os.PathLike[str]) -> tuple[StoredResult, ResultJson]:
    """Do as `read_saved`, and return its `result.json` too, which is parsed once."""
    path, name = Path(folder), check_local(os.fspath(folder))
    if not os.path.isdir(path):  # pathlib raises on names that are too long  # noqa: PTH112
        problem = "is not a folder" if os.path.lexists(path) else "does not exist"
        raise InputError(f"{name} {problem}", "name the folder of a result: result.json is in it")
    if os.path.isfile(path / RUN_FILE):  # noqa: PTH113
        raise InputError(
            f"{name} is the folder of a run over many samples", "name a result that ask, video or encoder wrote"
        )
    if os.path.isfile(path / ROWS_FILE):  # noqa: PTH113
        raise InputError(f"{name} has the rows of a run over many samples, but no {RUN_FILE}", "name another folder")
    if not is_complete(path):
        inner = next(iter(sorted(path.glob("*/result.json"))), None)
        hint = (
            f"it contains results: name one, such as {inner.parent}"
            if inner
            else "name a result that ask, video or encoder wrote"
        )
        raise InputError(f"{name} is not a complete result: it has no result.json", hint)
    parsed = read_json(path / RESULT_FILE)
    kind, known = parsed.get("kind"), [name for each in KINDS for name in each.kinds]
    for each in KINDS:
        if kind in each.kinds:
            saved = each.saved_json(path, parsed)
            return each.load_with(path, saved), saved
    raise StoreError(f"{name} is damaged: kind: {quoted(kind)} is none of {', '.join(known)}")


def check_whole(folder: Path) -> None:
    """Check that a folder is a whole result, so that something may be written into it or beside it.

    Raises:
        InputError: it is one pass of a result, whose folder must not change.
    """
    if is_pass(folder):
        whole = folder.absolute().parents[1]
        raise InputError(f"{folder} is one pass of a result", f"name the whole result, {whole}, or {argument('out')}")
