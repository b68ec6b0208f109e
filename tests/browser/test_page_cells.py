"""The page of a result in a real browser: cells that are pointed at and kept, the keyboard, two panels side by side."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.vqa.page import result_html
from tests.helpers.pages import (
    QUESTION,
    asked,
    flat,
    heat,
    opened,
    painted,
    pressed,
    settled,
    shown,
    shows,
    slide,
    what,
)

pytestmark = pytest.mark.browser
CELL_HINT = "Point at a cell"


def at(page, picture, row, column, share=(0.5, 0.5)):
    """Where a cell is on the screen."""
    figure = page.locator(".picture").nth(picture)
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    grids = page.evaluate("state.panels.flatMap((panel) => resultOf(panel).media.map((medium) => medium.grid))")
    _, rows, columns = grids[picture]
    return box["x"] + (column + share[0]) / columns * box["width"], box["y"] + (row + share[1]) / rows * box["height"]


def told_of(result, values, index):
    """What is said of a cell, from the arrays alone."""
    number, start = 0, 0
    while index >= start + result.capture.grids[number].cells:
        start += result.capture.grids[number].cells
        number += 1
    steps, rows, columns = result.capture.grids[number].shape
    step, row, column = np.unravel_index(index - start, (steps, rows, columns))
    x0, y0, x1, y1 = result.capture.grids[number].boxes_px[index - start].tolist()
    where = f"picture {number + 1}, " if len(result.media) > 1 else ""
    where += f"step {step + 1}, " if result.media[0].clip else ""
    rank = int((values > values[index]).sum()) + 1
    return (
        f"{where}row {row + 1}, column {column + 1}",
        values[index],
        values[index] / values.mean(),
        f"rank {rank} of {len(values)} · pixels x {x0:g}-{x1:g}, y {y0:g}-{y1:g}",
    )


def says(text, want):
    where, value, multiple, rest = want
    head, tail = text.split(": ", 1)
    seen_value, seen_multiple = re.match(r"(\S+) = (\S+)× uniform · ", tail).groups()
    assert head == where
    assert float(seen_value) == pytest.approx(value, rel=6e-3)
    assert float(seen_multiple) == pytest.approx(multiple, rel=1e-3, abs=0.051)
    assert tail.endswith(rest)


@pytest.mark.parametrize("name", ["one", "two"])
def test_pointing_at_a_cell_tells_its_value_rank_and_pixels(open_page, results, name):
    result, page = results(name), open_page(name)
    values, start = flat(result.heatmaps()).astype(np.float64), 0
    for picture, grid in enumerate(result.capture.grids):
        _, rows, columns = grid.shape
        corners = ((0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1), (1, 2), (rows // 2, columns // 2))
        for row, column in corners:
            for share in ((0.5, 0.5), (0.1, 0.9)):
                page.mouse.move(*at(page, picture, row, column, share))
                says(page.locator("#cell").inner_text(), told_of(result, values, start + row * columns + column))
            x0, y0, x1, y1 = grid.boxes_px[row * columns + column].tolist()
            marks = page.locator(".picture").nth(picture).locator("svg rect.pointed:not(.under)")
            seen = [float(marks.get_attribute(side)) for side in ("x", "y", "width", "height")]
            assert seen == [x0, y0, x1 - x0, y1 - y0]
            assert page.locator("svg rect.pointed:not(.under)").count() == 1
        start += grid.cells
    page.mouse.move(2, 2)
    assert page.locator("#cell").inner_text().startswith(CELL_HINT)
    assert page.locator(".picture rect").count() == 0


def test_every_cell_has_its_rank(open_page, results):
    page = open_page("two")
    values = flat(results("two").heatmaps())
    ranks = page.evaluate("[...ranksOf(valuesOf(state.panels[0]).values).ranks]")
    want = [(values > one).sum() + 1 for one in values]
    assert np.abs(np.array(ranks) - want).max() <= 1, "but for what half floats cannot tell apart"
    assert page.evaluate("[...ranksOf(Float32Array.of(1, 3, 3, 0, 2)).ranks]") == [4, 1, 1, 5, 3]


def words_that_look(result, cell, layers):
    """(word, multiple of uniform, value) of each word, the most above uniform first."""
    capture, found = result.capture, []
    for role, of in (("question", capture.queries), ("answer", capture.produces)):
        text = result.question if role == "question" else result.mapped_answer
        spans = [(t.position, t.span) for t in capture.tokens if t.role == role and t.span]
        for match in re.finditer(r"[a-zA-Z0-9]+|[^\s\w]|[\u4e00-\u9fff]", text):
            positions = [p for p, (a, b) in spans if a < match.end() and b > match.start()]
            values = capture.weights[layers][:, np.isin(of, positions)].mean(axis=(0, 1), dtype=np.float64)
            found.append((match[0], values[cell] / values.mean(), values[cell]))
    return sorted(found, key=lambda one: -one[1])


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_kept_cell_lists_the_words_that_look_at_it(open_page, results, name):
    result, page = results(name), open_page(name)
    cell = 29 if name == "one" else 72 + 13
    page.mouse.click(*at(page, 0, 3, 2) if name == "one" else at(page, 1, 1, 4))
    settled(page)
    for layer in (2, 0):
        if layer != 2:
            slide(page, "layer", layer)
        want = words_that_look(result, cell, [layer])
        buttons = page.locator("#lookers button").all()
        assert len(buttons) == min(8, len(want))
        for button, (word, multiple, value) in zip(buttons, want, strict=False):
            assert button.locator("b").inner_text() == word
            seen = re.fullmatch(r"(\S+)× uniform · (\S+)", button.locator("span").inner_text())
            assert float(seen[1]) == pytest.approx(multiple, abs=0.06)
            assert float(seen[2]) == pytest.approx(value, rel=6e-3)
            share = float(button.evaluate("(one) => one.style.getPropertyValue('--share')"))
            assert share == pytest.approx(multiple / want[0][1], rel=2e-3)
        most = page.locator(".word").evaluate_all(
            "(all) => Object.fromEntries(all.map("
            "(one) => [one.textContent.trim(), Number(one.style.getPropertyValue('--look'))]))"
        )
        assert max(most, key=most.get) == want[0][0]
        assert most[want[-1][0]] == pytest.approx(want[-1][1] / want[0][1], rel=2e-3)
    label = "row 4, column 3" if name == "one" else "row 2, column 5"
    assert page.locator("#lookers").get_attribute("aria-label").startswith(f"Words that look at {label},")
    second = page.locator("#lookers b").nth(1).inner_text()
    page.locator("#lookers button").nth(1).click()
    settled(page)
    assert asked(page) == [second]
    assert page.locator("svg rect.kept:not(.under)").count() == 1
    page.mouse.click(*at(page, 0, 3, 2) if name == "one" else at(page, 1, 1, 4))
    settled(page)
    assert page.locator("svg rect.kept").count() == page.locator("#lookers li").count() == 0, "a second click lets go"
    assert page.locator(".word[style*='--look']").count() == 0


def test_the_ten_strongest_cells_as_a_table(open_page, results):
    for name in ("one", "two", "clip"):
        result, page = results(name), open_page(name)
        page.locator("summary", has_text="The ten strongest cells").click()
        values = flat(result.heatmaps()).astype(np.float64)
        rows = page.locator("#strongest tbody tr").all()
        assert len(rows) == 10
        order = np.argsort(-values, kind="stable")[:10]
        for place, (row, index) in enumerate(zip(rows, order, strict=True), start=1):
            rank, value, multiple, where = row.locator("td").all_inner_texts()
            assert int(rank) == place
            assert float(value) == pytest.approx(values[index], rel=6e-3)
            assert float(multiple) == pytest.approx(values[index] / values.mean(), abs=0.06)
            head, _, _, tail = told_of(result, values, index)
            x0, x1, y0, y1 = (
                round(float(one)) for one in re.findall(r"([\d.]+)-([\d.]+), y ([\d.]+)-([\d.]+)", tail)[0]
            )
            assert where.endswith(f"x {x0}-{x1}, y {y0}-{y1}")
            assert where.startswith(head.split("row")[0])
        assert page.locator("#strongest th").all_inner_texts() == ["rank", "value", "× uniform", "where"]


def test_without_attention_on_the_picture_nothing_is_drawn_and_no_number_is_wrong(chromium, results, tmp_path):
    result = results("one")
    weights = result.capture.weights.copy()
    by_head = result.capture.weights_by_head.copy()
    weights[1], by_head[1] = 0, 0
    capture = replace(result.capture, weights=weights, weights_by_head=by_head)
    (tmp_path / "zero.html").write_text(result_html([replace(result, capture=capture)]), encoding="utf-8")
    with opened(chromium, tmp_path / "zero.html") as page:
        slide(page, "layer", 1)
        assert page.locator(".told").inner_text() == "No attention on the picture: nothing to draw."
        assert page.evaluate("getComputedStyle(document.querySelector('.picture canvas')).opacity") == "0"
        page.mouse.click(*at(page, 0, 3, 2))
        settled(page)
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        assert "NaN" not in page.locator("body").inner_text()
        assert "Infinity" not in page.locator("body").inner_text()


# The keyboard


def test_brackets_step_through_the_layers(open_page):
    page = open_page("one")
    seen = []
    for key in "]]]]]][[":
        page.keyboard.press(key)
        settled(page)
        seen.append(page.locator("#layer-told").inner_text())
    assert seen == ["3", "3", "3", "3", "3", "3", "2", "1"], "from the headline, layer 2, on"
    page.get_by_role("button", name="All layers").click()
    page.keyboard.press("]")
    settled(page)
    assert page.locator("#layer-told").inner_text() == "3"
    page.keyboard.press("Control+[")
    settled(page)
    assert page.locator("#layer-told").inner_text() == "3"
    page.locator("#colormap").focus()
    page.keyboard.press("[")
    settled(page)
    assert page.locator("#layer-told").inner_text() == "3", "a list takes the keys for itself"


def test_arrow_keys_walk_over_the_cells(open_page, results):
    result, page = results("two"), open_page("two")
    values = flat(result.heatmaps()).astype(np.float64)
    page.locator(".picture").nth(1).focus()
    path = [("ArrowRight", 0, 0), ("ArrowRight", 0, 1), ("ArrowDown", 1, 1), ("ArrowLeft", 1, 0), ("ArrowLeft", 1, 0)]
    path += [("ArrowUp", 0, 0), ("ArrowUp", 0, 0), *(("ArrowDown", row, 0) for row in (1, 2, 3, 4, 4))]
    path += [("ArrowRight", 4, column) for column in (*range(1, 9), 8)]
    for key, row, column in path:
        page.keyboard.press(key)
        says(page.locator("#cell").inner_text(), told_of(result, values, 72 + row * 9 + column))
    page.keyboard.press("Enter")
    settled(page)
    assert page.locator("svg rect.kept:not(.under)").count() == 1
    assert page.locator("#lookers li").count() == 8
    page.keyboard.press("Escape")
    settled(page)
    assert page.locator("svg rect.kept").count() == page.locator("#lookers li").count() == 0
    assert page.locator("#cell").inner_text().startswith(CELL_HINT)
    page.mouse.click(*at(page, 0, 0, 0))
    page.locator("#theme").focus()
    page.keyboard.press("Escape")
    settled(page)
    assert page.locator("svg rect.kept").count() == 0, "from anywhere"


@pytest.mark.parametrize("selector", ["#question .word", "#answer .word", "#queries button", "#sources button"])
def test_what_was_pressed_keeps_the_focus(open_page, selector):
    page = open_page("two")
    button = page.locator(selector).last
    text = button.inner_text()
    button.focus()
    page.keyboard.press("Enter")
    settled(page)
    assert button.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.activeElement.innerText") == text


# Side by side


def test_two_layers_side_by_side(open_page, results):
    result, page = results("two"), open_page("two")
    compare = page.locator("#compare")
    page.mouse.click(*at(page, 0, 0, 0))
    compare.click()
    settled(page)
    assert compare.get_attribute("aria-pressed") == "true"
    assert page.locator(".panel").count() == 2
    first, second = result.heatmaps(), result.heatmaps(layers=3, heads="all", query="question")
    shows(page, first, panel=0)
    shows(page, second, panel=1)
    assert what(page, 1).startswith("layer 3 of 0-3 · attention of the question, 9 tokens")
    assert page.locator(".pick").all_inner_texts() == ["A", "B"]
    assert [one.get_attribute("aria-pressed") for one in page.locator(".pick").all()] == ["false", "true"]
    assert page.locator("#lookers li").count() == 0
    slide(page, "layer", 0)
    shows(page, first, panel=0)
    assert what(page, 1).startswith("layer 0 of 0-3")
    page.locator(".pick").first.click()
    settled(page)
    assert pressed(page, "#sources") == ["Headline (2)"], "the controls are those of the panel that is picked"
    page.locator("#answer .word").first.click()
    settled(page)
    assert "“two”" in what(page, 0)
    assert "the question" in what(page, 1)
    assert [one.get_attribute("class") for one in page.locator(".panel").all()] == ["panel card active", "panel card"]
    slide(page, "scale", "shared")
    highs = page.evaluate("state.panels.map((panel) => shownBy(panel).shared)")
    assert page.locator(".high").all_inner_texts() == [f"{max(highs):.3g}"] * 2
    layer0 = result.heatmaps(layers=0, heads="all", query="question")
    painted(page, layer0[1].values[0], max(highs), which=3)
    page.mouse.move(*at(page, 3, 2, 5))
    marked = page.locator("svg").evaluate_all("(all) => all.map((one) => one.querySelectorAll('.pointed').length)")
    assert [one for one in marked if one] == [2, 2], "the same cell is marked in both"
    values = flat(layer0).astype(np.float64)
    says(page.locator("#cell").inner_text(), told_of(result, values, 72 + 2 * 9 + 5))
    page.mouse.click(*at(page, 3, 2, 5))
    settled(page)
    assert page.evaluate("state.active") == 1, "a click on a picture picks its panel"
    want = words_that_look(result, 72 + 2 * 9 + 5, [0])
    reported = page.locator("#lookers span").first.inner_text()
    assert page.locator("#lookers b").first.inner_text() == want[0][0]
    assert float(reported.split("×")[0]) == pytest.approx(want[0][1], abs=0.06), "with the layers of its panel"
    compare.click()
    settled(page)
    assert page.locator(".panel").count() == 1
    assert what(page).startswith("layer 0 of 0-3"), "the one that was picked stays"
    assert page.locator(".pick").is_hidden()


def test_two_questions_side_by_side(open_page, results):
    one, two, page = results("one"), results("two"), open_page("one", "two")
    questions = page.locator("#questions button")
    assert questions.all_inner_texts() == ["how many cats?", QUESTION]
    assert pressed(page, "#questions") == ["how many cats?"]
    page.locator("#compare").click()
    settled(page)
    shows(page, one.heatmaps(), panel=0)
    shows(page, two.heatmaps(), panel=1)
    assert page.locator("#question").text_content() == QUESTION
    assert "two 猫 cats!" in page.locator("#answer").inner_text()
    assert f"the model's own: \u2068{two.answer}" in page.locator("#supplied").inner_text()
    assert questions.locator("sup").all_inner_texts() == ["A", "B"]
    page.mouse.move(*at(page, 1, 0, 0))
    assert page.locator("svg .pointed:not(.under)").count() == 1, "its cells are not those of the other"
    page.locator(".pick").first.click()
    settled(page)
    assert page.locator("#heads-card").is_visible()
    questions.last.click()
    settled(page)
    shows(page, two.heatmaps(), panel=0)
    shows(page, two.heatmaps(), panel=1)
    assert page.locator("#heads-card").is_hidden()
    assert page.locator("#about").inner_text() == "cats.png 252×224, wide.png 252×140"


def test_another_question_takes_the_place_of_the_first(open_page, results):
    page = open_page("one", "text", "two")
    page.locator("#questions button").nth(2).click()
    settled(page)
    shows(page, results("two").heatmaps())
    assert page.locator(".panel").count() == 1
    page.locator("#questions button").nth(1).click()
    settled(page)
    shows(page, results("text").heatmaps())
    assert asked(page) == ["“cats”"]


def test_the_same_question_twice_is_told_apart(chromium, results, tmp_path):
    other = replace(results("one"), settings=replace(results("one").settings, query="last"))
    (tmp_path / "twins.html").write_text(result_html([results("one"), other]), encoding="utf-8")
    with opened(chromium, tmp_path / "twins.html") as page:
        names = page.locator("#questions button").all_inner_texts()
        assert len({*names}) == 2
        assert names == ["how many cats? · cats.png · layer 2 (1)", "how many cats? · cats.png · layer 2 (2)"]


def test_the_picture_is_drawn_once_more_when_the_window_changes(open_page, results):
    page = open_page("one")
    before = heat(page)
    page.set_viewport_size({"width": 700, "height": 900})
    settled(page)
    assert np.array_equal(heat(page), before)
    assert shown(page).sum() == pytest.approx(results("one").heatmaps()[0].vision_mass, rel=1e-3)
    assert percentile_scale([shown(page)]).high == pytest.approx(results("one").heatmaps()[0].scale.high, rel=1e-3)
