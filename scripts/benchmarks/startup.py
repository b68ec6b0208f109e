"""Measures the two costs besides the model: start-up and drawing.

`python scripts/benchmarks/startup.py` times two kinds of processes in turn: a cold `ask` with the embedded model, and a
script that imports torch and transformers and loads the same model and processor. `--draw` draws and saves a result
with the geometry of the 3B model: synthetic attention on a picture as noisy as a photograph.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import measuring
import numpy as np

import qvl_attn
from qvl_attn.attribution.settings import Settings
from qvl_attn.core.types import Capture, Media, Token
from qvl_attn.core.version import __version__
from qvl_attn.model.token_grid import picture_grid
from qvl_attn.vqa.record import VqaProvenance
from qvl_attn.vqa.result import Result

DEMO = Path(qvl_attn.__file__).parent / "demo"
LOAD_ONLY = f"""
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
Qwen2_5_VLForConditionalGeneration.from_pretrained({str(DEMO / "model")!r}, dtype=torch.float32,
    attn_implementation="sdpa")
AutoProcessor.from_pretrained({str(DEMO / "model")!r})
"""
ASK = ["-m", "qvl_attn", "ask", str(DEMO / "pictures" / "cats.png"), "how many cats?", "--model", "demo"]

LAYERS, HEADS, SIZE_PX, GRID_THW, START = 36, 16, (1280, 960), (1, 68, 92), 15
QUESTION = "how many people in the picture are looking at the camera, and what are they all wearing on their heads?"
ANSWER = "Three people, and they wear hats."


def process_seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def compare_startup(times: int) -> dict[str, float | str]:
    ask_times_s, load_times_s = [], []
    for _ in range(times):
        load_times_s.append(process_seconds(["-c", LOAD_ONLY]))
        with tempfile.TemporaryDirectory() as out:
            ask_times_s.append(process_seconds([*ASK, "--out", out]))
    ask_s, load_s = statistics.median(ask_times_s), statistics.median(load_times_s)
    ratio = measuring.shown(measuring.median_ratio(ask_times_s, load_times_s))
    print(f"ask {ask_s:.2f} s, imports and loading alone {load_s:.2f} s, ratio {ratio} ({times} times)")
    return {"ask over loading": ratio}


def photograph(rng: np.random.Generator) -> np.ndarray:
    """Return noise at all scales, stronger at larger ones, as in photographs."""
    octaves = [cv2.resize(rng.normal(0, 2.0**-i, (3 * 2**i, 4 * 2**i, 3)), SIZE_PX) for i in range(9)]
    return np.clip(128 + 60 * sum(octaves), 0, 255).astype(np.uint8)


def word_tokens(text: str, role: str, start: int) -> list[Token]:
    """Return one token for every word, with the space before it."""
    tokens, offset = [], 0
    for i, word in enumerate(text.split()):
        stop = text.index(word, offset) + len(word)
        tokens.append(Token(start + i, text[offset:stop], role, (offset, stop)))
        offset = stop
    return tokens


def synthetic_result() -> Result:
    rng = np.random.default_rng(0)
    grid = picture_grid(GRID_THW, 2, START, SIZE_PX)
    tokens = [Token(i, "", "template") for i in range(START)]
    tokens += [Token(START + i, "<|image_pad|>", "vision") for i in range(grid.cells)]
    tokens += word_tokens(QUESTION, "question", len(tokens))
    tokens.append(last := Token(len(tokens), "\n", "last"))
    tokens += word_tokens(ANSWER, "answer", len(tokens))
    tokens.append(Token(len(tokens), "<|im_end|>", "template"))
    queries = np.array([token.position for token in tokens if token.role in ("question", "last", "answer")])
    weights = rng.gamma(0.3, size=(LAYERS, len(queries), grid.cells))
    weights = (0.3 * weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    capture = Capture(
        layers=np.arange(LAYERS),
        queries=queries,
        query_role=np.array([tokens[position].role for position in queries]),
        produces=np.where(queries >= last.position, queries + 1, -1),
        weights=weights,
        vision_mass=weights.sum(axis=-1),
        grids=(grid,),
        tokens=tuple(tokens),
    )
    versions = {"qvl_attn": __version__, "transformers": "", "torch": "", "model": "synthetic", "revision": ""}
    versions |= {"dtype": "float32", "device": "cpu", "attention": "eager"}
    provenance = VqaProvenance(**versions, layer_count=LAYERS, head_count=HEADS, generation={}, processor_size={})
    media = Media("picture", photograph(rng)[None], np.zeros(1), SIZE_PX, "photograph.png", "")
    return Result(QUESTION, ANSWER, -1.0, None, None, (media,), capture, Settings(), provenance)


def time_drawing(times: int) -> dict[str, float | str]:
    result, seconds = synthetic_result(), []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as out:
            started = time.perf_counter()
            result.save(out)
            seconds.append(time.perf_counter() - started)
    print(f"drawing and saving {LAYERS} layers: {statistics.median(seconds):.2f} s ({times} times)")
    return {"drawing s": measuring.shown(statistics.median(seconds), 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--times", type=int, default=5, help="number of repetitions")
    parser.add_argument("--draw", action="store_true", help="measure drawing instead of start-up")
    measuring.add_write_option(parser, "startup")
    options = parser.parse_args(arguments)
    figures = (time_drawing if options.draw else compare_startup)(options.times)
    measuring.write_figures(options.write, "startup", arguments, figures)


if __name__ == "__main__":
    main()
