"""The page of an encoder in a real browser: every control, its maps as `render` paints them, its texts."""

from __future__ import annotations

import re

import numpy as np
import pytest

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.text import percent
from qvl_attn.encoders.attention import join_heads
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.statistics import statistics_of
from qvl_attn.render.overlay import color_table
from qvl_attn.results.page_data import results_html
from tests.helpers.made_up_encoder_results import made_up_result
from tests.helpers.pages import (
    Reader,
    assert_close,
    assert_painted,
    canvas_pixels,
    color_levels,
    open_in_browser,
    panel_values,
    pressed_buttons,
    set_control,
    wait_until_drawn,
)

pytestmark = pytest.mark.browser


def choose_query(page, name):
    page.locator("#queries button", has_text=name).click()
    wait_until_drawn(page)


def point_at(page, result, place, click=False):
    """Move the pointer to the middle of a patch, or click it."""
    box = page.locator(".picture").bounding_box()
    x0, y0, x1, y1 = result.attention.boxes_px[place].tolist()
    x, y = (x0 + x1) / 2 / result.media[0].size_px[0], (y0 + y1) / 2 / result.media[0].size_px[1]
    at = box["x"] + x * box["width"], box["y"] + y * box["height"]
    page.mouse.move(*at)
    if click:
        page.mouse.click(*at)
    wait_until_drawn(page)


def assert_shows(page, maps, step=0, high=None, **drawn):
    """The page has (t, h, w) values, and its canvas is painted with those of a step."""
    assert_close(panel_values(page), maps.ravel())
    assert_painted(page, maps[step], percentile_scale([maps]).high if high is None else high, **drawn)


def text_of(page, name):
    """The text of an element, by id, or of a part of the panel."""
    part = name in ("what", "notice", "high", "ends", "share")
    return page.locator(f".panel .{name}" if part else f"#{name}").inner_text()


def choose_map(page, name):
    """Choose a map by the beginning of its name."""
    names = page.locator("#map option").all_inner_texts()
    set_control(page, "map", next(i for i, text in enumerate(names) if text.startswith(name)))


def choose_head(page, head):
    set_control(page, "head", head)


MAPS = {"mean": "attention (mean)", "max": "attention (maximum)", "min": "attention (minimum)"}


# Queries, layers, heads


def test_it_begins_with_the_last_layer_of_cls(open_encoder_page, encoder_results):
    page, attention = open_encoder_page("cls"), encoder_results("cls").attention
    assert_shows(page, attention.map("cls", 2))
    assert text_of(page, "what") == "layer 2 of 0-2 · attention of [CLS] · mean of all 4 heads"
    assert page.locator("#queries button").all_inner_texts() == [
        "[CLS]",
        "mean of all patches",
        "patch at 140, 100 px",
        "no patch clicked",
    ]
    assert text_of(page, "title") == "a picture.png"
    assert "8 × 6 patches of 14 px" in text_of(page, "facts")
    assert "tiny/encoder" in text_of(page, "made")
    assert page.locator("#notes li").all_inner_texts() == ["a note"]


def test_every_query_layer_and_way_to_join_heads(open_encoder_page, encoder_results):
    page, attention = open_encoder_page("cls"), encoder_results("cls").attention
    for chip, query in (("[CLS]", "cls"), ("mean of all", "patch"), ("patch at", "at_1")):
        choose_query(page, chip)
        for over in ("mean", "max", "min"):
            choose_map(page, MAPS[over])
            assert ("no share" in text_of(page, "share")) == (over != "mean")
            for layer in (0, 2):
                set_control(page, "layer", layer)
                assert_shows(page, join_heads(attention.maps(query)[layer], over))
                assert text_of(page, "what").startswith(f"layer {layer} of 0-2")


def test_every_head(open_encoder_page, encoder_results):
    page, attention = open_encoder_page("cls"), encoder_results("cls").attention
    for chip, query in (("[CLS]", "cls"), ("patch at", "at_1")):
        choose_query(page, chip)
        for layer, head in ((0, 3), (2, 0), (1, 2)):
            set_control(page, "layer", layer)
            if layer == 2:
                choose_head(page, head)
            else:
                page.locator("#head-thumbs button").nth(head).click()
                wait_until_drawn(page)
            assert_shows(page, attention.maps(query)[layer, head])
            assert text_of(page, "what").startswith(f"layer {layer}, head {head} · ")
            assert page.locator("#head-thumbs button[aria-pressed=true]").all_inner_texts() == [str(head)]
            assert text_of(page, "head-thumbs-title") == f"Heads of layer {layer}"
        page.locator("#head-thumbs button").nth(2).click()
        wait_until_drawn(page)
        assert text_of(page, "what").endswith("mean of all 4 heads")


