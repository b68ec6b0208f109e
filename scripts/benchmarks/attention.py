"""Measures time and memory of four ways to answer the same question about the same picture.

    python scripts/benchmarks/attention.py --repeats 2 --write

usual   as in notebooks: eager attention in the language model, all matrices of `output_attentions=True` stored,
        stacked, averaged over heads, and then reduced to rows. The vision encoder uses SDPA, so that only the capture
        of attention is compared.
eager   this package's capture, eager attention in blocks of rows.
rows    this package's capture, rows computed beside SDPA: the code that `ask` runs.
plain   SDPA without capture.

Every run is a separate process, and the ways alternate, so that a slowdown of the machine affects all of them. Weights
are random with a fixed seed, and the picture is noise: neither changes the cost of attention. Memory is the peak during
the answer minus the memory with weights and inputs loaded: torch's allocations on a GPU, else the resident size.
`--write` keeps the figures, and a plot beside them (needs the extra `benchmark`, matplotlib).
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch
from transformers import AutoModelForImageTextToText, GenerationConfig, Qwen2_5_VLConfig

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.runtime import Stages
from qvl_attn.core.types import Media
from qvl_attn.model.checkpoint import find_checkpoint
from qvl_attn.model.generate import Recording, greedy, on_model, own_answers
from qvl_attn.model.loading import DTYPES, choose_placement, load_config, load_processor
from qvl_attn.model.memory import free_bytes, peak_bytes
from qvl_attn.model.prompt import CELL_PX
from qvl_attn.vqa.question import Question, read_question

WAYS = ("usual", "eager", "rows", "plain")
QUESTION = "how many people are standing in front of the red house?"


def _text(*sizes: int) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    head_size = sizes[0] // sizes[3]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [head_size * n // 16 for n in (2, 3, 3)]}
    return {**dict(zip(names, sizes, strict=True)), "rope_parameters": rope, "initializer_range": 0.02}


def _vision(*sizes: int, full: list[int]) -> dict[str, Any]:
    names = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size")
    return {**dict(zip(names, sizes, strict=True)), "fullatt_block_indexes": full, "initializer_range": 0.02}


REAL = [7, 15, 23, 31]
# Changes to the configs of the embedded model, whose tokenizer all shapes use (so that none may have a smaller
# vocabulary than it), and whether embeddings are tied.
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "small": ({}, {}, True),
    "middle": (_text(512, 2752, 8, 8, 2), _vision(4, 160, 428, 2, 512, full=[3]), True),
    "3b": (_text(2048, 11008, 36, 16, 2) | {"vocab_size": 151936}, _vision(32, 1280, 3420, 16, 2048, full=REAL), True),
    "7b": (_text(3584, 18944, 28, 28, 4) | {"vocab_size": 152064}, _vision(32, 1280, 3420, 16, 3584, full=REAL), False),
}


@dataclass(frozen=True)
class Case:
    """One benchmark case; `tokens` is the number of vision tokens."""

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
    # Without an end token every way generates the maximum number of tokens.
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model.eval()


def noise_question(processor: Any, config: Any, tokens: int, new_tokens: int) -> Question:
    """Prepare a question about a picture of noise with `tokens` vision tokens."""
    rows = next(n for n in range(math.isqrt(tokens), 0, -1) if tokens % n == 0)
    size_px = (tokens // rows * CELL_PX, rows * CELL_PX)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *reversed(size_px), 3), dtype=np.uint8)
    settings = Settings(max_new_tokens=new_tokens, max_pixels=tokens * CELL_PX**2)
    noise = Media("picture", pixels, np.zeros(1), size_px, "noise", "")
    return read_question(processor, config, [noise], QUESTION, settings)


def answer(way: str, model: Any, tokenizer: Any, question: Question) -> tuple[int, np.ndarray | None]:
    """Return the number of tokens that a way generated, and the rows it captured: (layers, rows, vision tokens)."""
    prompt, generation = question.prompt, greedy(model, question.settings.max_new_tokens)
    if way in ("eager", "rows"):
        (answered,) = own_answers(model, tokenizer, [prompt], Recording(way, question.selection.layers), generation)
        return len(answered.capture.tokens) - prompt.length, answered.capture.weights
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
        queries, vision = [*prompt.positions("question"), prompt.length - 1], list(prompt.positions("vision"))
        first, *steps = (torch.stack(layers)[:, 0].mean(dim=1) for layers in output.attentions)
        rows = torch.cat([first[:, queries][:, :, vision], *(step[:, :, vision] for step in steps)], dim=1)
        return len(ids), rows.float().cpu().numpy()


def measure(case: Case) -> dict[str, Any]:
    """Run one case, in a separate process: a process never returns all its memory."""
    checkpoint, config = find_checkpoint("demo"), shape_config(case.shape)
    processor = load_processor(checkpoint, config)
    model = random_model(case)
    answer(case.way, model, processor.tokenizer, noise_question(processor, config, min(64, case.tokens), 2))
    question = noise_question(processor, config, case.tokens, case.new_tokens)
    cuda = case.device.startswith("cuda")
    device_before = 0
    gc.collect()
    if cuda:
        torch.cuda.synchronize()
        device_before = torch.cuda.memory_allocated()
    measuring.forget_peak()
    before, stages = measuring.resident_bytes(), Stages()
    with stages.stage("answer"):
        started = time.perf_counter()
        count, rows = answer(case.way, model, processor.tokenizer, question)
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    host = measuring.peak_bytes() - before
    if (question.job.cells, count) != (case.tokens, case.new_tokens):
        raise ValueError(f"{question.job.cells} vision tokens and {count} new tokens instead of those of {case}")
    return {
        **asdict(case),
        "prompt_tokens": question.prompt.length,
        "seconds": seconds,
        "host_bytes": host,
        "extra_bytes": stages.peak_bytes["answer"]["device"] - device_before if cuda else host,
        "vision_share": None if rows is None else float(rows.sum(axis=-1).mean()),
    }


def choose_cases(options: argparse.Namespace) -> tuple[list[Case], list[dict[str, Any]]]:
    """Return the cases that should fit the free memory, and the skipped ones."""
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
            reason = f"needs about {needed / 2**30:.1f} GiB with the weights, and {free / 2**30:.1f} GiB are free"
            skipped.append({"way": way, "tokens": tokens, "estimated_bytes": needed, "why": reason})
            print(f"{tokens:6} {way:6} skipped: {reason}", flush=True)
    return cases, skipped


def run_all(cases: list[Case], repeats: int, skipped: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run all cases, then all again, so that a temporary slowdown of the machine affects all ways."""
    runs = []
    for repeat in range(repeats):
        for case in list(cases):
            label = f"{case.tokens:6} {case.way:6}"
            try:
                run = measuring.in_own_process(measure, case)
            except (MemoryError, RuntimeError) as error:  # from torch, or the system killed the process
                reason = f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
                cases.remove(case)
                skipped.append({"way": case.way, "tokens": case.tokens, "why": reason})
                print(label, reason, flush=True)
                continue
            runs.append(run | {"repeat": repeat})
            print(label, f"{run['seconds']:8.2f} s {run['extra_bytes'] / 2**20:8.0f} MiB", flush=True)
    return runs


