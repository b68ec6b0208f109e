"""Run prompts through the model, with generated or supplied answers, and record their attention rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, GenerationConfig, StoppingCriteriaList

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.runtime import OnToken, Progress, no_progress
from qvl_attn.core.text import argument
from qvl_attn.core.types import Apart, Capture, Token
from qvl_attn.model.capture import record_attention
from qvl_attn.model.prompt import Prompt, answer_tokens
from qvl_attn.model.recorder import AttentionRecorder, Rows, Target

# The stage that counts the tokens of an answer.
TOKENS = "answer tokens"
# The processor's tensors of pictures and clips; those of several prompts are concatenated.
VISION_INPUTS = {"pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "second_per_grid_ts"}


@dataclass(frozen=True)
class Recording:
    """Which attention is recorded, and how.

    Attributes:
        attention: `eager` or `rows`.
        layers: layer numbers.
        by_head: also keep single heads, besides their mean.
        apart: which heads to keep; None for all heads of all layers.
        half: keep single heads in float16.
        head_max: also keep the maximum over heads.
    """

    attention: str
    layers: tuple[int, ...]
    by_head: bool = False
    apart: Apart | None = None
    half: bool = False
    head_max: bool = False

    def recorder(self, targets: Sequence[Target], length: int, cached: int = 0) -> AttentionRecorder:
        """Return a recorder for one batch."""
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
    """The result of one pass.

    Attributes:
        answer: the generated or supplied text.
        logprob: natural logarithm of the probability of its text tokens, before any penalty.
        capture: the attention rows.
        ids: ids of the answer's tokens, end token included.
    """

    answer: str
    logprob: float
    capture: Capture
    ids: tuple[int, ...]


def on_model(inputs: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """Move tensors to the device of the model's first layer."""
    device = model.get_input_embeddings().weight.device
    return {name: value.to(device) for name, value in inputs.items()}


def padded_batch(prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """Return the tensors of several prompts as one batch, padded on the left."""
    if len(prompts) == 1:
        return dict(prompts[0].inputs)
    return {
        **{
            name: torch.cat([prompt.inputs[name] for prompt in prompts])
            for name in VISION_INPUTS & prompts[0].inputs.keys()
        },
        **{name: _padded(prompts, name) for name in ("input_ids", "attention_mask", "mm_token_type_ids")},
    }


def _padded(prompts: Sequence[Prompt], name: str, head: int = 0) -> torch.Tensor:
    """Return one tensor of several prompts, (B, longest), padded after the `head` tokens that they share.

    No token attends to the padding. It repeats the prompt's first token, which a repetition penalty counts anyway.
    """
    longest = max(prompt.length for prompt in prompts)
    rows = []
    for row in (prompt.inputs[name] for prompt in prompts):
        padding = row.new_full((1, longest - row.shape[1]), int(row[0, 0]) if name == "input_ids" else 0)
        rows.append(torch.cat([row[:, :head], padding, row[:, head:]], dim=1))
    return torch.cat(rows)


def greedy(model: Any, max_new_tokens: int) -> GenerationConfig:
    """Return a configuration for greedy generation with the checkpoint's repetition penalty and end tokens."""
    default = model.generation_config
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        max_new_tokens=max_new_tokens,
        repetition_penalty=default.repetition_penalty or 1.0,
        eos_token_id=default.eos_token_id,
        pad_token_id=default.pad_token_id,
    )


def own_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    recording: Recording,
    generation: GenerationConfig,
    progress: Progress = no_progress,
    on_token: OnToken | None = None,
) -> list[Pass]:
    """Generate the answers to a batch of prompts; `progress` counts the tokens.

    The recorded rows are those of the question's tokens, the last prompt token and every generated token but the last.
    """
    inputs = on_model(padded_batch(prompts), model)
    return _own_answers(model, tokenizer, prompts, recording, generation, inputs, progress, on_token)


