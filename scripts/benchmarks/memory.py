"""Compares the memory that `qvl-attn estimate` expects with the measured one, for each attention mode.

`python scripts/benchmarks/memory.py` creates two checkpoints with random weights, of the real widths and few layers,
and asks about pictures of noise of three sizes in each mode, every question in a separate process. The measured memory
is the peak of the process's resident size, sampled every 5 ms, minus its size after the question was prepared and the
weights were loaded. Exit code 1 if an estimate is more than 20 % off where more than 150 MiB were measured.

The processes run with MALLOC_MMAP_THRESHOLD_=4194304 unless it is set already: by default glibc keeps freed blocks of
up to 32 MiB, and how many differs between runs, independently of attention.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from random_checkpoint import make_checkpoint, noise

from qvl_attn import Analyzer
from qvl_attn.attribution.settings import Settings
from qvl_attn.core.runtime import Stages
from qvl_attn.model.memory import ESTIMATED_MODES
from qvl_attn.vqa.estimate import estimate_of
from qvl_attn.vqa.question import Question

FLOOR_MIB, TOLERANCE = 150, 0.2
# Numbers of vision tokens. The memory of the usual way grows with their square.
SIZES = {"rows": (1000, 2000, 4000), "eager": (1000, 2000, 4000), "usual": (1000, 2000, 3000)}
# Language model: hidden, MLP, layers, heads, key heads. Vision encoder: hidden, MLP, depth, heads.
# As wide as the 3B and the 7B, with few layers; each layer adds only its keys and values, which are counted separately.
GEOMETRIES = {
    "3b-wide": ((2048, 11008, 4, 16, 2), (1280, 3420, 2, 16)),
    "7b-wide": ((3584, 18944, 2, 28, 4), (1280, 3420, 2, 16)),
}


def usual(analyzer: Analyzer, question: Question) -> torch.Tensor:
    """Return the attention matrices of all layers, stacked and averaged over heads."""
    model = analyzer.model
    model.set_attn_implementation({"text_config": "eager"})
    with torch.inference_mode():
        out = model.generate(
            **question.prompt.inputs,
            max_new_tokens=question.settings.max_new_tokens,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
        return torch.stack(out.attentions[0]).mean(dim=2)


def measure(model: str, picture: str, way: str, dtype: str) -> dict[str, Any]:
    """Estimate a question, then ask it."""
    attention = "rows" if way == "usual" else way
    analyzer = Analyzer.load(model, dtype=dtype, device="cpu", attn=attention)
    settings = Settings(max_new_tokens=8, max_pixels=2**25)
    question = analyzer.prepare([([picture], "Describe this image.")], settings)[0]
    estimate = estimate_of(analyzer.config, analyzer.placement, question, analyzer.free_bytes())
    _ = analyzer.model
    stages = Stages()
    with stages.stage("answer"):
        _ = usual(analyzer, question) if way == "usual" else list(analyzer.answer([question]))
    peak = stages.peak_bytes["answer"]
    measured = peak["host"] - peak["before"]
    return {"tokens": estimate.job.tokens, "estimated": estimate.needed_bytes[way], "measured": measured}


def in_own_process(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", *arguments]
    environment = {"MALLOC_MMAP_THRESHOLD_": str(4 * 2**20), **os.environ}
    completed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(completed.stdout.splitlines()[-1])


def main(options: argparse.Namespace) -> int:
    """Print the table; return 1 if an estimate is too far off."""
    failures = 0
    print(f"{'model':<12}{'way':<8}{'tokens':>8}{'estimated MiB':>15}{'measured MiB':>14}{'ratio':>8}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder, models = Path(name), options.model
        if not models:
            for geometry in options.geometry:
                make_checkpoint(GEOMETRIES[geometry], folder / geometry)
            models = [str(folder / geometry) for geometry in options.geometry]
        for model in models:
            for way in options.ways:
                for cells in options.cells or SIZES[way]:
                    noise(cells, folder / "noise.png")
                    row = in_own_process(model, str(folder / "noise.png"), way, options.dtype)
                    estimated, measured = row["estimated"] / 2**20, row["measured"] / 2**20
                    failed = measured > FLOOR_MIB and abs(estimated / measured - 1) > TOLERANCE
                    failures += failed
                    numbers = f"{row['tokens']:>8}{estimated:>15.0f}{measured:>14.0f}{estimated / measured:>8.2f}"
                    print(f"{Path(model).name:<12}{way:<8}{numbers}{'  OFF' if failed else ''}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", help="a checkpoint to use instead of random ones; repeatable")
    parser.add_argument(
        "--geometry", nargs="+", default=list(GEOMETRIES), choices=GEOMETRIES, help="of random checkpoints"
    )
    parser.add_argument(
        "--ways", nargs="+", default=list(ESTIMATED_MODES), choices=ESTIMATED_MODES, help="attention modes"
    )
    parser.add_argument("--cells", nargs="+", type=int, help="vision tokens; by default three sizes for each mode")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
    else:
        sys.exit(main(arguments))
