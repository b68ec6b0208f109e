"""The maps of a question's result, as figures, films and pages take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from qvl_attn.attribution.heatmap import heat_maps
from qvl_attn.attribution.methods.maps import method_heat_maps
from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.core.types import HeatMap, Media, TokenGrid
from qvl_attn.results.record import Description, MapSelection, WholePictures
from qvl_attn.vqa.captions import describe_answer, describe_sheets, headline_caption
from qvl_attn.vqa.record import VqaRecord


@dataclass(frozen=True, eq=False)
class QuestionMaps(WholePictures):
    """The maps of one question: see `MapSource`. Its only query is the headline's."""

    record: VqaRecord

    @property
    def media(self) -> tuple[Media, ...]:
        """The pictures, or the clip."""
        return self.record.media

    @property
    def grids(self) -> tuple[TokenGrid, ...]:
        """The cells of each picture, or of the clip."""
        return self.record.capture.grids

    @property
    def headline(self) -> MapSelection:
        """The map of the first method, or of plain attention."""
        query = self.queries[0]
        if self.record.methods:
            return MapSelection(query, method=self.record.methods[0].method)
        headline = self.record.headline
        return MapSelection(query, headline.layers, headline.heads)

    @property
    def queries(self) -> tuple[str, ...]:
        """The query of the headline."""
        return (str(self.record.selection.query),)

    @cached_property
    def _drawn(self) -> HeatMap:
        return self.record.heatmaps()[0]

    @cached_property
    def plain(self) -> HeatMap:
        """The headline's map of the plain attention on the first picture."""
        return self.record.plain_maps()[0] if self.record.methods else self._drawn

    @cached_property
    def sheets(self) -> str:
        """What the sheets of layers show, as text."""
        return describe_sheets(self.record, self.plain)

    def layer_maps(self, query: str) -> Mapping[str, MapSelection]:
        """Return the maps of single layers: of the first method if it has them, else of plain attention.

        Named heads are averaged in their layers, all heads in the others.
        """
        record = self.record
        if record.methods and record.methods[0].layer_numbers:
            name = record.methods[0].method
            selections = [MapSelection(query, (layer,), method=name) for layer in record.methods[0].layer_numbers]
        else:
            named = record.headline_heads() or ()
            selections = [
                MapSelection(query, (layer,), tuple(pair for pair in named if pair[0] == layer) or None)
                for layer in record.capture.layers.tolist()
            ]
        return {_label(selection): selection for selection in selections}

    def heat_map(self, selection: MapSelection) -> tuple[HeatMap, ...]:
        """Return the map on each picture: see `MapSource`."""
        record, rows = self.record, self.record.query_rows()
        if selection.method:
            method = next(each for each in record.methods if each.method == selection.method)
            if not selection.layers:
                return record.method_maps(method)
            return method_heat_maps(method, record.capture, rows, selection.query, layer=selection.layers[0])
        return heat_maps(
            record.capture, layers=selection.layers, heads=selection.heads, rows=rows, query=selection.query
        )

    def describe(self, selection: MapSelection) -> Description:
        """Return the texts around a map."""
        if selection != self.headline:
            return self.describe_layer(selection)
        lines = headline_caption(self.record, self._drawn)
        return Description("", self.record.question, describe_answer(self.record), tuple(lines))

    def describe_layer(self, selection: MapSelection) -> Description:
        """Return the texts around the map of one layer, which may be the headline's only layer."""
        label = _label(selection)
        return Description(label, self.record.question, describe_answer(self.record), (f"{label} · {self.sheets}",))


def _label(selection: MapSelection) -> str:
    """Return the text beneath the map of one layer."""
    name = METHODS[selection.method].layer_label if selection.method else "layer"
    heads = f" · heads {','.join(str(head) for _, head in selection.heads)}" if selection.heads else ""
    return f"{name} {selection.layers[0]}{heads}"
