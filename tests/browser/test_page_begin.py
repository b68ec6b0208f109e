"""How a page starts in a real browser: coarse maps first, the others while it is in use; large and damaged pages."""

from __future__ import annotations

import http.server
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from benchmarks.report import large_result

from qvl_attn.results.page_data import results_html
from tests.helpers.pages import (
    Reader,
    assert_painted,
    assert_shows,
    flatten,
    open_in_browser,
    panel_caption,
    panel_values,
    set_control,
    wait_until_drawn,
)
from tests.helpers.processes import PATIENCE_S

pytestmark = pytest.mark.browser


def end_of_script(html: str) -> int:
    return html.index("</script>", html.index('"use strict";')) + len("</script>")


@contextmanager
def dripping(html: str, cut: int | None = None):
    """A server that sends a page up to the end of its script, or to `cut`, and the rest once the event is set."""
    cut = cut or end_of_script(html)
    go = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(html[:cut].encode())
            self.wfile.flush()
            go.wait(PATIENCE_S)
            self.wfile.write(html[cut:].encode())

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/report.html", go
    finally:
        go.set()
        server.shutdown()
        server.server_close()


def means(values):
    """Replace each cell by the mean of its square of 4 x 4 cells."""
    coarse = np.zeros_like(values, dtype=np.float64)
    rows, columns = values.shape
    for row in range(0, rows, 4):
        for column in range(0, columns, 4):
            part = (slice(row, row + 4), slice(column, column + 4))
            coarse[part] = values[part].mean(dtype=np.float64)
    return coarse


def goto(page, url, state):
    """Open a page that is not complete yet, and wait for a state."""
    page.goto(url, wait_until="commit")
    page.wait_for_selector(f"html[data-state={state}]", state="attached")


@pytest.mark.parametrize("name", ["two", "clip"])
def test_coarse_maps_come_first_then_the_others(chromium, results, page_file, name):
    result = results(name)
    maps, first_layer = result.heatmaps(query="question"), result.heatmaps(layers=0, heads="all", query="question")
    with (
        dripping(page_file(name).read_text(encoding="utf-8")) as (url, go),
        open_in_browser(chromium, "about:blank", "") as page,
    ):
        goto(page, url, "coarse")
        for which, heatmap in enumerate(maps):
            assert_painted(page, means(heatmap.values[0]), heatmap.scale.high, which=which, least=1)
        assert page.locator(".panel.coarse").count() == 1
        box = page.locator(".picture").first.bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        assert page.locator("#cell").inner_text() == "not loaded yet", "the mean of many cells is no cell's value"
        assert page.locator(".ends").inner_text() == "not loaded yet"
        page.mouse.click(box["x"] + 5, box["y"] + 5)
        set_control(page, "layer", 0)
        assert_painted(page, means(first_layer[0].values[0]), first_layer[0].scale.high, least=1)
        assert panel_caption(page).startswith("layer 0 of 0-3")
        assert page.locator("#strongest tbody tr").count() == page.locator("#attending li").count() == 0
        set_control(page, "alpha", 0.3)
        go.set()
        page.wait_for_selector("html[data-state=fine]", state="attached")
        wait_until_drawn(page)
        assert_shows(page, first_layer)
        assert page.locator(".panel.coarse").count() == 0
        assert page.locator("#strongest tbody tr").count() == 10
        assert page.locator("#attending li").count() > 0
        assert page.locator("#progress").inner_text() == ""
        assert page.evaluate("document.querySelectorAll('[id^=block-]').length") == 0, (
            "the text of an unpacked block is removed"
        )


def test_a_block_that_has_come_in_part_is_waited_for(chromium, page_file):
    html = page_file("two").read_text(encoding="utf-8")
    first = html.index('id="block-', end_of_script(html))
    middle = (html.index(">", first) + html.index("</script>", first)) // 2
    with dripping(html, middle) as (url, go), open_in_browser(chromium, "about:blank", "") as page:
        goto(page, url, "coarse")
        page.wait_for_selector("script[id^=block-]:last-of-type", state="attached")
        page.wait_for_timeout(300)
        assert page.locator("#progress:has-text('damaged')").count() == 0
        go.set()
        page.wait_for_selector("html[data-state=fine]", state="attached")


