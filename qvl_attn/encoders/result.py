"""An encoder's result: what its folder holds beside what every kind of result has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from qvl_attn.core.text import argument
from qvl_attn.core.types import HeatMap, Source
from qvl_attn.encoders.codec import GRID_DTYPE, KIND, EncoderJson, encoder_arrays, encoder_json, record_from
from qvl_attn.encoders.figures import EncoderFigures, draw_encoder_result, reconstruction_file
from qvl_attn.encoders.maps import EncoderMaps
from qvl_attn.encoders.page import encoder_page_part
from qvl_attn.encoders.record import EncoderProvenance, EncoderRecord, EncoderSettings, check_layer, with_options
from qvl_attn.render.html.payload import Payload
from qvl_attn.render.style import Drawing
from qvl_attn.results.added import settings_key
from qvl_attn.results.codec import base_name, grid_sizes, read_frames
from qvl_attn.results.page_data import PagePart
from qvl_attn.results.result import StoredResult


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EncoderResult(EncoderRecord, StoredResult):
    """The result of an encoder for one picture or clip: a record that can be saved and loaded."""

    kinds: ClassVar = (KIND,)
    remedy: ClassVar = f"run the command again with {argument('overwrite', True)}, or name another folder"
    schema: ClassVar = EncoderJson
    choices: ClassVar = ("layer", "over")

    def _with_choices(self, **choices: Any) -> Self:
        settings = with_options(self.settings, choices)
        check_layer(settings.layer, self.attention.layer_count)
        return self if settings == self.settings else replace(self, settings=settings)

    def _title(self) -> str:
        return f"{base_name(self.media[0].source)} — {self.provenance.model}"

    def _label(self) -> str:
        return request_label(self.provenance)

    def _key(self) -> dict[str, Any]:
        return request_key(self.media[0], self.settings, self.provenance)

    def _maps(self) -> EncoderMaps:
        return EncoderMaps(self)

    def _figures(self, drawing: Drawing) -> EncoderFigures:
        return draw_encoder_result(self, drawing)

    def _page_part(self, notes: Sequence[str], payload: Payload) -> PagePart:
        """Return the result's part of a page; see `page_data.Paged`."""
        return encoder_page_part(self, notes, payload)

    def _as_stored(self) -> Self:
        rows = None if self.patch_rows is None else self.patch_rows.astype(GRID_DTYPE).astype(np.float32)
        return replace(self, patch_rows=rows)

    def _arrays(self) -> dict[str, np.ndarray]:
        return encoder_arrays(self)

    def _as_json(self, drawn: Sequence[HeatMap], **common: Any) -> EncoderJson:
        return encoder_json(self, **common)

    @classmethod
    def _from_json(cls, folder: Path, saved: EncoderJson, arrays: Mapping[str, np.ndarray], **common: Any) -> Self:
        [(steps, _, _)], _ = grid_sizes(arrays, 1)
        files = [folder / reconstruction_file(step) for step in range(steps)]
        return record_from(cls, saved, arrays, read_frames(files), **common)


def request_label(provenance: EncoderProvenance) -> str:
    """Return the part of a folder's name that says which encoder made the result."""
    return Path(provenance.model).name or provenance.model


def request_key(media: Source, settings: EncoderSettings, provenance: EncoderProvenance) -> dict[str, Any]:
    """Return what makes an encoder's result a different one, besides its drawing."""
    return {"media": media.sha256, "settings": settings_key(settings), "made_by": asdict(provenance)}
