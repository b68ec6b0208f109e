"""Map vision tokens to boxes in the picture and to positions in the sequence. Pure functions.

The grid is the processor's (`image_grid_thw`, `video_grid_thw`) divided by the model's `spatial_merge_size`. Nothing
here reads a picture or guesses a size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import FloatArray, Media, TokenGrid

VISION_TYPES = (1, 2)  # values of `mm_token_type_ids`: image, video


def cell_boxes_px(rows: int, columns: int, size_px: tuple[int, int]) -> FloatArray:
    """Return the boxes of a merged grid's cells, in pixels of the upright original.

    The processor stretches the whole picture onto the grid, x and y separately, so the cells divide it evenly and may
    not be square.

    Args:
        rows: cells from top to bottom.
        columns: cells from left to right.
        size_px: (width, height) of the upright original.

    Returns:
        (rows * columns, 4) float32 xyxy, row after row.
    """
    width, height = size_px
    x = np.linspace(0, width, columns + 1)
    y = np.linspace(0, height, rows + 1)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    return np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4).astype(np.float32)


def picture_grid(grid_thw: Sequence[int], merge_size: int, start: int, size_px: tuple[int, int]) -> TokenGrid:
    """Return the grid of one picture whose first token is at position `start`."""
    t, h, w = (int(n) for n in grid_thw)
    boxes = cell_boxes_px(h // merge_size, w // merge_size, size_px)
    return TokenGrid(
        grid_thw=(t, h, w),
        merge_size=merge_size,
        start=start,
        boxes_px=np.tile(boxes, (t, 1)),
        frame_span=np.zeros((t, 2), dtype=np.int64),
        times_s=np.zeros((t, 2), dtype=np.float64),
    )


def frames_per_step(frames: int, steps: int) -> int:
    """Return the number of consecutive sampled frames in each step of a clip; the last step may have fewer."""
    return -(-frames // steps)


def clip_grid(grid_thw: Sequence[int], merge_size: int, start: int, clip: Media) -> TokenGrid:
    """Return the grid of one clip whose first token is at position `start`.

    Each step covers the same number of consecutive sampled frames, two with Qwen2.5-VL. If the last step has too few,
    the processor repeated its last frame.

    Raises:
        CaptureError: the steps do not fit the frames.
    """
    grid = picture_grid(grid_thw, merge_size, start, clip.size_px)
    frames, steps = len(clip.frames), grid.shape[0]
    per_step = frames_per_step(frames, steps)
    if clip.clip is None or frames_per_step(frames, per_step) != steps:
        raise CaptureError(f"{frames} frames became {steps} steps", "the processor does not belong to this model")
    first = per_step * np.arange(steps)
    span = np.stack([first, np.minimum(first + per_step, frames) - 1], axis=1)
    indices = np.array(clip.clip.frame_indices, dtype=np.int64)
    return replace(grid, frame_span=indices[span], times_s=clip.times_s[span])


def grid_of(grid_thw: Sequence[int], merge_size: int, start: int, media: Media) -> TokenGrid:
    """Return the grid of a picture or a clip whose first token is at position `start`.

    Raises:
        CaptureError: a clip's steps do not fit its frames.
    """
    if media.kind == "clip":
        return clip_grid(grid_thw, merge_size, start, media)
    return picture_grid(grid_thw, merge_size, start, media.size_px)


def locate_grids(
    type_ids: Sequence[int],
    grids_thw: Sequence[Sequence[int]],
    merge_size: int,
    media: Sequence[Media],
) -> tuple[TokenGrid, ...]:
    """Find the tokens of each picture or clip in the sequence.

    Args:
        type_ids: (S,) the processor's `mm_token_type_ids`: 0 text, 1 image, 2 video.
        grids_thw: (M, 3) the processor's grids, in patches.
        merge_size: the model's `spatial_merge_size`.
        media: pictures and clips, in prompt order.

    Raises:
        CaptureError: the runs of vision tokens do not fit the grids.
    """
    starts, lengths, kinds, position = [], [], [], 0
    for kind, run in groupby(type_ids):
        length = len(list(run))
        if kind in VISION_TYPES:
            starts.append(position)
            lengths.append(length)
            kinds.append(kind)
        position += length
    expected = [int(np.prod(grid)) // merge_size**2 for grid in grids_thw]
    expected_kinds = [VISION_TYPES[item.kind == "clip"] for item in media]
    if lengths != expected or kinds != expected_kinds:
        raise CaptureError(
            f"the prompt has runs of {lengths} vision tokens, the processor's grids say {expected}",
            "the processor does not belong to this model",
        )
    return tuple(
        grid_of(grid, merge_size, start, item) for grid, start, item in zip(grids_thw, starts, media, strict=True)
    )
