"""The example notebook: a real kernel runs it, and its results show themselves in a real browser."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.helpers.processes import PATIENCE_S

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The executed notebook; a cell that fails, fails here."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    NotebookClient(notebook, timeout=PATIENCE_S, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.elements = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))


def result_pages(notebook):
    return [
        output["data"]["text/html"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]


def printed(notebook):
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def test_it_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_it_runs_and_prints_the_answer(executed):
    text = printed(executed)
    assert text.startswith("2 (1, 8, 9)")
    assert "report.html" in text


def test_each_result_is_a_frame_over_a_picture(executed):
    pages = result_pages(executed)
    assert len(pages) == 3
    for html in pages:
        tags = Elements(html).elements
        assert [tag for tag, _ in tags] == ["div", "img", "iframe"]
        frame, image = tags[2][1], tags[1][1]
        assert set(frame["sandbox"].split()) == {"allow-scripts", "allow-downloads"}
        assert frame["srcdoc"].startswith("<!doctype html>")
        picture = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(BytesIO(picture)).width > 600


@pytest.mark.browser
def test_its_frames_work_in_a_browser_and_are_isolated(executed, chromium, tmp_path):
    body = "".join(f"<section>{html}</section>" for html in result_pages(executed))
    (tmp_path / "saved.html").write_text(f'<!doctype html><meta charset="utf-8">{body}', encoding="utf-8")
    page, reported = chromium.new_page(), []
    page.on("console", lambda message: reported.append(message.text))
    page.on("pageerror", lambda error: reported.append(str(error)))
    page.on(
        "request",
        lambda request: (
            reported.append(request.url) if not request.url.startswith(("file:", "data:", "about:")) else None
        ),
    )
    page.goto((tmp_path / "saved.html").as_uri())
    for number, section in enumerate(page.locator("section").all()):
        section.scroll_into_view_if_needed()
        frame = section.frame_locator("iframe")
        frame.locator("html[data-state=fine]").wait_for(state="attached")
        assert frame.locator("#answer").inner_text().strip()
        assert frame.locator("#film").is_visible() == (number == 1), "the second is of a clip"
    assert reported == []
    page.close()
