"""The samples on the page of a check in a browser: selection and order of the cards, and what is drawn on them."""

from __future__ import annotations

import re
from base64 import b64decode
from io import BytesIO
from itertools import product

import numpy as np
import pytest
from PIL import Image

from qvl_attn.evaluation.examples import read_examples
from qvl_attn.evaluation.figures import FIGURES
from qvl_attn.render.overlay import color_table, upsample
from qvl_attn.render.style import Drawing
from tests.helpers.check_pages import CARD, INKED, number
from tests.helpers.processes import PATIENCE_S

pytestmark = pytest.mark.browser
DRAWN = """(row) => [...ROW.children].map((figure) => {
  const [img, canvas, svg] = ["img", "canvas", "svg"].map((name) => figure.querySelector(name));
  const place = (element) => {
    const box = element.getBoundingClientRect();
    return [box.left, box.top, box.right, box.bottom];
  };
  return {
    source: img.src,
    size: [img.naturalWidth, img.naturalHeight],
    map: canvas.toDataURL(),
    opacity: getComputedStyle(canvas).opacity,
    places: [img, canvas, svg].map(place),
    boxes: [...svg.querySelectorAll("rect.box:not(.under)")].map(place),
    under: svg.querySelectorAll("rect.under").length,
  };
})"""


def drawn(page, row, card=CARD):
    page.wait_drawn(row)
    return page.page.evaluate(DRAWN.replace("ROW", f"{card}(row)"), row)


def decoded(url):
    with Image.open(BytesIO(b64decode(url.partition(",")[2]))) as image:
        return np.asarray(image, int)


def example_of(run, row):
    return read_examples(run.folder)[run.rows[row]["id"]]


def rows_with_example(run):
    examples = read_examples(run.folder)
    return [i for i, row in enumerate(run.rows) if row["id"] in examples]


# Selection and order

LISTED = """() => [
  [...document.querySelectorAll("#cards .pictures")].map((row) => drawnCards.get(row).row),
  [...document.querySelectorAll("#rows tbody .open")].map((button) => button.textContent),
  $("order").textContent, $("count").textContent,
]"""
SET = """(id, value) => {
  $(id).value = value;
  $(id).dispatchEvent(new Event(id === "search" ? "input" : "change"));
}"""
SORTED = f"""(names) => {{
  const orders = {{}}, set = {SET}, listed = {LISTED};
  for (const down of [false, true]) {{
    if (($("order").getAttribute("aria-pressed") === "true") !== down) $("order").click();
    for (const name of names) {{
      set("sort", name);
      orders[`${{name}} ${{down}}`] = listed().slice(0, 3);
    }}
  }}
  return orders;
}}"""
FILTERED = f"""(requests) => requests.map((values) => {{
  ["right", "grounded", "search"].forEach((id, i) => ({SET})(id, values[i]));
  return ({LISTED})();
}})"""


def order_of(rows, values, down):
    """Sort rows by values; rows without a value come last, and equal rows keep the order of the data set."""
    values = np.array([np.nan if value is None else value for value in values], float)
    sign = -1 if down else 1
    return sorted(rows, key=lambda i: (np.isnan(values[i]), 0 if np.isnan(values[i]) else sign * values[i], i))


@pytest.mark.parametrize("kind", ["boxed", "bare", "evil"])
def test_samples_are_sorted_by_every_figure_both_ways(open_check_page, finished_check, kind):
    page, run = open_check_page(kind), finished_check(kind)
    rows, with_example = run.rows, rows_with_example(run)
    if kind == "boxed":
        assert len(with_example) < len(rows)
    names = page.page.eval_on_selector("#sort", "(select) => [...select.options].map((option) => option.value)")
    assert names == ["order", *FIGURES, "area"]
    orders = page.page.evaluate(SORTED, names)
    for down, name in product((False, True), names):
        if name == "order":
            values = range(len(rows))
        else:
            values = [row.get("area") if name == "area" else row.get("headline", {}).get(name) for row in rows]
        want = order_of(range(len(rows)), values, down)
        cards, listed, order = orders[f"{name} {str(down).lower()}"]
        assert cards == [i for i in want if i in with_example], (name, down)
        assert listed == [rows[i]["id"] for i in want], (name, down)
        assert order == ["ascending", "descending"][down]