def _own_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    recording: Recording,
    generation: GenerationConfig,
    inputs: dict[str, Any],
    progress: Progress,
    on_token: OnToken | None,
    cached: int = 0,
) -> list[Pass]:
    length = inputs["input_ids"].shape[1]
    targets = [_target(prompt, padding=length - prompt.length, head=cached) for prompt in prompts]
    recorder = recording.recorder(targets, length, cached)
    with record_attention(model, recorder, recording.attention):
        ids, logprobs = _generate(model, inputs, generation, progress, on_token and _AnswerText(tokenizer, on_token))
    return [
        _trimmed_pass(tokenizer, prompt, answer, logprob, rows, recording, generation)
        for prompt, answer, logprob, rows in zip(prompts, ids, logprobs, recorder.results(), strict=True)
    ]


class SharedPictures:
    """The key-value cache of pictures, shared by any number of questions about them.

    The prompt up to the end of the pictures runs once; its keys and values are kept for every question.
    """

    def __init__(self, model: Any, prompt: Prompt, recording: Recording) -> None:
        self._model = model
        self._stop = prompt.grids[-1].stop
        self._cache = DynamicCache(config=model.config.text_config)
        recorder = recording.recorder([Target((), ())], self._stop)
        inputs = on_model(prompt.inputs, model)
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            inputs[name] = inputs[name][:, : self._stop]
        with record_attention(model, recorder, recording.attention), torch.inference_mode():
            model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._rope_deltas = model.model.rope_deltas

    def own_answers(
        self,
        tokenizer: Any,
        prompts: Sequence[Prompt],
        recording: Recording,
        generation: GenerationConfig,
        progress: Progress = no_progress,
        on_token: OnToken | None = None,
    ) -> list[Pass]:
        """Do as `own_answers` for prompts with these pictures. The padding stands right after the pictures."""
        padded = {name: _padded(prompts, name, self._stop) for name in ("input_ids", "attention_mask")}
        inputs = {**on_model(padded, self._model), "past_key_values": self._cache_for(len(prompts))}
        stop = self._stop
        return _own_answers(self._model, tokenizer, prompts, recording, generation, inputs, progress, on_token, stop)

    def supplied_answer(self, tokenizer: Any, prompt: Prompt, recording: Recording, answer: str) -> Pass:
        """Do as `supplied_answer` for one prompt with these pictures."""
        ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
        supplied = torch.tensor([ids], dtype=torch.long)
        tokens = torch.cat([prompt.inputs["input_ids"][:, self._stop :], supplied], dim=1)
        inputs = {**on_model({"input_ids": tokens}, self._model), "past_key_values": self._cache_for(1)}
        return _forced(self._model, tokenizer, prompt, recording, ids, inputs, self._stop)

    def _cache_for(self, count: int) -> DynamicCache:
        """Return the cache expanded to `count` prompts, and restore the model's position offsets."""
        self._model.model.rope_deltas = self._rope_deltas  # another question may have changed them
        expanded = [[tensor.expand(count, -1, -1, -1) for tensor in (keys, values)] for keys, values, _ in self._cache]
        return DynamicCache(expanded, config=self._model.config.text_config)


def supplied_answer(model: Any, tokenizer: Any, prompt: Prompt, recording: Recording, answer: str) -> Pass:
    """Run prompt and answer in one pass (teacher forcing). Each answer token is produced by the row before it."""
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return _forced(model, tokenizer, prompt, recording, ids, on_model(with_answer(prompt, ids), model))


