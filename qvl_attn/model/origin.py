"""What made a result: versions, model, place, settings. It only reads them."""

from __future__ import annotations

from typing import Any

import torch
import transformers

import qvl_attn
from qvl_attn.model.checkpoint import Checkpoint, Placement


def made_by(checkpoint: Checkpoint, placement: Placement, attention: str) -> dict[str, str]:
    """Versions, model and place, and how attention was computed."""
    return {
        "qvl_attn": qvl_attn.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "dtype": placement.dtype,
        "device": placement.device_map or placement.device,
        "attention": attention,
    }


def of_model(config: Any, processor: Any) -> dict[str, Any]:
    """How many layers and heads there are, and to what sizes the processor brings pictures."""
    text, size = config.text_config, processor.image_processor.size
    return {
        "layer_count": text.num_hidden_layers,
        "head_count": text.num_attention_heads,
        "processor_size": {edge: int(size[edge]) for edge in ("shortest_edge", "longest_edge")},
    }


def of_generation(generation: Any) -> dict[str, float | int | bool]:
    """What of the generation settings is in force."""
    return {
        "do_sample": False,
        "repetition_penalty": float(generation.repetition_penalty),
        "max_new_tokens": int(generation.max_new_tokens),
    }
