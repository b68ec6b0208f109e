"""The parts of a check, each run by a process of its own, put together into one run. No model is needed."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import check_new, new_folder
from qvl_attn.evaluation.examples import example_file
from qvl_attn.evaluation.outputs import chosen, file_name, scored_exhibits, write_outputs
from qvl_attn.evaluation.score import Score, read_scores
from qvl_attn.results.run_folder import Ledger, differences, is_finished, read_rows, read_run

if TYPE_CHECKING:
    from qvl_attn.evaluation.data.samples import Sample

MOST_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """One of several parts.

    Attributes:
        number: which, from 1.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, typed: str) -> Self:
        """Of `2/8`.

        Raises:
            InputError: it is not written so.
        """
        number, _, of = typed.partition("/")
        if not (number.isascii() and number.isdigit() and of.isascii() and of.isdigit() and len(typed) < 20):
            raise InputError(f"--shard {typed}: want NUMBER/OF, as in 2/8")
        if not 1 <= int(number) <= int(of) <= MOST_SHARDS:
            raise InputError(f"--shard {typed}: want 1/N to N/N, and N at most {MOST_SHARDS:,}")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def own(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples of this part, in their order.

        All questions about a picture are in one part, where it is read once for all of them. The pictures are put in
        the order of a hash of their names, and cut into parts of as many samples as can be.
        """
        counts = Counter(one.names for one in samples)
        mine, before = set(), 0
        for names in sorted(counts, key=_order):
            if before * self.of // len(samples) == self.number - 1:
                mine.add(names)
            before += counts[names]
        return [one for one in samples if one.names in mine]


def _order(names: Sequence[str]) -> bytes:
    return sha256("\0".join(names).encode()).digest()


@dataclass(frozen=True, eq=False)
class _Part:
    folder: Path
    run: dict[str, Any]
    scores: list[Score]

    @property
    def number(self) -> int:
        return int(self.run["facts"]["shard"]["number"])


def merge_runs(
    folders: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, csv: bool = False
) -> dict[str, Any]:
    """Put the finished parts of one check together: rows, summary, charts and gallery of the whole data set.

    Args:
        folders: all parts, in any order.
        out: a folder to make; it is there when everything is in it.
        csv: write `scores.csv` as well.

    Returns:
        The contents of `summary.json`, that of one run over all samples but for rounding.

    Raises:
        InputError: not the parts of one check, or not all of them, or one is unfinished.
        StoreError: a run is damaged, or it cannot be written.
    """
    target = Path(out)
    check_new(target)
    parts = _read([Path(folder) for folder in folders])
    scores = sorted((one for part in parts for one in part.scores), key=lambda score: score.index)
    facts = {**parts[0].run["facts"], "shard": None}
    run = {**parts[0].run, "facts": facts, "same": {**parts[0].run["same"], "--shard": None}}
    digests = {name: digest for part in parts for name, digest in part.run["samples"].items()}
    run["samples"] = {one.id: digests[one.id] for one in scores}
    with new_folder(target) as draft:
        with Ledger(draft).appending(run, sync=False) as append:
            for part in parts:
                for row in read_rows(part.folder):
                    append(row)

        def copied(scores: Sequence[Score], notes: list[str]) -> list[str]:
            return _copy_gallery(parts, draft, scores, notes)

        return write_outputs(draft, facts, scores, copied, csv=csv)


def _read(folders: Sequence[Path]) -> list[_Part]:
    """All parts, in their order.

    Raises:
        InputError: with everything that is missing.
    """
    faults: list[str] = []
    runs: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        try:
            run = read_run(folder)
        except StoreError as fault:
            faults.append(str(fault))
            continue
        if run["facts"]["shard"] is None:
            faults.append(f"{folder} is of no part: those are made with --shard 1/N")
        else:
            runs[folder] = run
    if not runs:
        raise InputError("there is no part of a check to merge", "parts are made with --shard 1/N", tuple(faults))
    shards = {folder: run["facts"]["shard"] for folder, run in runs.items()}
    first = next(iter(runs))
    for folder, run in runs.items():
        lines = differences(_but_part(runs[first]), _but_part(run), (f"in {first}", f"in {folder}"))
        faults += [f"{folder} is not of the same check as {first}: {line}" for line in lines]
    of = shards[first]["of"]
    by_number: dict[int, list[Path]] = {}
    for folder, shard in shards.items():
        if shard["of"] == of:
            by_number.setdefault(shard["number"], []).append(folder)
        else:
            faults.append(f"{folder} is one of {shard['of']} parts, {first} one of {of}")
    for number in range(1, of + 1):
        there = by_number.get(number, [])
        if not there:
            faults.append(f"part {number}/{of} is missing: run it with --shard {number}/{of}")
        elif len(there) > 1:
            faults.append(f"part {number}/{of} is there twice: {there[0]} and {there[1]}")
    faults += [f"{folder} is not finished: the same command goes on" for folder in runs if not is_finished(folder)]
    if faults:
        raise InputError("these are not all the finished parts of one check", "", tuple(faults))
    found = (_Part(folder, run, read_scores(folder)) for folder, run in runs.items())
    parts = sorted(found, key=lambda part: part.number)
    for part in parts:
        if {one.id for one in part.scores} != part.run["samples"].keys():
            raise StoreError(f"{part.folder} has not the rows that it should have", "run it again")
    return parts


def _but_part(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in run["same"].items() if name != "--shard"}


def _copy_gallery(parts: Sequence[_Part], target: Path, scores: Sequence[Score], notes: list[str]) -> list[str]:
    """The best and the worst of all are among those of the parts, since no picture is in two of them.

    So are those that are shown by chance, since the least of all are among the least of each part.
    """
    drawn = {score.id: part.folder / file_name(name, score) for part in parts for name, score in chosen(part.scores)}
    files = []
    for name, score in chosen(scores):
        source = drawn.get(score.id)
        if source is None or not source.is_file():
            notes.append(f"gallery: {score.id} is not drawn in its part")
            continue
        (target / file_name(name, score)).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target / file_name(name, score))
        files.append(file_name(name, score))
    for name in scored_exhibits(scores) | {example_file(score.id) for _, score in chosen(scores)}:
        for source in (part.folder / name for part in parts):
            if source.is_file():
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source, target / name)
    return files
