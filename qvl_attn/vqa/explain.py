"""From a question's run to the maps of its methods: collects what they need, and asks each for its map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qvl_attn.attribution.faithfulness import HEADLINE, Curves, seed_of
from qvl_attn.attribution.heatmap import mean_over
from qvl_attn.attribution.methods import DIMENSIONS, METHODS, MethodMap, View, needs_of
from qvl_attn.attribution.selection import default_layers, query_rows
from qvl_attn.attribution.settings import headline_of
from qvl_attn.core.types import Capture
from qvl_attn.model.generate import Pass
from qvl_attn.model.probe import Probe
from qvl_attn.model.signals import GENERIC, Evidence
from qvl_attn.vqa.question import Question, with_pixels
from qvl_attn.vqa.removal import removal_curves


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
        evidence=replace(_evidence(model, processor, config, question, run), generic=generic),
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


def _evidence(model: Any, processor: Any, config: Any, question: Question, run: Pass) -> Evidence:
    """All but the generic prompt's rows, in one pass if any is needed."""
    needs = needs_of(question.settings.methods) - {GENERIC}
    prompt = with_pixels(question, processor, config).prompt if needs else question.prompt
    answer = run.capture.tokens[prompt.length :]
    probe = Probe(prompt, run.ids, answer, whole=question.settings.query == "answer")
    if not needs:
        return Evidence(probe.seeds, probe.words)
    shape = config.text_config.num_hidden_layers, config.text_config.hidden_size
    return probe.run(model, needs, DIMENSIONS.get(shape, ()))
