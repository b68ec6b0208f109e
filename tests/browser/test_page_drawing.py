"""The page in a real browser: languages, legible colours, narrow screens, names for screen readers."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.resources import files

import pytest

from qvl_attn.render.html.page import SCRIPTS
from qvl_attn.results.page_data import results_html
from tests.helpers.pages import EVIL, assert_evil_free, open_in_browser, set_control, wait_until_drawn

pytestmark = pytest.mark.browser
PAGE = files("qvl_attn.render.html") / "assets"
# Contrast of all visible text: the backgrounds behind it are laid on one pixel, outermost first.
CONTRASTS = """() => {
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = (rgb) => rgb.map((level) => level / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((total, value, i) => total + value * [0.2126, 0.7152, 0.0722][i], 0);
  const lay = (color) => {
    pixel.fillStyle = color;
    pixel.fillRect(0, 0, 1, 1);
    return luminance([...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3));
  };
  const contrasts = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!hasText || !element.checkVisibility() || element.closest("script, title, option, :disabled")) continue;
    const ancestors = [];
    for (let node = element; node; node = node.parentElement) ancestors.unshift(node);
    const back = ancestors.reduce((_, node) => lay(getComputedStyle(node).backgroundColor), lay("white"));
    const style = getComputedStyle(element), text = lay(element.closest("svg") ? style.fill : style.color);
    const tag = `${element.tagName}.${element.className?.baseVal ?? element.className}`;
    const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    contrasts.push([`${tag}: ${element.textContent.slice(0, 30)}`, contrast]);
  }
  return contrasts;
}"""


def used_keys(kind):
    """The keys of texts that a page's template and scripts name, and the prefixes of keys that the scripts compose."""
    text = "\n".join([(PAGE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS[kind]])
    html = "".join((PAGE / f"{name}.html").read_text(encoding="utf-8") for name in ("base", "colours", kind))
    keys = {*re.findall(r"""\bt\("([^"]+)\"""", text), *re.findall(r'data-t(?:-label)?="([^"]+)"', html)}
    keys |= {"rank", "value", "multiple", "where"}  # headings, named in a list
    return keys, {*re.findall(r"\bt\(`([a-z]+_)\$", text)}


@pytest.mark.parametrize("name", ["one", "both", "methods"])
def test_every_word_is_there_in_both_languages(open_page, name):
    page = open_page(name)
    words = page.evaluate("WORDS")
    assert words["en"].keys() == words["zh"].keys()
    keys, prefixes = used_keys("result")
    assert len(keys) > 60
    assert keys <= words["en"].keys()
    for prefix in prefixes:
        assert any(key.startswith(prefix) for key in words["en"]), prefix
    kinds = {"question", "last", "answer", "text", "cls", "patch", "at", "cell"}  # of queries; words have no buttons
    assert {f"q_{kind}" for kind in kinds} <= words["en"].keys()
    assert {f"t_{kind}" for kind in {*kinds, "question word", "answer word"}} <= words["en"].keys()
    for key, text in words["en"].items():
        assert sorted(re.findall(r"\{\d\}", text)) == sorted(re.findall(r"\{\d\}", words["zh"][key])), key
        assert text != words["zh"][key] or not re.search("[a-z]{3}", text) or key == "map_mean", key


@pytest.mark.parametrize("name", ["one", "two", "both", "methods"])
def test_the_language_switches(open_page, name):
    page = open_page(name)
    english = page.locator("main").inner_text()
    page.evaluate(
        "() => { window.usedKeys = new Set(); const real = t;"
        "t = (key, ...parts) => { usedKeys.add(key); return real(key, ...parts); }; }"
    )
    button = page.locator("#language")
    assert (button.inner_text(), button.get_attribute("lang")) == ("中文", "zh")
    button.click()
    wait_until_drawn(page)
    assert (button.inner_text(), button.get_attribute("lang")) == ("English", "en")
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    keyed = page.locator("[data-t]").evaluate_all(
        "(all) => all.map((element) => [element.textContent, WORDS.zh[element.dataset.t]])"
    )
    assert all(text == want for text, want in keyed)
    box = page.locator(".picture").first.bounding_box()
    page.mouse.click(box["x"] + 20, box["y"] + 20)
    set_control(page, "layer", 1)
    page.locator("#compare").click()
    wait_until_drawn(page)
    assert page.evaluate("[...usedKeys].filter((key) => WORDS.zh[key] === undefined)") == []
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    chinese = page.locator("main").inner_text()
    chinese = re.sub(r"method.*|方法.*|Left out.*|未包含.*", "", chinese)
    words = ("Question and answer", "Opacity", "share", "Layer", "layer", "rank", "attention of", "above the scale")
    for text in words:
        assert text not in chinese, text
    page.locator("#compare").click()
    page.get_by_role("button", name="English").click()
    wait_until_drawn(page)
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector("html[data-state=fine]", state="attached")
    page.wait_for_function("text => document.querySelector('main').innerText === text", arg=english)


def test_a_chinese_browser_gets_the_chinese_texts(open_page):
    page = open_page("one", locale="zh-CN")
    assert page.locator("#title").inner_text() == "问与答"
    assert open_page("one", locale="de-DE").locator("#title").inner_text() == "Question and answer"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["two", "both"])
def test_all_text_can_be_read_in_both_themes(open_page, scheme, name):
    page = open_page(name, color_scheme=scheme)
    dark = scheme == "dark"
    for _ in range(2):
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(int(level) for level in re.findall(r"\d+", back)) < 200) == dark
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == ("dark" if dark else "light")
        page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
        box = page.locator(".picture").first.bounding_box()
        page.mouse.click(box["x"] + 20, box["y"] + 20)
        set_control(page, "layer", 1)
        assert page.locator("#attending li").count()
        page.mouse.move(1, 1)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 40
        assert [text for text, contrast in contrasts if contrast < 4.5] == []
        page.locator("#theme").click()
        wait_until_drawn(page)
        page.keyboard.press("Escape")
        wait_until_drawn(page)
        dark = not dark


