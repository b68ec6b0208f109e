"""The page of a result in a real browser: pointed and selected cells, the keyboard, two panels side by side."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.results.page_data import results_html
from tests.helpers.pages import (
    QUESTION,
    assert_painted,
    assert_shows,
    canvas_pixels,
    flatten,
    open_in_browser,
    panel_caption,
    panel_values,
    pressed_buttons,
    selected_queries,
    set_control,
    wait_until_drawn,
)

pytestmark = pytest.mark.browser
CELL_HINT = "Point at a cell"


def at(page, picture, row, column, share=(0.5, 0.5)):
    """Return the place of a cell on the screen."""
    figure = page.locator(".picture").nth(picture)
    figure.scroll_into_view_if_needed()
    box = figure.bounding_box()
    grids = page.evaluate("state.panels.flatMap((panel) => resultOf(panel).media.map((medium) => medium.grid))")
    _, rows, columns = grids[picture]
    return box["x"] + (column + share[0]) / columns * box["width"], box["y"] + (row + share[1]) / rows * box["height"]


def cell_text(result, values, index):
    """Return the parts of a cell's text, computed from the arrays."""
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


def check_cell_text(text, want):
    where, value, multiple, rest = want
    head, tail = text.split(": ", 1)
    shown_value, shown_multiple = re.match(r"(\S+) = (\S+)× uniform · ", tail).groups()
    assert head == where
    assert float(shown_value) == pytest.approx(value, rel=6e-3)
    assert float(shown_multiple) == pytest.approx(multiple, rel=1e-3, abs=0.051)
    assert tail.endswith(rest)


