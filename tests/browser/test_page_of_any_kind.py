"""The page of results of any kind: one that it does not know, several kinds, and what encoders have as others do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.types import HeatMap, Media
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.model.token_grid import picture_grid
from qvl_attn.results.page_data import maps_page_part, results_html
from qvl_attn.results.record import MapSelection, Provenance, Record
from tests.browser.test_encoder_page import point_at
from tests.helpers.made_up_encoder_results import made_up_result
from tests.helpers.pages import (
    assert_painted,
    assert_shows,
    open_in_browser,
    panel_caption,
    panel_values,
    pressed_buttons,
    saved_view,
    set_control,
    stopped_clock,
    wait_until_drawn,
)

pytestmark = pytest.mark.browser
RNG = np.random.default_rng(3)
VALUES = RNG.gamma(0.4, 0.1, (2, 3, 35)).astype(np.float32)  # queries, layers, cells


class Maps:
    """A map source with made-up values."""

    grids = (picture_grid((1, 10, 14), 2, 1, (140, 100)),)
    queries = ("left eye", "右眼")
    headline = MapSelection("left eye", (1, 2))

    def layer_maps(self, query: str) -> dict[str, MapSelection]:
        return {f"layer {layer}": MapSelection(query, (layer,)) for layer in range(3)}

    def heat_map(self, selection: MapSelection) -> tuple[HeatMap, ...]:
        values = VALUES[self.queries.index(selection.query), list(selection.layers)].mean(axis=0)
        mass = float(values.sum())
        return (
            HeatMap(
                values=values.reshape(1, 5, 7),
                media_index=0,
                layers=selection.layers,
                heads="all",
                query=selection.query,
                queries=(),
                uniform=mass / 35,
                vision_mass=mass,
                scale=percentile_scale([values]),
            ),
        )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Gaze(Record):
    """A kind of result that the page does not know."""

    def _page_part(self, notes, payload):
        return maps_page_part(self, Maps(), "where eyes went", notes, payload)


def gaze() -> Gaze:
    pixels = RNG.integers(0, 256, (1, 100, 140, 3), np.uint8)
    media = Media("picture", pixels, np.zeros(1), (140, 100), "face.png", "0" * 64)
    return Gaze(media=(media,), settings=None, provenance=Provenance("1", "5", "2", "eyes", "0" * 40, "float32", "cpu"))


@pytest.fixture
def open_results(chromium, tmp_path):
    """Open the page of some results."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def open_page(*results, **options):
            (tmp_path / "page.html").write_text(results_html(results, [["a note"]] * len(results)), encoding="utf-8")
            return stack.enter_context(open_in_browser(chromium, tmp_path / "page.html", **options))

        yield open_page


def test_a_kind_that_the_page_does_not_know_has_everything_that_is_no_kinds_own(open_results):
    page = open_results(gaze())
    heats = {name: [Maps().heat_map(MapSelection(name, (layer,))) for layer in range(3)] for name in Maps.queries}
    assert_shows(page, Maps().heat_map(Maps.headline))
    assert page.locator("#title").inner_text() == "where eyes went"
    assert panel_caption(page) == "layers 1-2 of 0-2 · left eye"
    assert pressed_buttons(page, "#sources") == ["Headline (1-2)"]
    page.locator("#queries button", has_text="右眼").click()
    for layer in (0, 2):
        set_control(page, "layer", layer)
        assert_shows(page, heats["右眼"][layer])
        assert panel_caption(page) == f"layer {layer} of 0-2 · 右眼"
    assert page.locator("#shares rect.chosen").count() == 1
    box = page.locator(".picture").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 2.5 / 7, box["y"] + box["height"] * 1.5 / 5)
    wait_until_drawn(page)
    value = VALUES[1, 2, 9]
    text = page.locator("#cell").inner_text()
    assert text.startswith("row 2, column 3: ")
    assert float(text.split()[4]) == pytest.approx(value, rel=6e-3)
    assert text.endswith(f"rank {(VALUES[1, 2] > value).sum() + 1} of 35 · pixels x 40-60, y 20-40")
    assert page.locator("rect.kept:not(.under)").count() == 1
    page.locator("#compare").click()
    set_control(page, "scale", "shared")
    shared = percentile_scale([VALUES[1]]).high
    for panel in range(2):
        assert_painted(page, VALUES[1, 2].reshape(5, 7), shared, which=panel)
    assert page.locator("[data-section]:visible").count() == 0, "nothing of other kinds"
    page.keyboard.press("Escape")
    page.mouse.move(1, 1)
    wait_until_drawn(page)
    assert page.locator("#cell").inner_text() == "Point at a cell, or move over the picture with the arrow keys."
    made = f"Made by qvl-attn 1 with eyes ({'0' * 12}) in float32 on cpu, transformers 5, torch 2."
    assert page.locator("#made").inner_text() == made
    page.locator("#language").click()
    wait_until_drawn(page)
    assert panel_caption(page) == "第 2 层 （共 0-2） · 右眼"
    made = page.locator("#made").inner_text()
    assert made.startswith("由 qvl-attn 1 生成；模型 eyes")
    assert "，，" not in made, "a kind may have neither a way of attention nor a family"
    assert saved_view(page)[1] == "qvl-attn-where-eyes-went.png"


