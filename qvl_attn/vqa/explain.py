"""From a question's run to the maps of its methods: collects what they need, and asks each for its map."""

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
    gone_shares,
    removal_orders,
    seed_of,
)
from qvl_attn.attribution.heatmap import mean_over
from qvl_attn.attribution.methods import DIMENSIONS, METHODS, MethodMap, View, needs_of
from qvl_attn.attribution.selection import default_layers, query_rows
from qvl_attn.attribution.settings import headline_of
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import Capture, FloatArray, Token
from qvl_attn.model.generate import Pass, on_model, with_answer
from qvl_attn.model.probe import Probe
from qvl_attn.model.prompt import PIXELS, Prompt
from qvl_attn.model.signals import GENERIC, Signals
from qvl_attn.vqa.question import Question, read_question, with_pixels


def method_maps(
    model: Any, processor: Any, config: Any, question: Question, run: Pass, generic: Capture | None
) -> tuple[MethodMap, ...]:
    """The map of each of a question's methods, in their order.

    Args:
        model: that answered.
        processor: of the model.
        config: of the model.
        question: what was asked.
        run: what came of it; of the supplied answer where there is one.
        generic: the rows of the generic prompt, where a method needs them.

    Raises:
        InputError: a method wants what was not captured.
        CaptureError: there is nothing to show.
    """
    settings, capture = question.settings, run.capture
    if not settings.methods:
        return ()
    headline = headline_of(settings, config)
    view = View(
        capture=capture,
        query=settings.query,
        rows=query_rows(capture, question.prompt.question, settings.query),
        # A profile of heads says nothing of whole layers.
        layers=headline.layers or default_layers(config.text_config.num_hidden_layers),
        heads=headline.heads,
        signals=replace(_signals(model, processor, config, question, run), generic=generic),
    )
    return tuple(METHODS[name].compute(view) for name in settings.methods)


def removal(
    model: Any,
    processor: Any,
    config: Any,
    question: Question,
    run: Pass,
    methods: Sequence[MethodMap],
    batch: int,
) -> Curves | None:
    """What becomes of the answer's probability as cells go in the order of each method's map, or of the headline's.

    Args:
        model: that answered.
        processor: of the model.
        config: of the model.
        question: what was asked.
        run: what came of it.
        methods: the maps; without any it is the plain headline that is judged, by the name `HEADLINE`.
        batch: how many pictures are run at once.

    Returns:
        None where the answer has no text.

    Raises:
        CaptureError: what came is not finite.
    """
    settings, capture = question.settings, run.capture
    answer = capture.tokens[question.prompt.length :]
    if not any(token.role == "answer" for token in answer):
        return None
    maps = {one.method: one.values for one in methods}
    seed = seed_of(settings.seed, question.media, question.prompt.question)
    if not maps:
        rows = query_rows(capture, question.prompt.question, settings.query)
        headline = headline_of(settings, config)
        maps = {HEADLINE: mean_over(capture, headline.layers, headline.heads, rows)}
    return removal_curves(model, processor, config, question, run.ids, answer, maps, batch=batch, seed=seed)


def _signals(model: Any, processor: Any, config: Any, question: Question, run: Pass) -> Signals:
    """All but the generic prompt's rows, in one pass if any is needed."""
    needs = needs_of(question.settings.methods) - {GENERIC}
    prompt = with_pixels(question, processor, config).prompt if needs else question.prompt
    answer = run.capture.tokens[prompt.length :]
    probe = Probe(prompt, run.ids, answer, whole=question.settings.query == "answer")
    if not needs:
        return Signals(probe.seeds, probe.words)
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
    """Deletion and insertion by each of several maps of one answer.

    Costs, for each fill, at most 2 (STEPS - 1) passes for each map and random order, and STEPS + 1 more.

    Args:
        model: that answered.
        processor: of the model.
        config: of the model.
        question: what was asked.
        ids: of the answer's tokens, with what ends it.
        tokens: of the answer.
        maps: (V,) each, of any scale, by the method's name.
        batch: how many perturbed inputs are run at once.
        seed: of ties and random orders.

    Raises:
        CaptureError: the answer has no text, the processor makes something else of the pictures once they are filled,
            or what came is not finite.
        ValueError: a map does not fit the prompt.
    """
    text = [i for i, token in enumerate(tokens) if token.role == "answer"]
    if not text:
        raise CaptureError("the answer has no text whose probability could change")
    prompt = with_pixels(question, processor, config).prompt
    cells = sum(grid.cells for grid in prompt.grids)
    gone = gone_shares(removal_orders(maps.values(), cells, seed))
    # Ends are common to all maps, and what the same share is taken of is there both ways.
    inputs, places = np.unique(gone.reshape(-1, cells), axis=0, return_inverse=True)
    found = []
    for fill in FILLS:
        pixels = _filled(processor, config, question, prompt, fill)
        logprobs = _answer_logprobs(model, prompt, pixels, ids, text, inputs, batch)
        found.append(logprobs[places].reshape(gone.shape[:-1]))
    return curves_of(maps, np.stack(found, axis=2))


def _filled(processor: Any, config: Any, question: Question, prompt: Prompt, fill: str) -> torch.Tensor:
    """(P, D) the rows of pixels of the pictures with nothing left in them."""
    media = [replace(one, frames=_filled_frames(one.frames, fill)) for one in question.media]
    inputs = read_question(processor, config, media, prompt.question, question.settings).prompt.inputs
    (name,) = PIXELS & inputs.keys()
    same = {*inputs} == {*prompt.inputs} and inputs[name].shape == prompt.inputs[name].shape
    if not same or any(not torch.equal(inputs[one], prompt.inputs[one]) for one in {*inputs} - {name}):
        raise CaptureError("the processor makes another prompt of the same pictures once they are filled")
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
    gone: FloatArray,
    batch: int,
) -> NDArray[np.float64]:
    """(M,) the log-probability of the answer's text with more or less of each cell in place of which there is the fill.

    Args:
        model: a `Qwen2_5_VLForConditionalGeneration`.
        prompt: with its pixels.
        fill: (P, D) what comes in place of the prompt's pixels.
        ids: of the answer's tokens.
        text: which of them are text.
        gone: (M, V) shares of the cells.
        batch: how many are run at once.
    """
    inputs = on_model({**with_answer(prompt, ids), "fill": fill}, model)
    (name,) = PIXELS & inputs.keys()
    by_cell = gone.shape[1], -1, fill.shape[1]
    original, fill = inputs.pop(name).reshape(by_cell), inputs.pop("fill").reshape(by_cell)
    found: list[float] = []
    for start in range(0, len(gone), batch):
        shares = torch.from_numpy(gone[start : start + batch]).to(original.device)[:, :, None, None]
        mixed = (1 - shares) * original + shares * fill
        repeated = {one: torch.cat([value] * len(shares)) for one, value in inputs.items()}
        repeated[name] = mixed.reshape(-1, fill.shape[-1])
        with torch.inference_mode():
            logits = model(**repeated, use_cache=False, logits_to_keep=len(ids) + 1).logits
            chosen = torch.tensor([ids[i] for i in text], device=logits.device)[:, None]
            # One at a time: in float32 a batch of long answers over a large vocabulary would be gigabytes.
            found += [float(one[text].float().log_softmax(-1).gather(1, chosen).double().sum()) for one in logits]
    if not np.isfinite(found).all():
        raise CaptureError("the model's output is not finite (NaN or infinite)", "try --dtype float32 or bfloat16")
    return np.array(found)
