"""Times three ways to run a vision encoder over one picture, and measures their memory.

    python scripts/benchmarks/encoder.py --patches 576 1024 2304 4096

plain   SDPA, and nothing taken.
look    what `qvl-attn encoder` does: every layer's and head's attention added up, a block of query rows at a time.
usual   what notebooks do: eager attention, `output_attentions=True`, all matrices kept. Not of Qwen2.5-VL's tower,
        which gives none.

Encoders of the real width and heads, CLIP's ViT-L/14 and the tower of Qwen2.5-VL-3B, with fewer layers (`--layers`) and
random weights, neither of which changes what a layer's attention costs. Every run is a process of its own, and the ways
take turns. Memory is the peak over what the process held with weights and inputs ready. Prints a table, and writes
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
from qvl_attn.model.checkpoint import find_checkpoint, load_config
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
    whole = Qwen2_5_VLConfig(**raw)
    tower = Qwen2_5_VisionTransformerPretrainedModel._from_config(whole.vision_config, attn_implementation="sdpa")
    return tower.eval(), spec_of(whole, QWEN, "")


def noise(name: str, patches: int) -> Inputs:
    h = next(n for n in range(math.isqrt(patches) // 2 * 2, 0, -2) if patches % n == 0)
    w = patches // h
    random = torch.Generator().manual_seed(0)
    tensors = {"pixel_values": torch.randn(1, 3, h * PATCH_PX, w * PATCH_PX, generator=random)}
    place = np.arange(patches, dtype=np.int64)
    if name == "qwen":
        values = torch.randn(patches, 3 * 2 * PATCH_PX**2, generator=random)
        tensors = {"pixel_values": values, "grid_thw": torch.tensor([[1, h, w]])}
        place = merged_order((1, h, w), 2)
    boxes = cell_boxes_px(h, w, (w * PATCH_PX, h * PATCH_PX))
    return Inputs(tensors, (1, h, w), boxes, place, name == "clip", np.zeros((1, 2), dtype=np.int64))


def run(way: str, model: Any, eye: Any, inputs: Inputs) -> float:
    """Run one way; a figure of what it gave, so that it cannot be left out."""
    if way == "look":
        return float(capture_attention(model, eye, inputs).received.sum())
    with torch.inference_mode():
        if way == "plain":
            return float(run_encoder(model, eye, inputs).last_hidden_state.sum())
        model.set_attn_implementation("eager")
        found = model(inputs.tensors["pixel_values"], interpolate_pos_encoding=True, output_attentions=True)
        return float(sum(one.sum() for one in found.attentions))


def measure(way: str, name: str, patches: int, layers: int) -> dict[str, Any]:
    model, eye = random_encoder(name, layers)
    run(way, model, eye, noise(name, 64))
    inputs = noise(name, patches)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts anew
    before, started = _resident("VmRSS"), time.perf_counter()
    run(way, model, eye, inputs)
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
    parser.add_argument("--most-usual", type=int, default=2304, help="patches; beyond it the usual way is left out")
    parser.add_argument("--out", type=Path, default=Path("benchmark_encoder.json"))
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    print(f"{options.layers} layers; seconds, MiB over what was held, and times plain")
    for name in options.encoders:
        for patches in options.patches:
            ways = [way for way in WAYS if way != "usual" or (name == "clip" and patches <= options.most_usual)]
            for _ in range(options.repeats):
                runs += [in_own_process(way, name, patches, options.layers) for way in ways]
            found = {}
            for way in ways:
                own = [one for one in runs if (one["way"], one["encoder"], one["patches"]) == (way, name, patches)]
                found[way] = [statistics.median(one[key] for one in own) for key in ("seconds", "host_bytes")]
            plain_s, plain_bytes = found["plain"]
            cells = [
                f"{way} {s:.2f} s {size / 2**20:,.0f} MiB ({s / plain_s:.2f} x, {size / plain_bytes:.2f} x)"
                for way, (s, size) in found.items()
            ]
            print(f"{name} {patches:>6}: {' · '.join(cells)}", flush=True)
            options.out.write_text(json.dumps(runs, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
