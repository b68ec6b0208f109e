"""The page of a check in a browser as a whole: languages, themes, narrow windows, keys, evil texts, many rows."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.evaluation.examples import read_examples
from qvl_attn.evaluation.figures import FIGURES
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.rows import read_scores
from tests.evaluation.test_page import evil_page
from tests.helpers.check_pages import EVIL, INKED

pytestmark = pytest.mark.browser
# All texts and attributes of the page, also of hidden elements and those for screen readers.
TEXTS = """() => {
  const texts = [];
  for (const element of document.body.querySelectorAll("*:not(script)")) {
    for (const node of element.childNodes) if (node.nodeType === 3) texts.push(node.textContent.trim());
    for (const attribute of element.attributes) texts.push(attribute.value);
  }
  return texts.filter(Boolean);
}"""
# The contrast of each visible text with the colours under it.
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const over = (color, under) => {
    canvas.fillStyle = `rgb(${under.join(" ")})`;
    canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrasts = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility({ checkOpacity: true })) continue;
    const styles = [];
    for (let node = element; node; node = node.parentElement) styles.unshift(getComputedStyle(node));
    const under = styles.reduce((color, style) => over(style.backgroundColor, color), [255, 255, 255]);
    const style = getComputedStyle(element);
    const ink = over(element.closest("svg") ? style.fill : style.color, under);
    const [dark, bright] = [luminance(under), luminance(ink)].sort((a, b) => a - b);
    contrasts.push([(bright + 0.05) / (dark + 0.05), walker.currentNode.textContent.trim()]);
  }
  return contrasts;
}"""
# Widths of the page and the dialog, and how far the dialog's content exceeds it.
WIDTHS = """() => [
  Math.max(document.documentElement.scrollWidth, document.body.scrollWidth),
  $("sample").getBoundingClientRect().width, $("sample").scrollWidth - $("sample").clientWidth,
]"""
MISSING_VALUE = re.compile(r"\b(NaN|undefined|null|Infinity|None)\b|\[object")


# Results of a probe in each state of the page: the table, each figure of the plots, a layer, a head, some samples; in
# each language.
VISIT = """() => {
  const results = [], probe = PROBE, record = () => results.push(probe());
  for (const language of ["en", "zh"]) {
    $("table-of-all").open = true;
    record();
    for (const id of ["layer-figure", "head-figure"]) for (const { value } of [...$(id).options]) {
      $(id).value = value;
      $(id).dispatchEvent(new Event("change"));
      record();
    }
    document.querySelector("#layers svg")?.dispatchEvent(new MouseEvent("click", { clientX: 200 }));
    document.querySelector("#heads td")?.click();
    record();
    for (let at = 0; at < Math.min(DATA.rows.length, 4); at++) {
      openSample(at);
      record();
      $("sample").close();
    }
    $("language").click();
  }
  return results;
}"""


def visit(page, probe):
    results = page.page.evaluate(VISIT.replace("PROBE", probe))
    assert len(results) > 6
    return results


@pytest.mark.parametrize("kind", ["boxed", "bare", "clips", "evil", "methods"])
def test_no_text_is_a_missing_value(open_check_page, kind):
    for texts in visit(open_check_page(kind), TEXTS):
        assert len(texts) > 60
        assert [text for text in texts if MISSING_VALUE.search(text)] == []


def test_a_run_without_scored_samples(open_check_page, finished_check, tmp_path):
    run = finished_check("evil")
    scores = [score for score in read_scores(run.folder) if score.status == "error"]
    assert scores
    summary = run.summary | {"headline": {}, "layers": [], "heads": None, "methods": {}, "accuracy": None}
    summary["answers_and_grounding"] = dict.fromkeys(summary["answers_and_grounding"], 0)
    (tmp_path / "page.html").write_text(check_html(summary, scores, {}), encoding="utf-8")
    page = open_check_page(tmp_path / "page.html")
    assert page.text("#count").startswith("1 of 1 samples match; 0 of them")
    assert not page.page.locator("#layers-card").is_visible()
    assert [text for text in page.page.evaluate(TEXTS) if MISSING_VALUE.search(text)] == []


