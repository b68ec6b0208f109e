from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score

from qvl_attn.attribution import grounding
from qvl_attn.attribution.grounding import GROUNDING, PATTERNS, Cells
from qvl_attn.attribution.regions import Region, picture_region
from qvl_attn.model.token_grid import picture_grid

rng = np.random.default_rng(11)
LEVELS = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 24)), elements=st.integers(0, 5))


def rows_of(*rows):
    return np.array(rows, np.float64)


def picture(rows, columns, *boxes, size_px=(80, 60)):
    grid = picture_grid((1, 2 * rows, 2 * columns), 2, 0, size_px)
    return picture_region([grid], [np.array(boxes, np.float64).reshape(-1, 4)], [size_px])


def region_with(covered, inside=None, distance=None, centre_hit=0.0):
    """Return a region with the given arrays."""
    covered = np.array(covered, np.float64)
    inside = covered > 0.5 if inside is None else np.array(inside, bool)
    distance = np.zeros(len(covered)) if distance is None else np.array(distance, np.float64)
    return Region(np.arange(len(covered)), covered, inside, distance, np.ones(len(covered)), centre_hit)


REGION = picture(7, 9, (0.13, 0.2, 0.5, 0.61), (0.4, 0.3, 0.77, 0.7))


# Pointing, mass, lift.


def test_the_strongest_cell_points():
    maps = rows_of([0, 2, 1, 0], [2, 0, 1, 0], [0, 0, 0, 1e-30], [3, 3.5, 4, 0])
    assert grounding.pointing(maps, np.array([False, True, False, True])).tolist() == [1, 0, 1, 0]


def test_a_shared_maximum_is_a_miss():
    inside = np.array([True, True, False])
    assert grounding.pointing(rows_of([2, 2, 1], [2, 1, 2], [1, 2, 2], [1, 1, 1]), inside).tolist() == [0, 0, 0, 0]
    assert grounding.pointing(rows_of([2, 1, 1]), inside).tolist() == [1]


def test_a_map_without_attention_is_a_miss():
    assert grounding.pointing(np.zeros((2, 3)), np.ones(3, bool)).tolist() == [0, 0]
    assert grounding.pointing(np.zeros((1, 1)), np.ones(1, bool)).tolist() == [0]


def test_mass_spreads_each_cell_over_its_area():
    maps = rows_of([1, 2, 3, 4], [0, 0, 5, 0], [7, 0, 0, 0], [0, 0, 0, 0])
    covered = np.array([1, 0.5, 0, 0.25])
    assert grounding.mass(maps, covered) == pytest.approx([0.3, 0, 1, 0], abs=1e-15)
    assert grounding.lift(maps, covered) == pytest.approx(np.array([0.3, 0, 1, 0]) * 4 / 1.75, abs=1e-15)


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=4),
    st.floats(1e-6, 1e6),
)
def test_a_uniform_map_has_lift_one_whatever_the_boxes(rows, columns, corners, level):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    region = picture(rows, columns, *boxes)
    assume(region.covered.mean() > 1e-9)
    uniform = np.full((1, rows * columns), level)
    assert grounding.lift(uniform, region.covered) == pytest.approx([1], rel=1e-12)
    assert grounding.mass(uniform, region.covered) == pytest.approx([region.covered.sum() / (rows * columns)])


def test_without_boxes_there_is_no_lift():
    assert grounding.mass(rows_of([1, 2], [0, 0]), np.zeros(2)).tolist() == [0, 0]
    assert np.isnan(grounding.lift(rows_of([1, 2], [0, 0]), np.zeros(2))).all()


# Area under the ROC curve.


@pytest.mark.parametrize("levels", [None, 2, 3, 10])
def test_auc_is_that_of_scikit_learn(levels):
    maps = rng.random((20, 63))
    maps = maps if levels is None else np.floor(maps * levels)
    want = [roc_auc_score(REGION.inside, values) for values in maps]
    assert grounding.auc(maps, REGION.inside) == pytest.approx(want, abs=1e-12)


@given(LEVELS, st.data())
def test_auc_is_the_share_of_pairs_in_order(maps, data):
    inside = data.draw(hnp.arrays(bool, maps.shape[1]))
    scores = grounding.auc(maps, inside)
    pairs = [(a, b) for a in np.flatnonzero(inside) for b in np.flatnonzero(~inside)]
    if not pairs:
        assert np.isnan(scores).all()
        return
    want = [sum((row[a] > row[b]) + (row[a] == row[b]) / 2 for a, b in pairs) / len(pairs) for row in maps]
    assert scores == pytest.approx(want, abs=1e-12)