@pytest.mark.parametrize("name", ["one", "two"])
def test_pointing_at_a_cell_shows_its_value_rank_and_pixels(open_page, results, name):
    result, page = results(name), open_page(name)
    values, start = flatten(result.heatmaps()).astype(np.float64), 0
    for picture, grid in enumerate(result.capture.grids):
        _, rows, columns = grid.shape
        corners = ((0, 0), (0, columns - 1), (rows - 1, 0), (rows - 1, columns - 1), (1, 2), (rows // 2, columns // 2))
        for row, column in corners:
            for share in ((0.5, 0.5), (0.1, 0.9)):
                page.mouse.move(*at(page, picture, row, column, share))
                check_cell_text(
                    page.locator("#cell").inner_text(), cell_text(result, values, start + row * columns + column)
                )
            x0, y0, x1, y1 = grid.boxes_px[row * columns + column].tolist()
            marks = page.locator(".picture").nth(picture).locator("svg rect.pointed:not(.under)")
            outline = [float(marks.get_attribute(side)) for side in ("x", "y", "width", "height")]
            assert outline == [x0, y0, x1 - x0, y1 - y0]
            assert page.locator("svg rect.pointed:not(.under)").count() == 1
        start += grid.cells
    page.mouse.move(2, 2)
    assert page.locator("#cell").inner_text().startswith(CELL_HINT)
    assert page.locator(".picture rect").count() == 0


def test_every_cell_has_its_rank(open_page, results):
    page = open_page("two")
    values = flatten(results("two").heatmaps())
    ranks = page.evaluate("[...ranksOf(valuesOf(state.panels[0]).values).ranks]")
    want = [(values > value).sum() + 1 for value in values]
    assert np.abs(np.array(ranks) - want).max() <= 1, "except values that half floats cannot tell apart"
    assert page.evaluate("[...ranksOf(Float32Array.of(1, 3, 3, 0, 2)).ranks]") == [4, 1, 1, 5, 3]


def attending_words(result, cell, layers):
    """(word, multiple of uniform, value) of each word, highest multiple first."""
    capture, words = result.capture, []
    for role, query_positions in (("question", capture.queries), ("answer", capture.produces)):
        text = result.question if role == "question" else result.mapped_answer
        spans = [(t.position, t.span) for t in capture.tokens if t.role == role and t.span]
        for match in re.finditer(r"[a-zA-Z0-9]+|[^\s\w]|[\u4e00-\u9fff]", text):
            positions = [p for p, (a, b) in spans if a < match.end() and b > match.start()]
            rows = np.isin(query_positions, positions)
            values = capture.weights[layers][:, rows].mean(axis=(0, 1), dtype=np.float64)
            words.append((match[0], values[cell] / values.mean(), values[cell]))
    return sorted(words, key=lambda word: -word[1])


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_selected_cell_lists_the_words_that_attend_to_it(open_page, results, name):
    result, page = results(name), open_page(name)
    cell = 29 if name == "one" else 72 + 13
    page.mouse.click(*at(page, 0, 3, 2) if name == "one" else at(page, 1, 1, 4))
    wait_until_drawn(page)
    for layer in (2, 0):
        if layer != 2:
            set_control(page, "layer", layer)
        want = attending_words(result, cell, [layer])
        buttons = page.locator("#attending button").all()
        assert len(buttons) == min(8, len(want))
        for button, (word, multiple, value) in zip(buttons, want, strict=False):
            assert button.locator("b").inner_text() == word
            numbers = re.fullmatch(r"(\S+)× uniform · (\S+)", button.locator("span").inner_text())
            assert float(numbers[1]) == pytest.approx(multiple, abs=0.06)
            assert float(numbers[2]) == pytest.approx(value, rel=6e-3)
            share = float(button.evaluate("(button) => button.style.getPropertyValue('--share')"))
            assert share == pytest.approx(multiple / want[0][1], rel=2e-3)
        shades = page.locator(".word").evaluate_all(
            "(all) => Object.fromEntries(all.map("
            "(word) => [word.textContent.trim(), Number(word.style.getPropertyValue('--attention'))]))"
        )
        assert max(shades, key=shades.get) == want[0][0]
        assert shades[want[-1][0]] == pytest.approx(want[-1][1] / want[0][1], rel=2e-3)
    label = "row 4, column 3" if name == "one" else "row 2, column 5"
    assert page.locator("#attending").get_attribute("aria-label").startswith(f"Words that attend to {label},")
    second = page.locator("#attending b").nth(1).inner_text()
    page.locator("#attending button").nth(1).click()
    wait_until_drawn(page)
    assert selected_queries(page) == [second]
    assert page.locator("svg rect.kept:not(.under)").count() == 1
    page.mouse.click(*at(page, 0, 3, 2) if name == "one" else at(page, 1, 1, 4))
    wait_until_drawn(page)
    assert page.locator("svg rect.kept").count() == page.locator("#attending li").count() == 0, (
        "a second click clears the selection"
    )
    assert page.locator(".word[style*='--attention']").count() == 0


def test_the_ten_strongest_cells_as_a_table(open_page, results):
    for name in ("one", "two", "clip"):
        result, page = results(name), open_page(name)
        page.locator("summary", has_text="The ten strongest cells").click()
        values = flatten(result.heatmaps()).astype(np.float64)
        rows = page.locator("#strongest tbody tr").all()
        assert len(rows) == 10
        order = np.argsort(-values, kind="stable")[:10]
        for place, (row, index) in enumerate(zip(rows, order, strict=True), start=1):
            rank, value, multiple, where = row.locator("th, td").all_inner_texts()
            assert int(rank) == place
            assert float(value) == pytest.approx(values[index], rel=6e-3)
            assert float(multiple) == pytest.approx(values[index] / values.mean(), abs=0.06)
            head, _, _, tail = cell_text(result, values, index)
            x0, x1, y0, y1 = (
                round(float(edge)) for edge in re.findall(r"([\d.]+)-([\d.]+), y ([\d.]+)-([\d.]+)", tail)[0]
            )
            assert where.endswith(f"x {x0}-{x1}, y {y0}-{y1}")
            assert where.startswith(head.split("row")[0])
        assert page.locator("#strongest thead th").all_inner_texts() == ["rank", "value", "× uniform", "where"]


def test_without_attention_on_the_picture_nothing_is_drawn_and_no_number_is_wrong(chromium, results, tmp_path):
    result = results("one")
    weights = result.capture.weights.copy()
    by_head = result.capture.weights_by_head.copy()
    weights[1], by_head[1] = 0, 0
    capture = replace(result.capture, weights=weights, weights_by_head=by_head)
    (tmp_path / "zero.html").write_text(results_html([replace(result, capture=capture)]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "zero.html") as page:
        set_control(page, "layer", 1)
        assert page.locator(".ends").inner_text() == "No attention on the picture: nothing to draw."
        assert page.evaluate("getComputedStyle(document.querySelector('.picture canvas')).opacity") == "0"
        page.mouse.click(*at(page, 0, 3, 2))
        wait_until_drawn(page)
        page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        assert "NaN" not in page.locator("body").inner_text()
        assert "Infinity" not in page.locator("body").inner_text()


# The keyboard


def test_brackets_step_through_the_layers(open_page):
    page = open_page("one")
    labels = []
    for key in "]]]]]][[":
        page.keyboard.press(key)
        wait_until_drawn(page)
        labels.append(page.locator("#layer-value").inner_text())
    assert labels == ["3", "3", "3", "3", "3", "3", "2", "1"], "from the headline, layer 2, on"
    page.get_by_role("button", name="All layers").click()
    page.keyboard.press("]")
    wait_until_drawn(page)
    assert page.locator("#layer-value").inner_text() == "3"
    page.keyboard.press("Control+[")
    wait_until_drawn(page)
    assert page.locator("#layer-value").inner_text() == "3"
    page.locator("#colormap").focus()
    page.keyboard.press("[")
    wait_until_drawn(page)
    assert page.locator("#layer-value").inner_text() == "3", "a list handles the keys itself"


def test_arrow_keys_move_over_the_cells(open_page, results):
    result, page = results("two"), open_page("two")
    values = flatten(result.heatmaps()).astype(np.float64)
    page.locator(".picture").nth(1).focus()
    path = [("ArrowRight", 0, 0), ("ArrowRight", 0, 1), ("ArrowDown", 1, 1), ("ArrowLeft", 1, 0), ("ArrowLeft", 1, 0)]
    path += [("ArrowUp", 0, 0), ("ArrowUp", 0, 0), *(("ArrowDown", row, 0) for row in (1, 2, 3, 4, 4))]
    path += [("ArrowRight", 4, column) for column in (*range(1, 9), 8)]
    for key, row, column in path:
        page.keyboard.press(key)
        check_cell_text(page.locator("#cell").inner_text(), cell_text(result, values, 72 + row * 9 + column))
    page.keyboard.press("Enter")
    wait_until_drawn(page)
    assert page.locator("svg rect.kept:not(.under)").count() == 1
    assert page.locator("#attending li").count() == 8
    page.keyboard.press("Escape")
    wait_until_drawn(page)
    assert page.locator("svg rect.kept").count() == page.locator("#attending li").count() == 0
    assert page.locator("#cell").inner_text().startswith(CELL_HINT)
    page.mouse.click(*at(page, 0, 0, 0))
    page.locator("#theme").focus()
    page.keyboard.press("Escape")
    wait_until_drawn(page)
    assert page.locator("svg rect.kept").count() == 0, "from anywhere"


@pytest.mark.parametrize("selector", ["#question .word", "#answer .word", "#queries button", "#sources button"])
def test_a_pressed_button_keeps_the_focus(open_page, selector):
    page = open_page("two")
    button = page.locator(selector).last
    text = button.inner_text()
    button.focus()
    page.keyboard.press("Enter")
    wait_until_drawn(page)
    assert button.get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.activeElement.innerText") == text


# Side by side


def test_two_layers_side_by_side(open_page, results):
    result, page = results("two"), open_page("two")
    compare = page.locator("#compare")
    page.mouse.click(*at(page, 0, 0, 0))
    compare.click()
    wait_until_drawn(page)
    assert compare.get_attribute("aria-pressed") == "true"
    assert page.locator(".panel").count() == 2
    first, second = result.heatmaps(), result.heatmaps(layers=3, heads="all", query="question")
    assert_shows(page, first, panel=0)
    assert_shows(page, second, panel=1)
    assert panel_caption(page, 1).startswith("layer 3 of 0-3 · attention of the question, 9 tokens")
    assert page.locator(".pick").all_inner_texts() == ["A", "B"]
    assert [button.get_attribute("aria-pressed") for button in page.locator(".pick").all()] == ["false", "true"]
    assert page.locator("#attending li").count() == 0
    set_control(page, "layer", 0)
    assert_shows(page, first, panel=0)
    assert panel_caption(page, 1).startswith("layer 0 of 0-3")
    page.locator(".pick").first.click()
    wait_until_drawn(page)
    assert pressed_buttons(page, "#sources") == ["Headline (2)"], "the controls are those of the active panel"
    page.locator("#answer .word").first.click()
    wait_until_drawn(page)
    assert "“two”" in panel_caption(page, 0)
    assert "the question" in panel_caption(page, 1)
    assert [panel.get_attribute("class") for panel in page.locator(".panel").all()] == [
        "panel card active",
        "panel card",
    ]
    set_control(page, "scale", "shared")
    highs = page.evaluate("state.panels.map((panel) => entryOf(panel).shared)")
    assert page.locator(".high").all_inner_texts() == [f"{max(highs):.3g}"] * 2
    layer0 = result.heatmaps(layers=0, heads="all", query="question")
    assert_painted(page, layer0[1].values[0], max(highs), which=3)
    page.mouse.move(*at(page, 3, 2, 5))
    marked = page.locator("svg").evaluate_all("(all) => all.map((svg) => svg.querySelectorAll('.pointed').length)")
    assert [count for count in marked if count] == [2, 2], "the same cell is marked in both"
    values = flatten(layer0).astype(np.float64)
    check_cell_text(page.locator("#cell").inner_text(), cell_text(result, values, 72 + 2 * 9 + 5))
    page.mouse.click(*at(page, 3, 2, 5))
    wait_until_drawn(page)
    assert page.evaluate("state.active") == 1, "a click on a picture activates its panel"
    want = attending_words(result, 72 + 2 * 9 + 5, [0])
    numbers = page.locator("#attending span").first.inner_text()
    assert page.locator("#attending b").first.inner_text() == want[0][0]
    assert float(numbers.split("×")[0]) == pytest.approx(want[0][1], abs=0.06), "with the layers of its panel"
    compare.click()
    wait_until_drawn(page)
    assert page.locator(".panel").count() == 1
    assert panel_caption(page).startswith("layer 0 of 0-3"), "the active panel stays"
    assert page.locator(".pick").is_hidden()


def test_two_questions_side_by_side(open_page, results):
    one, two, page = results("one"), results("two"), open_page("one", "two")
    questions = page.locator("#results button")
    assert questions.all_inner_texts() == ["how many cats?", QUESTION]
    assert pressed_buttons(page, "#results") == ["how many cats?"]
    page.locator("#compare").click()
    wait_until_drawn(page)
    assert_shows(page, one.heatmaps(), panel=0)
    assert_shows(page, two.heatmaps(), panel=1)
    assert page.locator("#question").text_content() == QUESTION
    assert "two 猫 cats!" in page.locator("#answer").inner_text()
    assert f"the model's own: \u2068{two.answer}" in page.locator("#supplied").inner_text()
    assert questions.locator("sup").all_inner_texts() == ["A", "B"]
    page.mouse.move(*at(page, 1, 0, 0))
    assert page.locator("svg .pointed:not(.under)").count() == 1, "its cells are not those of the other"
    page.locator(".pick").first.click()
    wait_until_drawn(page)
    assert page.locator("#heads-card").is_visible()
    questions.last.click()
    wait_until_drawn(page)
    assert_shows(page, two.heatmaps(), panel=0)
    assert_shows(page, two.heatmaps(), panel=1)
    assert page.locator("#heads-card").is_hidden()
    assert page.locator("#about").inner_text() == "cats.png 252×224, wide.png 252×140"


def test_another_question_takes_the_place_of_the_first(open_page, results):
    page = open_page("one", "text", "two")
    page.locator("#results button").nth(2).click()
    wait_until_drawn(page)
    assert_shows(page, results("two").heatmaps())
    assert page.locator(".panel").count() == 1
    page.locator("#results button").nth(1).click()
    wait_until_drawn(page)
    assert_shows(page, results("text").heatmaps())
    assert selected_queries(page) == ["“cats”"]


def test_two_equal_questions_have_different_labels(chromium, results, tmp_path):
    other = replace(results("one"), settings=replace(results("one").settings, query="last"))
    (tmp_path / "twins.html").write_text(results_html([results("one"), other]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "twins.html") as page:
        names = page.locator("#results button").all_inner_texts()
        assert len({*names}) == 2
        assert names == ["how many cats? · cats.png · layer 2 (1)", "how many cats? · cats.png · layer 2 (2)"]


def test_the_picture_is_drawn_once_more_when_the_window_changes(open_page, results):
    page = open_page("one")
    before = canvas_pixels(page)
    page.set_viewport_size({"width": 700, "height": 900})
    wait_until_drawn(page)
    assert np.array_equal(canvas_pixels(page), before)
    assert panel_values(page).sum() == pytest.approx(results("one").heatmaps()[0].vision_mass, rel=1e-3)
    assert percentile_scale([panel_values(page)]).high == pytest.approx(
        results("one").heatmaps()[0].scale.high, rel=1e-3
    )
