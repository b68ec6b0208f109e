from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import ClipFacts, Media
from qvl_attn.model.token_grid import cell_boxes_px, locate_grids, picture_grid

SIDES = st.integers(1, 40)
PIXELS = st.integers(1, 5000)


@given(SIDES, SIDES, PIXELS, PIXELS)
def test_cells_tile_the_picture_in_reading_order(rows, columns, width, height):
    boxes = cell_boxes_px(rows, columns, (width, height)).astype(np.float64)
    assert boxes.shape == (rows * columns, 4)
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
    assert area == pytest.approx(width * height, rel=1e-4)
    for cell in {0, columns - 1, len(boxes) // 2, len(boxes) - 1}:
        row, column = divmod(cell, columns)
        want = [
            column * width / columns,
            row * height / rows,
            (column + 1) * width / columns,
            (row + 1) * height / rows,
        ]
        assert np.allclose(boxes[cell], want, rtol=1e-5, atol=1e-3)


@given(st.integers(1, 4), SIDES, SIDES, st.integers(1, 3), PIXELS, PIXELS)
def test_a_point_lies_in_the_cell_that_its_pixel_was_fed_to(merge, rows, columns, picture_count, width, height):
    grid = picture_grid((1, rows * merge, columns * merge), merge, 7, (width, height))
    assert grid.shape == (1, rows, columns)
    assert (grid.start, grid.stop) == (7, 7 + rows * columns)
    x, y = 0.37 * width, 0.81 * height
    boxes = grid.boxes_px
    inside = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
    assert np.flatnonzero(inside).tolist() == [int(0.81 * rows) * columns + int(0.37 * columns)]


def picture() -> Media:
    return Media("picture", np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1), (10, 10), "picture", "")


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(0, 5)), min_size=1, max_size=4))
def test_runs_are_found_between_text(pictures):
    types, starts = [], []
    for rows, columns, text in pictures:
        types += [0] * (text + 1)
        starts.append(len(types))
        types += [1] * (rows * columns)
    grids = locate_grids(types, [(1, 2 * r, 2 * c) for r, c, _ in pictures], 2, [picture()] * len(pictures))
    assert [grid.start for grid in grids] == starts


@pytest.mark.parametrize(
    ("types", "grids"),
    [
        ([0, 1, 1, 0], [(1, 2, 2)]),
        ([0, 1, 0], [(1, 2, 2), (1, 2, 2)]),
        ([0, 0], [(1, 2, 2)]),
        ([0, 2, 0], [(1, 2, 2)]),
    ],
)
def test_grids_that_do_not_fit_are_an_error(types, grids):
    with pytest.raises(CaptureError, match="vision tokens"):
        locate_grids(types, grids, 2, [picture()] * len(grids))


def test_a_clip_is_found_by_its_own_type():
    clip = Media(
        kind="clip",
        frames=np.zeros((3, 4, 4, 3), np.uint8),
        times_s=np.array([0.0, 0.5, 1.0]),
        size_px=(10, 10),
        source="clip",
        sha256="",
        clip=ClipFacts(0.0, 1.5, 10.0, 2.0, (0, 5, 10), 15, 15),
    )
    (grid,) = locate_grids([0, 2, 2, 0], [(2, 2, 2)], 2, [clip])
    assert grid.frame_span.tolist() == [[0, 5], [10, 10]]
    assert grid.times_s.tolist() == [[0.0, 0.5], [1.0, 1.0]]
    with pytest.raises(CaptureError):
        locate_grids([0, 1, 1, 0], [(2, 2, 2)], 2, [clip])
