"""From a vision token's index to its box in the picture, and back to its place in the sequence. Pure.

The grid is the one that the processor reports (`image_grid_thw`) over the model's own `spatial_merge_size`. Nothing
here looks at a picture or guesses a size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from qvl_attn.errors import CaptureError
from qvl_attn.types import FloatArray, TokenGrid

IMAGE_TYPE = 1


def cell_boxes_px(rows: int, columns: int, size_px: tuple[int, int]) -> FloatArray:
    """Boxes of a merged grid's cells in the pixels of the upright original.

    The processor stretches the whole picture onto the grid, x and y apart, so the cells share it evenly and need not be
    square.

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
    """The grid of one picture whose first token stands at `start`."""
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


def locate_grids(
    type_ids: Sequence[int],
    image_grid_thw: Sequence[Sequence[int]],
    merge_size: int,
    sizes_px: Sequence[tuple[int, int]],
) -> tuple[TokenGrid, ...]:
    """Find each picture's tokens in the sequence.

    Args:
        type_ids: (S,) the processor's `mm_token_type_ids`: 0 text, 1 image.
        image_grid_thw: (M, 3) as the processor gave it.
        merge_size: the model's `spatial_merge_size`.
        sizes_px: (width, height) of each upright original, in prompt order.

    Raises:
        CaptureError: the runs of image tokens do not fit the grids.
    """
    starts, lengths, position = [], [], 0
    for kind, run in groupby(type_ids):
        length = len(list(run))
        if kind == IMAGE_TYPE:
            starts.append(position)
            lengths.append(length)
        position += length
    expected = [int(np.prod(grid)) // merge_size**2 for grid in image_grid_thw]
    if lengths != expected or len(expected) != len(sizes_px):
        raise CaptureError(
            f"the prompt has runs of {lengths} image tokens, the processor's grids say {expected}",
            "the processor does not belong to this model",
        )
    return tuple(
        picture_grid(grid, merge_size, start, size)
        for grid, start, size in zip(image_grid_thw, starts, sizes_px, strict=True)
    )
