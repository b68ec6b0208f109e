"""One pass of a prompt through the model, its own answer or a supplied one, with the attention rows recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from qvl_attn.capture import AttentionRecorder, Rows, record_attention
from qvl_attn.errors import CaptureError
from qvl_attn.prompt import Prompt, answer_tokens
from qvl_attn.types import Capture, Token


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass gave.

    Attributes:
        answer: the text that was generated or supplied.
        logprob: natural logarithm of the probability of its text tokens under the plain model.
        capture: the attention rows.
    """

    answer: str
    logprob: float
    capture: Capture


def on_model(prompt: Prompt, model: Any) -> dict[str, torch.Tensor]:
    """The prompt's tensors where the model's first layer is."""
    device = model.get_input_embeddings().weight.device
    return {name: value.to(device) for name, value in prompt.inputs.items()}


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
        return_dict_in_generate=True,
        output_logits=True,
    )


def own_answer(
    model: Any, tokenizer: Any, prompt: Prompt, layers: Sequence[int], generation: GenerationConfig, *, by_head: bool
) -> Pass:
    """Let the model answer. Rows: the question's tokens, the last prompt token, every generated token but the last."""
    recorder = AttentionRecorder(layers, _prompt_rows(prompt), prompt.positions("vision"), by_head)
    with record_attention(model, recorder), torch.inference_mode():
        output = model.generate(**on_model(prompt, model), generation_config=generation)
    ids = output.sequences[0, prompt.length :].tolist()
    tokens, text = answer_tokens(tokenizer, ids, prompt.length)
    logprob = _text_logprob([step[0] for step in output.logits], ids, tokens)
    return Pass(text, logprob, _as_capture(recorder.result(), prompt, tokens, layers))


def supplied_answer(
    model: Any, tokenizer: Any, prompt: Prompt, layers: Sequence[int], answer: str, *, by_head: bool
) -> Pass:
    """Feed prompt and answer at once (teacher forcing); the rows that produce its tokens are those before them."""
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    tokens, text = answer_tokens(tokenizer, ids, prompt.length)
    total = prompt.length + len(ids)
    inputs = on_model(prompt, model)
    device = inputs["input_ids"].device
    inputs |= {
        "input_ids": torch.cat([inputs["input_ids"], torch.tensor([ids], device=device)], dim=1),
        "attention_mask": torch.ones(1, total, dtype=torch.long, device=device),
        "mm_token_type_ids": torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(ids))),
    }
    rows = (*_prompt_rows(prompt), *range(prompt.length, total - 1))
    recorder = AttentionRecorder(layers, rows, prompt.positions("vision"), by_head)
    with record_attention(model, recorder), torch.inference_mode():
        logits = model(**inputs, use_cache=True, logits_to_keep=len(ids) + 1).logits[0, :-1]
    return Pass(text, _text_logprob(list(logits), ids, tokens), _as_capture(recorder.result(), prompt, tokens, layers))


def _prompt_rows(prompt: Prompt) -> tuple[int, ...]:
    return (*prompt.positions("question"), prompt.length - 1)


def _text_logprob(logits: Sequence[torch.Tensor], ids: Sequence[int], tokens: Sequence[Token]) -> float:
    """Log-probability of the tokens of the answer's text.

    Args:
        logits: (vocabulary,) for each token, as the model gave them before it.
        ids: of the tokens.
        tokens: their roles.

    Raises:
        CaptureError: the model computes NaN or infinities, wherever in it they come from.
    """
    total = 0.0
    for row, token_id, token in zip(logits, ids, tokens, strict=True):
        if not bool(torch.isfinite(row).all()):
            raise CaptureError("the model's output is not finite (NaN or infinite)", "try --dtype float32 or bfloat16")
        if token.role == "answer":
            total += float(row.float().log_softmax(dim=-1)[token_id])
    return total


def _as_capture(rows: Rows, prompt: Prompt, answer: tuple[Token, ...], layers: Sequence[int]) -> Capture:
    last = prompt.length - 1
    queries = rows.queries
    return Capture(
        layers=np.array(layers, dtype=np.int64),
        queries=queries,
        query_role=np.where(queries < last, "question", np.where(queries == last, "last", "answer")),
        produces=np.where(queries >= last, queries + 1, -1),
        weights=rows.weights,
        # A row may sum to a little more than one in 16 bits; a share may not.
        vision_mass=np.minimum(rows.weights.sum(axis=-1, dtype=np.float32), np.float32(1)),
        grids=prompt.grids,
        tokens=(*prompt.tokens, *answer),
        weights_by_head=rows.by_head,
    )
