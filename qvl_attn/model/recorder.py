"""Collects rows of attention as the layers of a model come by.

Knows positions and tensors, and not how attention is dispatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import Apart, FloatArray, IntArray

# What a row's sum may miss one by: rounding of the softmax, which 16 bits round after the division.
SUM_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Target:
    """What is kept of one sequence of a batch, in positions of that sequence without its padding.

    Attributes:
        rows: positions in the prompt whose attention is kept; every token after the prompt is kept too.
        columns: positions on which it is kept (the vision tokens).
        padding: how many tokens stand in the sequence to make the batch even.
        head: how many of its own stand before them.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]
    padding: int = 0
    head: int = 0

    def padded(self, positions: Sequence[int]) -> IntArray:
        """Where positions of the sequence lie with its padding."""
        own = np.array(positions, dtype=np.int64)
        return own + self.padding * (own >= self.head)

    def unpadded(self, positions: Sequence[int]) -> IntArray:
        """Which positions of the sequence lie there with its padding."""
        placed = np.array(positions, dtype=np.int64)
        return placed - self.padding * (placed >= self.head)


@dataclass(frozen=True, eq=False)
class Rows:
    """What was recorded of one sequence.

    Attributes:
        queries: (Q,) int64 positions of the rows, ascending.
        weights: (L, Q, C) float32 averaged over heads, on the recorded columns.
        by_head: (L, H, Q, C) float32 or float16 of the layers and heads that are kept apart, or None.
        maximum: (L, Q, C) float32 the maximum over heads, or None.
    """

    queries: IntArray
    weights: FloatArray
    by_head: np.ndarray | None
    maximum: FloatArray | None = None


