"""Parse pages independently of the page code, and open them in a browser that reports every error."""

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
from tests.helpers.processes import PATIENCE_S

QUESTION = "how many cats? 有几只猫"
ANSWER = "two 猫 cats!"
METHODS = ("relative", "mean", "max", "gradient", "tam")
# Tabs whose clock was stopped: it stays the tests' own, also in the pages that follow.
_WITH_OWN_CLOCK: set[Any] = set()
EVIL = '</script></style><img src=x onerror="window.evil=1"><svg/onload=window.evil=2>{{7*7}}'


@dataclass
class Reader(HTMLParser):
    """The content of a page: its tags, and the text of each script by its id."""

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
        (policy,) = [
            attrs["content"] for tag, attrs in self.tags if attrs.get("http-equiv") == "Content-Security-Policy"
        ]
        return policy or ""

    def block(self, number: int) -> np.ndarray:
        """Decode a block to (rows, cells), from the description of the format."""
        rows, cells = self.data["blocks"][number]
        return unpack(self.scripts[f"block-{number}"], rows, cells)

    def picture(self, number: int) -> np.ndarray:
        with Image.open(BytesIO(base64.b64decode(self.scripts[f"picture-{number}"]))) as picture:
            assert picture.format == "JPEG"
            return np.asarray(picture)

    def maps(self, which: str | int, result: int = 0, method: int = 0) -> np.ndarray:
        """Return the maps (rows, cells) of `headline`, of `all` layers, or of one layer."""
        return self.block(self.source(which, result, method)["block"])

    def source(self, which: str | int, result: int = 0, method: int = 0) -> dict[str, Any]:
        sources = self.data["results"][result]["maps"][method]["sources"]
        (match,) = [
            source
            for source in sources
            if (
                source["id"] == which
                if isinstance(which, str)
                else (source["id"], source["layers"]) == ("layer", [which])
            )
        ]
        return match


def unpack(text: str, rows: int, cells: int) -> np.ndarray:
    raw = zlib.decompress(base64.b64decode(text))
    assert len(raw) == 4 * rows + 2 * rows * cells
    largest = np.frombuffer(raw[: 4 * rows], "<f4").astype(np.float64)
    upper, lower = np.frombuffer(raw[4 * rows :], np.uint8).reshape(2, rows, cells)
    halves = np.stack([lower, upper], axis=-1).copy().view("<f2")[..., 0].astype(np.float64)
    return halves / 32768 * largest[:, None]


def assert_close(actual, expected) -> None:
    """Assert equality to the 11 bits that a page keeps."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert expected.any(), "the expected values are all zero"
    np.testing.assert_allclose(actual, expected, rtol=2**-11 * 1.001, atol=2**-38 * np.abs(expected).max())


def assert_evil_free(page) -> None:
    """Assert that `EVIL` is text on the page, and nothing of it ran."""
    assert page.evaluate("window.evil === undefined")
    assert page.locator("img[src='x'], svg[onload], [onerror]").count() == 0


@cache
def _idle_tabs(browser: Any) -> list[Any]:
    """Tabs of a browser that show nothing. Another one costs a process, which takes longer than most tests."""
    return []


@contextmanager
def open_tab(browser, viewport: dict[str, int], color_scheme: str = "light", **options) -> Iterator[Any]:
    """Lend an empty tab. One with options of its own, a stopped clock or a failed test is not used again."""
    idle = _idle_tabs(browser)
    page = idle.pop() if idle and not options else browser.new_context(**options).new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    page.set_viewport_size(viewport)
    page.emulate_media(color_scheme=color_scheme)
    page.mouse.move(0, 0)
    try:
        yield page
    except BaseException:
        page.context.close()
        raise
    if options or page in _WITH_OWN_CLOCK:
        page.context.close()
    else:
        page.goto("about:blank")
        idle.append(page)


@contextmanager
def open_in_browser(
    browser, file: Path | str, state: str = "fine", faults: Sequence[str] = (), **options
) -> Iterator[Any]:
    """Open a page; it must not request anything, and must report exactly the errors named in `faults`."""
    reported, requests = [], []
    from_tests = "willReadFrequently"  # the tests read the canvases, the page does not
    url = file if isinstance(file, str) else file.as_uri()
    events = {
        "pageerror": lambda error: reported.append(str(error)),
        "console": lambda line: reported.append(line.text) if line.type in ("error", "warning") else None,
        "dialog": lambda dialog: (reported.append(f"dialog {dialog.message}"), dialog.dismiss()),
        "request": lambda request: requests.append(request.url),
    }
    with open_tab(browser, **{"viewport": {"width": 1300, "height": 1000}} | options) as page:
        for name, listener in events.items():
            page.on(name, listener)
        page.goto(url)
        if state:
            page.wait_for_selector(f"html[data-state={state}]", state="attached")
            wait_until_drawn(page)  # what was unpacked last
        yield page
        for name, listener in events.items():
            page.remove_listener(name, listener)
        reported = [line for line in reported if from_tests not in line]
        assert len(reported) == len(faults), reported
        assert all(fault in line for fault, line in zip(faults, reported, strict=True)), reported
        assert [
            requested
            for requested in requests
            if requested not in (url, page.url) and not requested.startswith(("data:", "blob:"))
        ] == []


def wait_until_drawn(page) -> None:
    """Wait until a change is drawn: the page draws in the frame of the screen that follows it."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


