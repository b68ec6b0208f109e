"""Pages as their readers have them: parsed by a parser of their own, and in a browser that tells every fault."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from qvl_attn import Drawing
from qvl_attn.core.types import Scale
from qvl_attn.render.overlay import color_table, colorize, upsample

QUESTION = "how many cats? 有几只猫"
ANSWER = "two 猫 cats!"
METHODS = ("relative", "mean", "max", "gradient", "tam")
EVIL = '</script></style><img src=x onerror="window.evil=1"><svg/onload=window.evil=2>{{7*7}}'


@dataclass
class Reader(HTMLParser):
    """What is in a page: its tags, and the text of each script by its id."""

    html: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._within: tuple[str, dict[str, str | None]] = ("", {})
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self._within = (tag, dict(attrs))
        self.tags.append(self._within)

    def handle_endtag(self, tag: str) -> None:
        self._within = ("", {})

    def handle_data(self, text: str) -> None:
        tag, attrs = self._within
        if tag == "script":
            name = attrs.get("id") or "code"
            self.scripts[name] = self.scripts.get(name, "") + text
        else:
            self.texts[tag] = self.texts.get(tag, "") + text

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["data"])

    @property
    def policy(self) -> str:
        (policy,) = [one["content"] for tag, one in self.tags if one.get("http-equiv") == "Content-Security-Policy"]
        return policy or ""

    def block(self, number: int) -> np.ndarray:
        """(rows, cells): the format as its docstring says it, read again."""
        rows, cells = self.data["blocks"][number]
        return unpacked(self.scripts[f"block-{number}"], rows, cells)

    def picture(self, number: int) -> np.ndarray:
        with Image.open(BytesIO(base64.b64decode(self.scripts[f"picture-{number}"]))) as picture:
            assert picture.format == "JPEG"
            return np.asarray(picture)

    def maps(self, which: str | int, result: int = 0, method: int = 0) -> np.ndarray:
        """(rows, cells) of the headline, of `all` layers, or of a layer."""
        return self.block(self.source(which, result, method)["block"])

    def source(self, which: str | int, result: int = 0, method: int = 0) -> dict[str, Any]:
        sources = self.data["results"][result]["maps"][method]["sources"]
        (found,) = [
            one
            for one in sources
            if (one["id"] == which if isinstance(which, str) else (one["id"], one["layers"]) == ("layer", [which]))
        ]
        return found


def unpacked(text: str, rows: int, cells: int) -> np.ndarray:
    raw = zlib.decompress(base64.b64decode(text))
    assert len(raw) == 4 * rows + 2 * rows * cells
    largest = np.frombuffer(raw[: 4 * rows], "<f4").astype(np.float64)
    upper, lower = np.frombuffer(raw[4 * rows :], np.uint8).reshape(2, rows, cells)
    halves = np.stack([lower, upper], axis=-1).copy().view("<f2")[..., 0].astype(np.float64)
    return halves / 32768 * largest[:, None]


def close(got, want) -> None:
    """To the 11 bits that are kept."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert want.any(), "nothing is held against nothing"
    np.testing.assert_allclose(got, want, rtol=2**-11 * 1.001, atol=2**-38 * np.abs(want).max())


def evil_free(page) -> None:
    """Nothing of `EVIL` has become more than text."""
    assert page.evaluate("window.evil === undefined")
    assert page.locator("img[src='x'], svg[onload], [onerror]").count() == 0


