"""Measures time and memory of three ways to run a vision encoder on one picture.

    python scripts/benchmarks/encoder.py --patches 576 1024 2304 4096

plain   SDPA without capture.
look    the capture of `qvl-attn encoder`: the attention of every layer and head summed in blocks of query rows.
usual   as in notebooks: eager attention, `output_attentions=True`, all matrices stored. Not for the vision encoder of
        Qwen2.5-VL, which does not return them.

The encoders have the real width and heads, CLIP's ViT-L/14 and the vision encoder of Qwen2.5-VL-3B, but fewer layers
(`--layers`) and random weights; neither changes the cost of a layer's attention. Every run is a separate process, and
the ways alternate. Memory is the peak minus the memory with weights and inputs loaded. Prints a table, and writes
`benchmark_encoder.json` with every run.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attention import _resident
from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from qvl_attn.encoders.capture import capture_attention, run_encoder
from qvl_attn.encoders.inputs import Inputs, merged_order
from qvl_attn.encoders.spec import QWEN, spec_of
from qvl_attn.model.checkpoint import find_checkpoint
from qvl_attn.model.loading import load_config
from qvl_attn.model.token_grid import cell_boxes_px

WAYS, ENCODERS = ("plain", "look", "usual"), ("clip", "qwen")
PATCH_PX = 14


def random_encoder(name: str, layers: int) -> tuple[Any, Any]:
    torch.manual_seed(0)
    if name == "clip":
        config = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=layers,
            num_attention_heads=16,
            image_size=336,
            patch_size=PATCH_PX,
        )
        return CLIPVisionModel._from_config(config, attn_implementation="sdpa").eval(), spec_of(
            config, "clip_vision_model", "CLIPVisionModel"
        )
    raw = load_config(find_checkpoint("demo")).to_dict()
    raw["vision_config"] |= {"depth": layers, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
    raw["vision_config"] |= {"fullatt_block_indexes": [layers - 1]}
    config = Qwen2_5_VLConfig(**raw)
    encoder = Qwen2_5_VisionTransformerPretrainedModel._from_config(config.vision_config, attn_implementation="sdpa")
    return encoder.eval(), spec_of(config, QWEN, "")


def noise(name: str, patches: int) -> Inputs:
    h = next(n for n in range(math.isqrt(patches) // 2 * 2, 0, -2) if patches % n == 0)
    w = patches // h
    random = torch.Generator().manual_seed(0)
    tensors = {"pixel_values": torch.randn(1, 3, h * PATCH_PX, w * PATCH_PX, generator=random)}
    order = np.arange(patches, dtype=np.int64)
    if name == "qwen":
        values = torch.randn(patches, 3 * 2 * PATCH_PX**2, generator=random)
        tensors = {"pixel_values": values, "grid_thw": torch.tensor([[1, h, w]])}
        order = merged_order((1, h, w), 2)
    boxes = cell_boxes_px(h, w, (w * PATCH_PX, h * PATCH_PX))
    return Inputs(tensors, (1, h, w), boxes, order, name == "clip", np.zeros((1, 2), dtype=np.int64))


def run(way: str, model: Any, spec: Any, inputs: Inputs) -> float:
    """Run one way; return a sum over its output, so that the computation cannot be skipped."""
    if way == "look":
        return float(capture_attention(model, spec, inputs).received.sum())
    with torch.inference_mode():
        if way == "plain":
            return float(run_encoder(model, spec, inputs).last_hidden_state.sum())
        model.set_attn_implementation("eager")
        output = model(inputs.tensors["pixel_values"], interpolate_pos_encoding=True, output_attentions=True)
        return float(sum(matrix.sum() for matrix in output.attentions))


def measure(way: str, name: str, patches: int, layers: int) -> dict[str, Any]:
    model, spec = random_encoder(name, layers)
    run(way, model, spec, noise(name, 64))
    inputs = noise(name, patches)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    before, started = _resident("VmRSS"), time.perf_counter()
    run(way, model, spec, inputs)
    seconds = time.perf_counter() - started
    host = _resident("VmHWM") - before
    return {"way": way, "encoder": name, "patches": patches, "seconds": seconds, "host_bytes": host}


def in_own_process(*case: Any) -> dict[str, Any]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *case).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patches", type=int, nargs="+", default=[576, 1024, 2304, 4096])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most-usual", type=int, default=2304, help="largest number of patches for the usual way")
    parser.add_argument("--out", type=Path, default=Path("benchmark_encoder.json"))
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    print(f"{options.layers} layers; seconds, extra MiB, and ratios to plain")
    for name in options.encoders:
        for patches in options.patches:
            ways = [way for way in WAYS if way != "usual" or (name == "clip" and patches <= options.most_usual)]
            for _ in range(options.repeats):
                runs += [in_own_process(way, name, patches, options.layers) for way in ways]
            medians = {}
            for way in ways:
                repeats = [row for row in runs if (row["way"], row["encoder"], row["patches"]) == (way, name, patches)]
                medians[way] = [statistics.median(row[key] for row in repeats) for key in ("seconds", "host_bytes")]
            plain_s, plain_bytes = medians["plain"]
            cells = [
                f"{way} {s:.2f} s {size / 2**20:,.0f} MiB ({s / plain_s:.2f} x, {size / plain_bytes:.2f} x)"
                for way, (s, size) in medians.items()
            ]
            print(f"{name} {patches:>6}: {' · '.join(cells)}", flush=True)
            options.out.write_text(json.dumps(runs, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