def test_auc_is_not_defined_where_no_centre_or_every_one_is_inside():
    for inside in (np.zeros(4, bool), np.ones(4, bool)):
        scores = grounding.auc(rng.random((3, 4)), inside)
        assert scores.shape == (3,)
        assert np.isnan(scores).all()


# Otsu's threshold, and the IoU.


def splits(values):
    """Return the exact between-class variance for each number of cells above a threshold."""
    exact = [Fraction(value) for value in values]
    variances = {}
    for threshold in sorted(set(exact))[:-1]:
        upper = [value for value in exact if value > threshold]
        lower = [value for value in exact if value <= threshold]
        difference = sum(upper) / len(upper) - sum(lower) / len(lower)
        variances[len(upper)] = len(upper) * len(lower) * difference**2
    return variances


@given(LEVELS | hnp.arrays(np.float64, (3, 20), elements=st.floats(0, 1, width=16)))
def test_otsu_is_the_best_of_all_thresholds(maps):
    for values, count in zip(maps, grounding.otsu(maps).tolist(), strict=True):
        variances = splits(values.tolist())
        if not variances:
            assert count == 0
        else:
            assert float(variances[count]) == pytest.approx(float(max(variances.values())), rel=1e-9)


def test_otsu_splits_cells_as_opencv_does():
    compared = 0
    for _ in range(60):
        two = rng.normal(*rng.integers(40, 90, 2), 70), rng.normal(*rng.integers(60, 200, 2), 30)
        values = np.concatenate(two).clip(0, 255).astype(np.uint8)
        best = sorted(splits(values.tolist()).values())[-2:]
        if best[1] - best[0] < best[1] * Fraction(1, 10**6):
            continue
        _, binary = cv2.threshold(values[None], 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        assert grounding.otsu(values[None].astype(np.float64)).tolist() == [int(binary.sum())]
        compared += 1
    assert compared > 40


@pytest.mark.parametrize("level", [0, 0.1, 1 / 3, 1e-9, 7])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 63, 1000])
def test_equal_cells_are_not_split(level, count):
    assert grounding.otsu(np.full((2, count), level)).tolist() == [0, 0]


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.floats(0, 0.9), st.floats(1e-5, 1))
def test_two_values_are_split_between_them(high, low, difference):
    assume(any(high) and not all(high))
    assert grounding.otsu(np.where(high, low + difference, low)[None]).tolist() == [sum(high)]


def test_each_map_is_split_on_its_own():
    maps = rows_of([9, 8, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1], [5, 0, 5, 5])
    assert grounding.otsu(maps).tolist() == [2, 1, 0, 3]


def test_a_map_that_is_one_on_the_covered_cells_has_iou_one():
    region = picture(4, 4, (0.25, 0.25, 0.75, 0.5), (0, 0.75, 0.5, 1))
    assert region.covered.sum() == 4
    assert grounding.iou(region.covered[None], region.covered).tolist() == [1]
    assert grounding.iou(1 - region.covered[None], region.covered).tolist() == [0]


def test_iou_region_with():
    maps = rows_of([5, 4, 1, 0], [0, 0, 5, 0], [0, 0, 0, 7], [3, 3, 3, 3], [0, 0, 0, 0])
    # Two cells above cover 1.5 of 1.75, one covers 0.25, one covers nothing; equal cells are not split.
    assert grounding.iou(maps, np.array([1, 0.5, 0.25, 0])) == pytest.approx([1.5 / 2.25, 0.25 / 2.5, 0, 0, 0])
    assert grounding.iou(maps, np.zeros(4)).tolist() == [0] * 5


@given(LEVELS, st.data())
def test_iou_is_that_of_areas_above_the_best_threshold(maps, data):
    covered = data.draw(hnp.arrays(np.float64, maps.shape[1], elements=st.sampled_from([0, 0.25, 0.5, 1])))
    for values, iou in zip(maps, grounding.iou(maps, covered), strict=True):
        variance = splits(values.tolist())
        best = [count for count in variance if variance[count] == max(variance.values())]
        if len(best) > 1:
            continue
        above = set(np.argsort(values)[::-1][: best[0]].tolist()) if best else set()
        common = sum(covered[i] for i in above)
        union = sum(1 if i in above else covered[i] for i in range(len(values)))
        assert iou == pytest.approx(common / union if union else 0)


# All of them.


