"""Records of a Hugging Face data set, through the `datasets` library (the extra `[datasets]`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.data.rows import BOX_FORMATS, BOX_UNITS
from qvl_attn.evaluation.data.samples import Reader

PREFIX = "hf:"
FIELDS = ("id", "image", "images", "question", "answer", "boxes", "box_format", "box_units", "frame")
# One or several pictures are told by the column itself.
PICTURES = ("image", "images")
# What tells such a folder.
_SAVED = ("dataset_info.json", "dataset_dict.json")


def is_hub_set(name: str) -> bool:
    """Whether a name means such a data set: `hf:OWNER/NAME`, or a folder that `save_to_disk` wrote."""
    try:
        return name.startswith(PREFIX) or any((Path(name) / file).is_file() for file in _SAVED)
    except OSError:  # such as a name that is too long
        return False


def hub_rows(
    name: str, split: str, columns: str | None, box_format: str | None, box_units: str | None
) -> tuple[Iterator[tuple[str, object]], dict[str, Reader]]:
    """Records, and what reads their pictures.

    Args:
        name: `hf:OWNER/NAME`, which reaches for the hub, or a folder on disk.
        split: such as `test`; of a folder with one split it is not asked.
        columns: `field=column`, with commas between; a field that is not named is the column of that name.
        box_format: of all boxes, where no column says it.
        box_units: of all boxes, where no column says it.

    Raises:
        InputError: the library is not there, the data set cannot be had, a column is not there, or it is not plain
            which one holds the pictures.
    """
    table = _load(name, split)
    named = _columns(columns, table.column_names)
    for option, value, known in (("--box-format", box_format, BOX_FORMATS), ("--box-units", box_units, BOX_UNITS)):
        if value is not None and value not in known:
            raise InputError(f"{option} {value}: unknown", f"write {', '.join(known)}")
    fixed = {field: value for field, value in (("box_format", box_format), ("box_units", box_units)) if value}
    there = [named.pop(field) for field in PICTURES if field in named]
    if len(there) != 1:
        said = f"columns {' and '.join(there)}" if there else f"there are {', '.join(table.column_names)}"
        raise InputError(f"{name}: which column holds the pictures? {said}", "name one: --columns image=COLUMN")
    readers: dict[str, Reader] = {}
    (pictures,) = there
    return _records(_undecoded(table, pictures), pictures, named, fixed, readers), readers


def _load(name: str, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{name}: Hugging Face data sets need the library datasets", "pip install 'qvl-attn[datasets]'"
        ) from None
    datasets.disable_progress_bars()
    try:
        if name.startswith(PREFIX):
            return datasets.load_dataset(name.removeprefix(PREFIX), split=split)
        found = datasets.load_from_disk(name)
    except Exception as error:  # whatever the library, its readers and the network raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name}, split {split}: cannot be loaded ({why})", "check its name and --split") from None
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise InputError(f"{name} has no split {split}", f"--split {' or '.join(found)}")
    return found[split]


def _columns(typed: str | None, there: list[str]) -> dict[str, str]:
    asked: dict[str, str] = {}
    for part in (typed or "").split(",") if typed else []:
        field, _, column = (word.strip() for word in part.partition("="))
        if field not in FIELDS or not column:
            raise InputError(f"--columns {part}: want FIELD=COLUMN", f"fields: {', '.join(FIELDS)}")
        if column not in there:
            raise InputError(f"--columns {part}: no such column", f"there are: {', '.join(there)}")
        asked[field] = column
    # Who names the column of the pictures does not mean another one that is there, too.
    besides = PICTURES if any(field in asked for field in PICTURES) else ()
    return {field: field for field in FIELDS if field in there and field not in besides} | asked


def _undecoded(table: Any, column: str) -> Any:
    """Pictures as the bytes of their files: they are decoded here, within our limits."""
    import datasets

    feature = table.features[column]
    if isinstance(feature, datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.Image):
        return table.cast_column(column, datasets.List(datasets.Image(decode=False)))
    raise InputError(f"column {column} holds no pictures", "name the one that does: --columns image=COLUMN")


def _records(
    table: Any, pictures: str, named: Mapping[str, str], fixed: Mapping[str, str], readers: dict[str, Reader]
) -> Iterator[tuple[str, object]]:
    labels: dict[bytes, str] = {}
    for number in range(len(table)):
        row = table[number]
        value: dict[str, Any] = {"id": f"row-{number}", **fixed}
        value |= {field: row[column] for field, column in named.items() if row[column] is not None}
        found = row[pictures]
        names = []
        for i, one in enumerate(found if isinstance(found, list) else [found]):
            if one and one["bytes"]:
                # Rows about the same picture hold it again each: it is known by the first of them.
                label = labels.setdefault(sha256(one["bytes"]).digest(), f"row-{number}-{i}")
                readers.setdefault(label, partial(_bytes, table, number, pictures, i))
                names.append(label)
            else:
                names.append(one and one["path"])
        value |= {"images": names} if isinstance(found, list) else {"image": names[0]}
        value["boxes"] = _nested(value.get("boxes"))
        yield f"row {number}", json.loads(json.dumps(value, default=str))


def _nested(boxes: Any) -> Any:
    """A single box that stands by itself as a list of one."""
    if isinstance(boxes, list) and boxes and not isinstance(boxes[0], list):
        return [boxes]
    return boxes


def _bytes(table: Any, number: int, column: str, i: int) -> bytes:
    found = table[number][column]
    one = found[i] if isinstance(found, list) else found
    data: bytes = one["bytes"]
    return data
