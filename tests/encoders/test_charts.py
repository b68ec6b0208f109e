"""The charts of an encoder's statistics, and their description in words."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from qvl_attn.encoders import charts as charts_module
from qvl_attn.encoders.charts import draw_folder_statistics, draw_statistics
from qvl_attn.encoders.statistics import (
    STATISTICS,
    TITLES,
    Statistic,
    describe_statistics,
    local_until,
    most_concentrated,
    statistics_of,
)
from tests.helpers.encoder_records import made_attention, made_picture, made_record

WINDOW = np.repeat([0, 1], 12)
FULL = np.array([False, True, False, True, False])


@pytest.fixture
def charts(monkeypatch):
    """The canvases of the charts, which are not rendered, and their titles and captions."""
    canvases, texts = [], []
    captioned = charts_module.captioned
    monkeypatch.setattr(
        charts_module, "pixels_of", lambda canvas: canvases.append(canvas) or np.zeros((9, 9, 3), np.uint8)
    )
    monkeypatch.setattr(charts_module, "captioned", lambda *args: texts.append(args[1:]) or captioned(*args))
    return canvases, texts


def windowed():
    return made_attention((1, 4, 6), (), 5, 3, window=WINDOW, full=FULL)


def lines_of(axes, label):
    return [line for line in axes.get_lines() if line.get_label() == label]


def test_every_statistic_with_heads_mean_and_chance(charts):
    attention = windowed()
    draw_statistics(made_record(attention))
    statistics, (canvases, _) = statistics_of(attention), charts
    panels = [axes for axes in canvases[0].figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == [TITLES[name] for name in STATISTICS]
    for axes, name in zip(panels, STATISTICS, strict=True):
        (dots,), (mean,) = lines_of(axes, "a head"), lines_of(axes, "mean over heads")
        np.testing.assert_array_equal(dots.get_xdata(), np.repeat(np.arange(5), 3))
        np.testing.assert_array_equal(dots.get_ydata(), statistics[name].values.ravel())
        np.testing.assert_allclose(mean.get_ydata(), statistics[name].values.mean(axis=1))
        (chance,) = [patch for patch in axes.patches if patch.get_label() == "chance"]
        np.testing.assert_allclose(chance.get_data().values, statistics[name].chance)
        np.testing.assert_allclose(chance.get_data().edges, np.arange(6) - 0.5)
        assert chance.get_linestyle() in (":", "dotted")
        assert mean.get_linestyle() == "-"
        bottom, top = axes.get_ylim()
        assert bottom == 0
        assert top >= max(statistics[name].values.max(), statistics[name].chance.max())


def test_full_layers_are_marked_if_there_are_windows(charts):
    def marked(axes):
        return [patch.get_x() for patch in axes.patches if patch.get_label() == "full layers"]

    draw_statistics(made_record(windowed()))
    draw_statistics(made_record(made_attention()))
    with_windows, without = (canvas.figure.axes for canvas in charts[0])
    assert all(marked(axes) == pytest.approx([0.5, 2.5]) for axes in with_windows[:6])
    assert not any(marked(axes) for axes in without)
    assert [axes.axison for axes in without] == [True] * 5 + [False]


def test_nothing_is_cut_off_and_chance_is_drawn(charts):
    draw_statistics(made_record(made_attention((1, 4, 6), layers=24, heads=16)))
    (canvas,) = charts[0]
    canvas.draw()
    renderer, (width, height) = canvas.get_renderer(), canvas.get_width_height()
    boxes = [axes.get_tightbbox(renderer) for axes in canvas.figure.axes if axes.axison]
    boxes.append(canvas.figure.legends[0].get_window_extent(renderer))
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    assert not any(box.overlaps(earlier) for i, box in enumerate(boxes) for earlier in boxes[:i])
    axes = canvas.figure.axes[3]
    chance = statistics_of(made_attention((1, 4, 6), layers=24, heads=16))["tokens_50"].chance[0]
    _, y = axes.transData.transform((0, chance))
    row = np.asarray(canvas.buffer_rgba())[round(height - y) - 1 : round(height - y) + 2, :, :3]
    x0, x1 = (round(axes.transData.transform((x, 0))[0]) for x in (-0.4, 23.4))
    dark = (row[:, x0:x1] < 100).all(axis=-1).any(axis=0)
    assert 0.2 < dark.mean() < 0.8  # dotted


def folder_statistics(N=30, layers=5, heads=3):
    rng = np.random.default_rng(2)
    values = {name: rng.random((N, layers, heads)) * (i + 1) for i, name in enumerate(STATISTICS)}
    chance = {name: 1 + rng.random((N, layers)) for name in STATISTICS}
    return values, chance


def test_the_chart_of_a_folder_shows_mean_and_spread_over_pictures(charts):
    values, chance = folder_statistics()
    draw_folder_statistics(values, chance, FULL, "an encoder · a folder")
    panels = charts[0][0].figure.axes
    for axes, name in zip(panels, STATISTICS, strict=True):
        by_picture = values[name].mean(axis=2)
        mean_by_layer = by_picture.mean(axis=0)
        deviation = np.sqrt(((by_picture - mean_by_layer) ** 2).sum(axis=0) / 29)
        (mean,) = lines_of(axes, "mean over pictures")
        np.testing.assert_allclose(mean.get_ydata(), mean_by_layer)
        ends = {
            "standard deviation": (mean_by_layer - deviation, mean_by_layer + deviation),
            "5 to 95 % of the pictures": np.percentile(by_picture, (5, 95), axis=0),
        }
        alphas = []
        for label, (low, high) in ends.items():
            (band,) = [collection for collection in axes.collections if collection.get_label() == label]
            corners = band.get_paths()[0].vertices
            for layer in range(5):
                y = corners[np.isclose(corners[:, 0], layer), 1]
                assert (y.min(), y.max()) == pytest.approx((low[layer], high[layer]))
            alphas.append(band.get_facecolor()[0, 3])
        assert alphas[0] > alphas[1]
        (stairs,) = [patch for patch in axes.patches if patch.get_label() == "chance"]
        np.testing.assert_allclose(stairs.get_data().values, chance[name].mean(axis=0))
        assert stairs.get_edgecolor() == to_rgba(charts_module.INK)
    title, lines = charts[1][0]
    assert title == "an encoder · a folder"
    assert lines[-1] == "30 pictures · mean over the heads of each"


def test_the_caption_of_a_folder_describes_the_mean(charts):
    values, chance = folder_statistics()
    draw_folder_statistics(values, chance, FULL, "")
    means = {name: Statistic(values[name].mean(axis=0), chance[name].mean(axis=0)) for name in STATISTICS}
    assert charts[1][0][1][:2] == describe_statistics(means)


def test_the_chart_of_a_folder_of_one_picture_without_windows(charts):
    values, chance = folder_statistics(1)
    del values["window_share"], chance["window_share"]
    draw_folder_statistics(values, chance, np.ones(5, bool), "")
    assert charts[1][0][1][-1] == "one picture: no spread"
    assert not [collection for axes in charts[0][0].figure.axes for collection in axes.collections]


def test_title_and_caption_of_a_chart(charts):
    result = made_record(made_attention(), made_picture((60, 40), source="some/where/a.png"))
    draw_statistics(result)
    title, lines = charts[1][0]
    assert title == "statistics by layer · a.png"
    assert lines[:2] == describe_statistics(statistics_of(result.attention))
    assert "someone/an-encoder" in lines[-1]
    assert "input 84 x 56 px · 6 x 4 patches of 14 px" in lines[-1]


def statistic(means, chance, heads=2):
    values = np.repeat(np.array(means, float)[:, None], heads, axis=1) + np.linspace(-1, 1, heads)
    return Statistic(values, np.array(chance, float))


@pytest.mark.parametrize(
    ("means", "chance", "last"),
    [
        ([10, 20, 60, 20], [100] * 4, 1),
        ([10, 49.9, 50, 20], [100] * 4, 1),
        ([50, 10, 10, 10], [100] * 4, None),
        ([10, 20, 30, 40], [100] * 4, 3),
        ([10, 20, 30, 40], [50, 50, 100, 50], 3),
        ([10, 20, 50, 40], [50, 50, 100, 50], 1),
        ([10], [100], 0),
    ],
)
def test_local_until(means, chance, last):
    assert local_until(statistic(means, chance)) == last


def test_most_concentrated_is_where_tokens_are_fewest_relative_to_chance():
    assert most_concentrated(statistic([50, 8, 20, 9], [100] * 4)) == 1
    assert most_concentrated(statistic([50, 8, 20, 9], [100, 10, 100, 100])) == 3


def test_the_description_in_words():
    tokens = statistic([50, 8.25, 20], [100, 100, 100])
    local, concentration = describe_statistics(
        {"distance_px": statistic([10, 20, 60], [100, 100, 100]), "tokens_50": tokens}
    )
    assert local == (
        "local up to layer 1, where attention reaches 20 px on average, 100 px if uniform over the whole picture"
    )
    assert concentration == (
        "most concentrated in layer 1, where half of the attention of all patches is on 8.2 tokens, by chance on 100.0"
    )
    (local, _) = describe_statistics({"distance_px": statistic([80, 20, 60, 10], [100] * 4), "tokens_50": tokens})
    assert local.startswith("not local in layer 0, where attention reaches 80 px")
    assert local.endswith("; local again: layers 1,3")
    (local, _) = describe_statistics({"distance_px": statistic([8, 20, 6], [100] * 3), "tokens_50": tokens})
    assert local.startswith("local in all layers (in layer 2 attention reaches 6 px")
    windows = statistic([20, 80, 20, 30], [40, 100, 40, 100])
    (local, _) = describe_statistics({"distance_px": windows, "tokens_50": tokens})
    assert local.startswith("local up to layer 0, where")
    assert local.endswith("; local again: layers 2-3; local because of their windows: layers 0,2")
    (_, concentration) = describe_statistics({"distance_px": windows, "tokens_50": statistic([90, 85], [100, 100])})
    assert concentration.startswith("not concentrated in any layer; closest: layer 1, where half of")
