"""The folder of a run that may be killed at any moment: what was asked, rows that are safe once written, a lock.

`run.json` says what the rows are of, and is there before the first of them; `scores.jsonl` grows by one synced line a
sample; `summary.json` is written last, and says that the run is finished. Knows nothing of models and figures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import check_new, read_json, sync_folder, write_json, write_text
from qvl_attn.core.text import shortened

RUN_FILE, ROWS_FILE, SUMMARY_FILE, LOCK_FILE = "run.json", "scores.jsonl", "summary.json", ".lock"
SCHEMA_VERSION = 1
KINDS = {"check": "a check", "survey": "a folder of pictures that an encoder looked at"}
# Of each kind: what its samples are called, and what is said of those that came or went, and of those that changed.
CHANGED_WORDS = {
    "check": ("samples", " (another --limit?)", " (question, answers, boxes or pictures)"),
    "survey": ("pictures", "", " (the files changed)"),
}
# What a kill before the first row leaves: `run.json` may have been on its way.
_UNBEGUN = {LOCK_FILE, f".{RUN_FILE}.draft"}
# How many of the samples that have changed are named.
SHOWN = 5


@dataclass(frozen=True, eq=False)
class Ledger:
    """An open run.

    Attributes:
        folder: where it is.
        done: the ids of the samples that have a row.
        finished: whether there is nothing left to do.
    """

    folder: Path
    done: set[str] = field(default_factory=set)
    finished: bool = False

    def begin(self, run: Mapping[str, Any]) -> None:
        """Say what the rows are of, where there is no `run.json` yet: before anything else is in the folder.

        At the first row, or what comes with it: a model that cannot be loaded leaves nothing.
        """
        if not (self.folder / RUN_FILE).exists():
            write_json(self.folder / RUN_FILE, run)

    @contextmanager
    def appending(self, run: Mapping[str, Any], *, sync: bool = True) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A function that takes rows, and comes back when they are on the disk.

        Args:
            run: the contents of `run.json`, where there is none yet.
            sync: whether to wait for the disk after each row.
        """
        with ExitStack() as stack:

            @cache
            def begun() -> BinaryIO:
                self.begin(run)
                file = stack.enter_context((self.folder / ROWS_FILE).open("ab", buffering=0))
                sync_folder(self.folder)
                return file

            def append(row: Mapping[str, Any]) -> None:
                _write(begun(), _line(row))
                if sync:
                    os.fsync(begun().fileno())
                self.done.add(row["id"])

            yield append
            os.fsync(begun().fileno())


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace") + b"\n"


def _write(file: BinaryIO, line: bytes) -> None:
    while line:
        line = line[file.write(line) :]  # unbuffered: it may take a part


def check_begun(folder: Path) -> None:
    """Find out whether a run can begin in a folder, or go on there.

    Raises:
        InputError: something else is in it.
    """
    begun = False
    with suppress(OSError):  # which `check_new` then tells
        there = {one.name for one in folder.iterdir()}
        begun = (folder / RUN_FILE).is_file() or there <= _UNBEGUN
    if not begun:
        check_new(folder)


def is_finished(folder: Path) -> bool:
    """Whether a run has nothing left to do."""
    return (folder / RUN_FILE).exists() and (folder / SUMMARY_FILE).exists()


@contextmanager
def open_run(folder: Path, run: Mapping[str, Any], *, grows: bool = False) -> Iterator[Ledger]:
    """Begin a run, or go on with one that was stopped; nobody else can while this lasts.

    A last line that was torn by a kill is cut off; its sample has no row.

    Args:
        folder: where it is, or is to be.
        run: what decides its rows: what `run.json` says of a begun run must be the same.
        grows: whether it may go on with other samples, as long as none is changed or gone that has a good row.

    Raises:
        InputError: it was begun with something else, or another process is at it.
        StoreError: its files are damaged, or cannot be written.
    """
    check_begun(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK_FILE, timeout=0):
            try:
                if (folder / RUN_FILE).exists():
                    begun = read_run(folder, run["kind"])
                    check_same(begun, run, folder)
                    _cut_torn_line(folder / ROWS_FILE)
                    if grows and begun["samples"] != run["samples"]:
                        _grow(folder, begun["samples"], run)
                yield Ledger(folder, {row["id"] for row in read_rows(folder)}, is_finished(folder))
            finally:
                _leave(folder)
    except Timeout:
        raise InputError(
            f"--out {folder}: another process is writing to it", "wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise StoreError(
            f"cannot write to {folder}: {error.strerror or error}", "what is written is kept; the same command goes on"
        ) from None


def _leave(folder: Path) -> None:
    """Take the lock's file away where nobody writes any more, and the folder where it came to nothing."""
    with suppress(OSError):
        there = {one.name for one in folder.iterdir()}
        nothing = there <= _UNBEGUN
        for name in there if nothing else {LOCK_FILE} if is_finished(folder) else ():
            (folder / name).unlink()
        if nothing:
            folder.rmdir()


