"""The page of a result in a real browser: every control, compared with numpy and `render`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qvl_attn import Drawing
from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.render.overlay import blend, color_table, upsample
from qvl_attn.results.page_data import results_html
from tests.helpers.pages import (
    METHODS,
    assert_painted,
    assert_shows,
    canvas_pixels,
    flatten,
    open_in_browser,
    panel_caption,
    panel_values,
    pressed_buttons,
    read_png,
    selected_queries,
    set_control,
    stopped_clock,
    wait_until_drawn,
)

pytestmark = pytest.mark.browser
LAYERS = range(4)


def cells_of(page, number=0):
    """Return a function that gives a cell's place on the screen."""
    box = page.locator(".picture").nth(number).bounding_box()
    rows, columns = page.evaluate(f"resultOf(active()).media[{number}].grid.slice(1)")
    return lambda row, column: (
        box["x"] + (column + 0.5) / columns * box["width"],
        box["y"] + (row + 0.5) / rows * box["height"],
    )


def test_it_begins_with_the_headline(open_page, results):
    result, page = results("one"), open_page("one")
    assert_shows(page, result.heatmaps())
    assert page.title() == "how many cats? · qvl-attn"
    assert page.locator("#question").inner_text().split("\n")[-1].endswith("how many cats?")
    assert result.answer in page.locator("#answer").inner_text()
    assert pressed_buttons(page, "#queries") == ["whole question"]
    assert pressed_buttons(page, "#sources") == ["Headline (2)"]
    assert panel_caption(page) == "layer 2 of 0-3 · attention of the question, 4 tokens · mean of all 4 heads"
    high = result.heatmaps()[0].scale.high
    assert page.locator(".high").inner_text() == f"{high:.3g}"
    mass, above = result.heatmaps()[0].vision_mass, result.heatmaps()[0].clipped
    reported = page.locator(".ends").inner_text()
    values = result.heatmaps()[0].values
    ends = f"min {values.min():.3g} · max {values.max():.3g} = {values.max() / mass * 72:.1f}× uniform"
    assert reported == f"{ends} · {above} of 72 cells above the scale"
    assert page.locator(".share").inner_text() == f"{100 * mass:.0f} % of this attention goes to the picture"
    assert page.locator("#about").inner_text() == "cats.png 252×224"
    assert page.evaluate("document.documentElement.lang") == "en"


@pytest.mark.parametrize("name", ["two", "text"])
def test_a_click_on_a_word_shows_its_map(open_page, results, name):
    result, page = results(name), open_page(name)
    for number, role in enumerate(("question", "answer")):
        for i in range(page.locator(f"#{role} .word").count()):
            word = page.locator(f"#{role} .word").nth(i)
            text, row = word.inner_text().strip(), int(word.get_attribute("data-row"))
            word.click()
            wait_until_drawn(page)
            tokens = [t for t in result.capture.tokens if t.role == role and t.span]
            start = sum(len(part) for part in parts_before(page, role, row))
            span = (start, start + len(page.locator(f"#{role} .word").nth(i).text_content()))
            positions = [t.position for t in tokens if t.span[0] < span[1] and t.span[1] > span[0]]
            query_positions = result.capture.queries if not number else result.capture.produces
            want = result.capture.weights[2][np.isin(query_positions, positions)].mean(axis=0, dtype=np.float64)
            np.testing.assert_allclose(panel_values(page), want, rtol=1e-3)
            assert selected_queries(page) == [text]
            assert f"“{text}”" in panel_caption(page)
    assert pressed_buttons(page, "#sources") == ["Headline (2)"]


def parts_before(page, role, row):
    pieces = page.evaluate(f"resultOf(active()).pieces.{role}")
    return [text for text, _ in pieces[: [number for _, number in pieces].index(row)]]


def test_whose_attention(open_page, results):
    result, page = results("one"), open_page("one")
    for label, query in (("last prompt token", "last"), ("whole answer", "answer"), ("whole question", "question")):
        page.get_by_role("button", name=label).click()
        wait_until_drawn(page)
        assert_shows(page, result.heatmaps(query=query))
        assert pressed_buttons(page, "#queries") == [label]
    page = open_page("text")
    assert pressed_buttons(page, "#queries") == ["“cats”"]
    assert "attention of “cats”, 2 tokens" in panel_caption(page)