class AttentionRecorder:
    """Collects the chosen rows of a prompt or a batch of prompts, and every row after it.

    What is kept of a prompt leaves the device as each layer is done, so that no more than one layer's rows are there;
    of a generated token it leaves before the next one.

    Args:
        layers: layer numbers to keep.
        targets: what to keep of each sequence of the batch.
        length: tokens of the prompts, padding included.
        cached: tokens at the head of the prompts whose keys and values the model has already.
        by_head: keep the heads apart as well as averaged.
        apart: which ones, if not all of all layers.
        head_dtype: in what precision the heads are kept: `torch.float16` rounds by at most 2^-11 of a weight, or by
            2^-25 where the weight is below 2^-14.
        head_max: keep the maximum over the heads as well.
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
        self._rows = [sorted(one.padded(one.rows).tolist()) for one in targets]
        self._columns = [torch.from_numpy(one.padded(one.columns)) for one in targets]
        self._placed: dict[tuple[torch.device, int], torch.Tensor] = {}
        self._seen: dict[int, int] = {}
        self._positions: list[list[int]] = [[] for _ in targets]
        self._mean: dict[tuple[int, int], list[torch.Tensor]] = {}
        self._heads: dict[tuple[int, int], list[torch.Tensor]] = {}
        self._maxima: dict[tuple[int, int], list[torch.Tensor]] = {}
        # (tolerance, largest miss so far) of each layer; on the device, since asking for it would make the device wait.
        self._misses: dict[int, tuple[float, torch.Tensor]] = {}

    def enter(self, layer: int, query: torch.Tensor, key: torch.Tensor) -> tuple[int, int]:
        """Count the tokens that a layer has seen; refuse ways of running that would shift rows or columns.

        Returns:
            The positions of the first query row and of the first key column.

        Raises:
            CaptureError: another batch than was said, beams, a static cache, a prefill in pieces, generation without a
                cache; or what came by so far is no attention.
        """
        batch, rows, columns = query.shape[0], query.shape[2], key.shape[2]
        if batch != len(self._targets):
            raise CaptureError(
                f"attention of a batch of {batch} came where {len(self._targets)} was to be recorded",
                "no beams, and no batch but the one that was prepared",
            )
        first = layer not in self._seen
        seen = self._seen.get(layer, self._cached)
        if rows != (self._length - self._cached if first else 1):
            raise CaptureError("a prompt fed in pieces, or generation without a cache, cannot be recorded")
        if not first and layer == next(iter(self._seen)):
            self._check()
            self._fetch()
        self._seen[layer] = total = seen + rows
        if columns > total:
            raise CaptureError("attention over a static cache cannot be recorded", "use the dynamic cache")
        if first and columns != total:
            raise CaptureError("keys are missing from the prompt's attention, which cannot be recorded")
        return seen, total - columns

    def wanted(self, layer: int, sample: int, first_row: int, count: int) -> list[int]:
        """Which of `count` rows from `first_row` on are to be kept for a layer, as indices among them."""
        if layer not in self.layers:
            return []
        if first_row >= self._length:
            return list(range(count))
        return [row - first_row for row in self._rows[sample] if first_row <= row < first_row + count]

    def keep(self, layer: int, sample: int, rows: Sequence[int], first_column: int, weights: torch.Tensor) -> None:
        """Keep rows of attention.

        Args:
            layer: whose they are.
            sample: which sequence of the batch.
            rows: (R) their positions, padding included.
            first_column: position of the first key.
            weights: (H, R, keys) after the softmax.
        """
        miss = (weights.sum(dim=-1, dtype=torch.float32) - 1).abs().max()
        tolerance, before = self._misses.get(layer, (SUM_TOLERANCE[weights.dtype], miss))
        self._misses[layer] = tolerance, torch.maximum(before, miss)
        columns = self._columns_on(weights.device, sample)
        if first_column:  # a sliding window dropped keys from the left: columns that are gone got no attention
            shifted = columns - first_column
            chosen = weights[..., shifted.clamp(min=0)].float() * (shifted >= 0)
        else:
            chosen = weights[..., columns].float()
        if layer == self.layers[0]:
            self._positions[sample] += rows
        generated = rows[0] >= self._length  # stays on the device until the next token: to fetch it is to wait for it
        mean = chosen.mean(dim=0)
        self._mean.setdefault((layer, sample), []).append(mean if generated else mean.cpu())
        if self._head_max:
            most = chosen.amax(dim=0)
            self._maxima.setdefault((layer, sample), []).append(most if generated else most.cpu())
        if layer in self._apart_layers:
            heads = chosen[self._apart_heads].to(self._head_dtype)
            self._heads.setdefault((layer, sample), []).append(heads if generated else heads.cpu())

    def _columns_on(self, device: torch.device, sample: int) -> torch.Tensor:
        if (device, sample) not in self._placed:
            self._placed[device, sample] = self._columns[sample].to(device)
        return self._placed[device, sample]

    def _fetch(self) -> None:
        """Bring what the last generated token left on the device to the host."""
        for parts in (*self._mean.values(), *self._heads.values(), *self._maxima.values()):
            parts[-1] = parts[-1].cpu()

    def _check(self) -> None:
        if not self._misses:
            return
        tolerances, misses = zip(*self._misses.values(), strict=True)
        worsts = torch.stack([miss.to(misses[0].device) for miss in misses]).tolist()
        for layer, tolerance, worst in zip(self._misses, tolerances, worsts, strict=True):
            if not np.isfinite(worst):
                raise CaptureError(
                    f"layer {layer}: the attention is not finite (NaN or infinite)",
                    "try --dtype float32 or bfloat16",
                )
            if worst > tolerance:
                raise CaptureError(
                    f"layer {layer}: a row of attention sums to one only within {worst:.2g}: this is no attention"
                )

    def results(self) -> tuple[Rows, ...]:
        """Everything recorded so far, for each sequence of the batch.

        Raises:
            CaptureError: a layer never came by, or what came is no attention.
        """
        self._check()
        self._fetch()
        absent = [layer for layer in self.layers if layer not in self._seen]
        if absent:
            raise CaptureError(
                f"layer {absent[0]} gave no attention: the model does not dispatch it as Qwen2.5-VL does"
            )
        return tuple(self._joined(sample) for sample in range(len(self._targets)))

    def _joined(self, sample: int) -> Rows:
        """The rows of all layers in one array, which is filled as the parts are given up."""
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
