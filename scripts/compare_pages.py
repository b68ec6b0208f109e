"""What a page carries and what it draws, in any layout: decoded maps and pictures, and its canvases in a browser."""

from __future__ import annotations

import io
import json
import re
import shutil
import zlib
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

NUMBER = re.compile(r"(?<![\w.])[-+]?\d*\.?\d+")
CARRIED = re.compile(r'<script type="(?:application/json|text/plain)" id="([^"]+)">(.*?)</script>', re.DOTALL)
INLINE = re.compile(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)")

# What is done on a page, one after another: a control, and its value, what the text of its option begins with, or None
# for a click. A comma stands between the names that a control has on different pages. What a page lacks is passed over.
Action = tuple[str, str | int | float | None]
STATES: dict[str, list[Action]] = {
    "start": [],
    "layer": [("#layer", 1)],
    "viridis, cells": [("#colormap", "viridis"), ("#interp", "as boxes")],
    "shared scale": [("#scale", "one for all layers")],
    "head": [("#heads td, #head-thumbs button", None)],
    "second frame": [("#frame, #step", 1), ("#alpha", 0.8)],
    "scale of the frame": [("#scale", "each frame")],
    "own scale": [("#scale", "this map"), ("#interp", "smooth")],
    "word": [(".word", None)],
    "query": [("#queries button:nth-child(3)", None)],
    "similarity": [("select#map, #kind", "cosine similarity")],
    "saliency": [("select#map, #kind", "Grad-CAM")],
    "attention": [("select#map, #kind", "attention")],
    "cell": [(".picture", None)],
    "input": [("#back, #input", None)],
    "method": [("select#map, #kind", "relative")],
    "side by side": [("#compare", None)],
    "result": [("#questions button:nth-child(2), #results button:nth-child(2)", None)],
    "card": [(".sample .open", None)],
}
ACT = """([selector, value]) => {
  const control = [...document.querySelectorAll(selector)].find((found) => found.checkVisibility() && !found.disabled);
  if (!control) return false;
  if (value === null) {
    const { x, y, width, height } = control.getBoundingClientRect();
    control.dispatchEvent(
      new MouseEvent("click", { bubbles: true, clientX: x + 0.55 * width, clientY: y + 0.55 * height }),
    );
    return true;
  }
  if (control.options) {
    const option = [...control.options].find((found) => found.text.startsWith(value) && !found.disabled);
    if (!option) return false;
    control.value = option.value;
  } else control.value = value;
  control.dispatchEvent(new Event(control.options ? "change" : "input", { bubbles: true }));
  return true;
}"""
# Cards below the first are drawn when they are scrolled to.
LOOK = """async () => {
  for (const wait of [1, 2]) await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  if (document.querySelector(".sample")) await new Promise((done) => setTimeout(done, 300));
  const all = (selector) => [...document.querySelectorAll(selector)].filter(
    (found) => found.checkVisibility() && !found.closest(".sample:not(:first-child)"),
  );
  const round = (value) => Number(value.toFixed(3));
  const within = (inner, outer) => [
    round((inner.x - outer.x) / outer.width), round((inner.y - outer.y) / outer.height),
    round(inner.width / outer.width), round(inner.height / outer.height),
  ];
  const canvases = all(".picture canvas, .thumb canvas").map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let text = "";
    for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
    const picture = canvas.closest(".picture");
    return {
      pixels: btoa(text), shape: [canvas.height, canvas.width, 4], opacity: canvas.style.opacity,
      place: picture ? within(canvas.getBoundingClientRect(), picture.getBoundingClientRect()) : null,
    };
  });
  const marks = all(".picture svg").map((svg) => {
    const { width, height } = svg.viewBox.baseVal, sides = [width, height, width, height];
    return [...svg.querySelectorAll("rect")].map((mark) =>
      ["x", "y", "width", "height"].map((name, i) => round(Number(mark.getAttribute(name)) / sides[i])));
  });
  return {
    canvases,
    images: all(".picture img").map((image) => image.src),
    marks: marks.filter((rects) => rects.length),
    panels: all(".panel > :not(h2)").map((part) => part.innerText).join("\\n"),
    text: document.querySelector("main").innerText,
  };
}"""


def frames(file: bytes) -> list[np.ndarray]:
    """The frames of a picture: one, unless it moves."""
    with Image.open(io.BytesIO(file)) as image:
        return [np.asarray(frame) for frame in ImageSequence.Iterator(image)]


def carried(file: bytes) -> dict[str, Any]:
    """What a page carries: each row of its maps, each picture, and the numbers of its data, in no order.

    A row is packed by itself (see payload.py): it has the same bytes in every block.
    """
    html, parts = file.decode(), dict[str, str]()
    for name, text in CARRIED.findall(html):
        parts[name] = text
    if "data" not in parts:
        raise ValueError("a page without data")
    data, rows = json.loads(parts["data"]), dict[str, bool]()
    for number, (count, cells) in enumerate(data["blocks"]):
        raw = np.frombuffer(zlib.decompress(b64decode(parts[f"block-{number}"])), np.uint8)
        largest, halves = raw[: 4 * count].view("<f4"), raw[4 * count :].reshape(2, count, cells)
        for row in range(count):
            digest = zlib.crc32(np.ascontiguousarray(halves[:, row]).tobytes())
            rows[f"{cells} cells up to {float(largest[row]):.9g}, {digest:08x}"] = True
    pictures = {
        f"{' x '.join(map(str, frame.shape))}, {zlib.crc32(frame.tobytes()):08x}": True
        for name, text in parts.items()
        if name.startswith("picture-")
        for frame in frames(b64decode(text))
    }
    inline = {f"inline-{i}": frames(b64decode(text)) for i, text in enumerate(INLINE.findall(CARRIED.sub("", html)))}
    numbers = {repr(number): True for number in _numbers({key: data[key] for key in data if key != "top"})}
    return {"rows": rows, "pictures": pictures, "numbers": numbers, **inline}


def _numbers(value: Any) -> Iterator[float]:
    """All numbers of JSON that are not whole."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, float) and not value.is_integer():
        yield value


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium: the system's, else the one that playwright installed."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def drawn(browser: Any, path: Path) -> dict[str, Any]:
    """What a page shows in a browser in each of `STATES`."""
    with _opened(browser, path) as page:
        shown = {}
        for state, actions in STATES.items():
            if all(page.evaluate(ACT, action) for action in actions):
                shown[state] = _seen(page.evaluate(LOOK))
        return shown


@contextmanager
def _opened(browser: Any, path: Path) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1300, "height": 1000}, locale="en-GB")
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    try:
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("html[data-state=fine]", state="attached")
        yield page
    finally:
        page.close()
    if faults:
        raise ValueError(f"{path}: {faults[0]}")


def _seen(look: dict[str, Any]) -> dict[str, Any]:
    canvases = look["canvases"]
    return {
        "canvases": [np.frombuffer(b64decode(one["pixels"]), np.uint8).reshape(one["shape"]) for one in canvases],
        "places": [[one["opacity"], one["place"]] for one in canvases],
        "images": [f"{zlib.crc32(address.encode()):08x}" for address in look["images"]],
        "marks": look["marks"],
        "(numbers)": NUMBER.findall(look["panels"]),
        "(lines)": [line for line in look["text"].splitlines() if line.strip()],
    }
