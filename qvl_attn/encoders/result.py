"""An encoder's result and its folder: saving and loading."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import read_json, read_npz, read_png
from qvl_attn.core.runtime import Progress, cancelling
from qvl_attn.core.text import argument
from qvl_attn.core.types import Source
from qvl_attn.encoders.codec import GRID_DTYPE, KIND, SCHEMA_VERSION, record_arrays, record_from, record_json
from qvl_attn.encoders.embedding_figures import embedding_images
from qvl_attn.encoders.figures import DrawnEncoderResult, draw_encoder_result
from qvl_attn.encoders.page import encoder_html
from qvl_attn.encoders.record import EncoderProvenance, EncoderRecord, EncoderSettings
from qvl_attn.media.resize import Picture
from qvl_attn.render.html.notebook import framed
from qvl_attn.render.style import Drawing
from qvl_attn.results.added import settings_key
from qvl_attn.results.codec import as_stored, base_name, media_from, write_sampled_frames
from qvl_attn.results.store import (
    ARRAYS_FILE,
    RESULT_FILE,
    Contents,
    draw_threads,
    folder_name,
    reading,
    save_record,
)

REMEDY = f"run the command again with {argument('overwrite', True)}, or name another folder"


@dataclass(frozen=True, eq=False, repr=False)
class EncoderResult(EncoderRecord):
    """The result of an encoder for one picture or clip: a record that can be saved and loaded."""

    def _repr_html_(self) -> str:
        """Return the page of the result, for notebooks."""
        title = f"{base_name(self.media.source)} — {self.provenance.model}"
        return framed(encoder_html(self), draw_encoder_result(self, Drawing()).overlay(), title)

    def save(
        self,
        out: str | os.PathLike[str],
        drawing: Drawing | None = None,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Draw the pictures and write everything to a folder of its own inside `out`; `result.json` is written last.

        Args:
            out: the folder that holds results; created if it does not exist.
            drawing: size, colours and filters of the pictures.
            overwrite: whether to replace an existing result of the same request.
            progress: called with (stage, done, total).

        Returns:
            The folder that was written.

        Raises:
            StoreError: it cannot be written, or exists already.
        """
        drawing = drawing or Drawing()
        threads = draw_threads([self.media], drawing)
        target = request_folder(Path(out), self.media, self.settings, drawing, self.provenance)
        with cancelling(progress=progress) as (progress, _):
            contents = partial(_contents, self, drawing, progress)
            return save_record(self, target, contents, threads, overwrite=overwrite, progress=progress)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> EncoderResult:
        """Load a result from its folder. No model is needed.

        Raises:
            InputError: it is a result of `ask` or `video`.
            StoreError: the folder holds no complete result of a known schema.
        """
        path = Path(folder)
        value = read_json(path / RESULT_FILE)
        if value.get("kind") in ("ask", "video"):
            raise InputError(f"{path} is a result of {value['kind']}, not of encoder", "Result.load reads it")
        if value.get("schema_version") != SCHEMA_VERSION or value.get("kind") != KIND:
            raise StoreError(f"{path} is not an encoder's result of schema {SCHEMA_VERSION}", REMEDY)
        with reading(path, REMEDY):
            return _from_folder(path, value)


def request_folder(
    out: Path, media: Source, settings: EncoderSettings, drawing: Drawing, provenance: EncoderProvenance
) -> Path:
    """Return the folder of a result, `<media>-<model>-<8 hex>`; the same request always has the same folder."""
    key = {
        "media": media.sha256,
        "settings": settings_key(settings),
        "drawing": asdict(drawing),
        "made_by": asdict(provenance),
    }
    return out / folder_name(media, Path(provenance.model).name or provenance.model, key)


def reconstruction_file(step: int) -> str:
    """Return the file of the picture reconstructed from the encoder's input at a step."""
    return f"input/{step:06d}.png"


def _contents(result: EncoderResult, drawing: Drawing, progress: Progress) -> Contents[EncoderResult]:
    drawn = draw_encoder_result(result, drawing)
    reconstructions: dict[str, Callable[[], Picture]] = {
        reconstruction_file(step): partial(np.asarray, picture) for step, picture in enumerate(result.reconstruction)
    }

    def page(measured: EncoderResult, notes: list[str]) -> str:
        # With the arrays as the folder stores them, so that a page made from the folder is the same.
        rows = None if result.patch_rows is None else result.patch_rows.astype(GRID_DTYPE).astype(np.float32)
        return encoder_html(replace(measured, media=as_stored(result.media, drawing), patch_rows=rows), notes)

    return Contents(
        arrays=record_arrays(result),
        images={**dict(drawn.images()), **dict(embedding_images(result, drawing)), **reconstructions},
        notes=drawn.notes,
        clip=lambda draft: _draw_clip(draft, drawn, progress),
        page=page,
        json=record_json,
    )


def _draw_clip(folder: Path, drawn: DrawnEncoderResult, progress: Progress) -> tuple[list[str], list[str]]:
    """Write the moving pictures and the sampled frames of a clip; return file names and notes."""
    media = drawn.record.media
    if media.clip is None:
        return [], []
    from qvl_attn.encoders.timeline import export_clip  # loads matplotlib

    files, notes = export_clip(folder, drawn.record, drawn.headline, drawn.drawing, tuple(drawn.foot), progress)
    return [*files, *write_sampled_frames(folder, media)], notes


def _from_folder(folder: Path, value: dict[str, Any]) -> EncoderResult:
    (media_json,) = value["media"]
    for name in ("notes", "said", "files"):
        if not (isinstance(value[name], list) and all(isinstance(line, str) for line in value[name])):
            raise ValueError(f"{name}: not a list of lines")
    for name in ("headline", "input_px", "layers", "patch_px"):  # displayed unchanged: only their presence is checked
        _ = value[name]
    arrays = read_npz(folder / ARRAYS_FILE)
    result = record_from(EncoderResult, value, arrays, media_from(folder, 0, media_json))
    reconstruction = np.stack(
        [read_png(folder / reconstruction_file(step)) for step in range(result.attention.grid[0])]
    )
    if reconstruction.shape != result.reconstruction.shape:
        raise ValueError(f"{reconstruction_file(0)} does not have the size of the input")
    return replace(result, reconstruction=reconstruction)