def test_filters_and_search_alone_and_together(open_check_page, finished_check):
    page, run = open_check_page("boxed"), finished_check("boxed")
    rows, with_example = run.rows, rows_with_example(run)
    texts = [[row["id"], row["question"], row["answer"], *row["references"], *row["media"]] for row in rows]
    right = [row["accuracy"] >= 0.5 for row in rows]
    counts = set()
    requests = [
        *product(
            ("", "right", "wrong"),
            ("", "grounded", "elsewhere"),
            ("", "purple", "  SCENE-00001 ", "an elephant", "颜色", "scene-00000.png", "nobody says this"),
        )
    ]
    results = page.page.evaluate(FILTERED, requests)
    for (answers, grounding, words), (cards, listed, _, count) in zip(requests, results, strict=True):
        want = [
            i
            for i, row in enumerate(rows)
            if (not answers or right[i] == (answers == "right"))
            and (not grounding or row["grounded"] is (grounding == "grounded"))
            and any(words.strip().lower() in text.lower() for text in texts[i])
        ]
        with_picture = [i for i in want if i in with_example]
        assert cards == with_picture, (answers, grounding, words)
        assert listed == [rows[i]["id"] for i in want]
        assert count.startswith(f"{len(want)} of 24 samples match; {len(with_picture)} of them have")
        counts.add(len(want))
    assert len(counts) > 6
    assert page.page.get_attribute("#count", "role") == "status"


def test_a_filter_and_an_order_together(open_check_page, finished_check):
    page, run = open_check_page("boxed"), finished_check("boxed")
    page.page.select_option("#right", "wrong")
    page.page.select_option("#sort", "lift")
    page.page.click("#order")
    rows = [i for i, row in enumerate(run.rows) if row["accuracy"] < 0.5]
    want = order_of(rows, [row["headline"]["lift"] for row in run.rows], True)
    assert page.listed() == [run.rows[i]["id"] for i in want]


def test_a_card_shows_question_answer_and_verdicts(open_check_page, finished_check):
    page, run = open_check_page("boxed"), finished_check("boxed")
    for sort, names in (("order", ("lift", "mass")), ("entropy", ("entropy", "lift")), ("lift", ("lift", "mass"))):
        page.page.select_option("#sort", sort)
        cards = page.page.locator("#cards .sample").all_text_contents()
        for text, i in zip(cards, page.cards(), strict=True):
            row = run.rows[i]
            assert text.startswith(row["question"] + row["answer"])
            assert (" (accepted: an Elephant)" in text) == (row["accuracy"] < 0.5)
            tags = ["right" if row["accuracy"] >= 0.5 else "wrong"]
            tags += [] if row["grounded"] is None else ["grounded" if row["grounded"] else "not grounded"]
            words = {"lift": "lift over the area", "mass": "mass in the box", "entropy": "entropy"}
            defined = [name for name in names if row["headline"][name] is not None]
            parts = [part for part in re.search(rf"{''.join(tags)} (.*)$", text)[1].split(" · ") if part]
            for part, name in zip(parts, defined, strict=True):
                assert part.startswith(words[name])
                value = number(part.removeprefix(words[name]).strip())
                assert value == pytest.approx(row["headline"][name], rel=6e-3)


# Drawing


