"""A question's result and its folder: how it is written and read back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import CaptureError, InputError, StoreError
from qvl_attn.core.files import read_json, read_npz, write_json, write_npz, write_png
from qvl_attn.core.runtime import Progress, cancelling
from qvl_attn.core.text import argument
from qvl_attn.core.types import Source
from qvl_attn.render.html.notebook import framed
from qvl_attn.render.style import Drawing
from qvl_attn.results.added import settings_key
from qvl_attn.results.codec import as_stored, media_from, picture_file, write_sampled_frames
from qvl_attn.results.store import (
    ARRAYS_FILE,
    RESULT_FILE,
    Contents,
    draw_threads,
    folder_name,
    reading,
    save_record,
)
from qvl_attn.vqa.codec import SCHEMA_VERSION, pass_folder, record_arrays, record_from, record_json
from qvl_attn.vqa.figures import DrawnResult, draw_result
from qvl_attn.vqa.page import result_html
from qvl_attn.vqa.record import VqaRecord

REMEDY = f"ask again with {argument('overwrite', True)}"
# Provenance fields that distinguish results of the same question about the same picture.
IDENTITY = ("qvl_attn", "transformers", "model", "revision", "dtype", "device", "attention")


@dataclass(frozen=True, eq=False, repr=False)
class Result(VqaRecord):
    """One question about one prompt's pictures, or about one clip: a record that can be saved and loaded."""

    passes: tuple[Result, ...] = ()

    def _repr_html_(self) -> str | None:
        """Return the page of the result for a notebook; None if there is no attention to draw."""
        try:
            drawn = draw_result(self, Drawing())
        except CaptureError:
            return None
        page = result_html([self], [drawn.notes])
        return framed(page, drawn.overlay(), f"{self.question} — {self.mapped_answer}")

    def save(
        self,
        out: str | os.PathLike[str],
        drawing: Drawing | None = None,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Draw the result and write it to a folder of its own inside `out`; `result.json` is written last.

        Args:
            out: the folder that holds results; created if missing.
            drawing: how to draw.
            overwrite: whether to replace an existing folder of the same result.
            progress: called with (stage, done, total).

        Returns:
            The written folder.

        Raises:
            StoreError: the folder cannot be written, or already exists.
        """
        drawing = drawing or Drawing()
        threads = draw_threads(self.media, drawing)
        target = self.folder(out, drawing)
        with cancelling(progress=progress) as (progress, _):
            prepare = partial(_contents, self, drawing, progress)
            return save_record(self, target, prepare, threads, overwrite=overwrite, progress=progress)

    def folder(self, out: str | os.PathLike[str], drawing: Drawing | None = None) -> Path:
        """Return the folder that `save` writes."""
        made_by = asdict(self.provenance)
        return request_folder(Path(out), self.media, self.question, self.settings, drawing or Drawing(), made_by)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Result:
        """Read a result back from its folder. No model is needed.

        Raises:
            InputError: it is a result of `encoder`.
            StoreError: the folder is not a complete result of a known schema.
        """
        return _load(Path(folder))


def request_folder(
    out: Path,
    media: Sequence[Source],
    question: str,
    settings: Settings,
    drawing: Drawing,
    made_by: Mapping[str, Any],
) -> Path:
    """Return the folder of a result, which is the same for the same request.

    Args:
        out: the folder that holds results.
        media: the pictures, in prompt order, or the clip.
        question: text of the question.
        settings: settings of the question.
        drawing: how the result is drawn.
        made_by: provenance fields: at least the keys of `IDENTITY`.
    """
    key = {
        "media": [medium.sha256 for medium in media],
        "question": question,
        "settings": settings_key(settings),
        "drawing": asdict(drawing),
        "made_by": {name: made_by[name] for name in IDENTITY},
    }
    return out / folder_name(media[0], question, key)


def _contents(result: Result, drawing: Drawing, progress: Progress) -> Contents[Result]:
    drawn = draw_result(result, drawing)

    def page(measured: Result, notes: list[str]) -> str:
        stored = replace(measured, media=tuple(as_stored(medium, drawing) for medium in result.media))
        return result_html([stored], [notes])

    return Contents(
        arrays=record_arrays(result),
        images=dict(drawn.images()),
        notes=drawn.notes,
        clip=lambda draft: _draw_clip(draft, result, drawn, progress),
        page=page,
        json=lambda measured, files, notes: record_json(measured, drawn.headline, files, notes),
    )


def _draw_clip(folder: Path, result: Result, drawn: DrawnResult, progress: Progress) -> tuple[list[str], list[str]]:
    """Write the video, timeline, frames and passes of a clip's result; return the file names and notes."""
    if result.media[0].clip is None:
        return [], []
    from qvl_attn.vqa.timeline import export_clip  # loads matplotlib

    files, notes = export_clip(folder, result, drawn.headline[0], drawn.drawing, drawn.foot, progress)
    files += write_sampled_frames(folder, result.media[0])
    for i, pass_result in enumerate(result.passes):
        files += _write_pass(folder, pass_folder(i), pass_result)
    return files, notes


def _write_pass(folder: Path, name: str, result: Result) -> list[str]:
    """Write a pass over part of a clip as a result of its own, without drawings; return the file names."""
    (folder / name).mkdir(parents=True)
    media = result.media[0]
    if media.clip is None:
        write_png(folder / name / picture_file(0), media.frames[0])
        frames = [picture_file(0)]
    else:
        frames = write_sampled_frames(folder / name, media)
    write_npz(folder / name / ARRAYS_FILE, record_arrays(result))
    files = [ARRAYS_FILE, *frames, RESULT_FILE]
    write_json(folder / name / RESULT_FILE, record_json(result, result.heatmaps(), files, []))
    return [f"{name}/{file}" for file in files]


def _load(folder: Path) -> Result:
    value = read_json(folder / RESULT_FILE)
    if value.get("kind") == "encoder":
        raise InputError(
            f"{folder} is a result of encoder, not of ask or video",
            "EncoderResult.load reads it; its page is report.html",
        )
    if value.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(f"{folder} has schema {value.get('schema_version')!r}", f"this version reads {SCHEMA_VERSION}")
    with reading(folder, REMEDY):
        arrays = read_npz(folder / ARRAYS_FILE)
        media = tuple(media_from(folder, i, item) for i, item in enumerate(value["media"]))
        passes = value["passes"]["results"] if value.get("passes") else ()
        result = record_from(Result, value, arrays, media)
        return replace(result, passes=tuple(_load(folder / pass_folder(i)) for i in range(len(passes))))
