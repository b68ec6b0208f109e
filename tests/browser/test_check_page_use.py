"""The page of a check in a browser as a whole: languages, themes, narrow windows, keys, evil texts, many rows."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.evaluation.examples import read_examples
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.score import FIGURES, read_scores
from tests.evaluation.test_page import evil_page
from tests.helpers.check_pages import EVIL, INKED

pytestmark = pytest.mark.browser
# What may be read on the page or by who cannot see it, also where it is hidden.
TEXTS = """() => {
  const found = [];
  for (const element of document.body.querySelectorAll("*:not(script)")) {
    for (const node of element.childNodes) if (node.nodeType === 3) found.push(node.textContent.trim());
    for (const one of element.attributes) found.push(one.value);
  }
  return found.filter(Boolean);
}"""
# The least contrast of the texts that are seen, with the colours under them.
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const over = (color, under) => {
    canvas.fillStyle = `rgb(${under.join(" ")})`;
    canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !element.checkVisibility({ checkOpacity: true })) continue;
    const above = [];
    for (let one = element; one; one = one.parentElement) above.unshift(getComputedStyle(one));
    const under = above.reduce((color, style) => over(style.backgroundColor, color), [255, 255, 255]);
    const style = getComputedStyle(element);
    const ink = over(element.closest("svg") ? style.fill : style.color, under);
    const [dark, bright] = [light(under), light(ink)].sort((a, b) => a - b);
    found.push([(bright + 0.05) / (dark + 0.05), walk.currentNode.textContent.trim()]);
  }
  return found;
}"""
# How wide the page is, and the dialog, and how much wider what is in it.
WIDE = """() => [
  Math.max(document.documentElement.scrollWidth, document.body.scrollWidth),
  $("sample").getBoundingClientRect().width, $("sample").scrollWidth - $("sample").clientWidth,
]"""
NOTHING = re.compile(r"\b(NaN|undefined|null|Infinity|None)\b|\[object")


# What a probe finds in all that can be shown: the table, each figure of the plots, a layer, a head, some samples;
# once in each language.
VISIT = """() => {
  const found = [], probe = PROBE, keep = () => found.push(probe());
  for (const language of ["en", "zh"]) {
    $("table-of-all").open = true;
    keep();
    for (const id of ["layer-figure", "head-figure"]) for (const { value } of [...$(id).options]) {
      $(id).value = value;
      $(id).dispatchEvent(new Event("change"));
      keep();
    }
    document.querySelector("#layers svg")?.dispatchEvent(new MouseEvent("click", { clientX: 200 }));
    document.querySelector("#heads td")?.click();
    keep();
    for (let at = 0; at < Math.min(DATA.rows.length, 4); at++) {
      openSample(at);
      keep();
      $("sample").close();
    }
    $("language").click();
  }
  return found;
}"""


def visit(page, probe):
    found = page.page.evaluate(VISIT.replace("PROBE", probe))
    assert len(found) > 6
    return found


@pytest.mark.parametrize("kind", ["boxed", "bare", "clips", "evil", "methods"])
def test_nothing_says_that_it_is_nothing(open_check_page, kind):
    for texts in visit(open_check_page(kind), TEXTS):
        assert len(texts) > 60
        assert [text for text in texts if NOTHING.search(text)] == []


def test_a_run_of_which_nothing_could_be_scored(open_check_page, finished_check, tmp_path):
    run = finished_check("evil")
    scores = [one for one in read_scores(run.folder) if one.status == "error"]
    assert scores
    summary = run.summary | {"headline": {}, "layers": [], "heads": None, "methods": {}, "accuracy": None}
    summary["answers_and_grounding"] = dict.fromkeys(summary["answers_and_grounding"], 0)
    (tmp_path / "page.html").write_text(check_html(summary, scores, {}), encoding="utf-8")
    page = open_check_page(tmp_path / "page.html")
    assert page.text("#count").startswith("1 of 1 samples pass; 0 of them")
    assert not page.page.locator("#layers-card").is_visible()
    assert [text for text in page.page.evaluate(TEXTS) if NOTHING.search(text)] == []


# Languages


def test_both_languages_say_everything(open_check_page, finished_check):
    page = open_check_page("boxed")
    everything = {name: {} for name in ("en", "zh")}
    for language in ("en", "zh", "en"):
        assert page.page.get_attribute("html", "lang") == {"en": "en", "zh": "zh-CN"}[language]
        everything[language] = page.page.evaluate("""() => Object.fromEntries(
          [...document.querySelectorAll("[data-t]")].map((one, i) => [`${i} ${one.dataset.t}`, one.textContent]))""")
        for name in ("figures", "both", "rows"):
            everything[language] |= {(name, i): word for i, word in enumerate(page.table(name)[0]) if word}
        if language == "zh":
            assert page.text("#count").startswith("24 / 24 个样本符合")
            assert page.page.locator("#order").inner_text() == "升序"
            assert "第" in page.page.get_attribute("#heads td", "aria-label")
        page.page.click("#language")
    same = {one for one in everything["en"] if everything["en"][one] == everything["zh"][one]}
    assert {everything["en"][one] for one in same} <= {"ROC-AUC", "IoU (Otsu)"}
    assert all(everything["en"].values())
    assert all(re.search(r"[一-鿿]|ROC-AUC", word) for word in everything["zh"].values())


