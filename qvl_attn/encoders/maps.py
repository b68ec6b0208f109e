"""The maps of an encoder's result, as figures, films and pages take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.types import FloatArray, HeatMap, Media, TokenGrid
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.captions import (
    describe_share,
    foot_lines,
    format_share,
    layer_name,
    map_title,
    visible_picture,
    visible_size_px,
)
from qvl_attn.encoders.record import EncoderRecord
from qvl_attn.media.resize import Picture
from qvl_attn.results.record import Description, MapSelection


@dataclass(frozen=True, eq=False)
class EncoderMaps:
    """The maps of one picture or clip: see `MapSource`. Queries are those of `EncoderAttention`."""

    record: EncoderRecord

    @property
    def attention(self) -> EncoderAttention:
        """The attention that the maps show."""
        return self.record.attention

    @property
    def media(self) -> tuple[Media, ...]:
        """The picture or the clip."""
        return self.record.media

    @cached_property
    def grids(self) -> tuple[TokenGrid, ...]:
        """The patches."""
        (media,), frames = self.media, self.record.frames
        indices = np.array(media.clip.frame_indices if media.clip else [0], dtype=np.int64)
        return (
            TokenGrid(
                grid_thw=self.attention.grid,
                merge_size=1,
                start=len(self.attention.prefix),
                boxes_px=self.attention.boxes_px,
                frame_span=indices[frames],
                times_s=media.times_s[frames],
            ),
        )

    @property
    def headline(self) -> MapSelection:
        """The last layer's map of [CLS], or without [CLS] of the mean over all patches."""
        return self._of_layer(self.queries[0], self.attention.layer_count - 1)

    @property
    def queries(self) -> tuple[str, ...]:
        """The queries: [CLS], the mean over all patches, the query patches."""
        return self.attention.queries

    def layer_maps(self, query: str) -> Mapping[str, MapSelection]:
        """Return the maps of all layers, heads joined as the settings say; labels have the share on patches."""
        return {
            self._layer_label(query, layer): self._of_layer(query, layer) for layer in range(self.attention.layer_count)
        }

    def head_maps(self, query: str) -> Mapping[str, MapSelection]:
        """Return the maps of each head of one layer, and of their mean, maximum and minimum."""
        layer = self.record.head_layer
        shares = self._shares[query][layer]
        maps = {
            f"head {head}{self._share(share)}": MapSelection(query, (layer,), ((layer, head),))
            for head, share in enumerate(shares)
        }
        return {
            **maps,
            f"mean{self._share(shares.mean())}": MapSelection(query, (layer,), over="mean"),
            "maximum": MapSelection(query, (layer,), over="max"),
            "minimum": MapSelection(query, (layer,), over="min"),
        }

    def heat_map(self, selection: MapSelection) -> tuple[HeatMap, ...]:
        """Return the map: see `MapSource`."""
        return (self.heat_map_of(self._values(selection), selection.query, selection.layers[0]),)

    def heat_map_of(self, values: FloatArray, query: str, layer: int) -> HeatMap:
        """Return (t, h, w) attention of a query in a layer as a heat map."""
        return HeatMap(
            values=values,
            media_index=0,
            layers=(layer,),
            heads="all",
            query=query,
            queries=(),
            uniform=self.attention.uniform(query, layer),
            vision_mass=float(values.sum(axis=(1, 2)).mean()),
            scale=percentile_scale([values]),
        )

    def describe(self, selection: MapSelection) -> Description:
        """Return the texts around the map of a layer."""
        attention, query, (layer,) = self.attention, selection.query, selection.layers
        return Description(
            label=self._layer_label(query, layer),
            title=map_title(self.record, query, layer),
            answer=describe_share(attention, query, layer, selection.over),
            lines=tuple(foot_lines(self.record, query, layer)),
        )

    def size_px(self, index: int) -> tuple[int, int]:
        """Return (width, height) of the region that the patches cover, in pixels of the original."""
        return visible_size_px(self.attention)

    def picture(self, index: int, step: int, size_px: tuple[int, int]) -> Picture:
        """Return that region of the picture, or of the first frame of a step: (H, W, 3) uint8 RGB."""
        return visible_picture(self.record, step, size_px)

    @cached_property
    def _shares(self) -> dict[str, FloatArray]:
        """(L, H) share of each query's attention that is on patches."""
        return {query: self.attention.patch_share(query) for query in self.queries}

    def _of_layer(self, query: str, layer: int) -> MapSelection:
        return MapSelection(query, (layer,), over=self.record.settings.over)

    def _layer_label(self, query: str, layer: int) -> str:
        return f"{layer_name(self.attention, layer)}{self._share(self._shares[query][layer].mean())}"

    def _values(self, selection: MapSelection) -> FloatArray:
        (layer,) = selection.layers
        if selection.heads:
            ((_, head),) = selection.heads
            return np.asarray(self.attention.maps(selection.query)[layer, head])
        return self.attention.map(selection.query, layer, selection.over)

    def _share(self, share: np.floating[Any]) -> str:
        return f" · {format_share(float(share))}" if self.attention.prefix else ""