@contextmanager
def opened(browser, file: Path | str, state: str = "fine", faults: Sequence[str] = (), **options) -> Iterator[Any]:
    """A page in a browser; it may not ask for anything, and no fault but the ones that are named may be told."""
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 1000}, "accept_downloads": True} | options)
    page, reported, asked = context.new_page(), [], []
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: reported.append(str(error)))
    page.on("console", lambda line: reported.append(line.text) if line.type in ("error", "warning") else None)
    told_of_us = "willReadFrequently"  # the tests read the canvases, the page does not
    page.on("dialog", lambda dialog: (reported.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    url = file if isinstance(file, str) else file.as_uri()
    try:
        page.goto(url)
        if state:
            page.wait_for_selector(f"html[data-state={state}]", state="attached")
        yield page
        reported = [line for line in reported if told_of_us not in line]
        assert len(reported) == len(faults), reported
        assert all(fault in line for fault, line in zip(faults, reported, strict=True)), reported
        assert [one for one in asked if one not in (url, page.url) and not one.startswith(("data:", "blob:"))] == []
    finally:
        context.close()


def settled(page) -> None:
    """Wait until what was changed is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def slide(page, name: str, value: Any) -> None:
    """Move a slider or choose of a list, as a hand does: the value, then the event."""
    event = "change" if page.locator(f"#{name}").evaluate("(one) => one.tagName") == "SELECT" else "input"
    page.evaluate(
        "([name, value, event]) => { const one = document.getElementById(name); one.value = value;"
        "one.dispatchEvent(new Event(event, { bubbles: true })); }",
        [name, str(value), event],
    )
    settled(page)


def shown(page, panel: int = 0) -> np.ndarray:
    """The values that a panel shows, as the page's own script has them."""
    return np.array(page.evaluate(f"[...valuesOf(state.panels[{panel}]).values]"))


def heat(page, which: int = 0) -> np.ndarray:
    """(H, W, 4) of the canvas over a picture."""
    width, height, pixels = page.evaluate(
        "(which) => { const canvas = document.querySelectorAll('.picture canvas')[which];"
        "const of = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "let text = ''; for (let i = 0; i < of.data.length; i += 8192)"
        " text += String.fromCharCode(...of.data.subarray(i, i + 8192));"
        "return [canvas.width, canvas.height, btoa(text)]; }",
        which,
    )
    return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, 4)


def png(file: bytes) -> np.ndarray:
    with Image.open(BytesIO(file)) as picture:
        return np.asarray(picture.convert("RGB"))


def crossed(result):
    """As if its first method had taken two cells out, one of each picture."""
    return replace(result, methods=(replace(result.methods[0], removed=(3, 80)), *result.methods[1:]))


def results_of(demo, cats: Path, wide: Path, clip: Path) -> Callable[[str], Any]:
    """By name: results of every kind, each made once."""
    kinds = {
        "one": lambda: demo.ask(cats, "how many cats?", heads="0-3"),
        "two": lambda: demo.ask(cats, QUESTION, [wide], answer=ANSWER),
        "methods": lambda: crossed(demo.ask(cats, "how many cats?", [wide], method=",".join(METHODS))),
        "few": lambda: demo.ask(cats, "how many cats?", layers="1-2", heads="1,3"),
        "single": lambda: demo.ask(cats, "how many cats?", layers="2"),
        "named heads": lambda: demo.ask(cats, "how many cats?", heads="0.1,3.2"),
        "half": lambda: demo.ask(cats, "how many cats?", heads="0-3", store_heads="float16"),
        "text": lambda: demo.ask(cats, "how many cats and cats?", query="text:cats"),
        "last": lambda: demo.ask(cats, "how many cats?", query="last"),
        "empty": lambda: demo.ask(cats, EVIL, max_new_tokens=1),
        "clip": lambda: demo.ask_video(clip, "what moves?", fps=10),
        "both": lambda: demo.ask_video(clip, "what moves?", fps=10, mode="both"),
        "windows": lambda: demo.ask_video(clip, "what moves?", fps=10, window=4, stride=2),
    }
    return cache(lambda name: kinds[name]())


def flat(maps) -> np.ndarray:
    return np.concatenate([one.values.ravel() for one in maps])


def levels(pixels: np.ndarray, colormap: str) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last place in the table of colours that has each pixel's colour."""
    weights = np.array([65536, 256, 1])
    codes, seen = color_table(colormap)[:, 0].astype(int) @ weights, pixels[..., :3].astype(int) @ weights
    known, first = np.unique(codes, return_index=True)
    last = 255 - np.unique(codes[::-1], return_index=True)[1]
    at = np.searchsorted(known, seen).clip(max=len(known) - 1)
    assert (known[at] == seen).all(), "a colour that the map does not have"
    return first[at], last[at]


def painted(page, cells, high: float, colormap="inferno", interp="linear", which=0, least=20) -> None:
    """Every pixel of a canvas is what `render` makes of (h, w) cells, to one level of 255."""
    pixels = heat(page, which)
    assert (pixels[..., 3] == 255).all()
    size = pixels.shape[1::-1]
    spread = upsample(np.ascontiguousarray(cells, np.float32), size, Drawing(interp=interp))
    want, until = levels(colorize(spread, Scale(0.0, high), colormap), colormap)
    first, last = levels(pixels, colormap)
    assert ((first <= until + 1) & (last >= want - 1)).all()
    assert want.max() - want.min() >= least, "nothing is held against nothing"


def shows(page, maps, panel: int = 0, step: int = 0, high: float | None = None, **drawn) -> None:
    """A panel has these heat maps, and its canvases are painted with them."""
    close(shown(page, panel), flat(maps))
    first = page.evaluate("(panel) => panel && resultOf(state.panels[0]).media.length", panel)
    for i, one in enumerate(maps):
        painted(page, one.values[step], one.scale.high if high is None else high, which=first + i, **drawn)


def asked(page) -> list[str]:
    """Which words and queries are chosen."""
    return [text.strip() for where in ("#question", "#answer", "#queries") for text in pressed(page, where)]


def pressed(page, where: str) -> list[str]:
    return page.locator(f"{where} button[aria-pressed=true]").all_inner_texts()


def what(page, panel: int = 0) -> str:
    return page.locator(".panel .what").nth(panel).inner_text()
