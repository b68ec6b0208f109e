"""The page in a real browser: its texts match what it shows, in every state of its controls."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.core.text import percent
from qvl_attn.results.page_data import results_html
from tests.helpers.pages import open_in_browser, panel_caption, set_control, stopped_clock, wait_until_drawn

pytestmark = pytest.mark.browser
RECORD_CANVAS_TEXT = """() => {
  window.written = [];
  const real = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...at) {
    written.push(text);
    return real.call(this, text, ...at);
  };
}"""


def page_of(folder, *results):
    (folder / "page.html").write_text(results_html(results), encoding="utf-8")
    return folder / "page.html"


def test_bars_are_the_shares_of_the_word_whose_layers_were_left_out(chromium, results, monkeypatch, tmp_path):
    monkeypatch.setattr("qvl_attn.vqa.page.MAX_VALUES", 2000)
    result = results("one")
    with open_in_browser(chromium, page_of(tmp_path, result)) as page:
        page.locator("#question .word", has_text="cats").click()
        wait_until_drawn(page)
        titles = page.locator("#shares .area title").all_text_contents()
        want = [result.heatmap(layers=layer, heads="all", query="text:cats").vision_mass for layer in range(4)]
        assert titles == [f"Layer {layer}: {percent(share)}" for layer, share in enumerate(want)]
        box = page.locator(".picture").bounding_box()
        page.mouse.click(box["x"] + 5, box["y"] + 5)
        wait_until_drawn(page)
        assert page.locator("#attending-of").is_hidden(), "the headline's words are of the headline"
        set_control(page, "layer", 1)
        assert page.locator("#attending-of").inner_text() == "with the layers of the headline:"


def test_of_some_heads_the_share_of_a_method_is_that_of_its_picture(demo, cats, chromium, tmp_path):
    result = demo.ask(cats, "how many cats?", method="heads", heads="1", layers="1-3")
    with open_in_browser(chromium, page_of(tmp_path, result)) as page:
        share = percent(result.heatmaps()[0].vision_mass)
        assert page.locator(".share").inner_text() == f"{share} of this attention goes to the picture"
        set_control(page, "map", 0)
        wait_until_drawn(page)
        for layer in (1, 2, 3):
            set_control(page, "layer", layer - 1)
            heatmap = result.heatmap(layers=layer, heads=f"{layer}.1")
            assert page.locator(".share").inner_text().startswith(percent(heatmap.vision_mass))
            assert panel_caption(page).endswith(f"heads {layer}.1")


def test_the_share_of_a_method_that_is_no_attention_is_that_of_its_picture(open_page, results):
    page, result = open_page("methods"), results("methods")
    assert not page.evaluate("mapOf(active()).is_attention"), "relative"
    reported = page.locator(".share").inner_text()
    assert reported.startswith(f"{percent(result.heatmaps()[0].vision_mass)} of this attention goes to the picture")
    set_control(page, "layer", 0)
    assert "not attention weights" in page.locator(".share").inner_text()


def test_a_methods_layer_is_not_described_as_the_whole_map(open_page, results):
    page, names = open_page("methods"), results("methods").settings.methods
    captions = [method.caption for method in results("methods").methods]
    for number, name in enumerate(names, 1):
        set_control(page, "map", number)
        assert captions[number - 1] in panel_caption(page)
        chips = page.locator("#sources button").all_inner_texts()
        assert ("Headline" in chips[0]) == (number == 1), (name, chips)
        if page.locator("#layer").is_enabled():
            set_control(page, "layer", 0)
            assert captions[number - 1] not in panel_caption(page)
            assert re.search(r" 0 ·| 0$", panel_caption(page)), panel_caption(page)
    set_control(page, "map", 0)
    assert not any("Headline" in text for text in page.locator("#sources button").all_inner_texts())


def test_one_scale_is_for_values_of_one_kind(open_page):
    page = open_page("methods")
    page.locator("#compare").click()
    wait_until_drawn(page)
    set_control(page, "map", 0)
    set_control(page, "scale", "shared")
    shared = page.evaluate("state.panels.map((panel) => entryOf(panel).shared)")
    assert max(shared) > 1.2 * min(shared)
    assert page.locator(".high").all_inner_texts() == [
        page.evaluate("(high) => compact(high)", high) for high in shared
    ]
    set_control(page, "map", 1)
    assert len({*page.locator(".high").all_inner_texts()}) == 1, "values of one kind share it"


def test_a_saved_view_notes_each_panels_frame_and_a_supplied_answer(open_page):
    page = open_page("clip", "two")
    set_control(page, "frame", 4)
    page.locator("#compare").click()
    wait_until_drawn(page)
    page.evaluate(RECORD_CANVAS_TEXT)
    page.evaluate("viewCanvas().then(() => null)")
    lines = page.evaluate("written")
    assert sum("frame 5 of 7" in line for line in lines) == 1
    assert any("supplied answer" in line for line in lines)
    set_control(page, "frame", 0) if page.locator("#frame").is_visible() else page.evaluate("state.frame = 0")
    page.evaluate("() => { written.length = 0; return viewCanvas().then(() => null); }")
    assert sum("frame 1 of 7" in line for line in page.evaluate("written")) == 1


def test_playing_and_the_frames_scale_end_where_there_is_no_clip(open_page):
    page = open_page("clip", "one")
    set_control(page, "scale", "frame")
    set_control(page, "frame", 3)
    with stopped_clock(page) as pass_ms:
        page.locator("#film-play").click()
        page.locator("#results button").last.click()
        pass_ms(50)
        assert page.locator("#film-play").get_attribute("aria-pressed") == "false"
        assert page.locator("#scale").input_value() == "own"
        before = page.evaluate("state.frame")
        pass_ms(1100)
        assert page.evaluate("state.frame") == before
    page.locator("#results button").first.click()
    wait_until_drawn(page)
    assert page.evaluate("state.frame") == before, "the clip continues at its frame"


def test_playing_layers_stops_where_there_are_none(open_page, results):
    page = open_page("methods")
    set_control(page, "map", 0)
    page.locator("#play").click()
    set_control(page, "map", 1 + results("methods").settings.methods.index("tam"))
    button = page.locator("#play")
    assert (button.is_disabled(), button.inner_text(), button.get_attribute("aria-pressed")) == (True, "Play", "false")


def test_live_texts_are_written_only_when_they_change(open_page):
    page = open_page("one")
    page.evaluate(
        "() => { window.changes = 0; for (const region of document.querySelectorAll('[aria-live], [role=status]'))"
        " new MutationObserver((list) => (changes += list.length))"
        ".observe(region, { childList: true, subtree: true }); }"
    )
    for alpha in (0.2, 0.4, 0.6):
        set_control(page, "alpha", alpha)
    assert page.evaluate("changes") == 0
    box = page.locator(".picture").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    wait_until_drawn(page)
    assert page.evaluate("changes") > 0


def test_the_focus_stays_on_a_head_when_the_page_is_drawn_again(open_page):
    page = open_page("one")
    page.locator("#heads td[data-at='3,0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    set_control(page, "alpha", 0.3)
    assert page.evaluate("document.activeElement.dataset.at") == "2,1"
    assert page.locator("#heads [tabindex='0']").count() == 1


def test_many_pictures_are_wrapped_and_not_shrunk(demo, cats, wide, chromium, tmp_path):
    result = demo.ask(cats, "how many cats?", [wide, cats, wide, cats, wide, cats, wide])
    with open_in_browser(chromium, page_of(tmp_path, result), viewport={"width": 400, "height": 900}) as page:
        boxes = [picture.bounding_box() for picture in page.locator(".picture").all()]
        assert len(boxes) == 8
        assert min(box["height"] for box in boxes) >= 120
        assert len({round(box["y"]) for box in boxes}) > 3
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        areas = page.evaluate(
            "[...document.querySelectorAll('.picture canvas')].map((canvas) => canvas.width * canvas.height)"
        )
        assert sum(areas) <= 1280**2, "all of them together have no more pixels than one"


def test_words_of_a_right_to_left_script_run_from_right_to_left(demo, cats, chromium, tmp_path):
    result = demo.ask(cats, "كم عدد القطط في الصورة")
    with open_in_browser(chromium, page_of(tmp_path, result)) as page:
        places = [word.bounding_box() for word in page.locator("#question .word").all()]
        first_line = [place["x"] for place in places if abs(place["y"] - places[0]["y"]) < 3]
        assert len(first_line) > 2
        assert first_line == sorted(first_line, reverse=True)


def test_a_word_that_turns_the_direction_turns_no_title(results, chromium, tmp_path):
    result = results("one")
    turned = "\u202ecats\u202c"
    tokens = tuple(replace(token, text=turned) if token.text == " cats" else token for token in result.capture.tokens)
    result = replace(result, capture=replace(result.capture, tokens=tokens), question=f"how many {turned}?")
    with open_in_browser(chromium, page_of(tmp_path, result)) as page:
        for word in page.locator("#question .word").all():
            word.click()
            wait_until_drawn(page)
            assert not re.search("[\u202a-\u202e\u2066-\u2069]", panel_caption(page))


def test_ranks_and_strongest_cells_wait_for_the_values(open_page):
    page = open_page("one")
    page.evaluate("() => { BLOCKS[entryOf(active()).block] = undefined; change(() => {}); }")
    wait_until_drawn(page)
    assert page.locator(".ends").inner_text() == "not loaded yet"
    assert page.locator("#strongest tbody tr").count() == 0
    page.locator("#heads td[data-at='1,1']").click()
    wait_until_drawn(page)
    page.evaluate("() => { BLOCKS[entryOf(active()).block] = undefined; change(() => {}); }")
    wait_until_drawn(page)
    assert page.evaluate("getComputedStyle(document.querySelector('.picture canvas')).opacity") == "0", "no false zeros"
    assert np.isfinite(page.evaluate("entryOf(active()).mass"))
