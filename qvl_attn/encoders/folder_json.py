"""The rows and the summary of a run over a folder of pictures, as types, and how they are read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict

from qvl_attn.core.errors import StoreError
from qvl_attn.core.files import read_json
from qvl_attn.core.text import argument
from qvl_attn.core.typed_json import Count, Finite, LayerOrHead, Number, Whole, decoded
from qvl_attn.encoders.statistics import ByStatistic
from qvl_attn.results.run_folder import SUMMARY_FILE, read_typed_rows

REMEDY = f"name another {argument('out')}"


class _Row(TypedDict):
    id: str
    label: str


class ErrorRow(_Row):
    """The line of a picture that could not be encoded."""

    status: Literal["error"]
    error: str


class PictureRow(_Row):
    """The line of an encoded picture: the statistics of every layer and head, and of every layer by chance."""

    status: Literal["ok"]
    size_px: tuple[Count, Count]
    grid: tuple[Count, Count, Count]
    tokens: Count
    figures: ByStatistic[list[list[Finite]]]
    chance: ByStatistic[list[Finite]]


class Spread(TypedDict):
    """A statistic of a layer over the pictures; one picture has no deviation."""

    mean: Finite
    deviation: Number
    low: Finite
    high: Finite
    chance: Finite


class LayerRow(ByStatistic[Spread]):
    """The statistics of a layer."""

    layer: LayerOrHead
    full: bool


class Separation(TypedDict):
    """How well a layer separates the classes; -1 is the embedding before the first layer."""

    layer: Whole
    silhouette: Number
    nearest_neighbour: Number
    nearest_neighbour_shuffled: Number
    largest_class: Number
    pictures: Count
    of: Count


class Projected(TypedDict):
    """How many pictures were projected."""

    pictures: Count
    of: Count


class FolderFacts(TypedDict):
    """What the summary states besides the figures."""

    input: str
    model: dict[str, str]
    full: list[bool]
    heads: LayerOrHead
    settings: dict[str, Any]
    pictures: Count
    other_files: Count


class FolderSummary(FolderFacts):
    """The contents of `summary.json`."""

    schema_version: Literal[1]
    kind: Literal["survey"]
    looked_at: Count
    errors: Count
    layers: list[LayerRow]
    said: list[str]
    separation: list[Separation] | None
    tsne: Projected | None
    files: list[str]


def read_folder_rows(out: Path) -> Iterator[PictureRow | ErrorRow]:
    """Yield the rows of a run in the order in which they were written.

    Raises:
        StoreError: a line is not a row.
    """
    return read_typed_rows(out, "survey", _row_of)


def _row_of(row: dict[str, Any]) -> PictureRow | ErrorRow:
    return decoded(row, ErrorRow, "row") if row.get("status") == "error" else decoded(row, PictureRow, "row")


def read_folder_summary(out: Path) -> FolderSummary:
    """Return the contents of the `summary.json` of a run.

    Raises:
        StoreError: it is damaged.
    """
    try:
        return decoded(read_json(out / SUMMARY_FILE), FolderSummary, "summary")
    except ValueError as error:
        raise StoreError(f"{out / SUMMARY_FILE} is damaged: {error}", REMEDY) from None
