from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qvl_attn.attribution.similarity import rank_correlation, ssim

rng = np.random.default_rng(5)
SHAPES = [(1, 1, 2), (1, 2, 1), (1, 2, 2), (1, 1, 30), (2, 3, 5), (3, 11, 1), (1, 13, 17), (4, 6, 4)]


def two_maps(shape, levels=None):
    first = rng.random(shape)
    second = 0.5 * first + rng.random(shape)
    return (first, second) if levels is None else (np.floor(first * levels), np.floor(second * levels))


def noisy(clean, sigma):
    return clean + sigma * np.random.default_rng(2).standard_normal(clean.shape)


# Rank correlation.


@pytest.mark.parametrize("levels", [None, 2, 3, 10])
@pytest.mark.parametrize("shape", [(40,), (5, 9), (2, 7, 6)])
def test_rank_correlation_is_that_of_scipy(shape, levels):
    stats = pytest.importorskip("scipy.stats")  # comes with scikit-learn
    for _ in range(10):
        first, second = two_maps(shape, levels)
        want = stats.spearmanr(first.ravel(), second.ravel()).statistic
        assert rank_correlation(first, second) == pytest.approx(want, abs=1e-12)


@given(st.integers(2, 12).flatmap(lambda n: hnp.arrays(np.float64, (2, n), elements=st.integers(0, 4))))
def test_rank_correlation_is_pearsons_of_mean_ranks(maps):
    assume(all(np.ptp(values) for values in maps))
    ranks = [[sum(v < u for v in row) + (sum(v == u for v in row) + 1) / 2 for u in row] for row in maps.tolist()]
    assert rank_correlation(*maps) == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-12)
    assert -1 <= rank_correlation(*maps) <= 1


def test_rank_correlation_depends_on_the_order_only():
    first, second = two_maps((3, 4, 5))
    want = rank_correlation(first, second)
    assert 0 < want < 1
    assert rank_correlation(first**3 * 1e-12, np.exp(second)) == want
    assert rank_correlation(first, -second) == pytest.approx(-want)
    assert rank_correlation(second, first) == want
    assert rank_correlation(first, first) == 1
    assert rank_correlation(first, -first) == -1


def test_rank_correlation_pairs_the_cells_of_two_layouts_of_memory():
    first, second = two_maps((3, 4))
    assert rank_correlation(np.asfortranarray(first), second) == rank_correlation(first, second)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rank_correlation_of_many_cells_stays_exact(dtype):
    first = rng.permutation(60_000).astype(np.float64)
    assert rank_correlation(first, 2 * first) == pytest.approx(1, abs=1e-12)
    values = rng.random(60_000).astype(dtype)
    assert rank_correlation(values, values) == pytest.approx(1, abs=1e-12)


# Structural similarity.


def ssim_by_hand(first, second):
    """Return the SSIM by equation 13 of Wang et al. 2004, window by window."""

    def reflected(i, n):
        i %= 2 * n
        return i if i < n else 2 * n - 1 - i

    def unit(values):
        low, high = min(values.ravel()), max(values.ravel())
        return [[[(v - low) / (high - low) for v in row] for row in step] for step in values.tolist()]

    weights = {
        (i, j): math.exp(-(i * i + j * j) / (2 * 1.5 * 1.5)) for i in range(-5, 6) for j in range(-5, 6)
    }  # 11 x 11
    total = sum(weights.values())
    steps, rows, columns = first.shape
    values = []
    for x, y in zip(unit(first), unit(second), strict=True):
        for row in range(rows):
            for column in range(columns):
                window = [
                    (w / total, x[r][c], y[r][c])
                    for (i, j), w in weights.items()
                    for r, c in [(reflected(row + i, rows), reflected(column + j, columns))]
                ]
                mx, my = sum(w * a for w, a, _ in window), sum(w * b for w, _, b in window)
                vx, vy = sum(w * (a - mx) ** 2 for w, a, _ in window), sum(w * (b - my) ** 2 for w, _, b in window)
                cov = sum(w * (a - mx) * (b - my) for w, a, b in window)
                numerator = (2 * mx * my + 0.0001) * (2 * cov + 0.0009)
                values.append(numerator / ((mx * mx + my * my + 0.0001) * (vx + vy + 0.0009)))
    assert len(values) == steps * rows * columns
    return sum(values) / len(values)


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_is_the_formula(shape):
    first, second = two_maps(shape)
    assert ssim(first, second) == pytest.approx(ssim_by_hand(first, second), abs=1e-12)
    assert ssim(first**4, second * 1e-12) == pytest.approx(ssim_by_hand(first**4, second), abs=1e-9)


