"""Measures the size and speed of the page of a large result in a headless browser.

    python scripts/benchmarks/report.py

The result has the size of a 7B result, with random attention (log-normal, a few sinks): 28 layers of 28 heads, 40 words
on 1,000 cells. Prints the seconds to build the page, and its size with and without the picture; the times from opening
the file until the coarse maps and until all maps are shown, and the longest task in between; then the median and worst
time from a change of the layer, the word, the opacity, the colours or the cell under the pointer to the next frame on
screen. Exit code 1 if the page without the picture is larger than 5 MB.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import measuring
import numpy as np
from playwright.sync_api import Page, sync_playwright

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.types import Capture, Media, Token
from qvl_attn.model.token_grid import picture_grid
from qvl_attn.results.page_data import results_html
from qvl_attn.vqa.record import VqaProvenance
from qvl_attn.vqa.result import Result

MAX_BYTES = 5_000_000
# Simulates user input, and measures the time until the next frame is on screen.
CHANGES = ("layer", "word", "opacity", "colours", "cell")
SCRIPT = """async ([change, layers, words]) => {
  const fire = (id, name, value) => {
    const element = document.getElementById(id);
    element.value = value;
    element.dispatchEvent(new Event(name));
  };
  const figure = document.querySelector(".picture"), box = figure.getBoundingClientRect();
  const at = (i) => ({ clientX: box.left + (7 * i) % box.width, clientY: box.top + (5 * i) % box.height });
  const changes = {
    layer: (i) => fire("layer", "input", i % layers),
    word: (i) => document.querySelectorAll(".word")[i % words].click(),
    opacity: (i) => fire("alpha", "input", (i % 20) / 20),
    colours: (i) => fire("colormap", "change", ["inferno", "viridis", "jet"][i % 3]),
    cell: (i) => figure.dispatchEvent(new PointerEvent("pointermove", at(i))),
  };
  const times = [];
  for (let i = 0; i < 25; i++) {
    const start = performance.now();
    changes[change](i);
    await new Promise((resolve) => requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = resolve;
      channel.port2.postMessage(0);
    }));
    times.push(performance.now() - start);
  }
  return times;
}"""
WATCH = """
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.longest = Math.max(window.longest ?? 0, entry.duration);
}).observe({ type: "longtask", buffered: true });
new MutationObserver(() => {
  (window.stateTimes ??= {})[document.documentElement.dataset.state] = performance.now();
}).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-state"] });
"""


def large_result(layers: int = 28, heads: int = 28, words: int = 40, rows: int = 25, columns: int = 40) -> Result:
    """Return a result of this size with random attention; with 0 heads it has no attention by head."""
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
    first_word = 2 + cells
    tokens = [Token(i, "x", role) for i, role in enumerate(roles)]
    for i, (start, stop) in enumerate(spans):
        tokens[first_word + i] = Token(first_word + i, question[start:stop], "question", (start, stop))
    tokens[-2:] = [Token(len(roles) - 2, "two", "answer", (0, 3)), Token(len(roles) - 1, " cats", "answer", (3, 8))]
    last = first_word + words + 1
    queries = np.array([*range(first_word, first_word + words), last, last + 1], dtype=np.int64)
    query_roles = np.array([*["question"] * words, "last", "answer"])
    attention = rng.lognormal(0, 1.6, (layers, max(heads, 1), len(queries), cells)).astype(np.float32)
    attention[..., :: cells // 3] *= 40
    attention *= rng.uniform(0.05, 0.6, attention.shape[:3])[..., None] / attention.sum(axis=-1, keepdims=True)
    mean = attention.mean(axis=1).astype(np.float32)
    capture = Capture(
        layers=np.arange(layers, dtype=np.int64),
        queries=queries,
        query_role=query_roles,
        produces=np.array([*[-1] * words, last + 1, last + 2], dtype=np.int64),
        weights=mean,
        vision_mass=mean.sum(axis=-1),
        grids=(picture_grid((1, 2 * rows, 2 * columns), 2, 1, size_px),),
        tokens=tuple(tokens),
        weights_by_head=attention if heads else None,
    )
    provenance = VqaProvenance("0", "0", "0", "random", "0", "float32", "cpu", "eager", layers, max(heads, 1), {}, {})
    media = Media("picture", picture[None], np.zeros(1), size_px, "noise.png", "0")
    return Result(
        question=question,
        answer="two cats",
        answer_logprob=0.0,
        supplied_answer=None,
        supplied_logprob=None,
        media=(media,),
        capture=capture,
        settings=Settings(),
        provenance=provenance,
    )


def figures_of_page(address: str, layers: int, words: int) -> dict[str, float | str]:
    """Open a page in Chromium, and return how long it takes to answer."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.add_init_script(WATCH)
        page.goto(address)
        page.wait_for_selector("html[data-state=fine]", state="attached", timeout=60_000)
        figures = times_in_browser(page, layers, words)
        browser.close()
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    sizes = {"layers": 28, "heads": 28, "words": 40, "rows": 25, "columns": 40}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    measuring.add_write_option(parser, "report")
    options = parser.parse_args(arguments)
    result = large_result(**{name: getattr(options, name) for name in sizes})
    start = time.perf_counter()
    html = results_html([result])
    seconds = time.perf_counter() - start
    picture = html.index('id="picture-0">') + len('id="picture-0">')
    picture_bytes = html.index("<", picture) - picture
    other_bytes = len(html.encode()) - picture_bytes
    print(f"built in {seconds:.2f} s; {other_bytes / 1e6:.2f} MB without the picture ({picture_bytes / 1e6:.2f} MB)")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        file.write_text(html, encoding="utf-8")
        # Playwright runs once in a process, which may have it open already.
        figures = measuring.in_own_process(figures_of_page, file.as_uri(), options.layers, options.words)
    figures |= {"MB": f"{other_bytes / 1e6:.2f}", "built s": f"{seconds:.1f}"}
    measuring.write_figures(options.write, "report", arguments, figures)
    return int(other_bytes > MAX_BYTES)


def times_in_browser(page: Page, layers: int, words: int) -> dict[str, float | str]:
    """Print the times measured in the browser, and return those that the documents quote."""
    state_times_ms = page.evaluate("window.stateTimes")
    print(f"coarse maps after {state_times_ms['coarse']:.0f} ms, all maps after {state_times_ms['fine']:.0f} ms")
    print(f"longest task until then {page.evaluate('window.longest ?? 0'):.0f} ms")
    times_ms: dict[str, list[float]] = {}
    for change in CHANGES:
        times_ms[change] = page.evaluate(SCRIPT, [change, layers, words])
        row = times_ms[change]
        print(f"{change:<8} median {statistics.median(row):5.0f} ms, worst {max(row):5.0f} ms")
    redrawn = [times_ms[change] for change in CHANGES if change != "cell"]
    return {
        "coarse s": f"{state_times_ms['coarse'] / 1000:.1f}",
        "all s": f"{state_times_ms['fine'] / 1000:.1f}",
        "change ms": round(max(statistics.median(row) for row in redrawn)),
        "worst ms": round(max(map(max, redrawn))),
        "cell ms": round(statistics.median(times_ms["cell"])),
    }


if __name__ == "__main__":
    sys.exit(main())