def test_queries_that_do_not_fit_are_left_out_and_listed(open_results, monkeypatch):
    monkeypatch.setattr("qvl_attn.results.page_data.MAX_VALUES", 2 * 4 * 35 - 1)
    page = open_results(gaze())
    assert page.locator("#queries button").all_inner_texts() == ["left eye"]
    assert page.locator("#notes li").first.inner_text() == "Left out: 右眼."


def test_results_of_several_kinds_stand_side_by_side(open_results, results, encoder_results):
    question, encoder = results("one"), encoder_results("cls")
    page = open_results(question, encoder, gaze())
    tabs = ["how many cats?", "a picture.png", "where eyes went"]
    assert page.locator("#results button").all_inner_texts() == tabs
    assert page.title() == "how many cats? · a picture.png · tiny/encoder · where eyes went · qvl-attn"
    page.locator("#compare").click()
    wait_until_drawn(page)
    assert_shows(page, question.heatmaps(), panel=0)
    np.testing.assert_allclose(panel_values(page, 1), encoder.attention.map("cls", 2).ravel(), rtol=1e-3)
    made = {0: "demo (", 1: "tiny/encoder (0123456789ab), made up, in float32"}
    headings = {0: "how many cats?", 1: "a picture.png"}
    shown = {"words": False, "facts": True, "statistics": True}
    for number, is_encoder in ((1, True), (0, False)):
        page.locator(".pick").nth(number).click()
        wait_until_drawn(page)
        for section, with_encoder in shown.items():
            first = page.locator(f"[data-section={section}]").first
            assert first.is_visible() == (with_encoder == is_encoder), section
        assert made[int(is_encoder)] in page.locator("#made").inner_text()
        assert ("eager attention in float32" in page.locator("#made").inner_text()) == (not is_encoder)
        assert page.locator("#title").inner_text() == headings[int(is_encoder)]
        unit = "Patch" if is_encoder else "Cell"
        assert page.locator("#cell-title").inner_text() == unit
        highs = page.locator(".high").all_inner_texts()
        assert ["uniform" in text for text in highs] == [False, True], "each in the words of its kind"
    page.locator("#results button", has_text=tabs[2]).click()
    wait_until_drawn(page)
    assert panel_caption(page, 0) == "layers 1-2 of 0-2 · left eye"
    assert pressed_buttons(page, "#results") == [f"{tabs[2]}A"]


def test_results_of_one_file_are_told_apart(open_results, results, encoder_results):
    maximum = made_up_result(settings=EncoderSettings(over="max", layer=1))
    page = open_results(encoder_results("cls"), maximum, maximum, results("one"))
    assert page.locator("#results button").all_inner_texts() == [
        "a picture.png · tiny/encoder (made up) · attention (mean) · layer 2",
        "a picture.png · tiny/encoder (made up) · attention (maximum) · layer 1 (2)",
        "a picture.png · tiny/encoder (made up) · attention (maximum) · layer 1 (3)",
        "how many cats?",
    ]


