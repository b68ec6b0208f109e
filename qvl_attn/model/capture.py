"""Record chosen rows of attention while the model runs. The only room that knows how attention is dispatched.

    with record_attention(model, AttentionRecorder(layers, [target], length), "rows") as recorder:
        model.generate(...)
    recorder.results()

Attention functions are registered under names of ours through transformers' public `AttentionInterface`, and one is
switched on for the language model while the `with` lasts; the vision tower stays as it was.

`eager` runs the model's own eager attention, a block of query rows at a time. `rows` leaves the answer to SDPA and
computes beside it the rows that were asked for and no others: softmax(q k^T * scaling) in float32, whatever the
model's precision. Neither ever holds a layer's attention matrix, or its mask, whole. With `keep_states` SDPA attends,
and an observer is shown what each layer attended with.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from qvl_attn.core.errors import CaptureError
from qvl_attn.model.memory import BLOCK_ROWS
from qvl_attn.model.recorder import AttentionRecorder, Target

# "sdpa", "flash" and "flex" must not be part of them: transformers looks for these words in the name.
NAMES = {"eager": "qvl_attn_eager", "rows": "qvl_attn_rows", "states": "qvl_attn_states"}


class Observer(Protocol):
    """Who is shown what a layer attends with."""

    def see(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        output: torch.Tensor,
    ) -> None:
        """Take note of a layer.

        Args:
            layer: its number.
            query: (B, H, S, D), after the rotary embedding.
            key: (B, K, S, D), after the rotary embedding.
            value: (B, K, S, D).
            mask: as `visible` takes it.
            scaling: of the scores.
            output: (B, S, H, D) what the heads gathered, before they are mixed.
        """


def visible(mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Which keys some rows may see, as (1 or B, 1, R, keys) bool; without a mask a row sees what came before it."""
    if mask is not None:
        return mask[:, :, rows]
    keys = torch.arange(key.shape[2], device=key.device)
    own: torch.Tensor = keys[key.shape[2] - query.shape[2] :][rows]
    return (keys <= own[:, None])[None, None]


