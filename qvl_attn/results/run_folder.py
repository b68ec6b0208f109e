"""The folder of a run that may be killed at any moment: its configuration, rows that are safe once written, a lock.

`run.json` holds the configuration and is written before the first row; `scores.jsonl` grows by one synced line per
sample; `summary.json` is written last and marks the run as finished. This module knows nothing of models and figures.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NotRequired, TypedDict, TypeVar

from filelock import FileLock, Timeout

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import check_new, read_json, sync_folder, write_json, write_text
from qvl_attn.core.text import argument, json_fault, quoted, shortened
from qvl_attn.core.typed_json import decoded, parse_json
from qvl_attn.results.added import with_added

RUN_FILE, ROWS_FILE, SUMMARY_FILE, LOCK_FILE = "run.json", "scores.jsonl", "summary.json", ".lock"
SCHEMA_VERSION: Final = 1
KINDS = {"check": "a check", "survey": "an encoder's run over a folder of pictures"}
# For each kind: the noun for its samples, a note about added and removed ones, and a note about changed ones.
CHANGED_WORDS = {
    "check": ("samples", f" (another {argument('limit')}?)", " (question, answers, boxes or pictures)"),
    "survey": ("pictures", "", ""),
}
# What makes a row anew that cannot be read, for each kind.
R = TypeVar("R")
REMEDIES = {
    "check": "remove the line and run the same check again: it asks the sample again",
    "survey": "remove the line and run the encoder over the folder again: it encodes the picture again",
}
# More than the row of a model with thousands of heads.
MAX_ROW_BYTES = 64 * 2**20
# What a kill before the first row may leave behind: the lock and a draft of `run.json`.
_LEFT_BY_KILL = {LOCK_FILE, f".{RUN_FILE}.draft"}
# Entries of `same` that are arguments.
_ENTRY = re.compile("^--([a-z-]+)(?=: )")
# The most changed samples that a message names.
MAX_NAMED = 5


class Run(TypedDict):
    """The contents of `run.json`.

    Attributes:
        same: what must be the same to resume the run.
        facts: what its summary states besides the figures.
        samples: a digest of each sample, by its id.
    """

    schema_version: Literal[1]
    kind: Literal["check", "survey"]
    same: dict[str, str | int | float | bool | None]
    facts: dict[str, Any]
    samples: dict[str, str]


class _Samples(TypedDict):
    kind: NotRequired[str]
    samples: dict[str, str]


class _Row(TypedDict):
    id: str


@dataclass(frozen=True, eq=False)
class Ledger:
    """An open run.

    Attributes:
        folder: folder of the run.
        done: ids of the samples that have a row.
        finished: whether nothing is left to do: every sample has a row, and the summary is written.
    """

    folder: Path
    done: set[str] = field(default_factory=set)
    finished: bool = False

    def begin(self, run: Run) -> None:
        """Write `run.json` if there is none yet, before anything else in the folder.

        Call it with the first row or its files, not earlier: a model that fails to load then leaves no folder behind.
        """
        if not (self.folder / RUN_FILE).exists():
            write_json(self.folder / RUN_FILE, run)

    @contextmanager
    def appending(self, run: Run, *, sync: bool = True) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Yield a function that appends a row and returns once the row is on the disk.

        A summary of the rows so far is removed before the first row, so that a kill leaves none beside other rows.

        Args:
            run: contents of `run.json`, written if there is none yet.
            sync: whether to wait for the disk after each row.
        """
        with ExitStack() as stack:

            @cache
            def rows_file() -> BinaryIO:
                self.begin(run)
                (self.folder / SUMMARY_FILE).unlink(missing_ok=True)
                file = stack.enter_context((self.folder / ROWS_FILE).open("ab", buffering=0))
                sync_folder(self.folder)
                return file

            def append(row: Mapping[str, Any]) -> None:
                _write(rows_file(), _encode_row(row))
                if sync:
                    os.fsync(rows_file().fileno())
                self.done.add(row["id"])

            yield append
            os.fsync(rows_file().fileno())


