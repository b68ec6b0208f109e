"""Questions about the same pictures, generated in batches after one reading: the numbers of each asked alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import DEMO_PICTURES

from qvl_attn import Analyzer
from qvl_attn.cost import peak_bytes
from qvl_attn.recorder import Target
from qvl_attn.result import Settings
from qvl_attn.runs import groups

CATS, WIDE = DEMO_PICTURES / "cats.png", DEMO_PICTURES / "wide.png"
LONG = "what color is the star, the large one that stands beside the dog and above the circle? " * 4
QUESTIONS = ["list the objects", "?", LONG, "how many cats?", "图里有几只猫？"]
NEW_TOKENS = {"demo": 24, "genuine": 6}


@pytest.fixture(params=["eager", "rows"])
def way(request):
    return request.param


@pytest.fixture(params=["demo", "genuine"])
def looking(request, way, monkeypatch):
    analyzer = request.getfixturevalue(request.param)
    monkeypatch.setattr(analyzer, "attn", way)
    return analyzer, NEW_TOKENS[request.param]


def same(one, other):
    """Every row, number and token of two results, but for float32's rounding."""
    assert one.question == other.question
    assert (one.answer, one.supplied_answer) == (other.answer, other.supplied_answer)
    assert one.answer_logprob == pytest.approx(other.answer_logprob, rel=1e-6, abs=1e-5)
    if other.supplied_logprob is not None:
        assert one.supplied_logprob == pytest.approx(other.supplied_logprob, rel=1e-6, abs=1e-5)
    assert one.capture.tokens == other.capture.tokens
    for name in ("queries", "query_role", "produces"):
        assert getattr(one.capture, name).tolist() == getattr(other.capture, name).tolist(), name
    for name in ("weights", "vision_mass", "weights_by_head"):
        mine, wanted = getattr(one.capture, name), getattr(other.capture, name)
        assert mine.shape == wanted.shape
        assert np.abs(mine - wanted).max() <= 1e-5, name


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("pictures", [(CATS,), (WIDE, CATS)])
def test_the_numbers_are_those_of_each_question_alone(looking, pictures, batch_size):
    analyzer, count = looking
    options = {"heads": "0,1", "max_new_tokens": count}
    many = analyzer.ask_many([(pictures, text) for text in QUESTIONS], batch_size=batch_size, **options)
    if analyzer.checkpoint.name == "demo":
        ended = [(result.capture.query_role == "answer").sum() for result in many]
        assert min(ended) < max(ended), "some end before others"
    assert sorted(result.provenance.batch for result in many) == {2: [1, 2, 2, 2, 2], 8: [5] * 5}[batch_size]
    for text, result in zip(QUESTIONS, many, strict=True):
        assert result.provenance.shared_pictures
        same(result, analyzer.ask(pictures[0], text, pictures[1:], **options))


def test_supplied_answers_between_two_batches(looking):
    analyzer, count = looking
    options = {"heads": "0,1", "max_new_tokens": count, "answer": "two cats"}
    many = analyzer.ask_many([(CATS, text) for text in QUESTIONS], batch_size=2, **options)
    for text, result in zip(QUESTIONS, many, strict=True):
        same(result, analyzer.ask(CATS, text, **options))


def test_a_penalty_sees_no_padding_and_no_token_does(looking, monkeypatch):
    """The penalty counts what stands in the prompt: padding of another token would be punished with it."""
    analyzer, count = looking
    own, seen = analyzer.model.generation_config, []
    generate, before = analyzer.model.generate, own.repetition_penalty
    monkeypatch.setattr(analyzer.model, "generate", lambda **inputs: seen.append(inputs) or generate(**inputs))
    own.repetition_penalty = 1.5
    try:
        many = analyzer.ask_many([(CATS, text) for text in QUESTIONS], heads="0,1", max_new_tokens=count)
        (batch,) = seen
        alone = [analyzer.ask(CATS, text, heads="0,1", max_new_tokens=count) for text in QUESTIONS]
    finally:
        own.repetition_penalty = before
    for result, one in zip(many, alone, strict=True):
        same(result, one)
    visible = batch["attention_mask"].bool()
    assert (~visible).any()
    for ids, shown, one in zip(batch["input_ids"], visible, seen[1:], strict=True):
        assert ids[shown].tolist() == one["input_ids"][0].tolist()
        assert set(ids[~shown].tolist()) <= set(ids[shown].tolist())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_16_bits_a_batch_is_as_near_as_16_bits_are(way, dtype):
    analyzer = Analyzer.load("demo", dtype=dtype, device="cpu", attn=way)
    many = analyzer.ask_many([(CATS, text) for text in QUESTIONS], max_new_tokens=2)
    for text, result in zip(QUESTIONS, many, strict=True):
        alone = analyzer.ask(CATS, text, max_new_tokens=2)
        prompt = alone.capture.query_role != "answer"
        assert np.abs(result.capture.weights[:, : prompt.sum()] - alone.capture.weights[:, prompt]).max() <= 0.02


def test_every_result_comes_with_its_place(demo):
    pairs = [((path,), text) for text in QUESTIONS for path in (CATS, WIDE)]
    pairs.insert(3, ((CATS, WIDE), "how many dogs?"))
    questions = demo.prepare(pairs, Settings(max_new_tokens=2))
    found = dict(demo.answer(questions, 3))
    assert sorted(found) == list(range(len(pairs)))
    for i, (pictures, text) in enumerate(pairs):
        assert found[i].question == text
        assert [media.source for media in found[i].media] == [str(path) for path in pictures]
    one = next(result for result in found.values() if result.provenance.batch == 3)
    together = [result for result in found.values() if result.seconds["answer"] == one.seconds["answer"]]
    assert len(together) >= 3, "a batch's time is shared evenly"


def test_a_group_runs_in_batches_of_like_length_that_fit(demo):
    questions = demo.prepare([([CATS], text) for text in QUESTIONS], Settings())
    (group,) = groups(questions, demo.config, 2, lambda longest, count, shared: shared)
    assert group.shared
    assert group.batches == ((0, 1), (2,), (3, 4)), "in the order of their first questions"
    lengths = [[questions[i].prompt.length for i in batch] for batch in group.batches]
    assert max(lengths[0]) <= min(lengths[2]) <= max(lengths[2]) <= lengths[1][0]
    (alone,) = groups(questions, demo.config, 2, lambda longest, count, shared: not shared)
    assert alone.batches == ((0,), (1,), (2,), (3,), (4,))


def test_a_shared_batch_costs_its_keys_and_values_and_not_its_pictures(demo):
    job = replace(demo.prepare([([CATS], LONG)], Settings())[0].job, cells=4000)
    text = demo.config.text_config
    for attention in ("eager", "rows"):
        for device in ("cpu", "cuda:0"):
            one, many, apart = (
                peak_bytes(demo.config, "float32", replace(job, batch=batch, shared=shared), attention, device)
                for batch, shared in ((1, True), (8, True), (8, False))
            )
            keys = 2 * text.num_hidden_layers * text.num_key_value_heads * 4 * job.tokens
            keys *= text.hidden_size // text.num_attention_heads
            assert one + 7 * keys <= many < apart / 2


def test_positions_around_padding_in_the_middle():
    target = Target((1, 2, 5), (0, 1, 2), padding=3, head=2)
    placed = target.padded((0, 1, 2, 5))
    assert placed.tolist() == [0, 1, 5, 8]
    assert target.unpadded(placed.tolist()).tolist() == [0, 1, 2, 5]
    assert torch.from_numpy(target.padded(())).dtype == torch.int64