def test_a_chinese_browser_begins_in_chinese(open_check_page):
    assert open_check_page("bare", locale="zh-CN").text("#layers-title") == "逐层"


def test_a_switch_keeps_what_was_chosen(open_check_page, finished_check):
    page = open_check_page("boxed")
    page.page.select_option("#sort", "lift")
    page.page.click("#order")
    page.page.select_option("#right", "wrong")
    page.page.fill("#search", "scene")
    page.page.select_option("#layer-figure", "auc")
    page.page.select_option("#head-figure", "mass")
    page.page.select_option("#colormap", "jet")
    before = page.listed()
    for button in ("#language", "#theme"):
        page.page.click(button)
        values = "() => ['sort', 'right', 'search', 'layer-figure', 'head-figure', 'colormap'].map((id) => $(id).value)"
        assert page.page.evaluate(values) == ["lift", "wrong", "scene", "auc", "mass", "jet"]
        assert page.listed() == before
        assert page.page.get_attribute("#order", "aria-pressed") == "true"


# Themes and windows


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["boxed", "evil"])
def test_every_text_can_be_read(open_check_page, scheme, kind):
    page = open_check_page(kind, color_scheme=scheme)
    for turned in range(2):
        dark = (scheme == "dark") != bool(turned)
        page.page.evaluate("() => { $('table-of-all').open = true; }")
        for shown in (None, 0, 2):
            if shown is not None:
                page.page.evaluate("(at) => openSample(at)", shown)
            found = page.page.evaluate(CONTRAST)
            assert len(found) > 60
            assert [text for contrast, text in found if contrast < 4.5] == []
            page.page.evaluate("() => $('sample').close()")
        ground = page.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", ground))) < 60) == dark
        page.page.click("#theme")


@pytest.mark.parametrize("kind", ["boxed", "clips", "evil", "methods"])
def test_a_narrow_window_scrolls_down_only(open_check_page, kind):
    page = open_check_page(kind, viewport={"width": 360, "height": 640})
    for wide, dialog, inner in visit(page, WIDE):
        assert wide <= 360
        assert dialog <= 360
        assert inner <= 0


def test_long_words_do_not_widen_a_narrow_window(open_check_page, finished_check, tmp_path):
    run, long = finished_check("heads"), "x" * 400
    scores = [
        replace(one, id=f"{long}{one.index}", media=(long,), question=long, answer=long, references=(long,))
        for one in read_scores(run.folder)
    ]
    examples = {f"{long}{i}": one for i, one in enumerate(read_examples(run.folder).values())}
    summary = run.summary | {"data": long, "headline_map": long, "notes": [long]}
    (tmp_path / "page.html").write_text(check_html(summary, scores, examples), encoding="utf-8")
    page = open_check_page(tmp_path / "page.html", viewport={"width": 360, "height": 640})
    for wide, _, inner in visit(page, WIDE):
        assert wide <= 360
        assert inner <= 0


def test_the_chart_is_drawn_anew_for_another_window(open_check_page):
    page = open_check_page("boxed")
    page.page.set_viewport_size({"width": 420, "height": 700})
    page.wait("() => document.querySelector('#layers svg').viewBox.baseVal.width < 420")


# Keys and names


def test_everything_can_be_done_by_keys(open_check_page, finished_check):
    page = open_check_page("boxed")
    page.page.evaluate("() => document.activeElement.blur()")
    reached = []
    for _ in range(200):
        page.page.keyboard.press("Tab")
        reported = page.page.evaluate("""() => {
          const one = document.activeElement, box = one.getBoundingClientRect();
          const style = getComputedStyle(one), seen = box.width > 0 && box.top < innerHeight && box.bottom > 0;
          const outlined = style.outlineStyle !== "none" && style.outlineWidth !== "0px";
          return [one.id || one.className || one.tagName, seen, outlined];
        }""")
        if reported[0] == "BODY" or (reported[0] == "language" and reached):
            break
        reached.append(reported[0])
        assert reported[1], f"{reported[0]} has the focus out of sight"
        assert reported[2], f"{reported[0]} does not show that it has the focus"
    wanted = "language theme layer-figure sort order right grounded search alpha colormap interp outlines SUMMARY"
    assert {*wanted.split(), "head-figure"} <= {*reached}
    assert reached.count("open") == len(read_examples(finished_check("boxed").folder))
    page.page.focus("#order")
    page.page.keyboard.press("Space")
    assert page.page.get_attribute("#order", "aria-pressed") == "true"
    page.page.focus("#search")
    page.page.keyboard.type("purple")
    assert 0 < len(page.listed()) < 24
    page.page.focus("#right")
    page.page.keyboard.press("ArrowDown")
    assert page.page.evaluate("() => filters.right") == "right"
    page.page.focus("#alpha")
    page.page.keyboard.press("End")
    assert page.page.evaluate("() => filters.alpha") == 1
    page.page.focus("#outlines")
    page.page.keyboard.press("Space")
    assert page.page.evaluate("() => filters.outlines") is False


