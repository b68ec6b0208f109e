"""Maps of single layers' attention: mean, max, heads, relative and rollout against plain eager attention in numpy."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from qvl_attn.attribution.methods.relative import ratio
from qvl_attn.core.errors import InputError
from tests.helpers.plain_eager import Example, assert_close, clip_media, matrices

EXAMPLES = [(which, kind) for which in ("demo", "genuine") for kind in ("one", "two", "clip")]
GENERIC = "Write a general description of the image."


@pytest.fixture(params=EXAMPLES, ids="-".join)
def example(request, examples) -> Example:
    return examples(*request.param)


def rows_on_vision(example: Example, query: str) -> np.ndarray:
    """Return the attention of the query rows on the cells, (L, H, Q, V)."""
    return example.attention[:, :, example.rows(query)][..., example.vision_positions]


@pytest.mark.parametrize(("query", "mode"), [("question", "rows"), ("last", "eager"), ("answer", "rows")])
def test_mean_and_max(example, query, mode, monkeypatch):
    monkeypatch.setattr(example.engine, "attn", mode)
    mean, maximum = example.result("mean", "max", query=query, layers="1-2").methods
    want = rows_on_vision(example, query)[1:3]
    assert_close(mean.values, want.mean(axis=(0, 1, 2)))
    assert_close(mean.layer_values, want.mean(axis=(1, 2)))
    assert_close(maximum.values, want.max(axis=(0, 1)).mean(axis=0))
    assert_close(maximum.layer_values, want.max(axis=1).mean(axis=1))
    assert mean.layers == maximum.layers == mean.layer_numbers == maximum.layer_numbers == (1, 2)


def test_the_usual_layers_are_those_of_the_headline(example):
    mean, maximum = example.result("mean", "max").methods
    usual = {4: (2,), 3: (1, 2)}[example.engine.config.text_config.num_hidden_layers]
    want = rows_on_vision(example, "last")
    assert_close(mean.values, want[list(usual)].mean(axis=(0, 1, 2)))
    assert_close(maximum.values, want[list(usual)].max(axis=(0, 1)).mean(axis=0))
    assert_close(maximum.layer_values, want.max(axis=1).mean(axis=1))
    assert mean.layers == maximum.layers == usual
    assert mean.layer_numbers == maximum.layer_numbers == tuple(range(len(want)))


@pytest.mark.parametrize("query", ["question", "last"])
def test_heads_are_those_that_were_named(example, query):
    method_map = example.map("heads", query, heads="0.1,2.0,2.1")
    want = rows_on_vision(example, query)
    assert_close(method_map.values, np.mean([want[0, 1], want[2, 0], want[2, 1]], axis=(0, 1)))
    assert_close(method_map.layer_values, [want[0, 1].mean(axis=0), want[2, :2].mean(axis=(0, 1))])
    assert method_map.layers == method_map.layer_numbers == (0, 2)
    assert "0.1,2.0,2.1" in method_map.caption


def test_heads_of_a_profile(examples, tmp_path):
    example = examples("demo", "one")
    shape = {"layers": 4, "heads": 4, "hidden_size": 128}
    fields = {"profile_version": 1, "name": "mine", "evidence": "measured", "source": "here", "model": shape}
    (tmp_path / "mine.json").write_text(json.dumps(fields | {"heads": [[1, 2], [3, 0]]}))
    method_map = example.map("heads", profile=str(tmp_path / "mine.json"))
    want = rows_on_vision(example, "last")[:, :, 0]
    assert_close(method_map.values, (want[1, 2] + want[3, 0]) / 2)


def test_heads_without_a_profile_are_refused(examples):
    with pytest.raises(InputError, match="no profile with heads"):
        examples("demo", "one").result("heads")


def test_a_batch_keeps_each_prompts_own_maximum(examples):
    """With answers and prompts of different lengths."""
    example = examples("demo", "two")
    settings = replace(example.engine.settings(query="answer", max_new_tokens=12), methods=("max",))
    pairs = [([path], question) for path in example.media for question in ("list the objects", "how many cats?")]
    together = list(example.engine.answer(example.engine.prepare(pairs, settings), batch_size=4))
    assert len({len(result.capture.tokens) for _, result in together}) > 1
    for i, result in together:
        ((_, alone),) = example.engine.answer(example.engine.prepare([pairs[i]], settings))
        assert result.answer == alone.answer
        np.testing.assert_allclose(result.methods[0].values, alone.methods[0].values, atol=1e-5)
        assert result.capture.weights_max.shape == result.capture.weights.shape


# Relative: the question's attention over that of a generic prompt about the same picture.


def generic_attention(example: Example) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the generic prompt's attention in its own run, (L, H, S, V), its question's and its last position."""
    inputs = example.inputs_of(GENERIC)
    attention = matrices(example.run(inputs))[..., example.vision_positions]
    length = inputs["input_ids"].shape[1]
    asking = np.arange(example.vision_positions[-1] + 2, length - 5)
    assert example.engine.processor.tokenizer.decode(inputs["input_ids"][0, asking]) == GENERIC
    return attention, asking, length - 1


@pytest.mark.parametrize("query", ["question", "answer"])
def test_relative_is_the_ratio_of_two_runs(example, query):
    method_map = example.map("relative", query, layers="1-2")
    own = rows_on_vision(example, query).mean(axis=(1, 2))[1:3]
    attention, asking, last = generic_attention(example)
    generic = attention[:, :, asking if query == "question" else [last]].mean(axis=(1, 2))[1:3]

    def by_hand(a, g):
        return [value / (usual + 0.01 * sum(g) / len(g)) for value, usual in zip(a, g, strict=True)]

    assert_close(method_map.values, by_hand(own.mean(axis=0), generic.mean(axis=0)))
    assert_close(method_map.layer_values, [by_hand(a, g) for a, g in zip(own, generic, strict=True)])
    assert method_map.layer_numbers == method_map.layers == (1, 2)


