import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qvl_attn.attribution import heatmap
from qvl_attn.core.types import Scale
from qvl_attn.media import resize
from qvl_attn.render import overlay
from qvl_attn.render.style import Drawing

rng = np.random.default_rng(7)
CELLS = Drawing(interp="cells")


def noise(*shape):
    return rng.random(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("size", "longest", "drawn"),
    [
        ((1800, 1200), 1280, (1280, 853)),
        ((224, 168), 1280, (640, 480)),
        ((224, 168), 300, (300, 225)),
        ((224, 168), 0, (224, 168)),
        ((9000, 6000), 0, (9000, 6000)),
        ((800, 700), 1280, (800, 700)),
        ((300, 3000), 1280, (128, 1280)),
        ((5000, 1), 640, (640, 1)),
    ],
)
def test_the_longest_side_is_bounded_and_small_pictures_grow(size, longest, drawn):
    assert overlay.drawn_size_px(size, Drawing(draw_size_px=longest)) == drawn


def test_shrinking_a_picture_averages_areas():
    picture = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    means = picture.reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))
    assert np.abs(resize.resize_picture(picture, (15, 10)) - means).max() <= 0.5


def test_enlarging_a_hard_edge_does_not_wrap_around():
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:, 4:] = 255
    large = resize.resize_picture(picture, (64, 64)).astype(int)
    assert large.shape == (64, 64, 3)
    assert large[:, :28].max() < 40
    assert large[:, 36:].min() > 215


def test_cells_are_boxes():
    values = noise(3, 5)
    assert np.array_equal(overlay.upsample(values, (50, 36), CELLS), np.kron(values, np.ones((12, 10))))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 60), st.integers(1, 60))