def test_the_settings_that_were_asked_for_come_first(open_encoder_page, encoder_results):
    page, attention = open_encoder_page("registers"), encoder_results("registers").attention
    assert_shows(page, attention.map("cls", 2, "max"))
    assert text_of(page, "what").endswith("maximum of all 4 heads")


def test_one_scale_for_all_layers(open_encoder_page, encoder_results):
    page, attention = open_encoder_page("cls"), encoder_results("cls").attention
    set_control(page, "scale", "shared")
    for layer in (0, 2):
        set_control(page, "layer", layer)
        shared = percentile_scale([attention.map("cls", layer) for layer in range(3)]).high
        assert_shows(page, attention.map("cls", layer), high=shared, least=10)
    choose_head(page, 1)
    assert_shows(page, attention.maps("cls")[2, 1], high=percentile_scale([attention.maps("cls")]).high, least=10)


def test_colours_boxes_and_opacity(open_encoder_page, encoder_results):
    page, attention = open_encoder_page("cls"), encoder_results("cls").attention
    set_control(page, "alpha", 0.8)
    for colormap, interp in (("viridis", "linear"), ("jet", "cells")):
        set_control(page, "colormap", colormap)
        set_control(page, "interp", interp)
        assert_shows(page, attention.map("cls", 2), colormap=colormap, interp=interp)
    assert page.locator(".picture canvas").evaluate("(canvas) => canvas.style.opacity") == "0.8"
    assert text_of(page, "alpha-value") == "80 %"


def test_the_keys_go_from_layer_to_layer(open_encoder_page):
    page = open_encoder_page("cls")
    for key, layer in (("[", 1), ("[", 0), ("[", 0), ("]", 1)):
        page.keyboard.press(key)
        wait_until_drawn(page)
        assert page.evaluate("active().layer") == layer
    page.locator("#layer").focus()
    page.keyboard.press("ArrowRight")
    wait_until_drawn(page)
    assert page.evaluate("active().layer") == 2
    assert page.locator("#layer").get_attribute("aria-valuetext") == "Layer 2"


# Numbers


def test_the_scale_and_the_shares_are_shown(open_encoder_page, encoder_results):
    page, attention = open_encoder_page("registers"), encoder_results("registers").attention
    assert "1/51" in text_of(page, "ends")
    for over in ("mean", 3):
        choose_map(page, MAPS["mean"])
        choose_head(page, "" if over == "mean" else over)
        tokens = attention.cls[2, :, 0] if over == "mean" else attention.cls[2, 3:4, 0]
        shares = tokens.mean(axis=0, dtype=np.float64)
        reported = [shares[3:].sum(), shares[0], shares[1:3].sum()]
        numbers = [float(number) for number in re.findall(r"([\d.]+) %", text_of(page, "share"))]
        np.testing.assert_allclose(numbers, [100 * share for share in reported], atol=0.51)
        assert text_of(page, "share").endswith("to registers")
    maps = attention.maps("cls")[2, 3]
    high = percentile_scale([maps]).high
    assert text_of(page, "high").endswith(f"= {high * 51:.1f}× uniform")
    assert f"max {maps.max():.3g} = {maps.max() * 51:.1f}× uniform" in text_of(page, "ends")
    assert f"{int((maps > high).sum())} of 48 patches above the scale" in text_of(page, "ends")


def test_without_other_tokens_all_attention_is_on_patches(open_encoder_page):
    page = open_encoder_page("windows")
    assert text_of(page, "share").startswith("The encoder has no tokens other than patches")