def test_two_panels_of_an_encoder_show_two_patches(open_encoder_page, encoder_results):
    page, result = open_encoder_page("cls"), encoder_results("cls")
    point_at(page, result, 9, click=True)
    page.locator("#compare").click()
    wait_until_drawn(page)
    second = page.locator(".picture").nth(1).bounding_box()
    page.mouse.click(second["x"] + second["width"] * 7.5 / 8, second["y"] + second["height"] * 5.5 / 6)
    wait_until_drawn(page)
    np.testing.assert_allclose(panel_values(page, 0), result.patch_rows[2, 9].ravel(), rtol=1e-3)
    np.testing.assert_allclose(panel_values(page, 1), result.patch_rows[2, 47].ravel(), rtol=1e-3)
    marks = page.locator(".picture rect.kept:not(.under)")
    boxes = [[float(mark.get_attribute(name)) for name in ("x", "y")] for mark in marks.all()]
    assert boxes == result.attention.boxes_px[[9, 47], :2].tolist()
    page.keyboard.press("Escape")
    wait_until_drawn(page)
    for panel in range(2):
        np.testing.assert_allclose(panel_values(page, panel), result.attention.map("cls", 2).ravel(), rtol=1e-3)


def test_a_clicked_patch_gives_way_to_the_map_that_was_there(open_encoder_page, encoder_results):
    page, result = open_encoder_page("registers"), encoder_results("registers")
    assert page.locator("#map").input_value() == "1", "the maximum, as asked for"
    point_at(page, result, 9, click=True)
    assert page.locator("#map").input_value() == "0", "patches have the mean alone"
    page.keyboard.press("Escape")
    wait_until_drawn(page)
    assert page.locator("#map").input_value() == "1"
    set_control(page, "map", 0)
    set_control(page, "head", 2)
    point_at(page, result, 9, click=True)
    assert "single heads are not available" in panel_caption(page)
    point_at(page, result, 9, click=True)
    assert panel_caption(page) == "layer 2, head 2 · attention of [CLS]"


def test_an_encoder_plays_its_layers_and_frames_and_shows_its_shares(open_encoder_page, encoder_results):
    page, attention = open_encoder_page("steps"), encoder_results("steps").attention
    mass = [attention.map("cls", layer).sum() / 3 for layer in range(3)]
    titles = page.locator("#shares rect.area title").all_text_contents()
    assert [float(text.split()[2]) for text in titles] == pytest.approx([100 * share for share in mass], abs=0.51)
    set_control(page, "map", 1)
    assert page.locator("#shares").is_hidden(), "a maximum over the heads is no share"
    set_control(page, "map", 0)
    page.locator("#shares rect.area").nth(1).click()
    wait_until_drawn(page)
    assert panel_caption(page).startswith("layer 1 of 0-2")
    layer = "document.getElementById('layer-value').textContent"
    with stopped_clock(page) as pass_ms:
        page.keyboard.press("p")
        seen = []
        for _ in range(3):
            pass_ms(620)
            seen.append(page.evaluate(layer))
        assert seen == ["2", "0", "1"]
        page.keyboard.press("p")
        page.locator("#film-play").click()
        pass_ms(520)
        assert page.evaluate("state.frame") == 1
        page.locator("#film-play").click()


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (800, 900), (390, 844)])
def test_the_controls_cover_nothing(open_encoder_page, width, height):
    page = open_encoder_page("cls", viewport={"width": width, "height": height})
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    for share in (0, 0.3, 0.6, 1):
        covered = page.evaluate(COVERED, share)
        assert covered == [], share


COVERED = """(share) => {
  scrollTo(0, share * document.documentElement.scrollHeight);
  const box = document.querySelector(".controls").getBoundingClientRect();
  return [...document.querySelectorAll(".card")].filter((card) => {
    if (card.closest(".controls") || !card.offsetParent) return false;
    const other = card.getBoundingClientRect();
    return (
      Math.min(other.right, box.right) - Math.max(other.left, box.left) > 1 &&
      Math.min(other.bottom, box.bottom) - Math.max(other.top, box.top) > 1
    );
  }).map((card) => card.className);
}"""