def test_grounding_names_its_figures():
    maps = rng.random((6, 63))
    scores = grounding.grounding(maps, REGION)
    assert tuple(scores) == GROUNDING
    assert np.array_equal(scores["pointing"], grounding.pointing(maps, REGION.inside))
    assert np.array_equal(scores["mass"], grounding.mass(maps, REGION.covered))
    assert np.array_equal(scores["lift"], grounding.lift(maps, REGION.covered))
    assert np.array_equal(scores["auc"], grounding.auc(maps, REGION.inside))
    assert np.array_equal(scores["iou"], grounding.iou(maps, REGION.covered))


@pytest.mark.parametrize("scale", [1e-9, 0.1, 1 / 3, 7, 1e6])
def test_the_scale_of_a_map_does_not_matter(scale):
    maps = np.concatenate([rng.random((5, 63)), rng.random((5, 63)) ** 8, np.eye(63)[:3], np.zeros((1, 63))])
    scaled = grounding.grounding(maps * scale, REGION)
    for name, values in grounding.grounding(maps, REGION).items():
        assert scaled[name] == pytest.approx(values, rel=1e-9), name
    for name, values in grounding.chance(maps, REGION).items():
        assert grounding.chance(maps * scale, REGION)[name] == pytest.approx(values), name


@given(LEVELS, st.integers(-40, 40), st.data())
def test_the_scale_of_a_map_with_ties_does_not_matter(maps, power, data):
    covered = data.draw(hnp.arrays(np.float64, maps.shape[1], elements=st.integers(0, 64).map(lambda n: n / 64)))
    scaled = grounding.grounding(maps * 2.0**power, region_with(covered))
    for name, values in grounding.grounding(maps, region_with(covered)).items():
        assert np.array_equal(scaled[name], values, equal_nan=True), name


def test_a_map_alone_scores_as_it_does_among_others():
    maps = np.concatenate([np.floor(rng.random((5, 63)) * 4), np.zeros((1, 63)), rng.random((2, 63))])
    together = grounding.grounding(maps, REGION)
    for i in range(len(maps)):
        for name, values in grounding.grounding(maps[i : i + 1], REGION).items():
            assert values == pytest.approx(together[name][i : i + 1], rel=1e-12), name


# Scores of chance and of fixed maps.


@pytest.mark.parametrize(
    "values", [[1, 2, 3, 4, 9], [0, 0, 0, 0, 2], [1, 1, 3, 4, 4], [2, 2, 2, 2, 2], [0, 0, 0, 0, 0], [1, 1, 1, 2, 3]]
)
@pytest.mark.parametrize("covered", [[1, 0.6, 0.3, 0, 0], [0, 0, 0, 0, 0.2], [1, 1, 1, 1, 0.9], [0, 0, 0, 0, 0]])
def test_chance_is_the_mean_over_every_order_of_the_cells(values, covered):
    region = region_with(covered)
    orders = grounding.grounding(np.array(list(permutations(values)), np.float64), region)
    chance = grounding.chance(rows_of(values), region)
    assert tuple(chance) == GROUNDING
    for name in ("pointing", "mass", "lift", "auc"):
        assert chance[name] == pytest.approx([orders[name].mean()], abs=1e-12, nan_ok=True), name
    assert chance["iou"] == pytest.approx([orders["iou"].mean()], abs=5 * orders["iou"].std() / 8 + 1e-12)


@pytest.mark.parametrize("count", [1, 5, 40, 150, 299])
def test_chance_of_the_iou_is_that_of_many_shuffles(count):
    region = picture(15, 20, (0.1, 0.22, 0.63, 0.8), (0.57, 0.5, 0.9, 0.93))
    values = (np.arange(300) < count).astype(np.float64)
    shuffles = np.random.default_rng(5)
    shuffled = []
    for _ in range(3000):
        above = shuffles.permutation(values) > 0
        shuffled.append(region.covered[above].sum() / np.maximum(above, region.covered).sum())
    tolerance = 2.5 * np.std(shuffled) * math.sqrt(1 / 64 + 1 / 3000)
    assert grounding.chance(values[None], region)["iou"] == pytest.approx([np.mean(shuffled)], abs=tolerance)


def test_chance_is_the_same_every_time():
    maps = rng.random((4, 63))
    first, second = grounding.chance(maps, REGION), grounding.chance(maps, REGION)
    assert all(np.array_equal(first[name], second[name]) for name in GROUNDING)