def test_a_pixel_shows_the_cell_that_its_centre_falls_in(h, w, height, width):
    values = np.arange(h * w, dtype=np.float32).reshape(h, w)
    drawn = overlay.upsample(values, (width, height), CELLS)
    for y, x in ((0, 0), (height - 1, width - 1), (height // 2, width // 3)):
        assert drawn[y, x] == values[math.floor((y + 0.5) * h / height), math.floor((x + 0.5) * w / width)]


def test_linear_passes_through_the_cells_centres_and_is_straight_between_them():
    values = noise(4, 6)
    drawn = overlay.upsample(values, (6 * 15, 4 * 15), Drawing())  # an odd number: pixel 7 is the centre of a cell
    assert np.allclose(drawn[7::15, 7::15], values, atol=1e-6)
    between = (values[:, :-1] * 10 + values[:, 1:] * 5) / 15
    assert np.allclose(drawn[7::15, 12:-15:15], between, atol=1e-5)


def test_linear_on_an_oblong_size_that_does_not_divide():
    values, size = noise(3, 7), (101, 58)
    drawn = overlay.upsample(values, size, Drawing())
    assert drawn.shape == (58, 101)
    x, y = 40, 33
    cx, cy = (x + 0.5) * 7 / 101 - 0.5, (y + 0.5) * 3 / 58 - 0.5
    i, j = int(cx), int(cy)
    fx, fy = cx - i, cy - j
    top = values[j, i] * (1 - fx) + values[j, i + 1] * fx
    bottom = values[j + 1, i] * (1 - fx) + values[j + 1, i + 1] * fx
    assert drawn[y, x] == pytest.approx(top * (1 - fy) + bottom * fy, abs=1e-4)


@pytest.mark.parametrize("interp", ["linear", "cells"])
def test_interpolation_invents_no_value_beyond_the_cells(interp):
    values = noise(5, 4)
    drawn = overlay.upsample(values, (133, 71), Drawing(interp=interp))
    assert values.min() <= drawn.min()
    assert drawn.max() <= values.max()


def test_blur_spreads_one_cell_like_a_gaussian_and_keeps_the_sum():
    values = np.zeros((21, 21), np.float32)
    values[10, 10] = 1
    drawn = overlay.upsample(overlay.blur(values, 1.5), (21, 21), Drawing(interp="cells"))
    assert drawn.sum() == pytest.approx(1, abs=1e-4)
    assert drawn[10, 12] / drawn[10, 10] == pytest.approx(math.exp(-4 / (2 * 1.5**2)), rel=1e-3)


def test_blur_wider_than_the_map():
    drawn = overlay.upsample(overlay.blur(np.full((1, 2), 0.25, np.float32), 100), (40, 20), Drawing())
    assert np.allclose(drawn, 0.25, atol=1e-5)


@pytest.mark.parametrize(("percent", "count"), [(10, 5), (100, 48), (0.01, 1), (50, 24), (3, 1), (4, 2)])
def test_top_percent_is_a_number_of_cells(percent, count):
    values = rng.permutation(48).astype(np.float32).reshape(6, 8)
    (mask,) = overlay.top_mask([values], percent)
    assert mask.sum() == count
    assert values[mask].min() == 48 - count


def test_the_strongest_are_chosen_over_all_pictures():
    weak, strong = np.full((2, 2), 0.1, np.float32), np.array([[1, 2, 3, 4]], np.float32)
    masks = overlay.top_mask([weak, strong], 25)
    assert not masks[0].any()
    assert masks[1].tolist() == [[False, False, True, True]]


def test_equal_cells_are_chosen_together():
    values = np.array([[3, 2, 2, 2, 1]], np.float32)
    assert overlay.top_mask([values], 40)[0].tolist() == [[True, True, True, True, False]]


def test_the_scale_ends_at_the_percentile_of_all_cells():
    cells = np.arange(201, dtype=np.float32)
    expected = Scale(0.0, 199.0)  # 99.5 % of 200 steps
    assert heatmap.percentile_scale([cells]) == expected
    assert heatmap.percentile_scale([cells[:50].reshape(1, 5, 10), cells[50:]]) == expected
    assert heatmap.percentile_scale(cells.reshape(1, 67, 3), percentile=50) == Scale(0.0, 100.0)


@pytest.mark.parametrize(
    ("values", "high"),
    [(np.zeros((4, 4)), 1.0), (np.full((4, 4), 0.25), 0.25), (np.eye(1000)[0] / 4, 0.25), (np.array([[0.5]]), 0.5)],
)
def test_zero_constant_and_sparse_maps_have_a_scale(values, high):
    assert heatmap.percentile_scale([values.astype(np.float32)]) == Scale(0.0, high)


def test_the_smallest_number_can_be_drawn():
    values = np.full((2, 2), 1e-45, np.float32)
    scale = heatmap.percentile_scale([values])
    assert overlay.colorize(values, scale, "inferno").shape == (2, 2, 3)


def test_colours_are_rgb():
    ends = np.array([[0, 1]], np.float32)
    low, high = overlay.colorize(ends, Scale(0, 1), "inferno")[0].astype(int)
    assert low.max() < 10
    assert high[0] > 240
    assert high[0] > high[2] + 50  # a pale yellow
    blue, red = overlay.colorize(ends, Scale(0, 1), "jet")[0].astype(int)
    assert blue[2] > 100 > blue[0]
    assert red[0] > 100 > red[2]
    purple, yellow = overlay.colorize(ends, Scale(0, 1), "viridis")[0].astype(int)
    assert purple.tolist() == [68, 1, 84]
    assert yellow.tolist() == [253, 231, 37]


def test_values_outside_the_scale_have_the_colours_of_its_ends():
    colors = overlay.colorize(np.array([[-5, 2, 4, 99]], np.float32), Scale(2, 4), "viridis")[0]
    assert np.array_equal(colors[0], colors[1])
    assert np.array_equal(colors[2], colors[3])
    assert not np.array_equal(colors[0], colors[3])


@pytest.mark.parametrize("alpha", [0, 0.25, 0.3, 0.5, 0.75, 1])
def test_blend_is_the_formula_to_the_nearest_level(alpha):
    picture = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    values, scale = noise(40, 50), Scale(0.1, 0.8)
    mixed = overlay.blend(picture, values, scale, Drawing(alpha=alpha))
    exact = (1 - alpha) * picture + alpha * overlay.colorize(values, scale, "inferno").astype(np.float64)
    assert mixed.dtype == np.uint8
    assert np.abs(mixed - exact).max() <= 0.5 + 1e-9


def test_off_the_mask_the_picture_is_untouched():
    picture = rng.integers(0, 256, (8, 9, 3), dtype=np.uint8)
    mask = noise(8, 9) > 0.5
    plain = overlay.blend(picture, noise(8, 9), Scale(0, 1), Drawing(alpha=1))
    masked = overlay.blend(picture, noise(8, 9) * 0, Scale(0, 1), Drawing(alpha=1), mask)
    assert np.array_equal(masked[~mask], picture[~mask])
    assert (masked[mask] < 10).all()
    assert not np.array_equal(plain[~mask], picture[~mask])


def test_the_colour_bar_is_bright_at_the_top():
    bar = overlay.colorbar(100, 7, "inferno")
    assert bar.shape == (100, 7, 3)
    assert bar[0].sum() > bar[50].sum() > bar[-1].sum()
    assert np.array_equal(bar[0, 0], overlay.colorize(np.ones((1, 1), np.float32), Scale(0, 1), "inferno")[0, 0])
