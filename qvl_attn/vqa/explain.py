"""Maps of a question's methods and their deletion and insertion curves, computed from the question's run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qvl_attn.attribution.faithfulness import (
    FILLS,
    HEADLINE,
    Curves,
    blurred,
    curves_of,
    flat,
    removal_orders,
    removed_shares,
    seed_of,
)
from qvl_attn.attribution.heatmap import mean_over
from qvl_attn.attribution.methods.registry import DIMENSIONS, METHODS, MethodMap, View, needs_of
from qvl_attn.attribution.selection import query_rows
from qvl_attn.attribution.settings import whole_layers
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.text import argument
from qvl_attn.core.types import Capture, FloatArray, Token
from qvl_attn.model.generate import Pass, on_model, with_answer
from qvl_attn.model.probe import Probe
from qvl_attn.model.prompt import PIXELS, Prompt
from qvl_attn.model.signals import GENERIC, Signals
from qvl_attn.vqa.question import Question, read_question, with_pixels


def method_maps(
    model: Any, processor: Any, config: Any, question: Question, run: Pass, generic: Capture | None
) -> tuple[MethodMap, ...]:
    """Return the map of each of a question's methods, in order.

    Args:
        model: the model that answered.
        processor: processor of the model.
        config: configuration of the model.
        question: the question.
        run: its run; that of the supplied answer if there is one.
        generic: the rows of the generic prompt, if a method needs them.

    Raises:
        InputError: a method needs something that was not captured.
        CaptureError: there is no attention to show.
    """
    capture, query, headline = run.capture, question.selection.query, question.headline
    if not question.settings.methods:
        return ()
    view = View(
        capture=capture,
        query=query,
        rows=query_rows(capture, question.prompt.question, query),
        layers=whole_layers(headline, config.text_config.num_hidden_layers),
        heads=headline.heads,
        signals=replace(_signals(model, processor, config, question, run), generic=generic),
    )
    return tuple(METHODS[name].compute(view) for name in question.settings.methods)


def removal(
    model: Any,
    processor: Any,
    config: Any,
    question: Question,
    run: Pass,
    methods: Sequence[MethodMap],
    batch: int,
) -> Curves | None:
    """Return the deletion and insertion curves of each method's map, or of the headline's.

    Args:
        model: the model that answered.
        processor: processor of the model.
        config: configuration of the model.
        question: the question.
        run: its run.
        methods: the maps; if there are none, the plain headline is measured under the name `HEADLINE`.
        batch: how many perturbed inputs run at once.

    Returns:
        The curves; None if the answer has no text.

    Raises:
        CaptureError: the model's output is not finite.
    """
    settings, capture = question.settings, run.capture
    answer = capture.tokens[question.prompt.length :]
    if not any(token.role == "answer" for token in answer):
        return None
    maps = {method.method: method.values for method in methods}
    seed = seed_of(settings.seed, question.media, question.prompt.question)
    if not maps:
        rows, headline = query_rows(capture, question.prompt.question, question.selection.query), question.headline
        maps = {HEADLINE: mean_over(capture, headline.layers, headline.heads, rows)}
    return removal_curves(model, processor, config, question, run.ids, answer, maps, batch=batch, seed=seed)


def _signals(model: Any, processor: Any, config: Any, question: Question, run: Pass) -> Signals:
    """Collect the signals that the methods need, except the generic prompt's rows, in at most one pass."""
    needs = needs_of(question.settings.methods) - {GENERIC}
    prompt = with_pixels(question, processor, config).prompt if needs else question.prompt
    answer = run.capture.tokens[prompt.length :]
    probe = Probe(prompt, run.ids, answer, whole=question.selection.query.kind == "answer")
    if not needs:
        return Signals(probe.seeds, probe.explained_text)
    shape = config.text_config.num_hidden_layers, config.text_config.hidden_size
    return probe.run(model, needs, DIMENSIONS.get(shape, ()))