def test_chance_is_one_figure_a_map():
    maps = rows_of([1, 2, 3, 4, 9], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0])
    chance = grounding.chance(maps, region_with([1, 0.75, 0.25, 0, 0]))
    assert chance["pointing"].tolist() == [0.4, 0, 0]
    assert chance["mass"] == pytest.approx([0.4, 0.4, 0])
    assert chance["lift"].tolist() == [1, 1, 0]
    assert chance["auc"].tolist() == [0.5] * 3
    assert chance["iou"][0] > 0
    assert chance["iou"][1:].tolist() == [0, 0]
    assert grounding.chance(rows_of([0], [2]), region_with([1]))["pointing"].tolist() == [0, 1]


def test_a_uniform_map_scores_as_chance():
    uniform = grounding.baselines(REGION)["uniform"]
    assert set(uniform) == set(GROUNDING)
    assert uniform["pointing"] == 0
    assert uniform["mass"] == pytest.approx(REGION.covered.mean())
    assert uniform["lift"] == pytest.approx(1, rel=1e-12)
    assert uniform["auc"] == 0.5
    assert uniform["iou"] == 0


def test_the_centre_prior_scores_as_its_map_and_points_at_the_centre():
    region = picture(4, 6, (0.45, 0.45, 0.95, 0.55), size_px=(60, 40))
    centre = grounding.baselines(region)["centre"]
    assert centre["pointing"] == 1  # where four cells share the maximum
    assert centre["mass"] == pytest.approx(region.central @ region.covered / region.central.sum())
    assert centre["lift"] == pytest.approx(centre["mass"] / (0.5 * 0.1))
    aside = picture(3, 3, (0, 0, 0.4, 0.4))
    centre = grounding.baselines(aside)["centre"]
    assert centre["pointing"] == 0
    assert centre["lift"] < 1
    assert centre["auc"] == pytest.approx(roc_auc_score(aside.inside, aside.central))


def test_the_centre_is_hit_in_a_share_of_the_pictures():
    assert grounding.baselines(region_with([1, 0, 0, 1], centre_hit=0.5))["centre"]["pointing"] == 0.5


def test_without_boxes_the_fixed_maps_have_no_lift():
    for name, scores in grounding.baselines(picture(3, 3)).items():
        assert {score for score in GROUNDING if math.isnan(scores[score])} == {"lift", "auc"}, name
        assert (scores["pointing"], scores["mass"], scores["iou"]) == (0, 0, 0)


# Patterns.


def cells_of(*pictures):
    """Return the cells of pictures given as (rows, columns, width, height)."""
    centres, diagonals, numbers = [], [], []
    for number, (rows, columns, width, height) in enumerate(pictures):
        for row in range(rows):
            for column in range(columns):
                centres.append([(column + 0.5) / columns * width, (row + 0.5) / rows * height])
                diagonals.append(math.hypot(width, height))
                numbers.append(number)
    return Cells(np.array(centres), np.array(diagonals), np.array(numbers))


def test_entropy_is_one_of_a_uniform_map_and_zero_of_a_single_cell():
    maps = np.concatenate([np.full((1, 12), 0.3), np.eye(12)[[4]] * 7, np.kron(rows_of([1, 0, 0, 0]), np.ones(3))])
    entropy = grounding.patterns(maps, cells_of((3, 4, 40, 30)))["entropy"]
    assert entropy == pytest.approx([1, 0, math.log(3) / math.log(12)], abs=1e-12)
    alone = grounding.patterns(maps[2:3], cells_of((3, 4, 40, 30)))["entropy"]
    assert alone == pytest.approx([math.log(3) / math.log(12)], abs=1e-12)


def test_entropy_is_shannons():
    maps = rng.random((5, 30)) ** 6 * (rng.random((5, 30)) > 0.3)
    for values, entropy in zip(maps, grounding.patterns(maps, cells_of((5, 6, 6, 5)))["entropy"], strict=True):
        shares = [value / sum(values) for value in values if value]
        assert entropy == pytest.approx(-sum(p * math.log(p) for p in shares) / math.log(30))


def test_the_share_of_the_ten_strongest_cells():
    maps = np.concatenate([rng.random((4, 30)), np.ones((1, 30)), np.eye(30)[[3]], np.arange(30)[None] * 2.0])
    want = [sum(sorted(values)[20:]) / sum(values) for values in maps.tolist()]
    assert want[4:] == pytest.approx([1 / 3, 1, 245 / 435])
    assert grounding.patterns(maps, cells_of((5, 6, 6, 5)))["top10_share"] == pytest.approx(want)
    assert grounding.patterns(rng.random((2, 6)), cells_of((2, 3, 6, 5)))["top10_share"] == pytest.approx([1, 1])