def test_a_file_that_is_cut_off_keeps_its_coarse_maps_and_shows_the_fault(chromium, results, page_file, tmp_path):
    html = page_file("two").read_text(encoding="utf-8")
    end = html.index("</script>", html.index('"use strict";'))
    (tmp_path / "cut.html").write_text(html[: end + len("</script>")], encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "cut.html", "coarse", faults=["the file is cut off"]) as page:
        page.wait_for_selector("#progress:has-text('cut off')")
        assert page.locator("#progress").inner_text() == "This page is damaged: the file is cut off."
        assert page.locator("html").get_attribute("data-state") == "coarse"
        heatmap = results("two").heatmaps()[0]
        assert_painted(page, means(heatmap.values[0]), heatmap.scale.high)
        page.locator("#question .word").first.click()
        set_control(page, "layer", 1)
        page.locator("#compare").click()
        wait_until_drawn(page)
        assert page.locator(".panel.coarse").count() == 2


def test_a_damaged_block_is_reported(chromium, page_file, tmp_path):
    html = page_file("two").read_text(encoding="utf-8")
    last = html.rindex('id="block-') + 14
    (tmp_path / "bad.html").write_text(f"{html[:last]}AAAA{html[last + 4 :]}", encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "bad.html", "coarse", faults=[""]) as page:
        page.wait_for_selector("#progress:has-text('This page is damaged')")


def test_a_large_page_answers_while_it_unpacks(chromium):
    result = large_result()
    html = results_html([result])
    values = Reader(html)
    with dripping(html) as (url, go), open_in_browser(chromium, "about:blank", "") as page:
        goto(page, url, "coarse")
        set_control(page, "layer", 20)
        assert panel_caption(page).startswith("layer 20 of 0-27")
        go.set()
        # In one go: the page may draw its words anew between the press and the release of a button.
        page.locator("#question .word").nth(7).evaluate("(word) => word.click()")
        set_control(page, "layer", 5)
        page.locator("#compare").click()
        wait_until_drawn(page)
        assert "“word7”" in panel_caption(page, 1)
        assert panel_caption(page, 0).startswith("layer 5 of")
        page.locator("#heads td[data-at='3,4']").evaluate("(cell) => cell.click()")
        wait_until_drawn(page)
        assert panel_caption(page, 1).startswith("layer 3, head 4")
        set_control(page, "colormap", "jet")
        page.keyboard.press("]")
        page.wait_for_selector("html[data-state=fine]", state="attached", timeout=PATIENCE_S * 1000)
        wait_until_drawn(page)
        want = values.maps(5)[3 + 7]
        np.testing.assert_allclose(panel_values(page, 0), want, rtol=1e-5)
        assert_painted(page, want.reshape(25, 40), values.source(5)["high"][10], "jet")
        assert page.locator("#heads td").count() == 28 * 28
        page.locator("#heads td[data-at='27,27']").click()
        wait_until_drawn(page)
        heads = values.data["results"][0]["maps"][0]["heads"]
        np.testing.assert_allclose(panel_values(page, 1), values.block(heads["blocks"][27])[27], rtol=1e-5)
        page.locator(".picture").first.click(position={"x": 40, "y": 40})
        wait_until_drawn(page)
        assert page.locator("#attending li").count() == 8
        assert "of 1000 · pixels" in page.locator("#cell").inner_text()
        with page.expect_download():
            page.locator("#save").click()


def test_what_is_left_out_is_listed_and_words_show_the_headline(chromium, results, monkeypatch, tmp_path):
    monkeypatch.setattr("qvl_attn.vqa.page.MAX_VALUES", 2000)
    result = results("one")
    (tmp_path / "less.html").write_text(results_html([result]), encoding="utf-8")
    with open_in_browser(chromium, tmp_path / "less.html") as page:
        assert page.locator("#heads-card").is_hidden()
        reported = page.locator("#notes li").all_inner_texts()
        assert reported == [
            "Left out: maps of words by layer; a word has only the map of the headline.",
            "Left out: maps of heads; they are in attention.npz.",
        ]
        set_control(page, "layer", 0)
        assert_shows(page, result.heatmaps(layers=0, heads="all"))
        page.locator("#question .word").nth(2).click()
        wait_until_drawn(page)
        assert panel_caption(page).startswith("layer 2 of 0-3 · attention of “cats”"), (
            "words have the headline's layers"
        )
        np.testing.assert_allclose(panel_values(page), flatten(result.heatmaps(query="text:cats")), rtol=1e-3)
        set_control(page, "layer", 3)
        assert "attention of the question" in panel_caption(page)
        assert_shows(page, result.heatmaps(layers=3, heads="all"))
        box = page.locator(".picture").first.bounding_box()
        page.mouse.click(box["x"] + 5, box["y"] + 5)
        wait_until_drawn(page)
        assert page.locator("#attending li").count() == 5
