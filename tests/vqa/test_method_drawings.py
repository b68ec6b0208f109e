"""Drawings of methods and faithfulness: crossed-out cells, colours of maps, and texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageColor

from qvl_attn import Drawing
from qvl_attn.attribution.faithfulness import STEPS, Curves
from qvl_attn.attribution.similarity import Likeness, Sanity
from qvl_attn.cli.tables import faithfulness_lines
from qvl_attn.render.charts import draw_faithfulness, draw_methods
from qvl_attn.render.overlay import crossed_out
from qvl_attn.vqa.captions import headline_caption
from qvl_attn.vqa.figures import draw_result

QUESTION = "how many cats?"
WHITE = (255, 255, 255)


@pytest.fixture(scope="module")
def sinks(demo, cats, wide):
    """A result of two pictures with thresholds that some cells of the embedded model exceed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qvl_attn.attribution.methods.sinks.NORM", 1.4)
        result = demo.ask(cats, QUESTION, [wide], method="sinks")
    assert 3 <= len(result.methods[0].removed) < 60
    return result


def test_a_cross_spans_the_middle_half_of_its_cell_and_touches_no_other():
    cells = np.zeros((2, 3), bool)
    cells[1, 2] = True
    drawn = crossed_out(np.full((200, 300, 3), 128, np.uint8), cells)
    assert tuple(drawn[150, 250]) == WHITE
    for y, x in ((130, 230), (170, 270), (130, 270), (170, 230)):
        assert drawn[y, x].min() > 200, (y, x)
    untouched = drawn.copy()
    untouched[110:190, 210:290] = 128
    assert (untouched == 128).all()
    assert (drawn[100:, 200:] == 0).any(), "the cross has a dark edge"


def places_of(result):
    """Return (x0, y0, x1, y1) of two pictures on the overlay, found where the map changes colours."""
    without, coloured = (draw_result(result, Drawing(alpha=alpha)).overlay() for alpha in (0.0, 1.0))
    differs = (without != coloured).any(axis=2)
    down = np.flatnonzero(differs.mean(axis=1) > 0.5)
    across = np.flatnonzero(differs[down].mean(axis=0) > 0.5)
    (gap,) = np.flatnonzero(np.diff(across) > 1)
    return [(side[0], down[0], side[-1] + 1, down[-1] + 1) for side in (across[: gap + 1], across[gap + 1 :])]


def test_every_cell_that_was_taken_out_is_crossed_out_on_its_picture(sinks):
    whole = replace(sinks, methods=(replace(sinks.methods[0], removed=()),))
    drawn, bare = (draw_result(result, Drawing(alpha=0.0)).overlay() for result in (sinks, whole))
    first, crossed = 0, set()
    for (x0, y0, x1, y1), grid in zip(places_of(whole), sinks.capture.grids, strict=True):
        _, rows, columns = grid.shape
        for row in range(rows):
            for column in range(columns):
                y, x = int(y0 + (row + 0.5) * (y1 - y0) / rows), int(x0 + (column + 0.5) * (x1 - x0) / columns)
                around = slice(y - 3, y + 4), slice(x - 3, x + 4)
                if (drawn[around] != bare[around]).any():
                    assert (drawn[around] == 255).all(axis=2).any(), "a white cross"
                    crossed.add(first + row * columns + column)
        first += grid.cells
    assert crossed == set(sinks.methods[0].removed)


def test_the_caption_and_the_json_name_what_was_taken_out(sinks):
    drawn = draw_result(sinks, Drawing())
    lines = headline_caption(sinks, drawn.headline[0])
    assert lines[0].startswith(f"method sinks · attention of the question, 4 tokens · {sinks.methods[0].caption}")
    assert f"{len(sinks.methods[0].removed)} sink cells removed" in lines[0]
    (crossed,) = [line for line in lines if line.startswith("crossed out: ")]
    entries = sinks._json(drawn.headline, [], [])["methods"][0]["removed"]
    assert [entry["cell"] for entry in entries] == list(sinks.methods[0].removed)
    cells = [grid.cells for grid in sinks.capture.grids]
    boxes = np.concatenate([grid.boxes_px for grid in sinks.capture.grids])
    named = crossed.removeprefix("crossed out: ").split("; ")
    for i, entry in enumerate(entries):
        picture = int(entry["cell"] >= cells[0])
        place = entry["cell"] - picture * cells[0]
        columns = sinks.capture.grids[picture].shape[2]
        assert (entry["media"], entry["box_px"]) == (picture, boxes[entry["cell"]].tolist())
        if i < 12:
            words = f"picture {picture + 1}, row {place // columns + 1}, column {place % columns + 1}"
            assert named[i] == words
    assert (len(entries) > 12) == (named[-1] == f"and {len(entries) - 12} more")


def test_more_cells_than_can_be_named_are_counted(sinks):
    many = replace(sinks, methods=(replace(sinks.methods[0], removed=tuple(range(20))),))
    line = headline_caption(many, many.heatmaps()[0])[1]
    assert line.count("row ") == 12
    assert line.endswith("; and 8 more")


