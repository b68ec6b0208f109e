"""One session for every kind of result: find saved results again, compute those that are missing, save them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypedDict, TypeVar

from qvl_attn.core.errors import InputError, ResultExistsError
from qvl_attn.core.files import check_writable
from qvl_attn.core.options import with_types
from qvl_attn.core.runtime import Progress
from qvl_attn.core.text import argument
from qvl_attn.core.types import Media, Source
from qvl_attn.render.style import Drawing
from qvl_attn.results.result import StoredResult
from qvl_attn.results.store import is_complete

R = TypeVar("R")
S = TypeVar("S", bound=StoredResult)
LOG = logging.getLogger(__name__)


class SaveOptions(TypedDict, total=False):
    """Where a result is saved, and found again when the same is asked again.

    Attributes:
        out: the folder that holds results, created if missing; without it nothing is saved.
        drawing: size, colours and filters of the pictures.
        overwrite: whether to compute a result again that exists, and replace it; False by default.
    """

    out: str | os.PathLike[str] | None
    drawing: Drawing | None
    overwrite: bool


@dataclass(frozen=True)
class Saving:
    """`SaveOptions` of results that are saved.

    Raises:
        InputError: the folder cannot be written to.
    """

    out: Path
    drawing: Drawing
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_writable(self.out)


def saving_of(options: SaveOptions) -> Saving | None:
    """Return where results are saved; None if they are not.

    Raises:
        InputError: the folder cannot be written to, or the other options are given without it.
        TypeError: an option is of another type.
    """
    typed = with_types(options, SaveOptions)
    out, drawing, overwrite = typed.get("out"), typed.get("drawing"), typed.get("overwrite", False)
    if out is not None and not os.fspath(out):
        raise InputError(f"{argument('out', out)}: no folder is named", "name one, or leave it out")
    if out is None:
        for name, given in (("drawing", drawing is not None), ("overwrite", overwrite)):
            if given:
                raise InputError(f"{argument(name)}: nothing is saved", f"name a folder with {argument('out')}")
        return None
    return Saving(Path(out), drawing or Drawing(), overwrite)


@dataclass(frozen=True, eq=False)
class Saved(Generic[R]):
    """A result in its folder.

    Attributes:
        result: the result.
        folder: its folder.
        reused: whether it was found there, and not computed now.
    """

    result: R
    folder: Path
    reused: bool


def run_session(
    folders: Sequence[str | os.PathLike[str]],
    compute: Callable[[Sequence[int]], Iterable[tuple[int, R]]],
    *,
    save: Callable[[R], Path],
    load: Callable[[Path], R],
    add: Callable[[R], R] = lambda result: result,
    overwrite: bool = False,
) -> Iterator[Saved[R]]:
    """Yield the result of each request, in the order of the requests, each as soon as it is there.

    A result is saved as soon as it is computed, so that an error or an interrupt later loses none. Requests with the
    same folder are computed once.

    Args:
        folders: the folder of each request's result. A folder that holds a complete result is not computed again.
        compute: called once, with the indices of the requests whose results are missing; gives (index, result) for each
            of them, in any order.
        save: writes a result; returns its folder.
        load: reads a result from its folder.
        add: returns a computed result with what is added to it before it is saved.
        overwrite: whether to compute and replace results that exist.

    Raises:
        StoreError: a result cannot be written or read.
        ValueError: `compute` gave no result for a request, or a result for another one.
    """
    paths = [Path(folder) for folder in folders]
    found = {path for path in paths if not overwrite and is_complete(path)}
    missing = [i for i, path in enumerate(paths) if path not in found and path not in paths[:i]]
    computing = iter(compute(missing))
    computed: dict[Path, Saved[R]] = {}
    for n, path in enumerate(paths):
        while path not in found and path not in computed:
            i, result = next(computing, (None, None))
            if i is None or result is None:
                raise ValueError(f"compute gave no result for request {n}, only for those before it")
            if i not in missing:
                raise ValueError(f"compute gave a result for request {i}, which is not missing: {missing} are")
            result = add(result)
            try:
                computed[paths[i]] = Saved(result, save(result), False)
            except ResultExistsError:  # another process has finished the same result meanwhile
                found.add(paths[i])
            del result  # pictures are large: not held while the next is computed
        if path in computed:
            yield computed.pop(path)
            found.add(path)
        else:
            yield Saved(load(path), path, True)


def logged(results: Iterable[Saved[R]]) -> Iterator[R]:
    """Yield the results alone, and log where each is."""
    for saved in results:
        LOG.info(f"{'found' if saved.reused else 'saved'} in {saved.folder}")
        yield saved.result


@dataclass(frozen=True, eq=False)
class Asked:
    """A result that is asked for, and is to be saved.

    Attributes:
        media: its media as they were given.
        folders: the folders that may hold it.
    """

    media: Sequence[Source]
    folders: Sequence[Path]

    def found(self, saving: Saving) -> Path | None:
        """Return the folder that holds it; None if there is none, or if it is to be computed again."""
        return None if saving.overwrite else next(filter(is_complete, self.folders), None)


def find_again(kind: type[S], asked: Sequence[Asked], saving: Saving) -> Iterator[Saved[S]] | None:
    """Return the saved results of all that is asked for, each read when it is its turn; None if one is missing.

    Args:
        kind: the kind of the results.
        asked: what is asked for.
        saving: where the results are saved.

    Raises:
        StoreError: a result cannot be read.
    """
    found = [(each, folder) for each in asked if (folder := each.found(saving))]
    if len(found) < len(asked):
        return None
    return (Saved(read_again(kind, folder, each.media), folder, True) for each, folder in found)


def compute_missing(
    kind: type[S],
    asked: Sequence[Asked],
    compute: Callable[[Sequence[int]], Iterable[tuple[int, S]]],
    saving: Saving,
    progress: Progress,
    add: Callable[[S], S] = lambda result: result,
) -> Iterator[Saved[S]]:
    """Do as `run_session`, each result in the first folder that may hold it."""
    folders = [each.folders[0] for each in asked]
    media_of = dict(zip(folders, (each.media for each in asked), strict=True))
    return run_session(
        folders,
        compute,
        save=lambda result: result.save(saving.out, saving.drawing, overwrite=saving.overwrite, progress=progress),
        load=lambda folder: read_again(kind, folder, media_of[folder]),
        add=add,
        overwrite=saving.overwrite,
    )


def read_again(kind: type[S], folder: Path, media: Sequence[Source]) -> S:
    """Return a saved result with its media as they were given: its folder keeps their names and drawn sizes alone."""
    result = kind.load(folder)
    given = tuple(
        source
        if isinstance(source, Media)
        else replace(stored, source=source.source, path=source.source if stored.clip else None)
        for source, stored in zip(media, result.media, strict=True)
    )
    return replace(result, media=given)