# Languages


def test_both_languages_have_all_texts(open_check_page, finished_check):
    page = open_check_page("boxed")
    everything = {name: {} for name in ("en", "zh")}
    for language in ("en", "zh", "en"):
        assert page.page.get_attribute("html", "lang") == {"en": "en", "zh": "zh-CN"}[language]
        everything[language] = page.page.evaluate("""() => Object.fromEntries(
          [...document.querySelectorAll("[data-t]")]
            .map((element, i) => [`${i} ${element.dataset.t}`, element.textContent]))""")
        for name in ("figures", "both", "rows"):
            everything[language] |= {(name, i): word for i, word in enumerate(page.table(name)[0]) if word}
        if language == "zh":
            assert page.text("#count").startswith("24 / 24 个样本符合")
            assert page.page.locator("#order").inner_text() == "升序"
            assert "数据集顺序" in page.page.locator("#sort option").all_text_contents()
            assert "第" in page.page.get_attribute("#heads td", "aria-label")
        page.page.click("#language")
    same = {key for key in everything["en"] if everything["en"][key] == everything["zh"][key]}
    assert {everything["en"][key] for key in same} <= {"ROC-AUC"}
    assert all(everything["en"].values())
    assert all(re.search(r"[一-鿿]|ROC-AUC", word) for word in everything["zh"].values())


def test_a_chinese_browser_begins_in_chinese(open_check_page):
    assert open_check_page("bare", locale="zh-CN").text("#layers-title") == "逐层"


def test_a_switch_keeps_the_settings(open_check_page, finished_check):
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
        for sample in (None, 0, 2):
            if sample is not None:
                page.page.evaluate("(index) => openSample(index)", sample)
            contrasts = page.page.evaluate(CONTRAST)
            assert len(contrasts) > 60
            assert [text for contrast, text in contrasts if contrast < 4.5] == []
            page.page.evaluate("() => $('sample').close()")
        ground = page.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", ground))) < 60) == dark
        page.page.click("#theme")


@pytest.mark.parametrize("kind", ["boxed", "clips", "evil", "methods"])
def test_a_narrow_window_scrolls_down_only(open_check_page, kind):
    page = open_check_page(kind, viewport={"width": 360, "height": 640})
    for wide, dialog, inner in visit(page, WIDTHS):
        assert wide <= 360
        assert dialog <= 360
        assert inner <= 0


def test_long_words_do_not_widen_a_narrow_window(open_check_page, finished_check, tmp_path):
    run, long = finished_check("heads"), "x" * 400
    scores = [
        replace(score, id=f"{long}{score.index}", media=(long,), question=long, answer=long, references=(long,))
        for score in read_scores(run.folder)
    ]
    examples = {f"{long}{i}": example for i, example in enumerate(read_examples(run.folder).values())}
    summary = run.summary | {"data": long, "headline_map": long, "notes": [long]}
    (tmp_path / "page.html").write_text(check_html(summary, scores, examples), encoding="utf-8")
    page = open_check_page(tmp_path / "page.html", viewport={"width": 360, "height": 640})
    for wide, _, inner in visit(page, WIDTHS):
        assert wide <= 360
        assert inner <= 0


def test_the_width_of_a_telephone(open_check_page):
    page = open_check_page("boxed", viewport={"width": 390, "height": 800})
    for wide, _, inner in visit(page, WIDTHS):
        assert wide <= 390
        assert inner <= 0


