from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_attn.attribution.regions import Region, covered_share, picture_region, step_boxes, step_region
from qvl_attn.core.types import ClipFacts, Media
from qvl_attn.model.token_grid import clip_grid, picture_grid

FINE = 8  # raster lines per side of a cell
SIDES = st.integers(1, 6)
NONE = np.zeros((0, 4))
EDGES = st.lists(st.floats(-0.3, 1.3), min_size=2, max_size=2, unique=True).map(sorted)


def grid(rows, columns, steps=1):
    return picture_grid((steps, 2 * rows, 2 * columns), 2, 5, (columns * 28, rows * 28))


def region(rows, columns, *boxes, size_px=(80, 60)):
    return picture_region([grid(rows, columns)], [np.array(boxes, np.float64).reshape(-1, 4)], [size_px])


def spans(most):
    """Draw two different integers in order, some of them below 0 or above `most`."""
    return st.lists(st.integers(-3, most + 3), min_size=2, max_size=2, unique=True).map(sorted)


@st.composite
def fine_boxes(draw, sides):
    """Draw rows and columns of a grid, and boxes with edges on a raster `FINE` times as fine, in its units."""
    rows, columns = draw(sides), draw(sides)
    pairs = draw(st.lists(st.tuples(spans(FINE * columns), spans(FINE * rows)), max_size=5))
    return rows, columns, [(left, top, right, bottom) for (left, right), (top, bottom) in pairs]


def units(boxes, rows, columns):
    return np.array(boxes, np.float64).reshape(-1, 4) / (FINE * np.array([columns, rows, columns, rows]))


@given(fine_boxes(SIDES))
def test_covered_is_what_a_raster_counts_in_each_cell(drawn):
    rows, columns, boxes = drawn
    raster = np.zeros((FINE * rows, FINE * columns))
    for left, top, right, bottom in boxes:
        raster[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 1
    want = raster.reshape(rows, FINE, columns, FINE).mean(axis=(1, 3)).ravel()
    assert covered_share(units(boxes, rows, columns), rows, columns) == pytest.approx(want, abs=1e-12)


@given(EDGES, EDGES, EDGES, EDGES, st.integers(1, 9), st.integers(1, 9))
def test_covered_sums_to_the_area_of_two_boxes_less_their_overlap(x, y, other_x, other_y, rows, columns):
    def length(left, right):
        return max(0.0, min(right, 1.0) - max(left, 0.0))

    common = length(max(x[0], other_x[0]), min(x[1], other_x[1])) * length(max(y[0], other_y[0]), min(y[1], other_y[1]))
    want = length(*x) * length(*y) + length(*other_x) * length(*other_y) - common
    boxes = np.array([[x[0], y[0], x[1], y[1]], [other_x[0], other_y[0], other_x[1], other_y[1]]])
    shares = covered_share(boxes, rows, columns)
    assert shares.mean() == pytest.approx(want, abs=1e-12)
    assert ((shares >= 0) & (shares <= 1)).all()


def test_covered_of_hand_made_boxes():
    assert covered_share(np.array([[0.25, 0, 0.75, 0.5]]), 2, 2).tolist() == [0.5, 0.5, 0, 0]
    assert covered_share(np.array([[0.5, 0.25, 1, 0.5]]), 2, 4).tolist() == [0, 0, 0.5, 0.5, 0, 0, 0, 0]
    assert covered_share(np.array([[0, 0, 1, 1]]), 3, 5) == pytest.approx(np.ones(15))
    assert covered_share(NONE, 2, 3).tolist() == [0] * 6


def test_boxes_that_touch_leave_no_gap_and_count_nothing_twice():
    halves = np.array([[0, 0, 0.3, 1], [0.3, 0, 1, 1]])
    assert covered_share(halves, 3, 4) == pytest.approx(np.ones(12), abs=1e-12)
    assert region(3, 4, *halves).inside.all()
    assert covered_share(np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]), 2, 2).tolist() == [1, 0, 0, 1]


def test_the_same_box_twice_covers_once():
    box = (0.1, 0.2, 0.7, 0.9)
    assert region(4, 4, box, box).covered == pytest.approx(region(4, 4, box).covered, abs=1e-15)


def test_boxes_beyond_the_picture_are_clipped():
    beyond, within = region(3, 4, (-0.4, 0.2, 0.6, 1.7)), region(3, 4, (0, 0.2, 0.6, 1))
    for name in ("covered", "inside", "distance", "centre_hit"):
        assert getattr(beyond, name) == pytest.approx(getattr(within, name), abs=1e-12)
    assert not region(3, 4, (1.1, 0, 1.4, 1)).covered.any()


