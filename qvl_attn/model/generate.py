"""Prompts through the model, with its own answers or a supplied one, and the attention rows recorded on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig, StoppingCriteriaList

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import Apart, Capture, Token
from qvl_attn.model.capture import record_attention
from qvl_attn.model.prompt import Prompt, answer_tokens
from qvl_attn.model.recorder import AttentionRecorder, Rows, Target

# What the processor makes of pictures and clips, several prompts' one after the other.
VISION_INPUTS = {"pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "second_per_grid_ts"}


@dataclass(frozen=True)
class Recording:
    """What is recorded and how.

    Attributes:
        attention: `eager` or `rows`.
        layers: layer numbers.
        by_head: whether heads are kept apart as well as averaged.
        apart: which ones, if not all of all layers.
        half: whether the heads apart are kept in float16.
        head_max: whether the maximum over heads is kept as well.
    """

    attention: str
    layers: tuple[int, ...]
    by_head: bool = False
    apart: Apart | None = None
    half: bool = False
    head_max: bool = False

    def recorder(self, targets: Sequence[Target], length: int, cached: int = 0) -> AttentionRecorder:
        """A recorder for one batch."""
        dtype = torch.float16 if self.half else torch.float32
        return AttentionRecorder(
            self.layers,
            targets,
            length,
            cached=cached,
            by_head=self.by_head,
            apart=self.apart,
            head_dtype=dtype,
            head_max=self.head_max,
        )


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass gave.

    Attributes:
        answer: the text that was generated or supplied.
        logprob: natural logarithm of the probability of its text tokens under the plain model.
        capture: the attention rows.
        ids: of the answer's tokens, with what ends it.
    """

    answer: str
    logprob: float
    capture: Capture
    ids: tuple[int, ...]


def on_model(inputs: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """Tensors where the model's first layer is."""
    device = model.get_input_embeddings().weight.device
    return {name: value.to(device) for name, value in inputs.items()}


def padded_batch(prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """The tensors of several prompts as one batch, padded on the left."""
    if len(prompts) == 1:
        return dict(prompts[0].inputs)
    return {
        **{name: torch.cat([one.inputs[name] for one in prompts]) for name in VISION_INPUTS & prompts[0].inputs.keys()},
        **{name: _padded(prompts, name) for name in ("input_ids", "attention_mask", "mm_token_type_ids")},
    }


def _padded(prompts: Sequence[Prompt], name: str, head: int = 0) -> torch.Tensor:
    """One tensor of several prompts, (B, longest), with the padding after the `head` tokens that they have in common.

    The padding, which no token sees, is the prompt's own first token: a repetition penalty counts it already.
    """
    longest = max(prompt.length for prompt in prompts)
    rows = []
    for row in (prompt.inputs[name] for prompt in prompts):
        padding = row.new_full((1, longest - row.shape[1]), int(row[0, 0]) if name == "input_ids" else 0)
        rows.append(torch.cat([row[:, :head], padding, row[:, head:]], dim=1))
    return torch.cat(rows)


def greedy(model: Any, max_new_tokens: int) -> GenerationConfig:
    """Greedy generation with the checkpoint's repetition penalty and end tokens."""
    own = model.generation_config
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        max_new_tokens=max_new_tokens,
        repetition_penalty=own.repetition_penalty or 1.0,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
    )


def own_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], recording: Recording, generation: GenerationConfig
) -> list[Pass]:
    """Let the model answer a batch of prompts.

    Rows: the question's tokens, the last prompt token, every generated token but the last.
    """
    return _own_answers(model, tokenizer, prompts, recording, generation, on_model(padded_batch(prompts), model))


def _own_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    recording: Recording,
    generation: GenerationConfig,
    inputs: dict[str, Any],
    cached: int = 0,
) -> list[Pass]:
    length = inputs["input_ids"].shape[1]
    targets = [_target(prompt, padding=length - prompt.length, head=cached) for prompt in prompts]
    recorder = recording.recorder(targets, length, cached)
    with record_attention(model, recorder, recording.attention):
        ids, logprobs = _generate(model, inputs, generation)
    return [
        _as_pass(tokenizer, prompt, answer, logprob, rows, recording, generation)
        for prompt, answer, logprob, rows in zip(prompts, ids, logprobs, recorder.results(), strict=True)
    ]


