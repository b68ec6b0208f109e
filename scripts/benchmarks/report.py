"""How large the page of a large result is, and how quick: made here, opened in a real browser without a window.

    python scripts/benchmarks/report.py [--layers 28 --heads 28 --words 40 --rows 25 --columns 40]

The result is as a 7B gives it, with attention drawn at random (log-normal, a few sinks): 28 layers of 28 heads,
40 words on 1,000 cells. Printed are: seconds to make the page and its size, the picture's own and the rest; from the
opening of the file, when the first (coarse) maps stood and when all were there, and the longest task meanwhile; then
the median and the worst time from a change of the layer, the word, the opacity, the colours and the pointed cell to the
next picture on the screen. Exit code 1 if what is beside the picture is more than 5 MB.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.types import Capture, Media, Token
from qvl_attn.model.token_grid import picture_grid
from qvl_attn.vqa.page import result_html
from qvl_attn.vqa.record import VqaProvenance
from qvl_attn.vqa.result import Result

MOST_BYTES = 5_000_000
# What a user does, and how long until it is on the screen.
SCRIPT = """async (how) => {
  const fire = (id, name, value) => {
    const element = document.getElementById(id);
    element.value = value;
    element.dispatchEvent(new Event(name));
  };
  const figure = document.querySelector(".picture"), box = figure.getBoundingClientRect();
  const at = (i) => ({ clientX: box.left + (7 * i) % box.width, clientY: box.top + (5 * i) % box.height });
  const changes = {
    layer: (i) => fire("layer", "input", i % 28),
    word: (i) => document.querySelectorAll(".word")[i % 40].click(),
    opacity: (i) => fire("alpha", "input", (i % 20) / 20),
    colours: (i) => fire("colormap", "change", ["inferno", "viridis", "jet"][i % 3]),
    cell: (i) => figure.dispatchEvent(new PointerEvent("pointermove", at(i))),
  };
  const times = [];
  for (let i = 0; i < 25; i++) {
    const start = performance.now();
    changes[how](i);
    await new Promise((done) => requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = done;
      channel.port2.postMessage(0);
    }));
    times.push(performance.now() - start);
  }
  return times;
}"""
WATCH = """
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) window.longest = Math.max(window.longest ?? 0, one.duration);
}).observe({ type: "longtask", buffered: true });
new MutationObserver(() => {
  (window.stood ??= {})[document.documentElement.dataset.state] = performance.now();
}).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-state"] });
"""


def large_result(layers: int = 28, heads: int = 28, words: int = 40, rows: int = 25, columns: int = 40) -> Result:
    """A result of that many of each, its attention drawn at random; 0 heads for none kept apart."""
    rng = np.random.default_rng(0)
    size_px, cells = (columns * 28, rows * 28), rows * columns
    smooth = rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8).repeat(28, axis=0).repeat(28, axis=1)
    picture = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    question = " ".join(f"word{i}" for i in range(words))
    spans = [
        (0 if i == 0 else question.index(f" word{i}"), question.index(f"word{i}") + len(f"word{i}"))
        for i in range(words)
    ]
    roles = ["template", *["vision"] * cells, "template", *["question"] * words, "template", "last", "answer", "answer"]
    asked = 2 + cells
    tokens = [Token(i, "x", role) for i, role in enumerate(roles)]
    for i, (start, stop) in enumerate(spans):
        tokens[asked + i] = Token(asked + i, question[start:stop], "question", (start, stop))
    tokens[-2:] = [Token(len(roles) - 2, "two", "answer", (0, 3)), Token(len(roles) - 1, " cats", "answer", (3, 8))]
    last = asked + words + 1
    queries = np.array([*range(asked, asked + words), last, last + 1], dtype=np.int64)
    roles_of = np.array([*["question"] * words, "last", "answer"])
    attention = rng.lognormal(0, 1.6, (layers, max(heads, 1), len(queries), cells)).astype(np.float32)
    attention[..., :: cells // 3] *= 40
    attention *= rng.uniform(0.05, 0.6, attention.shape[:3])[..., None] / attention.sum(axis=-1, keepdims=True)
    mean = attention.mean(axis=1).astype(np.float32)
    capture = Capture(
        layers=np.arange(layers, dtype=np.int64),
        queries=queries,
        query_role=roles_of,
        produces=np.array([*[-1] * words, last + 1, last + 2], dtype=np.int64),
        weights=mean,
        vision_mass=mean.sum(axis=-1),
        grids=(picture_grid((1, 2 * rows, 2 * columns), 2, 1, size_px),),
        tokens=tuple(tokens),
        weights_by_head=attention if heads else None,
    )
    made = VqaProvenance("0", "0", "0", "random", "0", "float32", "cpu", "eager", layers, max(heads, 1), {}, {})
    media = Media("picture", picture[None], np.zeros(1), size_px, "noise.png", "0")
    return Result(question, "two cats", 0.0, None, None, (media,), capture, Settings(), made)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"layers": 28, "heads": 28, "words": 40, "rows": 25, "columns": 40}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    result = large_result(**vars(parser.parse_args()))
    start = time.perf_counter()
    html = result_html([result])
    seconds = time.perf_counter() - start
    picture = html.index('id="picture-0">') + len('id="picture-0">')
    of_picture = html.index("<", picture) - picture
    beside = len(html.encode()) - of_picture
    print(f"made in {seconds:.2f} s; {beside / 1e6:.2f} MB beside the picture ({of_picture / 1e6:.2f} MB)")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        file = Path(folder) / "report.html"
        file.write_text(html, encoding="utf-8")
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.add_init_script(WATCH)
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-state=fine]", state="attached", timeout=60_000)
        report(page)
        browser.close()
    return int(beside > MOST_BYTES)


def report(page: Page) -> None:
    """Print what the browser measured."""
    stood = page.evaluate("window.stood")
    print(f"coarse maps stood after {stood['coarse']:.0f} ms, all after {stood['fine']:.0f} ms")
    print(f"longest task meanwhile {page.evaluate('window.longest ?? 0'):.0f} ms")
    for how in ("layer", "word", "opacity", "colours", "cell"):
        times = page.evaluate(SCRIPT, how)
        print(f"{how:<8} median {statistics.median(times):5.0f} ms, worst {max(times):5.0f} ms")


if __name__ == "__main__":
    sys.exit(main())
