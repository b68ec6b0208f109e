"""Rows of a data set: a JSONL file about two pictures, one of them damaged now and then."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qvl_attn.evaluation.data.load import load_samples
from tests.helpers.mutations import mutate_bytes, mutate_json

NAME = "rows"
BOXES: dict[str, Any] = {"boxes": [[2, 3, 20, 15]], "box_format": "xyxy", "box_units": "px"}
ROWS: tuple[dict[str, Any], ...] = (
    {"id": "1", "image": "a.png", "question": "how many cats?", "answer": "2", **BOXES},
    {"id": 2, "images": ["a.png", "b.png"], "question": "where?", **BOXES, "frame": [1]},
    {"id": "3", "image": "b.png", "question": "what color?", "answer": ["red"] * 10, "meta": {"a": 1}, "x_a": None},
    {"id": "4", "image": "b.png", "question": "?", "boxes": [[0.5, 0.5, 0.2, 0.2]], "box_format": "cxcywh"}
    | {"box_units": "normalized"},
)


@cache
def _picture(width: int, height: int) -> bytes:
    from io import BytesIO

    stream = BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(stream, format="PNG")
    return stream.getvalue()


def try_one(rng: random.Random, folder: Path) -> None:
    (folder / "a.png").write_bytes(_picture(40, 30))
    (folder / "b.png").write_bytes(_picture(30, 44))
    rows = [mutate_json(rng, row) if rng.random() < 0.5 else row for row in rng.sample(ROWS, rng.randint(1, 4))]
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    data = rng.choice(("\n", "\n", "\r\n", "\n\n")).join(lines).encode("utf-8", "surrogatepass")
    file = folder / rng.choice(("questions.jsonl", "questions.json"))
    file.write_bytes(mutate_bytes(rng, data) if rng.random() < 0.3 else data)
    load_samples(file)
