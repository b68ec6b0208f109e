"""Summaries of scores and the ranking of layers and heads, against formulas written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.attribution import grounding
from qvl_attn.attribution.regions import Region
from qvl_attn.core.errors import InputError
from qvl_attn.evaluation import calibration
from qvl_attn.evaluation.calibration import best_heads, halves, ranking
from qvl_attn.evaluation.data.samples import MediaRef, Sample
from qvl_attn.evaluation.figures import CONTROLS, FIGURES, HEAD_FIGURES
from qvl_attn.evaluation.score import Score
from qvl_attn.evaluation.summary import (
    DRAWS,
    bootstrap,
    head_table,
    headline_figures,
    method_table,
    right_and_grounded,
    summarise,
)


def make_score(i=0, pointing=1.0, *, accuracy=1.0, picture=None, layers=2, heads=(), **changes):
    figures = dict.fromkeys(FIGURES, 0.5) | {"pointing": pointing, "lift": 1 + i}
    controls = {name: dict.fromkeys((*grounding.GROUNDING, "vision_mass"), 0.1) for name in CONTROLS}
    values = {
        "id": str(i),
        "media": (picture or f"{i}.png",),
        "question": "?",
        "answer": "yes",
        "references": ("yes",),
        "accuracy": accuracy,
        "headline": figures,
        "all_layers": dict.fromkeys(FIGURES, 0.25),
        "controls": controls,
        "layers": {name: np.linspace(0, 1, layers) + i for name in FIGURES},
        "layer_controls": {
            name: {figure: np.full(layers, 0.1) for figure in controls["chance"]} for name in ("chance", "other")
        },
        "heads": dict(heads),
        "boxes": 1,
        "group": picture or f"{i}.png",
        "area": 0.1,
        "inside": 0.1,
    }
    return Score(**(values | changes))


def without_boxes(i):
    base = make_score(i, np.nan, area=np.nan, boxes=0)
    undefined = {name: np.full(2, np.nan) for name in grounding.GROUNDING}
    return replace(
        base, headline=base.headline | dict.fromkeys(grounding.GROUNDING, np.nan), layers=base.layers | undefined
    )


def failed(name):
    return Score(name, (f"{name}.png",), "?", status="error", error="x", accuracy=0.0, boxes=1, group=name)


def test_one_picture_alone_has_no_interval():
    estimates = bootstrap(np.array([[1.0], [0.0]]), ["a", "a"], 0)
    assert estimates.mean[0] == 0.5
    assert np.isnan([estimates.low[0], estimates.high[0]]).all()


def test_a_figure_that_one_picture_alone_defines_has_no_interval():
    estimates = bootstrap(np.array([[1.0, 1.0], [0.0, 0.0], [1.0, np.nan]]), ["a", "a", "b"], 0)
    assert np.isfinite([estimates.low[0], estimates.high[0]]).all()
    assert np.isnan([estimates.low[1], estimates.high[1]]).all()


def test_means_leave_out_undefined_values():
    values = np.array([[1.0, np.nan], [0.0, 4.0], [np.nan, 6.0]])
    estimates = bootstrap(values, ["a", "b", "c"], 0)
    assert estimates.mean.tolist() == [0.5, 5.0]
    assert estimates.count.tolist() == [2, 2]
    assert (estimates.low <= estimates.mean).all()
    assert (estimates.mean <= estimates.high).all()


def test_intervals_are_those_of_a_bootstrap_written_out():
    rng = np.random.default_rng(5)
    values = rng.random((60, 1)) ** 3
    estimates = bootstrap(values, list(range(60)), 1)
    draws = [rng.choice(values[:, 0], 60).mean() for _ in range(4000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    width = high - low
    assert estimates.low[0] == pytest.approx(low, abs=0.12 * width)
    assert estimates.high[0] == pytest.approx(high, abs=0.12 * width)
    assert DRAWS >= 1000


def test_an_interval_covers_the_true_mean_at_its_level():
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(120):
        estimates = bootstrap(rng.random((50, 1)), list(range(50)), seed)
        covered.append(estimates.low[0] <= 0.5 <= estimates.high[0])
    assert 0.87 <= np.mean(covered) <= 1.0


def test_questions_about_one_picture_are_drawn_together():
    """Ten copies of each of twelve samples have no more information than the twelve."""
    values = np.random.default_rng(2).random((12, 1))
    single = bootstrap(values, list(range(12)), 3)
    repeated = bootstrap(np.repeat(values, 10, axis=0), np.repeat(np.arange(12), 10).tolist(), 3)
    ungrouped = bootstrap(np.repeat(values, 10, axis=0), list(range(120)), 3)
    assert repeated.low[0] == pytest.approx(single.low[0])
    assert repeated.high[0] == pytest.approx(single.high[0])
    assert ungrouped.high[0] - ungrouped.low[0] < 0.5 * (single.high[0] - single.low[0])


def test_the_order_of_the_samples_changes_nothing():
    values, groups = np.random.default_rng(4).random((30, 2)), [f"{i % 7}.png" for i in range(30)]
    mixed = np.random.default_rng(5).permutation(30)
    estimates, mixed_estimates = bootstrap(values, groups, 0), bootstrap(values[mixed], [groups[i] for i in mixed], 0)
    assert np.allclose([estimates.low, estimates.high], [mixed_estimates.low, mixed_estimates.high])


def test_the_seed_fixes_the_intervals():
    values = np.random.default_rng(0).random((20, 3))
    first, again, other = (bootstrap(values, list(range(20)), seed) for seed in (1, 1, 2))
    assert np.array_equal(first.low, again.low)
    assert not np.array_equal(first.low, other.low)


def test_the_headline_has_its_controls_and_all_layers():
    figures = headline_figures([make_score(0, 1.0), make_score(1, 0.0)], 0)
    assert figures["pointing"]["mean"] == 0.5
    assert figures["pointing"]["all_layers"]["mean"] == 0.25
    assert figures["pointing"]["over_all_layers"]["mean"] == 0.25
    assert {figures["mass"][name] for name in CONTROLS} == {0.1}


def test_the_two_by_two():
    scores = [
        make_score(0, 1.0, accuracy=1.0),
        make_score(1, 1.0, accuracy=0.0),
        make_score(2, 0.0, accuracy=1.0),
        make_score(3, 0.0, accuracy=0.3),
        make_score(4, 0.5, accuracy=0.5),
        make_score(5, 1.0, accuracy=np.nan),
        make_score(6, np.nan, area=np.nan),
        Score("7", ("7.png",), "?", status="error"),
    ]
    cells = right_and_grounded(scores)
    assert cells == {"right_grounded": 2, "right_elsewhere": 1, "wrong_grounded": 1, "wrong_elsewhere": 1}


def test_errors_and_samples_without_boxes_are_counted_and_in_no_figure():
    scores = [make_score(0, 1.0), without_boxes(1), failed("2")]
    summary = summarise(scores, [0, 1], 0)
    assert [row["entropy"]["n"] for row in summary["layers"]] == [2, 2], "patterns are over all samples"
    assert (summary["errors_with_boxes"], summary["accuracy"]["n"]) == (1, 3)
    assert summary["accuracy"]["mean"] == pytest.approx(2 / 3), "an error is a wrong answer"
    assert (summary["samples"], summary["errors"], summary["with_boxes"], summary["pictures"]) == (3, 1, 1, 3)
    assert summary["headline"]["pointing"]["n"] == 1
    assert [row["lift"]["mean"] for row in summary["layers"]] == [0.0, 1.0]


def test_samples_without_a_cell_inside_are_counted():
    assert summarise([make_score(0), make_score(1, inside=0.0)], [0, 1], 0)["no_cell_inside"] == 1


def test_a_summary_of_errors_alone():
    summary = summarise([Score("2", ("2.png",), "?", status="error", error="x")], [0, 1], 0)
    assert summary["errors"] == 1
    assert summary["layers"] == []


def test_heads_are_averaged_over_samples_that_define_them():
    first, second = ({name: np.array([[value, 1.0]]) for name in HEAD_FIGURES} for value in (np.nan, 3.0))
    table = head_table([make_score(0, heads=first), make_score(1, heads=second)])
    assert table["pointing"].tolist() == [[3.0, 1.0]]


# Calibration


def test_methods_are_averaged_over_samples_that_define_them_as_is_chance():
    def with_methods(i, methods, chance=None):
        return make_score(i, methods=methods, method_chance=chance or {})

    first = {"tam": {"pointing": 1.0, "weights_rank": np.nan}, "random": {"deletion_blur": -2.0}}
    second = {
        "tam": {"pointing": 0.0, "weights_rank": np.nan},
        "random": {"deletion_blur": -4.0},
        "mean": {"lift": 3.0},
    }
    chances = [{"tam": {"pointing": 0.25, "lift": 1.0}}, {"tam": {"pointing": 0.75}, "mean": {"lift": 1.0}}]
    scores = [with_methods(0, first, chances[0]), with_methods(1, second, chances[1]), make_score(2)]
    table = method_table(scores, 0)
    assert list(table) == ["tam", "random", "mean"]
    assert list(table["tam"]) == ["pointing"], "a figure that no sample defines is left out"
    assert {name: table["tam"]["pointing"][name] for name in ("mean", "n", "chance")} == {
        "mean": 0.5,
        "n": 2,
        "chance": 0.5,
    }
    assert list(table["random"]) == ["deletion_blur"]
    assert (table["random"]["deletion_blur"]["mean"], "chance" in table["random"]["deletion_blur"]) == (-3.0, False)
    assert (table["mean"]["lift"]["n"], table["mean"]["lift"]["chance"]) == (1, 1.0)
    assert np.isnan(table["mean"]["lift"]["low"])
    estimates = bootstrap(np.array([[1.0], [0.0], [np.nan]]), ["0.png", "1.png", "2.png"], 0)
    assert (table["tam"]["pointing"]["low"], table["tam"]["pointing"]["high"]) == (estimates.low[0], estimates.high[0])
    assert summarise(scores, [0, 1], 0)["methods"].keys() == table.keys()


def make_sample(i, picture=None, boxes=1):
    name = picture or f"{i}.png"
    media_refs = (MediaRef("picture", name, (10, 10), b"".join),)
    return Sample(
        f"line {i}", str(i), media_refs, "?", (), np.tile([0.0, 0, 5, 5], (boxes, 1)), np.zeros(boxes, np.int64), name
    )


def test_the_halves_share_no_picture_and_lose_no_sample():
    samples = [make_sample(i, f"{i // 3}.png") for i in range(90)]
    first, second = halves(samples, 0)
    assert {sample.names for sample in first}.isdisjoint(sample.names for sample in second)
    assert len(first) == len(second) == 45
    assert {sample.id for sample in (*first, *second)} == {sample.id for sample in samples}


def test_the_halves_depend_on_names_and_seed_and_not_on_the_order():
    samples = [make_sample(i) for i in range(40)]
    first, again, other = halves(samples, 0)[0], halves(samples[::-1], 0)[0], halves(samples, 1)[0]
    assert {sample.id for sample in first} == {sample.id for sample in again}
    assert {sample.id for sample in first} != {sample.id for sample in other}


@pytest.mark.parametrize(
    "samples", [[make_sample(i) for i in range(19)], [make_sample(i, "same.png") for i in range(50)]]
)
def test_too_few_are_refused(samples):
    with pytest.raises(InputError, match="no two halves of at least"):
        halves(samples, 0)


def test_samples_without_boxes_are_in_neither_half():
    samples = [make_sample(i) for i in range(40)] + [make_sample(i, boxes=0) for i in range(40, 80)]
    assert sum(map(len, halves(samples, 0))) == 40


def score_with_heads(i, maps, inside):
    """Return a sample whose (heads, cells) maps are the heads of one layer."""
    inside = np.asarray(inside)
    region = Region(
        np.arange(len(inside)), inside.astype(float), inside, np.zeros(len(inside)), np.ones(len(inside)), 0.0
    )
    maps = np.asarray(maps, dtype=np.float32)
    figures = grounding.grounding(maps.astype(float), region) | {"vision_mass": maps.sum(axis=1)}
    return make_score(
        i, heads={name: figures[name][None] for name in HEAD_FIGURES}, head_maps=((maps, region),), layers=1
    )


def test_heads_that_complement_each_other_are_chosen():
    """Head 0 is right on two of three pictures, head 1 on the third, and strongly; head 2 on two, the same as 0."""
    inside = [True, False, False, False]
    hit, miss, weak = [0.6, 0.2, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.3, 0.3, 0.2, 0.2]
    strong = [0.95, 0.05, 0, 0]
    scores = [
        score_with_heads(0, [hit, weak, hit], inside),
        score_with_heads(1, [hit, weak, hit], inside),
        score_with_heads(2, [miss, strong, miss], inside),
    ]
    assert best_heads(scores, [7]) == ((7, 0), (7, 1))


def test_of_heads_that_point_alike_the_one_with_more_mass_in_the_box_is_chosen():
    inside = [True, False, False, False]
    wide, narrow = [0.4, 0.2, 0.2, 0.2], [0.9, 0.1, 0, 0]
    assert best_heads([score_with_heads(i, [wide, narrow], inside) for i in range(3)], [0]) == ((0, 1),)


def test_a_clip_counts_once_however_many_steps_it_has():
    """Head 0 is right on two pictures, head 1 on a clip of nine steps."""
    inside = [True, False]
    pictures = [score_with_heads(i, [[0.6, 0.4], [0.4, 0.6]], inside) for i in range(2)]
    clip = score_with_heads(2, [[0.4, 0.6], [0.6, 0.4]], inside)
    best = best_heads([*pictures, replace(clip, head_maps=clip.head_maps * 9)], [0])
    assert best == ((0, 0),)


def test_no_head_is_added_that_makes_the_map_worse():
    inside = [True, False, False]
    scores = [score_with_heads(i, [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], inside) for i in range(3)]
    assert best_heads(scores, [4]) == ((4, 0),)


def test_a_profile_has_at_most_the_maximum_number_of_heads(monkeypatch):
    monkeypatch.setattr(calibration, "MAX_HEADS", 1)
    inside = [True, False, False, False]
    scores = [score_with_heads(0, [[0.6, 0.4, 0, 0], [0.3, 0.3, 0.2, 0.2]], inside)]
    scores += [score_with_heads(1, [[0.4, 0.6, 0, 0], [0.9, 0.1, 0, 0]], inside)]
    assert len(best_heads(scores, [0])) == 1


def test_the_ranking_is_by_the_first_half_with_the_figures_of_both():
    def with_layers(i, pointing):
        figures = {name: np.array(pointing) for name in FIGURES}
        return replace(make_score(i, heads={name: np.zeros((2, 1)) for name in HEAD_FIGURES}), layers=figures)

    first = [with_layers(0, [0.1, 0.9]), with_layers(1, [0.3, 0.7])]
    second = [with_layers(2, [1.0, 0.0])]
    table = ranking(first, second, [0, 1])
    assert [row["layer"] for row in table["layers"]] == [1, 0]
    assert table["layers"][0]["first_half"]["pointing"] == pytest.approx(0.8)
    assert table["layers"][0]["second_half"]["pointing"] == 0.0
