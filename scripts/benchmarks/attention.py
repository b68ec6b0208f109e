"""Times four ways to answer the same question about the same picture, and measures their memory.

    python scripts/benchmarks/attention.py --out benchmark

usual   what notebooks do: the language model under eager attention, all matrices of `output_attentions=True` kept,
        stacked, averaged over heads, and only then cut down to rows. The vision tower stays under SDPA, so that what is
        compared is the capture of attention and nothing else.
eager   our capture, eager attention in blocks of rows.
rows    our capture, the rows beside SDPA: the code that `ask` runs.
plain   SDPA, and nothing captured.

Every run is a process of its own, and the ways take turns, so that a machine that grows slower is slower for all of
them. Weights are random, from a fixed seed, and the picture is noise: neither changes what attention costs. Memory is
the peak of the answer over what the process held with weights and inputs ready: on a GPU what torch held there, else
what was resident. Writes `benchmark.json` with every run, and `benchmark.png` where there is matplotlib (the extra
`benchmark`).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import AutoModelForImageTextToText, GenerationConfig, Qwen2_5_VLConfig

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.runtime import Stages
from qvl_attn.core.types import Media
from qvl_attn.model.checkpoint import DTYPES, choose_placement, find_checkpoint, load_config, load_processor
from qvl_attn.model.generate import Recording, greedy, on_model, own_answers
from qvl_attn.model.memory import free_bytes, peak_bytes
from qvl_attn.model.prompt import CELL_PX
from qvl_attn.vqa.question import Question, read_question

WAYS = ("usual", "eager", "rows", "plain")
QUESTION = "how many people are standing in front of the red house?"


def _text(*sizes: int) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    head_size = sizes[0] // sizes[3]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [head_size * n // 16 for n in (2, 3, 3)]}
    return {**dict(zip((*names, "vocab_size"), sizes, strict=True)), "rope_parameters": rope, "initializer_range": 0.02}


def _vision(*sizes: int, full: list[int]) -> dict[str, Any]:
    names = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size")
    return {**dict(zip(names, sizes, strict=True)), "fullatt_block_indexes": full, "initializer_range": 0.02}


REAL = [7, 15, 23, 31]
# What differs from the embedded model, whose tokenizer serves all of them; and whether the head is the embedding.
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "small": ({}, {}, True),
    "middle": (_text(512, 2752, 8, 8, 2, 560), _vision(4, 160, 428, 2, 512, full=[3]), True),
    "3b": (_text(2048, 11008, 36, 16, 2, 151936), _vision(32, 1280, 3420, 16, 2048, full=REAL), True),
    "7b": (_text(3584, 18944, 28, 28, 4, 152064), _vision(32, 1280, 3420, 16, 3584, full=REAL), False),
}


@dataclass(frozen=True)
class Case:
    """One run; `tokens` are vision tokens."""

    way: str
    tokens: int
    shape: str
    dtype: str
    device: str
    new_tokens: int


def shape_config(shape: str) -> Qwen2_5_VLConfig:
    text, vision, tied = SHAPES[shape]
    raw = load_config(find_checkpoint("demo")).to_dict()
    raw["text_config"] |= {"layer_types": None, "max_position_embeddings": 128000, "tie_word_embeddings": tied, **text}
    raw["vision_config"] |= vision
    return Qwen2_5_VLConfig(**raw | {"tie_word_embeddings": tied})


def random_model(case: Case) -> Any:
    torch.manual_seed(0)
    with torch.device(case.device):
        model = AutoModelForImageTextToText.from_config(
            shape_config(case.shape), dtype=DTYPES[case.dtype], attn_implementation="sdpa"
        )
    # Without an end token every way generates as many tokens as it may.
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model.eval()


def noise_question(processor: Any, config: Any, tokens: int, new_tokens: int) -> Question:
    """The question about a picture of noise with so many vision tokens."""
    rows = next(n for n in range(math.isqrt(tokens), 0, -1) if tokens % n == 0)
    size_px = (tokens // rows * CELL_PX, rows * CELL_PX)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *reversed(size_px), 3), dtype=np.uint8)
    settings = Settings(max_new_tokens=new_tokens, max_pixels=tokens * CELL_PX**2)
    noise = Media("picture", pixels, np.zeros(1), size_px, "noise", "")
    return read_question(processor, config, [noise], QUESTION, settings)


def answer(way: str, model: Any, tokenizer: Any, question: Question) -> tuple[int, np.ndarray | None]:
    """How many tokens one way generated, and the rows it captured: (layers, rows, vision tokens)."""
    prompt, generation = question.prompt, greedy(model, question.settings.max_new_tokens)
    if way in ("eager", "rows"):
        (own,) = own_answers(model, tokenizer, [prompt], Recording(way, question.layers), generation)
        return len(own.capture.tokens) - prompt.length, own.capture.weights
    inputs = on_model(prompt.inputs, model)
    with torch.inference_mode():
        if way == "plain":
            ids = model.generate(**inputs, generation_config=generation)[0, prompt.length :]
            tokenizer.decode(ids.tolist())
            return len(ids), None
        model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
        generation.update(output_attentions=True, return_dict_in_generate=True)
        output = model.generate(**inputs, generation_config=generation)
        ids = output.sequences[0, prompt.length :]
        tokenizer.decode(ids.tolist())
        wanted, vision = [*prompt.positions("question"), prompt.length - 1], list(prompt.positions("vision"))
        first, *steps = (torch.stack(layers)[:, 0].mean(dim=1) for layers in output.attentions)
        rows = torch.cat([first[:, wanted][:, :, vision], *(step[:, :, vision] for step in steps)], dim=1)
        return len(ids), rows.float().cpu().numpy()


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(case: Case) -> dict[str, Any]:
    """Run one case; in a process of its own, since the memory of a process never quite returns."""
    checkpoint, config = find_checkpoint("demo"), shape_config(case.shape)
    processor = load_processor(checkpoint, config)
    model = random_model(case)
    answer(case.pass_mode, model, processor.tokenizer, noise_question(processor, config, min(64, case.tokens), 2))
    question = noise_question(processor, config, case.tokens, case.new_tokens)
    cuda = case.device.startswith("cuda")
    device_before = 0
    gc.collect()
    if cuda:
        torch.cuda.synchronize()
        device_before = torch.cuda.memory_allocated()
    peaks = Path("/proc/self/clear_refs")
    if peaks.exists():
        peaks.write_text("5", encoding="ascii")  # VmHWM starts anew
    stages = Stages()
    before = _resident("VmRSS") if peaks.exists() else 0
    with stages.stage("answer"):
        started = time.perf_counter()
        count, rows = answer(case.pass_mode, model, processor.tokenizer, question)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    sampled = stages.peak_bytes["answer"]
    host = _resident("VmHWM") - before if peaks.exists() else sampled["host"] - sampled["before"]
    if (question.job.cells, count) != (case.tokens, case.new_tokens):
        raise ValueError(
            f"{question.job.cells} vision tokens and {count} new ones, where others were asked for: {case}"
        )
    return {
        **asdict(case),
        "prompt_tokens": question.prompt.length,
        "seconds": seconds,
        "host_bytes": host,
        "extra_bytes": sampled["device"] - device_before if cuda else host,
        "vision_share": None if rows is None else float(rows.sum(axis=-1).mean()),
    }


def in_own_process(case: Case) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, case).result()


def choose_cases(options: argparse.Namespace) -> tuple[list[Case], list[dict[str, Any]]]:
    """The cases that are estimated to fit the free memory, and those that are not."""
    config = shape_config(options.shape)
    placement = choose_placement(config, options.device, options.dtype)
    job = noise_question(load_processor(find_checkpoint("demo"), config), config, 4, options.new_tokens).job
    free = free_bytes(placement)
    cases, skipped = [], []
    for tokens in options.tokens:
        for way in options.ways:
            case = Case(way, tokens, options.shape, placement.dtype, placement.device, options.new_tokens)
            attention = "rows" if way == "plain" else way
            needed = placement.weight_bytes + peak_bytes(
                config, placement.dtype, replace(job, cells=tokens), attention, placement.device
            )
            if needed <= free:
                cases.append(case)
                continue
            why = f"needs about {needed / 2**30:.1f} GiB with the weights, and {free / 2**30:.1f} GiB are free"
            skipped.append({"way": way, "tokens": tokens, "estimated_bytes": needed, "why": why})
            print(f"{tokens:6} {way:6} skipped: {why}", flush=True)
    return cases, skipped


def run_all(cases: list[Case], repeats: int, skipped: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every case once, then every case again: what slows the machine for a while falls on all ways."""
    runs = []
    for repeat in range(repeats):
        for case in list(cases):
            said = f"{case.tokens:6} {case.pass_mode:6}"
            try:
                run = in_own_process(case)
            except (MemoryError, RuntimeError) as error:  # of torch, or the system ended the process
                why = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
                cases.remove(case)
                skipped.append({"way": case.pass_mode, "tokens": case.tokens, "why": why})
                print(said, why, flush=True)
                continue
            runs.append(run | {"repeat": repeat})
            print(said, f"{run['seconds']:8.2f} s {run['extra_bytes'] / 2**20:8.0f} MiB", flush=True)
    return runs


