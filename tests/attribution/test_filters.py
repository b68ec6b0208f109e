from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qvl_attn.attribution.filters import FILTERS, denoise
from qvl_attn.core.errors import InputError

rng = np.random.default_rng(8)
SHAPES = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 7), (1, 6, 1), (1, 2, 2), (3, 5, 4), (2, 9, 13)]
NAMES = sorted(FILTERS)
MAPS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5)),
    elements=st.one_of(st.integers(0, 3), st.floats(0, 1, width=32)),
)


def random_map(*shape):
    return (rng.random(shape) ** 4).astype(np.float32)


def reflected(i, n):
    """Return the index of cell i in a line of n cells that is reflected without its edge."""
    if n == 1:
        return 0
    i = abs(i)
    return i if i < n else 2 * (n - 1) - i


def by_hand(values, of_nine):
    """Apply a function of nine values to each window, in plain Python."""
    steps, rows, columns = values.shape
    out = np.empty(values.shape)
    for t in range(steps):
        for r in range(rows):
            for c in range(columns):
                nine = [
                    float(values[t, reflected(r + i, rows), reflected(c + j, columns)])
                    for i in (-1, 0, 1)
                    for j in (-1, 0, 1)
                ]
                out[t, r, c] = of_nine(nine)
    return out


def rank_gaussian(nine):
    if len(set(nine)) == 1:
        return max(nine[0], 0.0)
    mean = math.fsum(nine) / 9
    if not mean > 0:
        return 0.0
    sigma = math.sqrt(math.fsum((value - mean) ** 2 for value in nine) / 9) / mean
    weights = [math.exp(-((rank - 4) ** 2) / (2 * sigma**2)) for rank in range(9)]
    return math.fsum(w * value for w, value in zip(weights, sorted(nine), strict=True)) / math.fsum(weights)


BY_HAND = {"median": statistics.median, "rank-gaussian": rank_gaussian}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_filter_is_its_formula(name, shape):
    levels = np.floor(random_map(*shape) * 4).astype(np.float32)
    # An almost uniform map has a small sigma: about 0.001 and 0.15 ranks.
    for values in (
        random_map(*shape),
        levels,
        1 + random_map(*shape) * np.float32(1e-3),
        1 + random_map(*shape) * np.float32(0.6),
    ):
        filtered = denoise(values, name)
        assert filtered.dtype == np.float32
        assert filtered.shape == shape
        np.testing.assert_allclose(filtered, by_hand(values, BY_HAND[name]), rtol=2e-7, atol=1e-30)


@pytest.mark.parametrize("name", NAMES)
@given(MAPS)
def test_a_filter_is_its_formula_whatever_the_map(name, values):
    np.testing.assert_allclose(denoise(values, name), by_hand(values, BY_HAND[name]), rtol=2e-7, atol=1e-44)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_median_is_that_of_scipy(shape):
    ndimage = pytest.importorskip("scipy.ndimage")  # comes with scikit-learn
    values = random_map(*shape)
    assert np.array_equal(denoise(values, "median"), ndimage.median_filter(values, (1, 3, 3), mode="mirror"))


def test_a_worked_window():
    # Nine values with mean 1, five of them 0: sigma in ranks is their standard deviation.
    values = np.zeros((1, 3, 3), np.float32)
    values[0, 1] = 1
    values[0, 0, 0] = 6
    assert values.mean() == 1
    sigma = math.sqrt((5 * 1 + 3 * 0 + 25) / 9)
    weights = [math.exp(-(rank**2) / (2 * sigma**2)) for rank in (-4, -3, -2, -1, 0, 1, 2, 3, 4)]
    want = (weights[5] + weights[6] + weights[7] + 6 * weights[8]) / sum(weights)
    assert denoise(values, "rank-gaussian")[0, 1, 1] == pytest.approx(want, rel=1e-6)
    assert denoise(values, "median")[0, 1, 1] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_lone_cell_goes_and_a_plateau_stays(name):
    values = np.full((1, 9, 9), 0.1, np.float32)
    values[0, 2, 2] = 0.11
    values[0, 5:, 5:] = 0.9
    filtered = denoise(values, name)[0]
    assert filtered[2, 2] == pytest.approx(0.1, abs=1e-4)
    assert filtered[6:, 6:] == pytest.approx(np.full((3, 3), 0.9))


def test_the_median_lets_no_lone_cell_through_and_the_rank_gaussian_little_of_it():
    values = np.zeros((1, 7, 7), np.float32)
    values[0, 3, 3] = 1
    assert not denoise(values, "median").any()
    assert 0 < denoise(values, "rank-gaussian").max() < 1 / 9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", [0, 1e-45, 1e-12, 0.1, 1 / 3, 1, 7e30])
def test_a_constant_map_stays_as_it_is(name, shape, level):
    values = np.full(shape, level, np.float32)
    assert np.array_equal(denoise(values, name), values)


@pytest.mark.parametrize("name", NAMES)
def test_each_step_is_filtered_by_itself(name):
    values = random_map(4, 5, 6)
    apart = np.concatenate([denoise(values[[step]], name) for step in range(4)])
    assert np.array_equal(denoise(values, name), apart)


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_depends_on_neither_scale_nor_orientation(name):
    values = random_map(2, 5, 6)
    filtered = denoise(values, name)
    for scale in (1e-12, 1e12):
        np.testing.assert_allclose(denoise(values * np.float32(scale), name), filtered * scale, rtol=1e-6)
    assert np.array_equal(denoise(values[:, ::-1], name), filtered[:, ::-1])
    assert np.array_equal(denoise(values[:, :, ::-1], name), filtered[:, :, ::-1])
    assert np.array_equal(denoise(values.transpose(0, 2, 1), name), filtered.transpose(0, 2, 1))


@pytest.mark.parametrize("name", NAMES)
@given(MAPS)
def test_results_are_between_the_minimum_and_the_maximum(name, values):
    before = values.copy()
    filtered = denoise(values, name)
    assert filtered.min() >= values.min()
    assert filtered.max() <= values.max()
    assert np.array_equal(values, before)


def test_the_rank_gaussian_is_zero_where_the_mean_is_not_above_it():
    values = np.array([[[-1, -2, -3], [4, -5, 6], [-7, -8, 3]]], np.float32)
    assert by_hand(values, rank_gaussian)[0, 1, 1] == 0
    np.testing.assert_allclose(denoise(values, "rank-gaussian"), by_hand(values, rank_gaussian), rtol=2e-7)
    assert not denoise(np.full((1, 3, 4), -2, np.float32), "rank-gaussian").any()


@pytest.mark.parametrize("name", ["mean", "", "Median", "rank_gaussian"])
def test_an_unknown_filter_is_refused(name):
    with pytest.raises(InputError) as caught:
        denoise(random_map(1, 2, 2), name)
    assert caught.value.message == f"`denoise={name!r}`: unknown"
    assert caught.value.hint == "write median or rank-gaussian"
