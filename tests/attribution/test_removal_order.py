from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import auc

from qvl_attn.attribution import faithfulness
from qvl_attn.attribution.faithfulness import STEPS

rng = np.random.default_rng(4)


def noise(*shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


# Which cells are removed at which share.


def test_the_shares_go_from_none_to_all_in_sixteenths():
    assert faithfulness.shares().tolist() == [k / 16 for k in range(17)]
    assert faithfulness.shares().dtype == np.float64


@given(st.integers(1, 200_000))
def test_the_number_of_removed_cells_is_the_rounded_share(cells):
    counts = faithfulness.counts(cells)
    assert counts.dtype == np.int64
    assert counts.tolist() == [math.floor(Fraction(k * cells, 16) + Fraction(1, 2)) for k in range(17)]
    assert (counts[0], counts[-1]) == (0, cells)


def test_half_a_cell_is_rounded_up():
    assert faithfulness.counts(8).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
    assert faithfulness.counts(1).tolist() == [0] * 8 + [1] * 9


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(hnp.arrays(np.float32, n, elements=st.integers(0, 3)), st.permutations(range(n)))
    )
)
def test_the_strongest_go_first_and_ties_as_the_permutation_has_them(drawn):
    values, ties = drawn
    order = faithfulness.descending(values, np.array(ties))
    assert order.dtype == np.int64
    assert order.tolist() == sorted(range(len(values)), key=lambda cell: (-values[cell], ties.index(cell)))


def test_faint_differences_count_and_large_ones_do_not_overflow():
    values = np.array([0, 1e-12, 3e38, 1e-45, 1.0000001, 1], np.float32)
    assert faithfulness.descending(values, np.arange(6)[::-1]).tolist() == [2, 4, 5, 1, 3, 0]


def test_a_constant_map_goes_in_the_order_of_the_permutation():
    ties = rng.permutation(100)
    for level in (0.0, 0.3):
        assert faithfulness.descending(np.full(100, level), ties).tolist() == ties.tolist()


@given(st.integers(1, 60).flatmap(lambda n: st.permutations(range(n))))
def test_the_first_cells_of_the_order_are_removed(order):
    removed = faithfulness.removed(np.array(order))
    assert removed.shape == (STEPS + 1, len(order))
    assert removed.dtype == bool
    for cells, count in zip(removed, faithfulness.counts(len(order)), strict=True):
        assert set(np.flatnonzero(cells).tolist()) == set(order[:count])


def test_removed_cells_stay_removed():
    removed = faithfulness.removed(rng.permutation(77))
    assert not removed[0].any()
    assert removed[-1].all()
    assert (removed[1:] >= removed[:-1]).all()


# The area under the curve.


def test_the_area_is_that_of_scikit_learn():
    curves = rng.standard_normal((5, 3, STEPS + 1))
    want = [[auc([k / 16 for k in range(17)], curve) for curve in group] for group in curves]
    assert faithfulness.area(curves) == pytest.approx(np.array(want), abs=1e-12)


@given(hnp.arrays(np.float64, STEPS + 1, elements=st.floats(-100, 0)))
def test_the_area_is_the_sum_of_trapezoids(curve):
    want = math.fsum((a + b) / 2 / 16 for a, b in pairwise(curve))
    area = faithfulness.area(curve)
    assert area.shape == ()
    assert area.dtype == np.float64
    assert area == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_area_is_summed_in_double_precision(dtype):
    curves = (rng.random((2, STEPS + 1)) - 3).astype(dtype)
    curves[1, 3] = -6e4
    areas = faithfulness.area(curves)
    assert areas.dtype == np.float64
    for area, curve in zip(areas, curves.tolist(), strict=True):
        assert area == pytest.approx(math.fsum((a + b) / 32 for a, b in pairwise(curve)), rel=1e-14)


def test_the_area_of_a_level_curve_is_its_level_and_of_a_ramp_its_half():
    assert faithfulness.area(np.full(STEPS + 1, -3.0)) == pytest.approx(-3)
    assert faithfulness.area(-4 * faithfulness.shares()) == pytest.approx(-2)
    first, last = np.eye(STEPS + 1)[[0, -1]]
    assert faithfulness.area(np.stack([first, last])).tolist() == [1 / 32, 1 / 32]


# The pixels that replace removed cells.


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (40, 1), (3, 4), (30, 44), (61, 20), (12, 160)])
def test_a_blurred_frame_is_that_of_scipys_gaussian(size):
    ndimage = pytest.importorskip("scipy.ndimage")  # comes with scikit-learn
    frame = noise(*size, 3)
    frame[: size[0] // 2, :, 0] //= 5
    frame[:, size[1] // 3 :, 1] //= 3
    sigma = max(size) / 10
    want = [ndimage.gaussian_filter(frame[..., c].astype(float), sigma, mode="reflect", truncate=8) for c in range(3)]
    blurred = faithfulness.blurred(frame)
    assert blurred.dtype == np.uint8
    assert blurred.shape == frame.shape
    assert np.abs(blurred - np.stack(want, axis=-1)).max() < (0.55 if max(size) > 10 else 1.5)


def test_a_blurred_frame_has_no_detail_left_and_the_same_mean():
    stripes = np.zeros((80, 100, 3), np.uint8)
    stripes[:, ::2] = 200
    blurred = faithfulness.blurred(stripes)
    assert np.abs(blurred[:, 35:65].astype(int) - 100).max() <= 1
    assert np.abs(blurred.astype(int) - 100).max() <= 5  # at the borders reflection makes a stripe twice as wide
    frame = noise(50, 90, 3)
    assert faithfulness.blurred(frame).mean(axis=(0, 1)) == pytest.approx(frame.mean(axis=(0, 1)), abs=0.3)
    assert faithfulness.blurred(frame).std() < frame.std() / 10


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_a_frame_of_one_colour_stays_as_it_is(level):
    frame = np.full((30, 70, 3), (level, 255 - level, level), np.uint8)
    assert np.array_equal(faithfulness.blurred(frame), frame)
    assert np.array_equal(faithfulness.flat(frame[None]), frame[None])


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 8), (4, 6, 3)])
def test_flat_frames_have_the_mean_colour_of_all_of_them(shape):
    frames = noise(*shape, 3)
    frames[0, :, :, 2] //= 9
    flat = faithfulness.flat(frames)
    assert flat.dtype == np.uint8
    assert flat.shape == frames.shape
    for channel in range(3):
        levels = [int(level) for level in frames[..., channel].ravel()]
        assert np.unique(flat[..., channel]).tolist() == [round(Fraction(sum(levels), len(levels)))]


def test_the_mean_colour_is_over_all_frames():
    frames = np.stack([np.full((2, 3, 3), 10, np.uint8), np.full((2, 3, 3), 250, np.uint8)])
    assert np.unique(faithfulness.flat(frames)).tolist() == [130]


def test_the_mean_colour_of_many_bright_pixels_is_exact():
    frames = np.full((2, 700, 900, 3), 255, np.uint8)
    frames[0, 0, 0] = 0
    assert np.unique(faithfulness.flat(frames)).tolist() == [255]


def test_filled_frames_are_writable_copies():
    frames = noise(2, 4, 5, 3)
    before = frames.copy()
    for filled in (faithfulness.blurred(frames[0]), faithfulness.flat(frames)[0]):
        filled[0, 0] = 7
        assert (filled[1:] != 7).any()
    assert np.array_equal(frames, before)
