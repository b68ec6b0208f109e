"""Model folders: mutated settings, templates and weights of the embedded model and of small encoders."""

from __future__ import annotations

import json
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from qvl_attn import Analyzer, Encoder
from qvl_attn.core.types import Media
from tests.helpers.mutations import mutate_bytes, mutate_json
from tests.helpers.tiny_encoders import DEMO_MODEL
from tests.helpers.tiny_encoders import folder as encoder_folder

NAME = "model folders"
QUICK_INPUTS = 40
ENCODERS = ("dino", "clip", "siglip", "registers")
WEIGHTS, TEMPLATE = "model.safetensors", "chat_template.jinja"
# The files whose values reach the libraries most often are mutated most often.
OFTEN = {"config.json": 4, "preprocessor_config.json": 2, "video_preprocessor_config.json": 2}
# What a template may say that its text, mutated by bytes, hardly ever does.
LINES = (
    "{% for i in range(99999) %}{{ i }}{% endfor %}",
    "{{ messages[0]['content'][0]['text'] }}",
    "{{ messages | tojson }}",
    "<|image_pad|>",
    "<|vision_start|><|video_pad|><|vision_end|>",
    "{{ raise_exception('no system role') }}",
    "{{ messages[0].content | upper }}",
    "{% generation %}x{% endgeneration %}",
    "{{ strftime_now('%Y') }}",
)


@cache
def _picture() -> Media:
    frames = np.random.default_rng(0).integers(0, 256, (1, 56, 84, 3), dtype=np.uint8)
    return Media("picture", frames, np.zeros(1), (84, 56), "a picture", "")


@cache
def _contents(base: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(base.iterdir()) if file.suffix in (".json", ".jinja")}


def try_one(rng: random.Random, folder: Path) -> None:
    base = DEMO_MODEL if rng.random() < 0.8 else encoder_folder(rng.choice(ENCODERS))
    for name in _contents(base):
        shutil.copy(base / name, folder)
    (folder / WEIGHTS).symlink_to(base / WEIGHTS)
    for _ in range(rng.choice((1, 1, 1, 2))):
        _mutate(rng, base, folder)
    asked = base == DEMO_MODEL and rng.random() < 0.7
    loaded: Any = (Analyzer if asked else Encoder).load(str(folder), device="cpu", dtype="float32", offline=True)
    if isinstance(loaded, Encoder):
        loaded.encode(_picture())
        return
    question, system = rng.choice(("how many cats?", "?")), rng.choice((None, None, "Answer."))
    loaded.estimate(_picture(), question, system=system)
    if rng.random() < 0.3:
        loaded.ask(_picture(), question, system=system, max_new_tokens=2)


def _mutate(rng: random.Random, base: Path, folder: Path) -> None:
    names = [name for name in _contents(base) for _ in range(OFTEN.get(name, 1))]
    action = rng.random()
    if action < 0.65:
        file = folder / rng.choice([name for name in names if name.endswith(".json")])
        value = mutate_json(rng, json.loads(_contents(base)[file.name]), changes=rng.choice((1, 1, 2, 6)))
        file.write_bytes(json.dumps(value).encode("utf-8", "surrogatepass"))
    elif action < 0.75:
        file = folder / rng.choice(names)
        file.write_bytes(mutate_bytes(rng, _contents(base)[file.name]))
    elif action < 0.85 and TEMPLATE in names:
        template = _contents(base)[TEMPLATE].decode()
        at = template.index("{", rng.randrange(len(template) - 40))
        (folder / TEMPLATE).write_text(template[:at] + rng.choice(LINES) + template[at:])
    elif action < 0.9:
        (folder / rng.choice((*names, WEIGHTS))).unlink(missing_ok=True)
    else:
        _mutate_weights(rng, (base / WEIGHTS).read_bytes(), folder / WEIGHTS)


def _mutate_weights(rng: random.Random, data: bytes, file: Path) -> None:
    """Write weights with another header, or cut off."""
    stop = 8 + int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        value = mutate_json(rng, json.loads(data[8:stop]), changes=rng.choice((1, 4)))
        header = json.dumps(value).encode("utf-8", "surrogatepass")
    else:
        header = mutate_bytes(rng, data[8:stop])
    length = len(header) if rng.random() < 0.8 else rng.choice((0, 1, 2**31, 2**63, len(header) + 1))
    changed = length.to_bytes(8, "little") + header + data[stop:]
    file.unlink(missing_ok=True)
    file.write_bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.3 else changed)