@pytest.mark.parametrize(("interp", "colormap"), [("linear", "inferno"), ("cells", "viridis"), ("linear", "jet")])
@pytest.mark.parametrize("kind", ["boxed", "clips"])
def test_maps_are_coloured_as_python_does(open_check_page, finished_check, kind, interp, colormap):
    page, run = open_check_page(kind), finished_check(kind)
    page.page.select_option("#interp", interp)
    page.page.select_option("#colormap", colormap)
    table = color_table(colormap)[:, 0].astype(int)
    for row in rows_with_example(run)[::4]:
        example, brightest = example_of(run, row), []
        for picture, values in zip(drawn(page, row), example.values, strict=True):
            width, height = picture["size"]
            shares = upsample(values, (width, height), Drawing(interp=interp)) / example.high
            pixels = decoded(picture["map"])
            assert pixels.shape[:2] == shares.shape
            levels = np.rint(np.clip(shares, 0, 1) * 255).astype(int)
            near = [table[np.clip(levels + step, 0, 255)] for step in (-1, 0, 1)]
            assert np.any([(colors == pixels[..., :3]).all(axis=2) for colors in near], axis=0).all()
            assert (near[1] == pixels[..., :3]).all(axis=2).mean() > 0.95
            brightest.append(levels.max())
        assert max(brightest) > 200


@pytest.mark.parametrize("kind", ["boxed", "clips"])
def test_pictures_are_those_of_the_examples_and_lie_under_their_maps(open_check_page, finished_check, kind):
    page, run = open_check_page(kind), finished_check(kind)
    for row in rows_with_example(run)[::3]:
        for card_picture, jpeg in zip(drawn(page, row), example_of(run, row).jpegs, strict=True):
            assert b64decode(card_picture["source"].removeprefix("data:image/jpeg;base64,")) == jpeg
            assert list(decoded(card_picture["map"]).shape[1::-1]) == card_picture["size"]
            picture, canvas, svg = card_picture["places"]
            assert picture == pytest.approx(canvas, abs=0.1)
            assert picture == pytest.approx(svg, abs=0.1)
            width, height = picture[2] - picture[0], picture[3] - picture[1]
            assert width / height == pytest.approx(card_picture["size"][0] / card_picture["size"][1], rel=0.02)


def test_boxes_are_where_the_data_set_says_until_they_are_switched_off(open_check_page, finished_check):
    page, run = open_check_page("boxed"), finished_check("boxed")
    rows, outlined = rows_with_example(run), 0
    for row in rows:
        (picture,) = drawn(page, row)
        typed = run.records[run.rows[row]["id"]]
        left, top, right, bottom = picture["places"][0]
        width, height = run.sizes_px[typed["image"]]
        scale = np.array([(right - left) / width, (bottom - top) / height] * 2)
        want = np.reshape(np.array(typed["boxes"], float), (-1, 4)) * scale + [left, top] * 2
        np.testing.assert_allclose(np.reshape(picture["boxes"], (-1, 4)), want, atol=0.6)
        assert picture["under"] == len(want)
        outlined += len(want)
    assert outlined > 8
    page.page.uncheck("#outlines")
    for row in (rows[0], rows[-1], rows[0]):
        page.wait_drawn(row)
        page.wait(f"(row) => {CARD}(row).querySelectorAll('rect').length === 0", row)
    page.page.check("#outlines")
    page.wait("(row) => document.querySelectorAll('#cards rect').length > 0")


def test_opacity_is_that_of_the_slider(open_check_page, finished_check):
    page = open_check_page("boxed")
    row = rows_with_example(finished_check("boxed"))[0]
    assert drawn(page, row)[0]["opacity"] == "0.5"
    for value in ("0.8", "0", "1"):
        page.page.fill("#alpha", value)
        page.wait(
            f"([row, value]) => getComputedStyle({CARD}(row).querySelector('canvas')).opacity === value", [row, value]
        )
        assert page.text("#alpha-value") == {"0.8": "80 %", "0": "0.0 %", "1": "100 %"}[value]


