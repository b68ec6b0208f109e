"""What every kind of result has in `result.json` and `attention.npz` (schema 1), and its media's files.

A folder may come from anywhere: `ResultJson` names the field that is wrong, and no path in it is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from qvl_attn.core.files import MAX_NPZ_BYTES, read_png, write_png
from qvl_attn.core.typed_json import Count, Finite
from qvl_attn.core.types import ClipFacts, FloatArray, IntArray, Media, TokenGrid, _require, _require_array
from qvl_attn.media.image import check_size
from qvl_attn.media.resize import fit_px, resize_picture
from qvl_attn.media.sampling import MOST_FRAMES
from qvl_attn.render.overlay import drawn_size_px
from qvl_attn.render.style import Drawing
from qvl_attn.results.store import is_pass

SCHEMA_VERSION: Final = 1
Arrays = dict[str, NDArray[Any]]
Times = Annotated[tuple[Finite, ...], Meta(min_length=1, max_length=MOST_FRAMES)]
_Side = Annotated[int, Meta(ge=1, le=2**31)]


@dataclass(frozen=True)
class _ClipJson(ClipFacts):
    sampled_frames: int = 0


@dataclass(frozen=True)
class MediaJson:
    """The entry of a picture or clip."""

    name: str
    sha256: str
    size_px: tuple[_Side, _Side]
    grid_thw: tuple[Count, Count, Count]
    times_s: Times
    notes: tuple[str, ...]
    clip: ClipFacts | None = None

    def __post_init__(self) -> None:
        _require(
            self.clip is None or len(self.clip.frame_indices) == len(self.times_s),
            "clip.frame_indices: not one for each time",
        )


@dataclass(frozen=True, kw_only=True)
class ResultJson:
    """The fields of every kind's `result.json`; each kind adds its own, and the type of its provenance.

    What older results lack has a default. The settings are a kind's own when written, and JSON when read, to be decoded
    by the kind.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: str
    media: Annotated[tuple[MediaJson, ...], Meta(min_length=1)]
    settings: Any
    provenance: Any
    seconds: dict[str, Finite]
    peak_memory_bytes: dict[str, dict[str, Count]] = field(default_factory=dict)
    notes: tuple[str, ...]
    files: tuple[str, ...]


def media_json(media: Media, grid_thw: tuple[int, int, int]) -> MediaJson:
    """Return the entry of a picture or clip."""
    return MediaJson(
        name=base_name(media.source),
        sha256=media.sha256,
        size_px=media.size_px,
        grid_thw=grid_thw,
        times_s=tuple(media.times_s.tolist()),
        notes=media.notes,
        clip=media.clip and _ClipJson(**vars(media.clip), sampled_frames=len(media.frames)),
    )


def base_name(source: str) -> str:
    """Return the last part of a path; bytes that are not valid Unicode, which file systems allow, are replaced."""
    return source.replace("\\", "/").rsplit("/", 1)[-1].encode(errors="replace").decode()


def picture_file(index: int) -> str:
    """Return the file name of a picture, saved at its drawn size so that a result can be drawn again."""
    return f"picture_{index + 1}.png"


def as_stored(media: Media, drawing: Drawing) -> Media:
    """Return a picture or clip as its folder stores it, so that a page written again later is the same."""
    if media.clip is not None:
        return media
    return replace(media, frames=resize_picture(media.frames[0], drawn_size_px(media.size_px, drawing))[None])


def sampled_frame_file(index: int) -> str:
    """Return the file name of a clip's sampled frame, saved as the model saw it."""
    return f"seen/{index:06d}.png"


def write_sampled_frames(folder: Path, clip: Media) -> list[str]:
    """Save a clip's sampled frames as the model saw them, and return their file names."""
    for i, frame in enumerate(clip.frames):
        write_png(folder / sampled_frame_file(i), frame)
    return [sampled_frame_file(i) for i in range(len(clip.frames))]


def read_media(folder: Path, entries: Sequence[MediaJson]) -> tuple[Media, ...]:
    """Read the pictures, or the clip, of a folder.

    Args:
        folder: the folder of the result.
        entries: their entries in `result.json`.

    Raises:
        InputError: a picture is too large.
        StoreError: a file is missing or damaged.
        ValueError: a file does not fit its entry, or the pictures are too large together.
    """
    media: list[Media] = []
    for i, entry in enumerate(entries):
        media.append(_read_medium(folder, i, entry))
        check_bytes(sum(medium.frames.nbytes for medium in media))
    return tuple(media)