@pytest.mark.parametrize("name", ["one", "two", "both", "methods", "empty"])
def test_on_a_narrow_screen_nothing_lies_outside(open_page, name):
    page = open_page(name, viewport={"width": 360, "height": 800})
    page.locator("#compare").click()
    wait_until_drawn(page)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    outside = page.evaluate(
        "[...document.querySelectorAll('.card *')]"
        ".filter((element) => !element.closest('svg') && element.checkVisibility() &&"
        "element.getBoundingClientRect().right > element.closest('.card').getBoundingClientRect().right + 1)"
        ".map((element) => element.outerHTML)"
    )
    assert outside == []


# Screen readers and keyboards


@pytest.mark.parametrize("name", ["one", "both", "methods"])
def test_every_control_has_a_name(open_page, name):
    page = open_page(name)
    session = page.context.new_cdp_session(page)
    tree = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    controls = {"button", "slider", "combobox", "gridcell", "application", "grid", "link", "DisclosureTriangle"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node.get("ignored") and node["role"]["value"] in controls
    ]
    assert [role for role, name in named if not name.strip()] == []
    assert {role for role, _ in named} >= {"button", "slider", "combobox", "application"}
    names = {text for role, text in named if role in ("slider", "combobox")}
    assert {"Layer", "Colours", "Cells", "Scale"} <= {text.split(" 50")[0] for text in names}
    assert any(text.startswith("Opacity") for text in names)
    (picture, *_) = [text for role, text in named if role == "application"]
    assert picture.endswith("Arrow keys move over the cells.")


@pytest.mark.parametrize("name", ["one", "both", "methods"])
def test_the_tab_key_reaches_every_control(open_page, name):
    page = open_page(name)
    page.locator("#compare").click()
    wait_until_drawn(page)
    page.evaluate("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
    count = page.evaluate(
        "[...document.querySelectorAll('button, input, select, summary, .picture, td[tabindex=\"0\"]')]"
        ".filter((control) => control.checkVisibility() && !control.disabled).length"
    )
    page.evaluate("window.focused = []; document.addEventListener('focusin', (event) => focused.push(event.target))")
    for _ in range(count):
        page.keyboard.press("Tab")
    assert page.evaluate("new Set(focused).size") == count > 15
    order = page.evaluate("focused.every((control, i) => !i || focused[i - 1].compareDocumentPosition(control) & 4)")
    assert order, "from the top to the bottom"


def test_what_changes_is_announced(open_page):
    page = open_page("one")
    assert page.locator("#cell").get_attribute("aria-live") == "polite"
    assert page.locator("#heads-hint").get_attribute("aria-live") == "polite"
    assert page.locator("#progress").get_attribute("role") == "status"
    assert page.locator("#heads table").get_attribute("role") == "grid"
    assert page.locator("#heads [role=gridcell]").count() == 16
    for img in page.locator("img").all():
        assert img.get_attribute("alt") == ""
    assert page.locator(".picture svg").first.get_attribute("aria-hidden") == "true"


# Untrusted text


def test_an_evil_question_is_only_text(chromium, results, tmp_path):
    result = replace(results("empty"), answer=EVIL, supplied_answer=EVIL)
    result = replace(result, media=(replace(result.media[0], source=f"x{EVIL}.png"),))
    result = replace(result, provenance=replace(result.provenance, model=EVIL, device=EVIL))
    (tmp_path / "evil.html").write_text(results_html([result, results("one")], [[EVIL], [EVIL]]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "evil.html") as page:
        page.locator("#compare").click()
        wait_until_drawn(page)
        page.locator(".pick").first.click()
        wait_until_drawn(page)
        page.locator("#question .word").first.click()
        wait_until_drawn(page)
        box = page.locator(".picture").first.bounding_box()
        page.mouse.click(box["x"] + 20, box["y"] + 20)
        wait_until_drawn(page)
        assert page.locator("#attending li").count() == 8
        assert_evil_free(page)
        assert page.locator("#question").text_content() == EVIL
        assert page.locator("#notes li").last.text_content() == EVIL
        assert EVIL in page.locator("#answer").text_content()
        assert EVIL in page.locator("#made").text_content()
        page.locator("#language").click()
        wait_until_drawn(page)
        assert_evil_free(page)


def test_a_question_from_right_to_left_stays_in_its_place(chromium, results, tmp_path):
    result = replace(results("empty"), question="\u202eabc\u202c مرحبا\x00\ud800 {0}")
    (tmp_path / "odd.html").write_text(results_html([result]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "odd.html") as page:
        assert page.evaluate("getComputedStyle(document.getElementById('question')).unicodeBidi") == "isolate"
        assert "{0}" in page.locator("#question").text_content()
        assert "{0}" in page.title()


def test_without_javascript_it_says_so(open_page):
    page = open_page("one", java_script_enabled=False, state="")
    assert "needs JavaScript" in page.locator("noscript").inner_text()


@pytest.mark.parametrize("kind", ["result", "check"])
def test_keys_of_both_pages_stand_in_their_scripts(kind):
    keys, _ = used_keys(kind)
    text = "".join((PAGE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS[kind])
    for key in keys:
        assert len(re.findall(rf'(?:^|[{{,\s])"?{re.escape(key)}"?:\s+"', text)) >= 2, key