def read_run(folder: Path, kind: str = "check") -> dict[str, Any]:
    """What a run was asked.

    Args:
        folder: of the run.
        kind: what it must be: `check`, or `encode_folder` for pictures that an encoder looked at.

    Raises:
        InputError: it is a run of another kind.
        StoreError: it is no run of a known schema.
    """
    run = read_json(folder / RUN_FILE)
    if run.get("kind") in KINDS and run["kind"] != kind:
        raise InputError(f"{folder} is {KINDS[run['kind']]}, not {KINDS[kind]}", "name another folder")
    known = run.get("kind") == kind and run.get("schema_version") == SCHEMA_VERSION
    if not known or not all(isinstance(run.get(name), dict) for name in ("same", "facts", "samples")):
        raise StoreError(f"{folder / RUN_FILE} is of no kind or schema that is known here")
    return run


def check_same(begun: Mapping[str, Any], run: Mapping[str, Any], folder: Path) -> None:
    """Refuse to mix rows that are not of the same model, data and settings.

    Raises:
        InputError: with the name of everything that is not the same.
    """
    lines = differences(begun["same"], run["same"])
    same_part = begun["same"].get("--shard") == run["same"].get("--shard")
    if lines:
        raise InputError(
            f"--out {folder} was begun with something else, and rows of two kinds are not mixed",
            "go on with what it was begun with, or name another folder",
            (*lines, *(_changed_samples(begun["samples"], run["samples"], run.get("kind")) if same_part else ())),
        )


def _grow(folder: Path, old: Mapping[str, str], run: Mapping[str, Any]) -> None:
    """Take up other samples; of those that are changed or gone the rows, all of them errors, are dropped.

    `run.json` is written last: after a kill the same is found to be done.

    Raises:
        InputError: one of these has a good row.
    """
    new, rows = run["samples"], list(read_rows(folder))
    changed = {name for name in old if new.get(name) != old[name]}
    good = [row["id"] for row in rows if row["id"] in changed and row.get("status") != "error"]
    if good:
        raise InputError(
            f"--out {folder} was begun with other pictures, and has rows of them",
            "put them back as they were, or name another --out",
            tuple(
                _changed_samples({name: old[name] for name in good}, {n: new[n] for n in good if n in new}, "survey")
            ),
        )
    (folder / SUMMARY_FILE).unlink(missing_ok=True)
    kept = [_line(row) for row in rows if row["id"] not in changed]
    if len(kept) < len(rows):
        write_text(folder / ROWS_FILE, b"".join(kept).decode())
    write_json(folder / RUN_FILE, run)


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], words: tuple[str, str] = ("before", "now")
) -> list[str]:
    """What is not the same in two runs' `same`, a line each; the words say which value is whose."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [f"{name}: {_shown(one.get(name))} {words[0]}, {_shown(other.get(name))} {words[1]}" for name in names]


def _shown(value: Any) -> str:
    return "not given" if value is None else shortened(str(value))


def _changed_samples(old: Mapping[str, str], new: Mapping[str, str], kind: str | None) -> Iterator[str]:
    noun, limit, what = CHANGED_WORDS.get(kind or "", CHANGED_WORDS["check"])
    kinds = {
        f"no longer there{limit}": [name for name in old if name not in new],
        f"newly there{limit}": [name for name in new if name not in old],
        f"not what they were{what}": [name for name in old if name in new and old[name] != new[name]],
    }
    for words, names in kinds.items():
        if names:
            some = ", ".join(shortened(name) for name in names[:SHOWN])
            yield f"{noun} {words}: {len(names)} ({some}{', ...' if len(names) > SHOWN else ''})"
    if old == new and list(old) != list(new):
        yield f"the {noun} stand in another order"


def _cut_torn_line(path: Path) -> None:
    with suppress(FileNotFoundError), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        kept = size
        while kept:  # back to the last line's end
            start = max(kept - 2**16, 0)
            file.seek(start)
            found = file.read(kept - start).rfind(b"\n")
            if found >= 0:
                kept = start + found + 1
                break
            kept = start
        if kept < size:
            file.truncate(kept)
            os.fsync(file.fileno())


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a run, as they were finished.

    Raises:
        StoreError: a line that is no row, or a second one of the same id.
    """
    path, seen = folder / ROWS_FILE, set()
    with suppress(FileNotFoundError), path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                name = row["id"]
                twice = name in seen
            except (ValueError, KeyError, TypeError, RecursionError):
                raise StoreError(
                    f"{path}: line {number} is no row", "remove the line: the same command asks its sample again"
                ) from None
            if twice:
                raise StoreError(f"{path}: line {number} has the id of one before it", "remove one of them")
            seen.add(name)
            yield row
