"""The page of an encoder: languages, themes, narrow screens, names, untrusted text, no scripts, notebooks."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from qvl_attn import Drawing
from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.encoders.figures import draw_encoder_result
from qvl_attn.encoders.page import describe_still, still_picture
from qvl_attn.encoders.record import SaliencyMap
from qvl_attn.media.resize import resize_picture
from qvl_attn.render.html.page import SCRIPTS
from qvl_attn.render.overlay import blend, colorize, upsample
from qvl_attn.results.page_data import results_html
from tests.browser.test_encoder_page import choose_map, point_at
from tests.browser.test_page_drawing import CONTRASTS, PAGE, used_keys
from tests.helpers.made_up_encoder_results import PROVENANCE, made_up_result
from tests.helpers.pages import (
    EVIL,
    Reader,
    assert_evil_free,
    open_in_browser,
    saved_view,
    set_control,
    wait_until_drawn,
)

pytestmark = pytest.mark.browser
DRAW_ALL_KINDS = """() => {
  for (const map of resultOf(active()).maps.keys()) { chooseMap(active(), map); drawAll(); }
  for (const row of [0, 1, 2]) { chooseRow(0, row); drawAll(); }
  selectCell(0, { panel: 0, index: 3 });
  drawAll();
}"""


@pytest.mark.parametrize("name", ["cls", "windows", "sparse", "steps"])
def test_the_language_switches(open_encoder_page, name):
    page = open_encoder_page(name)
    english = page.locator("main").inner_text()
    page.evaluate(
        "() => { window.usedKeys = new Set(); const real = t;"
        "t = (key, ...parts) => { usedKeys.add(key); return real(key, ...parts); }; }"
    )
    page.locator("#language").click()
    wait_until_drawn(page)
    if name == "cls":
        page.evaluate(DRAW_ALL_KINDS)
    choose_map(page, page.locator("#map option").nth(1).inner_text())
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert page.evaluate("[...usedKeys].filter((key) => WORDS.zh[key] === undefined)") == []
    chinese = re.sub(
        r"a picture\.png|a note|tiny/encoder|made up|float32|Grad-CAM|inferno|torch|transformers",
        "",
        page.locator("main").inner_text(),
    )
    assert not re.search(r"layer|patch|look|attention|similarity|head|step|uniform|share|Layer|Patch", chinese), chinese
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.reload()
    page.wait_for_selector("html[data-state=fine]", state="attached")
    assert page.locator("main").inner_text() == english


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_in_both_themes(open_encoder_page, encoder_results, scheme):
    page = open_encoder_page("windows", color_scheme=scheme)
    for _ in range(2):
        page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        point_at(page, encoder_results("windows"), 9, click=True)
        page.mouse.move(1, 1)
        wait_until_drawn(page)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 60
        assert [text for text, contrast in contrasts if contrast < 4.5] == []
        page.locator("#theme").click()
        wait_until_drawn(page)


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize("name", ["registers", "steps"])
def test_on_a_narrow_screen_nothing_lies_outside(open_encoder_page, encoder_results, name, locale):
    page = open_encoder_page(name, viewport={"width": 360, "height": 800}, locale=locale)
    point_at(page, encoder_results(name), 9, click=True)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    outside = page.evaluate(
        "[...document.querySelectorAll('.card *')].filter((element) => !element.closest('svg, .picture') &&"
        "element.checkVisibility() && element.getBoundingClientRect().right >"
        "element.closest('.card').getBoundingClientRect().right + 1)"
        ".map((element) => element.outerHTML)"
    )
    assert outside == []
    first = page.locator("#layer").bounding_box()["y"]
    assert page.locator(".picture").bounding_box()["y"] < first < page.locator("#layer-thumbs").bounding_box()["y"]


def test_every_control_has_a_name_and_the_tab_key_reaches_it(open_encoder_page):
    page = open_encoder_page("steps")
    session = page.context.new_cdp_session(page)
    tree = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    controls = {"button", "slider", "combobox", "application", "link", "DisclosureTriangle"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node.get("ignored") and node["role"]["value"] in controls
    ]
    assert [role for role, name in named if not name.strip()] == []
    assert {"Layer", "Heads", "Map", "Step", "Colours", "Scale", "Layer 0", "head 3"} <= {
        re.sub(r" \d+ ?%?$", "", text) if role in ("slider", "combobox") else text for role, text in named
    }
    (picture,) = [text for role, text in named if role == "application"]
    assert picture.endswith("Enter shows the attention of a patch.")
    count = page.evaluate(
        "[...document.querySelectorAll('button, input, select, summary, .picture')]"
        ".filter((control) => control.checkVisibility() && !control.disabled).length"
    )
    page.evaluate("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
    page.evaluate("window.focused = []; document.addEventListener('focusin', (event) => focused.push(event.target))")
    for _ in range(count):
        page.keyboard.press("Tab")
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style == "solid", page.evaluate("document.activeElement.outerHTML")
    assert page.evaluate("new Set(focused).size") == count > 20
    assert page.locator("#cell").get_attribute("aria-live") == "polite"
    assert page.locator(".panel .notice").get_attribute("role") == "status"


def test_the_focus_stays_on_the_chosen_button(open_encoder_page):
    page = open_encoder_page("cls")
    for where in ("#queries button", "#layer-thumbs button", "#head-thumbs button"):
        page.locator(where).nth(1).focus()
        page.keyboard.press("Enter")
        wait_until_drawn(page)
        assert (
            page.evaluate("(where) => [...document.querySelectorAll(where)].indexOf(document.activeElement)", where)
            == 1
        )
        assert page.locator(where).nth(1).get_attribute("aria-pressed") == "true"


def test_untrusted_text_is_only_text(chromium, tmp_path):
    result = made_up_result(source=f"x{EVIL}.png")
    result = replace(result, provenance=replace(PROVENANCE, model=EVIL, device=EVIL, revision=EVIL))
    result = replace(result, saliency=(SaliencyMap("gradcam", EVIL, 1.0, result.saliency[0].values),))
    (tmp_path / "evil.html").write_text(results_html([result], [[EVIL]]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "evil.html") as page:
        page.evaluate(DRAW_ALL_KINDS)
        choose_map(page, "Grad-CAM")
        assert_evil_free(page)
        assert EVIL not in page.content()
        assert EVIL in page.locator(".panel .what").text_content()
        assert page.locator("#notes li").last.text_content() == EVIL
        assert EVIL in page.locator("#made").text_content()
        page.locator("#language").click()
        wait_until_drawn(page)
        assert_evil_free(page)


def test_its_policy_and_tags_allow_nothing_else(encoder_results):
    page = Reader(results_html([encoder_results("cls")]))
    assert page.policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert not any(
        name in ("src", "href") and value and not value.startswith("data:")
        for _, attrs in page.tags
        for name, value in attrs.items()
    )
    assert not any(name.startswith("on") or name == "style" for _, attrs in page.tags for name in attrs)


def test_the_view_is_saved_with_its_map_and_words(open_encoder_page, encoder_results):
    page = open_encoder_page("crop")
    set_control(page, "alpha", 1)
    saved, name = saved_view(page)
    assert name == "qvl-attn-a-picture-png.png"
    attention = encoder_results("crop").attention
    values = attention.map("cls", 2)
    scale = percentile_scale([values])
    middle = np.array([32 + (40 + 120) * 4, 32 + 120 * 4])
    want = colorize(upsample(np.ascontiguousarray(values[0]), (960, 960), Drawing()), scale, "inferno")[480, 480]
    assert np.abs(saved[middle[1], middle[0]].astype(int) - want.astype(int)).max() <= 12
    page.locator("#input").click()
    assert saved_view(page)[0].shape == saved.shape


# Where scripts are off, and in notebooks


def test_without_scripts_a_picture_of_the_map_is_there(open_encoder_page, encoder_results):
    page = open_encoder_page("cls", java_script_enabled=False, state="")
    assert page.locator(".still img").bounding_box()["width"] == 320
    reported = page.locator(".still figcaption").inner_text()
    values = encoder_results("cls").attention.map("cls", 2)
    high = np.percentile(values, 99.5)
    scale = f"min {values.min():.3g} · max {values.max():.3g} = {values.max() * 49:.1f}× uniform"
    scale += f" · {int((values > high).sum())} of 48 cells above the scale"
    description = f"a picture.png · layer 2 of 0-2 · [CLS] · mean of 4 heads · {scale}"
    assert reported == f"{description} · made up · tiny/encoder · float32"
    assert page.locator("main").is_hidden(), "its controls would not work"
    html = results_html([encoder_results("cls")])
    file = base64.b64decode(re.search(r'class="card still"><img src="data:image/jpeg;base64,([^"]+)"', html)[1])
    with Image.open(BytesIO(file)) as picture:
        assert np.abs(np.asarray(picture, int) - still_picture(encoder_results("cls")).astype(int)).mean() < 12


@pytest.mark.parametrize("name", ["cls", "crop"])
def test_the_still_picture_has_the_map_where_the_encoder_sees(encoder_results, name):
    result = encoder_results(name)
    picture = resize_picture(result.media[0].frames[0], (320, 240))
    values = result.attention.map("cls", 2)
    left, right = (40, 280) if name == "crop" else (0, 320)
    spread = upsample(np.ascontiguousarray(values[0]), (right - left, 240), Drawing())
    want = picture.copy()
    part = np.ascontiguousarray(picture[:, left:right])
    want[:, left:right] = blend(part, spread, percentile_scale([values]), Drawing())
    np.testing.assert_array_equal(still_picture(result), want)


def test_what_lies_beyond_the_picture_is_cut_off():
    result = made_up_result(crop_px=(-40, -20, 360, 260))
    assert still_picture(result).shape == (240, 320, 3)


def test_in_a_notebook_the_page_lies_over_the_picture(encoder_results):
    html = encoder_results("cls")._repr_html_()
    (frame,) = [attrs for tag, attrs in Reader(html).tags if tag == "iframe"]
    assert frame["srcdoc"] == results_html([encoder_results("cls")])
    assert frame["sandbox"] == "allow-scripts allow-downloads"
    file = base64.b64decode(re.search(r'<img src="data:image/jpeg;base64,([^"]+)"', html)[1])
    drawn = draw_encoder_result(encoder_results("cls"), Drawing()).overlay()
    with Image.open(BytesIO(file)) as picture:
        assert np.abs(np.asarray(picture, int) - drawn.astype(int)).mean() < 6


def test_without_scripts_it_describes_the_step_of_a_clip_on_its_own_scale(encoder_results):
    values = encoder_results("steps").attention.map("cls", 2)[0]
    reported = describe_still(encoder_results("steps"))
    assert (
        f"step 1 of 3 · min {values.min():.3g} · max {values.max():.3g} = {values.max() * 49:.1f}× uniform" in reported
    )
    above = int((values > np.percentile(values, 99.5)).sum())
    assert above != int((values > percentile_scale([encoder_results("steps").attention.map("cls", 2)]).high).sum())
    assert f"· {above} of 48 cells above the scale" in reported


def test_of_windows_without_scripts_uniform_is_the_whole_steps(encoder_results):
    assert f"= {encoder_results('windows').attention.map('patch', 2).max() * 48:.1f}× uniform" in describe_still(
        encoder_results("windows")
    )


@pytest.mark.parametrize("size_px", [(20, 2000), (2000, 20)])
def test_a_very_tall_picture_stays_in_the_window(chromium, tmp_path, size_px):
    grid = (1, 96, 1) if size_px[0] < size_px[1] else (1, 1, 96)
    result = made_up_result(grid, size_px=size_px, query_patches=(), places=())
    (tmp_path / "tall.html").write_text(results_html([result]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "tall.html", viewport={"width": 1200, "height": 900}) as page:
        for name, limit_px in ((".picture canvas", 0.75 * 900), (".picture", 0.75 * 900), (".thumb >> nth=0", 220)):
            assert page.locator(name).bounding_box()["height"] <= limit_px
        box = page.locator(".picture").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(size_px[0] / size_px[1], rel=0.15)
        assert saved_view(page)[0].shape[0] < 3200


def test_keys_stand_in_the_scripts_of_the_page():
    keys, _ = used_keys("result")
    text = "".join((PAGE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS["result"])
    for key in keys:
        assert len(re.findall(rf'(?:^|[{{,\s])"?{re.escape(key)}"?:\s+"', text)) >= 2, key


def test_the_page_of_a_large_encoder_is_small(tmp_path):
    places = tuple(row * 24 + column for row in range(0, 24, 2) for column in range(1, 24, 3))
    result = made_up_result((1, 24, 24), 24, 16, query_patches=(), extras=False, places=places)
    page = Reader(results_html([result]))
    assert page.data["results"][0]["left_out"] == []
    assert sum(len(text) for name, text in page.scripts.items() if not name.startswith("picture")) < 5e6