def medians(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median time and memory of each way at each size, and both over those of plain."""
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for run in runs:
        found.setdefault((run["tokens"], run["way"]), {"tokens": run["tokens"], "way": run["way"]})
    for (tokens, way), row in found.items():
        same = [run for run in runs if (run["tokens"], run["way"]) == (tokens, way)]
        for name in ("seconds", "extra_bytes", "host_bytes"):
            row[name] = statistics.median(run[name] for run in same)
    for (tokens, _), row in found.items():
        plain = found.get((tokens, "plain"))
        row["time_ratio"] = row["seconds"] / plain["seconds"] if plain else None
        row["memory_ratio"] = row["extra_bytes"] / plain["extra_bytes"] if plain and plain["extra_bytes"] else None
    return list(found.values())


def bars(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the capture promises on a CPU from 4k tokens on, and whether it was kept."""
    found = {(row["tokens"], row["way"]): row for row in rows if row["tokens"] >= 4000}
    kept = []
    for tokens in sorted({tokens for tokens, _ in found}):
        ours, plain, usual = (found.get((tokens, way)) for way in ("rows", "plain", "usual"))
        for name, kind in (("seconds", "time"), ("extra_bytes", "memory")):
            if ours and plain:
                ratio = ours[name] / plain[name]
                kept.append({"bar": f"{tokens}: rows / plain {kind} <= 1.10", "value": ratio, "passed": ratio <= 1.1})
            if ours and usual:
                ratio, least = usual[name] / ours[name], 3 if kind == "time" else 25
                kept.append(
                    {"bar": f"{tokens}: usual / rows {kind} >= {least}", "value": ratio, "passed": ratio >= least}
                )
    return kept


def print_report(rows: Sequence[dict[str, Any]], kept: Sequence[dict[str, Any]]) -> None:
    print(f"\n{'tokens':>6} {'way':6} {'seconds':>9} {'x plain':>8} {'extra MiB':>10} {'x plain':>8}")
    for row in rows:
        ratios = [f"{row[name]:8.2f}" if row[name] else f"{'':8}" for name in ("time_ratio", "memory_ratio")]
        size = row["extra_bytes"] / 2**20
        print(f"{row['tokens']:6} {row['way']:6} {row['seconds']:9.2f} {ratios[0]} {size:10.0f} {ratios[1]}")
    for one in kept:
        print(f"{'PASS' if one['passed'] else 'FAIL'}  {one['bar']}  ({one['value']:.2f})")


def machine(device: str) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "system": platform.platform(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "environment": {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MALLOC_MMAP_THRESHOLD_")},
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
    }


def draw(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Time over plain and extra memory against vision tokens."""
    from matplotlib.figure import Figure  # an extra that nothing else needs

    names = {"usual": "usual way", "eager": "qvl-attn, eager", "rows": "qvl-attn, rows", "plain": "plain SDPA"}
    styles = {
        "usual": {"color": "#c0392b", "marker": "s"},
        "eager": {"color": "#e0922f", "marker": "^"},
        "plain": {"color": "#7f8c8d", "marker": "o", "linewidth": 5, "alpha": 0.45, "markersize": 9},
        "rows": {"color": "#1f6fb2", "marker": "o"},
    }
    panels = (("time_ratio", 1, "time of the answer, × plain"), ("extra_bytes", 2**20, "extra peak memory, MiB"))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    sizes = sorted({row["tokens"] for row in rows})
    for panel, (name, unit, label) in zip(axes, panels, strict=True):
        for way, style in styles.items():
            points = [(row["tokens"], row[name] / unit) for row in rows if row["way"] == way and row[name] is not None]
            if points:
                panel.plot(*zip(*sorted(points), strict=True), label=names[way], **{"linewidth": 2, **style})
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_xticks(sizes, [f"{size / 1024:g}k" for size in sizes])
        panel.yaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
        panel.minorticks_off()
        panel.set_xlabel("vision tokens")
        panel.set_title(label, fontsize=11)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.suptitle(title, fontsize=9, color="#555555")
    figure.savefig(path, dpi=150)


def parse_arguments() -> argparse.Namespace:
    def numbers(words: str) -> list[int]:
        return sorted({int(word) for word in words.split(",")})

    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=numbers, default=[1024, 2048, 4096, 8192, 16384], help="vision tokens")
    parser.add_argument("--ways", type=lambda words: words.split(","), default=list(WAYS), help=",".join(WAYS))
    parser.add_argument("--shape", choices=SHAPES, default="middle", help="of the model; 3b and 7b are the real ones")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--new-tokens", type=int, default=4, help="how many tokens are generated")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each way and size")
    parser.add_argument("--out", type=Path, default=Path("benchmark"), help="folder for benchmark.json and .png")
    options = parser.parse_args()
    if unknown := set(options.ways) - set(WAYS):
        parser.error(f"--ways {','.join(sorted(unknown))}: unknown")
    return options


def main() -> None:
    options = parse_arguments()
    # For the processes to come: else glibc keeps freed blocks of up to 32 MiB, in one run more than in the next.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 * 2**20))
    cases, skipped = choose_cases(options)
    runs = run_all(cases, options.repeats, skipped)
    rows = medians(runs)
    if not runs:
        raise SystemExit("nothing was measured")
    device, dtype = runs[0]["device"], runs[0]["dtype"]
    kept = bars(rows) if device == "cpu" else []
    print_report(rows, kept)
    report = {
        "machine": machine(device),
        "versions": {name: version(name) for name in ("qvl-attn", "torch", "transformers", "numpy")},
        "arguments": {**vars(options), "out": str(options.out)},
        "runs": runs,
        "skipped": skipped,
        "medians": rows,
        "bars": kept,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "benchmark.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    where = report["machine"]["gpu"] or f"{report['machine']['threads']} CPU threads"
    title = f"shape {options.shape}, {dtype}, {where}, {options.new_tokens} new tokens"
    draw(rows, title, options.out / "benchmark.png")


if __name__ == "__main__":
    main()
