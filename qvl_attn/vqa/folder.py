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

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import QvlAttnError, StoreError
from qvl_attn.core.files import (
    read_json,
    read_npz,
    slug,
    whole_folder,
    write_json,
    write_npz,
    write_png,
    write_text,
)
from qvl_attn.core.runtime import Progress, Stages, untold
from qvl_attn.core.types import Media
from qvl_attn.render.html.page import REPORT_FILE
from qvl_attn.render.overlay import drawn_size_px
from qvl_attn.render.style import Drawing
from qvl_attn.results.codec import as_kept, media_from, picture_file, write_frames
from qvl_attn.vqa.codec import (
    SCHEMA_VERSION,
    pass_folder,
    result_arrays,
    result_from,
    result_json,
)
from qvl_attn.vqa.figures import DrawnResult, draw_result
from qvl_attn.vqa.page import result_html
from qvl_attn.vqa.record import Result

REMEDY = "ask again with --overwrite"
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


def folder_of(result: Result, drawing: Drawing, out: Path) -> Path:
    """Where a result goes, or is."""
    return out / folder_name(result.media, result.question, result.settings, drawing, asdict(result.provenance))


def save_result(
    result: Result, out: Path, drawing: Drawing, *, overwrite: bool = False, progress: Progress = untold
) -> Path:
    """Draw and write a result into its folder inside `out`; `result.json` is written last.

    Args:
        result: what to write.
        out: the folder that holds results; made if need be.
        drawing: how to draw.
        overwrite: replace the same result.
        progress: of a clip, told what is being done, how much of it is done, and of how much.

    Raises:
        StoreError: it cannot be written, or is there already.
    """
    target = folder_of(result, drawing, out)
    with whole_folder(target, overwrite=overwrite) as draft:
        stages = Stages()
        with stages.stage("draw"):
            drawn = draw_result(result, drawing)
            images = dict(drawn.images())
            tasks = [partial(write_npz, draft / "attention.npz", result_arrays(result))]
            tasks += [partial(_draw, draft / file, image) for file, image in images.items()]
            with ThreadPoolExecutor(_workers(result, drawing)) as pool:
                for _ in pool.map(lambda task: task(), tasks):  # the first fault calls off what has not begun
                    pass
            moving, notes = _draw_clip(draft, result, drawn, progress)
        measured = replace(
            result,
            seconds=result.seconds | stages.seconds,
            peak_memory_bytes=result.peak_memory_bytes | stages.peak_bytes,
        )
        files, told = ["attention.npz", *images, *moving, REPORT_FILE, "result.json"], [*drawn.notes, *notes]
        shown = replace(measured, media=tuple(as_kept(one, drawing) for one in result.media))
        write_text(draft / REPORT_FILE, result_html([shown], [told]))
        write_json(draft / "result.json", result_json(measured, drawn.headline, files, told))
    return target


def _draw_clip(folder: Path, result: Result, drawn: DrawnResult, progress: Progress) -> tuple[list[str], list[str]]:
    """Of a clip, what moves, the frames themselves and the passes: files and notes."""
    if result.media[0].clip is None:
        return [], []
    from qvl_attn.vqa.timeline import write_reel  # loads matplotlib

    files, notes = write_reel(folder, result, drawn.headline[0], drawn.drawing, drawn.foot, progress)
    files += write_frames(folder, result.media[0])
    for i, one in enumerate(result.passes):
        files += _write_pass(folder, pass_folder(i), one)
    return files, notes


def _write_pass(folder: Path, name: str, one: Result) -> list[str]:
    """A pass over part of a clip: a result of its own, without drawings."""
    (folder / name).mkdir(parents=True)
    media = one.media[0]
    if media.clip is None:
        write_png(folder / name / picture_file(0), media.frames[0])
        frames = [picture_file(0)]
    else:
        frames = write_frames(folder / name, media)
    write_npz(folder / name / "attention.npz", result_arrays(one))
    files = ["attention.npz", *frames, "result.json"]
    write_json(folder / name / "result.json", result_json(one, one.heatmaps(), files, []))
    return [f"{name}/{file}" for file in files]


def _draw(path: Path, image: Callable[[], np.ndarray]) -> None:
    write_png(path, image())


def _workers(result: Result, drawing: Drawing) -> int:
    """How many pictures to draw at once: as many as there are cores, fewer where each takes much memory."""
    pixels = sum(math.prod(drawn_size_px(media.size_px, drawing)) for media in result.media)
    return max(1, min(os.cpu_count() or 1, MAX_PIXELS_AT_ONCE // pixels))


def is_complete(folder: Path) -> bool:
    """Whether a result was written there to its end."""
    return (folder / "result.json").is_file()


def load_result(folder: Path) -> Result:
    """Read a result back.

    Raises:
        StoreError: not a complete result of a known schema.
    """
    value = read_json(folder / "result.json")
    if value.get("kind") == "encoder":
        raise StoreError(f"{folder} is a look of an encoder, and no result of ask or video", "its page is report.html")
    if value.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(f"{folder} has schema {value.get('schema_version')!r}", f"this version reads {SCHEMA_VERSION}")
    try:
        arrays = read_npz(folder / "attention.npz")
        media = tuple(media_from(folder, i, item) for i, item in enumerate(value["media"]))
        passes = value["passes"]["results"] if value.get("passes") else ()
        result = result_from(value, arrays, media)
        return replace(result, passes=tuple(load_result(folder / pass_folder(i)) for i in range(len(passes))))
    except QvlAttnError as error:
        raise StoreError(f"{folder} is damaged: {error.message}", REMEDY) from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, MemoryError) as error:
        raise StoreError(f"{folder} is damaged: {type(error).__name__}: {error}", REMEDY) from None
