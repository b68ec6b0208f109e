"""Shards of a check: split a data set over processes, and merge their runs into one. Merging needs no model."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import check_new, new_folder
from qvl_attn.core.text import argument, pluralize, quoted
from qvl_attn.core.typed_json import Count, decoded
from qvl_attn.evaluation.examples import example_file
from qvl_attn.evaluation.outputs import facts_from, file_name, gallery_scores, scored_example_files, write_outputs
from qvl_attn.evaluation.rows import check_indices, read_all_scores
from qvl_attn.evaluation.score import Score
from qvl_attn.evaluation.summary_json import Facts
from qvl_attn.results.run_folder import RUN_FILE, Ledger, Run, as_message, differences, is_finished, read_rows, read_run

if TYPE_CHECKING:
    from qvl_attn.evaluation.data.samples import Sample

MAX_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    """One of several parts of a data set.

    Attributes:
        number: the number of this part, from 1.
        of: the number of parts.

    Raises:
        ValueError: they are out of range.
    """

    number: Count
    of: Count

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of <= MAX_SHARDS:
            raise ValueError(f"want 1/N to N/N, with N at most {MAX_SHARDS:,}")

    @classmethod
    def parse(cls, typed: str) -> Self:
        """Parse a shard such as `2/8`.

        Raises:
            InputError: it is not of this form, or out of range.
        """
        number, _, of = typed.partition("/")
        if not (number.isascii() and number.isdigit() and of.isascii() and of.isdigit() and len(typed) < 20):
            raise InputError(f"{argument('shard', typed)}: want NUMBER/OF, as in 2/8")
        try:
            return cls(int(number), int(of))
        except ValueError as error:
            raise InputError(f"{argument('shard', typed)}: {error}") from None

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def own(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples of this part, in their order.

        All questions about a picture are in one part, which reads the picture once. The pictures are sorted by a hash
        of their names and split into parts with almost equal numbers of samples.
        """
        counts = Counter(sample.names for sample in samples)
        own_names, before = set(), 0
        for names in sorted(counts, key=_sort_key):
            if before * self.of // len(samples) == self.number - 1:
                own_names.add(names)
            before += counts[names]
        return [sample for sample in samples if sample.names in own_names]


def _sort_key(names: Sequence[str]) -> bytes:
    return sha256("\0".join(names).encode()).digest()


@dataclass(frozen=True, eq=False)
class _Part:
    folder: Path
    run: Run
    facts: Facts
    shard: Shard
    scores: list[Score]


def merge_runs(
    folders: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    csv: bool = False,
) -> dict[str, Any]:
    """Merge the finished parts of one check into one run: rows, summary, charts and gallery of the whole data set.

    Args:
        folders: the folders of all parts, in any order; one alone if it is the only part.
        out: a new folder, which appears when it is complete.
        csv: whether to write `scores.csv` as well.

    Returns:
        The contents of `summary.json`: up to rounding, that of one run over all samples.

    Raises:
        InputError: the folders are not the parts of one check, a part is missing, or a part is not finished.
        StoreError: a run is damaged, or the merged run cannot be written.
    """
    target = Path(out)
    check_new(target)
    given = [folders] if isinstance(folders, str | os.PathLike) else folders
    parts = _read([Path(folder) for folder in given])
    scores = sorted((score for part in parts for score in part.scores), key=lambda score: score.index)
    facts: Facts = {**parts[0].facts, "shard": None}
    digests = {name: digest for part in parts for name, digest in part.run["samples"].items()}
    run: Run = {
        **parts[0].run,
        "same": {**parts[0].run["same"], "--shard": None},
        "facts": {**facts},
        "samples": {score.id: digests[score.id] for score in scores},
    }
    with new_folder(target) as draft:
        with Ledger(draft).appending(run, sync=False) as append:
            for part in parts:
                for row in read_rows(part.folder):
                    append(row)

        def copy_gallery(scores: Sequence[Score], notes: list[str]) -> list[str]:
            return _copy_gallery(parts, draft, scores, notes)

        return {**write_outputs(draft, facts, scores, copy_gallery, csv=csv)}