def test_the_spread_of_two_cells_is_half_their_distance():
    # Centres at 15 and 45 px across, 20 and 60 px down, in a picture with a diagonal of 100.
    maps = rows_of([1, 0, 0, 1], [2, 2, 0, 0], [5, 0, 5, 0], [0, 3, 0, 0], [3, 1, 0, 0])
    spread = grounding.patterns(maps, cells_of((2, 2, 60, 80)))["spread"]
    assert spread == pytest.approx([0.25, 0.15, 0.2, 0, 0.3 * math.sqrt(3 / 16)], abs=1e-7)


@given(hnp.arrays(np.float64, (3, 12 + 4 + 6), elements=st.integers(0, 9)))
def test_spread_is_around_the_centre_of_each_picture(maps):
    cells = cells_of((3, 4, 400, 150), (4, 1, 30, 31), (2, 3, 5, 90))
    for values, spread in zip(maps, grounding.patterns(maps, cells)["spread"], strict=True):
        variance, total = 0.0, values.sum()
        for number in range(3):
            inside = [i for i in range(len(values)) if cells.picture[i] == number]
            weight = sum(values[i] for i in inside)
            for i in inside:  # the mean square distance from the centre is that between pairs
                for j in inside[: inside.index(i)]:
                    distance = math.dist(cells.centres_px[i], cells.centres_px[j]) / cells.diagonal_px[i]
                    variance += values[i] * values[j] * distance**2 / weight if weight else 0
        if total:
            assert spread == pytest.approx(math.sqrt(variance / total), abs=1e-6)
        else:
            assert math.isnan(spread)


def test_one_cell_in_each_of_two_pictures_is_no_spread():
    maps = np.zeros((1, 8))
    maps[0, [0, 7]] = 1, 3
    assert grounding.patterns(maps, cells_of((2, 2, 10, 10), (2, 2, 10, 10)))["spread"] == pytest.approx([0], abs=1e-7)
    assert grounding.patterns(maps, cells_of((2, 4, 10, 10)))["spread"][0] > 0.2


def test_the_scale_of_a_map_does_not_matter_to_its_pattern():
    maps, cells = rng.random((4, 30)), cells_of((5, 6, 50, 80))
    scaled = grounding.patterns(maps * 1e-7, cells)
    for name, values in grounding.patterns(maps, cells).items():
        assert scaled[name] == pytest.approx(values), name


def test_a_map_without_attention_has_no_pattern():
    maps = rows_of([0] * 12, [1] * 12)
    patterns = grounding.patterns(maps, cells_of((2, 3, 9, 8), (3, 2, 4, 5)))
    patterns["distance"] = grounding.distance(maps, region_with([0] * 12, distance=[0.2] * 12))
    assert set(patterns) == set(PATTERNS)
    for name, values in patterns.items():
        assert np.isnan(values).tolist() == [True, False], name


# Distance.


def test_attention_in_a_box_is_at_no_distance():
    region = picture(6, 8, (0.1, 0.2, 0.6, 0.8))
    assert grounding.distance(region.inside[None] * rng.random((3, 48)), region).tolist() == [0, 0, 0]
    assert grounding.distance(np.ones((1, 48)), region)[0] > 0


def test_distance_is_the_mean_over_the_attention():
    region = picture(6, 8, (0.1, 0.2, 0.3, 0.4), (0.7, 0.7, 0.75, 1), size_px=(300, 70))
    maps = rng.random((4, 48)) ** 3
    want = [
        sum(value * distance for value, distance in zip(values, region.distance, strict=True)) / sum(values)
        for values in maps
    ]
    assert grounding.distance(maps, region) == pytest.approx(want)
    assert grounding.distance(maps * 1e-6, region) == pytest.approx(want)


def test_attention_on_pictures_without_a_box_is_left_out():
    region = region_with([0] * 5, distance=[0.1, np.nan, 0.4, np.nan, 0])
    maps = rows_of([1, 9, 2, 9, 1], [0, 3, 0, 1, 0], [0, 0, 0, 0, 0], [0, 5, 1, 0, 0])
    assert grounding.distance(maps, region) == pytest.approx([0.225, np.nan, np.nan, 0.4], nan_ok=True)
    assert np.isnan(grounding.distance(maps, region_with([0] * 5, distance=[np.nan] * 5))).all()