class SharedPictures:
    """Pictures that were read once, for any number of questions about them.

    What stands before the end of the pictures is fed once, and its keys and values are kept for every question.
    """

    def __init__(self, model: Any, prompt: Prompt, recording: Recording) -> None:
        self._model = model
        self._stop = prompt.grids[-1].stop
        self._cache = DynamicCache(config=model.config.text_config)
        nothing = recording.recorder([Target((), ())], self._stop)
        inputs = on_model(prompt.inputs, model)
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            inputs[name] = inputs[name][:, : self._stop]
        with record_attention(model, nothing, recording.attention), torch.inference_mode():
            model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._rope_deltas = model.model.rope_deltas

    def own_answers(
        self, tokenizer: Any, prompts: Sequence[Prompt], recording: Recording, generation: GenerationConfig
    ) -> list[Pass]:
        """As `own_answers`, for prompts with these pictures, padded between these and what follows them."""
        padded = {name: _padded(prompts, name, self._stop) for name in ("input_ids", "attention_mask")}
        inputs = {**on_model(padded, self._model), "past_key_values": self._cache_for(len(prompts))}
        return _own_answers(self._model, tokenizer, prompts, recording, generation, inputs, self._stop)

    def supplied_answer(self, tokenizer: Any, prompt: Prompt, recording: Recording, answer: str) -> Pass:
        """As `supplied_answer`, for one prompt with these pictures."""
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        supplied = torch.tensor([ids], dtype=torch.long)
        tokens = torch.cat([prompt.inputs["input_ids"][:, self._stop :], supplied], dim=1)
        inputs = {**on_model({"input_ids": tokens}, self._model), "past_key_values": self._cache_for(1)}
        return _forced(self._model, tokenizer, prompt, recording, ids, inputs, self._stop)

    def _cache_for(self, count: int) -> DynamicCache:
        """A copy of the kept keys and values for each of `count` prompts, and the model's state that goes with it."""
        self._model.model.rope_deltas = self._rope_deltas  # which whoever took the last answer may have changed
        kept = [[kind.expand(count, -1, -1, -1) for kind in (keys, values)] for keys, values, _ in self._cache]
        return DynamicCache(kept, config=self._model.config.text_config)


def supplied_answer(model: Any, tokenizer: Any, prompt: Prompt, recording: Recording, answer: str) -> Pass:
    """Feed prompt and answer at once (teacher forcing); the rows that produce its tokens are those before them."""
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return _forced(model, tokenizer, prompt, recording, ids, on_model(with_answer(prompt, ids), model))


def with_answer(prompt: Prompt, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """The tensors of a prompt with an answer behind it."""
    inputs = dict(prompt.inputs)
    return inputs | {
        "input_ids": torch.cat([inputs["input_ids"], torch.tensor([list(ids)], dtype=torch.long)], dim=1),
        "attention_mask": torch.ones(1, prompt.length + len(ids), dtype=torch.long),
        "mm_token_type_ids": torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(ids))),
    }


def _forced(
    model: Any,
    tokenizer: Any,
    prompt: Prompt,
    recording: Recording,
    ids: Sequence[int],
    inputs: dict[str, Any],
    cached: int = 0,
) -> Pass:
    total = prompt.length + len(ids)
    recorder = recording.recorder([_target(prompt, range(prompt.length, total - 1))], total, cached)
    with record_attention(model, recorder, recording.attention), torch.inference_mode():
        logits = model(**inputs, use_cache=True, logits_to_keep=len(ids) + 1).logits[0, :-1]
        chosen = torch.tensor(ids, dtype=torch.long, device=logits.device)[:, None]
        logprobs = logits.float().log_softmax(dim=-1).gather(1, chosen)[:, 0].tolist()
    return _passed(tokenizer, prompt, ids, logprobs, recorder.results()[0], recording)


