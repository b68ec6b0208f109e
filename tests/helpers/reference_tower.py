"""Qwen2.5-VL's tower written out by hand, in float64 and in the order of the picture: dense attention under masks.

Nothing of transformers' code is run, and nothing is permuted: patches are cut from the picture's own pixels, and
windows are masks (arXiv 2502.13923).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def windows(h: int, w: int, side: int) -> np.ndarray:
    """(h * w,) of each patch the row and column of its window, as one number."""
    return np.array([1000 * (row // side) + column // side for row in range(h) for column in range(w)])


def dense_attention(weights: Mapping[str, torch.Tensor], config: Any, frames: np.ndarray, mean, std) -> np.ndarray:
    """(L, H, t, P, P) float64: what each patch of a step gives each of its step.

    Args:
        weights: of the tower.
        config: of the tower.
        frames: (F, height, width, 3) uint8, as large as the tower sees them.
        mean: by which colours are normalised.
        std: so too.
    """
    return np.stack([_step(weights, config, pair, mean, std) for pair in _pairs(frames)], axis=2)


def _pairs(frames: np.ndarray) -> list[np.ndarray]:
    """Frames of each step: two in a row, the last one twice where it is alone."""
    return [frames[[i, min(i + 1, len(frames) - 1)]] for i in range(0, len(frames), 2)]


def _step(weights, config, pair, mean, std) -> np.ndarray:
    size, heads = config.patch_size, config.num_heads
    h, w = pair.shape[1] // size, pair.shape[2] // size
    part = {name: value.double() for name, value in weights.items()}
    colours = torch.from_numpy((pair / 255 - np.array(mean)) / np.array(std)).permute(3, 0, 1, 2)
    cut = [
        colours[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size].reshape(-1)
        for row in range(h)
        for column in range(w)
    ]
    states = torch.stack(cut) @ part["patch_embed.proj.weight"].flatten(1).T
    side = config.window_size // (size * config.spatial_merge_size) * config.spatial_merge_size
    own = torch.from_numpy(windows(h, w, side))
    near = own[:, None] == own
    found = []
    for layer in range(config.depth):

        def linear(values, name, at=layer):
            return values @ part[f"blocks.{at}.{name}.weight"].T + part[f"blocks.{at}.{name}.bias"]

        normed = _norm(states, part[f"blocks.{layer}.norm1.weight"])
        query, key, value = linear(normed, "attn.qkv").reshape(h * w, 3, heads, -1).permute(1, 2, 0, 3)
        query, key = _turned(query, w), _turned(key, w)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        if layer not in config.fullatt_block_indexes:
            scores = scores.masked_fill(~near, -torch.inf)
        attention = scores.softmax(dim=-1)
        found.append(attention.numpy())
        states = states + linear((attention @ value).permute(1, 0, 2).reshape(h * w, -1), "attn.proj")
        normed = _norm(states, part[f"blocks.{layer}.norm2.weight"])
        gate = torch.nn.functional.silu(linear(normed, "mlp.gate_proj"))
        states = states + linear(gate * linear(normed, "mlp.up_proj"), "mlp.down_proj")
    return np.stack(found)


def _norm(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * states / (states.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def _turned(values: torch.Tensor, w: int) -> torch.Tensor:
    """Rotated by row and column: of each half of a head the first quarter by the row, the second by the column."""
    _, count, size = values.shape
    place = torch.arange(count)
    speed = 10000.0 ** -(torch.arange(0, size // 2, 2).double() / (size // 2))
    angle = torch.cat([(place // w)[:, None] * speed, (place % w)[:, None] * speed], dim=1)
    first, second = values[..., : size // 2], values[..., size // 2 :]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)
