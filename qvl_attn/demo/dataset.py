"""Writes held-out scenes or clips as a data set: the media, and a JSONL of questions with answers and boxes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qvl_attn.core.errors import InputError
from qvl_attn.core.files import check_new, check_writable, new_folder, write_png
from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.core.text import argument
from qvl_attn.demo import heldout
from qvl_attn.demo.questions import Question
from qvl_attn.media.mp4 import write_mp4

QUESTIONS_FILE = "questions.jsonl"
# Nearly lossless: the clips are small, and the questions are about colours.
CLIP_QUALITY = 8


def write_dataset(out: Path, count: int, *, video: bool = False, progress: Progress = no_progress) -> int:
    """Write the first `count` held-out scenes or clips to a new folder, which appears when it is complete.

    `questions.jsonl` has one object per line: id, image or video (a relative path), question, answer, boxes (a list of
    x0, y0, x1, y1), box_format "xyxy", box_units "px", and for clips frame, the index of each box's frame from 0.

    Args:
        out: the folder to create.
        count: number of scenes or clips.
        video: write clips instead of pictures.
        progress: called with (stage, done, total): the scenes or clips written.

    Returns:
        The number of questions written.

    Raises:
        InputError: `out` already exists, or `count` is not positive.
        StoreError: the folder cannot be written.
    """
    if count < 1:
        raise InputError(f"{argument('count', count)}: want 1 or more")
    check_new(out)
    check_writable(out.parent)
    questions = 0
    with new_folder(out) as folder:
        (folder / ("videos" if video else "images")).mkdir()
        with (folder / QUESTIONS_FILE).open("x", encoding="utf-8", newline="\n") as file:
            for index in range(count):
                for row in _write_sample(folder, index, video):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    questions += 1
                progress("drawing", index + 1, count)
            file.flush()
            os.fsync(file.fileno())
    return questions


def _write_sample(folder: Path, index: int, video: bool) -> Iterator[dict[str, Any]]:
    if video:
        clip = heldout.clip(index)
        name = f"videos/clip-{index:05d}.mp4"
        fps, frames = clip.content.fps, clip.content.frames
        timed_frames = ((pixels, i / fps) for i, pixels in enumerate(frames))
        write_mp4(folder / name, timed_frames, len(frames) / fps, rate_fps=fps, quality=CLIP_QUALITY)
        return _rows(f"clip-{index:05d}", {"video": name}, clip.questions)
    scene = heldout.scene(index)
    name = f"images/scene-{index:05d}.png"
    write_png(folder / name, scene.content.picture)
    return _rows(f"scene-{index:05d}", {"image": name}, scene.questions)


def _rows(sample: str, media: dict[str, str], questions: tuple[Question, ...]) -> Iterator[dict[str, Any]]:
    for question in questions:
        row = {
            "id": f"{sample}-{question.kind}-{question.language}",
            **media,
            "question": question.question,
            "answer": question.answer,
            "boxes": question.fact.boxes_xyxy_px,
            "box_format": "xyxy",
            "box_units": "px",
        }
        yield row | ({"frame": question.fact.frames} if "video" in media else {})