def test_averages_and_layers(open_page, results):
    result, page = results("two"), open_page("two")
    assert page.locator("#layer-value").inner_text() == "–"
    for layer in (3, 0, 1, 2):
        set_control(page, "layer", layer)
        assert_shows(page, result.heatmaps(layers=layer, query="question"))
        assert panel_caption(page).startswith(f"layer {layer} of 0-3")
        assert page.locator("#layer-value").inner_text() == str(layer)
        assert page.locator("#layer").get_attribute("aria-valuetext") == f"Layer {layer}"
        bars = page.locator("#shares rect:not(.area)").evaluate_all("(all) => all.map((bar) => bar.classList[0] ?? '')")
        assert [i for i, kind in enumerate(bars) if kind == "chosen"] == [layer]
        assert pressed_buttons(page, "#sources") == []
    page.get_by_role("button", name="All layers").click()
    wait_until_drawn(page)
    assert_shows(page, result.heatmaps(layers="all", query="question"))
    assert panel_caption(page).startswith("layers 0-3 of 0-3")
    page.get_by_role("button", name="Headline (2)").click()
    page.locator("#answer .word").first.click()
    set_control(page, "layer", 1)
    assert "attention that produced “two”" in panel_caption(page), "the word stays"


def test_a_page_of_few_layers_has_these_layers(open_page, results):
    result, page = results("few"), open_page("few")
    assert pressed_buttons(page, "#sources") == ["Headline (1-2)"]
    set_control(page, "layer", 1)
    assert_shows(page, result.heatmaps(layers=2, heads="2.1,2.3"))
    assert panel_caption(page).endswith("heads 2.1,2.3"), "the heads that were named, as in the pictures"
    assert page.locator("#layer-value").inner_text() == "2"
    page.locator("#heads td[data-at='0,1']").click()
    wait_until_drawn(page)
    assert panel_caption(page).startswith("layer 1, head 1 ·")
    page = open_page("single")
    assert page.locator("#sources button").count() == 1
    assert page.locator("#shares").is_hidden()


def test_play_goes_through_the_layers_and_stops(open_page):
    page = open_page("one")
    button, layer = page.locator("#play"), "document.getElementById('layer-value').textContent"
    with stopped_clock(page) as pass_ms:
        button.click()
        assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Stop", "true")
        labels = [page.evaluate(layer)]
        for _ in range(5):
            pass_ms(620)
            labels.append(page.evaluate(layer))
        assert labels == ["–", "3", "0", "1", "2", "3"], "the headline is layer 2"
        page.keyboard.press("p")
        assert (button.inner_text(), button.get_attribute("aria-pressed")) == ("Play", "false")
        pass_ms(3100)
        assert page.evaluate(layer) == "3"


def test_the_bars_are_shares_and_choose_a_layer(open_page, results):
    result, page = results("one"), open_page("one")
    heights = page.locator("#shares rect:not(.area)").evaluate_all(
        "(all) => all.map((bar) => Number(bar.getAttribute('height')))"
    )
    mass = [result.heatmaps(layers=layer, heads="all")[0].vision_mass for layer in LAYERS]
    assert heights == pytest.approx([9.6 * share / max(mass) for share in mass], rel=1e-3)
    for layer in (1, 3):
        page.locator("#shares rect.area").nth(layer).click()
        wait_until_drawn(page)
        assert_shows(page, result.heatmaps(layers=layer, heads="all"))
        title = page.locator("#shares rect.area title").nth(layer).text_content()
        assert title == f"Layer {layer}: {100 * mass[layer]:.0f} %"