def _read_medium(folder: Path, index: int, entry: MediaJson) -> Media:
    name = base_name(entry.name)
    check_size(*entry.size_px, name)
    if entry.clip is None:
        frames = read_png(folder / picture_file(index))[None]
        # The picture of a pass is a frame, which has the size that the model saw.
        if not is_pass(folder) and frames.shape[2:0:-1] != fit_px(entry.size_px, max(frames.shape[1:3])):
            raise ValueError(f"{picture_file(index)} has another aspect ratio than the picture")
    else:
        frames = read_frames([folder / sampled_frame_file(i) for i in range(len(entry.times_s))])
    return Media(
        kind="picture" if entry.clip is None else "clip",
        frames=frames,
        times_s=np.array(entry.times_s, dtype=np.float64),
        size_px=entry.size_px,
        source=name,
        sha256=entry.sha256,
        notes=entry.notes,
        clip=entry.clip,
    )


def read_frames(files: Sequence[Path]) -> NDArray[np.uint8]:
    """Read pictures of one size: (F, H, W, 3) uint8 RGB.

    Raises:
        StoreError: a file is missing, damaged, or of another size than the first.
        ValueError: the pictures are too large together.
    """
    first = read_png(files[0])
    check_bytes(first.nbytes * len(files))
    height, width = first.shape[:2]
    return np.stack([first, *(read_png(file, (width, height)) for file in files[1:])])


def check_bytes(size_bytes: int) -> None:
    """Check the size of all pictures of a result.

    Raises:
        ValueError: it is more than `MAX_NPZ_BYTES`.
    """
    _require(
        size_bytes <= MAX_NPZ_BYTES,
        f"pictures of {size_bytes / 2**30:.1f} GiB; the limit is {MAX_NPZ_BYTES / 2**30:g} GiB",
    )


def shared_arrays(
    grids: Sequence[TokenGrid],
    *,
    weights: FloatArray,
    weights_by_head: FloatArray | NDArray[np.float16] | None,
    layers: IntArray,
    queries: IntArray,
    query_role: NDArray[np.str_],
    vision_tokens: IntArray,
    vision_mass: FloatArray,
) -> Arrays:
    """Return the arrays that every kind of result has: L layers, H heads, Q queries, V cells.

    Args:
        grids: the cells of each picture, or of the clip: see `grid_arrays`.
        weights: (L, Q, V) the attention of each query on each cell, the mean over the heads.
        weights_by_head: (L, H, Q, V) that of single heads; None if they are not kept.
        layers: (L,) the numbers of the layers.
        queries: (Q,) the positions of the queries in the sequence.
        query_role: (Q,) what each query is.
        vision_tokens: (V,) the positions of the cells in the sequence.
        vision_mass: (L, Q) the share of each query's attention that is on all cells.
    """
    by_head = {} if weights_by_head is None else {"weights_by_head": weights_by_head}
    return {
        "weights": weights,
        **by_head,
        "layers": layers,
        "queries": queries,
        "query_role": query_role,
        "vision_tokens": vision_tokens,
        "vision_mass": vision_mass,
        **grid_arrays(grids),
    }


def grid_arrays(grids: Sequence[TokenGrid]) -> Arrays:
    """Return the arrays that tell where cells are, in the picture and in time; V cells of M pictures.

    `grid_thw` (M, 3), `merge_size` (), `media_index` (V,), `boxes_px` (V, 4), `frame_span` and `times_s` (V, 2).
    """
    steps = [np.repeat(np.arange(grid.shape[0]), grid.shape[1] * grid.shape[2]) for grid in grids]
    return {
        "grid_thw": np.array([grid.grid_thw for grid in grids], dtype=np.int64),
        "merge_size": np.array(grids[0].merge_size, dtype=np.int64),
        "media_index": np.repeat(np.arange(len(grids), dtype=np.int64), [grid.cells for grid in grids]),
        "boxes_px": np.concatenate([grid.boxes_px for grid in grids]),
        "frame_span": np.concatenate([grid.frame_span[step] for grid, step in zip(grids, steps, strict=True)]),
        "times_s": np.concatenate([grid.times_s[step] for grid, step in zip(grids, steps, strict=True)]),
    }


def grid_sizes(arrays: Mapping[str, NDArray[Any]], pictures: int) -> tuple[list[tuple[int, int, int]], int]:
    """Return `grid_thw` and `merge_size`, with which cells are made: as many as there are vision tokens.

    Args:
        arrays: the contents of `attention.npz`.
        pictures: M, how many pictures there are, or 1 for a clip.

    Raises:
        KeyError: an array is missing.
        ValueError: they are not those of the vision tokens.
    """
    grids, merge_size = arrays["grid_thw"], arrays["merge_size"]
    _require_array("grid_thw", grids, np.int64, (pictures, 3))
    _require_array("merge_size", merge_size, np.int64, ())
    sizes, side = [(t, h, w) for t, h, w in grids.tolist()], int(merge_size)
    fits = (
        side > 0 and min(map(min, sizes)) > 0 and sum(map(math.prod, sizes)) == arrays["vision_tokens"].size * side**2
    )
    _require(fits, "grid_thw does not fit the vision tokens")
    return sizes, side
