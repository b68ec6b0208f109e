"""Checkpoints with random weights on disk, and pictures of noise: neither changes the cost of an answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import qvl_attn
from qvl_attn.model.prompt import CELL_PX

DEMO = Path(qvl_attn.__file__).parent / "demo" / "model"
# Language model: hidden, MLP, layers, heads, key heads. Vision encoder: hidden, MLP, depth, heads.
Geometry = tuple[tuple[int, ...], tuple[int, ...]]


def make_checkpoint(geometry: Geometry, folder: Path, vocabulary: int | None = None) -> None:
    """Save a model with random weights in bfloat16 in a new folder, with the embedded model's processor."""
    (hidden, mlp, layers, heads, key_heads), (vision_hidden, vision_mlp, depth, vision_heads) = geometry
    folder.mkdir()
    for file in DEMO.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    raw = json.loads((DEMO / "config.json").read_text())
    raw["text_config"] |= {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "layer_types": ["full_attention"] * layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": 32768,
        "vocab_size": vocabulary or raw["text_config"]["vocab_size"],
    }
    raw["text_config"]["rope_parameters"] |= {"mrope_section": [16, 24, 24]}
    raw["vision_config"] |= {
        "hidden_size": vision_hidden,
        "intermediate_size": vision_mlp,
        "depth": depth,
        "num_heads": vision_heads,
        "out_hidden_size": hidden,
        "fullatt_block_indexes": [depth // 2 - 1, depth - 1],
    }
    (folder / "config.json").write_text(json.dumps(raw))
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(
            Qwen2_5_VLConfig.from_pretrained(folder), dtype=torch.bfloat16
        )
    model.to_empty(device="cpu").tie_weights()
    # One block of noise again and again: drawing each of four billion weights takes minutes.
    block = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    for name, weight in model.named_parameters():
        for part in weight.data.view(-1).split(len(block)):
            part.copy_(torch.ones(()) if "norm" in name or name.endswith("ln_q.weight") else block[: len(part)])
    model.save_pretrained(folder)


def noise(cells: int, path: Path) -> None:
    """Save a picture of noise that gives about `cells` vision tokens."""
    rows = round(cells**0.5)
    shape = (rows * CELL_PX, round(cells / rows) * CELL_PX, 3)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(path)