def test_no_sinks_are_a_note(demo, cats):
    for method in ("sinks", "sinks-redistributed"):
        drawn = draw_result(demo.ask(cats, QUESTION, method=method), Drawing())
        assert "no sinks were found: the map is the plain mean" in drawn.notes
        assert not any("crossed out" in line for line in headline_caption(drawn.maps.record, drawn.headline[0]))


def test_sinks_that_were_found_are_no_note(sinks):
    assert not any("no sinks" in note for note in draw_result(sinks, Drawing()).notes)


def sheet_words(result):
    """Return the lines above the sheets of a result, by file."""
    drawn = dict(draw_result(result, Drawing()).images())
    return {name: " | ".join(drawn[name].args[1]) for name in ("layers.png", "tokens.png")}


def test_sheets_say_whose_layers_they_show(demo, cats, sinks):
    words = sheet_words(sinks)
    assert "method sinks · attention of the question, 4 tokens · a layer at a time" in words["layers.png"]
    assert "plain attention, whatever the method: each word" in words["tokens.png"]
    words = sheet_words(demo.ask(cats, QUESTION, method="tam"))
    assert "tam has no layers: plain attention" in words["layers.png"]
    words = sheet_words(demo.ask(cats, QUESTION))
    assert "method" not in words["layers.png"] + words["tokens.png"]


def test_layers_of_a_method_are_drawn(sinks):
    figures = draw_result(sinks, Drawing())
    panels = figures.panels(figures.maps.layer_maps("question"))
    for panel, values in zip(panels, sinks.methods[0].layer_values, strict=True):
        assert np.array_equal(np.concatenate([heat.values.ravel() for heat in panel.maps]), values)
        assert panel.maps[0].scale.high == pytest.approx(np.percentile(values, 99.5))
    assert [panel.label for panel in panels] == [f"layer {i}" for i in range(4)]


# Charts

ALIKE = Sanity(
    (
        Likeness("scrambled weights of the top 1 of 2 layers", 0.9, 0.8),
        Likeness("scrambled weights of the top 2 of 2 layers", None, -0.5),
    ),
    Likeness("another question: 何？", 0.5, 0.25),
    Likeness("another picture", -0.9, -0.75),
)


def curves(*names):
    rng = np.random.default_rng(0)
    return Curves((*names, "random", "uniform"), -rng.random((len(names) + 2, 2, 2, STEPS + 1)))


def share_of(pixels, color):
    return (np.abs(pixels.astype(int) - ImageColor.getrgb(color)).max(axis=2) < 12).mean()


def test_each_map_has_a_colour_of_its_own_in_all_parts_of_the_chart():
    picture = draw_faithfulness(curves("mean", "tam"), {"mean": ALIKE, "tam": ALIKE}, "what?")
    left, right = np.split(picture, [picture.shape[1] * 3 // 4], axis=1)
    for color in ("#be3e14", "#2f6690"):
        assert share_of(left, color) > 0, color
        assert share_of(right, color) > 0.003, color
    single = draw_faithfulness(curves("mean"), {"mean": ALIKE}, "what?")
    assert share_of(single[:, single.shape[1] * 3 // 4 :], "#2f6690") == 0


def test_no_title_of_the_chart_is_cut():
    picture = draw_faithfulness(curves("mean"), {"mean": ALIKE}, "what?")
    assert (picture[:, -2:] > 250).all()


def test_a_chart_without_curves_says_why():
    picture = draw_faithfulness(None, {"mean": ALIKE}, "what?")
    assert picture.shape[2] == 3
    assert faithfulness_lines(None, {})[0] == "faithfulness: the answer has no text whose probability could change"


def test_the_figures_to_be_read_are_those_of_curves_and_checks():
    known = curves("mean", "tam")
    lines = faithfulness_lines(known, {"mean": ALIKE})
    figures = known.figures()
    assert len(lines) == 4 + 4
    expected = ", ".join(f"{name} {figures[name]['deletion_mean']:.2f}" for name in known.names)
    assert lines[1] == f"deletion, mean fill (lower is better, nats): {expected}"
    assert lines[2].startswith("insertion, blur fill (higher is better, nats): mean ")
    assert lines[4] == "mean with scrambled weights of the top 1 of 2 layers: rank correlation 0.90, SSIM 0.80"
    assert lines[5] == "mean with scrambled weights of the top 2 of 2 layers: rank correlation -, SSIM -0.50"
    assert lines[6] == "mean with another question: 何？: rank correlation 0.50, SSIM 0.25"
    assert lines[7] == "mean with another picture: rank correlation -0.90, SSIM -0.75"


def test_the_chart_of_methods_leaves_out_what_nobody_has():
    value = {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 3}
    gap = {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    two = draw_methods({"mean": {"pointing": value | {"chance": 0.1}, "lift": value, "auc": gap}}, "t")
    four = draw_methods({"mean": dict.fromkeys(("pointing", "lift", "auc", "iou"), value)}, "t")
    assert two.shape[1] == pytest.approx(four.shape[1] / 2, abs=2)
    assert share_of(two, "#2f6690") > 0
    assert draw_methods({"mean": {"pointing": gap}}, "t").shape[2] == 3