def test_clips_show_their_steps(open_check_page, finished_check):
    page, run = open_check_page("clips"), finished_check("clips")
    boxed = 0
    for row in rows_with_example(run):
        example = example_of(run, row)
        pictures = drawn(page, row)
        assert len(pictures) == len(example.places) > 1
        lefts = [picture["places"][0][0] for picture in pictures]
        assert lefts == sorted({*lefts}), "side by side, in the order of time"
        for picture, boxes in zip(pictures, example.boxes, strict=True):
            left, top, right, bottom = picture["places"][0]
            size = np.array([right - left, bottom - top] * 2)
            want = boxes * size + np.array([left, top] * 2)
            np.testing.assert_allclose(np.reshape(picture["boxes"], (-1, 4)), want, atol=0.6)
            boxed += len(boxes)
        page.page.evaluate("(row) => openSample(row)", row)
        times = ", ".join(f"{time:.2f} s" for time in example.times_s)
        assert f"{len(example.places)} of {example.of} steps: {times}" in page.text("#sample-card")
        page.page.keyboard.press("Escape")
    assert boxed


# Time of drawing

# Scroll from the top to the end; return the rows that were visible, or nothing if one stayed empty.
SCROLL = f"""async (patience_ms) => {{
  const end_ms = performance.now() + patience_ms, visible = new Set();
  for (let offset = 0; ; offset += 350) {{
    scrollTo(0, offset);
    for (;;) {{
      await new Promise(requestAnimationFrame);
      const rows = [...document.querySelectorAll("#cards .pictures")].filter((row) => {{
        const box = row.getBoundingClientRect();
        return box.bottom > 0 && box.top < innerHeight;
      }});
      rows.forEach((row) => visible.add(drawnCards.get(row).row));
      if (rows.every({INKED})) break;
      if (performance.now() > end_ms) return null;
    }}
    if (offset > document.documentElement.scrollHeight - innerHeight) return [...visible];
  }}
}}"""


def scroll_through(page):
    """Scroll from the top to the end; no visible card stays empty."""
    visible_rows = page.page.evaluate(SCROLL, PATIENCE_S * 1000)
    assert visible_rows is not None, "a visible card stays empty"
    assert {*visible_rows} == {*page.cards()}


def test_no_card_stays_empty_when_it_becomes_visible(open_check_page, finished_check):
    page = open_check_page("boxed", viewport={"width": 420, "height": 500})
    count = len(rows_with_example(finished_check("boxed")))
    inked = f"() => [...document.querySelectorAll('#cards .pictures')].filter({INKED}).length"
    assert page.page.evaluate(inked) < count, "cards far from the window are not drawn yet"
    scroll_through(page)
    for change in (
        lambda: page.page.select_option("#sort", "lift"),
        lambda: page.page.click("#order"),
        lambda: page.page.select_option("#grounded", "elsewhere"),
        lambda: page.page.fill("#search", "scene"),
        lambda: page.page.select_option("#colormap", "jet"),
        lambda: page.page.click("#language"),
        lambda: page.page.click("#theme"),
    ):
        change()
        scroll_through(page)


def test_a_card_that_becomes_visible_after_a_change_has_the_new_colours(open_check_page, finished_check):
    page, run = open_check_page("boxed", viewport={"width": 420, "height": 500}), finished_check("boxed")
    rows = rows_with_example(run)
    for row in (rows[0], rows[-1]):
        page.wait_drawn(row)
    page.page.evaluate("scrollTo(0, 0)")
    page.page.select_option("#colormap", "viridis")
    darkest = color_table("viridis")[:, 0].astype(int)
    page.page.evaluate(f"(row) => {CARD}(row).scrollIntoView({{ block: 'center' }})", rows[-1])
    first = """(row) => {
      const copy = new OffscreenCanvas(1, 1).getContext("2d");
      copy.drawImage(CARD(row).querySelector("canvas"), 0, 0);
      return [...copy.getImageData(0, 0, 1, 1).data];
    }""".replace("CARD", CARD)
    page.wait(
        f"([row, known]) => known.includes(({first})(row).slice(0, 3).join())",
        [
            rows[-1],
            [",".join(map(str, color)) for color in darkest.tolist()],
        ],
    )
