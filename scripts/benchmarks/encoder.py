"""Measures time and memory of three ways to run a vision encoder on one picture.

    python scripts/benchmarks/encoder.py --patches 576 1024 2304 4096

plain   SDPA without capture.
look    the capture of `qvl-attn encoder`: the attention of every layer and head summed in blocks of query rows.
usual   as in notebooks: eager attention, `output_attentions=True`, all matrices stored. Not for the vision encoder of
        Qwen2.5-VL, which does not return them.

The encoders have the real width and heads, CLIP's ViT-L/14 and the vision encoder of Qwen2.5-VL-3B, but fewer layers
(`--layers`) and random weights; neither changes the cost of a layer's attention. Every run is a separate process, and
the ways alternate. Memory is the peak minus the memory with weights and inputs loaded.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import measuring
import numpy as np
import torch
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
    measuring.forget_peak()
    before, started = measuring.resident_bytes(), time.perf_counter()
    run(way, model, spec, inputs)
    seconds = time.perf_counter() - started
    host = measuring.peak_bytes() - before
    return {"way": way, "encoder": name, "patches": patches, "seconds": seconds, "host_bytes": host}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--patches", type=int, nargs="+", default=[576, 1024, 2304, 4096])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most-usual", type=int, default=2304, help="largest number of patches for the usual way")
    measuring.add_write_option(parser, "encoder")
    options = parser.parse_args(arguments)
    tables: dict[str, list[list[str]]] = {}
    print(f"{options.layers} layers; seconds, extra MiB, and ratios to plain")
    for name in options.encoders:
        for patches in options.patches:
            ways = [way for way in WAYS if way != "usual" or (name == "clip" and patches <= options.most_usual)]
            runs = [
                measuring.in_own_process(measure, way, name, patches, options.layers)
                for _ in range(options.repeats)
                for way in ways
            ]
            row = table_row(runs)
            tables.setdefault(name, []).append([f"{patches:,}", *row])
            names = ("s", "MiB", "look: time", "memory", "usual: time", "memory")
            cells = [f"{title} {cell}" for title, cell in zip(names, row, strict=True)]
            print(f"{name} {patches:>6}: {' · '.join(cells)}", flush=True)
    measuring.write_figures(options.write, "encoder", arguments, {}, tables)


def table_row(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Return seconds and MiB of plain, then time and memory of the other ways relative to it; medians."""
    medians = {
        (way, key): statistics.median(run[key] for run in runs if run["way"] == way)
        for way in {run["way"] for run in runs}
        for key in ("seconds", "host_bytes")
    }
    plain_s, plain_bytes = (medians["plain", key] for key in ("seconds", "host_bytes"))
    cells = [measuring.shown(plain_s, 1), measuring.shown(plain_bytes / 2**20, 0)]
    for way in ("look", "usual"):
        for key, plain in (("seconds", plain_s), ("host_bytes", plain_bytes)):
            value = medians.get((way, key))
            cells.append(measuring.shown(None if value is None else measuring.ratio(value, plain)))
    return cells


if __name__ == "__main__":
    main()