def _encode_row(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace") + b"\n"


def _write(file: BinaryIO, line: bytes) -> None:
    while line:
        line = line[file.write(line) :]  # unbuffered: may write only a part


def check_begun(folder: Path) -> None:
    """Check that a run can start or continue in a folder.

    Raises:
        InputError: the folder holds something else.
    """
    usable = False
    with suppress(OSError, ValueError):  # `check_new` reports it
        names = {path.name for path in folder.iterdir()}
        usable = (folder / RUN_FILE).is_file() or names <= _LEFT_BY_KILL
    if not usable:
        check_new(folder)


def is_finished(folder: Path) -> bool:
    """Return whether a run wrote its summary, which is written last."""
    return (folder / RUN_FILE).exists() and (folder / SUMMARY_FILE).exists()


@contextmanager
def open_run(folder: Path, run: Run, *, grows: bool = False) -> Iterator[Ledger]:
    """Start a run, or continue one that was stopped; other processes are locked out until the block ends.

    A last line that a kill left incomplete is cut off; its sample has no row.

    Args:
        folder: folder of the run, created if missing.
        run: configuration that decides the rows; it must match the `run.json` of a run that was started before.
        grows: whether the set of samples may differ, as long as no sample with a good row was changed or removed.

    Raises:
        InputError: the run was started with another configuration, or another process is writing to it.
        StoreError: its files are damaged, or cannot be written.
    """
    check_begun(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK_FILE, timeout=0):
            try:
                if (folder / RUN_FILE).exists():
                    saved = read_run(folder, run["kind"])
                    check_same(saved, run, folder)
                    _cut_torn_line(folder / ROWS_FILE)
                    if grows and saved["samples"] != run["samples"]:
                        _change_samples(folder, saved["samples"], run)
                done = {row["id"] for row in read_rows(folder)}
                yield Ledger(folder, done, is_finished(folder) and done == run["samples"].keys())
            finally:
                _clean_up(folder)
    except Timeout:
        raise InputError(
            f"{argument('out', folder)}: another process is writing to it", "wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise StoreError(
            f"cannot write to {folder}: {error.strerror or error}",
            "rows already written are kept; run the same command to continue",
        ) from None


def _clean_up(folder: Path) -> None:
    """Remove the lock file of a finished run, and the folder of a run that wrote nothing."""
    with suppress(OSError):
        names = {path.name for path in folder.iterdir()}
        empty = names <= _LEFT_BY_KILL
        for name in names if empty else {LOCK_FILE} if is_finished(folder) else ():
            (folder / name).unlink()
        if empty:
            folder.rmdir()


def read_run(folder: Path, kind: str = "check") -> Run:
    """Return the contents of a run's `run.json`.

    Args:
        folder: folder of the run.
        kind: expected kind: `check`, or `survey` for an encoder's run over a folder of pictures.

    Raises:
        InputError: there is no `run.json`, or the run is of another kind.
        StoreError: `run.json` is damaged, or has an unknown kind or schema version.
    """
    if not os.path.isfile(folder / RUN_FILE):  # also takes names that are too long for pathlib  # noqa: PTH113
        raise InputError(
            f"{folder} is not {KINDS[kind]}: it has no {RUN_FILE}",
            f"name the {argument('out')} folder of {KINDS[kind]}",
        )
    run = read_json(folder / RUN_FILE)
    if isinstance(run.get("kind"), str) and run["kind"] in KINDS and run["kind"] != kind:
        raise InputError(f"{folder} is {KINDS[run['kind']]}, not {KINDS[kind]}", "name another folder")
    if run.get("kind") != kind:
        raise StoreError(f"{folder} is not {KINDS[kind]}: {RUN_FILE} has kind {quoted(run.get('kind'))}")
    if run.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{folder / RUN_FILE} has schema {quoted(run.get('schema_version'))}",
            f"this version reads {SCHEMA_VERSION}",
        )
    try:
        return decoded(run, Run, RUN_FILE)
    except ValueError as error:
        raise StoreError(f"{folder} is damaged: {error}") from None


def read_finished_run(folder: Path) -> Run:
    """Return the contents of the `run.json` of a finished check.

    Raises:
        InputError: it is not a check, or not finished.
        StoreError: `run.json` is damaged, or has an unknown kind or schema version.
    """
    run = read_run(folder)
    if not is_finished(folder):
        raise InputError(
            f"{folder} is not finished: it has no {SUMMARY_FILE}", "run the same check again: it continues"
        )
    return run


def check_same(saved: Run, run: Run, folder: Path) -> None:
    """Refuse to mix rows of different models, data or settings.

    Raises:
        InputError: its details list every difference.
    """
    lines = [as_message(line) for line in differences(saved["same"], run["same"])]
    same_part = saved["same"].get("--shard") == run["same"].get("--shard")
    if lines:
        raise InputError(
            f"{argument('out', folder)} was started with other settings or samples, "
            "and rows of different runs are not mixed",
            "repeat the settings that it was started with, or name another folder",
            (*lines, *(_describe_changes(saved["samples"], run["samples"], run["kind"]) if same_part else ())),
        )


