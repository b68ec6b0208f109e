"""Batches of questions: the same numbers as one by one, in the order of the questions."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import InputError
from qvl_attn.media.image import load_picture
from qvl_attn.vqa.batching import groups
from tests.conftest import DEMO_PICTURES
from tests.helpers.small import SMALL_DRAWING

CATS, WIDE = DEMO_PICTURES / "cats.png", DEMO_PICTURES / "wide.png"
QUESTIONS = ["how many cats?", "what color is the star?", "what color is the dog?", "图里有几只猫？"]


@pytest.fixture(params=["eager", "rows"])
def analyzer(request, demo, monkeypatch):
    monkeypatch.setattr(demo.engine, "attn", request.param)
    return demo


def same(first, second):
    assert first.question == second.question
    assert first.answer == second.answer
    assert first.answer_logprob == pytest.approx(second.answer_logprob, abs=1e-4)
    assert first.capture.tokens == second.capture.tokens
    assert first.capture.queries.tolist() == second.capture.queries.tolist()
    assert first.capture.query_role.tolist() == second.capture.query_role.tolist()
    assert np.abs(first.capture.weights - second.capture.weights).max() <= 1e-5
    assert np.abs(first.capture.vision_mass - second.capture.vision_mass).max() <= 1e-5
    if second.capture.weights_by_head is not None:
        assert np.abs(first.capture.weights_by_head - second.capture.weights_by_head).max() <= 1e-5


def pictures():
    return sorted(DEMO_PICTURES.glob("*.png"))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_batch_of_different_pictures(analyzer, batch_size):
    pairs = [(path, QUESTIONS[i % len(QUESTIONS)]) for i, path in enumerate(pictures())]
    many = analyzer.ask_many(pairs, batch_size=batch_size, heads="0-3", max_new_tokens=12)
    for (path, question), result in zip(pairs, many, strict=True):
        assert result.media[0].source == str(path)
        same(result, analyzer.ask(path, question, heads="0-3", max_new_tokens=12))


def test_answers_of_different_lengths_end_where_they_end(analyzer):
    pairs = [(path, ("list the objects", "how many cats?")[i % 2]) for i, path in enumerate(pictures())]
    many = analyzer.ask_many(pairs, batch_size=len(pairs))
    assert len({(result.capture.query_role == "answer").sum() for result in many}) > 1
    for (path, question), result in zip(pairs, many, strict=True):
        same(result, analyzer.ask(path, question))


@pytest.mark.parametrize(
    "pairs", [[(CATS, "list the objects")], [(CATS, "list the objects"), (CATS, "how many cats?")]]
)
def test_tokens_are_counted_while_they_are_generated(analyzer, pairs):
    calls = []
    questions = analyzer.engine.prepare(pairs, Settings())
    ((_, result), *_) = analyzer.engine.answer(questions, len(pairs), lambda *values: calls.append(values))
    longest = len(result.capture.tokens) - questions[0].prompt.length
    counts = [*((count, 0) for count in range(longest + 1)), (longest, longest)]
    assert calls == [("answer tokens", *count) for count in counts]


def test_questions_about_one_picture_read_it_once(analyzer):
    calls = []
    handle = analyzer.engine.model.model.visual.register_forward_hook(lambda *args: calls.append(1))
    try:
        many = analyzer.ask_many([(CATS, question) for question in QUESTIONS], heads="0-3")
        forced = analyzer.ask_many([(CATS, question) for question in QUESTIONS], heads="0-3", answer="two cats")
    finally:
        handle.remove()
    assert len(calls) == 2
    for question, result, supplied in zip(QUESTIONS, many, forced, strict=True):
        same(result, analyzer.ask(CATS, question, heads="0-3"))
        alone = analyzer.ask(CATS, question, heads="0-3", answer="two cats")
        same(supplied, alone)
        assert supplied.supplied_logprob == pytest.approx(alone.supplied_logprob, abs=1e-4)
        assert (supplied.provenance.batch, supplied.provenance.shared_pictures) == (len(QUESTIONS), True)


def test_pictures_that_only_seem_the_same_are_not_shared(analyzer):
    from qvl_attn.core.types import Media

    cats = load_picture(CATS)
    frames = (cats.frames, cats.frames[:, ::-1].copy())
    nameless = [Media("picture", pixels, cats.times_s, cats.size_px, "", "") for pixels in frames]
    pairs = [(nameless[0], QUESTIONS[0]), (nameless[1], QUESTIONS[0])]
    for (media, question), result in zip(pairs, analyzer.ask_many(pairs), strict=True):
        same(result, analyzer.ask(media, question))


def test_what_was_used_is_in_the_result(analyzer, tmp_path):
    result = analyzer.ask(CATS, QUESTIONS[0])
    again = type(result).load(result.save(tmp_path, SMALL_DRAWING))
    assert again.provenance == result.provenance
    assert again.provenance.attention_reason == "asked for"
    assert set(again.seconds) == set(again.peak_memory_bytes) == {"prepare", "load", "answer", "draw"}
    for peak in again.peak_memory_bytes.values():
        assert 2**27 < peak["before"] <= peak["host"] < 2**36


def test_the_pixels_of_many_questions_are_not_held(analyzer):
    several = analyzer.engine.prepare([(path, QUESTIONS[0]) for path in pictures()], Settings())
    assert not any("pixel_values" in question.prompt.inputs for question in several)
    (single,) = analyzer.engine.prepare([(CATS, QUESTIONS[0])], Settings())
    assert "pixel_values" in single.prompt.inputs


def test_two_pictures_a_prompt_and_single_ones_mixed(analyzer):
    pairs = [((CATS, WIDE), QUESTIONS[0]), (CATS, QUESTIONS[1]), ((CATS, WIDE), QUESTIONS[2]), (WIDE, QUESTIONS[1])]
    many = analyzer.ask_many(pairs, answer="two")
    for (media, question), result in zip(pairs, many, strict=True):
        first, *others = media if isinstance(media, tuple) else (media,)
        alone = analyzer.ask(first, question, others, answer="two")
        same(result, alone)
        assert result.supplied_logprob == pytest.approx(alone.supplied_logprob, abs=1e-4)


def test_another_question_in_between_does_not_disturb_the_shared_picture(analyzer):
    questions = [analyzer.engine.prepare([([CATS], question)], Settings())[0] for question in QUESTIONS[:2]]
    answers = analyzer.engine.answer(questions)
    _, first = next(answers)
    analyzer.ask(WIDE, "how many dogs?")
    _, second = next(answers)
    same(first, analyzer.ask(CATS, QUESTIONS[0]))
    same(second, analyzer.ask(CATS, QUESTIONS[1]))


def test_batches_are_of_like_length_and_no_larger_than_fits(demo):
    questions = [demo.engine.prepare([([path], "?")], Settings(max_new_tokens=1))[0] for path in pictures()]
    lengths = [question.prompt.length for question in questions]
    order = list(np.argsort(lengths, kind="stable"))
    batched = list(groups(questions, demo.engine.config, 4, lambda longest, count, shared: True))
    assert [i for group in batched for batch in group.batches for i in batch] == order
    assert [len(batch) for group in batched for batch in group.batches] == [4, len(questions) - 4]
    alone = list(groups(questions, demo.engine.config, 4, lambda longest, count, shared: False))
    assert [group.batches for group in alone] == [((i,),) for i in order]
    assert list(groups([], demo.engine.config, 4, lambda longest, count, shared: True)) == []


def test_a_fault_in_one_pair_is_found_before_anything_runs(demo, monkeypatch):
    monkeypatch.setattr("qvl_attn.vqa.engine.run_group", None)
    with pytest.raises(InputError, match="question 2 of 2: the question is empty"):
        demo.ask_many([(CATS, "how many cats?"), (CATS, " ")])
    with pytest.raises(InputError, match="no picture"):
        demo.ask_many([((), "how many cats?")])
    with pytest.raises(TypeError, match="int, not str"):
        demo.ask_many([(CATS, 3)])
    with pytest.raises(InputError, match="`batch_size=0`: want at least 1"):
        demo.ask_many([(CATS, "how many cats?")], batch_size=0)


def test_heads_in_half_the_space(analyzer, tmp_path):
    whole = analyzer.ask(CATS, QUESTIONS[0], heads="0-3")
    half = analyzer.ask(CATS, QUESTIONS[0], heads="0-3", store_heads="float16")
    stored = half.capture.weights_by_head
    assert stored.dtype == np.float16
    exact_weights = whole.capture.weights_by_head
    small = exact_weights < 2**-14
    assert (np.abs(stored - exact_weights)[~small] <= 2**-11 * exact_weights[~small]).all()
    assert (np.abs(stored - exact_weights)[small] <= 2**-25).all()
    assert np.array_equal(half.capture.weights, whole.capture.weights), "the mean is not rounded"
    again = type(half).load(half.save(tmp_path, SMALL_DRAWING))
    assert again.capture.weights_by_head.dtype == np.float16
    assert np.array_equal(again.capture.weights_by_head, stored)
    rounded, exact = (result.heatmap(heads="2").values for result in (again, whole))
    assert (np.abs(rounded - exact) <= 2**-11 * exact + 2**-24).all()
    with pytest.raises(InputError, match="float8"):
        analyzer.ask(CATS, QUESTIONS[0], store_heads="float8")
