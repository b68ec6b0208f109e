"""Runs of checks whose pages are tested, and their pages in a browser."""

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

EVIL = "</script><img src=x onerror=\"document.title='evil'\">"
EVIL_FILE = "'><img src=x onerror=alert(1)>&amp;.png"
# By chance, and of the best and the worst: fewer than there are samples.
SHOWN, EACH = 13, 2


@dataclass(frozen=True)
class Checked:
    """A finished run, whose data set is gone, and what was typed in it."""

    folder: Path
    typed: dict[str, dict[str, Any]]
    sizes_px: dict[str, tuple[int, int]]

    @property
    def page(self) -> Path:
        return self.folder / "report.html"

    @property
    def summary(self) -> dict[str, Any]:
        return summary_of(self.folder)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """In the order of the data set."""
        return sorted(rows_of(self.folder), key=lambda row: row["index"])


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "image", "question")}


def _wrong(row: dict[str, Any]) -> dict[str, Any]:
    """Every third answer is what the model does not say."""
    return row | ({"answer": "an Elephant"} if row["number"] % 3 == 1 else {})


def _evil(row: dict[str, Any]) -> dict[str, Any]:
    if row["number"] == 1:
        return row | {"image": EVIL_FILE, "id": f"{row['id']} {EVIL}", "question": f"what? {EVIL}", "answer": EVIL}
    return row | ({"id": f"broken {EVIL}", "image": f"broken {EVIL_FILE}"} if row["number"] == 2 else {})


# What is typed of each row, how many rows, and how they are asked.
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


def check(demo: Any, kind: str, folder: Path) -> Checked:
    """Make a data set, run it, and take the data set away."""
    alter, limit, how = KINDS[kind]
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
    if "calibrate" in how:
        how = how | {"calibrate": folder / "profile.json"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qvl_attn.evaluation.outputs.write_charts", lambda *args: [])
        patch.setattr("qvl_attn.evaluation.examples.SHOWN", SHOWN)
        patch.setattr("qvl_attn.evaluation.outputs.EACH", EACH)
        if kind == "merged":
            for part in (1, 2):
                demo.check(samples, folder / f"part-{part}", shard=f"{part}/2", **how)
            merge_runs([folder / "part-1", folder / "part-2"], folder / "run")
        else:
            demo.check(samples, folder / "run", **how)
    shutil.rmtree(data)
    return Checked(folder / "run", {row["id"]: row for row in rows}, sizes_px)


def page_data(page: Path | str) -> dict[str, Any]:
    """What a page's script is told."""
    text = page.read_text(encoding="utf-8") if isinstance(page, Path) else page
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data: dict[str, Any] = json.loads(html.unescape(found) if "&#34;" in found else found)
    return data


def fixed(value: float | None, digits: int = 3) -> str:
    """As the page writes a figure of a table: a half is rounded up, as JavaScript does."""
    if value is None:
        return "–"
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def number(text: str) -> float:
    return np.nan if text == "–" else float(text.replace("−", "-"))


class Opened:
    """A page in a browser, and everything that it complained about or asked for."""

    def __init__(self, chromium: Any, file: Path, **options: Any) -> None:
        self.file = file
        self.complaints: list[str] = []
        self.requests: list[str] = []
        options = {"viewport": {"width": 1200, "height": 800}, "locale": "en-US"} | options
        self.context = chromium.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(10_000)
        self.page.on("console", lambda one: self.complaints.append(f"{one.type}: {one.text}"))
        self.page.on("pageerror", lambda fault: self.complaints.append(f"error: {fault}"))
        self.page.on("request", lambda one: self.requests.append(one.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-state=fine]", state="attached")

    def close(self) -> None:
        """It was silent, and asked for nothing."""
        self.context.close()
        assert [line for line in self.complaints if line.startswith(("error", "warning"))] == []
        assert {url for url in self.requests if not url.startswith("data:")} == {self.file.as_uri()}

    def table(self, name: str) -> list[list[str]]:
        found: list[list[str]] = self.page.evaluate(
            "(name) => [...$(name).rows].map((row) => [...row.cells].map((one) => one.innerText))", name
        )
        return found

    def cards(self) -> list[int]:
        """The rows of the cards, in their order."""
        found: list[int] = self.page.evaluate(
            "() => [...document.querySelectorAll('#cards .pictures')].map((one) => drawnCards.get(one).row)"
        )
        return found

    def listed(self) -> list[str]:
        """The ids in the table of all samples, in their order."""
        found: list[str] = self.page.evaluate(
            "() => [...document.querySelectorAll('#rows tbody .open')].map((one) => one.textContent)"
        )
        return found

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def wait(self, expression: str, argument: Any = None, within_s: float = 5) -> None:
        """Until it is so; the page's policy forbids Playwright's own way."""
        for _ in range(int(within_s / 0.02)):
            if self.page.evaluate(expression, argument):
                return
            self.page.wait_for_timeout(20)
        raise AssertionError(f"it never came to be so: {expression} {argument}")

    def wait_drawn(self, row: int) -> None:
        """Scroll to a card, and wait until all of its maps are there."""
        self.page.evaluate("(row) => cardRow(row).scrollIntoView({ block: 'center' })".replace("cardRow", CARD), row)
        self.wait(f"(row) => ({INKED})(({CARD})(row))", row)


CARD = "((row) => [...document.querySelectorAll('#cards .pictures')].find((one) => drawnCards.get(one).row === row))"
# Whether every map of a row of pictures has been painted at the size of its picture. It is read from a copy, since
# Chromium warns of a canvas that is read often.
INKED = """(row) => [...row.children].every((figure) => {
  const [img, canvas] = figure.children, copy = new OffscreenCanvas(6, 6).getContext("2d");
  if (!img.naturalWidth || canvas.width !== img.naturalWidth || canvas.height !== img.naturalHeight) return false;
  copy.drawImage(canvas, 0, 0, 6, 6);
  return copy.getImageData(0, 0, 6, 6).data.every((value, i) => i % 4 < 3 || value === 255);
})"""