@contextmanager
def stopped_clock(page) -> Iterator[Callable[[int], None]]:
    """Stop the page's clock; yield a function that lets so many milliseconds pass at once, with what is due in them."""
    _WITH_OWN_CLOCK.add(page)
    page.clock.install(time=0)
    page.clock.pause_at(1)
    yield page.clock.run_for
    page.clock.resume()


def set_control(page, name: str, value: Any) -> None:
    """Move a slider or choose from a list, as a user does: set the value, then send the event."""
    page.evaluate(
        """([name, value]) => {
          const control = document.getElementById(name);
          control.value = value;
          control.dispatchEvent(new Event(control.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
        }""",
        [name, str(value)],
    )
    wait_until_drawn(page)


def panel_values(page, panel: int = 0) -> np.ndarray:
    """Return the values that a panel shows, from the page's own script."""
    return np.array(page.evaluate(f"[...valuesOf(state.panels[{panel}]).values]"))


def canvas_pixels(page, which: int = 0) -> np.ndarray:
    """Return the pixels (H, W, 4) of the canvas over a picture."""
    width, height, pixels = page.evaluate(
        "(which) => { const canvas = document.querySelectorAll('.picture canvas')[which];"
        "const of = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "let text = ''; for (let i = 0; i < of.data.length; i += 8192)"
        " text += String.fromCharCode(...of.data.subarray(i, i + 8192));"
        "return [canvas.width, canvas.height, btoa(text)]; }",
        which,
    )
    return np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, 4)


def read_png(file: bytes) -> np.ndarray:
    with Image.open(BytesIO(file)) as picture:
        return np.asarray(picture.convert("RGB"))


def saved_view(page) -> tuple[np.ndarray, str]:
    """Press "save" by script, as Chromium takes a second after the mouse; return the file's pixels and name."""
    with page.expect_download() as download:
        page.locator("#save").evaluate("(button) => button.click()")
    return read_png(download.value.path().read_bytes()), download.value.suggested_filename


def with_removed_cells(result):
    """Mark two cells, one of each picture, as removed by the first method."""
    return replace(result, methods=(replace(result.methods[0], removed=(3, 80)), *result.methods[1:]))


def results_of(demo, cats: Path, wide: Path, clip: Path) -> Callable[[str], Any]:
    """Return a function from a name to a result of this kind, computed once."""
    kinds = {
        "one": lambda: demo.ask(cats, "how many cats?", heads="0-3"),
        "two": lambda: demo.ask(cats, QUESTION, [wide], answer=ANSWER),
        "methods": lambda: with_removed_cells(demo.ask(cats, "how many cats?", [wide], method=",".join(METHODS))),
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


def flatten(maps) -> np.ndarray:
    return np.concatenate([heatmap.values.ravel() for heatmap in maps])


def color_levels(pixels: np.ndarray, colormap: str) -> tuple[np.ndarray, np.ndarray]:
    """Return for each pixel the first and the last index of its colour in the colour table."""
    weights = np.array([65536, 256, 1])
    codes, pixel_codes = color_table(colormap)[:, 0].astype(int) @ weights, pixels[..., :3].astype(int) @ weights
    known, first = np.unique(codes, return_index=True)
    last = 255 - np.unique(codes[::-1], return_index=True)[1]
    at = np.searchsorted(known, pixel_codes).clip(max=len(known) - 1)
    assert (known[at] == pixel_codes).all(), "a colour that is not in the colour map"
    return first[at], last[at]


def assert_painted(page, cells, high: float, colormap="inferno", interp="linear", which=0, least=20) -> None:
    """Assert that each pixel of a canvas is what `render` draws for (h, w) cells, to one of 255 levels."""
    pixels = canvas_pixels(page, which)
    assert (pixels[..., 3] == 255).all()
    size = pixels.shape[1::-1]
    spread = upsample(np.ascontiguousarray(cells, np.float32), size, Drawing(interp=interp))
    expected_first, expected_last = color_levels(colorize(spread, Scale(0.0, high), colormap), colormap)
    first, last = color_levels(pixels, colormap)
    assert ((first <= expected_last + 1) & (last >= expected_first - 1)).all()
    assert expected_first.max() - expected_first.min() >= least, "the expected colours hardly differ"


def assert_shows(page, maps, panel: int = 0, step: int = 0, high: float | None = None, **drawn) -> None:
    """Assert that a panel has these heat maps, and that its canvases show them."""
    assert_close(panel_values(page, panel), flatten(maps))
    first = page.evaluate("(panel) => panel && resultOf(state.panels[0]).media.length", panel)
    for i, heatmap in enumerate(maps):
        assert_painted(
            page, heatmap.values[step], heatmap.scale.high if high is None else high, which=first + i, **drawn
        )


def selected_queries(page) -> list[str]:
    """Return the selected words and queries."""
    return [text.strip() for where in ("#question", "#answer", "#queries") for text in pressed_buttons(page, where)]


def pressed_buttons(page, where: str) -> list[str]:
    return page.locator(f"{where} button[aria-pressed=true]").all_inner_texts()


def panel_caption(page, panel: int = 0) -> str:
    return page.locator(".panel .what").nth(panel).inner_text()