def _change_samples(folder: Path, old: Mapping[str, str], run: Run) -> None:
    """Replace the samples of a run; rows of changed or removed samples, all of them errors, are dropped.

    `run.json` is written last, so that after a kill the same command finds the same changes to make.

    Raises:
        InputError: a changed or removed sample has a good row.
    """
    new, rows = run["samples"], list(read_rows(folder))
    changed = {name for name in old if new.get(name) != old[name]}
    good = [row["id"] for row in rows if row["id"] in changed and row.get("status") != "error"]
    if good:
        raise InputError(
            f"{argument('out', folder)} has rows of pictures that were changed or removed since",
            f"restore these pictures, or name another {argument('out')}",
            tuple(
                _describe_changes({name: old[name] for name in good}, {n: new[n] for n in good if n in new}, "survey")
            ),
        )
    (folder / SUMMARY_FILE).unlink(missing_ok=True)
    lines = [_encode_row(row) for row in rows if row["id"] not in changed]
    if len(lines) < len(rows):
        write_text(folder / ROWS_FILE, b"".join(lines).decode())
    write_json(folder / RUN_FILE, run)


def differences(
    first: Mapping[str, Any], second: Mapping[str, Any], words: tuple[str, str] = ("before", "now")
) -> list[str]:
    """Return a line for each setting that differs between two runs (entries of `same` in run.json).

    `words` labels the first and the second value.
    """
    first, second = with_added(first), with_added(second)
    names = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    values = {name: (_describe(first.get(name)), _describe(second.get(name))) for name in names}
    return [f"{name}: {a} {words[0]}, {b} {words[1]}" for name, (a, b) in values.items()]


def as_message(difference: str) -> str:
    """Return a line of `differences` as errors say it: with the argument in the place of its entry's name."""
    return _ENTRY.sub(lambda entry: argument(entry[1].replace("-", "_")), difference)


def _describe(value: Any) -> str:
    return "not given" if value is None else shortened(str(value))


def _describe_changes(old: Mapping[str, str], new: Mapping[str, str], kind: str) -> Iterator[str]:
    noun, limit_note, change_note = CHANGED_WORDS[kind]
    changes = {
        f"removed{limit_note}": [name for name in old if name not in new],
        f"added{limit_note}": [name for name in new if name not in old],
        f"changed{change_note}": [name for name in old if name in new and old[name] != new[name]],
    }
    for change, names in changes.items():
        if names:
            some = ", ".join(shortened(name) for name in names[:MAX_NAMED])
            yield f"{noun} {change}: {len(names)} ({some}{', ...' if len(names) > MAX_NAMED else ''})"
    if old == new and list(old) != list(new):
        yield f"the {noun} are in another order"


def _cut_torn_line(path: Path) -> None:
    with suppress(FileNotFoundError), path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:  # search backwards for the end of the last complete line
            start = max(end - 2**16, 0)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a run in the order in which they were written.

    Raises:
        StoreError: a line is not a JSON object with an id, repeats the id of an earlier row, or is about another sample
            than those of the run.
    """
    path, ids = folder / ROWS_FILE, set()
    with suppress(FileNotFoundError), path.open("rb") as lines:
        try:
            run = decoded(read_json(folder / RUN_FILE), _Samples, RUN_FILE)
        except ValueError as error:
            raise StoreError(f"{folder} is damaged: {error}") from None
        remedy = REMEDIES["survey" if run.get("kind") == "survey" else "check"]
        for number, line in enumerate(iter(partial(lines.readline, MAX_ROW_BYTES + 1), b""), 1):
            try:
                if len(line) > MAX_ROW_BYTES:
                    raise ValueError("too long")
                row = decoded(parse_json(line), dict[str, Any], "row")
                name = decoded(row, _Row, "row")["id"]
            except (ValueError, RecursionError) as error:
                fault = json_fault(error, "")
                why = f" ({fault})" if fault else ""
                raise StoreError(f"{path}: line {number} is not a JSON object with an id{why}", remedy) from None
            if name in ids:
                raise StoreError(f"{path}: line {number} repeats the id of an earlier line", "remove one of them")
            if name not in run["samples"]:
                raise StoreError(
                    f"{path}: line {number} is about {quoted(name)}, no sample of this run", "remove the line"
                )
            ids.add(name)
            yield row


def read_typed_rows(folder: Path, kind: str, typed: Callable[[dict[str, Any]], R]) -> Iterator[R]:
    """Yield the rows of a run as its kind has them, in the order in which they were written.

    Args:
        folder: the folder of the run.
        kind: `check` or `survey`.
        typed: checks and converts a row; a ValueError says what is wrong with it.

    Raises:
        StoreError: a line is not a row, or as in `read_rows`.
    """
    for number, row in enumerate(read_rows(folder), 1):
        try:
            yield typed(row)
        except ValueError as error:
            message = f"{folder / ROWS_FILE}: line {number} is not a row of this version ({error})"
            raise StoreError(message, REMEDIES[kind]) from None
