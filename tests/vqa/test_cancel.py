"""A cancelled question ends where it is, and leaves the model as it was: the next answer is the same to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvl_attn.core.errors import Cancelled
from tests.helpers.cancelling import Cancel, hook_counts, state_of

QUESTION = "how many cats?"
TOWER, DECODER = "Qwen2_5_VisionTransformerPretrainedModel.forward", "Qwen2_5_VLTextModel.forward"
LAYERS = 4  # decoder layers of the embedded model
# What runs where the question is cancelled, and the number of the call among those there.
PLACES = {
    "first vision block": (("_generate", TOWER), 1),
    "prefill": (("_generate", DECODER), 2),
    "second token": (("_generate", DECODER), LAYERS + 1),
    "between two tokens": (("_TokenLogprobs.__call__",), 1),
    "supplied answer": (("_forced", DECODER), 1),
    "gradient, forward": (("Probe.run", DECODER), LAYERS),
    "gradient, backward": (("Probe.run", "Tensor.backward"), 2),
    "removal": (("_answer_logprobs", DECODER), LAYERS + 1),
    "scrambled weights": (("sanity_checks", "_forced", DECODER), 1),
    "another picture": (("sanity_checks", "_generate", TOWER), 2),
}
GENERIC_PLACES = {
    "shared pictures": (("SharedPictures.__init__", DECODER), 1),
    "generic prompt": (("_forced", DECODER), LAYERS),
}


@pytest.fixture(params=["eager", "rows"])
def analyzer(request, demo, monkeypatch):
    monkeypatch.setattr(demo.engine, "attn", request.param)
    return demo


@pytest.fixture(params=["picture", "two pictures", "clip"])
def ask(request, analyzer, make_picture, clip_file):
    """Ask about small media."""
    if request.param == "clip":
        path = clip_file(4, size_px=(56, 56))
        return lambda **options: analyzer.ask_video(path, QUESTION, **{"max_new_tokens": 3} | options)
    paths = [make_picture(84, 56), make_picture(56, 56, "second.png", seed=1)]
    more = paths[1:] if request.param == "two pictures" else []
    return lambda **options: analyzer.ask(paths[0], QUESTION, more, **{"max_new_tokens": 3} | options)


def assert_same(first, second):
    assert first.answer == second.answer
    assert first.answer_logprob == second.answer_logprob
    assert np.array_equal(first.capture.weights, second.capture.weights)


def assert_cancelled_everywhere(model, ask, places, **options):
    expected, before = ask(), state_of(model)
    for place, (functions, nth) in places.items():
        cancel = Cancel(*functions, nth=nth)
        with pytest.raises(Cancelled):
            ask(cancel=cancel, **options)
        assert cancel.matches == nth, f"{place}: it went on after it was cancelled"
        assert state_of(model) == before, place
        assert_same(ask(), expected)


def test_a_question_with_everything_is_cancelled_in_each_of_its_passes(analyzer, ask):
    options = {"method": "gradient", "faithfulness": True, "answer": "two cats"}
    assert_cancelled_everywhere(analyzer.engine.model, ask, PLACES, **options)


def test_shared_pictures_and_the_generic_prompt_are_cancelled(analyzer, make_picture):
    paths = [make_picture(84, 56), make_picture(56, 56, "second.png", seed=1)]

    def ask(**options):
        return analyzer.ask(paths[0], QUESTION, paths[1:], max_new_tokens=3, **options)

    assert_cancelled_everywhere(analyzer.engine.model, ask, GENERIC_PLACES, method="relative")


def test_without_cancel_the_layers_have_no_hooks(demo, make_picture):
    model, path = demo.engine.model, make_picture(56, 56)
    layers = [*model.model.visual.blocks, *model.model.language_model.layers]
    # transformers leaves hooks of its own once it was asked for the matrices.
    before, counts = [hook_counts(layer) for layer in layers], []
    handle = model.model.language_model.norm.register_forward_hook(
        lambda *args: counts.append([hook_counts(layer) for layer in layers])
    )
    try:
        plain = demo.ask(path, QUESTION, max_new_tokens=1)
        cancellable = demo.ask(path, QUESTION, max_new_tokens=1, cancel=lambda: False)
    finally:
        handle.remove()
    assert counts == [before, [(forward + 1, *others) for forward, *others in before]]
    assert_same(plain, cancellable)


def test_with_a_cancel_that_stays_false_all_is_the_same(demo, make_picture):
    """The hooks of gradients change none, too."""
    options = {"max_new_tokens": 2, "method": "gradient", "query": "answer"}
    path = make_picture(84, 56)
    plain, cancellable = (demo.ask(path, QUESTION, **options, **more) for more in ({}, {"cancel": lambda: False}))
    assert_same(plain, cancellable)
    assert np.array_equal(plain.methods[0].values, cancellable.methods[0].values)


def test_many_questions_are_cancelled_while_they_are_read_and_between_two_answers(demo, make_picture):
    paths = [make_picture(56, 56, f"{i}.png", seed=i) for i in range(3)]
    pairs = [(path, QUESTION) for path in paths]
    cancel = Cancel("Engine.prepare", nth=2)
    with pytest.raises(Cancelled):
        demo.ask_many(pairs, max_new_tokens=1, cancel=cancel)
    assert cancel.calls == 2, "the third picture is not read, nothing is asked"
    calls = []
    with pytest.raises(Cancelled):
        demo.ask_many(
            pairs,
            batch_size=1,
            max_new_tokens=1,
            progress=lambda *call: calls.append(call),
            cancel=lambda: ("asking", 2, 3) in calls,
        )
    assert [call for call in calls if call[0] == "asking"] == [("asking", i, 3) for i in range(3)]


@pytest.mark.parametrize("method", ["ask_video", "estimate"])
def test_a_clip_is_cancelled_while_it_is_decoded(method, demo, clip_file):
    calls = []
    with pytest.raises(Cancelled):
        getattr(demo, method)(
            clip_file(20),
            QUESTION,
            progress=lambda *call: calls.append(call),
            cancel=lambda: ("decoding", 3, 20) in calls,
        )
    assert calls == [("decoding", i, 20) for i in range(1, 4)]


@pytest.mark.parametrize("error", [ValueError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("argument", ["cancel", "progress", "on_token"])
def test_what_a_callback_raises_ends_the_question(demo, make_picture, argument, error):
    path = make_picture(84, 56)
    expected, before = demo.ask(path, QUESTION), state_of(demo.engine.model)

    def fail(*values):
        raise error("on purpose")

    with pytest.raises(error, match="on purpose"):
        demo.ask(path, QUESTION, **{argument: fail})
    assert state_of(demo.engine.model) == before
    assert_same(demo.ask(path, QUESTION), expected)


def test_the_caches_of_a_cancelled_question_do_not_stay(demo, make_picture):
    """A shared key-value cache goes on after another question was cancelled in the middle of its prefill."""
    path, other = make_picture(84, 56), make_picture(112, 84, "other.png", seed=2)
    questions = demo.engine.prepare([(path, QUESTION), (path, "what color is it?")], demo.engine.settings())
    expected = dict(demo.engine.answer(questions))
    answers, results = demo.engine.answer(questions), {}
    for i, result in answers:
        results[i] = result
        with pytest.raises(Cancelled):
            demo.ask(other, QUESTION, cancel=Cancel("_generate", DECODER, nth=LAYERS + 1))
    for i, result in expected.items():
        assert_same(results[i], result)
    assert torch.is_grad_enabled()
