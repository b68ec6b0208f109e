"""Regions: how the evidence boxes cover the cells of a grid, and how far each cell is from them. Pure.

One map is scored against one region: all pictures of a prompt, or one step of a clip. Boxes are xyxy; the left and top
edges belong to a box, the right and bottom edges do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.types import TokenGrid

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Region:
    """The boxes on the n cells that are scored together.

    Attributes:
        cells: (n,) int64, indices of the cells among the prompt's vision tokens.
        covered: (n,) share of each cell inside the union of the boxes, 0 to 1.
        inside: (n,) whether a cell's centre is in a box.
        distance: (n,) from a cell's centre to the nearest box over the picture's diagonal; NaN in pictures without a
            box.
        central: (n,) centre prior: a Gaussian around the picture's centre, sigma a quarter of the picture's sides.
        centre_hit: share of the pictures whose centre is in a box.
    """

    cells: NDArray[np.int64]
    covered: Floats
    inside: Bools
    distance: Floats
    central: Floats
    centre_hit: float

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.cells, self.covered, self.inside, self.distance, self.central)}
        if shapes != {(len(self.cells),)} or not len(self.cells):
            raise ValueError(f"a region's arrays have shapes {shapes}")


def covered_share(boxes: Floats, rows: int, columns: int) -> Floats:
    """Return the exact share of each cell inside the union of boxes.

    The boxes' edges cut the picture into rectangles that are entirely inside or outside the union. The overlap of a
    rectangle with a cell is the product of an overlap in x and an overlap in y.

    Args:
        boxes: (G, 4) xyxy relative to the picture, 0 to 1.
        rows: cells from top to bottom.
        columns: cells from left to right.

    Returns:
        (rows * columns,), row by row.
    """
    if not len(boxes):
        return np.zeros(rows * columns)
    x, y = (np.unique(np.clip(boxes[:, axis], 0, 1)) for axis in ([0, 2], [1, 3]))
    left, top, right, bottom = np.clip(boxes, 0, 1).T[:, :, None]
    in_x = (left <= x[:-1]) & (x[1:] <= right)
    in_y = (top <= y[:-1]) & (y[1:] <= bottom)
    union = (in_y[:, :, None] & in_x[:, None, :]).any(axis=0)
    area = _overlap(y, rows) @ union @ _overlap(x, columns).T
    return np.asarray(np.clip(area.ravel() * rows * columns, 0, 1))


def _overlap(edges: Floats, cells: int) -> Floats:
    """Return the overlap of each interval between edges with `cells` equal parts of 0 to 1, (cells, intervals)."""
    ends = np.linspace(0, 1, cells + 1)
    common = np.minimum(ends[1:, None], edges[1:]) - np.maximum(ends[:-1, None], edges[:-1])
    return np.asarray(np.maximum(common, 0))


def _centres(rows: int, columns: int) -> Floats:
    """Return x and y of the cells' centres relative to the picture, (rows * columns, 2)."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _in_boxes(points: Floats, boxes: Floats) -> Bools:
    x, y = points[:, :1], points[:, 1:]
    left, top, right, bottom = boxes.T
    return np.asarray(((left <= x) & (x < right) & (top <= y) & (y < bottom)).any(axis=1))


def _distances(points: Floats, boxes: Floats, size_px: tuple[int, int]) -> Floats:
    """Return the distance of each point to the nearest box, over the diagonal of the picture."""
    if not len(boxes):
        return np.full(len(points), np.nan)
    x, y = points[:, :1], points[:, 1:]
    left, top, right, bottom = boxes.T
    across = np.maximum(np.maximum(left - x, x - right), 0) * size_px[0]
    down = np.maximum(np.maximum(top - y, y - bottom), 0) * size_px[1]
    return np.asarray(np.hypot(across, down).min(axis=1) / np.hypot(*size_px))


def _on_cells(boxes: Floats, rows: int, columns: int, size_px: tuple[int, int]) -> tuple[Floats, Bools, Floats, Floats]:
    points = _centres(rows, columns)
    central = np.exp(-(((points - 0.5) / 0.25) ** 2).sum(axis=1) / 2)
    inside = _in_boxes(points, boxes)
    return covered_share(boxes, rows, columns), inside, _distances(points, boxes, size_px), central


def picture_region(grids: Sequence[TokenGrid], boxes: Sequence[Floats], sizes_px: Sequence[tuple[int, int]]) -> Region:
    """Return the region of all pictures of a prompt, which are scored as one map.

    Args:
        grids: the grid of each picture.
        boxes: (G, 4) xyxy relative to each picture, 0 to 1.
        sizes_px: (width, height) of each picture.
    """
    parts = [
        _on_cells(picture_boxes, grid.shape[1], grid.shape[2], size)
        for grid, picture_boxes, size in zip(grids, boxes, sizes_px, strict=True)
    ]
    covered, inside, distance, central = (np.concatenate(part) for part in zip(*parts, strict=True))
    hits = [bool(_in_boxes(np.array([[0.5, 0.5]]), picture_boxes).any()) for picture_boxes in boxes]
    return Region(np.arange(len(covered)), covered, inside, distance, central, float(np.mean(hits)))


def step_region(grid: TokenGrid, step: int, boxes: Floats, size_px: tuple[int, int]) -> Region:
    """Return the region of one step of a clip, which is scored separately.

    Args:
        grid: the clip's grid.
        step: index of the step.
        boxes: (G, 4) xyxy relative to the frame, 0 to 1.
        size_px: (width, height) of the clip.
    """
    region = picture_region([grid], [boxes], [size_px])
    return replace(region, cells=region.cells + step * len(region.cells))


def step_boxes(grid: TokenGrid, boxes: Floats, frames: NDArray[np.int64]) -> dict[int, Floats]:
    """Return the boxes of each step of a clip that has boxes, by step.

    For each of its sampled frames, a step takes the boxes of the nearest annotated frame. Only frames from the step's
    first sampled frame up to that of the next step count; the last step is as long as the one before it.

    Args:
        grid: the clip's grid.
        boxes: (G, 4).
        frames: (G,) number of each box's frame in the clip.
    """
    spans = grid.frame_span.tolist()
    first, last = spans[-1]
    length = first - spans[-2][0] if len(spans) > 1 else 2 * (last - first)
    end = first + length if length else np.inf  # a single frame represents the whole clip
    by_step = {}
    for step, ((first, last), stop) in enumerate(zip(spans, [*(span[0] for span in spans[1:]), end], strict=True)):
        annotated = np.unique(frames[(frames >= first) & (frames < max(stop, last + 1))])
        if len(annotated):
            nearest = {int(annotated[np.abs(annotated - sampled).argmin()]) for sampled in (first, last)}
            by_step[step] = boxes[np.isin(frames, list(nearest))]
    return by_step
