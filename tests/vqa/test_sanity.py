"""Sanity checks of a map: the changed conditions, the comparisons, and that every weight is restored."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, replace

import numpy as np
import pytest

from qvl_attn.attribution.faithfulness import HEADLINE, seed_of
from qvl_attn.attribution.methods.registry import GENERIC_PROMPT
from qvl_attn.attribution.similarity import Likeness, Sanity, rank_correlation, ssim
from qvl_attn.core.errors import CaptureError, InputError
from qvl_attn.core.typed_json import decoded
from qvl_attn.demo.heldout import scene
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.model.preprocess import load_clip
from qvl_attn.vqa import sanity
from qvl_attn.vqa.clip import answer_clip, prepare_clip
from qvl_attn.vqa.sanity import FIRST_SCENE, depths, other_picture, other_question, sanity_checks, scrambled
from tests.conftest import DEMO_PICTURES

QUESTION = "what color is the dog?"

CORNER = "What is in the corner?"


def answered(engine, pictures, question=QUESTION, methods=(), **typed):
    settings = engine.settings(profile="none", methods=methods or None, **typed)
    questions = engine.prepare([(pictures, question)], settings)
    ((_, result),) = engine.answer(questions)
    return result


def everything(checks: Sanity) -> list[Likeness]:
    return [*checks.weights, checks.question, checks.picture]


def alike(first, second) -> tuple[float, float]:
    pairs = [(a.values, b.values) for a, b in zip(first.heatmaps(), second.heatmaps(), strict=True)]
    return np.mean([rank_correlation(*pair) for pair in pairs]), np.mean([ssim(*pair) for pair in pairs])


def figures(likeness: Likeness):
    return pytest.approx((likeness.rank_correlation, likeness.ssim), abs=1e-5)


def spied(engine, monkeypatch):
    """Return a list that collects (pictures, question, settings) of every prepared question."""
    calls, prepare = [], engine.prepare

    def watched(pairs, settings):
        calls.extend((*pair, settings) for pair in pairs)
        return prepare(pairs, settings)

    monkeypatch.setattr(engine, "prepare", watched)
    return calls


def checked(engine, result, *progress):
    """Return the sanity checks of the headline's map."""
    return next(iter(sanity_checks(engine, result, *progress).values()))


@pytest.mark.parametrize(
    ("query", "methods"), [("question", ()), ("answer", ()), ("last", ("relative",)), ("answer", ("gradient", "tam"))]
)
def test_a_map_is_like_itself_where_nothing_is_scrambled(engine, cats, monkeypatch, query, methods):
    monkeypatch.setattr(sanity, "scrambled", lambda layers, seed: nullcontext())
    checks = checked(engine, answered(engine, cats, query=query, methods=methods))
    assert len(checks.weights) == 4
    for likeness in checks.weights:
        assert (likeness.rank_correlation, likeness.ssim) == pytest.approx((1, 1), abs=1e-4)
    assert checks.picture.rank_correlation < 0.9


def test_layers_are_scrambled_from_the_top_down(engine, cats):
    result = answered(engine, cats, layers="0,3")
    checks = checked(engine, result)
    layers = engine.model.model.language_model.layers
    for n, likeness in enumerate(checks.weights, 1):
        assert likeness.label == f"scrambled weights of the top {n} of 4 layers"
        with scrambled([layers[3 - i] for i in range(n)], seed_of(0, result.media, QUESTION)):
            scrambled_result = answered(engine, cats, layers="0,3", answer=result.answer)
        assert alike(result, scrambled_result) == figures(likeness)
        assert likeness.rank_correlation < 0.9
        assert likeness.ssim < 0.9


def test_layers_above_those_of_the_map_do_not_change_it(engine, cats):
    checks = checked(engine, answered(engine, cats, layers="1", query="question"))
    assert [likeness.rank_correlation for likeness in checks.weights[:2]] == pytest.approx([1, 1], abs=1e-6)
    assert max(likeness.rank_correlation for likeness in checks.weights[2:]) < 0.9


@pytest.mark.parametrize("methods", [(), ("max",), ("rollout", "mean")])
def test_other_questions_and_pictures_are_those_that_are_asked(engine, cats, wide, methods):
    result = answered(engine, [cats, wide], methods=methods)
    checks = checked(engine, result)
    question = answered(engine, [cats, wide], CORNER, methods=methods)
    assert checks.question.label == f"another question: {CORNER}"
    assert alike(result, question) == figures(checks.question)
    media = [replace(medium, frames=other_picture(medium, i).frames) for i, medium in enumerate(result.media)]
    assert checks.picture.label == "another picture (a drawn scene)"
    assert alike(result, answered(engine, media, methods=methods)) == figures(checks.picture)


