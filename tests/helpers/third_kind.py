"""A made-up third kind of result: rings around the middle of a picture. What it does not say here, every kind has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale, split_by_picture
from qvl_attn.core.errors import InputError
from qvl_attn.core.types import HeatMap, Media, TokenGrid
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.model.token_grid import grid_of
from qvl_attn.results.codec import ResultJson
from qvl_attn.results.record import Description, MapSelection, Provenance, WholePictures
from qvl_attn.results.result import StoredResult


@dataclass(frozen=True)
class RingSettings:
    """How many rings there are."""

    rings: int = 2
    stretch: bool = False
    clip: ClipSettings | None = None


@dataclass(frozen=True, kw_only=True)
class RingJson(ResultJson):
    """Its `result.json`: what every kind has."""

    settings: RingSettings
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class RingMaps(WholePictures):
    """Its maps: `values` (layers, queries, V), and the names of the queries."""

    media: tuple[Media, ...]
    grids: tuple[TokenGrid, ...]
    values: np.ndarray
    queries: tuple[str, ...] = ("near", "far")

    @property
    def headline(self) -> MapSelection:
        return MapSelection("near", tuple(range(len(self.values))))

    def layer_maps(self, query: str) -> Mapping[str, MapSelection]:
        return {f"ring {layer}": MapSelection(query, (layer,)) for layer in range(len(self.values))}

    def heat_map(self, selection: MapSelection) -> tuple[HeatMap, ...]:
        if selection.query not in self.queries:
            raise InputError(f"query {selection.query}: unknown")
        values = self.values[list(selection.layers), self.queries.index(selection.query)].mean(axis=0)
        maps = split_by_picture(values, self.grids)
        share, scale = float(values.sum()), percentile_scale(maps)
        fields = (selection.layers, "all", selection.query, (0,), share / values.size, share, scale)
        return tuple(HeatMap(each, i, *fields) for i, each in enumerate(maps))

    def describe(self, selection: MapSelection) -> Description:
        layers = ", ".join(map(str, selection.layers))
        return Description(f"ring {layers}", "where are the rings?", selection.query, (f"rings {layers}",))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Rings(StoredResult):
    """The result."""

    kinds: ClassVar = ("rings",)
    remedy: ClassVar = "draw the rings again"
    schema: ClassVar = RingJson

    grids: tuple[TokenGrid, ...]
    values: np.ndarray

    def _label(self) -> str:
        return f"{self.settings.rings} rings"

    def _key(self) -> dict[str, Any]:
        return {"media": [medium.sha256 for medium in self.media], "settings": asdict(self.settings)}

    def _maps(self) -> RingMaps:
        return RingMaps(self.media, self.grids, self.values)

    def _arrays(self) -> dict[str, np.ndarray]:
        return {"weights": self.values}

    @classmethod
    def _from_json(cls, folder: Path, saved: RingJson, arrays: Mapping[str, np.ndarray], **common: Any) -> Self:
        grids = tuple(
            grid_of(entry.grid_thw, 1, 0, medium) for entry, medium in zip(saved.media, common["media"], strict=True)
        )
        return cls(grids=grids, values=arrays["weights"], **common)
