"""Compares the memory that `qvl-attn estimate` expects with what a process uses.

    python scripts/benchmarks/memory.py                                                         # some ten minutes
    python scripts/benchmarks/memory.py --geometry 3b --ways rows --dtypes bfloat16 --cells 1000

Checkpoints with random weights in bfloat16, as wide as the 3B and the 7B and with few layers (`3b` has all 36, and
takes 7 GiB of disk and 9 of memory), are asked about pictures of noise, every question in a process of its own, which
loads, answers, draws and saves. Compared are the peaks of the resident size of that process while it reads the weights
and after that, and the memory of the answer alone. Exit code 1 if a process used more than was estimated, or less than
two thirds of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring
import torch
from random_checkpoint import Geometry, make_checkpoint, noise

from qvl_attn import Analyzer
from qvl_attn.model.memory import ESTIMATED_MODES, drawing_bytes
from qvl_attn.vqa.engine import Engine
from qvl_attn.vqa.question import Question

MOST = 1.5  # times what was used
# Numbers of vision tokens. The memory of the usual way grows with their square.
SIZES = {"rows": (1000, 4000), "eager": (1000, 4000), "usual": (1000, 2000)}
# As wide as the 3B and the 7B; each layer adds only its weights, its keys and its values.
GEOMETRIES: dict[str, Geometry] = {
    "3b-wide": ((2048, 11008, 4, 16, 2), (1280, 3420, 2, 16)),
    "7b-wide": ((3584, 18944, 2, 28, 4), (1280, 3420, 2, 16)),
    "3b": ((2048, 11008, 36, 16, 2), (1280, 3420, 32, 16)),
}
VOCABULARY = {"3b": 151936}
QUESTION = "Describe this image."


def usual(engine: Engine, question: Question) -> torch.Tensor:
    """Return the attention matrices of all layers, stacked and averaged over heads."""
    model = engine.model
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


def measure(model: str, media: str, way: str, dtype: str, *, save: bool = True, **options: Any) -> dict[str, Any]:
    """Estimate a question, then ask it; return both, in bytes.

    Args:
        model: a checkpoint.
        media: a picture or a clip.
        way: one of `ESTIMATED_MODES`.
        dtype: the precision.
        save: whether to draw and save the result, too.
        options: the keywords of `Analyzer.estimate`.
    """
    analyzer = Analyzer.load(model, dtype=dtype, device="cpu", attn="rows" if way == "usual" else way)
    estimate = analyzer.estimate(media, QUESTION, **options)
    measuring.forget_peak()
    _ = analyzer.engine.model
    loading, loaded = measuring.peak_bytes(), measuring.resident_bytes()
    measuring.forget_peak()
    if way == "usual":
        engine = analyzer.engine
        usual(engine, engine.prepare([([media], QUESTION)], engine.settings(**options))[0])
        answered = measuring.peak_bytes()
    else:
        ask = analyzer.ask_video if estimate.drawing_bytes > drawing_bytes() else analyzer.ask
        result = ask(media, QUESTION, **options)
        answered = measuring.peak_bytes()
        if save:
            with tempfile.TemporaryDirectory() as out:
                result.save(out)
    return {
        "tokens": estimate.job.tokens,
        "answer": (estimate.needed_bytes[way], answered - loaded),
        "loading": (estimate.loading_bytes, loading),
        "process": (estimate.peak_bytes(way), measuring.peak_bytes()),
    }


def is_off(row: dict[str, Any]) -> bool:
    """Return whether a process used more than was estimated, or much less."""
    return any(not used <= estimated <= MOST * used for estimated, used in (row["loading"], row["process"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if an estimate is too far off."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", action="append", help="a checkpoint to use instead of random ones; repeatable")
    parser.add_argument("--geometry", nargs="+", default=list(GEOMETRIES)[:2], choices=GEOMETRIES)
    parser.add_argument("--ways", nargs="+", default=list(ESTIMATED_MODES), choices=ESTIMATED_MODES)
    parser.add_argument("--cells", nargs="+", type=int, help="vision tokens; by default two sizes for each mode")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="float32, bfloat16, float16")
    measuring.add_write_option(parser, "memory")
    options = parser.parse_args(arguments)
    failures, table, ratios = 0, [], []
    titles = ("answer", "used", "loading", "used", "process", "used", "ratio")
    print(f"{'model':<10}{'way':<7}{'dtype':<10}{'tokens':>7}  MiB:" + "".join(f"{title:>9}" for title in titles))
    with tempfile.TemporaryDirectory() as name:
        folder, models = Path(name), options.model
        if not models:
            for geometry in options.geometry:
                sizes = GEOMETRIES[geometry], folder / geometry, VOCABULARY.get(geometry)
                measuring.in_own_process(make_checkpoint, *sizes)
            models = [str(folder / geometry) for geometry in options.geometry]
        for model in models:
            for dtype in options.dtypes:
                for way in options.ways:
                    for cells in options.cells or SIZES[way]:
                        noise(cells, folder / "noise.png")
                        case = model, str(folder / "noise.png"), way, dtype
                        row = measuring.in_own_process(measure_at, *case)
                        failures += is_off(row)
                        mib = [f"{size / 2**20:,.0f}" for key in ("answer", "loading", "process") for size in row[key]]
                        ratios.append(row["process"][0] / row["process"][1])
                        table.append([Path(model).name, way, dtype, f"{row['tokens']:,}", *mib, f"{ratios[-1]:.2f}"])
                        print(
                            f"{table[-1][0]:<10}{way:<7}{dtype:<10}{table[-1][3]:>7}      "
                            + "".join(f"{cell:>9}" for cell in table[-1][4:])
                            + ("  OFF" if is_off(row) else ""),
                            flush=True,
                        )
    figures: dict[str, float | str] = {"least": f"{min(ratios):.2f}", "most": f"{max(ratios):.2f}"}
    measuring.write_figures(options.write, "memory", arguments, figures, {"cases": table})
    return int(failures > 0)


def measure_at(*case: str) -> dict[str, Any]:
    """Measure a picture at its own size, with a short answer."""
    return measure(*case, max_new_tokens=8, max_pixels=2**25)


if __name__ == "__main__":
    sys.exit(main())
