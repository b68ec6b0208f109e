"""Record chosen rows of attention while the model runs. The only module that knows how attention is dispatched.

    with record_attention(model, AttentionRecorder(layers, [target], length), "rows") as recorder:
        model.generate(...)
    recorder.results()

The package registers its own attention functions through transformers' public `AttentionInterface` and switches the
language model to one of them inside the `with` block. The vision encoder is not touched.

`eager` runs the model's own eager attention, one block of query rows at a time. `rows` lets SDPA compute the output and
computes only the requested rows beside it: softmax(q k^T * scaling) in float32, whatever the model's precision.
Neither ever holds a layer's whole attention matrix or mask. With `keep_states` SDPA computes the output, and an
observer receives the query, key and value of each layer.
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

# The names must not contain "sdpa", "flash" or "flex": transformers searches for these words.
NAMES = {"eager": "qvl_attn_eager", "rows": "qvl_attn_rows", "states": "qvl_attn_states"}


class Observer(Protocol):
    """Receives the inputs and the output of each layer's attention."""

    def observe(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        output: torch.Tensor,
    ) -> None:
        """Process one layer.

        Args:
            layer: layer number.
            query: (B, H, S, D), after the rotary embedding.
            key: (B, K, S, D), after the rotary embedding.
            value: (B, K, S, D).
            mask: as `visible_keys` takes it.
            scaling: factor of the scores.
            output: (B, S, H, D) outputs of the heads, before the output projection.
        """


