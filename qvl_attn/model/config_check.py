"""Bounds on the numbers of a stranger's `config.json`, before a library makes lists, layers and tables of their size.

What the numbers mean together (heads that divide the width, known activations) the libraries check, when they build the
model without memory; see `loading.placement_of`. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from qvl_attn.core.errors import ModelError
from qvl_attn.core.text import quoted, shortened

# By field, in any part of the configuration: the least and the largest number. The largest models of these families
# have 80 layers, 64 heads, states of 8,192 numbers, 152,064 tokens, and contexts of a million.
LIMITS = {
    **dict.fromkeys(("num_hidden_layers", "depth"), (1, 512)),
    **dict.fromkeys(("num_attention_heads", "num_heads", "num_key_value_heads"), (1, 1024)),
    **dict.fromkeys(("hidden_size", "out_hidden_size", "intermediate_size", "projection_dim"), (1, 2**18)),
    "vocab_size": (1, 2**22),
    "max_position_embeddings": (1, 2**24),
    "image_size": (1, 2**13),
    "patch_size": (1, 2**10),
    "window_size": (1, 2**13),
    **dict.fromkeys(("spatial_merge_size", "temporal_patch_size", "in_channels", "num_channels"), (1, 64)),
    "tokens_per_second": (0, 10_000),
    "num_register_tokens": (0, 1024),
    "num_labels": (0, 2**20),
}
# Numbers above 0 that are no counts.
_POSITIVE = ("rope_theta", "rms_norm_eps", "layer_norm_eps")
# Fields that name other files of weights.
_REFUSED = ("transformers_weights",)
WRONG_CONFIG = "take the config.json that belongs to the weights"


def check_numbers(name: str, raw: Mapping[str, Any]) -> None:
    """Check a configuration before it is given to a library.

    Args:
        name: the checkpoint as the user typed it.
        raw: the contents of its `config.json`.

    Raises:
        ModelError: a number is out of range, or the file names other files.
    """
    for place, field, value in _fields(raw):
        if field in _REFUSED and value is not None:
            raise ModelError(f"{name}: its config.json has {field}, which is not supported", "take it out of the file")
        limits = LIMITS.get(field, (0, 0) if field in _POSITIVE else None)
        if limits is None or value is None:
            continue
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, dict) or _in(number, *limits):
                continue
            want = f"{limits[0]:,} to {limits[1]:,}" if limits[1] else "a number above 0"
            shown = quoted(number) if isinstance(number, str) else shortened(str(number))
            raise ModelError(f"{name}: its config.json has {place} {shown}, want {want}", WRONG_CONFIG)


def _in(number: Any, least: int, largest: int) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    return least <= number <= largest if largest else 0 < number < math.inf


def _fields(raw: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the fields of an object and of the objects in it: path, name, value."""
    objects = [("", raw)]
    while objects:
        path, fields = objects.pop()
        for field, value in fields.items():
            yield f"{path}{field}", field, value
            if isinstance(value, dict):
                objects.append((f"{path}{field}.", value))
