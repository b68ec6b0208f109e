"""Record chosen rows of attention while the model runs. The only room that knows how attention is dispatched.

    with record_attention(model, AttentionRecorder(layers, rows, columns)) as recorder:
        model.generate(...)
    recorder.result()

An attention function is registered under a name of ours through transformers' public `AttentionInterface` and is
switched on for the language model while the `with` lasts; the vision tower stays as it was. It runs the model's own
eager attention, a block of query rows at a time, so that no layer's attention matrix ever exists whole: rows of a
softmax do not depend on each other, and the numbers are eager's. (The mask, which all layers share, is whole.)
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from qvl_attn.errors import CaptureError
from qvl_attn.types import FloatArray, IntArray

# "sdpa", "flash" and "flex" must not be part of it: transformers looks for these words in the name.
EAGER_NAME = "qvl_attn_eager"
BLOCK_ROWS = 512
# What a row's sum may miss one by: rounding of the softmax, which 16 bits round after the division.
SUM_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}


@dataclass(frozen=True, eq=False)
class Rows:
    """What was recorded.

    Attributes:
        queries: (Q,) int64 positions of the rows, ascending.
        weights: (L, Q, C) float32 averaged over heads, on the recorded columns.
        by_head: (L, H, Q, C) float32, or None.
    """

    queries: IntArray
    weights: FloatArray
    by_head: FloatArray | None


class AttentionRecorder:
    """Collects rows of one sequence: the chosen rows of the prompt, and every row after it.

    Args:
        layers: layer numbers to keep.
        rows: positions in the prompt whose attention is kept.
        columns: positions on which it is kept (the vision tokens).
        by_head: keep the heads apart as well as averaged.
    """

    def __init__(
        self, layers: Sequence[int], rows: Sequence[int], columns: Sequence[int], by_head: bool = False
    ) -> None:
        self.layers = tuple(layers)
        self.by_head = by_head
        self._rows = torch.tensor(sorted(rows), dtype=torch.int64)
        self._columns = torch.tensor(list(columns), dtype=torch.int64)
        self._seen: dict[int, int] = {}
        self._kept: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def enter(self, layer: int, query: torch.Tensor, key: torch.Tensor) -> tuple[int, int]:
        """Count the tokens that a layer has seen; refuse ways of running that would shift rows or columns.

        Returns:
            The positions of the first query row and of the first key column.

        Raises:
            CaptureError: a batch, a static cache, a prefill in pieces, or generation without a cache.
        """
        if query.shape[0] != 1:
            raise CaptureError(
                f"attention of a batch of {query.shape[0]} cannot be recorded",
                "one prompt at a time, no beams",
            )
        rows, columns = query.shape[2], key.shape[2]
        seen = self._seen.get(layer, 0)
        if seen and rows != 1:
            raise CaptureError("a prompt fed in pieces, or generation without a cache, cannot be recorded")
        self._seen[layer] = total = seen + rows
        if columns > total:
            raise CaptureError("attention over a static cache cannot be recorded", "use the dynamic cache")
        return seen, total - columns

    def record(self, layer: int, first_row: int, first_column: int, weights: torch.Tensor, every_row: bool) -> None:
        """Keep what was asked for of `weights` (1, H, rows, columns), whose corner lies at the given positions."""
        rows = torch.arange(first_row, first_row + weights.shape[2])
        if not every_row:
            rows = rows[torch.isin(rows, self._rows)]
        if layer not in self.layers or not len(rows):
            return
        # A sliding window drops keys from the left: columns that are gone got no attention.
        columns = self._columns - first_column
        there = columns >= 0
        if int(columns.max()) >= weights.shape[3]:
            raise CaptureError("a prompt fed in pieces cannot be recorded")
        chosen = weights[0][:, (rows - first_row).to(weights.device)].float()
        self._check(layer, chosen, weights.dtype)
        values = torch.zeros(chosen.shape[0], len(rows), len(columns))
        values[:, :, there] = chosen[:, :, columns[there].to(chosen.device)].cpu()
        kept = values if self.by_head else values.mean(dim=0, keepdim=True)
        self._kept.setdefault(layer, []).append((rows, kept))

    @staticmethod
    def _check(layer: int, rows: torch.Tensor, dtype: torch.dtype) -> None:
        if not bool(torch.isfinite(rows).all()):
            raise CaptureError(
                f"layer {layer}: the attention is not finite (NaN or infinite)",
                "try --dtype float32 or bfloat16",
            )
        worst = float((rows.sum(dim=-1) - 1).abs().max())
        if worst > SUM_TOLERANCE[dtype]:
            raise CaptureError(
                f"layer {layer}: a row of attention sums to one only within {worst:.2g}: this is no attention"
            )

    def result(self) -> Rows:
        """Everything recorded so far.

        Raises:
            CaptureError: a layer never came by.
        """
        absent = [layer for layer in self.layers if layer not in self._kept]
        if absent:
            raise CaptureError(
                f"layer {absent[0]} gave no attention: the model does not dispatch it as Qwen2.5-VL does"
            )
        queries = torch.cat([rows for rows, _ in self._kept[self.layers[0]]])

        heads = torch.stack([torch.cat([kept[1] for kept in self._kept[layer]], dim=-2) for layer in self.layers])
        mean = heads.mean(dim=1) if self.by_head else heads[:, 0]
        return Rows(queries.numpy(), mean.numpy(), heads.numpy() if self.by_head else None)


_active: dict[int, AttentionRecorder] = {}


def _eager_in_blocks(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    recorder = _active.get(id(module.config))
    if recorder is None:
        raise CaptureError("attention is switched to recording, but nobody records")
    eager = importlib.import_module(type(module).__module__).eager_attention_forward
    first_row, first_column = recorder.enter(module.layer_idx, query, key)
    outputs = []
    for start in range(0, query.shape[2], BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        mask = None if attention_mask is None else attention_mask[:, :, block]
        output, weights = eager(module, query[:, :, block], key, value, mask, **kwargs)
        if weights is None:
            raise CaptureError(f"layer {module.layer_idx}: eager attention came back without its weights")
        recorder.record(module.layer_idx, first_row + start, first_column, weights, every_row=first_row > 0)
        outputs.append(output)
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(EAGER_NAME, _eager_in_blocks)
AttentionMaskInterface.register(EAGER_NAME, eager_mask)


@contextmanager
def record_attention(model: Any, recorder: AttentionRecorder) -> Iterator[AttentionRecorder]:
    """Let `recorder` see the language model's attention while the `with` lasts, and put everything back after it.

    Args:
        model: a `Qwen2_5_VLForConditionalGeneration`.
        recorder: what to keep.

    Raises:
        CaptureError: the model is being recorded already.
    """
    config = model.model.language_model.config
    if id(config) in _active:
        raise CaptureError("this model is being recorded already")
    before = config._attn_implementation
    _active[id(config)] = recorder
    try:
        model.set_attn_implementation({"text_config": EAGER_NAME})
        yield recorder
    finally:
        del _active[id(config)]
        model.set_attn_implementation({"text_config": before})


def prove_capture(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Run a small prompt and check that what is recorded is attention: the load-time self-check.

    Args:
        model: the loaded model.
        inputs: the processor's tensors of a small prompt with a picture, on the model's device.

    Raises:
        CaptureError: a layer is missing, shapes do not fit, rows do not sum to one, or a token sees the future.
    """
    length = inputs["input_ids"].shape[1]
    text = model.config.text_config
    everything = range(length)
    recorder = AttentionRecorder(range(text.num_hidden_layers), everything, everything, by_head=True)
    with record_attention(model, recorder), torch.inference_mode():
        model(**inputs, use_cache=True, logits_to_keep=1)
    rows = recorder.result()
    assert rows.by_head is not None
    expected = (text.num_hidden_layers, text.num_attention_heads, length, length)
    if rows.by_head.shape != expected:
        raise CaptureError(f"self-check: the attention has shape {rows.by_head.shape}, not {expected}")
    future = np.triu(np.ones((length, length), dtype=bool), k=1)
    if rows.by_head[:, :, future].any():
        raise CaptureError("self-check: tokens attend to tokens that come after them")
