"""A result that is saved, found again, loaded and shown: written once for every kind of result."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from qvl_attn.core.errors import CaptureError, InputError, StoreError
from qvl_attn.core.files import read_json, read_npz, write_png
from qvl_attn.core.runtime import Progress, cancelling
from qvl_attn.core.text import quoted, shortened
from qvl_attn.core.typed_json import decoded
from qvl_attn.core.types import HeatMap, Source
from qvl_attn.render.html.notebook import framed
from qvl_attn.render.html.payload import Payload
from qvl_attn.render.style import Drawing
from qvl_attn.results.codec import (
    SCHEMA_VERSION,
    ResultJson,
    as_stored,
    media_json,
    read_media,
    write_sampled_frames,
)
from qvl_attn.results.figures import Figures, font_notes, media_notes
from qvl_attn.results.page_data import PagePart, maps_page_part, results_html
from qvl_attn.results.record import MapSource, Record
from qvl_attn.results.store import (
    ARRAYS_FILE,
    RESULT_FILE,
    Contents,
    draw_threads,
    folder_name,
    is_pass,
    reading,
    save_record,
)

LOADERS = "the class of its kind loads it; report and render take results of every kind"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class StoredResult(Record, ABC):
    """A record with a folder. A kind of result fills in the methods that begin with an underscore.

    Attributes:
        kinds: what `kind` in `result.json` may be: of pictures, and last of a clip.
        remedy: what to do if a folder is damaged.
        schema: the fields of its `result.json`.
        choices: the arguments of `redrawn` that choose another headline.
    """

    kinds: ClassVar[tuple[str, ...]]
    remedy: ClassVar[str]
    schema: ClassVar[type[ResultJson]]
    choices: ClassVar[tuple[str, ...]] = ()

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
            drawing: size, colours and filters of the pictures.
            overwrite: whether to replace an existing folder of the same result.
            progress: called with (stage, done, total).

        Returns:
            The written folder.

        Raises:
            StoreError: the folder cannot be written, or already exists.
        """
        drawing = drawing or Drawing()
        maps = self._maps()
        threads = draw_threads([maps.size_px(i) for i in range(len(maps.media))], drawing)
        target = self.folder(out, drawing)
        with cancelling(progress=progress) as (progress, _):
            return save_record(
                self,
                target,
                lambda: self._contents(drawing, progress),
                threads,
                overwrite=overwrite,
                progress=progress,
            )

    def folder(self, out: str | os.PathLike[str], drawing: Drawing | None = None) -> Path:
        """Return the folder that `save` writes."""
        return request_folder(Path(out), self.media, self._label(), self._key(), drawing or Drawing())

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a result back from its folder. No model is needed.

        Raises:
            InputError: it is a result of another kind.
            StoreError: the folder is not a complete result of a known schema.
        """
        return cls.load_with(Path(folder), cls.saved_json(Path(folder)))

    @classmethod
    def load_with(cls, folder: Path, saved: Any) -> Self:
        """Do as `load`, with the `result.json` that `saved_json` gave."""
        with reading(folder, cls.remedy):
            result = cls._from_json(
                folder,
                saved,
                read_npz(folder / ARRAYS_FILE),
                media=read_media(folder, saved.media),
                settings=saved.settings,
                provenance=saved.provenance,
                seconds=saved.seconds,
                peak_memory_bytes=saved.peak_memory_bytes,
            )
            if not is_pass(folder):  # a pass may be of a single frame
                result._check_kind(saved.kind)
            return result

    def _check_kind(self, kind: str) -> None:
        """Check that the kind of a saved result, its settings and its media are all of pictures, or all of a clip.

        Raises:
            ValueError: they contradict each other.
        """
        if len(self.kinds) > 1 and kind != self.kinds[self.is_clip]:
            raise ValueError(f"kind: {kind} of {self.media[0].kind}s")
        if len(self.kinds) > 1 and self.is_clip != (self.settings.clip is not None):
            raise ValueError(f"settings.clip: does not fit the media, which are {self.media[0].kind}s")

    @classmethod
    def saved_json(cls, folder: Path, parsed: dict[str, Any] | None = None) -> Any:
        """Return the `result.json` of a folder, as the class's `schema`.

        Args:
            folder: the folder.
            parsed: what the file holds, if it is read already.

        Raises:
            InputError: it is a result of another kind.
            StoreError: it is not a result of a known schema.
        """
        value = read_json(folder / RESULT_FILE) if parsed is None else parsed
        kind, version = value.get("kind"), value.get("schema_version")
        if version != SCHEMA_VERSION:
            raise StoreError(f"{folder} has schema {quoted(version)}", f"this version reads {SCHEMA_VERSION}")
        if not isinstance(kind, str):
            raise StoreError(f"{folder} is damaged: kind: want a text", cls.remedy)
        if kind not in cls.kinds:
            raise InputError(f"{folder} is a result of {shortened(kind)}, not of {' or '.join(cls.kinds)}", LOADERS)
        with reading(folder, cls.remedy):
            return decoded(value, cls.schema, "result")

    def page(self, notes: Sequence[str] = ()) -> str:
        """Return the HTML page of the result.

        Args:
            notes: what its reader should know, a line each.
        """
        return results_html([self], [notes])

    def _repr_html_(self) -> str | None:
        """Return the page of the result for a notebook; None if there is no attention to draw."""
        try:
            drawn = self._figures(Drawing())
            return framed(self.page(drawn.notes), drawn.overlay(), self._title())
        except CaptureError:
            return None

    def _contents(self, drawing: Drawing, progress: Progress) -> Contents[Self]:
        drawn = self._figures(drawing)

        def page(measured: Self, notes: list[str]) -> str:
            stored = measured._as_stored()
            return replace(stored, media=tuple(as_stored(medium, drawing) for medium in stored.media)).page(notes)

        return Contents(
            arrays=self._arrays(),
            images=dict(drawn.images()),
            notes=(*drawn.notes, *drawn.filter_notes()),
            clip=lambda draft: self._draw_clip(draft, drawn, drawing, progress),
            page=page,
            json=lambda measured, files, notes: measured._json(drawn.headline, files, notes),
        )

    def _draw_clip(
        self, folder: Path, drawn: Figures, drawing: Drawing, progress: Progress
    ) -> tuple[list[str], list[str]]:
        """Write the video, timeline and frames of a clip's result; return the file names and notes."""
        if not self.is_clip:
            return [], []
        from qvl_attn.results.clip_export import export_frames  # loads PyAV

        settings = self.settings.clip
        source_fps = settings.source_fps if settings else None
        overlay = drawn.frame_overlay()
        files, notes = export_frames(folder, self.media[0], source_fps, overlay, drawing, progress)
        write_png(folder / "timeline.png", drawn.timeline())
        files += ["timeline.png", *write_sampled_frames(folder, self.media[0]), *self._write_parts(folder)]
        return files, notes

    def _with_choices(self, **choices: Any) -> Self:
        """Return the result with another headline; what belongs to another map and is dropped is logged, a line each.

        Args:
            choices: by name, of `choices`; those that were made.

        Raises:
            InputError: the result has no such layer, head, query or method.
            CaptureError: there is no attention to draw.
        """
        return self

    def _as_stored(self) -> Self:
        """Return the result with its arrays as the folder stores them, so that a page made from it is the same."""
        return self

    def _write_parts(self, folder: Path) -> list[str]:
        """Write further folders of a clip's result; return the file names."""
        return []

    def _title(self) -> str:
        """Return the title of the result in a notebook."""
        maps = self._maps()
        return maps.describe(maps.headline).title

    @abstractmethod
    def _label(self) -> str:
        """Return the readable part of the folder's name that differs between results about the same media."""

    @abstractmethod
    def _key(self) -> dict[str, Any]:
        """Return what makes it a different result, besides the drawing, as JSON values."""

    @abstractmethod
    def _maps(self) -> MapSource:
        """Return the maps that figures, films and pages draw."""

    def _figures(self, drawing: Drawing) -> Figures:
        """Return the pictures of the result.

        Raises:
            CaptureError: there is no attention to draw.
        """
        return Figures(self._maps(), drawing, (*media_notes(self.media, drawing), *font_notes(self._title())))

    def _page_part(self, notes: Sequence[str], payload: Payload) -> PagePart:
        """Return the result's part of a page; see `page_data.Paged`."""
        return maps_page_part(self, self._maps(), self._title(), notes, payload)

    @abstractmethod
    def _arrays(self) -> Mapping[str, np.ndarray]:
        """Return the contents of `attention.npz`."""

    def _json(self, drawn: Sequence[HeatMap], files: Sequence[str], notes: Sequence[str]) -> dict[str, Any]:
        """Return the contents of `result.json`.

        Args:
            drawn: the headline maps as drawn, after filters.
            files: file names relative to the folder.
            notes: what the reader should know, a line each.
        """
        common = {
            "kind": self.kinds[0 if self.settings.clip is None else -1],
            "media": tuple(
                media_json(medium, grid.grid_thw) for medium, grid in zip(self.media, self._maps().grids, strict=True)
            ),
            "settings": self.settings,
            "provenance": self.provenance,
            "seconds": dict(self.seconds),
            "peak_memory_bytes": dict(self.peak_memory_bytes),
            "notes": tuple(notes),
            "files": tuple(sorted(files)),
        }
        return asdict(self._as_json(drawn, **common))

    def _as_json(self, drawn: Sequence[HeatMap], **common: Any) -> ResultJson:
        """Return the contents of `result.json` as its `schema`.

        Args:
            drawn: the headline maps as drawn, after filters.
            common: the fields that every kind has.
        """
        return self.schema(**common)

    @classmethod
    @abstractmethod
    def _from_json(cls, folder: Path, saved: Any, arrays: Mapping[str, np.ndarray], **common: Any) -> Self:
        """Return the result of the contents of its folder.

        Args:
            folder: the folder, of which further files may be read.
            saved: `result.json`, as its `schema`.
            arrays: `attention.npz`, of which an array is unpacked when it is asked for.
            common: the fields that every kind has.
        """


def request_folder(out: Path, media: Sequence[Source], label: str, key: Mapping[str, Any], drawing: Drawing) -> Path:
    """Return the folder of a result, which is the same for the same request.

    Args:
        out: the folder that holds results.
        media: the pictures, in order, or the clip.
        label: readable part of the name: the question, or the model.
        key: what makes it a different result, besides the drawing, as JSON values.
        drawing: how the result is drawn.
    """
    return out / folder_name(media[0], label, {**key, "drawing": asdict(drawing)})
