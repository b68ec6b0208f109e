"""Where samples come from: a JSONL file, pictures without questions, or a Hugging Face data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.data.hub import hub_rows, is_hub_set
from qvl_attn.evaluation.data.question_sets import load_prompts
from qvl_attn.evaluation.data.rows import Faults
from qvl_attn.evaluation.data.samples import Reader, Sample, picture_rows, read_jsonl, read_samples
from qvl_attn.media.image import check_local

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
    progress: Callable[[int], None] = lambda done: None,
) -> list[Sample]:
    """Read a data set and check all of it, files included; no model is needed.

    Args:
        data: a JSONL file (`rows.py` says what a record holds); a picture or a folder of them, with `prompts`; or a
            Hugging Face data set, as `hf:OWNER/NAME`, which reaches for the hub, or as a folder that `datasets` saved.
        data_root: the folder that all files lie within; by default that of `data`, and none for a Hugging Face data
            set, whose pictures are in its rows.
        prompts: a set of questions for records without one: a name or a file.
        limit: only so many records.
        split: of a Hugging Face data set.
        columns: of one, `field=column` with commas between.
        box_format: of its boxes.
        box_units: of its boxes.
        progress: told how many records are checked.

    Raises:
        InputError: with every fault, its line and its field.
    """
    name, path = os.fspath(data), Path(data)
    asked = load_prompts(prompts) if prompts else ()
    faults = Faults()
    readers: dict[str, Reader] = {}
    if is_hub_set(name):
        records, readers = hub_rows(name, split, columns, box_format, box_units)
    else:
        check_local(name)
        if columns or box_format or box_units:
            raise InputError(
                "--columns, --box-format and --box-units are for Hugging Face data sets", "JSONL has them in its rows"
            )
        if not os.path.exists(name):  # pathlib raises on names that are too long  # noqa: PTH110
            raise InputError(f"{name} does not exist", "check the path")
        if not path.is_file() and not path.is_dir():
            raise InputError(f"{name} is neither a file nor a folder", "write it to a file first")
        is_rows = path.is_file() and path.suffix.lower() in ROW_FILES
        records = read_jsonl(path, faults) if is_rows else picture_rows(path)
    beside = None if is_hub_set(name) else path if path.is_dir() else path.parent
    root = beside if data_root is None else Path(data_root)
    if root is not None and not root.is_dir():
        raise InputError(f"--data-root {root}: not a folder")
    return read_samples(islice(records, limit), root, faults, asked, readers, progress)