def with_answer(prompt: Prompt, ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the tensors of a prompt followed by an answer."""
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
    return _make_pass(tokenizer, prompt, ids, logprobs, recorder.results()[0], recording)


class _TokenLogprobs:
    """Collect the log-probability of each generated token before any penalty, without keeping all logits.

    It is a stopping criterion that never stops: `generate` calls it with each new token.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.steps: list[torch.Tensor] = []
        self._logits: torch.Tensor | None = None

    def store_logits(self, module: Any, args: Any, logits: torch.Tensor) -> None:
        """Forward hook of the LM head: store the logits before any penalty."""
        self._logits = logits[:, -1]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        assert self._logits is not None
        chosen = input_ids[:, -1:].to(self._logits.device)
        self.steps.append(self._logits.float().log_softmax(dim=-1).gather(1, chosen)[:, 0])
        self.progress(TOKENS, len(self.steps), 0)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class _AnswerText:
    """Pass on the text of a single answer while its tokens are chosen: characters whole, control tokens never.

    It is a stopping criterion that never stops. Joined, the pieces are the text of `answer_tokens`.
    """

    def __init__(self, tokenizer: Any, on_token: OnToken) -> None:
        self._tokenizer = tokenizer
        self._on_token = on_token
        self._special = set(tokenizer.all_special_ids)
        self._ids: list[int] = []
        self._passed = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        token = int(input_ids[0, -1])
        if token not in self._special:
            self._ids.append(token)
            self._pass_on(self._text().rstrip("\ufffd"))  # the next token may complete the character
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def finish(self) -> None:
        """Pass on what no token has completed."""
        self._pass_on(self._text())

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self._ids, clean_up_tokenization_spaces=False)
        return text

    def _pass_on(self, text: str) -> None:
        if len(text) > self._passed:
            piece, self._passed = text[self._passed :], len(text)
            self._on_token(piece)


def _generate(
    model: Any, inputs: dict[str, Any], generation: GenerationConfig, progress: Progress, text: _AnswerText | None
) -> tuple[list[list[int]], list[list[float]]]:
    """Return the generated tokens of each sequence of a batch and their log-probabilities, with padding at the end."""
    logprobs = _TokenLogprobs(progress)
    progress(TOKENS, 0, 0)
    hook = model.lm_head.register_forward_hook(logprobs.store_logits)
    try:
        with torch.inference_mode():
            criteria = StoppingCriteriaList([logprobs] if text is None else [logprobs, text])
            ids = model.generate(**inputs, generation_config=generation, stopping_criteria=criteria)
    finally:
        hook.remove()
    if text is not None:
        text.finish()
    progress(TOKENS, len(logprobs.steps), len(logprobs.steps))
    length = inputs["input_ids"].shape[1]
    return ids[:, length:].tolist(), torch.stack(logprobs.steps, dim=1).tolist()


def _target(prompt: Prompt, further: Sequence[int] = (), padding: int = 0, head: int = 0) -> Target:
    rows = (*prompt.positions("question"), prompt.length - 1, *further)
    return Target(rows, prompt.positions("vision"), padding, head)


def _trimmed_pass(
    tokenizer: Any,
    prompt: Prompt,
    ids: list[int],
    logprobs: list[float],
    rows: Rows,
    recording: Recording,
    generation: GenerationConfig,
) -> Pass:
    """Drop the tokens that the batch generated after the end of this sequence."""
    ends = generation.eos_token_id
    stops = {ends} if isinstance(ends, int) else set(ends or ())
    count = next((i + 1 for i, token in enumerate(ids) if token in stops), len(ids))
    valid = rows.queries < prompt.length + count - 1
    if not valid.all():
        by_head = None if rows.by_head is None else rows.by_head[:, :, valid]
        maximum = None if rows.maximum is None else rows.maximum[:, valid]
        rows = Rows(rows.queries[valid], rows.weights[:, valid], by_head, maximum)
    return _make_pass(tokenizer, prompt, ids[:count], logprobs[:count], rows, recording)


def _make_pass(
    tokenizer: Any, prompt: Prompt, ids: Sequence[int], logprobs: Sequence[float], rows: Rows, recording: Recording
) -> Pass:
    if not np.isfinite(logprobs).all():
        raise CaptureError(
            "the model's output is not finite (NaN or infinite)", f"try {argument('dtype', 'float32')} or bfloat16"
        )
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
        # In 16 bits a row may sum to slightly more than one.
        vision_mass=np.minimum(rows.weights.sum(axis=-1, dtype=np.float32), np.float32(1)),
        grids=prompt.grids,
        tokens=(*prompt.tokens, *answer),
        weights_by_head=rows.by_head,
        apart=recording.apart,
        weights_max=rows.maximum,
    )
