"""A reference implementation of Qwen2.5-VL's vision tower, in float64 and in the order of the picture.

It uses no code of transformers and no permutation: patches are cut from the picture's pixels, and windows are masks of
dense attention (arXiv 2502.13923).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def windows(h: int, w: int, side: int) -> np.ndarray:
    """Return the row and column of each patch's window as one number: (h * w,)."""
    return np.array([1000 * (row // side) + column // side for row in range(h) for column in range(w)])


def dense_attention(weights: Mapping[str, torch.Tensor], config: Any, frames: np.ndarray, mean, std) -> np.ndarray:
    """Return the attention of each patch on each patch of its step: (L, H, t, P, P) float64.

    Args:
        weights: weights of the tower.
        config: configuration of the tower.
        frames: (F, height, width, 3) uint8 at the size of the tower's input.
        mean: mean of the colours, for normalisation.
        std: standard deviation of the colours, for normalisation.
    """
    return np.stack([_step(weights, config, pair, mean, std) for pair in _pairs(frames)], axis=2)


def _pairs(frames: np.ndarray) -> list[np.ndarray]:
    """Return the frames of each step: two in a row, a single last one twice."""
    return [frames[[i, min(i + 1, len(frames) - 1)]] for i in range(0, len(frames), 2)]


def _step(weights, config, pair, mean, std) -> np.ndarray:
    size, heads = config.patch_size, config.num_heads
    h, w = pair.shape[1] // size, pair.shape[2] // size
    weights = {name: value.double() for name, value in weights.items()}
    colours = torch.from_numpy((pair / 255 - np.array(mean)) / np.array(std)).permute(3, 0, 1, 2)
    patches = [
        colours[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size].reshape(-1)
        for row in range(h)
        for column in range(w)
    ]
    states = torch.stack(patches) @ weights["patch_embed.proj.weight"].flatten(1).T
    side = config.window_size // (size * config.spatial_merge_size) * config.spatial_merge_size
    own = torch.from_numpy(windows(h, w, side))
    same_window = own[:, None] == own
    layers = []
    for layer in range(config.depth):

        def linear(values, name, at=layer):
            return values @ weights[f"blocks.{at}.{name}.weight"].T + weights[f"blocks.{at}.{name}.bias"]

        normed = _norm(states, weights[f"blocks.{layer}.norm1.weight"])
        query, key, value = linear(normed, "attn.qkv").reshape(h * w, 3, heads, -1).permute(1, 2, 0, 3)
        query, key = _rotate(query, w), _rotate(key, w)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        if layer not in config.fullatt_block_indexes:
            scores = scores.masked_fill(~same_window, -torch.inf)
        attention = scores.softmax(dim=-1)
        layers.append(attention.numpy())
        states = states + linear((attention @ value).permute(1, 0, 2).reshape(h * w, -1), "attn.proj")
        normed = _norm(states, weights[f"blocks.{layer}.norm2.weight"])
        gate = torch.nn.functional.silu(linear(normed, "mlp.gate_proj"))
        states = states + linear(gate * linear(normed, "mlp.up_proj"), "mlp.down_proj")
    return np.stack(layers)


def _norm(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * states / (states.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def _rotate(values: torch.Tensor, w: int) -> torch.Tensor:
    """Apply rotary embedding: in each half of a head the first quarter rotates by the row, the second by the column."""
    _, count, size = values.shape
    place = torch.arange(count)
    frequency = 10000.0 ** -(torch.arange(0, size // 2, 2).double() / (size // 2))
    angle = torch.cat([(place // w)[:, None] * frequency, (place % w)[:, None] * frequency], dim=1)
    first, second = values[..., : size // 2], values[..., size // 2 :]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], dim=-1)
