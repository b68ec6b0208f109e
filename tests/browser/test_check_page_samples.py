"""The dialog of one sample and the table of all samples on the page of a check in a browser."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.evaluation.examples import read_examples
from qvl_attn.evaluation.figures import CONTROLS, FIGURES
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.rows import read_scores
from tests.browser.test_check_page_gallery import SET, example_of, rows_with_example
from tests.helpers.check_pages import INKED, number

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("kind", ["boxed", "clips", "evil"])
def test_a_sample_opens_with_all_its_data(open_check_page, finished_check, kind):
    page, run = open_check_page(kind), finished_check(kind)
    page.page.click("#table-of-all summary")
    for i, row in enumerate(run.rows[:6]):
        page.page.locator("#rows tbody .open").nth(i).click()
        assert page.page.locator("#sample").is_visible()
        text = page.text("#sample-card")
        assert page.text("#sample-title").startswith(" ".join(row["question"].split()))
        for words in (row["id"], *row["media"], row.get("answer", "") or "(no answer)", row.get("error", "")):
            assert words in text
        head, *figures = page.table("sample-figures")
        assert head == ["", "Headline", "chance", "uniform map", "centre prior", "another picture's boxes"]
        for line, name in zip(figures, FIGURES, strict=True):
            values = [row.get("headline", {}).get(name)]
            values += [row.get("controls", {}).get(control, {}).get(name) for control in CONTROLS]
            want = [np.nan if value is None else value for value in values]
            assert [number(cell) for cell in line[1:]] == pytest.approx(want, rel=6e-3, nan_ok=True), name
        card = page.page.locator("#sample-card .pictures")
        if row["id"] in read_examples(run.folder):
            page.wait(f"() => ({INKED})(document.querySelector('#sample-card .pictures'))")
            example = example_of(run, i)
            numbers = re.search(r"the colour scale ends at (\S+) = (\S+)× uniform", text)
            assert float(numbers[1]) == pytest.approx(example.high, rel=6e-3)
            assert float(numbers[2]) == pytest.approx(example.high / example.uniform, abs=0.06)
            assert card.bounding_box()["width"] > 200
        else:
            assert card.count() == 0
            assert "No picture of this sample was kept." in text
        page.page.click("#close")
        assert not page.page.locator("#sample").is_visible()


def test_the_dialog_opens_by_card_and_row_and_gives_the_focus_back(open_check_page, finished_check):
    page, run = open_check_page("boxed"), finished_check("boxed")
    focused = "() => document.activeElement.textContent"
    for row in (rows_with_example(run)[0], rows_with_example(run)[2]):
        index = page.cards().index(row)
        for close in ("Escape", "Enter"):
            page.page.locator("#cards .open").nth(index).focus()
            page.page.keyboard.press("Enter")
            assert page.page.locator("#sample").is_visible()
            assert run.rows[row]["id"] in page.text("#sample-card")
            assert page.page.evaluate("() => document.activeElement.id") == "close"
            page.page.keyboard.press(close)
            assert not page.page.locator("#sample").is_visible()
            assert page.page.evaluate(focused) == run.rows[row]["question"]
        page.page.locator("#cards .pictures").nth(index).click()
        assert run.rows[row]["id"] in page.text("#sample-card")
        page.page.click("#close")
    page.page.click("#table-of-all summary")
    page.page.click("#rows tbody tr:nth-child(5) .open")
    assert run.rows[4]["id"] in page.text("#sample-card")
    page.page.keyboard.press("Escape")
    assert page.page.evaluate(focused) == run.rows[4]["id"]


def test_the_table_of_all_samples(open_check_page, finished_check):
    page, run = open_check_page("evil"), finished_check("evil")
    page.page.click("#table-of-all summary")
    head, *lines = page.table("rows")
    assert head[:5] == ["id", "Question", "Answer", "accepted", "verdict"]
    names = ("pointing", "lift", "mass", "auc", "iou", "vision_mass")
    for line, row in zip(lines, run.rows, strict=True):
        texts = [row["id"], row["question"], row.get("error") or row["answer"], " | ".join(row["references"])]
        assert [" ".join(cell.split()) for cell in line[:4]] == [" ".join(text.split()) for text in texts]
        assert ("error" in line[4]) == (row["status"] == "error")
        want = [row.get("headline", {}).get(name) for name in names]
        want = [np.nan if value is None else value for value in want]
        assert [number(cell) for cell in line[5:]] == pytest.approx(want, rel=6e-3, nan_ok=True)
    assert not page.page.locator("#more").is_visible()


def test_a_long_table_shows_more_on_request(open_check_page, finished_check, tmp_path):
    run = finished_check("boxed")
    scores = read_scores(run.folder)
    many = [replace(scores[i % 24], id=f"n{i}", index=i) for i in range(250)]
    (tmp_path / "page.html").write_text(check_html(run.summary, many, {}), encoding="utf-8")
    page = open_check_page(tmp_path / "page.html")
    page.page.click("#table-of-all summary")
    for count in (100, 200, 250):
        assert page.listed() == [f"n{i}" for i in range(count)]
        assert page.page.locator("#more").is_visible() == (count < 250)
        if count < 250:
            page.page.click("#more")
    page.page.fill("#search", "n24")
    assert page.listed() == ["n24", *(f"n{i}" for i in range(240, 250))]
    for id_, value, count in (("search", "", 100), ("sort", "area", 100), ("right", "right", 100)):
        page.page.evaluate("() => { filters.shown = 250; drawRows(); }")
        page.page.evaluate(f"([id, value]) => ({SET})(id, value)", [id_, value])
        assert len(page.listed()) == count, id_


def test_the_page_notes_rows_that_were_left_out(open_check_page, finished_check, monkeypatch, tmp_path):
    monkeypatch.setattr("qvl_attn.evaluation.page.MAX_ROWS", 20)
    run = finished_check("boxed")
    html = check_html(run.summary, read_scores(run.folder), read_examples(run.folder))
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    page = open_check_page(tmp_path / "page.html")
    assert page.text("#count").endswith("4 further samples are only in scores.jsonl.")
    assert "further samples" not in open_check_page("boxed").text("#count")
