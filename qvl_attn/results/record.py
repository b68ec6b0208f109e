"""What every kind of result shares: the fields of its record, and the protocol of the maps that are drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from qvl_attn.attribution.selection import Pairs
from qvl_attn.core.types import HeatMap, Media, TokenGrid
from qvl_attn.media.resize import Picture, resize_picture
from qvl_attn.media.sampling import ClipSettings

Over = Literal["mean", "max", "min"]


@dataclass(frozen=True)
class Provenance:
    """Versions, model and device behind a result: enough to compute it again. Each kind of result adds its own fields.

    Attributes:
        qvl_attn: version of this package.
        transformers: version of transformers.
        torch: version of torch.
        model: hub id, folder or `demo`.
        revision: commit of a hub model, fingerprint of a folder.
        dtype: `float32`, `bfloat16` or `float16`.
        device: `cpu`, `cuda:0`, or the device map.
    """

    qvl_attn: str
    transformers: str
    torch: str
    model: str
    revision: str
    dtype: str
    device: str


class RecordSettings(Protocol):
    """What the settings of every kind have in common."""

    @property
    def clip(self) -> ClipSettings | None:
        """Which frames of a clip were sampled; None for pictures."""

    @property
    def stretch(self) -> bool:
        """Whether pictures of more than 8 bits were scaled by the range that they use."""


@dataclass(frozen=True)
class MapSelection:
    """Which map of a result: the attention of one query in some layers, joined over heads; or the map of a method.

    Attributes:
        query: one of the queries of the map source.
        layers: the layers that are averaged, 0-based, ascending; may be empty for a method.
        heads: the (layer, head) pairs that are averaged; None for all heads of the layers.
        over: how heads are joined.
        method: name of the saved method whose map it is; empty for plain attention.
    """

    query: str
    layers: tuple[int, ...] = ()
    heads: Pairs | None = None
    over: Over = "mean"
    method: str = ""


@dataclass(frozen=True)
class Description:
    """The texts around a drawn map.

    Attributes:
        label: short text beneath the map, such as `layer 18`; may be empty.
        title: the large line above: the question, or what the map shows.
        answer: the coloured line beneath it: the answer, or the shares of the attention.
        lines: grey lines beneath the map: query, layers, heads, model.
    """

    label: str
    title: str
    answer: str
    lines: tuple[str, ...]


class MapSource(Protocol):
    """Where figures, films, pages and the store take their maps from.

    A cell of a grid is one vision token of a question, or one patch of an encoder.
    """

    @property
    def media(self) -> tuple[Media, ...]:
        """The pictures, or the clip."""

    @property
    def grids(self) -> tuple[TokenGrid, ...]:
        """The cells of each picture, or of the clip."""

    @property
    def headline(self) -> MapSelection:
        """The map that is drawn largest."""

    @property
    def queries(self) -> tuple[str, ...]:
        """The queries that have a sheet of layers, that of the headline first."""

    def layer_maps(self, query: str) -> Mapping[str, MapSelection]:
        """Return the maps of a sheet of layers, each of one layer, by their labels."""

    def head_maps(self, query: str) -> Mapping[str, MapSelection]:
        """Return the maps of a sheet of heads of one layer, by their labels; none if heads are not recorded."""

    def heat_map(self, selection: MapSelection) -> tuple[HeatMap, ...]:
        """Return the map on each picture, unfiltered, all on one scale.

        Raises:
            InputError: there is no such layer, head, query or method.
            CaptureError: there is no attention on the pictures.
        """

    def describe(self, selection: MapSelection) -> Description:
        """Return the texts around a map."""

    def size_px(self, index: int) -> tuple[int, int]:
        """Return the (width, height) of the region of a picture that its cells cover, in pixels of the original."""

    def picture(self, index: int, step: int, size_px: tuple[int, int]) -> Picture:
        """Return that region of a picture, or of the first frame of a step of a clip, resized: (H, W, 3) uint8 RGB."""


class WholePictures:
    """What a source of maps has by default: its cells cover whole pictures, and single heads are not recorded."""

    def head_maps(self, query: str) -> Mapping[str, MapSelection]:
        """Return nothing."""
        return {}

    def size_px(self: MapSource, index: int) -> tuple[int, int]:
        """Return the (width, height) of a picture."""
        return self.media[index].size_px

    def picture(self: MapSource, index: int, step: int, size_px: tuple[int, int]) -> Picture:
        """Return a picture, or the first frame of a step of a clip, resized: (H, W, 3) uint8 RGB."""
        return resize_picture(first_frame(self.media[index], self.grids[index], step), size_px)


def first_frame(media: Media, grid: TokenGrid, step: int) -> Picture:
    """Return a picture as it is stored, or the first sampled frame of a step of a clip: (H, W, 3) uint8 RGB."""
    return np.asarray(media.frames[first_frame_index(media, grid, step)])


def first_frame_index(media: Media, grid: TokenGrid, step: int) -> int:
    """Return which of the sampled frames is the first of a step of a clip; 0 for a picture."""
    return 0 if media.clip is None else media.clip.frame_indices.index(int(grid.frame_span[step, 0]))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Record:
    """Fields of every kind of result.

    Attributes:
        media: the pictures, in order, or the clip.
        settings: what was asked for.
        provenance: versions, model and device.
        seconds: duration of each stage.
        peak_memory_bytes: peak of each stage: `host` for the process, `device` for what torch holds on a GPU; `before`
            is the memory of the process when the stage began.
    """

    media: tuple[Media, ...]
    settings: Any  # each kind has its own type, a `RecordSettings`
    provenance: Provenance
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def is_clip(self) -> bool:
        """Whether it is the result of a clip."""
        return self.media[0].clip is not None