def test_a_centre_on_the_left_or_top_edge_is_inside_and_on_the_right_or_bottom_edge_is_not():
    # The centres of a 4 x 4 grid lie at 1, 3, 5 and 7 eighths.
    assert np.flatnonzero(region(4, 4, (3 / 8, 1 / 8, 5 / 8, 3 / 8)).inside).tolist() == [1]
    assert np.flatnonzero(region(4, 4, (3 / 8, 1 / 8, 0.63, 0.38)).inside).tolist() == [1, 2, 5, 6]
    assert np.flatnonzero(region(4, 4, (0.38, 0.13, 0.63, 0.38)).inside).tolist() == [6]


@given(fine_boxes(st.sampled_from([1, 2, 4, 8])))
def test_inside_is_whether_a_centre_lies_in_any_box(drawn):
    rows, columns, boxes = drawn
    want = [
        any(
            left <= FINE * column + FINE // 2 < right and top <= FINE * row + FINE // 2 < bottom
            for left, top, right, bottom in boxes
        )
        for row in range(rows)
        for column in range(columns)
    ]
    assert region(rows, columns, *units(boxes, rows, columns)).inside.tolist() == want


@given(fine_boxes(SIDES), st.integers(1, 3000), st.integers(1, 3000))
def test_distance_is_to_the_nearest_point_of_any_box_over_the_diagonal(drawn, width, height):
    rows, columns, boxes = drawn
    distances = region(rows, columns, *units(boxes, rows, columns), size_px=(width, height)).distance
    if not boxes:
        assert np.isnan(distances).all()
        return
    want = []
    for row in range(rows):
        for column in range(columns):
            x, y = FINE * (column + 0.5), FINE * (row + 0.5)
            offsets = [(x - min(max(x, box[0]), box[2]), y - min(max(y, box[1]), box[3])) for box in boxes]
            across, down = width / (FINE * columns), height / (FINE * rows)
            want.append(min(math.hypot(u * across, v * down) for u, v in offsets))
    assert distances == pytest.approx(np.array(want) / math.sqrt(width**2 + height**2), abs=1e-12)


def test_distance_is_in_pixels_of_the_picture_and_not_in_cells():
    # Cells of 30 x 40 px in a picture of 60 x 80: the diagonal is 100.
    assert region(2, 2, (0, 0, 0.25, 0.25), size_px=(60, 80)).distance == pytest.approx([0, 0.3, 0.4, 0.5], abs=1e-12)


def test_the_centre_prior_is_a_gaussian_over_a_quarter_of_the_sides():
    central = region(3, 5).central.reshape(3, 5)
    for row in range(3):
        for column in range(5):
            x, y = (column + 0.5) / 5 - 0.5, (row + 0.5) / 3 - 0.5
            assert central[row, column] == pytest.approx(math.exp(-(x * x + y * y) / (2 * 0.25**2)))
    assert central.argmax() == 7


def test_the_centre_of_the_picture_is_hit_where_it_lies_in_a_box():
    assert region(2, 2, (0.5, 0.5, 0.6, 0.6)).centre_hit == 1
    assert region(2, 2, (0.4, 0.4, 0.5, 0.6)).centre_hit == 0
    assert region(2, 2, (0.4, 0.4, 0.6, 0.5)).centre_hit == 0
    assert region(2, 2, (0, 0, 0.4, 1), (0.4, 0, 1, 1)).centre_hit == 1
    assert region(2, 2).centre_hit == 0


def test_pictures_are_scored_as_one_map():
    grids = [grid(2, 3), grid(4, 1), grid(3, 3)]
    boxes = [np.array([[0.3, 0.1, 0.9, 0.7]]), NONE, np.array([[0, 0, 0.2, 0.2], [0.1, 0.1, 0.4, 0.8]])]
    sizes = [(90, 40), (30, 200), (64, 64)]
    together = picture_region(grids, boxes, sizes)
    apart = [picture_region([grid_], [own], [size]) for grid_, own, size in zip(grids, boxes, sizes, strict=True)]
    for name in ("covered", "inside", "distance", "central"):
        assert np.array_equal(
            getattr(together, name), np.concatenate([getattr(single, name) for single in apart]), equal_nan=True
        )
    assert together.cells.tolist() == list(range(6 + 4 + 9))
    assert together.centre_hit == pytest.approx(1 / 3)
    assert np.flatnonzero(np.isnan(together.distance)).tolist() == [6, 7, 8, 9]


def test_every_picture_has_its_boxes():
    with pytest.raises(ValueError, match="zip"):
        picture_region([grid(2, 2), grid(2, 2)], [NONE], [(10, 10), (10, 10)])


def test_a_step_is_a_picture_on_its_own_cells():
    clip, boxes = grid(2, 3, steps=4), np.array([[0.2, 0.55, 0.9, 1], [0.45, 0.1, 0.55, 0.2]])
    step, alone = step_region(clip, 2, boxes, (64, 48)), region(2, 3, *boxes, size_px=(64, 48))
    assert step.cells.tolist() == [12, 13, 14, 15, 16, 17]
    assert step_region(clip, 0, boxes, (64, 48)).cells.tolist() == [0, 1, 2, 3, 4, 5]
    for name in ("covered", "inside", "distance", "central"):
        assert np.array_equal(getattr(step, name), getattr(alone, name))
    assert step.centre_hit == 0
    assert step_region(clip, 1, np.array([[0.4, 0.5, 0.9, 1]]), (64, 48)).centre_hit == 1