def test_the_chart_is_drawn_again_when_the_window_changes(open_check_page):
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
        name, visible, outlined = page.page.evaluate("""() => {
          const element = document.activeElement, box = element.getBoundingClientRect();
          const style = getComputedStyle(element), visible = box.width > 0 && box.top < innerHeight && box.bottom > 0;
          const outlined = style.outlineStyle !== "none" && style.outlineWidth !== "0px";
          return [element.id || element.className || element.tagName, visible, outlined];
        }""")
        if name == "BODY" or (name == "language" and reached):
            break
        reached.append(name)
        assert visible, f"{name} has the focus outside the window"
        assert outlined, f"{name} does not show that it has the focus"
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
    assert page.page.evaluate("() => state.alpha") == 1
    page.page.focus("#outlines")
    page.page.keyboard.press("Space")
    assert page.page.evaluate("() => filters.outlines") is False


@pytest.mark.parametrize("kind", ["boxed", "clips", "evil"])
def test_every_control_has_a_name(open_check_page, kind):
    page = open_check_page(kind)
    for language in range(2):
        page.page.evaluate("() => { $('table-of-all').open = true; }")
        for sample in (None, 0):
            if sample is not None:
                page.page.evaluate("(index) => openSample(index)", sample)
            tree = page.page.locator("body").aria_snapshot()
            lines = [line.strip() for line in tree.splitlines()]
            kinds = "button|combobox|textbox|searchbox|slider|checkbox|gridcell|grid|img|dialog|link|option"
            controls = [line for line in lines if re.match(rf"- ({kinds})\b", line.replace("- 'button", "- button"))]
            assert len(controls) > 8
            unnamed = [line for line in controls if not re.match(rf"- '?({kinds}) \"[^\"]", line)]
            assert unnamed == [], language
            page.page.evaluate("() => $('sample').close()")
        page.page.click("#language")
    counts = page.page.evaluate(
        "() => [...document.querySelectorAll('select, input')].map((control) => control.labels.length)"
    )
    assert {*counts} == {1}


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


def test_a_damaged_map_is_told(open_check_page, finished_check, tmp_path):
    html = finished_check("boxed").page.read_text(encoding="utf-8")
    damaged = re.sub(r'(id="block-0">)[^<]+', r"\1AAAA", html)
    assert damaged != html
    (tmp_path / "page.html").write_text(damaged, encoding="utf-8")
    page = open_check_page(tmp_path / "page.html", faults=("Failed to fetch",))
    page.wait("() => $('progress').textContent.startsWith('This page is damaged: ')")
    assert page.cards()


def test_a_page_of_many_rows_opens_sorts_and_filters(open_check_page, finished_check, tmp_path):
    run, count = finished_check("boxed"), 4000
    scores = read_scores(run.folder)
    many = [replace(scores[i % 24], id=scores[i].id if i < 24 else f"row {i}", index=i) for i in range(count)]
    noise = np.random.default_rng(0)
    many = [
        replace(score, headline={name: v * noise.uniform(0.9, 1.1) for name, v in score.headline.items()})
        for score in many
    ]
    start_s = time.perf_counter()
    html = check_html(run.summary, many, read_examples(run.folder))
    made_s = time.perf_counter() - start_s
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    start_s = time.perf_counter()
    page = open_check_page(tmp_path / "page.html")
    opened_s = time.perf_counter() - start_s
    assert page.text("#count").startswith(f"{count} of {count} samples match; {len(read_examples(run.folder))} of them")
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
    timings = ", ".join(f"{name} {ms:.0f} ms" for name, ms in times.items())
    print(f"\n{count} rows: {len(html) / 1e6:.2f} MB, made in {made_s:.2f} s, open after {opened_s:.2f} s; {timings}")
    page.page.evaluate("() => { filters.grounded = filters.search = ''; drawAll(); }")
    want = sorted(
        (i for i in range(count) if np.isfinite(many[i].headline["lift"])),
        key=lambda i: (-float(f"{many[i].headline['lift']:.6g}"), i),
    )
    assert page.page.evaluate("() => filteredRows().slice(0, 500)") == want[:500]
    assert page.listed() == [many[i].id for i in want[:100]]
    page.wait(f"() => ({INKED})(document.querySelector('#cards .pictures'))")
    assert page.page.evaluate("() => DATA.figures") == [*FIGURES]
