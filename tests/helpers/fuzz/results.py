"""Saved results of `ask`, `video` and `encoder`: JSON, arrays and pictures; loaded, drawn, and written as a page.

They are the kept ones, and a made-up one of an encoder about a clip, with saliency.
"""

from __future__ import annotations

import io
import json
import random
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from qvl_attn.core.files import npz_bytes
from qvl_attn.encoders.figures import reconstruction_file
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.kinds import read_saved
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.render.style import Drawing
from qvl_attn.report import make_report
from qvl_attn.results.codec import sampled_frame_file
from qvl_attn.results.redraw import redrawn
from tests.helpers.kept import kept_files
from tests.helpers.made_up_encoder_results import made_up_result
from tests.helpers.mutations import mutate_array, mutate_bytes, mutate_json

NAME = "results"
QUICK_INPUTS = 40
KINDS = ("ask", "ask-methods", "video", "encoder", "encoder clip")


@cache
def _files(kind: str) -> dict[str, bytes]:
    if kind != "encoder clip":
        return kept_files(kind)
    settings = EncoderSettings(saliency=True, texts=("a cat",), clip=ClipSettings())
    result = made_up_result((2, 3, 4), size_px=(80, 60), query_patches=(5,), settings=settings)
    pictures = {sampled_frame_file(i): frame for i, frame in enumerate(result.media[0].frames)}
    pictures |= {reconstruction_file(i): step for i, step in enumerate(result.reconstruction)}
    return {
        "result.json": json.dumps(result._json((), [*pictures], ["a note"])).encode(),
        "attention.npz": npz_bytes(result._arrays()),
        **{name: _png(pixels) for name, pixels in pictures.items()},
    }


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


@cache
def _arrays(kind: str, file: str) -> dict[str, np.ndarray]:
    return dict(np.load(io.BytesIO(_files(kind)[file])))


def _mutated(rng: random.Random, kind: str, file: str) -> bytes:
    data = _files(kind)[file]
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
    names = [name for name in _files(kind) if rng.random() < 0.5 or not name.startswith("passes")]
    file = rng.choice([name for name in names if name.endswith((".json", ".npz"))] * 4 + names)
    for name, data in (_files(kind) | {file: _mutated(rng, kind, file)}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
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
    redrawn(result, **({"over": over, "layer": 0} if kind.startswith("encoder") else {"query": query}))
    make_report(folder)
