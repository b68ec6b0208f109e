"""Load samples from a JSONL file, from pictures and a question set, or from a Hugging Face data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import Progress, cancelling
from qvl_attn.core.text import argument
from qvl_attn.evaluation.data.hub import hub_rows, is_hub_set
from qvl_attn.evaluation.data.jsonl import read_jsonl
from qvl_attn.evaluation.data.question_sets import load_prompts, shipped_sets
from qvl_attn.evaluation.data.rows import Faults
from qvl_attn.evaluation.data.samples import Reader, Sample, picture_rows, read_samples
from qvl_attn.media.image import check_local, printable

ROW_FILES = (".jsonl", ".ndjson", ".json")


def load_samples(
    data: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    prompts: str | None = None,
    limit: int | None = None,
    split: str = "test",
    columns: str | None = None,
    box_format: str | None = None,
    box_units: str | None = None,
    question_check: Callable[[], Callable[[str], None]] = lambda: lambda question: None,
    progress: Progress | None = None,
) -> list[Sample]:
    """Read and check a whole data set, files included. No model is needed.

    Args:
        data: a JSONL file (see `rows.py` for its fields); a picture or a folder of pictures, with `prompts`; or a
            Hugging Face data set: `hf:OWNER/NAME`, which is downloaded from the hub, or a folder saved by `datasets`.
        data_root: the folder that all files must be inside; by default the folder of `data`. A Hugging Face data set
            has none by default, because its rows contain the pictures.
        prompts: the question set for records without a question: a name or a file.
        limit: the maximum number of records.
        split: the split of a Hugging Face data set.
        columns: the columns of a Hugging Face data set, as comma-separated `field=column`.
        box_format: the box format of a Hugging Face data set.
        box_units: the box units of a Hugging Face data set.
        question_check: returns a function that raises an `InputError` for a question that the model cannot be asked.
            Called once, after all is read, if a question may have such words. What it raises itself is no fault of the
            data: it is raised as it is if there are no faults, and else becomes their hint.
        progress: called with (stage, done, total): the records checked. How many there are is not known before.

    Raises:
        InputError: lists every fault with its line and field.
    """
    if limit is not None and limit < 1:
        raise InputError(f"{argument('limit', limit)}: want 1 or more")
    name, path = os.fspath(data), Path(data)
    prompt_items = load_prompts(prompts) if prompts else ()
    faults = Faults()
    readers: dict[str, Reader] = {}
    if is_hub_set(name):
        records, readers = hub_rows(name, split, columns, box_format, box_units)
    else:
        check_local(name)
        if columns or box_format or box_units:
            raise InputError(
                f"{argument('columns')}, {argument('box_format')} and {argument('box_units')} are for Hugging Face "
                "data sets",
                "in JSONL the rows name box_format and box_units",
            )
        if not os.path.exists(name):  # pathlib raises on names that are too long  # noqa: PTH110
            raise InputError(f"{name} does not exist", "check the path")
        if not path.is_file() and not path.is_dir():
            raise InputError(f"{name} is neither a file nor a folder", "write the data to a file first")
        is_rows = path.is_file() and path.suffix.lower() in ROW_FILES
        if not is_rows and not prompts:
            raise InputError(f"{name} {_what(path)}, and no {argument('prompts')} are given", _questions_hint(path))
        records = read_jsonl(path, printable(name), faults) if is_rows else picture_rows(path)
    default_root = None if is_hub_set(name) else path if path.is_dir() else path.parent
    root = default_root if data_root is None else Path(data_root)
    if root is not None and not os.path.isdir(root):  # as above  # noqa: PTH112
        raise InputError(f"{argument('data_root', root)}: not a folder")
    with cancelling(progress=progress) as (progress, _):
        return read_samples(islice(records, limit), root, faults, prompt_items, readers, question_check, progress)


def _what(path: Path) -> str:
    return "is a folder of pictures" if path.is_dir() else f"is not a file of rows ({', '.join(ROW_FILES)})"


def _questions_hint(path: Path) -> str:
    """Return where the questions of a picture, or of a folder, may be."""
    inside = sorted(path.iterdir()) if path.is_dir() else []
    row_files = [file for file in inside if file.suffix.lower() in ROW_FILES[:2] and file.is_file()]
    if row_files:
        return f"it holds rows: name their file, {' or '.join(map(str, row_files[:3]))}"
    shipped = argument("prompts", "counting")
    return f"{shipped} asks each picture the questions of a set, one of {', '.join(shipped_sets())}"