def test_a_pointed_patch_shows_its_box_value_and_rank(open_encoder_page, encoder_results):
    page, result = open_encoder_page("cls"), encoder_results("cls")
    values = result.attention.map("cls", 2).ravel()
    for place in (0, 19, 47, int(values.argmax())):
        point_at(page, result, place)
        x0, y0, x1, y1 = result.attention.boxes_px[place]
        rank = int((values > values[place]).sum()) + 1
        assert text_of(page, "cell").startswith(f"row {place // 8 + 1}, column {place % 8 + 1}: ")
        assert text_of(page, "cell").endswith(f"rank {rank} of 48 · pixels x {x0:g}-{x1:g}, y {y0:g}-{y1:g}")
        assert f"= {values[place] * 49:.1f}× uniform" in text_of(page, "cell")
        marks = page.locator(".picture .pointed:not(.under)")
        assert [float(marks.get_attribute(name)) for name in ("x", "y")] == [x0, y0]
    page.locator("summary", has_text="strongest").click()
    first = page.locator("#strongest tbody tr").first.locator("td, th").all_inner_texts()
    assert first[0] == "1"
    assert float(first[1]) == pytest.approx(values.max(), rel=0.01)


def test_the_arrow_keys_move_and_enter_shows_the_attention_of_a_patch(open_encoder_page, encoder_results):
    page, result = open_encoder_page("cls"), encoder_results("cls")
    page.locator(".picture").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowRight"):
        page.keyboard.press(key)
    assert text_of(page, "cell").startswith("row 2, column 2")
    page.keyboard.press("Enter")
    wait_until_drawn(page)
    assert_shows(page, result.patch_rows[2, 9])
    page.keyboard.press("Escape")
    wait_until_drawn(page)
    assert_shows(page, result.attention.map("cls", 2))


# Patches to click


def test_a_clicked_patch_shows_its_attention(open_encoder_page, encoder_results):
    page, result = open_encoder_page("cls"), encoder_results("cls")
    for place in (0, 26, 47):
        point_at(page, result, place, click=True)
        for layer in (0, 2):
            set_control(page, "layer", layer)
            assert_shows(page, result.patch_rows[layer, place])
        assert f"attention of the patch at row {place // 8 + 1}, column {place % 8 + 1} ·" in text_of(page, "what")
        marks = page.locator(".picture .kept:not(.under)")
        assert [float(marks.get_attribute(name)) for name in ("x", "y")] == result.attention.boxes_px[
            place, :2
        ].tolist()
        assert page.locator(".panel .notice").is_hidden()
    set_control(page, "scale", "shared")
    assert_shows(page, result.patch_rows[2, 47], high=percentile_scale([result.patch_rows[:, 47]]).high, least=10)
    share = percent(float(result.patch_rows[2, 47].sum()))
    assert text_of(page, "share") == f"{share} of this attention goes to patches; the rest goes to [CLS]"
    assert text_of(page, "head-thumbs-hint") == "For a clicked patch only the mean of the heads is available."
    point_at(page, result, 47, click=True)
    assert page.evaluate("state.selected") is None
    assert text_of(page, "what").endswith("attention of [CLS] · mean of all 4 heads")


@pytest.mark.parametrize("name", ["crop", "inner"])
def test_a_click_on_the_darkened_region_has_no_effect(open_encoder_page, encoder_results, name):
    page, result = open_encoder_page(name), encoder_results(name)
    box = page.locator(".picture").bounding_box()
    for x, y in ((0.02, 0.5), (0.98, 0.5), (0.1, 0.98)):
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        wait_until_drawn(page)
        assert page.evaluate("[state.selected, state.cell]") == [None, None]
        assert_shows(page, result.attention.map("cls", 2))
    point_at(page, result, 9, click=True)
    page.mouse.click(box["x"] + 0.02 * box["width"], box["y"] + 0.5 * box["height"])
    wait_until_drawn(page)
    assert page.evaluate("state.selected.index") == 9