def _read(folders: Sequence[Path]) -> list[_Part]:
    """Read all parts, in order of their number.

    Raises:
        InputError: lists everything that is missing or does not fit.
    """
    faults: list[str] = []
    runs: dict[Path, Run] = {}
    shards: dict[Path, Shard] = {}
    for folder in folders:
        if not os.path.isdir(folder):  # pathlib raises on long names  # noqa: PTH112
            faults.append(f"{folder} is not a folder: name the {argument('out')} folder of a part")
            continue
        try:
            run = read_run(folder)
            if run["facts"].get("shard") is None:
                faults.append(f"{folder} is not a part: it was run without {argument('shard')}")
            else:
                shards[folder], runs[folder] = _shard_of(folder, run), run
        except StoreError as fault:
            faults.append(str(fault))
    if not runs:
        raise InputError(
            "there is no part of a check to merge", f"check {argument('shard', 'I/N')} writes the parts", tuple(faults)
        )
    first = next(iter(runs))
    for folder, run in runs.items():
        lines = differences(_without_shard(runs[first]), _without_shard(run), (f"in {first}", f"in {folder}"))
        faults += [f"{folder} is not a part of the same check as {first}: {as_message(line)}" for line in lines]
    of = shards[first].of
    by_number: dict[int, list[Path]] = {}
    for folder, shard in shards.items():
        if shard.of == of:
            by_number.setdefault(shard.number, []).append(folder)
        else:
            faults.append(f"{folder} is one of {pluralize(shard.of, 'part')}, {first} one of {of}")
    for number in range(1, of + 1):
        same_number = by_number.get(number, [])
        if not same_number:
            faults.append(f"part {number}/{of} is missing: run it with {argument('shard', f'{number}/{of}')}")
        elif len(same_number) > 1:
            faults.append(f"part {number}/{of} is given twice: {same_number[0]} and {same_number[1]}")
    faults += [
        f"{folder} is not finished: run the same check again, and it continues"
        for folder in runs
        if not is_finished(folder)
    ]
    if faults:
        raise InputError("these are not all the finished parts of one check", "", tuple(faults))
    parts = []
    for folder, run in runs.items():
        scores = read_all_scores(folder, run)
        parts.append(_Part(folder, run, facts_from(folder, run, scores), shards[folder], scores))
    parts.sort(key=lambda part: part.shard.number)
    names = Counter(name for part in parts for name in part.run["samples"])
    if names and max(names.values()) > 1:
        twice = quoted(max(names, key=names.__getitem__))
        raise StoreError(
            f"{parts[0].folder} and others: sample {twice} is in more than one part", "run the parts again"
        )
    for part in parts:
        check_indices(part.folder, part.scores, len(names))
    return parts


def _shard_of(folder: Path, run: Run) -> Shard:
    """Return the shard that a run's facts name.

    Raises:
        StoreError: they name none, or another one than its settings.
    """
    typed = run["same"].get("--shard")
    try:
        shard = decoded(run["facts"]["shard"], Shard, "shard")
        if typed != str(shard):
            raise ValueError(f"{argument('shard')} is {quoted(str(typed))}, but facts.shard is {shard}")
        return shard
    except ValueError as error:
        raise StoreError(f"{folder} is damaged: {RUN_FILE}: {error}", "run this part again") from None


def _without_shard(run: Run) -> dict[str, Any]:
    return {name: value for name, value in run["same"].items() if name != "--shard"}


def _copy_gallery(parts: Sequence[_Part], target: Path, scores: Sequence[Score], notes: list[str]) -> list[str]:
    """Copy the gallery from the parts, and return the names of the drawings.

    The best and the worst samples of all are among those of the parts, because no picture is in two parts. So are the
    random examples, because the smallest hashes of all are among the smallest of each part.
    """
    drawings = {
        score.id: part.folder / file_name(name, score) for part in parts for name, score in gallery_scores(part.scores)
    }
    files = []
    for name, score in gallery_scores(scores):
        source = drawings.get(score.id)
        if source is None or not source.is_file():
            notes.append(f"gallery: its part has no drawing of {score.id}")
            continue
        (target / file_name(name, score)).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target / file_name(name, score))
        files.append(file_name(name, score))
    for name in scored_example_files(scores) | {example_file(score.id) for _, score in gallery_scores(scores)}:
        for source in (part.folder / name for part in parts):
            if source.is_file():
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source, target / name)
    return files
