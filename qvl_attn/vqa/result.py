"""A question's result: what its folder holds beside what every kind of result has."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.files import write_json, write_npz, write_png
from qvl_attn.core.text import argument
from qvl_attn.core.types import HeatMap, Source
from qvl_attn.render.html.payload import Payload
from qvl_attn.render.style import Drawing
from qvl_attn.results.added import settings_key
from qvl_attn.results.codec import picture_file, write_sampled_frames
from qvl_attn.results.page_data import PagePart
from qvl_attn.results.result import StoredResult
from qvl_attn.results.store import ARRAYS_FILE, RESULT_FILE, is_pass
from qvl_attn.vqa.codec import QuestionJson, pass_folder, question_arrays, question_json, record_from
from qvl_attn.vqa.figures import QuestionFigures, draw_result
from qvl_attn.vqa.maps import QuestionMaps
from qvl_attn.vqa.page import question_page_part
from qvl_attn.vqa.record import VqaRecord
from qvl_attn.vqa.redraw import left_behind, with_headline

LOG = logging.getLogger(__name__)
# Provenance fields that distinguish results of the same question about the same picture.
IDENTITY = ("qvl_attn", "transformers", "model", "revision", "dtype", "device", "attention")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Result(VqaRecord, StoredResult):
    """One question about one prompt's pictures, or about one clip: a record that can be saved and loaded."""

    kinds: ClassVar = ("ask", "video")
    remedy: ClassVar = f"ask again with {argument('overwrite', True)}"
    schema: ClassVar = QuestionJson
    choices: ClassVar = ("layers", "heads", "query", "method")

    passes: tuple[Result, ...] = ()

    def _with_choices(self, **choices: Any) -> Self:
        drawn = with_headline(self, **choices)
        for name in left_behind(self, drawn):
            LOG.info(f"note: {name} belongs to another map and is not copied; it stays in the saved result")
        return drawn

    def _title(self) -> str:
        return f"{self.question} — {self.mapped_answer}"

    def _label(self) -> str:
        return self.question

    def _key(self) -> dict[str, Any]:
        return request_key(self.media, self.question, self.settings, asdict(self.provenance))

    def _maps(self) -> QuestionMaps:
        return QuestionMaps(self)

    def _figures(self, drawing: Drawing) -> QuestionFigures:
        return draw_result(self, drawing)

    def _page_part(self, notes: Sequence[str], payload: Payload) -> PagePart:
        """Return the result's part of a page; see `page_data.Paged`."""
        return question_page_part(self, notes, payload)

    def _arrays(self) -> dict[str, np.ndarray]:
        return question_arrays(self)

    def _as_json(self, drawn: Sequence[HeatMap], **common: Any) -> QuestionJson:
        return question_json(self, drawn, **common)

    @classmethod
    def _from_json(cls, folder: Path, saved: QuestionJson, arrays: Mapping[str, np.ndarray], **common: Any) -> Self:
        if saved.passes and is_pass(folder):
            raise ValueError("passes: a pass has none of its own")
        count = len(saved.passes.results) if saved.passes else 0
        passes = tuple(cls.load(folder / pass_folder(i)) for i in range(count))
        return record_from(cls, saved, arrays, passes, **common)

    def _write_parts(self, folder: Path) -> list[str]:
        return [file for i, part in enumerate(self.passes) for file in _write_pass(folder, pass_folder(i), part)]


def request_key(
    media: Sequence[Source], question: str, settings: Settings, made_by: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what makes a question's result a different one, besides its drawing.

    Args:
        media: the pictures, in prompt order, or the clip.
        question: text of the question.
        settings: settings of the question.
        made_by: provenance fields: at least the keys of `IDENTITY`.
    """
    return {
        "media": [medium.sha256 for medium in media],
        "question": question,
        "settings": settings_key(settings),
        "made_by": {name: made_by[name] for name in IDENTITY},
    }


def _write_pass(folder: Path, name: str, result: Result) -> list[str]:
    """Write a pass over part of a clip as a result of its own, without drawings; return the file names."""
    (folder / name).mkdir(parents=True)
    media = result.media[0]
    if media.clip is None:
        write_png(folder / name / picture_file(0), media.frames[0])
        frames = [picture_file(0)]
    else:
        frames = write_sampled_frames(folder / name, media)
    write_npz(folder / name / ARRAYS_FILE, result._arrays())
    files = [ARRAYS_FILE, *frames, RESULT_FILE]
    write_json(folder / name / RESULT_FILE, result._json(result.heatmaps(), files, []))
    return [f"{name}/{file}" for file in files]
