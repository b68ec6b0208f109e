"""Scoring and drawing of samples: shares, patterns, groups, controls, chunks and the choice for the gallery."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from qvl_attn.attribution.profiles import Profile, Shape
from qvl_attn.attribution.settings import Headline, Settings
from qvl_attn.core.errors import InputError
from qvl_attn.evaluation.data.rows import Faults
from qvl_attn.evaluation.data.samples import read_samples
from qvl_attn.evaluation.loop import CHUNK_QUESTIONS, chunks, other_samples
from qvl_attn.evaluation.outputs import GALLERY_SIZE, gallery_scores
from qvl_attn.evaluation.rows import as_json, score_row
from qvl_attn.evaluation.score import score_sample
from qvl_attn.evaluation.summary import layer_table
from qvl_attn.render.charts import draw_heads, draw_layers
from qvl_attn.vqa.question import read_question
from tests.evaluation.test_summary import make_score

BOX = {"boxes": [[0, 0, 1, 1]], "box_format": "xyxy", "box_units": "normalized"}
EVERYTHING = Headline((0, 1, 2, 3), None)


@pytest.fixture
def folder(tmp_path, cats, wide):
    for name, source in (("a.png", cats), ("b.png", wide), ("c.png", cats), ("d.png", wide), ("e.png", cats)):
        (tmp_path / name).write_bytes(source.read_bytes())
    return tmp_path


def samples_of(folder, *rows):
    numbered = [(f"line {i}", {"id": str(i), "question": "how many cats?", **BOX, **row}) for i, row in enumerate(rows)]
    return read_samples(numbered, folder, Faults())


# One sample


def test_the_vision_mass_has_that_of_evenly_spread_attention_as_chance(demo, folder):
    (sample,) = samples_of(folder, {"image": "a.png"})
    for query in ("last", "question"):
        result = demo.ask(folder / "a.png", sample.question, query=query)
        scored = score_sample(sample, result, EVERYTHING, None, by_head=False)
        capture = result.capture
        shares = []
        for position, role in zip(capture.queries.tolist(), capture.query_role.tolist(), strict=True):
            if role == query:
                visible_tokens = [token for token in capture.tokens if token.position <= position]
                shares.append(sum(token.role == "vision" for token in visible_tokens) / len(visible_tokens))
        assert scored.controls["chance"]["vision_mass"] == pytest.approx(np.mean(shares))
        assert np.allclose(scored.layer_controls["chance"]["vision_mass"], np.mean(shares))


def test_the_spread_of_two_pictures_is_within_each(demo, folder):
    (sample,) = samples_of(folder, {"images": ["a.png", "b.png"], "frame": [0]})
    result = demo.ask(folder / "a.png", sample.question, [folder / "b.png"], query="last")
    scored = score_sample(sample, result, EVERYTHING, None, by_head=False)
    maps = result.heatmaps(layers="all")
    total, variance = sum(heatmap.values.sum() for heatmap in maps), 0.0
    for heatmap, grid, media in zip(maps, result.capture.grids, result.media, strict=True):
        weights = heatmap.values.ravel() / total
        centres = (grid.boxes_px[:, :2] + grid.boxes_px[:, 2:]) / 2 / np.hypot(*media.size_px)
        middle = (weights[:, None] * centres).sum(axis=0) / weights.sum()
        variance += (weights * ((centres - middle) ** 2).sum(axis=1)).sum()
    assert scored.all_layers["spread"] == pytest.approx(np.sqrt(variance), rel=1e-4)


def test_a_row_is_valid_json_without_defined_figures():
    row = score_row(make_score(0, np.nan, accuracy=np.nan, area=np.nan))
    assert json.loads(json.dumps(row, allow_nan=False))["accuracy"] is None
    assert row["right"] is None
    assert row["grounded"] is None
    assert as_json({"a": [np.inf, 1 / 3, 7, "x"]}) == {"a": [None, 0.333333, 7, "x"]}


# Groups


def test_a_picture_is_known_however_it_is_written(folder):
    (folder / "link.png").symlink_to("a.png")
    samples = samples_of(folder, *({"image": name} for name in ("a.png", "./a.png", "link.png", "b.png")))
    assert len({sample.group for sample in samples}) == 2
    assert len({sample.group for sample in samples[:3]}) == 1


def test_prompts_that_share_a_picture_belong_together(folder):
    pairs = [["a.png", "b.png"], ["b.png", "c.png"], ["d.png", "e.png"]]
    samples = samples_of(folder, *({"images": pair, "frame": [0]} for pair in pairs), {"image": "c.png"})
    first, second, third, fourth = (sample.group for sample in samples)
    assert first == second == fourth == "a.png"
    assert third == "d.png"
    reversed_samples = samples_of(folder, *({"images": pair, "frame": [0]} for pair in pairs[::-1]))
    assert [sample.group for sample in reversed_samples] == ["d.png", "a.png", "a.png"]


def test_the_control_is_never_about_a_picture_of_the_same_group(folder):
    pairs = [["a.png", "b.png"], ["b.png", "c.png"], ["d.png", "e.png"]]
    samples = samples_of(folder, *({"images": pair, "frame": [0]} for pair in pairs))
    others = other_samples(samples, 0)
    assert {sample.id: others[sample.id].group != sample.group for sample in samples} == {
        "0": True,
        "1": True,
        "2": True,
    }
    assert other_samples(samples[:2], 0) == {}, "there is no other group"


def test_controls_of_many_questions_about_one_picture_take_no_time(folder):
    (sample,) = samples_of(folder, {"image": "a.png"})
    many = [replace(sample, id=str(i)) for i in range(20_000)]
    assert other_samples(many, 0) == {}


def test_a_lone_surrogate_is_a_fault(folder):
    for field in ("id", "question", "answer", "image"):
        with pytest.raises(InputError) as fault:
            samples_of(folder, {"image": "a.png", field: "x\ud800"})
        assert f"line 0: {field}" in fault.value.details[0]


# Chunks


def test_chunks_end_where_the_pictures_change(folder):
    (a,), (b,) = samples_of(folder, {"image": "a.png"}), samples_of(folder, {"image": "b.png"})
    size = CHUNK_QUESTIONS
    sizes = [len(chunk) for chunk in chunks([a] * (size + 5) + [b] * 200, 1)]
    assert sizes == [size + 5, 4 * size, 4 * size, 4 * size, 8]
    few = list(chunks([a] * 3 + [b] * 4, 1))
    assert few == [[a] * 3 + [b] * 4]


def test_samples_about_the_same_picture_come_together_wherever_they_stand(folder):
    (a,), (b,) = samples_of(folder, {"image": "a.png"}), samples_of(folder, {"image": "b.png"})
    assert list(chunks([a, b] * 40, 1)) == [[a] * 40, [b] * 40]
    assert list(chunks([a, b] * 4, 1)) == [[a] * 4 + [b] * 4]


def test_each_clip_is_a_chunk(tmp_path, clip_file):
    for name in ("a.mp4", "b.mp4"):
        clip_file(4, name)
    samples = samples_of(tmp_path, *({"video": name, "frame": 0} for name in ("a.mp4", "a.mp4", "b.mp4")))
    assert [len(chunk) for chunk in chunks(samples, 1)] == [2, 1]


def test_heads_of_a_profile_are_counted_in_the_memory(demo, cats):
    profile = Profile("p", "measured", "a test", Shape(4, 4, 128), heads=((1, 0), (2, 2)))
    media = demo.ask(cats, "?").media
    costs = [
        read_question(demo.engine.processor, demo.engine.config, media, "?", settings).job.heads
        for settings in (Settings(), Settings(profile=profile), Settings(heads="0-3"))
    ]
    assert costs == [0, 1, 4], "two layers of two heads, spread over four layers"


# Gallery and charts


def scored_sample(i, pointing, mass, area=0.2, picture=None):
    base = make_score(i, pointing, picture=picture, area=area)
    return replace(base, headline=base.headline | {"mass": mass})


def test_the_gallery_takes_misses_for_worst_and_no_picture_twice():
    hits = [scored_sample(i, 1.0, 0.3 + i / 100, picture=f"{i // 2}.png") for i in range(40)]
    misses = [scored_sample(40 + i, 0.0, 0.9 - i / 100) for i in range(7)]
    names = dict(gallery_scores([*misses, *hits]))
    best, worst = ([score.id for name, score in names.items() if name.startswith(kind)] for kind in ("best", "worst"))
    assert best == ["39", "37", "35", "33", "31", "29"]
    assert worst == ["46", "45", "44", "43", "42", "41"]
    assert len(best) == len(worst) == GALLERY_SIZE


def test_large_boxes_are_not_the_worst_for_being_large():
    half, whole = scored_sample(0, 1.0, 0.9, area=0.5), scored_sample(1, 1.0, 1.0, area=1.0)
    little = scored_sample(2, 1.0, 0.2, area=0.1)
    assert [score.id for name, score in gallery_scores([half, whole, little])] == ["0", "2"], (
        "a box over the whole picture cannot be ranked"
    )


def test_the_gallery_of_few_has_none_twice():
    names = [score.id for _, score in gallery_scores([scored_sample(i, 1.0, 0.4) for i in range(3)])]
    assert sorted(names) == ["0", "1", "2"]


@pytest.mark.parametrize("title", ["plain", "$\\frac$ and $x_", "猫 <b>", "x" * 400])
def test_charts_take_any_title(title):
    table = layer_table([make_score(i) for i in range(4)], [0, 1], 0)
    heads = {name: np.random.default_rng(0).random((2, 4)) for name in ("pointing", "lift")}
    for chart in (
        draw_layers(table, [1], title),
        draw_layers(table, [1], title, patterns=True),
        draw_heads(heads, [0, 1], [(1, 3)], {"pointing": 0.1, "lift": np.nan}, title),
    ):
        assert chart.dtype == np.uint8
        assert chart.shape[2] == 3
        assert chart.std() > 5
        assert (chart[:, :4] == 255).all(), "the title does not run over the edge"


def test_a_chart_shows_each_layer_where_its_figure_is():
    """The line of a figure that grows with the layer goes up from left to right."""
    rows = layer_table([make_score(i) for i in range(4)], list(range(2)), 0)
    for i, row in enumerate(rows):
        row["pointing"] |= {"mean": float(i), "low": float(i), "high": float(i)}
    chart = draw_layers(rows, [], "t").astype(int)
    line = np.abs(chart - np.array([0x2F, 0x66, 0x90])).sum(axis=2) < 12
    ys, xs = np.nonzero(line[: chart.shape[0] // 2, : chart.shape[1] // 3])
    assert ys[xs < np.quantile(xs, 0.1)].mean() > ys[xs > np.quantile(xs, 0.9)].mean() + 50


def test_outlines_are_where_the_boxes_are():
    from qvl_attn.render.overlay import outlined

    picture = np.zeros((100, 200, 3), np.uint8)
    drawn = outlined(picture, np.array([[0.25, 0.2, 0.75, 0.8]]))
    lit = drawn.sum(axis=2) > 300
    ys, xs = np.nonzero(lit)
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == pytest.approx((50, 149, 20, 79), abs=2)
    assert not lit[40:60, 80:120].any(), "only the outline"
    assert not picture.any(), "the picture itself is left alone"
    assert Image.fromarray(drawn).size == (200, 100)
