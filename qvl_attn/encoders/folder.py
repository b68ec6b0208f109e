"""The folder of a look: its name, what is written into it, and how it is read back."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qvl_attn.core.errors import QvlAttnError, StoreError
from qvl_attn.core.files import (
    read_json,
    read_npz,
    read_png,
    slug,
    whole_folder,
    write_json,
    write_npz,
    write_png,
    write_text,
)
from qvl_attn.core.runtime import Progress, Stages, untold
from qvl_attn.core.types import Media
from qvl_attn.encoders.codec import GRID_DTYPE, KIND, SCHEMA_VERSION, look_arrays, look_from, look_json
from qvl_attn.encoders.embedding_figures import space_images
from qvl_attn.encoders.figures import DrawnLook, draw_look
from qvl_attn.encoders.page import encoder_html
from qvl_attn.encoders.record import Look, LookSettings
from qvl_attn.render.html.page import REPORT_FILE
from qvl_attn.render.style import Drawing
from qvl_attn.results.codec import as_kept, media_from, write_frames
from qvl_attn.results.record import Maker

REMEDY = "look again with --overwrite, or name another folder"


def folder_of_look(media: Media, settings: LookSettings, drawing: Drawing, maker: Maker, out: Path) -> Path:
    """Where a look goes, or is: `<media>-<model>-<8 hex>`, the same for the same request."""
    key = {
        "media": media.sha256,
        "settings": asdict(settings),
        "drawing": asdict(drawing),
        "made_by": asdict(maker),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]
    model = Path(maker.model).name or maker.model
    return out / f"{slug(Path(media.source).stem, 32)}-{slug(model)}-{digest}"


def turned_file(step: int) -> str:
    """Where it is kept what went in, turned back, of each step."""
    return f"input/{step:06d}.png"


def save_look(look: Look, out: Path, drawing: Drawing, *, overwrite: bool = False, progress: Progress = untold) -> Path:
    """Draw and write a look into its folder inside `out`; `result.json` is written last.

    Raises:
        StoreError: it cannot be written, or is there already.
    """
    target = folder_of_look(look.media, look.settings, drawing, look.maker, out)
    with whole_folder(target, overwrite=overwrite) as draft:
        stages = Stages()
        with stages.stage("draw"):
            drawn = draw_look(look, drawing)
            images = {**dict(drawn.images()), **dict(space_images(look, drawing))}
            tasks = [partial(write_npz, draft / "attention.npz", look_arrays(look))]
            tasks += [partial(_draw, draft / name, image) for name, image in images.items()]
            tasks += [
                partial(write_png, draft / turned_file(step), picture) for step, picture in enumerate(look.turned_back)
            ]
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
                for done, _ in enumerate(pool.map(lambda task: task(), tasks)):
                    progress("drawing", done + 1, len(tasks))
            moving, notes = _draw_clip(draft, drawn, progress)
        measured = replace(
            look,
            seconds={**look.seconds, **stages.seconds},
            peak_memory_bytes={**look.peak_memory_bytes, **stages.peak_bytes},
        )
        turned = [turned_file(step) for step in range(len(look.turned_back))]
        files = ["attention.npz", *images, *turned, *moving, REPORT_FILE, "result.json"]
        told = [*drawn.notes, *notes]
        # As the folder keeps it, so that a page that is made again is the same.
        rows = None if look.grid_rows is None else look.grid_rows.astype(GRID_DTYPE).astype(np.float32)
        shown = replace(measured, media=as_kept(look.media, drawing), grid_rows=rows)
        write_text(draft / REPORT_FILE, encoder_html(shown, told))
        write_json(draft / "result.json", look_json(measured, files, told))
    return target


def _draw(path: Path, image: Callable[[], np.ndarray]) -> None:
    write_png(path, image())


def _draw_clip(folder: Path, drawn: DrawnLook, progress: Progress) -> tuple[list[str], list[str]]:
    """Of a clip, what moves, and the frames themselves: files and notes."""
    media = drawn.look.media
    if media.clip is None:
        return [], []
    from qvl_attn.encoders.timeline import write_film  # loads matplotlib

    files, notes = write_film(folder, drawn.look, drawn.headline, drawn.drawing, tuple(drawn.foot), progress)
    return [*files, *write_frames(folder, media)], notes


def load_look(folder: Path) -> Look:
    """Read a look back.

    Raises:
        StoreError: not a complete look of a known schema.
    """
    value = read_json(folder / "result.json")
    if value.get("schema_version") != SCHEMA_VERSION or value.get("kind") != KIND:
        raise StoreError(f"{folder} is no look of an encoder of schema {SCHEMA_VERSION}", REMEDY)
    try:
        return _look_from(folder, value)
    except QvlAttnError as error:
        raise StoreError(f"{folder} is damaged: {error.message}", REMEDY) from None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, MemoryError) as error:
        raise StoreError(f"{folder} is damaged: {type(error).__name__}: {error}", REMEDY) from None


def _look_from(folder: Path, value: dict[str, Any]) -> Look:
    (told,) = value["media"]
    for name in ("notes", "said", "files"):
        if not (isinstance(value[name], list) and all(isinstance(one, str) for one in value[name])):
            raise ValueError(f"{name}: no lines")
    for name in ("headline", "input_px", "layers", "patch_px"):  # which are told as they are
        _ = value[name]
    look = look_from(value, read_npz(folder / "attention.npz"), media_from(folder, 0, told))
    turned = np.stack([read_png(folder / turned_file(step)) for step in range(look.sight.grid[0])])
    if turned.shape != look.turned_back.shape:
        raise ValueError(f"{turned_file(0)} is not of the input's size")
    return replace(look, turned_back=turned)
