"""Collect rows of attention while a model's layers run.

This module handles positions and tensors; `capture` handles how attention is dispatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.text import argument
from qvl_attn.core.types import Apart, FloatArray, IntArray

# Allowed difference of a row's sum from one. In 16 bits the softmax rounds after the division.
SUM_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Target:
    """The rows and columns to keep of one sequence of a batch, as positions without its padding.

    Attributes:
        rows: prompt positions whose attention is kept; rows of generated tokens are always kept.
        columns: positions whose attention weights are kept (the vision tokens).
        padding: number of padding tokens in the sequence.
        head: number of the sequence's own tokens before the padding.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    padding: int = 0
    head: int = 0

    def padded(self, positions: Sequence[int]) -> IntArray:
        """Convert positions without padding to positions with padding."""
        unpadded = np.array(positions, dtype=np.int64)
        return unpadded + self.padding * (unpadded >= self.head)

    def unpadded(self, positions: Sequence[int]) -> IntArray:
        """Convert positions with padding to positions without padding."""
        padded = np.array(positions, dtype=np.int64)
        return padded - self.padding * (padded >= self.head)


@dataclass(frozen=True, eq=False)
class Rows:
    """The recorded rows of one sequence.

    Attributes:
        queries: (Q,) int64 positions of the rows, ascending.
        weights: (L, Q, C) float32, the mean over heads, on the recorded columns.
        by_head: (L, H, Q, C) float32 or float16, single heads of the selected layers, or None.
        maximum: (L, Q, C) float32, the maximum over heads, or None.
    """

    queries: IntArray
    weights: FloatArray
    by_head: np.ndarray | None
    maximum: FloatArray | None = None


