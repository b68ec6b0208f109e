"""Question sets: JSONL files of ids and questions."""

from __future__ import annotations

import json
import random
from pathlib import Path

from qvl_attn.evaluation.data.question_sets import load_prompts
from tests.helpers.mutations import mutate_bytes, mutate_json

NAME = "prompt_sets"
ITEMS = (
    {"id": "a", "question": "how many cats?"},
    {"id": "b", "question": "first\u2028second?", "language": "en"},
    {"id": "c", "question": "几只猫？", "language": "zh", "meta": [1], "x_note": None},
)


def try_one(rng: random.Random, folder: Path) -> None:
    items = [mutate_json(rng, item) if rng.random() < 0.5 else item for item in rng.sample(ITEMS, rng.randint(1, 3))]
    lines = [json.dumps(item, ensure_ascii=rng.random() < 0.5) for item in items]
    data = rng.choice(("\n", "\r\n", "\n\n")).join(lines).encode("utf-8", "surrogatepass")
    (folder / "set.jsonl").write_bytes(mutate_bytes(rng, data) if rng.random() < 0.3 else data)
    load_prompts(str(folder / "set.jsonl"))
