"""Measures the two costs besides the model: start-up and drawing.

`python scripts/benchmarks/startup.py` measures four kinds of processes in turn: a cold `ask` with the embedded model; a
script that imports torch and transformers and loads the same model and processor; the same `ask` again, whose result is
found; and an empty question. Of the last two it shows CPU time (user and system) and peak memory. `--draw` draws and
saves a result with the geometry of the 3B model: synthetic attention on a picture as noisy as a photograph.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
ASK = ["-m", "qvl_attn", "ask", str(DEMO / "pictures" / "cats.png")]
OPTIONS = ["--model", "demo", "--out"]
# From a small process of its own: the peak of a process begins with the size of the one that starts it.
WAIT = """
import os, sys
quiet = [(os.POSIX_SPAWN_OPEN, file, os.devnull, os.O_WRONLY, 0) for file in (1, 2)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, used = os.wait4(process, 0)
print(os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss)
"""

LAYERS, HEADS, SIZE_PX, GRID_THW, START = 36, 16, (1280, 960), (1, 68, 92), 15
QUESTION = "how many people in the picture are looking at the camera, and what are they all wearing on their heads?"
ANSWER = "Three people, and they wear hats."


@dataclass(frozen=True)
class Use:
    """What a process used: seconds of wall clock, seconds of CPU (user and system), and its peak memory."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def use_of(arguments: list[str], code: int = 0) -> Use:
    """Run Python with these arguments, which must end with this code, and return what the process used."""
    started = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", WAIT, sys.executable, *arguments], check=True, capture_output=True)
    wall_s = time.perf_counter() - started
    ended_with, cpu_s, peak = out.stdout.split()
    if int(ended_with) != code:
        raise RuntimeError(f"{arguments} ended with {int(ended_with)}")
    return Use(wall_s, float(cpu_s), int(peak) * (1 if sys.platform == "darwin" else 1024))


def compare_startup(times: int) -> dict[str, float | str]:
    uses: dict[str, list[Use]] = {"ask": [], "loading": [], "found": [], "empty question": []}
    for _ in range(times):
        with tempfile.TemporaryDirectory() as out:
            uses["loading"].append(use_of(["-c", LOAD_ONLY]))
            uses["ask"].append(use_of([*ASK, "how many cats?", *OPTIONS, out]))
            uses["found"].append(use_of([*ASK, "how many cats?", *OPTIONS, out]))
            uses["empty question"].append(use_of([*ASK, "", *OPTIONS, out], code=2))
    ask_times_s, load_times_s = ([use.wall_s for use in uses[name]] for name in ("ask", "loading"))
    ask_s, load_s = statistics.median(ask_times_s), statistics.median(load_times_s)
    ratio = measuring.shown(measuring.median_ratio(ask_times_s, load_times_s))
    print(f"ask {ask_s:.2f} s, imports and loading alone {load_s:.2f} s, ratio {ratio} ({times} times)")
    figures: dict[str, float | str] = {"ask over loading": ratio}
    for name in ("found", "empty question"):
        cpu_s = statistics.median(use.cpu_s for use in uses[name])
        peak_mb = statistics.median(use.peak_bytes for use in uses[name]) / 1e6
        figures |= {f"{name} CPU s": measuring.shown(cpu_s), f"{name} MB": measuring.shown(peak_mb)}
        print(f"{name}: {cpu_s:.2f} s of CPU, {peak_mb:.0f} MB")
    return figures


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
    return Result(
        question=QUESTION,
        answer=ANSWER,
        answer_logprob=-1.0,
        supplied_answer=None,
        supplied_logprob=None,
        media=(media,),
        capture=capture,
        settings=Settings(),
        provenance=provenance,
    )


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