class _TokenLogprobs:
    """Keeps the log-probability of each generated token under the plain model, and not the logits of every step.

    A stopping criterion that never stops: what sees each token when it is chosen.
    """

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []
        self._logits: torch.Tensor | None = None

    def see(self, module: Any, args: Any, logits: torch.Tensor) -> None:
        """A forward hook of the head: the logits before any penalty."""
        self._logits = logits[:, -1]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        assert self._logits is not None
        chosen = input_ids[:, -1:].to(self._logits.device)
        self.steps.append(self._logits.float().log_softmax(dim=-1).gather(1, chosen)[:, 0])
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _generate(
    model: Any, inputs: dict[str, Any], generation: GenerationConfig
) -> tuple[list[list[int]], list[list[float]]]:
    """The generated tokens of each sequence of a batch and their log-probabilities, padding at the end included."""
    logprobs = _TokenLogprobs()
    hook = model.lm_head.register_forward_hook(logprobs.see)
    try:
        with torch.inference_mode():
            criteria = StoppingCriteriaList([logprobs])
            ids = model.generate(**inputs, generation_config=generation, stopping_criteria=criteria)
    finally:
        hook.remove()
    length = inputs["input_ids"].shape[1]
    return ids[:, length:].tolist(), torch.stack(logprobs.steps, dim=1).tolist()


def _target(prompt: Prompt, further: Sequence[int] = (), padding: int = 0, head: int = 0) -> Target:
    rows = (*prompt.positions("question"), prompt.length - 1, *further)
    return Target(rows, prompt.positions("vision"), padding, head)


def _as_pass(
    tokenizer: Any,
    prompt: Prompt,
    ids: list[int],
    logprobs: list[float],
    rows: Rows,
    recording: Recording,
    generation: GenerationConfig,
) -> Pass:
    """Cut what a batch generated after the end of this sequence."""
    ends = generation.eos_token_id
    stops = {ends} if isinstance(ends, int) else set(ends or ())
    count = next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))
    kept = rows.queries < prompt.length + count - 1
    if not kept.all():
        by_head = None if rows.by_head is None else rows.by_head[:, :, kept]
        maximum = None if rows.maximum is None else rows.maximum[:, kept]
        rows = Rows(rows.queries[kept], rows.weights[:, kept], by_head, maximum)
    return _passed(tokenizer, prompt, ids[:count], logprobs[:count], rows, recording)


def _passed(
    tokenizer: Any, prompt: Prompt, ids: Sequence[int], logprobs: Sequence[float], rows: Rows, recording: Recording
) -> Pass:
    if not np.isfinite(logprobs).all():  # wherever in the model it comes from
        raise CaptureError("the model's output is not finite (NaN or infinite)", "try --dtype float32 or bfloat16")
    tokens, text = answer_tokens(tokenizer, ids, prompt.length)
    logprob = sum(value for value, token in zip(logprobs, tokens, strict=True) if token.role == "answer")
    return Pass(text, float(logprob), _as_capture(rows, prompt, tokens, recording), tuple(ids))


def _as_capture(rows: Rows, prompt: Prompt, answer: tuple[Token, ...], recording: Recording) -> Capture:
    last = prompt.length - 1
    queries = rows.queries
    produces = (queries >= last) & (queries < last + len(answer))
    return Capture(
        layers=np.array(recording.layers, dtype=np.int64),
        queries=queries,
        query_role=np.where(queries < last, "question", np.where(queries == last, "last", "answer")),
        produces=np.where(produces, queries + 1, -1),
        weights=rows.weights,
        # A row may sum to a little more than one in 16 bits; a share may not.
        vision_mass=np.minimum(rows.weights.sum(axis=-1, dtype=np.float32), np.float32(1)),
        grids=prompt.grids,
        tokens=(*prompt.tokens, *answer),
        weights_by_head=rows.by_head,
        apart=recording.apart,
        weights_max=rows.maximum,
    )