def test_heads_by_mouse(open_page, results):
    result, page = results("one"), open_page("one")
    grid = [
        [cell.get_attribute("data-at") for cell in row.locator("td").all()]
        for row in page.locator("#heads tr").all()[:-1]
    ]
    assert page.locator("#heads tr").last.locator("th").all_inner_texts() == ["", "0", "1", "2", "3"]
    assert grid == [[f"{layer},{head}" for head in LAYERS] for layer in (3, 2, 1, 0)], "low layers are at the bottom"
    for layer, head in ((0, 3), (3, 0), (2, 1)):
        page.locator(f"#heads td[data-at='{layer},{head}']").click()
        wait_until_drawn(page)
        maps = result.heatmaps(layers=layer, heads=f"{layer}.{head}")
        assert_shows(page, maps)
        assert panel_caption(page) == f"layer {layer}, head {head} · attention of the question, 4 tokens"
        selected = page.locator("#heads td[aria-selected=true]")
        assert [cell.get_attribute("data-at") for cell in selected.all()] == [f"{layer},{head}"]
        share = f"layer {layer}, head {head}: {100 * maps[0].vision_mass:.0f} %"
        assert page.locator("#heads-hint").inner_text().startswith(share)
        assert selected.get_attribute("aria-label") == share
        assert pressed_buttons(page, "#sources") == []
        assert selected_queries(page) == ["whole question"], "the query of the heads"
        assert page.locator("#layer-value").inner_text() == str(layer)


