"""Batches of questions that share their pictures: the same numbers as each question alone."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from qvl_attn import Analyzer
from qvl_attn.attribution.settings import Settings
from qvl_attn.model.memory import peak_bytes
from qvl_attn.model.recorder import Target
from qvl_attn.vqa.batching import groups
from tests.conftest import DEMO_PICTURES

CATS, WIDE = DEMO_PICTURES / "cats.png", DEMO_PICTURES / "wide.png"
LONG = "what color is the star, the large one that stands beside the dog and above the circle? " * 4
QUESTIONS = ["list the objects", "?", LONG, "how many cats?", "图里有几只猫？"]
NEW_TOKENS = {"demo": 24, "genuine": 6}


@pytest.fixture(params=["eager", "rows"])
def attention_mode(request):
    return request.param


@pytest.fixture(params=["demo", "genuine"])
def analyzer_and_count(request, attention_mode, monkeypatch):
    analyzer = request.getfixturevalue(request.param)
    monkeypatch.setattr(analyzer.engine, "attn", attention_mode)
    return analyzer, NEW_TOKENS[request.param]


def same(first, second):
    """Assert that every row, number and token of two results agrees up to float32 rounding."""
    assert first.question == second.question
    assert (first.answer, first.supplied_answer) == (second.answer, second.supplied_answer)
    assert first.answer_logprob == pytest.approx(second.answer_logprob, rel=1e-6, abs=1e-5)
    if second.supplied_logprob is not None:
        assert first.supplied_logprob == pytest.approx(second.supplied_logprob, rel=1e-6, abs=1e-5)
    assert first.capture.tokens == second.capture.tokens
    for name in ("queries", "query_role", "produces"):
        assert getattr(first.capture, name).tolist() == getattr(second.capture, name).tolist(), name
    for name in ("weights", "vision_mass", "weights_by_head"):
        actual, expected = getattr(first.capture, name), getattr(second.capture, name)
        assert actual.shape == expected.shape
        assert np.abs(actual - expected).max() <= 1e-5, name


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("pictures", [(CATS,), (WIDE, CATS)])
def test_the_numbers_are_those_of_each_question_alone(analyzer_and_count, pictures, batch_size):
    analyzer, count = analyzer_and_count
    options = {"heads": "0,1", "max_new_tokens": count}
    many = analyzer.ask_many([(pictures, text) for text in QUESTIONS], batch_size=batch_size, **options)
    if analyzer.engine.checkpoint.name == "demo":
        ended = [(result.capture.query_role == "answer").sum() for result in many]
        assert min(ended) < max(ended), "some answers end before others"
    assert sorted(result.provenance.batch for result in many) == {2: [1, 2, 2, 2, 2], 8: [5] * 5}[batch_size]
    for text, result in zip(QUESTIONS, many, strict=True):
        assert result.provenance.shared_pictures
        same(result, analyzer.ask(pictures[0], text, pictures[1:], **options))


def test_supplied_answers_between_two_batches(analyzer_and_count):
    analyzer, count = analyzer_and_count
    options = {"heads": "0,1", "max_new_tokens": count, "answer": "two cats"}
    many = analyzer.ask_many([(CATS, text) for text in QUESTIONS], batch_size=2, **options)
    for text, result in zip(QUESTIONS, many, strict=True):
        same(result, analyzer.ask(CATS, text, **options))


def test_a_penalty_sees_no_padding_and_no_token_does(analyzer_and_count, monkeypatch):
    """The repetition penalty applies to tokens of the prompt: it would also apply to a padding token."""
    analyzer, count = analyzer_and_count
    generation, calls = analyzer.engine.model.generation_config, []
    generate, before = analyzer.engine.model.generate, generation.repetition_penalty
    monkeypatch.setattr(analyzer.engine.model, "generate", lambda **inputs: calls.append(inputs) or generate(**inputs))
    generation.repetition_penalty = 1.5
    try:
        many = analyzer.ask_many([(CATS, text) for text in QUESTIONS], heads="0,1", max_new_tokens=count)
        (batch,) = calls
        alone = [analyzer.ask(CATS, text, heads="0,1", max_new_tokens=count) for text in QUESTIONS]
    finally:
        generation.repetition_penalty = before
    for result, single in zip(many, alone, strict=True):
        same(result, single)
    visible = batch["attention_mask"].bool()
    assert (~visible).any()
    for ids, mask, single in zip(batch["input_ids"], visible, calls[1:], strict=True):
        assert ids[mask].tolist() == single["input_ids"][0].tolist()
        assert set(ids[~mask].tolist()) <= set(ids[mask].tolist())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_a_batch_is_as_near_as_16_bits_are(attention_mode, dtype):
    analyzer = Analyzer.load("demo", dtype=dtype, device="cpu", attn=attention_mode)
    many = analyzer.ask_many([(CATS, text) for text in QUESTIONS], max_new_tokens=2)
    for text, result in zip(QUESTIONS, many, strict=True):
        alone = analyzer.ask(CATS, text, max_new_tokens=2)
        prompt = alone.capture.query_role != "answer"
        assert np.abs(result.capture.weights[:, : prompt.sum()] - alone.capture.weights[:, prompt]).max() <= 0.02


def test_every_result_comes_with_its_place(demo):
    pairs = [((path,), text) for text in QUESTIONS for path in (CATS, WIDE)]
    pairs.insert(3, ((CATS, WIDE), "how many dogs?"))
    questions = demo.engine.prepare(pairs, Settings(max_new_tokens=2))
    started = time.perf_counter()
    results = dict(demo.engine.answer(questions, 3))
    seconds = time.perf_counter() - started
    assert sorted(results) == list(range(len(pairs)))
    for i, (pictures, text) in enumerate(pairs):
        assert results[i].question == text
        assert [media.source for media in results[i].media] == [str(path) for path in pictures]
    assert {result.provenance.batch for result in results.values()} == {1, 2, 3}
    assert sum(result.seconds["answer"] for result in results.values()) < seconds, "a batch's time is shared"


def test_a_group_runs_in_batches_of_like_length_that_fit(demo):
    questions = demo.engine.prepare([([CATS], text) for text in QUESTIONS], Settings())
    (group,) = groups(questions, demo.engine.config, 2, lambda longest, count, shared: shared)
    assert group.shared
    assert group.batches == ((0, 1), (2,), (3, 4)), "in the order of their first questions"
    lengths = [[questions[i].prompt.length for i in batch] for batch in group.batches]
    assert max(lengths[0]) <= min(lengths[2]) <= max(lengths[2]) <= lengths[1][0]
    (alone,) = groups(questions, demo.engine.config, 2, lambda longest, count, shared: not shared)
    assert alone.batches == ((0,), (1,), (2,), (3,), (4,))


def test_a_batch_is_as_large_as_the_memory(demo, monkeypatch):
    texts = ["how many cats?", "how many dogs?", "how many fish?"]
    questions = demo.engine.prepare([([CATS, WIDE], text) for text in texts], Settings(max_new_tokens=1))
    three = replace(max((question.job for question in questions), key=lambda job: job.tokens), batch=3, shared=True)
    for attention, free, largest in (("rows", 1.26, 3), ("rows", 1.24, 2), ("eager", 1.26, 3), ("eager", 1.24, 2)):
        chosen = [replace(question, attention=attention) for question in questions]
        needed = peak_bytes(demo.engine.config, "float32", three, attention)
        monkeypatch.setattr(demo.engine, "free_bytes", lambda needed=needed, free=free: needed * free)
        (group,) = groups(chosen, demo.engine.config, 8, demo.engine._fits)
        assert max(map(len, group.batches)) == largest


def test_positions_around_padding_in_the_middle():
    target = Target((1, 2, 5), (0, 1, 2), padding=3, head=2)
    placed = target.padded((0, 1, 2, 5))
    assert placed.tolist() == [0, 1, 5, 8]
    assert target.unpadded(placed.tolist()).tolist() == [0, 1, 2, 5]
    assert torch.from_numpy(target.padded(())).dtype == torch.int64
