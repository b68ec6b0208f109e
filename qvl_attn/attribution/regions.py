"""Where the evidence is, on the cells of a grid: which lie in the boxes, how much of each, and how far away. Pure.

A region is what one map is scored against: all pictures of a prompt, or one step of a clip. Boxes are xyxy, left and
top inside, right and bottom not.
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
        cells: (n,) int64, which of the prompt's vision tokens they are.
        covered: (n,) share of each cell that lies in the union of the boxes, 0 to 1.
        inside: (n,) whether its centre lies in a box.
        distance: (n,) from its centre to the nearest box over the picture's diagonal; NaN in pictures without a box.
        central: (n,) a centre prior: a Gaussian around the picture's centre with a quarter of its sides as sigma.
        centre_hit: the share of the pictures in which the centre lies in a box.
    """

    cells: NDArray[np.int64]
    covered: Floats
    inside: Bools
    distance: Floats
    central: Floats
    centre_hit: float

    def __post_init__(self) -> None:
        shapes = {one.shape for one in (self.cells, self.covered, self.inside, self.distance, self.central)}
        if shapes != {(len(self.cells),)} or not len(self.cells):
            raise ValueError(f"a region's arrays have shapes {shapes}")


def covered_share(boxes: Floats, rows: int, columns: int) -> Floats:
    """Share of each cell that lies in the union of boxes, exactly.

    The boxes' edges cut the picture into rectangles that are wholly inside the union or wholly outside; what each has
    in common with a cell is the product of an overlap in x and one in y.

    Args:
        boxes: (G, 4) xyxy in units of the picture, 0 to 1.
        rows: cells from top to bottom.
        columns: cells from left to right.

    Returns:
        (rows * columns,), row after row.
    """
    if not len(boxes):
        return np.zeros(rows * columns)
    x, y = (np.unique(np.clip(boxes[:, axis], 0, 1)) for axis in ([0, 2], [1, 3]))
    left, top, right, bottom = np.clip(boxes, 0, 1).T[:, :, None]
    in_x = (left <= x[:-1]) & (x[1:] <= right)
    in_y = (top <= y[:-1]) & (y[1:] <= bottom)
    union = (in_y[:, :, None] & in_x[:, None, :]).any(axis=0)
    over = _overlap(y, rows) @ union @ _overlap(x, columns).T
    return np.asarray(np.clip(over.ravel() * rows * columns, 0, 1))


def _overlap(edges: Floats, cells: int) -> Floats:
    """(cells, intervals) how much of each interval between edges lies in each of `cells` equal parts of 0 to 1."""
    ends = np.linspace(0, 1, cells + 1)
    common = np.minimum(ends[1:, None], edges[1:]) - np.maximum(ends[:-1, None], edges[:-1])
    return np.asarray(np.maximum(common, 0))


def _centres(rows: int, columns: int) -> Floats:
    """(rows * columns, 2) x and y of the cells' centres in units of the picture."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _in_boxes(points: Floats, boxes: Floats) -> Bools:
    x, y = points[:, :1], points[:, 1:]
    left, top, right, bottom = boxes.T
    return np.asarray(((left <= x) & (x < right) & (top <= y) & (y < bottom)).any(axis=1))


def _distances(points: Floats, boxes: Floats, size_px: tuple[int, int]) -> Floats:
    """From each point to the nearest box, over the diagonal of the picture."""
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
    """The region of a prompt's pictures, all scored as one map.

    Args:
        grids: one a picture.
        boxes: (G, 4) xyxy in units of each picture.
        sizes_px: of the pictures.
    """
    parts = [
        _on_cells(own, grid.shape[1], grid.shape[2], size)
        for grid, own, size in zip(grids, boxes, sizes_px, strict=True)
    ]
    covered, inside, distance, central = (np.concatenate(part) for part in zip(*parts, strict=True))
    hits = [bool(_in_boxes(np.array([[0.5, 0.5]]), own).any()) for own in boxes]
    return Region(np.arange(len(covered)), covered, inside, distance, central, float(np.mean(hits)))


def step_region(grid: TokenGrid, step: int, boxes: Floats, size_px: tuple[int, int]) -> Region:
    """The region of one step of a clip, scored apart from the others.

    Args:
        grid: of the clip.
        step: which.
        boxes: (G, 4) xyxy in units of the picture.
        size_px: of the clip.
    """
    still = picture_region([grid], [boxes], [size_px])
    return replace(still, cells=still.cells + step * len(still.cells))


def step_boxes(grid: TokenGrid, boxes: Floats, frames: NDArray[np.int64]) -> dict[int, Floats]:
    """The boxes of each step of a clip that has some.

    A step takes, for each of its sampled frames, the boxes of the nearest frame that has some, from its first sampled
    frame up to the next step's; the last step is as long as the one before it.

    Args:
        grid: of the clip.
        boxes: (G, 4).
        frames: (G,) the number of each box's frame in the clip.
    """
    spans = grid.frame_span.tolist()
    first, last = spans[-1]
    length = first - spans[-2][0] if len(spans) > 1 else 2 * (last - first)
    end = first + length if length else np.inf  # a single frame stands for all of its clip
    found = {}
    for step, ((first, last), stop) in enumerate(zip(spans, [*(span[0] for span in spans[1:]), end], strict=True)):
        there = np.unique(frames[(frames >= first) & (frames < max(stop, last + 1))])
        if len(there):
            nearest = {int(there[np.abs(there - sampled).argmin()]) for sampled in (first, last)}
            found[step] = boxes[np.isin(frames, list(nearest))]
    return found