def test_heads_by_keyboard_and_their_colours(open_page, results):
    result, page = results("one"), open_page("one")
    page.locator("#heads td[tabindex='0']").focus()
    at = "document.activeElement.dataset.at"
    assert page.evaluate(at) == "3,0"
    for key, want in (("ArrowDown", "2,0"), ("ArrowRight", "2,1"), ("ArrowUp", "3,1"), ("ArrowUp", "3,1")):
        page.keyboard.press(key)
        assert page.evaluate(at) == want
    assert page.locator("#heads td[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    wait_until_drawn(page)
    assert_shows(page, result.heatmaps(layers=3, heads="3.1"))
    assert page.evaluate(at) == "3,1", "the focus stays"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press(" ")
    wait_until_drawn(page)
    assert panel_caption(page).startswith("layer 3, head 0")

    maps = result.capture.weights_by_head[:, :, result.capture.query_role == "question"].mean(axis=2, dtype=np.float64)
    top10 = np.sort(maps, axis=-1)[..., -10:].sum(axis=-1) / maps.sum(axis=-1)
    for by, shares in (("top10", top10), ("mass", maps.sum(axis=-1))):
        set_control(page, "heads-by", by)
        colors = page.locator("#heads td").evaluate_all(
            "(all) => Object.fromEntries(all.map((cell) => [cell.dataset.at, cell.style.backgroundColor]))"
        )
        want = page.evaluate(
            "(shares) => shares.map((share) => colorOf(share))",
            ((shares - shares.min()) / np.ptp(shares)).ravel().tolist(),
        )
        got = [[int(level) for level in colors[f"{i},{j}"][4:-1].split(",")] for i in LAYERS for j in LAYERS]
        expected = [[int(level) for level in text[4:-1].split()] for text in want]
        assert np.abs(np.array(got) - expected).max() <= 4


def test_methods_stand_beside_the_plain_attention(open_page, results):
    result, page = results("methods"), open_page("methods")
    choices = page.locator("#map option").all_inner_texts()
    assert choices == ["attention", *METHODS]
    assert page.locator("#map").input_value() == "1"
    assert_shows(page, result.heatmaps())
    assert panel_caption(page).startswith("method relative ·")
    assert page.locator("svg .cross").count() == 2, "a cell of each picture was removed"
    assert "crossed out" in page.locator(".share").inner_text()
    for number, method in enumerate(result.methods, start=1):
        set_control(page, "map", number)
        np.testing.assert_allclose(panel_values(page), method.values, rtol=1e-3, atol=1e-9)
        assert page.locator("#layer").is_disabled() == (not method.layer_numbers)
        assert page.locator("#shares").is_hidden()
    set_control(page, "map", 4)
    set_control(page, "layer", 2)
    np.testing.assert_allclose(panel_values(page), result.methods[3].layer_values[2], rtol=1e-3, atol=1e-9)
    page.locator("#question .word").first.click()
    wait_until_drawn(page)
    assert page.locator("#map").input_value() == "0", "only plain attention has words"
    assert panel_caption(page).startswith("layer 2 of 0-3 · attention of “how”")
    assert page.locator("svg .cross").count() == 0


def test_a_cross_lies_in_the_middle_of_its_cell(open_page, results):
    page = open_page("methods")
    boxes = results("methods").capture.grids[0].boxes_px
    path = page.locator(".picture").nth(0).locator(".cross").get_attribute("d")
    numbers = np.array(path.replace("M", " ").replace("L", " ").replace(",", " ").split(), float).reshape(4, 2)
    x0, y0, x1, y1 = boxes[3]
    assert numbers.mean(axis=0) == pytest.approx([(x0 + x1) / 2, (y0 + y1) / 2])
    assert numbers.min(axis=0) == pytest.approx([x0 + (x1 - x0) / 4, y0 + (y1 - y0) / 4])


def test_opacity(open_page):
    page = open_page("one")
    before = canvas_pixels(page)
    for value in (0, 0.25, 1):
        set_control(page, "alpha", value)
        assert page.evaluate("getComputedStyle(document.querySelector('.picture canvas')).opacity") == str(value)
        assert page.locator("#alpha-value").inner_text() == f"{100 * value:.0f} %" or value == 0
    assert np.array_equal(canvas_pixels(page), before), "the map itself does not change"


@pytest.mark.parametrize("colormap", ["inferno", "viridis", "jet"])
@pytest.mark.parametrize("interp", ["linear", "cells"])
def test_colours_and_cells_are_those_of_the_pictures(open_page, results, colormap, interp):
    result, page = results("two"), open_page("two")
    set_control(page, "colormap", colormap)
    set_control(page, "interp", interp)
    assert_shows(page, result.heatmaps(), colormap=colormap, interp=interp)
    bar = page.locator(".bar").evaluate("(bar) => [...bar.getContext('2d').getImageData(0, 5, 256, 1).data]")
    assert np.array_equal(np.reshape(bar, (256, 4))[:, :3], color_table(colormap)[:, 0])


def test_one_scale_for_all_layers(open_page, results):
    result, page = results("one"), open_page("one")
    by_layer = [result.heatmaps(layers=layer, heads="all") for layer in LAYERS]
    shared = percentile_scale([flatten(maps) for maps in by_layer]).high
    set_control(page, "scale", "shared")
    for layer in LAYERS:
        set_control(page, "layer", layer)
        assert_painted(page, by_layer[layer][0].values[0], shared)
        assert page.locator(".high").inner_text() == f"{shared:.3g}"
    page.locator("#heads td[data-at='1,2']").click()
    wait_until_drawn(page)
    heads = result.capture.weights_by_head[:, :, result.capture.query_role == "question"].mean(axis=2, dtype=np.float64)
    assert_painted(page, heads[1, 2].reshape(8, 9), percentile_scale([heads]).high)
    set_control(page, "scale", "own")
    assert_shows(page, result.heatmaps(layers=1, heads="1.2"))


def test_the_screen_shows_the_blend_of_the_pictures(chromium, results, tmp_path):
    result = results("one")
    grey = np.full_like(result.media[0].frames, 128)
    grey[..., 2] = 60
    file = tmp_path / "grey.html"
    file.write_text(results_html([replace(result, media=(replace(result.media[0], frames=grey),))]), encoding="utf-8")
    with open_in_browser(chromium, file) as page:
        set_control(page, "alpha", 0.6)
        set_control(page, "interp", "cells")
        screen = read_png(page.locator(".picture").screenshot()).astype(int)
    heatmap, drawing = result.heatmaps()[0], Drawing(alpha=0.6, interp="cells")
    want = blend(grey[0], upsample(heatmap.values[0], (252, 224), drawing), heatmap.scale, drawing).astype(int)
    height, width, _ = screen.shape
    for row in range(8):
        for column in range(9):
            pixel = screen[int((row + 0.5) * height / 8), int((column + 0.5) * width / 9)]
            assert np.abs(pixel - want[28 * row + 14, 28 * column + 14]).max() <= 3
