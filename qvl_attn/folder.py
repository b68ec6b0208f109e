"""The folder of a result: its name, what is written into it, and how it is read back."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qvl_attn.errors import QvlAttnError, StoreError
from qvl_attn.pictures import draw_result
from qvl_attn.render import drawn_size_px
from qvl_attn.result import Result, Settings
from qvl_attn.schema import (
    SCHEMA_VERSION,
    capture_arrays,
    capture_from,
    result_from,
    result_json,
    tokens_from,
)
from qvl_attn.stages import Stages
from qvl_attn.store import read_json, read_npz, read_png, slug, whole_folder, write_json, write_npz, write_png
from qvl_attn.types import Drawing, Media

REMEDY = "--overwrite makes it again"
# Of the pictures that are drawn at the same time: some 40 bytes of memory each.
MAX_PIXELS_AT_ONCE = 10 * 2**20
# What makes the same question about the same picture another result.
IDENTITY = ("qvl_attn", "transformers", "model", "revision", "dtype", "device", "attention")


def folder_name(
    media: Sequence[Media], question: str, settings: Settings, drawing: Drawing, made_by: dict[str, Any]
) -> str:
    """`<media>-<question slug>-<8 hex>`: readable, safe on every file system, and the same for the same request.

    Args:
        media: the pictures, in prompt order.
        question: as it was typed.
        settings: what was asked for.
        drawing: how it is drawn.
        made_by: model, versions and precision: at least the keys of `IDENTITY`.
    """
    key = {
        "media": [one.sha256 for one in media],
        "question": question,
        "settings": asdict(settings),
        "drawing": asdict(drawing),
        "made_by": {name: made_by[name] for name in IDENTITY},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    return f"{slug(Path(media[0].source).stem, 32)}-{slug(question)}-{digest}"


def save_result(result: Result, out: Path, drawing: Drawing, *, overwrite: bool = False) -> Path:
    """Draw and write a result into its folder inside `out`; `result.json` is written last.

    Raises:
        StoreError: it cannot be written, or is there already.
    """
    name = folder_name(result.media, result.question, result.settings, drawing, asdict(result.provenance))
    target = out / name
    with whole_folder(target, overwrite=overwrite) as draft:
        stages = Stages()
        with stages.stage("draw"):
            drawn = draw_result(result, drawing)
            images = dict(drawn.images())
            tasks = [partial(write_npz, draft / "attention.npz", capture_arrays(result.capture))]
            tasks += [partial(_draw, draft / file, image) for file, image in images.items()]
            with ThreadPoolExecutor(_workers(result, drawing)) as pool:
                for _ in pool.map(lambda task: task(), tasks):  # the first fault calls off what has not begun
                    pass
        measured = replace(
            result,
            seconds=result.seconds | stages.seconds,
            peak_memory_bytes=result.peak_memory_bytes | stages.peak_bytes,
        )
        files = ["attention.npz", *images, "result.json"]
        write_json(draft / "result.json", result_json(measured, drawn.headline, files, drawn.notes))
    return target


def _draw(path: Path, image: Callable[[], np.ndarray]) -> None:
    write_png(path, image())


def _workers(result: Result, drawing: Drawing) -> int:
    """How many pictures to draw at once: as many as there are cores, fewer where each takes much memory."""
    pixels = sum(math.prod(drawn_size_px(media.size_px, drawing)) for media in result.media)
    return max(1, min(os.cpu_count() or 1, MAX_PIXELS_AT_ONCE // pixels))


def is_complete(folder: Path) -> bool:
    """Whether a result was written there to its end."""
    return (folder / "result.json").is_file()


def picture_file(index: int) -> str:
    """Where the picture itself is kept, at the size it was drawn, so that a result can be drawn again."""
    return f"picture_{index + 1}.png"


def load_result(folder: Path) -> Result:
    """Read a result back.

    Raises:
        StoreError: not a complete result of a known schema.
    """
    value = read_json(folder / "result.json")
    if value.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(f"{folder} has schema {value.get('schema_version')!r}", f"this version reads {SCHEMA_VERSION}")
    try:
        arrays = read_npz(folder / "attention.npz")
        media = tuple(_media_from(folder / picture_file(i), item) for i, item in enumerate(value["media"]))
        return result_from(value, capture_from(arrays, tokens_from(value["tokens"]), media), media)
    except QvlAttnError as error:
        raise StoreError(f"{folder} is damaged: {error.message}", REMEDY) from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, MemoryError) as error:
        raise StoreError(f"{folder} is damaged: {type(error).__name__}: {error}", REMEDY) from None


def _media_from(path: Path, item: dict[str, Any]) -> Media:
    width, height = (int(side) for side in item["size_px"])
    return Media(
        kind="picture",
        frames=read_png(path)[None],
        times_s=np.array(item["times_s"], dtype=np.float64),
        size_px=(width, height),
        source=str(item["name"]),
        sha256=str(item["sha256"]),
        notes=tuple(str(note) for note in item["notes"]),
    )