@pytest.mark.parametrize("kind", ["boxed", "clips", "evil"])
def test_every_control_has_a_name(open_check_page, kind):
    page = open_check_page(kind)
    for language in range(2):
        page.page.evaluate("() => { $('table-of-all').open = true; }")
        for shown in (None, 0):
            if shown is not None:
                page.page.evaluate("(at) => openSample(at)", shown)
            tree = page.page.locator("body").aria_snapshot()
            lines = [line.strip() for line in tree.splitlines()]
            kinds = "button|combobox|textbox|searchbox|slider|checkbox|gridcell|grid|img|dialog|link|option"
            controls = [line for line in lines if re.match(rf"- ({kinds})\b", line.replace("- 'button", "- button"))]
            assert len(controls) > 8
            unnamed = [line for line in controls if not re.match(rf"- '?({kinds}) \"[^\"]", line)]
            assert unnamed == [], language
            page.page.evaluate("() => $('sample').close()")
        page.page.click("#language")
    names = page.page.evaluate("() => [...document.querySelectorAll('select, input')].map((one) => one.labels.length)")
    assert {*names} == {1}


# Evil texts, many rows


def test_evil_texts_are_shown_and_do_nothing(open_check_page, finished_check, tmp_path):
    (tmp_path / "page.html").write_text(evil_page(finished_check("heads")), encoding="utf-8")
    for what in (tmp_path / "page.html", "evil"):
        page = open_check_page(what)
        title = page.page.title()
        assert {*visit(page, "() => document.querySelectorAll(`img:not([src^='data:'])`).length")} == {0}
        assert page.page.title() == title != "evil"
        assert EVIL in page.page.locator("#cards").inner_text()
        assert EVIL in page.page.locator("#rows").text_content()
        assert page.page.locator("body script").count() == page.page.evaluate("() => document.scripts.length")


def test_a_page_of_many_rows_opens_sorts_and_filters(open_check_page, finished_check, tmp_path):
    run, count = finished_check("boxed"), 4000
    scores = read_scores(run.folder)
    many = [replace(scores[i % 24], id=scores[i].id if i < 24 else f"row {i}", index=i) for i in range(count)]
    noise = np.random.default_rng(0)
    many = [
        replace(one, headline={name: v * noise.uniform(0.9, 1.1) for name, v in one.headline.items()}) for one in many
    ]
    begun = time.perf_counter()
    html = check_html(run.summary, many, read_examples(run.folder))
    made = time.perf_counter() - begun
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    begun = time.perf_counter()
    page = open_check_page(tmp_path / "page.html")
    opening = time.perf_counter() - begun
    assert page.text("#count").startswith(f"{count} of {count} samples pass; {len(read_examples(run.folder))} of them")
    times = page.page.evaluate(
        """async () => {
      const times = {}, timed = async (name, change) => {
        const start = performance.now();
        change();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        times[name] = performance.now() - start;
      };
      const set = (id, value, event) => () => { $(id).value = value; $(id).dispatchEvent(new Event(event)); };
      await timed("sort", set("sort", "lift", "change"));
      await timed("order", () => $("order").click());
      await timed("filter", set("grounded", "elsewhere", "change"));
      await timed("search", set("search", "purple", "input"));
      return times;
    }"""
    )
    reported = ", ".join(f"{name} {ms:.0f} ms" for name, ms in times.items())
    print(f"\n{count} rows: {len(html) / 1e6:.2f} MB, made in {made:.2f} s, open after {opening:.2f} s; {reported}")
    page.page.evaluate("() => { filters.grounded = filters.search = ''; drawAll(); }")
    want = sorted(
        (i for i in range(count) if np.isfinite(many[i].headline["lift"])),
        key=lambda i: (-float(f"{many[i].headline['lift']:.6g}"), i),
    )
    assert page.page.evaluate("() => filteredRows().slice(0, 500)") == want[:500]
    assert page.listed() == [many[i].id for i in want[:100]]
    page.wait(f"() => ({INKED})(document.querySelector('#cards .pictures'))")
    assert page.page.evaluate("() => DATA.figures") == [*FIGURES]
