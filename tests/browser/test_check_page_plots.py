"""The page of a check in a browser: its figures, and its plots by layer and head, against the summary."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qvl_attn.cli.tables import FAITHFUL, SANITY
from qvl_attn.evaluation.figures import CONTROLS, FIGURES, HEAD_FIGURES
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.rows import read_scores
from qvl_attn.render.overlay import color_table
from tests.helpers.check_pages import CheckPage, fixed, number

pytestmark = pytest.mark.browser
# Positions in the chart in its own units: ticks with their numbers, lines, shaded ranges.
CHARTED = """() => {
  const svg = document.querySelector("#layers svg");
  const numbers = (element, names) => names.map((name) => Number(element.getAttribute(name)));
  const texts = (kind) => [...svg.querySelectorAll(`text.${kind}`)].filter((text) => !isNaN(text.textContent));
  const pair = /(-?[\\d.e-]+),(-?[\\d.e-]+)/g;
  const points = (text) => [...text.matchAll(pair)].map((match) => match.slice(1).map(Number));
  const line = (path) => [path.classList[1], points(path.getAttribute("d"))];
  const box = svg.getBoundingClientRect();
  return {
    x: texts("mid").map((text) => [Number(text.textContent), numbers(text, ["x"])[0]]),
    y: texts("end").map((text) => [Number(text.textContent), numbers(text, ["y"])[0] - 4]),
    rules: [...svg.querySelectorAll(".rule")].map((rule) => numbers(rule, ["y1"])[0]),
    lines: Object.fromEntries([...svg.querySelectorAll("path.line")].map(line)),
    band: points(svg.querySelector(".band")?.getAttribute("points") ?? ""),
    shaded: [...svg.querySelectorAll(".shaded")].map((rect) => numbers(rect, ["x", "width"])),
    now: [...svg.querySelectorAll(".now")].map((line) => numbers(line, ["x1"])[0]),
    keys: [...document.querySelectorAll("#layers .key")].map((key) => key.textContent),
    label: svg.getAttribute("aria-label"),
    scale: box.width / svg.viewBox.baseVal.width, left: box.left, top: box.top,
  };
}"""


class Chart:
    """The chart by layer, read from its SVG."""

    def __init__(self, opened: CheckPage) -> None:
        self.drawn = opened.page.evaluate(CHARTED)
        self.x, self.y = (_line(self.drawn[name]) for name in "xy")

    def values(self, kind: str) -> dict[int, float]:
        points = self.drawn["lines"].get(kind, [])
        return {round(self.x(x)): self.y(y) for x, y in points if abs(self.x(x) - round(self.x(x))) < 0.01}

    def band(self) -> dict[int, tuple[float, float]]:
        values: dict[int, list[float]] = {}
        for x, y in self.drawn["band"]:
            values.setdefault(round(self.x(x)), []).append(self.y(y))
        return {layer: (min(both), max(both)) for layer, both in values.items()}

    def shaded(self) -> list[tuple[float, float]]:
        return sorted((self.x(x), self.x(x + width)) for x, width in self.drawn["shaded"])


def _line(pairs):
    """Return the linear function from positions to numbers that the ticks define; all ticks must be on it."""
    numbers, positions = np.array(pairs, float).T
    slope, start = np.polyfit(positions, numbers, 1)
    assert np.allclose(slope * positions + start, numbers, atol=1e-6)
    return lambda position: slope * position + start


# Figures


@pytest.mark.parametrize("kind", ["boxed", "clips", "bare", "evil", "calibrated", "merged"])
def test_the_table_of_figures_is_that_of_the_summary(open_check_page, finished_check, kind):
    page, summary = open_check_page(kind), finished_check(kind).summary
    head, *rows = page.table("figures")
    assert head[0] == ""
    assert head[1:3] == ["mean", "95 % interval"]
    assert len(head) == 4 + len(CONTROLS)
    names = [name for name in FIGURES if summary["headline"][name]["mean"] is not None]
    assert len(rows) == len(names)
    assert len({row[0] for row in rows}) == len(rows)
    for row, name in zip(rows, names, strict=True):
        figure = summary["headline"][name]
        interval = "–" if figure["low"] is None else f"{fixed(figure['low'])} – {fixed(figure['high'])}"
        want = [fixed(figure["mean"]), interval, *(fixed(figure[control]) for control in CONTROLS)]
        assert row[1:] == [*want, fixed(figure["all_layers"]["mean"])], name
    overview = page.text("#facts")
    for words in (f"{summary['samples']} samples", f"{summary['with_boxes']} with boxes", summary["headline_map"]):
        assert words in overview
    right = summary["accuracy"]["mean"]
    assert ("accuracy" in overview) == (right is not None)
    assert right is None or f"accuracy: {fixed(right)}" in overview
    assert page.page.locator("#notes li").all_inner_texts() == summary["notes"]


@pytest.mark.parametrize("kind", ["boxed", "clips"])
def test_right_and_wrong_against_grounded_and_elsewhere(open_check_page, finished_check, kind):
    page, cells = open_check_page(kind), finished_check(kind).summary["answers_and_grounding"]
    total = sum(cells.values())
    if kind == "boxed":
        assert min(cells.values()) > 0
    head, *rows = page.table("both")
    assert head == ["", "grounded", "not grounded"]
    for row, verdict in zip(rows, ("right", "wrong"), strict=True):
        assert row[0] == verdict
        for cell, where in zip(row[1:], ("grounded", "elsewhere"), strict=True):
            count, share = cell.removesuffix(" %)").split(" (")
            assert int(count) == cells[f"{verdict}_{where}"]
            assert float(share) == pytest.approx(100 * int(count) / total, abs=0.5)


def test_without_boxes_their_tables_are_hidden(open_check_page):
    page = open_check_page("bare")
    assert not page.page.locator("#both").is_visible()
    assert not page.page.locator("#heads-card").is_visible()
    assert not page.page.locator("#methods").is_visible()
    assert page.page.locator("#layers svg").is_visible()


def test_the_table_of_methods(open_check_page, finished_check):
    page, methods = open_check_page("methods"), finished_check("methods").summary["methods"]
    head, *rows = page.table("methods")
    assert head == ["method", "pointing game", "lift over the area", "ROC-AUC", "IoU after Otsu"]
    assert {row[0]: row[1:] for row in rows} == {
        name: [fixed(figures[figure]["mean"]) for figure in ("pointing", "lift", "auc", "iou")]
        for name, figures in methods.items()
    }


def test_deletion_insertion_and_sanity_of_methods_are_there_too(open_check_page, finished_check, tmp_path):
    run = finished_check("methods")
    summary, values = run.summary, np.random.default_rng(0)
    figures = [*FAITHFUL, *(f"{name}_rank" for name in SANITY)]
    for name in figures:
        for method in ("mean", "relative"):
            summary["methods"][method][name] = {"mean": float(values.uniform(-2, 1)), "low": None, "high": None, "n": 8}
    summary["methods"]["random"] = {"deletion_blur": {"mean": -0.25, "low": None, "high": None, "n": 8}}
    (tmp_path / "page.html").write_text(check_html(summary, read_scores(run.folder), {}), encoding="utf-8")
    head, *rows = open_check_page(tmp_path / "page.html").table("methods")
    assert len(head) == len({*head}) == 5 + len(figures)
    cells = {row[0]: row[5:] for row in rows}
    for method in ("mean", "relative"):
        assert cells[method] == [fixed(summary["methods"][method][name]["mean"]) for name in figures]
    assert cells["random"] == ["-0.250", *["–"] * (len(figures) - 1)]


# By layer


@pytest.mark.parametrize("kind", ["boxed", "clips", "bare"])
def test_every_figure_has_a_plot_by_layer(open_check_page, finished_check, kind):
    page, layers = open_check_page(kind), finished_check(kind).summary["layers"]
    names = page.page.eval_on_selector("#layer-figure", "(select) => [...select.options].map((option) => option.value)")
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
        label = page.page.eval_on_selector("#layer-figure", "(select) => select.selectedOptions[0].textContent")
        assert label in chart.drawn["label"]
        assert chart.drawn["rules"] == pytest.approx([position for _, position in chart.drawn["y"]])


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
    assert "shaded" in page.text("#layer-hint")


def test_all_layers_are_not_shaded(open_check_page, finished_check, tmp_path):
    run = finished_check("boxed")
    summary = run.summary | {"headline_of": {"layers": [0, 1, 2, 3], "heads": None}}
    (tmp_path / "page.html").write_text(check_html(summary, read_scores(run.folder), {}), encoding="utf-8")
    page = open_check_page(tmp_path / "page.html")
    assert Chart(page).shaded() == []
    assert page.text("#layer-hint") == ""


def test_a_click_shows_the_values_of_a_layer(open_check_page, finished_check):
    page, layers = open_check_page("boxed"), finished_check("boxed").summary["layers"]
    for name in ("pointing", "entropy", "vision_mass"):
        page.page.select_option("#layer-figure", name)
        for layer in (3, 0, 2):
            chart = Chart(page)
            position = next(position for number, position in chart.drawn["x"] if number == layer)
            x = chart.drawn["left"] + (position + 9) * chart.drawn["scale"]
            page.page.mouse.click(x, chart.drawn["top"] + 100 * chart.drawn["scale"])
            figure = layers[layer][name]
            want = f"layer {layer}: {fixed(figure['mean'])} ({fixed(figure['low'])} – {fixed(figure['high'])})"
            want += f", chance {fixed(figure['chance'])}" if figure.get("chance") is not None else ""
            assert page.text("#layer-hint") == want
            chart = Chart(page)
            assert [chart.x(position) for position in chart.drawn["now"]] == pytest.approx([layer], abs=0.01)
    page.page.mouse.click(chart.drawn["left"] + 2, chart.drawn["top"] + 100)
    assert page.text("#layer-hint").startswith("layer 0: ")


# By head


def cells_of(page):
    return page.page.evaluate("""() => [...document.querySelectorAll("#heads td")].map((cell) => ({
      at: cell.dataset.at.split(",").map(Number), color: getComputedStyle(cell).backgroundColor,
      marked: cell.classList.contains("marked"), selected: cell.getAttribute("aria-selected") === "true",
      label: cell.getAttribute("aria-label"),
      top: cell.getBoundingClientRect().top,
      left: cell.getBoundingClientRect().left,
    }))""")


@pytest.mark.parametrize("kind", ["boxed", "heads"])
def test_heads_are_coloured_by_their_figure(open_check_page, finished_check, kind):
    page, summary = open_check_page(kind), finished_check(kind).summary
    names = page.page.eval_on_selector("#head-figure", "(select) => [...select.options].map((option) => option.value)")
    assert {*names} == {*HEAD_FIGURES} == summary["heads"].keys()
    table = color_table("inferno")[:, 0]
    for name in names:
        page.page.select_option("#head-figure", name)
        values = np.array(summary["heads"][name], float)
        low = values.min()
        cells = cells_of(page)
        assert [cell["at"] for cell in cells] == [[row, head] for row in (3, 2, 1, 0) for head in range(4)]
        for cell in cells:
            row, head = cell["at"]
            red, green, blue = table[int(np.floor(255 * (values[row, head] - low) / (values.max() - low) + 0.5))]
            assert cell["color"] == f"rgb({red}, {green}, {blue})"
            assert cell["label"] == f"layer {row}, head {head}: {fixed(summary['heads'][name][row][head])}"
        assert cells[0]["top"] < cells[-1]["top"], "low layers are at the bottom"
        assert cells[0]["left"] < cells[1]["left"]
        marked = [cell["at"] for cell in cells if cell["marked"]]
        assert sorted(marked) == (summary["headline_of"]["heads"] or [])


def test_keys_move_over_heads_and_click_or_enter_shows_their_values(open_check_page, finished_check):
    page, values = open_check_page("heads"), finished_check("heads").summary["heads"]["pointing"]
    assert "outlined" in page.text("#heads-hint")

    def check_head(row, head):
        ends = f"Darkest: {fixed(np.min(values))}, brightest: {fixed(np.max(values))}."
        assert page.text("#heads-hint") == f"{ends} layer {row}, head {head}: {fixed(values[row][head])}"
        assert [cell["at"] for cell in cells_of(page) if cell["selected"]] == [[row, head]]

    page.page.click('#heads td[data-at="1,2"]')
    check_head(1, 2)
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown"):
        page.page.keyboard.press(key)
    check_head(1, 2)
    page.page.keyboard.press("Enter")
    check_head(2, 2)
    page.page.keyboard.press("ArrowLeft")
    page.page.keyboard.press(" ")
    check_head(2, 1)
    assert page.page.locator("#heads [tabindex='0']").count() == 1
    page.page.select_option("#head-figure", "lift")
    lift = finished_check("heads").summary["heads"]["lift"]
    assert page.text("#heads-hint").endswith(f". layer 2, head 1: {fixed(lift[2][1])}")


def test_a_head_without_a_value_has_a_dash(open_check_page, finished_check, tmp_path):
    run = finished_check("heads")
    summary = json.loads(json.dumps(run.summary))
    summary["heads"]["auc"][1][2] = None
    (tmp_path / "page.html").write_text(check_html(summary, read_scores(run.folder), {}), encoding="utf-8")
    page = open_check_page(tmp_path / "page.html")
    page.page.select_option("#head-figure", "auc")
    (cell,) = [cell for cell in cells_of(page) if cell["at"] == [1, 2]]
    assert cell["label"] == "layer 1, head 2: –"
    assert cell["color"] == "rgba(0, 0, 0, 0)"
    assert np.isnan(number(cell["label"].split(": ")[1]))
