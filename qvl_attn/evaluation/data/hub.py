"""Records of a Hugging Face data set, through the `datasets` library (the extra `[datasets]`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument
from qvl_attn.evaluation.data.rows import BOX_FORMATS, BOX_UNITS
from qvl_attn.evaluation.data.samples import Reader

PREFIX = "hf:"
FIELDS = ("id", "image", "images", "question", "answer", "boxes", "box_format", "box_units", "frame")
# The column's own type decides between one picture and several.
PICTURES = ("image", "images")
# Files that `save_to_disk` writes.
_SAVED = ("dataset_info.json", "dataset_dict.json")


def is_hub_set(name: str) -> bool:
    """Whether a name is that of a Hugging Face data set: `hf:OWNER/NAME`, or a folder that `save_to_disk` wrote."""
    try:
        return name.startswith(PREFIX) or any((Path(name) / file).is_file() for file in _SAVED)
    except OSError:  # such as a name that is too long
        return False


def hub_rows(
    name: str, split: str, columns: str | None, box_format: str | None, box_units: str | None
) -> tuple[Iterator[tuple[str, object]], dict[str, Reader]]:
    """Return the records of a data set, and the readers of their pictures by name.

    Args:
        name: `hf:OWNER/NAME`, which is downloaded from the hub, or a folder on disk.
        split: such as `test`; ignored if a folder has only one split.
        columns: comma-separated `field=column`; a field that is not listed is the column of the same name.
        box_format: the format of all boxes, unless a column holds it.
        box_units: the units of all boxes, unless a column holds them.

    Raises:
        InputError: `datasets` is not installed, the data set cannot be loaded, a column does not exist, or several or
            no columns could hold the pictures.
    """
    table = _load(name, split)
    column_of = _columns(columns, table.column_names)
    for option, value, known in (("box_format", box_format, BOX_FORMATS), ("box_units", box_units, BOX_UNITS)):
        if value is not None and value not in known:
            raise InputError(f"{argument(option, value)}: unknown", f"want {', '.join(known)}")
    fixed = {field: value for field, value in (("box_format", box_format), ("box_units", box_units)) if value}
    picture_columns = [column_of.pop(field) for field in PICTURES if field in column_of]
    if len(picture_columns) != 1:
        candidates = " and ".join(picture_columns) if picture_columns else ", ".join(table.column_names)
        raise InputError(
            f"{name}: which column holds the pictures? candidates: {candidates}",
            f"name one: {argument('columns', 'image=COLUMN')}",
        )
    readers: dict[str, Reader] = {}
    (pictures,) = picture_columns
    return _records(_undecoded(table, pictures), pictures, column_of, fixed, readers), readers


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
        loaded = datasets.load_from_disk(name)
    except Exception as error:  # `datasets`, its readers and the network raise errors of any type
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{name}, split {split}: cannot be loaded ({reason})", f"check its name and {argument('split')}"
        ) from None
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded
    if split not in loaded:
        raise InputError(f"{name} has no split {split}", f"{argument('split')} {' or '.join(loaded)}")
    return loaded[split]


def _columns(typed: str | None, column_names: list[str]) -> dict[str, str]:
    """Return the column of each field: those listed in `columns`, and fields with a column of the same name."""
    listed: dict[str, str] = {}
    for part in (typed or "").split(",") if typed else []:
        field, _, column = (word.strip() for word in part.partition("="))
        if field not in FIELDS or not column:
            raise InputError(f"{argument('columns', part)}: want FIELD=COLUMN", f"fields: {', '.join(FIELDS)}")
        if column not in column_names:
            raise InputError(f"{argument('columns', part)}: no such column", f"columns: {', '.join(column_names)}")
        listed[field] = column
    # If `columns` lists the pictures, another column named image or images is ignored.
    ignored = PICTURES if any(field in listed for field in PICTURES) else ()
    return {field: field for field in FIELDS if field in column_names and field not in ignored} | listed


def _undecoded(table: Any, column: str) -> Any:
    """Return the table with pictures as file bytes, so that they are decoded within the limits of `media`."""
    import datasets

    feature = table.features[column]
    if isinstance(feature, datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.Image):
        return table.cast_column(column, datasets.List(datasets.Image(decode=False)))
    raise InputError(
        f"column {column} holds no pictures",
        f"name the column of the pictures: {argument('columns', 'image=COLUMN')}",
    )


def _records(
    table: Any, pictures: str, column_of: Mapping[str, str], fixed: Mapping[str, str], readers: dict[str, Reader]
) -> Iterator[tuple[str, object]]:
    names_by_hash: dict[bytes, str] = {}
    for number in range(len(table)):
        row = table[number]
        value: dict[str, Any] = {"id": f"row-{number}", **fixed}
        value |= {field: row[column] for field, column in column_of.items() if row[column] is not None}
        cell = row[pictures]
        names = []
        for i, picture in enumerate(cell if isinstance(cell, list) else [cell]):
            if picture and picture["bytes"]:
                # Each row about a picture repeats its bytes: the picture is named after the first of these rows.
                name = names_by_hash.setdefault(sha256(picture["bytes"]).digest(), f"row-{number}-{i}")
                readers.setdefault(name, partial(_bytes, table, number, pictures, i))
                names.append(name)
            else:
                names.append(picture and picture["path"])
        value |= {"images": names} if isinstance(cell, list) else {"image": names[0]}
        value["boxes"] = _nested(value.get("boxes"))
        yield f"row {number}", json.loads(json.dumps(value, default=str))


def _nested(boxes: Any) -> Any:
    """Return a single box as a list of one box."""
    if isinstance(boxes, list) and boxes and not isinstance(boxes[0], list):
        return [boxes]
    return boxes


def _bytes(table: Any, number: int, column: str, i: int) -> bytes:
    cell = table[number][column]
    picture = cell[i] if isinstance(cell, list) else cell
    data: bytes = picture["bytes"]
    return data