def _eager_in_blocks(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    recorder = _recorder_of(module)
    eager = importlib.import_module(type(module).__module__).eager_attention_forward
    layer = module.layer_idx
    first_row, first_column = recorder.enter(layer, query, key)
    outputs = []
    for start in range(0, query.shape[2], BLOCK_ROWS):
        block = torch.arange(start, min(start + BLOCK_ROWS, query.shape[2]), device=query.device)
        seen = visible(attention_mask, query, key, block)
        mask = torch.zeros_like(seen, dtype=query.dtype).masked_fill(~seen, torch.finfo(query.dtype).min)
        output, weights = eager(module, query[:, :, block], key, value, mask, **kwargs)
        if weights is None:
            raise CaptureError(f"layer {layer}: eager attention came back without its weights")
        outputs.append(output)
        for sample in range(query.shape[0]):
            wanted = recorder.wanted(layer, sample, first_row + start, len(block))
            if wanted:
                rows = [first_row + start + row for row in wanted]
                recorder.keep(layer, sample, rows, first_column, weights[sample][:, wanted])
    return torch.cat(outputs, dim=1), None


def _rows_beside_sdpa(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    recorder = _recorder_of(module)
    layer = module.layer_idx
    first_row, first_column = recorder.enter(layer, query, key)
    for sample in range(query.shape[0]):
        wanted = recorder.wanted(layer, sample, first_row, query.shape[2])
        for start in range(0, len(wanted), BLOCK_ROWS):
            block = wanted[start : start + BLOCK_ROWS]
            if query.shape[2] == 1 and attention_mask is None:  # a generated token, which sees everything
                weights = attention_rows(query[sample], key[sample], kwargs["scaling"])
            else:
                rows = torch.tensor(block, device=query.device)
                seen = visible(attention_mask, query, key, rows)
                seen = seen[sample % len(seen), 0]
                weights = attention_rows(query[sample][:, rows], key[sample], kwargs["scaling"], seen)
            recorder.keep(layer, sample, [first_row + row for row in block], first_column, weights)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output, None


def _shown_beside_sdpa(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    watcher = _watching.get(id(module.config))
    if watcher is None:
        raise CaptureError("attention is switched to be shown, but nobody looks")
    observer, layer_of = watcher
    observer.see(layer_of(module), query, key, value, attention_mask, kwargs["scaling"], output)
    return output, None


def attention_rows(
    query: torch.Tensor, key: torch.Tensor, scaling: float, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """Scaled dot-product attention of some queries, softmax(q k^T * scaling), in float32 (Vaswani et al. 1706.03762).

    Grouped queries are folded into rows of their key head, so that no key is repeated.

    Args:
        query: (H, R, D), after the rotary embedding.
        key: (K, keys, D), with K dividing H: head h reads key head h // (H / K).
        scaling: of the scores.
        seen: (R, keys) bool; None where every row sees every key.

    Returns:
        (H, R, keys) float32.
    """
    heads, rows, size = query.shape
    groups = query.float().reshape(len(key), heads // len(key) * rows, size)
    scores = groups @ key.float().transpose(1, 2)
    scores = scores.view(heads, rows, -1).mul_(scaling)
    if seen is not None:
        scores.masked_fill_(~seen, -torch.inf)
    return scores.softmax(dim=-1)


AttentionInterface.register(NAMES["eager"], _eager_in_blocks)
AttentionInterface.register(NAMES["rows"], _rows_beside_sdpa)
AttentionInterface.register(NAMES["states"], _shown_beside_sdpa)
for _name in NAMES.values():
    AttentionMaskInterface.register(_name, sdpa_mask)

_active: dict[int, AttentionRecorder] = {}
_watching: dict[int, tuple[Observer, Callable[[Any], int]]] = {}


def _recorder_of(module: Any) -> AttentionRecorder:
    recorder = _active.get(id(module.config))
    if recorder is None:
        raise CaptureError("attention is switched to recording, but nobody records")
    return recorder


@contextmanager
def record_attention(model: Any, recorder: AttentionRecorder, attention: str) -> Iterator[AttentionRecorder]:
    """Let `recorder` see the language model's attention while the `with` lasts, and put everything back after it.

    Args:
        model: a `Qwen2_5_VLForConditionalGeneration`.
        recorder: what to keep.
        attention: `eager` or `rows`.

    Raises:
        CaptureError: the model is being recorded already.
    """
    with _switched(model, "text_config", model.model.language_model.config, _active, recorder, attention):
        yield recorder


@contextmanager
def keep_states(model: Any, observer: Observer) -> Iterator[None]:
    """Let `observer` see what the language model's layers attend with while the `with` lasts; SDPA attends.

    Raises:
        CaptureError: the model is being watched already.
    """
    watcher = observer, attrgetter("layer_idx")
    with _switched(model, "text_config", model.model.language_model.config, _watching, watcher, "states"):
        yield


@contextmanager
def keep_encoder_states(model: Any, observer: Observer) -> Iterator[None]:
    """Let `observer` see what a vision encoder's layers attend with while the `with` lasts; SDPA attends.

    Layers are numbered in the order in which they run. A family that attends in windows shows a layer's windows one
    after another.

    Args:
        model: an encoder, or a model whose configuration has one as `vision_config`.
        observer: who is shown them.

    Raises:
        CaptureError: the model is being watched already.
    """
    numbers: dict[int, int] = {}
    part = "vision_config" if hasattr(model.config, "vision_config") else ""
    watcher = observer, lambda module: numbers.setdefault(id(module), len(numbers))
    with _switched(model, part, getattr(model.config, part or "_", model.config), _watching, watcher, "states"):
        yield


@contextmanager
def _switched(
    model: Any, part: str, config: Any, watchers: dict[int, Any], watcher: Any, attention: str
) -> Iterator[None]:
    """Switch the attention of a model, or of the part that has `config`."""
    if id(config) in watchers:
        raise CaptureError("this model is being recorded already")
    before = config._attn_implementation
    watchers[id(config)] = watcher
    try:
        model.set_attn_implementation({part: NAMES[attention]} if part else NAMES[attention])
        yield
    finally:
        del watchers[id(config)]
        model.set_attn_implementation({part: before} if part else before)


def recorder_of_everything(model: Any, inputs: dict[str, torch.Tensor]) -> AttentionRecorder:
    """A recorder of all layers, heads and rows of a small prompt, on the columns of the prompt."""
    length = inputs["input_ids"].shape[1]
    everything = tuple(range(length))
    layers = range(model.config.text_config.num_hidden_layers)
    return AttentionRecorder(layers, [Target(everything, everything)], length, by_head=True)


def prove_capture(model: Any, inputs: dict[str, torch.Tensor], attention: str) -> None:
    """Run a small prompt and check that what is recorded is attention: the load-time self-check.

    Args:
        model: the loaded model.
        inputs: the processor's tensors of a small prompt with a picture, on the model's device.
        attention: `eager` or `rows`.

    Raises:
        CaptureError: a layer is missing, shapes do not fit, rows do not sum to one, or a token sees the future.
    """
    length = inputs["input_ids"].shape[1]
    text = model.config.text_config
    recorder = recorder_of_everything(model, inputs)
    with record_attention(model, recorder, attention), torch.inference_mode():
        model(**inputs, use_cache=True, logits_to_keep=1)
    (rows,) = recorder.results()
    assert rows.by_head is not None
    expected = (text.num_hidden_layers, text.num_attention_heads, length, length)
    if rows.by_head.shape != expected:
        raise CaptureError(f"self-check: the attention has shape {rows.by_head.shape}, not {expected}")
    future = np.triu(np.ones((length, length), dtype=bool), k=1)
    if rows.by_head[:, :, future].any():
        raise CaptureError("self-check: tokens attend to tokens that come after them")