def medians(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the median time and memory of each way at each size, and their ratios to `plain`."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for run in runs:
        rows.setdefault((run["tokens"], run["way"]), {"tokens": run["tokens"], "way": run["way"]})
    for (tokens, way), row in rows.items():
        repeats = [run for run in runs if (run["tokens"], run["way"]) == (tokens, way)]
        for name in ("seconds", "extra_bytes", "host_bytes"):
            row[name] = statistics.median(run[name] for run in repeats)
    for (tokens, _), row in rows.items():
        plain = rows.get((tokens, "plain"))
        row["time_ratio"] = measuring.ratio(row["seconds"], plain["seconds"]) if plain else None
        row["memory_ratio"] = measuring.ratio(row["extra_bytes"], plain["extra_bytes"]) if plain else None
    return list(rows.values())


def bars(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check the limits that the capture must meet on a CPU from 4,000 tokens on."""
    large = {(row["tokens"], row["way"]): row for row in rows if row["tokens"] >= 4000}
    checks = []
    for tokens in sorted({tokens for tokens, _ in large}):
        ours, plain, usual = (large.get((tokens, way)) for way in ("rows", "plain", "usual"))
        for name, kind in (("seconds", "time"), ("extra_bytes", "memory")):
            if ours and plain:
                ratio = ours[name] / plain[name]
                checks.append({"bar": f"{tokens}: rows / plain {kind} <= 1.10", "value": ratio, "passed": ratio <= 1.1})
            if ours and usual:
                ratio, minimum = usual[name] / ours[name], 3 if kind == "time" else 25
                checks.append(
                    {"bar": f"{tokens}: usual / rows {kind} >= {minimum}", "value": ratio, "passed": ratio >= minimum}
                )
    return checks


def print_report(rows: Sequence[dict[str, Any]], checks: Sequence[dict[str, Any]]) -> None:
    print(f"\n{'tokens':>6} {'way':6} {'seconds':>9} {'x plain':>8} {'extra MiB':>10} {'x plain':>8}")
    for row in rows:
        ratios = [f"{row[name]:8.2f}" if row[name] else f"{'':8}" for name in ("time_ratio", "memory_ratio")]
        size = row["extra_bytes"] / 2**20
        print(f"{row['tokens']:6} {row['way']:6} {row['seconds']:9.2f} {ratios[0]} {size:10.0f} {ratios[1]}")
    for check in checks:
        print(f"{'PASS' if check['passed'] else 'FAIL'}  {check['bar']}  ({check['value']:.2f})")


def tables(rows: Sequence[dict[str, Any]], ways: Sequence[str]) -> dict[str, list[list[str]]]:
    """Return time and memory relative to plain by number of tokens, then seconds and MiB of plain."""
    by_case = {(row["tokens"], row["way"]): row for row in rows}
    table = []
    for tokens in sorted({tokens for tokens, _ in by_case}):
        cells = [f"{tokens:,}"]
        for way in ways:
            row = by_case.get((tokens, way), {})
            if way == "plain":
                mib = row["extra_bytes"] / 2**20 if row else None
                cells += [measuring.shown(row.get("seconds"), 1), measuring.shown(mib, 0)]
            else:
                cells += [measuring.shown(row.get(name)) for name in ("time_ratio", "memory_ratio")]
        table.append(cells)
    return {"ways": table}


def draw(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Plot the time relative to `plain`, and the extra memory, against the number of vision tokens."""
    from matplotlib.figure import Figure  # optional: nothing else needs it

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
        if any(row[name] for row in rows):  # tiny shapes take no memory that can be seen
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


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return sorted({int(number) for number in text.split(",")})

    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=numbers, default=[1024, 2048, 4096, 8192, 16384], help="vision tokens")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(WAYS), help=",".join(WAYS))
    parser.add_argument(
        "--shape", choices=SHAPES, default="middle", help="model geometry; 3b and 7b are the released ones"
    )
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--new-tokens", type=int, default=4, help="number of generated tokens")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way and size")
    measuring.add_write_option(parser, "attention")
    options = parser.parse_args(arguments)
    if unknown := set(options.ways) - set(WAYS):
        parser.error(f"--ways {','.join(sorted(unknown))}: unknown")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_arguments(arguments)
    measuring.keep_no_freed_blocks()
    cases, skipped = choose_cases(options)
    runs = run_all(cases, options.repeats, skipped)
    rows = medians(runs)
    if not runs:
        raise SystemExit("nothing was measured")
    device, dtype = runs[0]["device"], runs[0]["dtype"]
    print_report(rows, bars(rows) if device == "cpu" else [])
    if options.write:
        estimates = {
            f"{case['way']} {case['tokens']} GiB": round(case["estimated_bytes"] / 2**30)
            for case in skipped
            if "estimated_bytes" in case
        }
        measuring.write_figures(
            options.write, "attention", arguments, estimates, tables(rows, options.ways), device=device
        )
        title = f"shape {options.shape}, {dtype}, {hardware(device)}, {options.new_tokens} new tokens"
        draw(rows, title, options.write.with_suffix(".png"))


def hardware(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    main()
