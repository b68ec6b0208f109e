"""The page of a check in a browser: its figures, and its plots by layer and head, against the summary."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qvl_attn.cli.tables import FAITHFUL, SANITY
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.score import CONTROLS, FIGURES, HEAD_FIGURES, read_scores
from qvl_attn.render.overlay import color_table
from tests.helpers.check_pages import Opened, fixed, number

pytestmark = pytest.mark.browser
# Places in the chart in its own units: of the ticks with their numbers, of the lines, of the shades.
CHARTED = """() => {
  const svg = document.querySelector("#layers svg");
  const of = (one, names) => names.map((name) => Number(one.getAttribute(name)));
  const texts = (kind) => [...svg.querySelectorAll(`text.${kind}`)].filter((one) => !isNaN(one.textContent));
  const points = (text) => [...text.matchAll(/(-?[\\d.e-]+),(-?[\\d.e-]+)/g)].map((one) => one.slice(1).map(Number));
  const line = (one) => [one.classList[1], points(one.getAttribute("d"))];
  const box = svg.getBoundingClientRect();
  return {
    x: texts("mid").map((one) => [Number(one.textContent), of(one, ["x"])[0]]),
    y: texts("end").map((one) => [Number(one.textContent), of(one, ["y"])[0] - 4]),
    rules: [...svg.querySelectorAll(".rule")].map((one) => of(one, ["y1"])[0]),
    lines: Object.fromEntries([...svg.querySelectorAll("path.line")].map(line)),
    band: points(svg.querySelector(".band")?.getAttribute("points") ?? ""),
    shaded: [...svg.querySelectorAll(".shaded")].map((one) => of(one, ["x", "width"])),
    now: [...svg.querySelectorAll(".now")].map((one) => of(one, ["x1"])[0]),
    keys: [...document.querySelectorAll("#layers .key")].map((one) => one.textContent),
    label: svg.getAttribute("aria-label"),
    scale: box.width / svg.viewBox.baseVal.width, left: box.left, top: box.top,
  };
}"""


class Chart:
    """The chart by layer, read back from its drawing."""

    def __init__(self, opened: Opened) -> None:
        self.drawn = opened.page.evaluate(CHARTED)
        self.x, self.y = (_line(self.drawn[name]) for name in "xy")

    def values(self, kind: str) -> dict[int, float]:
        points = self.drawn["lines"].get(kind, [])
        return {round(self.x(x)): self.y(y) for x, y in points if abs(self.x(x) - round(self.x(x))) < 0.01}

    def band(self) -> dict[int, tuple[float, float]]:
        found: dict[int, list[float]] = {}
        for x, y in self.drawn["band"]:
            found.setdefault(round(self.x(x)), []).append(self.y(y))
        return {layer: (min(both), max(both)) for layer, both in found.items()}

    def shaded(self) -> list[tuple[float, float]]:
        return sorted((self.x(x), self.x(x + width)) for x, width in self.drawn["shaded"])


def _line(pairs):
    """From places to numbers, as the ticks say, which must all be on it."""
    numbers, places = np.array(pairs, float).T
    slope, start = np.polyfit(places, numbers, 1)
    assert np.allclose(slope * places + start, numbers, atol=1e-6)
    return lambda place: slope * place + start


# Its figures


@pytest.mark.parametrize("kind", ["boxed", "clips", "bare", "evil", "calibrated", "merged"])
def test_the_table_of_figures_is_that_of_the_summary(open_check_page, finished_check, kind):
    page, summary = open_check_page(kind), finished_check(kind).summary
    head, *rows = page.table("figures")
    assert head[0] == ""
    assert head[1:3] == ["mean", "95 % interval"]
    assert len(head) == 4 + len(CONTROLS)
    known = [name for name in FIGURES if summary["headline"][name]["mean"] is not None]
    assert len(rows) == len(known)
    assert len({row[0] for row in rows}) == len(rows)
    for row, name in zip(rows, known, strict=True):
        one = summary["headline"][name]
        interval = "–" if one["low"] is None else f"{fixed(one['low'])} – {fixed(one['high'])}"
        want = [fixed(one["mean"]), interval, *(fixed(one[control]) for control in CONTROLS)]
        assert row[1:] == [*want, fixed(one["all_layers"]["mean"])], name
    said = page.text("#said")
    for words in (f"{summary['samples']} samples", f"{summary['with_boxes']} with boxes", summary["headline_map"]):
        assert words in said
    right = summary["accuracy"]["mean"]
    assert ("answers right" in said) == (right is not None)
    assert right is None or f"answers right: {fixed(right)}" in said
    assert page.page.locator("#notes li").all_inner_texts() == summary["notes"]


@pytest.mark.parametrize("kind", ["boxed", "clips"])
def test_right_and_wrong_against_grounded_and_elsewhere(open_check_page, finished_check, kind):
    page, cells = open_check_page(kind), finished_check(kind).summary["answers_and_grounding"]
    total = sum(cells.values())
    if kind == "boxed":
        assert min(cells.values()) > 0
    head, *rows = page.table("both")
    assert head == ["", "points into a box", "points elsewhere"]
    for row, word in zip(rows, ("right", "wrong"), strict=True):
        assert row[0] == word
        for cell, where in zip(row[1:], ("grounded", "elsewhere"), strict=True):
            count, share = cell.removesuffix(" %)").split(" (")
            assert int(count) == cells[f"{word}_{where}"]
            assert float(share) == pytest.approx(100 * int(count) / total, abs=0.5)


def test_without_boxes_there_is_nothing_about_them(open_check_page):
    page = open_check_page("bare")
    assert not page.page.locator("#both").is_visible()
    assert not page.page.locator("#heads-card").is_visible()
    assert not page.page.locator("#methods").is_visible()
    assert page.page.locator("#layers svg").is_visible()


def test_the_table_of_methods(open_check_page, finished_check):
    page, methods = open_check_page("methods"), finished_check("methods").summary["methods"]
    head, *rows = page.table("methods")
    assert head == ["method", "pointing game", "lift over the area", "ROC-AUC", "IoU (Otsu)"]
    assert {row[0]: row[1:] for row in rows} == {
        name: [fixed(own[figure]["mean"]) for figure in ("pointing", "lift", "auc", "iou")]
        for name, own in methods.items()
    }


def test_deletion_insertion_and_sanity_of_methods_are_there_too(open_check_page, finished_check, tmp_path):
    run = finished_check("methods")
    summary, values = run.summary, np.random.default_rng(0)
    figures = [*FAITHFUL, *(f"{name}_rank" for name in SANITY)]
    for name in figures:
        for own in ("mean", "relative"):
            summary["methods"][own][name] = {"mean": float(values.uniform(-2, 1)), "low": None, "high": None, "n": 8}
    summary["methods"]["random"] = {"deletion_blur": {"mean": -0.25, "low": None, "high": None, "n": 8}}
    (tmp_path / "page.html").write_text(check_html(summary, read_scores(run.folder), {}), encoding="utf-8")
    head, *rows = open_check_page(tmp_path / "page.html").table("methods")
    assert len(head) == len({*head}) == 5 + len(figures)
    found = {row[0]: row[5:] for row in rows}
    for own in ("mean", "relative"):
        assert found[own] == [fixed(summary["methods"][own][name]["mean"]) for name in figures]
    assert found["random"] == ["-0.250", *["–"] * (len(figures) - 1)]


# By layer


@pytest.mark.parametrize("kind", ["boxed", "clips", "bare"])
def test_every_figure_can_be_seen_by_layer(open_check_page, finished_check, kind):
    page, layers = open_check_page(kind), finished_check(kind).summary["layers"]
    names = page.page.eval_on_selector("#layer-figure", "(one) => [...one.options].map((option) => option.value)")
    assert names == [name for name in FIGURES if any(row[name]["mean"] is not None for row in layers)]
    assert len(names) == (5 if kind == "bare" else 10) - (kind == "bare")
    for name in names:
        page.page.select_option("#layer-figure", name)
        chart = Chart(page)
        for line, key in (("mean", "mean"), ("chance", "chance"), ("beside", "other")):
            want = {row["layer"]: row[name].get(key) for row in layers}
            want = {layer: value for layer, value in want.items() if value is not None}
            if line == "beside" and name == "vision_mass":
                want = {}
            assert chart.values(line) == pytest.approx(want, rel=1e-4, abs=1e-4), (name, line)
            assert (line in chart.drawn["lines"]) == bool(want)
        want = {row["layer"]: (row[name]["low"], row[name]["high"]) for row in layers if row[name]["low"] is not None}
        band = chart.band()
        assert band.keys() == want.keys(), name
        for layer, ends in want.items():
            assert band[layer] == pytest.approx(ends, rel=1e-4, abs=1e-4), (name, layer)
        assert len(chart.drawn["keys"]) == len(chart.drawn["lines"])
        chosen = page.page.eval_on_selector("#layer-figure", "(one) => one.selectedOptions[0].textContent")
        assert chosen in chart.drawn["label"]
        assert chart.drawn["rules"] == pytest.approx([place for _, place in chart.drawn["y"]])


@pytest.mark.parametrize(
    ("kind", "layers"), [("boxed", [1, 2]), ("clips", [2]), ("heads", [1, 2]), ("calibrated", ...)]
)
def test_the_layers_of_the_headline_are_shaded(open_check_page, finished_check, kind, layers):
    headline = finished_check(kind).summary["headline_of"]
    if layers is ...:
        assert headline["heads"]
        layers = sorted({layer for layer, _ in headline["heads"]})
    page = open_check_page(kind)
    shaded = Chart(page).shaded()
    assert [pytest.approx((layer - 0.5, layer + 0.5), abs=0.01) for layer in layers] == shaded
    assert "shaded" in page.text("#layer-told")


def test_all_layers_are_not_shaded(open_check_page, finished_check, tmp_path):
    run = finished_check("boxed")
    summary = run.summary | {"headline_of": {"layers": [0, 1, 2, 3], "heads": None}}
    (tmp_path / "page.html").write_text(check_html(summary, read_scores(run.folder), {}), encoding="utf-8")
    page = open_check_page(tmp_path / "page.html")
    assert Chart(page).shaded() == []
    assert page.text("#layer-told") == ""


def test_a_click_tells_the_values_of_a_layer(open_check_page, finished_check):
    page, layers = open_check_page("boxed"), finished_check("boxed").summary["layers"]
    for name in ("pointing", "entropy", "vision_mass"):
        page.page.select_option("#layer-figure", name)
        for layer in (3, 0, 2):
            chart = Chart(page)
            at = next(place for shown, place in chart.drawn["x"] if shown == layer)
            x = chart.drawn["left"] + (at + 9) * chart.drawn["scale"]
            page.page.mouse.click(x, chart.drawn["top"] + 100 * chart.drawn["scale"])
            one = layers[layer][name]
            want = f"layer {layer}: {fixed(one['mean'])} ({fixed(one['low'])} – {fixed(one['high'])})"
            want += f", chance {fixed(one['chance'])}" if one.get("chance") is not None else ""
            assert page.text("#layer-told") == want
            assert [Chart(page).x(place) for place in Chart(page).drawn["now"]] == pytest.approx([layer], abs=0.01)
    page.page.mouse.click(chart.drawn["left"] + 2, chart.drawn["top"] + 100)
    assert page.text("#layer-told").startswith("layer 0: ")


# By head


def cells_of(page):
    return page.page.evaluate("""() => [...document.querySelectorAll("#heads td")].map((one) => ({
      at: one.dataset.at.split(",").map(Number), color: getComputedStyle(one).backgroundColor,
      marked: one.classList.contains("marked"), chosen: one.getAttribute("aria-selected") === "true",
      label: one.getAttribute("aria-label"),
      top: one.getBoundingClientRect().top,
      left: one.getBoundingClientRect().left,
    }))""")


@pytest.mark.parametrize("kind", ["boxed", "heads"])
def test_heads_are_coloured_by_their_figure(open_check_page, finished_check, kind):
    page, summary = open_check_page(kind), finished_check(kind).summary
    names = page.page.eval_on_selector("#head-figure", "(one) => [...one.options].map((option) => option.value)")
    assert {*names} == {*HEAD_FIGURES} == summary["heads"].keys()
    table = color_table("inferno")[:, 0]
    for name in names:
        page.page.select_option("#head-figure", name)
        values = np.array(summary["heads"][name], float)
        least = values.min()
        cells = cells_of(page)
        assert [*map(tuple, [one["at"] for one in cells])] == [(row, head) for row in (3, 2, 1, 0) for head in range(4)]
        for one in cells:
            row, head = one["at"]
            red, green, blue = table[int(np.floor(255 * (values[row, head] - least) / (values.max() - least) + 0.5))]
            assert one["color"] == f"rgb({red}, {green}, {blue})"
            assert one["label"] == f"layer {row}, head {head}: {fixed(summary['heads'][name][row][head])}"
        assert cells[0]["top"] < cells[-1]["top"], "low layers are at the bottom"
        assert cells[0]["left"] < cells[1]["left"]
        marked = [one["at"] for one in cells if one["marked"]]
        assert sorted(marked) == (summary["headline_of"]["heads"] or [])


def test_heads_are_walked_by_keys_and_told_by_click_and_enter(open_check_page, finished_check):
    page, values = open_check_page("heads"), finished_check("heads").summary["heads"]["pointing"]
    assert "outlined" in page.text("#heads-told")

    def reported(row, head):
        ends = f"Darkest: {fixed(np.min(values))}, brightest: {fixed(np.max(values))}."
        assert page.text("#heads-told") == f"{ends} layer {row}, head {head}: {fixed(values[row][head])}"
        assert [one["at"] for one in cells_of(page) if one["chosen"]] == [[row, head]]

    page.page.click('#heads td[data-at="1,2"]')
    reported(1, 2)
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown"):
        page.page.keyboard.press(key)
    reported(1, 2)
    page.page.keyboard.press("Enter")
    reported(2, 2)
    page.page.keyboard.press("ArrowLeft")
    page.page.keyboard.press(" ")
    reported(2, 1)
    assert page.page.locator("#heads [tabindex='0']").count() == 1
    page.page.select_option("#head-figure", "lift")
    lift = finished_check("heads").summary["heads"]["lift"]
    assert page.text("#heads-told").endswith(f". layer 2, head 1: {fixed(lift[2][1])}")


def test_a_head_without_a_value_is_told_so(open_check_page, finished_check, tmp_path):
    run = finished_check("heads")
    summary = json.loads(json.dumps(run.summary))
    summary["heads"]["auc"][1][2] = None
    (tmp_path / "page.html").write_text(check_html(summary, read_scores(run.folder), {}), encoding="utf-8")
    page = open_check_page(tmp_path / "page.html")
    page.page.select_option("#head-figure", "auc")
    (one,) = [one for one in cells_of(page) if one["at"] == [1, 2]]
    assert one["label"] == "layer 1, head 2: –"
    assert one["color"] == "rgba(0, 0, 0, 0)"
    assert np.isnan(number(one["label"].split(": ")[1]))