def test_a_following_answer_is_the_same_to_the_bit(engine, cats):
    before = answered(engine, cats)
    checked(engine, before)
    after = answered(engine, cats)
    assert after.answer_logprob == before.answer_logprob
    assert np.array_equal(after.capture.weights, before.capture.weights)


def test_the_weights_are_put_back_after_a_fault(engine, cats, monkeypatch):
    before = answered(engine, cats)

    def fault(*maps):
        raise RuntimeError("within")

    monkeypatch.setattr(sanity, "ssim", fault)
    with pytest.raises(RuntimeError, match="within"):
        checked(engine, before)
    assert np.array_equal(answered(engine, cats).capture.weights, before.capture.weights)


def test_the_same_answer_is_explained_of_scrambled_weights_and_an_own_one_else(engine, cats, monkeypatch):
    result = answered(engine, cats, answer="red star", query="answer", methods=("mean", "max"), max_new_tokens=20)
    calls = spied(engine, monkeypatch)
    checked(engine, result)
    (_, first, same), (_, second, second_settings), (_, third, third_settings) = calls
    assert (first, second, third) == (QUESTION, CORNER, QUESTION)
    assert (same.answer, same.max_new_tokens) == ("red star", 1)
    assert second_settings == third_settings == replace(result.settings, answer=None)
    without_answer = answered(engine, cats)
    calls.clear()
    checked(engine, without_answer)
    assert calls[0][2].answer == without_answer.answer


def test_words_of_the_question_are_asked_about_nothing_else(engine, cats, monkeypatch):
    result = answered(engine, cats, query="text:dog")
    calls = spied(engine, monkeypatch)
    checked(engine, result)
    assert [settings.query for _, _, settings in calls] == ["text:dog", "question", "text:dog"]


def test_an_answer_without_text_has_no_map(engine, cats, monkeypatch):
    monkeypatch.setattr(sanity, "OTHER_QUESTIONS", (GENERIC_PROMPT,))
    assert not answered(engine, cats, GENERIC_PROMPT).answer
    checks = checked(engine, answered(engine, cats, query="answer"))
    assert (checks.question.rank_correlation, checks.question.ssim) == (None, None)
    assert checks.picture.ssim is not None
    assert None not in {likeness.ssim for likeness in checks.weights}
    json.dumps(asdict(checks), allow_nan=False)


def test_an_empty_answer_of_a_question_can_be_checked(engine, cats):
    checks = checked(engine, answered(engine, cats, GENERIC_PROMPT))
    assert checks.question.label == "another question: What is in the corner?"
    assert None not in {likeness.ssim for likeness in everything(checks)}


def test_where_no_map_can_be_drawn_there_are_no_figures(engine, cats, monkeypatch):
    result, answer, calls = answered(engine, cats), engine.answer, []

    def faulty(questions):
        calls.append(questions)
        if len(calls) in (2, 6):
            raise CaptureError("the model's output is not finite (NaN or infinite)")
        return answer(questions)

    monkeypatch.setattr(engine, "answer", faulty)
    likenesses = everything(checked(engine, result))
    assert [likeness.ssim is None for likeness in likenesses] == [False, True, False, False, False, True]
    assert [likeness.rank_correlation is None for likeness in likenesses] == [False, True, False, False, False, True]


def test_of_a_map_that_is_the_same_everywhere_there_are_no_figures(engine, cats, monkeypatch):
    result = answered(engine, cats)
    values = sanity._values
    monkeypatch.setattr(
        sanity, "_values", lambda answer: values(answer) if answer is result else {HEADLINE: [np.ones((1, 8, 9))]}
    )
    assert {(likeness.rank_correlation, likeness.ssim) for likeness in everything(checked(engine, result))} == {
        (None, None)
    }


def test_progress_is_told(engine, cats):
    calls = []
    checked(engine, answered(engine, cats), lambda *args: calls.append(args))
    assert calls == [("sanity checks", done, 6) for done in range(7)]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        (QUESTION, "What is in the corner?"),
        (GENERIC_PROMPT, "What is in the corner?"),
        (" What is in the corner?\n", "What is at the top?"),
    ],
)
def test_the_other_question_is_another_one(question, expected):
    assert other_question(question) == expected


