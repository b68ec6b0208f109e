"""Writes held-out scenes or clips as a data set: pictures or clips, and a JSONL of questions with answers and boxes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qvl_attn.core.errors import InputError
from qvl_attn.core.files import check_new, check_writable, new_folder, write_png
from qvl_attn.demo import heldout
from qvl_attn.demo.questions import Question
from qvl_attn.media.mp4 import write_mp4

QUESTIONS_FILE = "questions.jsonl"
# Nearly without loss: the clips are small, and their colours are what is asked about.
CLIP_QUALITY = 8


def write_dataset(
    out: Path, count: int, *, video: bool = False, progress: Callable[[int], None] = lambda done: None
) -> int:
    """Writes the first `count` held-out scenes or clips; the folder appears when it is complete.

    `questions.jsonl` has one object a line: id, image or video (a path beside it), question, answer, boxes (a list of
    x0, y0, x1, y1), box_format "xyxy", box_units "px", and for clips frame, the number of each box's frame from 0.

    Args:
        out: folder to be.
        count: how many scenes or clips.
        video: clips instead of pictures.
        progress: told after each how many are done.

    Returns:
        How many questions were written.

    Raises:
        InputError: `out` is there already, or `count` is not positive.
        StoreError: it cannot be written.
    """
    if count < 1:
        raise InputError(f"--n {count}: want 1 or more")
    check_new(out)
    check_writable(out.parent)
    questions = 0
    with new_folder(out) as folder:
        (folder / ("videos" if video else "images")).mkdir()
        with (folder / QUESTIONS_FILE).open("x", encoding="utf-8", newline="\n") as lines:
            for index in range(count):
                for row in _write_sample(folder, index, video):
                    lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                    questions += 1
                progress(index + 1)
            lines.flush()
            os.fsync(lines.fileno())
    return questions


def _write_sample(folder: Path, index: int, video: bool) -> Iterator[dict[str, Any]]:
    if video:
        film = heldout.clip(index)
        name = f"videos/clip-{index:05d}.mp4"
        fps, frames = film.shown.fps, film.shown.frames
        shown = ((pixels, i / fps) for i, pixels in enumerate(frames))
        write_mp4(folder / name, shown, len(frames) / fps, rate_fps=fps, quality=CLIP_QUALITY)
        return _rows(f"clip-{index:05d}", {"video": name}, film.questions)
    picture = heldout.scene(index)
    name = f"images/scene-{index:05d}.png"
    write_png(folder / name, picture.shown.picture)
    return _rows(f"scene-{index:05d}", {"image": name}, picture.questions)


def _rows(sample: str, shown: dict[str, str], questions: tuple[Question, ...]) -> Iterator[dict[str, Any]]:
    for question in questions:
        row = {
            "id": f"{sample}-{question.kind}-{question.language}",
            **shown,
            "question": question.question,
            "answer": question.answer,
            "boxes": question.fact.boxes_xyxy_px,
            "box_format": "xyxy",
            "box_units": "px",
        }
        yield row | ({"frame": question.fact.frames} if "video" in shown else {})