def removal_curves(
    model: Any,
    processor: Any,
    config: Any,
    question: Question,
    ids: Sequence[int],
    tokens: Sequence[Token],
    maps: Mapping[str, FloatArray],
    *,
    batch: int,
    seed: int,
) -> Curves:
    """Return the deletion and insertion curves of several maps of one answer.

    For each fill, at most 2 (STEPS - 1) passes run for each map and random order, and STEPS + 1 more.

    Args:
        model: the model that answered.
        processor: processor of the model.
        config: configuration of the model.
        question: the question.
        ids: ids of the answer's tokens, end token included.
        tokens: tokens of the answer.
        maps: a (V,) map of any scale for each method's name.
        batch: how many perturbed inputs run at once.
        seed: seed of tie breaking and random orders.

    Raises:
        CaptureError: the answer has no text, the processor returns another prompt for the filled pictures, or the
            model's output is not finite.
        ValueError: a map does not fit the prompt.
    """
    text = [i for i, token in enumerate(tokens) if token.role == "answer"]
    if not text:
        raise CaptureError("the answer has no text whose probability could change")
    prompt = with_pixels(question, processor, config).prompt
    cells = sum(grid.cells for grid in prompt.grids)
    shares = removed_shares(removal_orders(maps.values(), cells, seed))
    # Curves share their end points, and deletion and insertion share inputs: run each distinct input once.
    inputs, inverse = np.unique(shares.reshape(-1, cells), axis=0, return_inverse=True)
    by_fill = []
    for fill in FILLS:
        pixels = _filled(processor, config, question, prompt, fill)
        logprobs = _answer_logprobs(model, prompt, pixels, ids, text, inputs, batch)
        by_fill.append(logprobs[inverse].reshape(shares.shape[:-1]))
    return curves_of(maps, np.stack(by_fill, axis=2))


def _filled(processor: Any, config: Any, question: Question, prompt: Prompt, fill: str) -> torch.Tensor:
    """Return the (P, D) pixel rows of the pictures with everything replaced by the fill."""
    media = [replace(medium, frames=_filled_frames(medium.frames, fill)) for medium in question.media]
    inputs = read_question(processor, config, media, prompt.question, question.settings).prompt.inputs
    (name,) = PIXELS & inputs.keys()
    same_shape = {*inputs} == {*prompt.inputs} and inputs[name].shape == prompt.inputs[name].shape
    if not same_shape or any(not torch.equal(inputs[key], prompt.inputs[key]) for key in {*inputs} - {name}):
        raise CaptureError("the processor returns another prompt for the same pictures after they are filled")
    pixels: torch.Tensor = inputs[name]
    return pixels


def _filled_frames(frames: NDArray[np.uint8], fill: str) -> NDArray[np.uint8]:
    return flat(frames) if fill == "mean" else np.stack([blurred(frame) for frame in frames])


def _answer_logprobs(
    model: Any,
    prompt: Prompt,
    fill: torch.Tensor,
    ids: Sequence[int],
    text: Sequence[int],
    shares: FloatArray,
    batch: int,
) -> NDArray[np.float64]:
    """Return (M,) log-probabilities of the answer's text with a share of each cell replaced by the fill.

    Args:
        model: a `Qwen2_5_VLForConditionalGeneration`.
        prompt: prompt with its pixels.
        fill: (P, D) pixel rows that replace those of the prompt.
        ids: ids of the answer's tokens.
        text: indices of the text tokens in `ids`.
        shares: (M, V) replaced share of each cell.
        batch: how many inputs run at once.
    """
    inputs = on_model({**with_answer(prompt, ids), "fill": fill}, model)
    (name,) = PIXELS & inputs.keys()
    by_cell = shares.shape[1], -1, fill.shape[1]
    original, fill = inputs.pop(name).reshape(by_cell), inputs.pop("fill").reshape(by_cell)
    logprobs: list[float] = []
    for start in range(0, len(shares), batch):
        batch_shares = torch.from_numpy(shares[start : start + batch]).to(original.device)[:, :, None, None]
        mixed = (1 - batch_shares) * original + batch_shares * fill
        repeated = {key: torch.cat([value] * len(batch_shares)) for key, value in inputs.items()}
        repeated[name] = mixed.reshape(-1, fill.shape[-1])
        with torch.inference_mode():
            logits = model(**repeated, use_cache=False, logits_to_keep=len(ids) + 1).logits
            chosen = torch.tensor([ids[i] for i in text], device=logits.device)[:, None]
            # One at a time: in float32 a batch of long answers over a large vocabulary would be gigabytes.
            logprobs += [float(row[text].float().log_softmax(-1).gather(1, chosen).double().sum()) for row in logits]
    if not np.isfinite(logprobs).all():
        raise CaptureError(
            "the model's output is not finite (NaN or infinite)", f"try {argument('dtype', 'float32')} or bfloat16"
        )
    return np.array(logprobs)