def visible_keys(mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return which keys the given query rows attend to, as (1 or B, 1, R, keys) bool. Without a mask it is causal."""
    if mask is not None:
        return mask[:, :, rows]
    keys = torch.arange(key.shape[2], device=key.device)
    positions: torch.Tensor = keys[key.shape[2] - query.shape[2] :][rows]
    return (keys <= positions[:, None])[None, None]


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
        visible = visible_keys(attention_mask, query, key, block)
        mask = torch.zeros_like(visible, dtype=query.dtype).masked_fill(~visible, torch.finfo(query.dtype).min)
        output, weights = eager(module, query[:, :, block], key, value, mask, **kwargs)
        if weights is None:
            raise CaptureError(f"layer {layer}: eager attention returned no weights")
        outputs.append(output)
        for sample in range(query.shape[0]):
            indices = recorder.rows_to_keep(layer, sample, first_row + start, len(block))
            if indices:
                rows = [first_row + start + row for row in indices]
                recorder.keep(layer, sample, rows, first_column, weights[sample][:, indices])
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
        indices = recorder.rows_to_keep(layer, sample, first_row, query.shape[2])
        for start in range(0, len(indices), BLOCK_ROWS):
            block = indices[start : start + BLOCK_ROWS]
            if query.shape[2] == 1 and attention_mask is None:  # a generated token attends to every key
                weights = attention_rows(query[sample], key[sample], kwargs["scaling"])
            else:
                rows = torch.tensor(block, device=query.device)
                visible = visible_keys(attention_mask, query, key, rows)
                visible = visible[sample % len(visible), 0]
                weights = attention_rows(query[sample][:, rows], key[sample], kwargs["scaling"], visible)
            recorder.keep(layer, sample, [first_row + row for row in block], first_column, weights)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output, None


def _observed_sdpa(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    entry = _observers.get(id(module.config))
    if entry is None:
        raise CaptureError("internal error: attention mode 'states' without an observer")
    observer, layer_of = entry
    observer.observe(layer_of(module), query, key, value, attention_mask, kwargs["scaling"], output)
    return output, None


def attention_rows(
    query: torch.Tensor, key: torch.Tensor, scaling: float, visible: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the attention weights of some queries, softmax(q k^T * scaling), in float32 (Vaswani et al. 1706.03762).

    Grouped queries become further rows of their key head, so that no key is repeated.

    Args:
        query: (H, R, D), after the rotary embedding.
        key: (K, keys, D), where K divides H: head h uses key head h // (H / K).
        scaling: factor of the scores.
        visible: (R, keys) bool; None if every row attends to every key.

    Returns:
        (H, R, keys) float32.
    """
    heads, rows, size = query.shape
    groups = query.float().reshape(len(key), heads // len(key) * rows, size)
    scores = groups @ key.float().transpose(1, 2)
    scores = scores.view(heads, rows, -1).mul_(scaling)
    if visible is not None:
        scores.masked_fill_(~visible, -torch.inf)
    return scores.softmax(dim=-1)


AttentionInterface.register(NAMES["eager"], _eager_in_blocks)
AttentionInterface.register(NAMES["rows"], _rows_beside_sdpa)
AttentionInterface.register(NAMES["states"], _observed_sdpa)
for _name in NAMES.values():
    AttentionMaskInterface.register(_name, sdpa_mask)

_recorders: dict[int, AttentionRecorder] = {}
_observers: dict[int, tuple[Observer, Callable[[Any], int]]] = {}


def _recorder_of(module: Any) -> AttentionRecorder:
    recorder = _recorders.get(id(module.config))
    if recorder is None:
        raise CaptureError("attention is switched to recording, but no recorder is set")
    return recorder


@contextmanager
def record_attention(model: Any, recorder: AttentionRecorder, attention: str) -> Iterator[AttentionRecorder]:
    """Record the language model's attention inside the `with` block; restore the model after it.

    Args:
        model: a `Qwen2_5_VLForConditionalGeneration`.
        recorder: collects the rows.
        attention: `eager` or `rows`.

    Raises:
        CaptureError: the model is already being recorded.
    """
    with _switched(model, "text_config", model.model.language_model.config, _recorders, recorder, attention):
        yield recorder


@contextmanager
def keep_states(model: Any, observer: Observer) -> Iterator[None]:
    """Show `observer` the attention inputs of the language model's layers inside the `with` block. SDPA computes them.

    Raises:
        CaptureError: the model already has an observer.
    """
    entry = observer, attrgetter("layer_idx")
    with _switched(model, "text_config", model.model.language_model.config, _observers, entry, "states"):
        yield


@contextmanager
def keep_encoder_states(model: Any, observer: Observer) -> Iterator[None]:
    """Show `observer` the attention inputs of a vision encoder's layers inside the `with` block. SDPA computes them.

    Layers are numbered in the order in which they run. If a model attends in windows, the observer receives the windows
    of a layer one after another.

    Args:
        model: an encoder, or a model whose configuration has a `vision_config`.
        observer: receives each layer.

    Raises:
        CaptureError: the model already has an observer.
    """
    numbers: dict[int, int] = {}
    part = "vision_config" if hasattr(model.config, "vision_config") else ""
    entry = observer, lambda module: numbers.setdefault(id(module), len(numbers))
    with _switched(model, part, getattr(model.config, part or "_", model.config), _observers, entry, "states"):
        yield


@contextmanager
def _switched(
    model: Any, part: str, config: Any, registry: dict[int, Any], entry: Any, attention: str
) -> Iterator[None]:
    """Switch the attention of a model, or of the part that has `config`, and restore it."""
    if id(config) in registry:
        raise CaptureError("this model is already being recorded")
    before = config._attn_implementation
    registry[id(config)] = entry
    try:
        model.set_attn_implementation({part: NAMES[attention]} if part else NAMES[attention])
        yield
    finally:
        del registry[id(config)]
        model.set_attn_implementation({part: before} if part else before)


def recorder_of_everything(model: Any, inputs: dict[str, torch.Tensor]) -> AttentionRecorder:
    """Return a recorder of all layers, heads, rows and columns of a small prompt."""
    length = inputs["input_ids"].shape[1]
    everything = tuple(range(length))
    layers = range(model.config.text_config.num_hidden_layers)
    return AttentionRecorder(layers, [Target(everything, everything)], length, by_head=True)


def prove_capture(model: Any, inputs: dict[str, torch.Tensor], attention: str) -> None:
    """Run a small prompt and check that the recorded rows are attention. This is the self-check at load time.

    Args:
        model: the loaded model.
        inputs: the processor's tensors of a small prompt with a picture, on the model's device.
        attention: `eager` or `rows`.

    Raises:
        CaptureError: a layer is missing, a shape is wrong, rows do not sum to one, or a token attends to later tokens.
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
        raise CaptureError(f"self-check: the attention has shape {rows.by_head.shape}, expected {expected}")
    future = np.triu(np.ones((length, length), dtype=bool), k=1)
    if rows.by_head[:, :, future].any():
        raise CaptureError("self-check: tokens attend to tokens that come after them")