def test_the_last_token_is_compared_with_the_last_token(examples):
    example = examples("genuine", "two")
    attention, _, last = generic_attention(example)
    usual = attention[2, :, last].mean(axis=0)
    own = example.attention[2, :, example.length - 1][:, example.vision_positions].mean(axis=0)
    assert_close(example.map("relative", layers="2").values, own / (usual + 0.01 * usual.mean()))


def test_a_word_of_the_question_is_compared_with_the_whole_generic_prompt(examples):
    example = examples("demo", "one")
    method_map = example.map("relative", "text:cats")
    tokens = [example.engine.processor.tokenizer.decode(i) for i in example.inputs["input_ids"][0]]
    own = example.attention[2, :, tokens.index(" cats")][:, example.vision_positions].mean(axis=0)
    attention, asking, _ = generic_attention(example)
    usual = attention[2, :, asking].mean(axis=(0, 1))
    assert_close(method_map.values, own / (usual + 0.01 * usual.mean()))


def test_the_ratio_without_generic_attention():
    values = ratio(np.ones((2, 3)), np.array([[1.0, 0, 0], [0, 0, 0]]))
    assert values[0] == pytest.approx([1 / (1 + 0.01 / 3), 300, 300])
    assert values[1].tolist() == [0, 0, 0]
    assert ratio(np.array([1.0, 2.0]), np.array([0.0, 2.0])) == pytest.approx([100, 2 / 2.01])


@pytest.mark.parametrize("kind", ["one", "two"])
@pytest.mark.parametrize("answer", [None, "two cats"])
def test_the_vision_encoder_runs_once(examples, kind, answer):
    example, calls = examples("demo", kind), []
    handle = example.engine.model.model.visual.register_forward_hook(lambda *args: calls.append(1))
    try:
        example.result("relative", answer=answer)
    finally:
        handle.remove()
    assert len(calls) == 1


@pytest.mark.parametrize("batch_size", [1, 2])
def test_questions_about_one_picture_share_the_generic_prompt(examples, batch_size):
    example, encoder_calls, prompts = examples("demo", "one"), [], []
    settings = replace(example.engine.settings(query="last"), methods=("relative",))
    questions = [example.question, "what color is the star?", "what color is the dog?"]
    pairs = [(example.media, question) for question in questions]

    def count_prompts(module, args, kwargs):
        if kwargs["inputs_embeds"].shape[1] > 1:
            prompts.append(len(kwargs["inputs_embeds"]))

    model = example.engine.model.model
    handles = [
        model.visual.register_forward_hook(lambda *args: encoder_calls.append(1)),
        model.language_model.register_forward_pre_hook(count_prompts, with_kwargs=True),
    ]
    try:
        results = list(example.engine.answer(example.engine.prepare(pairs, settings), batch_size))
    finally:
        for handle in handles:
            handle.remove()
    assert len(encoder_calls) == 1
    assert len(prompts) == 2 + -(-3 // batch_size), "the picture, the generic prompt, and each batch of questions"
    for i, result in results:
        alone = replace(example, question=questions[i]).map("relative")
        np.testing.assert_allclose(result.methods[0].values, alone.values, rtol=1e-3)
    assert not np.allclose(results[0][1].methods[0].values, results[1][1].methods[0].values, rtol=0.05)


@pytest.mark.parametrize("kind", ["two", "clip"])
def test_different_pictures_have_generic_prompts_of_their_own(examples, clip_file, kind):
    """Clips run in one batch, pictures one by one."""
    example = examples("demo", kind)
    media = [[path] for path in example.media] if kind == "two" else [example.media, other_clip(example, clip_file)]
    settings = replace(example.engine.settings(query="last", max_new_tokens=4), methods=("relative",))
    pairs = [(item, example.question) for item in media]
    results = dict(example.engine.answer(example.engine.prepare(pairs, settings), batch_size=2))
    assert {result.provenance.batch for result in results.values()} == {2 if kind == "clip" else 1}
    for i, result in results.items():
        alone = replace(example, media=media[i]).map("relative")
        np.testing.assert_allclose(result.methods[0].values, alone.values, rtol=1e-3)


def other_clip(example: Example, clip_file):
    return clip_media(example.engine, clip_file(6, size_px=(84, 140)), 10)


# Rollout: the product of all layers' whole matrices.


def rolled(example: Example) -> list[np.ndarray]:
    """Return the products of the matrices from each layer up, (S, S) each."""
    half = [matrix.mean(axis=0) / 2 + np.eye(len(matrix[0])) / 2 for matrix in example.attention]
    product, products = np.eye(len(half[0])), []
    for matrix in reversed(half):
        product = product @ matrix
        products.insert(0, product)
    return products


@pytest.mark.parametrize(("query", "block"), [("question", 3), ("last", 7), ("answer", 1024)])
def test_rollout_is_a_product_of_matrices(example, query, block, monkeypatch):
    monkeypatch.setattr("qvl_attn.model.probe.BLOCK_ROWS", block)
    method_map = example.map("rollout", query)
    want = [product[example.rows(query)].mean(axis=0)[example.vision_positions] for product in rolled(example)]
    assert_close(method_map.values, want[0])
    assert_close(method_map.layer_values, want)
    assert method_map.layers == method_map.layer_numbers == tuple(range(len(want)))