class AttentionRecorder:
    """Collects the chosen rows of a batch of prompts, and the rows of all generated tokens.

    The rows of a prompt move to the host after each layer, so the device holds those of one layer at most. The rows of
    a generated token move to the host before the next token.

    Args:
        layers: layer numbers to keep.
        targets: rows and columns to keep of each sequence of the batch.
        length: number of tokens of the prompts, padding included.
        cached: number of tokens at the start of the prompts whose keys and values are already in the cache.
        by_head: also keep single heads, besides their mean.
        apart: which heads to keep; None for all heads of all layers.
        head_dtype: precision of single heads. `torch.float16` rounds a weight by at most 2^-11 of its value, or by
            2^-25 if the weight is below 2^-14.
        head_max: also keep the maximum over heads.
    """

    def __init__(
        self,
        layers: Sequence[int],
        targets: Sequence[Target],
        length: int,
        *,
        cached: int = 0,
        by_head: bool = False,
        apart: Apart | None = None,
        head_dtype: torch.dtype = torch.float32,
        head_max: bool = False,
    ) -> None:
        self.layers = tuple(layers)
        self._targets = tuple(targets)
        self._length = length
        self._cached = cached
        self._apart_layers = (apart.layers if apart else self.layers) if by_head else ()
        self._apart_heads = slice(None) if apart is None else list(apart.heads)
        self._head_dtype = head_dtype
        self._head_max = head_max
        self._rows = [sorted(target.padded(target.rows).tolist()) for target in targets]
        self._columns = [torch.from_numpy(target.padded(target.columns)) for target in targets]
        self._device_columns: dict[tuple[torch.device, int], torch.Tensor] = {}
        self._token_counts: dict[int, int] = {}
        self._positions: list[list[int]] = [[] for _ in targets]
        self._mean: dict[tuple[int, int], list[torch.Tensor]] = {}
        self._heads: dict[tuple[int, int], list[torch.Tensor]] = {}
        self._maxima: dict[tuple[int, int], list[torch.Tensor]] = {}
        # (tolerance, largest error of a row's sum) of each layer; on the device, since reading it would synchronise.
        self._sum_errors: dict[int, tuple[float, torch.Tensor]] = {}

    def enter(self, layer: int, query: torch.Tensor, key: torch.Tensor) -> tuple[int, int]:
        """Count the tokens that a layer has processed; refuse anything that would shift rows or columns.

        Returns:
            The positions of the first query row and of the first key column.

        Raises:
            CaptureError: an unexpected batch size, beams, a static cache, a prefill in pieces, or generation without a
                cache; or the rows recorded so far are not attention.
        """
        batch, rows, columns = query.shape[0], query.shape[2], key.shape[2]
        if batch != len(self._targets):
            raise CaptureError(
                f"the model ran a batch of {batch}, but {len(self._targets)} was to be recorded",
                "use no beams, and only the prepared batch",
            )
        first = layer not in self._token_counts
        count = self._token_counts.get(layer, self._cached)
        if rows != (self._length - self._cached if first else 1):
            raise CaptureError("a prompt fed in pieces, or generation without a cache, cannot be recorded")
        if not first and layer == next(iter(self._token_counts)):
            self._check()
            self._fetch()
        self._token_counts[layer] = total = count + rows
        if columns > total:
            raise CaptureError("attention over a static cache cannot be recorded", "use the dynamic cache")
        if first and columns != total:
            raise CaptureError("the prompt's attention lacks keys, so it cannot be recorded")
        return count, total - columns

    def rows_to_keep(self, layer: int, sample: int, first_row: int, count: int) -> list[int]:
        """Return which of the `count` rows from `first_row` on to keep for a layer, as indices into these rows."""
        if layer not in self.layers:
            return []
        if first_row >= self._length:
            return list(range(count))
        return [row - first_row for row in self._rows[sample] if first_row <= row < first_row + count]

    def keep(self, layer: int, sample: int, rows: Sequence[int], first_column: int, weights: torch.Tensor) -> None:
        """Keep rows of attention.

        Args:
            layer: layer number.
            sample: index of the sequence in the batch.
            rows: (R) positions of the rows, padding included.
            first_column: position of the first key.
            weights: (H, R, keys) after the softmax.
        """
        sum_error = (weights.sum(dim=-1, dtype=torch.float32) - 1).abs().max()
        tolerance, largest = self._sum_errors.get(layer, (SUM_TOLERANCE[weights.dtype], sum_error))
        self._sum_errors[layer] = tolerance, torch.maximum(largest, sum_error)
        columns = self._columns_on(weights.device, sample)
        if first_column:  # a sliding window dropped the first keys: their columns have no attention
            shifted = columns - first_column
            chosen = weights[..., shifted.clamp(min=0)].float() * (shifted >= 0)
        else:
            chosen = weights[..., columns].float()
        if layer == self.layers[0]:
            self._positions[sample] += rows
        generated = rows[0] >= self._length  # stay on the device until the next token, since a copy synchronises
        mean = chosen.mean(dim=0)
        self._mean.setdefault((layer, sample), []).append(mean if generated else mean.cpu())
        if self._head_max:
            maximum = chosen.amax(dim=0)
            self._maxima.setdefault((layer, sample), []).append(maximum if generated else maximum.cpu())
        if layer in self._apart_layers:
            heads = chosen[self._apart_heads].to(self._head_dtype)
            self._heads.setdefault((layer, sample), []).append(heads if generated else heads.cpu())

    def _columns_on(self, device: torch.device, sample: int) -> torch.Tensor:
        if (device, sample) not in self._device_columns:
            self._device_columns[device, sample] = self._columns[sample].to(device)
        return self._device_columns[device, sample]

    def _fetch(self) -> None:
        """Move the rows of the last generated token from the device to the host."""
        for parts in (*self._mean.values(), *self._heads.values(), *self._maxima.values()):
            parts[-1] = parts[-1].cpu()

    def _check(self) -> None:
        if not self._sum_errors:
            return
        tolerances, tensors = zip(*self._sum_errors.values(), strict=True)
        errors = torch.stack([tensor.to(tensors[0].device) for tensor in tensors]).tolist()
        for layer, tolerance, error in zip(self._sum_errors, tolerances, errors, strict=True):
            if not np.isfinite(error):
                raise CaptureError(
                    f"layer {layer}: the attention is not finite (NaN or infinite)",
                    f"try {argument('dtype', 'float32')} or bfloat16",
                )
            if error > tolerance:
                raise CaptureError(
                    f"layer {layer}: a row of attention sums to one only within {error:.2g}: this is not attention"
                )

    def results(self) -> tuple[Rows, ...]:
        """Return the recorded rows of each sequence of the batch. They are handed over: call it once.

        Raises:
            CaptureError: a layer never ran, or the recorded rows are not attention.
        """
        self._check()
        self._fetch()
        absent = [layer for layer in self.layers if layer not in self._token_counts]
        if absent:
            raise CaptureError(
                f"layer {absent[0]} returned no attention: the model does not dispatch it as Qwen2.5-VL does"
            )
        return tuple(self._joined(sample) for sample in range(len(self._targets)))

    def _joined(self, sample: int) -> Rows:
        """Concatenate the rows of all layers, freeing the parts on the way."""
        queries = self._targets[sample].unpadded(self._positions[sample])
        shape = (len(self.layers), len(queries), len(self._columns[sample]))
        mean, by_head = np.empty(shape, dtype=np.float32), None
        maximum = np.empty(shape, dtype=np.float32) if self._head_max else None
        for i, layer in enumerate(self.layers):
            mean[i] = torch.cat(self._mean.pop((layer, sample))).numpy()
            if maximum is not None:
                maximum[i] = torch.cat(self._maxima.pop((layer, sample))).numpy()
        for i, layer in enumerate(self._apart_layers):
            heads = torch.cat(self._heads.pop((layer, sample)), dim=1).numpy()
            if by_head is None:
                by_head = np.empty((len(self._apart_layers), *heads.shape), dtype=heads.dtype)
            by_head[i] = heads
        return Rows(queries, mean, by_head, maximum)