def test_ssim_is_the_formula_where_a_step_is_constant_or_dark():
    first, second = two_maps((3, 4, 5))
    first[1], second[2], first[0] = 0, 0.25, first[0] * 0.01
    assert ssim(first, second) == pytest.approx(ssim_by_hand(first, second), abs=1e-12)


def test_ssim_averages_the_windows_of_scipys_gaussian():
    ndimage = pytest.importorskip("scipy.ndimage")  # comes with scikit-learn
    first, second = two_maps((2, 24, 31))
    x, y = ((values - values.min()) / np.ptp(values) for values in (first, second))

    def mean(values):  # the window of scikit-image's structural_similarity
        return np.stack([ndimage.gaussian_filter(step, 1.5, truncate=3.5, mode="reflect") for step in values])

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    want = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert ssim(first, second) == pytest.approx(want.mean(), abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_map_is_most_like_itself(shape):
    first, second = two_maps(shape)
    assert ssim(first, first) == pytest.approx(1, abs=1e-12)
    assert ssim(first, 3 * first + 7) == pytest.approx(1, abs=1e-9)
    assert ssim(first, second) == ssim(second, first)
    assert -1 <= ssim(first, -first) < ssim(first, first)


@given(hnp.arrays(np.float32, (2, 2, 3, 4), elements=st.floats(0, 1, width=32)))
def test_ssim_is_symmetric_and_bounded(maps):
    assume(all(np.ptp(values) for values in maps))
    similarity = ssim(*maps)
    assert similarity == ssim(maps[1], maps[0])
    assert -1 - 1e-9 <= similarity <= 1 + 1e-9


def test_the_more_noise_the_less_alike():
    row, column = np.mgrid[:16, :20]
    clean = np.exp(-((row - 6) ** 2 + (column - 12) ** 2) / 20)[None] * np.ones((2, 1, 1))
    for figure in (ssim, rank_correlation):
        scores = [figure(clean, noisy(clean, sigma)) for sigma in (0, 0.03, 0.1, 0.3, 1, 3)]
        assert scores == sorted(scores, reverse=True)
        assert scores[0] == pytest.approx(1, abs=1e-12)
        assert scores[0] - scores[1] > 1e-3
        assert scores[-1] < 0.3


def test_windows_stay_within_a_step():
    first, second = two_maps((2, 5, 5))
    first[:, 0, 0], first[:, 4, 4], second[:, 0, 0], second[:, 4, 4] = (
        0,
        2,
        0,
        2,
    )  # steps of the same scale
    apart = [ssim(first[[step]], second[[step]]) for step in (0, 1)]
    assert ssim(first, second) == pytest.approx(np.mean(apart), abs=1e-12)
    assert abs(apart[0] - apart[1]) > 1e-3


def test_ssim_scales_all_steps_as_one():
    first = np.stack([np.full((4, 4), 1.0), np.full((4, 4), 3.0)])
    second = np.stack([np.full((4, 4), 2.0), rng.random((4, 4))])
    assert ssim(first, second) == pytest.approx(ssim_by_hand(first, second), abs=1e-12)


# Both.


@pytest.mark.parametrize("figure", [rank_correlation, ssim])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 6), (2, 3, 4)])
def test_a_constant_map_has_no_similarity(figure, shape):
    some = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    for level in (0.0, 0.1, 1e-12, 1.0):
        flat = np.full(shape, level)
        assert math.isnan(figure(flat, some))
        assert math.isnan(figure(some, flat))
        assert math.isnan(figure(flat, flat))


@pytest.mark.parametrize("figure", [rank_correlation, ssim])
def test_faint_maps_are_compared_as_any_others(figure):
    first, second = two_maps((2, 4, 6))
    for scale in (1e-12, 1e-40, 1e12):
        assert figure(first * scale, second) == pytest.approx(figure(first, second), abs=1e-9)
    faint = np.zeros((1, 3, 3), np.float32)
    faint[0, 1, 2] = 1e-45
    assert figure(faint, faint) == pytest.approx(1)


@pytest.mark.parametrize("figure", [rank_correlation, ssim])
def test_a_figure_is_a_number_and_leaves_the_maps_alone(figure):
    first, second = (values.astype(np.float32) for values in two_maps((2, 3, 4)))
    before = first.copy(), second.copy()
    assert type(figure(first, second)) is float
    assert figure(first, second) == figure(first.astype(np.float64), second.astype(np.float64))
    assert (first == before[0]).all()
    assert (second == before[1]).all()


@pytest.mark.parametrize("figure", [rank_correlation, ssim])
@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 3, 4), (1, 1, 1), (1, 1, 4)])
def test_maps_of_different_shapes_are_not_compared(figure, shape):
    with pytest.raises(ValueError, match=r"maps of shapes \(1, 3, 4\) and "):
        figure(rng.random((1, 3, 4)), rng.random(shape))
