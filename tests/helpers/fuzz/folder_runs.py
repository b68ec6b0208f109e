"""Runs of an encoder over a folder: run.json, rows, summary, vectors; printed, or resumed just before their end."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from qvl_attn.cli.output import print_folder_run
from qvl_attn.encoders.folder_json import read_folder_summary
from qvl_attn.encoders.folder_run import encode_folder
from qvl_attn.encoders.record import EncoderSettings
from tests.helpers import tiny_encoders
from tests.helpers.mutations import mutate_bytes, mutate_json

NAME = "folder runs"
QUICK_INPUTS = 60
PHOTOS = {"a/one.png": (80, 70), "a/two.png": (70, 70), "b/three.png": (90, 60), "b/broken.png": None}


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="folder-runs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, size in PHOTOS.items():
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if size is None:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(tiny_encoders.pixels(*size, len(name))[0]).save(path)
    return folder


def _encode(out: Path) -> None:
    """Encode without charts, which take most of the time."""
    drawn = np.zeros((4, 4, 3), np.uint8)
    with (
        patch("qvl_attn.encoders.folder_summary.draw_folder_statistics", lambda *args: drawn),
        patch("qvl_attn.encoders.folder_summary.folder_images", lambda *args: ()),
    ):
        settings = EncoderSettings(embeddings=("pca",))
        encode_folder(tiny_encoders.encoder("dino"), _folder() / "photos", out, settings)


@cache
def _files() -> dict[str, bytes]:
    out = _folder() / "run"
    _encode(out)
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def _mutated(rng: random.Random, file: str, data: bytes) -> bytes:
    if rng.random() < 0.2 or file.endswith(".npz"):
        return mutate_bytes(rng, data)
    lines = data.splitlines() if file.endswith(".jsonl") else [data]
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(mutate_json(rng, json.loads(lines[at]))).encode()
    return b"\n".join(lines) + b"\n"


def try_one(rng: random.Random, folder: Path) -> None:
    file = rng.choice(["run.json", "scores.jsonl", "scores.jsonl", "summary.json", "summary.json", "embeddings.npz"])
    files = _files() | {file: _mutated(rng, file, _files()[file])}
    prints = file == "summary.json" or rng.random() < 0.1
    for name, data in files.items():
        if prints or name != "summary.json":
            (folder / name).write_bytes(data)
    if prints:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            print_folder_run(read_folder_summary(folder), folder, as_json=rng.random() < 0.2, quiet=False)
    else:
        _encode(folder)
