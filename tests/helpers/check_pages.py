"""Finished checks whose pages are tested, and their pages in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qvl_attn import load_samples, merge_runs
from qvl_attn.demo.dataset import write_dataset
from tests.helpers.check_runs import rows_of, summary_of
from tests.helpers.processes import PATIENCE_S

EVIL = "</script><img src=x onerror=\"document.title='evil'\">"
EVIL_FILE = "'><img src=x onerror=alert(1)>&amp;.png"
# Random examples, and best and worst ones: fewer than there are samples.
RANDOM, PER_END = 13, 2


@dataclass(frozen=True)
class FinishedCheck:
    """A finished run, and the records of its data set by id; the data set itself is deleted."""

    folder: Path
    records: dict[str, dict[str, Any]]
    sizes_px: dict[str, tuple[int, int]]

    @property
    def page(self) -> Path:
        return self.folder / "report.html"

    @property
    def summary(self) -> dict[str, Any]:
        return summary_of(self.folder)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows in the order of the data set."""
        return sorted(rows_of(self.folder), key=lambda row: row["index"])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "image", "question")}


def _wrong(row: dict[str, Any]) -> dict[str, Any]:
    """Give every third record an answer that the model does not give."""
    return row | ({"answer": "an Elephant"} if row["number"] % 3 == 1 else {})


def _evil(row: dict[str, Any]) -> dict[str, Any]:
    if row["number"] == 1:
        return row | {"image": EVIL_FILE, "id": f"{row['id']} {EVIL}", "question": f"what? {EVIL}", "answer": EVIL}
    return row | ({"id": f"broken {EVIL}", "image": f"broken {EVIL_FILE}"} if row["number"] == 2 else {})


# By kind: the function that changes each record, the number of records, the arguments of the check.
KINDS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], int, dict[str, Any]]] = {
    "boxed": (_wrong, 24, {"by_head": True, "layers": "1-2", "query": "last"}),
    "heads": (_plain, 10, {"by_head": True, "heads": "1.0,2.1"}),
    "clips": (_plain, 12, {"fps": 4}),
    "bare": (_bare, 6, {"by_head": True}),
    "evil": (_evil, 6, {}),
    "methods": (_plain, 8, {"methods": "relative,mean"}),
    "calibrated": (_plain, 24, {"calibrate": "profile.json"}),
    "merged": (_plain, 24, {}),
}


def run_check_of_kind(demo: Any, kind: str, folder: Path) -> FinishedCheck:
    """Write a data set, run a check over it, and delete the data set."""
    alter, limit, options = KINDS[kind]
    data = folder / "data"
    write_dataset(data, 4, video=kind == "clips")
    file = data / "questions.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()[:limit]
    rows = [alter(json.loads(line) | {"number": i}) for i, line in enumerate(lines)]
    for row in rows:
        row.pop("number", None)
    if kind == "evil":
        shutil.copy(data / "images" / "scene-00000.png", data / EVIL_FILE)
        (data / f"broken {EVIL_FILE}").write_bytes((data / EVIL_FILE).read_bytes()[:200])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    samples = load_samples(file)
    sizes_px = {}
    for row in rows:
        if "image" in row and not row["image"].startswith("broken"):
            with Image.open(data / row["image"]) as image:
                sizes_px[row["image"]] = image.size
    if "calibrate" in options:
        options = options | {"calibrate": folder / "profile.json"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qvl_attn.evaluation.outputs.write_charts", lambda *args: [])
        patch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", RANDOM)
        patch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", PER_END)
        if kind == "merged":
            for part in (1, 2):
                demo.check(samples, folder / f"part-{part}", shard=f"{part}/2", **options)
            merge_runs([folder / "part-1", folder / "part-2"], folder / "run")
        else:
            demo.check(samples, folder / "run", **options)
    shutil.rmtree(data)
    return FinishedCheck(folder / "run", {row["id"]: row for row in rows}, sizes_px)


def page_data(page: Path | str) -> dict[str, Any]:
    """Return the JSON data of a page."""
    text = page.read_text(encoding="utf-8") if isinstance(page, Path) else page
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data: dict[str, Any] = json.loads(html.unescape(content) if "&#34;" in content else content)
    return data


def fixed(value: float | None, digits: int = 3) -> str:
    """Format a figure as the tables of the page do: halves are rounded up, as in JavaScript."""
    if value is None:
        return "–"
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def number(text: str) -> float:
    """Return the number of a table cell."""
    return np.nan if text == "–" else float(text.replace("−", "-"))


class CheckPage:
    """The page of a check in a browser."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def table(self, name: str) -> list[list[str]]:
        """Return the texts of a table's cells, row by row."""
        cells: list[list[str]] = self.page.evaluate(
            "(name) => [...$(name).rows].map((row) => [...row.cells].map((cell) => cell.innerText))", name
        )
        return cells

    def cards(self) -> list[int]:
        """Return the row number of each card, in their order."""
        rows: list[int] = self.page.evaluate(
            "() => [...document.querySelectorAll('#cards .pictures')].map((card) => drawnCards.get(card).row)"
        )
        return rows

    def listed(self) -> list[str]:
        """Return the ids in the table of all samples, in their order."""
        ids: list[str] = self.page.evaluate(
            "() => [...document.querySelectorAll('#rows tbody .open')].map((button) => button.textContent)"
        )
        return ids

    def text(self, selector: str) -> str:
        """Return the text of an element."""
        return str(self.page.locator(selector).inner_text())

    def wait(self, expression: str, argument: Any = None) -> None:
        """Wait until a JavaScript function returns true; the page's policy forbids Playwright's `wait_for_function`."""
        waiting = f"""async (argument) => {{
          const end_ms = performance.now() + {1000 * PATIENCE_S};
          while (!({expression})(argument)) {{
            if (performance.now() > end_ms) return false;
            await new Promise((next) => setTimeout(next, 5));
          }}
          return true;
        }}"""
        assert self.page.evaluate(waiting, argument), f"never true: {expression} {argument}"

    def wait_drawn(self, row: int) -> None:
        """Scroll to the card of a row, and wait until all its maps are drawn."""
        self.page.evaluate("(row) => cardRow(row).scrollIntoView({ block: 'center' })".replace("cardRow", CARD), row)
        self.wait(f"(row) => ({INKED})(({CARD})(row))", row)


CARD = "((row) => [...document.querySelectorAll('#cards .pictures')].find((card) => drawnCards.get(card).row === row))"
# Whether every map of a row of pictures is painted at the size of its picture. The pixels are read from a copy, because
# Chromium warns about a canvas that is read often.
INKED = """(row) => [...row.children].every((figure) => {
  const img = figure.querySelector("img"), canvas = figure.querySelector("canvas");
  const copy = new OffscreenCanvas(6, 6).getContext("2d");
  if (!img.naturalWidth || canvas.width !== img.naturalWidth || canvas.height !== img.naturalHeight) return false;
  copy.drawImage(canvas, 0, 0, 6, 6);
  return copy.getImageData(0, 0, 6, 6).data.every((value, i) => i % 4 < 3 || value === 255);
})"""
