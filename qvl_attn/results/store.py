"""The folder of a result: its name, how it is written (completely or not at all), and errors of a damaged one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from qvl_attn.core.errors import QvlAttnError, StoreError
from qvl_attn.core.files import slug, whole_folder, write_json, write_npz, write_png, write_text
from qvl_attn.core.runtime import Progress, Stages, no_progress
from qvl_attn.core.types import Source
from qvl_attn.media.resize import Picture
from qvl_attn.render.html.page import REPORT_FILE
from qvl_attn.render.overlay import drawn_size_px
from qvl_attn.render.style import Drawing
from qvl_attn.results.record import Record

RESULT_FILE, ARRAYS_FILE = "result.json", "attention.npz"
PASSES = "passes"  # the folder of a clip's passes, each a result of its own
# The most pixels in all pictures that are drawn at the same time; each takes some 40 bytes of memory.
MAX_PIXELS_AT_ONCE = 10 * 2**20
# What the use of damaged values raises.
DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, eq=False)
class Contents(Generic[R]):
    """The contents of a result's folder.

    Attributes:
        arrays: the arrays of `attention.npz`.
        images: for each PNG's file name, the function that draws it.
        notes: what the reader should know, a line each.
        clip: writes the files that only a clip's folder has; returns their names and further notes.
        page: makes the HTML page from the measured record and all notes.
        json: makes `result.json` from the measured record, the file names and all notes.
    """

    arrays: Mapping[str, np.ndarray]
    images: Mapping[str, Callable[[], Picture]]
    notes: Sequence[str]
    clip: Callable[[Path], tuple[list[str], list[str]]]
    page: Callable[[R, list[str]], str]
    json: Callable[[R, list[str], list[str]], dict[str, Any]]


def folder_name(media: Source, label: str, key: Mapping[str, Any]) -> str:
    """Return `<media>-<label slug>-<8 hex>`: readable, safe on every file system, and the same for the same request.

    Args:
        media: the first picture, or the clip.
        label: readable part that differs between results about the same picture: the question, or the model.
        key: everything that makes it a different result, as JSON values.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    return f"{slug(Path(media.source).stem, 32)}-{slug(label)}-{digest}"


def save_record(
    record: R,
    target: Path,
    prepare: Callable[[], Contents[R]],
    threads: int,
    *,
    overwrite: bool,
    progress: Progress = no_progress,
) -> Path:
    """Draw and write a result into its folder; `result.json` is written last.

    Args:
        record: the result.
        target: the folder to write.
        prepare: returns what to draw and write; its time counts as drawing.
        threads: how many pictures are drawn at once.
        overwrite: whether to replace an existing folder of the same result.
        progress: called with (stage, done, total) for each picture.

    Raises:
        StoreError: the folder cannot be written, or already exists.
    """
    with whole_folder(target, overwrite=overwrite) as draft:
        stages = Stages()
        with stages.stage("draw"):
            contents = prepare()
            tasks = [partial(write_npz, draft / ARRAYS_FILE, contents.arrays)]
            tasks += [partial(_draw, draft / name, image) for name, image in contents.images.items()]
            with ThreadPoolExecutor(threads) as pool:  # the first error cancels tasks that have not started
                for done, _ in enumerate(pool.map(lambda task: task(), tasks), 1):
                    progress("drawing", done, len(tasks))
            clip_files, clip_notes = contents.clip(draft)
        measured = replace(
            record,
            seconds={**record.seconds, **stages.seconds},
            peak_memory_bytes={**record.peak_memory_bytes, **stages.peak_bytes},
        )
        files = [ARRAYS_FILE, *contents.images, *clip_files, REPORT_FILE, RESULT_FILE]
        notes = [*contents.notes, *clip_notes]
        write_text(draft / REPORT_FILE, contents.page(measured, notes))
        write_json(draft / RESULT_FILE, contents.json(measured, files, notes))
    return target


def _draw(path: Path, image: Callable[[], Picture]) -> None:
    write_png(path, image())


def draw_threads(sizes_px: Sequence[tuple[int, int]], drawing: Drawing) -> int:
    """Return how many pictures to draw at once: one per core, fewer if each takes much memory.

    Args:
        sizes_px: (width, height) of what is drawn of each picture, or of the clip: see `MapSource.size_px`.
        drawing: how the result is drawn.
    """
    pixels = sum(math.prod(drawn_size_px(size_px, drawing)) for size_px in sizes_px)
    return max(1, min(os.cpu_count() or 1, MAX_PIXELS_AT_ONCE // pixels))


def is_complete(folder: Path) -> bool:
    """Return whether a folder holds a completely written result."""
    return (folder / RESULT_FILE).is_file()


def is_pass(folder: Path) -> bool:
    """Return whether a folder is that of a pass over a part of a clip, inside the folder of the whole."""
    passes = folder.absolute().parent
    return passes.name == PASSES and is_complete(passes.parent)


@contextmanager
def damage(name: object, remedy: str = "") -> Iterator[None]:
    """Report an error that damaged values raise as a one-line `StoreError`.

    Args:
        name: the folder or file, for the message.
        remedy: the hint.

    Raises:
        StoreError: the block raised one of `DAMAGE`.
    """
    try:
        yield
    except ValueError as error:  # says what is wrong without its name
        raise StoreError(f"{name} is damaged: {error}", remedy) from None
    except DAMAGE as error:
        raise StoreError(f"{name} is damaged: {type(error).__name__}: {error}", remedy) from None


@contextmanager
def reading(folder: Path, remedy: str) -> Iterator[None]:
    """Like `damage`, for the files of a folder: sizes in them may also overflow, and their own errors name a file.

    Raises:
        StoreError: the files are damaged.
    """
    with damage(folder, remedy):
        try:
            yield
        except (ArithmeticError, MemoryError) as error:
            raise StoreError(f"{folder} is damaged: {type(error).__name__}: {error}", remedy) from None
        except QvlAttnError as error:
            raise StoreError(f"{folder} is damaged: {error.message}", remedy) from None