@pytest.mark.parametrize("name", ["covered", "inside", "distance", "central", "cells"])
def test_arrays_of_a_region_that_do_not_fit_are_an_error(name):
    valid = region(2, 2)
    with pytest.raises(ValueError, match="shapes"):
        replace(valid, **{name: getattr(valid, name)[:3]})


def test_a_region_without_cells_is_an_error():
    with pytest.raises(ValueError, match="shapes"):
        Region(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool), np.zeros(0), np.zeros(0), 0.0)


def clip_of(*frames):
    """Return the grid of a clip with these sampled frames, two a step."""
    steps = -(-len(frames) // 2)
    clip = Media(
        kind="clip",
        frames=np.zeros((len(frames), 4, 4, 3), np.uint8),
        times_s=np.array(frames) / 10,
        size_px=(10, 10),
        source="clip",
        sha256="",
        clip=ClipFacts(0.0, 100.0, 10.0, 2.0, frames, 1000, 1000),
    )
    return clip_grid((steps, 4, 4), 2, 3, clip)


def numbered(*frames):
    """Return a distinct box for each of these frames, and the frames' numbers."""
    return np.array([[0.1, 0.1, 0.2, 0.3 + i / 100] for i in range(len(frames))]), np.array(frames, np.int64)


def taken(clip, *frames):
    boxes, numbers = numbered(*frames)
    order = {box.tobytes(): i for i, box in enumerate(boxes)}
    return {step: [order[box.tobytes()] for box in own] for step, own in step_boxes(clip, boxes, numbers).items()}


def test_a_step_takes_the_nearest_annotated_frame_of_each_sampled_one():
    clip = clip_of(0, 5, 10, 15, 20)
    assert clip.frame_span.tolist() == [[0, 5], [10, 15], [20, 20]]
    assert taken(clip, 1, 4, 9) == {0: [0, 1]}
    assert taken(clip, 2, 3) == {0: [0, 1]}
    assert taken(clip, 3, 6, 8) == {0: [0, 1]}
    assert taken(clip, 0, 8, 7, 1) == {0: [0, 2]}
    assert taken(clip, 21, 23, 24) == {2: [0]}


def test_a_step_takes_all_boxes_of_a_frame():
    assert taken(clip_of(0, 5, 10, 15), 12, 4, 12, 4, 4, 9) == {0: [1, 3, 4], 1: [0, 2]}


def test_a_step_takes_no_frame_that_belongs_to_another():
    clip = clip_of(0, 5, 10, 15, 20)
    assert taken(clip, 9, 14) == {0: [0], 1: [1]}
    assert taken(clip, 10, 19, 20) == {1: [0, 1], 2: [2]}
    assert taken(clip_of(30, 35), 29, 39) == {0: [1]}


def test_of_two_equally_near_frames_the_earlier_is_taken():
    assert taken(clip_of(10, 10), 12, 8) == {0: [0]}
    assert taken(clip_of(0, 20), 24, 16) == {0: [1]}


def test_steps_without_boxes_are_left_out():
    clip = clip_of(0, 5, 10, 15, 20, 25)
    assert list(taken(clip, 2, 22)) == [0, 2]
    assert step_boxes(clip, NONE, np.zeros(0, np.int64)) == {}


def last_length(sampled):
    """Return the length of the last step: that of the step before it; of a single step twice its frames' distance."""
    firsts = sampled[::2]
    if len(firsts) > 1:
        return firsts[-1] - firsts[-2]
    return 2 * (sampled[1] - sampled[0]) if len(sampled) > 1 else 10**9


def test_a_frame_that_is_shown_for_two_steps_keeps_its_boxes_in_both():
    assert taken(clip_of(0, 0, 0, 5), 0) == {0: [0], 1: [0]}


def test_frames_after_the_last_step_are_left_out():
    assert taken(clip_of(0, 5, 10, 15), 99) == {}
    assert taken(clip_of(0, 5, 10, 15), 19) == {1: [0]}


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=9, unique=True).map(sorted),
    st.lists(st.integers(0, 80), min_size=1, max_size=12),
)
def test_steps_take_the_same_boxes_as_a_loop(sampled, frames):
    want = {}
    for step in range(0, len(sampled), 2):
        own = sampled[step : step + 2]
        stop = sampled[step + 2] if step + 2 < len(sampled) else own[0] + last_length(sampled)
        stop = max(stop, own[-1] + 1)
        near = [frame for frame in frames if own[0] <= frame < stop]
        if near:
            chosen = {min(near, key=lambda frame, at=at: (abs(frame - at), frame)) for at in own}
            want[step // 2] = [i for i, frame in enumerate(frames) if frame in chosen]
    assert taken(clip_of(*sampled), *frames) == want
