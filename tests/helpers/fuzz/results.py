"""Saved results of `ask`, `video` and `encoder`: JSON, arrays and pictures; loaded, drawn, and written as a page."""

from __future__ import annotations

import io
import json
import random
from functools import cache
from pathlib import Path

import numpy as np

from qvl_attn.kinds import read_saved
from qvl_attn.render.style import Drawing
from qvl_attn.report import make_report
from qvl_attn.results.redraw import redrawn
from tests.helpers.kept import kept_files, write_kept
from tests.helpers.mutations import mutate_array, mutate_bytes, mutate_json

NAME = "results"
QUICK_INPUTS = 40
KINDS = ("ask", "ask-methods", "video", "encoder")


@cache
def _arrays(kind: str, file: str) -> dict[str, np.ndarray]:
    return dict(np.load(io.BytesIO(kept_files(kind)[file])))


def _mutated(rng: random.Random, kind: str, file: str) -> bytes:
    data = kept_files(kind)[file]
    if rng.random() < 0.15:
        return mutate_bytes(rng, data)
    if file.endswith(".json"):
        return json.dumps(mutate_json(rng, json.loads(data))).encode()
    if file.endswith(".npz"):
        arrays = dict(_arrays(kind, file))
        name = rng.choice(sorted(arrays))
        if rng.random() < 0.15:
            del arrays[name]
        else:
            arrays[name] = mutate_array(rng, arrays[name])
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        return stream.getvalue()
    return mutate_bytes(rng, data)


def try_one(rng: random.Random, folder: Path) -> None:
    kind = rng.choice(KINDS)
    names = [name for name in kept_files(kind) if rng.random() < 0.5 or not name.startswith("passes")]
    file = rng.choice([name for name in names if name.endswith((".json", ".npz"))] * 4 + names)
    write_kept(kind, folder, **{file: _mutated(rng, kind, file)})
    if rng.random() < 0.05:
        (folder / rng.choice(names)).unlink()
    drawing = Drawing(draw_size_px=64)
    result = read_saved(folder)
    drawn = result._figures(drawing)
    drawn.overlay()
    rng.choice([picture for _, picture in drawn.images()])()
    if result.is_clip:
        drawn.timeline()
        drawn.frame_overlay()
    over, query = rng.choice(("mean", "max", "min")), rng.choice(("question", "last", "answer"))
    redrawn(result, **({"over": over, "layer": 0} if kind == "encoder" else {"query": query}))
    make_report(folder)