def test_uniform_is_over_the_window_of_a_single_patch(chromium, tmp_path):
    result = made_up_result(prefix=(), windows=True, query_patches=(19, 40), extras=False)
    (tmp_path / "windows.html").write_text(results_html([result]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "windows.html") as page:
        page.locator("summary", has_text="strongest").click()

        def check_numbers(values, layer, tokens, windowed):
            set_control(page, "layer", layer)
            point_at(page, result, 3)
            highest, high = values[layer].max(), percentile_scale([values[layer]]).high
            uniform = f"uniform is 1/{tokens}" + (" (its window)" if windowed else "")
            assert text_of(page, "ends").endswith(uniform)
            assert f"= {highest * tokens:.1f}× uniform" in text_of(page, "ends")
            assert text_of(page, "high").endswith(f"= {high * tokens:.1f}× uniform")
            assert f"= {values[layer].ravel()[3] * tokens:.1f}× uniform" in text_of(page, "cell")
            first = page.locator("#strongest tbody tr").first.locator("td, th").all_inner_texts()
            assert float(first[2]) == pytest.approx(highest * tokens, abs=0.06)

        # Windows are of 4 x 4 patches; the lower ones are cut to 2 rows of 4.
        mean = [[result.attention.map(name, layer) for layer in range(3)] for name in result.attention.queries]
        for number, (values, window) in enumerate(zip(mean, (48, 16, 8), strict=True)):
            page.locator("#queries button").nth(number).click()
            check_numbers(values, 0, window, window < 48)
            check_numbers(values, 1, 48, False)
        for place, window in ((9, 16), (47, 8)):
            point_at(page, result, place, click=True)
            check_numbers(result.patch_rows[:, place], 2, window, True)
            check_numbers(result.patch_rows[:, place], 1, 48, False)
        page.locator("#language").click()
        set_control(page, "layer", 0)
        assert text_of(page, "ends").endswith("均匀为 1/8（其窗口）")


def test_a_patch_without_its_own_attention_shows_the_nearest(open_encoder_page, encoder_results):
    page, result = open_encoder_page("sparse"), encoder_results("sparse")
    assert "the attention of 10 of 48 patches" in text_of(page, "queries-hint")
    point_at(page, result, 0, click=True)
    assert page.locator(".panel .notice").is_hidden()
    place = 17
    places = result.patch_row_places
    distance = (places // 8 - place // 8) ** 2 + (places % 8 - place % 8) ** 2
    number = int(distance.argmin())
    assert distance[number] > 0
    assert (distance == distance[number]).sum() == 1
    point_at(page, result, place, click=True)
    assert_shows(page, result.patch_rows[2, number])
    assert "row 3, column 2: it shows the nearest patch" in text_of(page, "notice")
    near = int(places[number])
    assert f"attention of the patch at row {near // 8 + 1}, column {near % 8 + 1} ·" in text_of(page, "what")
    assert page.locator(".picture .wanted:not(.under)").count() == 1


def test_a_page_without_single_patches_says_so(open_encoder_page, encoder_results):
    page, result = open_encoder_page("none"), encoder_results("none")
    assert text_of(page, "queries-hint") == "The page has no attention of single patches."
    assert any("single patches" in line for line in page.locator("#notes li").all_inner_texts())
    point_at(page, result, 3, click=True)
    assert_shows(page, result.attention.map("patch", 2))


# Other maps, and the encoder's input


def test_cosine_similarity_by_layer(open_encoder_page, encoder_results):
    page, result = open_encoder_page("cls"), encoder_results("cls")
    choose_query(page, "patch at")
    choose_map(page, "cosine")
    for number in range(4):
        set_control(page, "layer", number)
        want = result.similarity[number, 0]
        got = panel_values(page)
        np.testing.assert_allclose(got, want.ravel(), atol=6e-4)
        assert_painted(page, np.ascontiguousarray(want[0]), 1.0)
    assert page.locator("#layer-thumbs button").count() == 4
    assert text_of(page, "what") == "cosine similarity to the patch at 140, 100 px · after layer 2"
    assert pressed_buttons(page, "#queries") == ["patch at 140, 100 px"]
    assert page.locator("#head-thumbs-card").is_hidden()
    assert page.locator("#head-line").is_hidden()
    for scale in ("shared", "own"):
        set_control(page, "scale", scale)
        assert text_of(page, "high") == "1.000", "one scale, whatever the values"
    assert "same direction" in text_of(page, "share")
    set_control(page, "layer", 0)
    assert text_of(page, "what").endswith("before layer 0")
    choose_map(page, "attention")
    assert_shows(page, result.attention.map("at_1", 0))


def test_similarity_is_that_of_a_query_patch_and_a_click_has_no_effect(open_encoder_page, encoder_results):
    page, result = open_encoder_page("cls"), encoder_results("cls")
    assert page.locator("#map option").all_inner_texts() == [
        *("attention (mean)", "attention (maximum)", "attention (minimum)"),
        *("cosine similarity", "Grad-CAM on the patch grid: a cat"),
    ]
    choose_map(page, "cosine")
    assert pressed_buttons(page, "#queries") == ["patch at 140, 100 px"], "[CLS] has none"
    for kind, reported in (
        ("cosine", "The map shows the similarity to the patch at 140, 100 px."),
        ("Grad-CAM", "choose the attention map to see the attention of a patch."),
    ):
        choose_map(page, kind)
        before = text_of(page, "what")
        for _ in range(2):
            point_at(page, result, 5, click=True)
            assert text_of(page, "what") == before
            assert text_of(page, "notice").endswith(reported)
            assert page.evaluate("state.selected") is None
    choose_query(page, "[CLS]")
    assert_shows(page, result.attention.map("cls", 2))


def test_cosines_have_three_decimals(open_encoder_page, encoder_results):
    page, result = open_encoder_page("cls"), encoder_results("cls")
    choose_query(page, "patch at")
    choose_map(page, "cosine")
    values = result.similarity[3, 0].ravel()
    lowest, highest = re.fullmatch(r"min (-?\d\.\d{3}) · max (-?\d\.\d{3})", text_of(page, "ends")).groups()
    np.testing.assert_allclose([float(lowest), float(highest)], [values.min(), values.max()], atol=1e-3)
    small = int(np.abs(values).argmin())
    assert abs(values[small]) < 0.1
    point_at(page, result, small)
    cosine = re.search(r": (-?\d\.\d{3}) · rank", text_of(page, "cell"))[1]
    assert float(cosine) == pytest.approx(values[small], abs=1e-3)


def test_saliency_for_a_text_has_a_cosine_and_is_listed_where_left_out(chromium, monkeypatch, tmp_path):
    result = made_up_result(settings=EncoderSettings(texts=("a cat",), saliency=True))
    (tmp_path / "text.html").write_text(results_html([result]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "text.html") as page:
        choose_map(page, "Grad-CAM")
        assert text_of(page, "what").endswith("for “a cat” · cosine similarity 0.250")
        page.locator("#language").click()
        wait_until_drawn(page)
        assert text_of(page, "what") == "图块网格上的 Grad-CAM：“a cat” · 余弦相似度 0.250"
    monkeypatch.setattr("qvl_attn.encoders.page.MAX_VALUES", 3 * 3 * 48 + 10)
    (tmp_path / "few.html").write_text(results_html([result]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "few.html") as page:
        assert (
            "Left out: saliency, Grad-CAM on the patch grid for “a cat”." in page.locator("#notes li").all_inner_texts()
        )


def test_a_saliency_map(open_encoder_page, encoder_results):
    page, result = open_encoder_page("cls"), encoder_results("cls")
    choose_map(page, "Grad-CAM")
    assert_shows(page, result.saliency[0].values)
    assert text_of(page, "what") == "Grad-CAM on the patch grid for “a cat” · probability 0.250"
    for name in ("layer-line", "head-line", "layers-card", "head-thumbs-card", "shares"):
        assert page.locator(f"#{name}").is_hidden()
    assert pressed_buttons(page, "#queries") == []


@pytest.mark.parametrize("name", ["cls", "inner"])
def test_the_map_and_the_reconstruction_lie_over_what_the_encoder_sees(open_encoder_page, encoder_results, name):
    page, result = open_encoder_page(name), encoder_results(name)
    page.locator("#input").click()
    wait_until_drawn(page)
    assert page.locator("#input").get_attribute("aria-pressed") == "true"
    whole = page.locator(".picture").bounding_box()
    boxes, (width, height) = result.attention.boxes_px, result.media[0].size_px
    want = [boxes[0, 0] / width, boxes[0, 1] / height, boxes[-1, 2] / width, boxes[-1, 3] / height]
    for part in ("canvas", ".input"):
        box = page.locator(f".picture {part}").bounding_box()
        x, y = (box["x"] - whole["x"]) / whole["width"], (box["y"] - whole["y"]) / whole["height"]
        got = [x, y, x + box["width"] / whole["width"], y + box["height"] / whole["height"]]
        np.testing.assert_allclose(got, want, atol=2e-3)
    natural = page.locator(".picture .input").evaluate("async (img) => (await img.decode(), [img.naturalWidth])")
    assert natural == [result.reconstruction.shape[2]]
    assert page.locator(".picture .veil").count() == (name == "inner")
    assert ("darkened" in text_of(page, "input-hint")) == (name == "inner")
    page.locator("#input").click()
    wait_until_drawn(page)
    assert page.locator(".picture .input").is_hidden()


# Small multiples and figures


def test_thumbnails_of_layers_are_their_maps_and_choose_them(open_encoder_page, encoder_results):
    page, attention = open_encoder_page("cls"), encoder_results("cls").attention
    first = page.locator(".picture canvas").count()
    assert page.locator("#layer-thumbs button").all_inner_texts() == ["0", "1", "2"]
    page.evaluate(
        "document.querySelectorAll('.thumb canvas').forEach((canvas) => canvas.parentNode.classList.add('picture'))"
    )
    for layer in range(3):
        values = attention.map("cls", layer)
        assert_painted(page, values[0], percentile_scale([values]).high, which=first + layer)
    for head in range(4):
        values = attention.maps("cls")[2, head]
        assert_painted(page, values[0], percentile_scale([values]).high, which=first + 3 + head)
    page.locator("#layer-thumbs button").nth(1).click()
    wait_until_drawn(page)
    assert_shows(page, attention.map("cls", 1))
    assert page.locator("#layer-thumbs button[aria-pressed=true]").all_inner_texts() == ["1"]
    assert text_of(page, "layer-value") == "1"
    assert page.locator("#layer").input_value() == "1"


def test_layers_that_see_the_whole_step_are_framed(open_encoder_page):
    page = open_encoder_page("windows")
    assert page.locator("#layer-thumbs .framed").all_inner_texts() == ["1"]
    assert page.locator("#layer-thumbs button").nth(1).get_attribute("aria-label") == "Layer 1, the whole picture"
    assert "own window" in text_of(page, "layers-hint")
    assert page.locator("#figures figure").count() == 6


def test_charts_show_the_figures_of_the_layer_and_of_chance(open_encoder_page, encoder_results):
    page, figures = open_encoder_page("windows"), statistics_of(encoder_results("windows").attention)
    set_control(page, "layer", 1)
    reported = page.locator("#figures figcaption").all_inner_texts()
    assert len(reported) == len(figures) == 6
    for line, figure in zip(reported, figures.values(), strict=True):
        value, chance = re.fullmatch(r"layer 1: (\S+) · uniform (\S+)", line).groups()
        assert float(value) == pytest.approx(figure.values[1].mean(), rel=0.006)
        assert float(chance) == pytest.approx(figure.chance[1], rel=0.006)
    choose_head(page, 2)
    first = next(iter(figures.values()))
    value = re.match(r"layer 1: (\S+)", page.locator("#figures figcaption").first.inner_text())[1]
    assert float(value) == pytest.approx(first.values[1, 2], rel=0.006)
    assert page.locator("#figures-key .key").all_inner_texts()[-1] == "head 2"
    assert page.locator("#figures .chance").count() == 6
    chart = page.locator("#figures svg").first
    box = chart.bounding_box()
    chart.click(position={"x": 0.2 * box["width"], "y": 0.5 * box["height"]})
    wait_until_drawn(page)
    assert page.evaluate("active().layer") == 0


# Clips


def test_a_clip_goes_from_step_to_step_on_one_scale(open_encoder_page, encoder_results):
    page, result = open_encoder_page("steps"), encoder_results("steps")
    assert text_of(page, "frame-value") == "0.00 s · step 1 of 3"
    sources = []
    for step in range(3):
        set_control(page, "frame", step)
        assert_shows(page, result.attention.map("cls", 2), step=step, least=10)
        page.locator("#input").click()
        wait_until_drawn(page)
        sources.append(
            [page.locator(name).get_attribute("src") for name in (".picture img:first-child", ".picture .input")]
        )
        page.locator("#input").click()
    assert len({source for pair in sources for source in pair}) == 6
    assert text_of(page, "frame-value") == "1.00 s · step 3 of 3"
    page.keyboard.press(",")
    wait_until_drawn(page)
    assert page.evaluate("state.frame") == 1
    point_at(page, result, 26, click=True)
    assert_shows(page, result.patch_rows[2, 26], step=1, least=10)
    share = float(result.attention.cls[2, :, 1, 0].mean())
    page.keyboard.press("Escape")
    wait_until_drawn(page)
    assert text_of(page, "share").endswith(f"{percent(share)} to [CLS]")
    assert "3 steps" in text_of(page, "facts")


def test_a_picture_has_no_steps(open_encoder_page):
    assert open_encoder_page("cls").locator("#film").is_hidden()


# What is left out


def test_what_does_not_fit_is_left_out_in_order_and_listed(chromium, monkeypatch, tmp_path):
    result = made_up_result()
    cells = 48
    means = 3 * 3 * cells
    before_heads = 3 * means + 48 * 3 * cells + 4 * cells + cells  # other joins of heads, clicks, similarity, saliency
    expected = {
        before_heads + 3 * 12 * cells: [],
        before_heads + 4 * cells + 10: [["heads_but_one", "cls", 2], ["heads", "patch"], ["heads", "at_1"]],
        before_heads - 1: [["saliency", "gradcam", "a cat"], *(["heads", name] for name in ("cls", "patch", "at_1"))],
        means + 10: [
            ["clicked"],
            *(["over", over, name] for name in ("cls", "patch", "at_1") for over in ("max", "min")),
        ],
        10: [["query", "patch"], ["query", "at_1"], ["clicked"], ["over", "max", "cls"], ["over", "min", "cls"]],
    }
    for limit, lines in expected.items():
        monkeypatch.setattr("qvl_attn.encoders.page.MAX_VALUES", limit)
        data = Reader(results_html([result])).data
        (part,) = data["results"]
        assert part["left_out"][: len(lines)] == lines
        assert lines or not part["left_out"]
        coarse = {map_["coarse"] for map_ in part["maps"]}
        fine = [rows * cells for i, (rows, cells) in enumerate(data["blocks"]) if i not in coarse]
        assert sum(fine) <= max(limit, 3 * cells)
    monkeypatch.setattr("qvl_attn.encoders.page.MAX_VALUES", means + 10)
    (tmp_path / "few.html").write_text(results_html([result]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "few.html") as page:
        assert_shows(page, result.attention.map("cls", 2))
        lines = page.locator("#notes li").all_inner_texts()
        assert "Left out: maximum over the heads for [CLS]." in lines
        assert "Left out: attention of single patches." in lines


def test_single_heads_of_one_layer_are_shown_and_noted(chromium, monkeypatch, tmp_path):
    result = made_up_result(query_patches=(), extras=False, prefix=(), places=())
    monkeypatch.setattr("qvl_attn.encoders.page.MAX_VALUES", 9 * 48 + 5 * 48)
    (tmp_path / "one.html").write_text(results_html([result]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "one.html") as page:
        choose_head(page, 1)
        assert_shows(page, result.attention.maps("patch")[2, 1])
        assert "show the mean of the heads" in text_of(page, "layers-hint")
        set_control(page, "layer", 0)
        assert_shows(page, result.attention.map("patch", 0))
        assert text_of(page, "head-thumbs-hint").startswith("Single heads of this layer are left out")


def test_steps_of_a_long_clip_are_evenly_chosen(chromium, monkeypatch, tmp_path):
    result = made_up_result((5, 6, 8), query_patches=(), extras=False, places=())
    limit = 2 * 3 * 48 * 3 + 200  # fits one more map of a step, but not one of three steps
    monkeypatch.setattr("qvl_attn.encoders.page.MAX_VALUES", limit)
    data = Reader(results_html([result])).data
    coarse = {map_["coarse"] for map_ in data["results"][0]["maps"]}
    fine = [rows * cells for i, (rows, cells) in enumerate(data["blocks"]) if i not in coarse]
    assert limit / 2 < sum(fine) <= limit
    (tmp_path / "long.html").write_text(results_html([result]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "long.html") as page:
        assert page.evaluate("resultOf(active()).clip.numbers") == [0, 2, 4]
        set_control(page, "frame", 1)
        assert text_of(page, "frame-value") == "1.00 s · step 3 of 5"
        assert_painted(
            page, result.attention.map("cls", 2)[2], percentile_scale([result.attention.map("cls", 2)]).high, least=10
        )
        assert "Left out: some steps; 3 of 5 are here, evenly spaced." in page.locator("#notes li").all_inner_texts()


def test_a_bar_of_all_colours(open_encoder_page):
    page = open_encoder_page("cls")
    page.evaluate("document.querySelector('.bar').parentNode.classList.add('picture')")
    bar = canvas_pixels(page, 1)
    first, last = color_levels(bar, "inferno")
    assert (bar[0, [0, -1], :3] == color_table("inferno")[[0, -1], 0]).all()
    assert ((first <= np.arange(256) + 1) & (last >= np.arange(256) - 1)).all()