def test_each_method_is_compared_with_itself(engine, cats):
    result = answered(engine, cats, methods=("mean", "relative"))
    checks = sanity_checks(engine, result)
    assert list(checks) == ["mean", "relative"]
    other_result = answered(engine, cats, CORNER, methods=("mean", "relative"))
    for own, changed in zip(result.methods, other_result.methods, strict=True):
        expected = rank_correlation(own.values, changed.values)
        assert checks[own.method].question.rank_correlation == pytest.approx(expected, abs=1e-4)
        assert checks[own.method].question.label == "another question: What is in the corner?"


@pytest.mark.parametrize(
    ("layers", "counts"),
    [
        (1, (1,)),
        (4, (1, 2, 3, 4)),
        (8, tuple(range(1, 9))),
        (9, (1, 2, 3, 4, 6, 7, 8, 9)),
        (28, (1, 5, 9, 13, 16, 20, 24, 28)),
        (36, (1, 6, 11, 16, 21, 26, 31, 36)),
    ],
)
def test_depths_are_even_from_one_to_all(layers, counts):
    assert depths(layers) == counts


def test_another_picture_is_a_scene_of_the_same_size(engine, cats, wide):
    media = answered(engine, [cats, wide]).media
    for i, medium in enumerate(media):
        replacement = other_picture(medium, i)
        drawn = scene(FIRST_SCENE + i).content.picture
        assert replacement.frames.shape == medium.frames.shape
        assert replacement.sha256 != medium.sha256
        assert np.abs(replacement.frames.mean((0, 1, 2)) - drawn.mean((0, 1))).max() < 2
        height, width = medium.frames.shape[1:3]
        rows, columns = (np.arange(n) * m // n for n, m in ((height, drawn.shape[0]), (width, drawn.shape[1])))
        assert np.abs(replacement.frames[0].astype(int) - drawn[rows][:, columns]).mean() < 8
    assert not np.array_equal(other_picture(media[0], 0).frames, other_picture(media[0], 1).frames)


def test_a_clip_is_checked_with_the_same_scene_in_every_frame(engine):
    settings = engine.settings(profile="none", clip=ClipSettings(fps=2))
    media = load_clip(engine.processor, open_clip(DEMO_PICTURES / "clip.mp4"), settings)
    ((_, result),) = answer_clip(engine, prepare_clip(engine, media, ["what is moving?"], settings))
    replacement = other_picture(media, 0)
    assert replacement.frames.shape == media.frames.shape
    assert (replacement.frames == replacement.frames[:1]).all()
    assert (replacement.kind, replacement.clip, replacement.path) == ("clip", media.clip, None)
    checks = checked(engine, result)
    assert None not in {likeness.ssim for likeness in everything(checks)}
    assert checks.picture.rank_correlation < 0.9


@pytest.mark.parametrize("how", [{"mode": "frames"}, {"window": 2}])
def test_a_clip_in_several_prompts_is_refused(demo, how):
    result = demo.ask_video(DEMO_PICTURES / "clip.mp4", "what is moving?", profile="none", fps=2, **how)
    with pytest.raises(InputError, match="several prompts"):
        checked(demo.engine, result)


def test_a_fault_of_what_is_asked_is_no_missing_figure(engine, cats, monkeypatch):
    result = answered(engine, cats)

    def refuse(*args):
        raise InputError("too long")

    monkeypatch.setattr(engine, "prepare", refuse)
    with pytest.raises(InputError, match="too long"):
        checked(engine, result)


def test_sanity_comes_back_from_json_as_it_was():
    checks = Sanity(
        (Likeness("weights", 0.25, 1.0), Likeness("more weights", -1.0, None)),
        Likeness("another question: why?", None, None),
        Likeness("another picture (a drawn scene)", 0.5, 0.125),
    )
    assert decoded(json.loads(json.dumps(asdict(checks), allow_nan=False)), Sanity, "sanity") == checks


@pytest.mark.parametrize("value", [1.5, -1.01, float("nan"), float("inf")])
def test_what_is_no_likeness_is_refused(value):
    with pytest.raises(ValueError, match=r"similarity .*, want -1 to 1"):
        Likeness("weights", value, 0.0)
    with pytest.raises(ValueError, match=r"similarity .*, want -1 to 1"):
        Likeness("weights", 0.0, value)
