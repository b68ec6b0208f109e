"""Captured rows against transformers' own `output_attentions=True` under eager attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvl_attn.core.errors import CaptureError
from qvl_attn.model.capture import NAMES, prove_capture, record_attention
from qvl_attn.model.recorder import AttentionRecorder, Target
from tests.helpers.recipe import recipe

QUESTION = "how many cats?"
# `eager` is the model's own arithmetic in blocks; `rows` computes the same sums in another order.
TOLERANCE = {"eager": 1e-6, "rows": 1e-5}


@pytest.fixture(params=["eager", "rows"])
def attention(request, demo, genuine, monkeypatch):
    """Both attention modes, one after the other."""
    monkeypatch.setattr(demo.engine, "attn", request.param)
    monkeypatch.setattr(genuine.engine, "attn", request.param)
    return request.param


@pytest.fixture
def eager(demo):
    """The same model, with the language model under transformers' own eager attention."""
    demo.engine.model.set_attn_implementation({"text_config": "eager"})
    yield demo.engine.model
    demo.engine.model.set_attn_implementation("sdpa")


def plain(model, inputs, max_new_tokens=8):
    """All matrices of all steps: (L, H, S + steps - 1, S + steps - 1), and the generated tokens."""
    with torch.inference_mode():
        out = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )
    length = inputs["input_ids"].shape[1]
    steps = len(out.attentions)
    total = length + steps - 1
    full = torch.zeros(len(out.attentions[0]), out.attentions[0][0].shape[1], total, total)
    for step, layers in enumerate(out.attentions):
        for layer, weights in enumerate(layers):
            rows = slice(0, length) if step == 0 else slice(length + step - 1, length + step)
            full[layer, :, rows, : weights.shape[-1]] = weights[0]
    return full.numpy(), out.sequences[0, length:].tolist()


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("question", [QUESTION, "what color is the star?", "有几只猫？"])
def test_rows_equal_output_attentions(attention, demo, cats, wide, request, pictures, question):
    paths = [cats, wide][:pictures]
    result = demo.ask(paths[0], question, paths[1:], heads="0-3")
    full, _ = plain(request.getfixturevalue("eager"), recipe(demo.engine.processor, paths, question))
    capture = result.capture
    want = full[:, :, capture.queries][..., capture.vision_tokens]
    assert np.abs(capture.weights - want.mean(axis=1)).max() <= TOLERANCE[attention]
    assert np.abs(capture.weights_by_head - want).max() <= TOLERANCE[attention]
    assert np.abs(capture.vision_mass - want.mean(axis=1).sum(axis=-1)).max() <= 1e-5
    assert len(capture.tokens) == full.shape[2] + 1, "all tokens, although the last is never a query"
    assert capture.produces.max() == full.shape[2]


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_longer_answer_with_grouped_queries_and_the_real_head_size(attention, genuine, make_picture, pictures):
    paths = [make_picture(200, 120, "a.png", 1), make_picture(90, 150, "b.png", 2)][:pictures]
    result = genuine.ask(paths[0], "有几只猫? how many?", paths[1:], heads="0,1", max_new_tokens=8)
    inputs = recipe(genuine.engine.processor, paths, "有几只猫? how many?")
    genuine.engine.model.set_attn_implementation({"text_config": "eager"})
    try:
        full, ids = plain(genuine.engine.model, inputs)
    finally:
        genuine.engine.model.set_attn_implementation("sdpa")
    capture = result.capture
    want = full[:, :, capture.queries][..., capture.vision_tokens]
    assert (capture.query_role == "answer").sum() == len(ids) - 1 >= 5
    assert np.abs(capture.weights_by_head - want).max() <= TOLERANCE[attention]
    assert np.abs(capture.weights - want.mean(axis=1)).max() <= TOLERANCE[attention]


def test_the_answer_is_greedy_and_keeps_the_penalty(demo, cats):
    config = demo.engine.model.generation_config
    before = config.to_dict()
    config.update(do_sample=True, temperature=50.0, repetition_penalty=1.3)
    try:
        results = [demo.ask(cats, "what color is the dog?", seed=seed) for seed in range(4)]
        with torch.inference_mode():
            inputs = recipe(demo.engine.processor, [cats], "what color is the dog?")
            ids = demo.engine.model.generate(
                **inputs, do_sample=False, temperature=1.0, repetition_penalty=1.3, max_new_tokens=128
            )
    finally:
        config.update(**before)
    assert {result.answer for result in results} == {
        demo.engine.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    }
    assert results[0].provenance.generation["repetition_penalty"] == 1.3
    assert results[0].provenance.generation["do_sample"] is False


def test_keys_that_a_sliding_window_dropped_have_no_attention():
    recorder = AttentionRecorder([0], [Target((), (1, 4, 6))], 7)
    recorder.enter(0, torch.zeros(1, 2, 7, 8), torch.zeros(1, 2, 7, 8))
    row, column = recorder.enter(0, torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 4, 8))
    assert (row, column) == (7, 4), "the eighth token attends to the positions 4 to 7"
    assert recorder.rows_to_keep(0, 0, row, 1) == [0]
    recorder.keep(0, 0, [row], column, torch.tensor([0.1, 0.2, 0.3, 0.4]).expand(2, 1, 4))
    assert recorder.results()[0].weights[0, 0].tolist() == pytest.approx([0.0, 0.1, 0.3])


def test_with_the_vision_tower_eager_too_only_rounding_differs(demo, cats):
    result = demo.ask(cats, QUESTION)
    demo.engine.model.set_attn_implementation("eager")
    try:
        full, _ = plain(demo.engine.model, recipe(demo.engine.processor, [cats], QUESTION))
    finally:
        demo.engine.model.set_attn_implementation("sdpa")
    want = full[:, :, result.capture.queries][..., result.capture.vision_tokens].mean(axis=1)
    assert np.abs(result.capture.weights - want).max() <= 1e-5


def test_every_query_of_the_headline(attention, demo, cats, request):
    result = demo.ask(cats, QUESTION)
    inputs = recipe(demo.engine.processor, [cats], QUESTION)
    full, ids = plain(request.getfixturevalue("eager"), inputs)
    full = full.mean(axis=1)
    length = inputs["input_ids"].shape[1]
    vision = np.flatnonzero(inputs["mm_token_type_ids"][0].numpy() == 1)
    # The question is between <|vision_end|> and the end of the turn: "<|im_end|>\n<|im_start|>assistant\n".
    question = np.arange(vision[-1] + 2, length - 5)
    text = demo.engine.processor.tokenizer.decode(inputs["input_ids"][0, question])
    assert text == QUESTION
    cats_token = [i for i in question if demo.engine.processor.tokenizer.decode(inputs["input_ids"][0, i]) == " cats"]
    words = [i for i, token in enumerate(ids) if token not in demo.engine.processor.tokenizer.all_special_ids]
    rows = {
        "question": question,
        "last": [length - 1],
        "answer": [length - 1 + i for i in words],
        "text:cats": cats_token,
    }
    for query, positions in rows.items():
        want = full[:, positions][..., vision].mean(axis=(0, 1))
        got = result.heatmap(layers="all", query=query).values.ravel()
        assert np.abs(got - want).max() <= TOLERANCE[attention], query


def test_supplied_answer_is_teacher_forced(attention, demo, cats, request):
    result = demo.ask(cats, QUESTION, answer="red star", heads="0-3")
    ids = demo.engine.processor.tokenizer("red star", add_special_tokens=False)["input_ids"]
    inputs = dict(recipe(demo.engine.processor, [cats], QUESTION))
    length = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = torch.cat(
        [inputs["mm_token_type_ids"], torch.zeros(1, len(ids), dtype=inputs["mm_token_type_ids"].dtype)], dim=1
    )
    with torch.inference_mode():
        out = request.getfixturevalue("eager")(**inputs, output_attentions=True)
    full = torch.stack([weights[0] for weights in out.attentions]).numpy()
    capture = result.capture
    assert capture.queries.tolist()[-1] == length + len(ids) - 2, "the last token of an answer is never a query"
    want = full[:, :, capture.queries][..., capture.vision_tokens]
    assert np.abs(capture.weights_by_head - want).max() <= TOLERANCE[attention]
    logprobs = out.logits[0].log_softmax(-1)
    expected = sum(float(logprobs[length - 1 + i, token]) for i, token in enumerate(ids))
    assert result.supplied_logprob == pytest.approx(expected, abs=1e-4)
    assert result.answer == demo.ask(cats, QUESTION).answer


def test_recording_does_not_change_the_answer(attention, demo, cats):
    inputs = recipe(demo.engine.processor, [cats], QUESTION)
    with torch.inference_mode():
        ids = demo.engine.model.generate(**inputs, max_new_tokens=128, do_sample=False)[
            0, inputs["input_ids"].shape[1] :
        ]
    assert demo.ask(cats, QUESTION).answer == demo.engine.processor.decode(ids, skip_special_tokens=True)


def test_blocks_of_rows_change_nothing(attention, genuine, make_picture, monkeypatch):
    path = make_picture(420, 280)
    whole = genuine.ask(path, "what is this?", heads="0,1", max_new_tokens=3)
    monkeypatch.setattr("qvl_attn.model.capture.BLOCK_ROWS", 37)
    pieces = genuine.ask(path, "what is this?", heads="0,1", max_new_tokens=3)
    assert np.abs(whole.capture.weights_by_head - pieces.capture.weights_by_head).max() <= 1e-6
    assert (whole.capture.queries == pieces.capture.queries).all()


def test_a_block_of_one_row_is_not_taken_for_a_generated_token(attention, genuine, make_picture, monkeypatch):
    path = make_picture(420, 280)
    length = len(genuine.ask(path, "what is this?", max_new_tokens=1).capture.tokens) - 1
    monkeypatch.setattr("qvl_attn.model.capture.BLOCK_ROWS", length - 1)
    result = genuine.ask(path, "what is this?", max_new_tokens=3)
    assert np.unique(result.capture.queries).size == result.capture.queries.size
    assert (result.capture.query_role == "last").sum() == 1


def one_row(length=10):
    return AttentionRecorder([0], [Target((0,), (0,))], length)


@pytest.mark.parametrize("mode", ["eager", "rows"])
def test_an_exception_restores_the_model(demo, cats, mode):
    before = demo.engine.model.model.language_model.config._attn_implementation
    implementations = []

    def fail():
        with record_attention(demo.engine.model, one_row(), mode):
            implementations.append(demo.engine.model.model.language_model.config._attn_implementation)
            implementations.append(demo.engine.model.model.visual.config._attn_implementation)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert implementations == [NAMES[mode], "sdpa"]
    assert demo.engine.model.model.language_model.config._attn_implementation == before == "sdpa"
    assert demo.ask(cats, QUESTION).answer


def test_recording_twice_at_once_is_refused(demo):
    with (
        record_attention(demo.engine.model, one_row(), "rows"),
        pytest.raises(CaptureError, match="already"),
        record_attention(demo.engine.model, one_row(), "eager"),
    ):
        pass


@pytest.mark.parametrize("mode", ["eager", "rows"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "no beams"),
        ({"num_return_sequences": 2, "do_sample": True}, "batch of 2"),
        ({"use_cache": False}, "without a cache"),
        ({"cache_implementation": "static"}, "static cache"),
        ({"prefill_chunk_size": 8}, "pieces"),
        ({"prefill_chunk_size": 92}, "pieces"),
    ],
)
def test_what_would_shift_rows_or_columns_is_refused(demo, cats, mode, options, message):
    inputs = recipe(demo.engine.processor, [cats], QUESTION)
    recorder = AttentionRecorder([0], [Target((5,), (16,))], inputs["input_ids"].shape[1])
    with (
        record_attention(demo.engine.model, recorder, mode),
        torch.inference_mode(),
        pytest.raises(CaptureError, match=message),
    ):
        demo.engine.model.generate(**inputs, max_new_tokens=4, **{"do_sample": False} | options)
    vars(demo.engine.model).pop("_cache", None)  # the static cache that transformers would reuse


def test_nan_is_an_error_and_never_a_picture(attention, demo, cats):
    bias = demo.engine.model.model.language_model.layers[2].self_attn.q_proj.bias
    original = bias.detach().clone()
    with torch.no_grad():
        bias.fill_(float("nan"))
    try:
        with pytest.raises(CaptureError, match=r"layer 2.*not finite"):
            demo.ask(cats, QUESTION)
    finally:
        with torch.no_grad():
            bias.copy_(original)
    assert demo.ask(cats, QUESTION).answer


@pytest.mark.parametrize("where", ["lm_head", "last o_proj"])
def test_nan_that_the_recorded_rows_do_not_show(attention, demo, cats, where):
    """NaN only in the output, or in a layer that is not captured."""
    layer = demo.engine.model.model.language_model.layers[3].self_attn.o_proj
    module = demo.engine.model.lm_head if where == "lm_head" else layer
    handle = module.register_forward_hook(lambda module, args, output: output * float("nan"))
    try:
        with pytest.raises(CaptureError, match="not finite"):
            demo.ask(cats, QUESTION, layers="0-1")
    finally:
        handle.remove()


def test_eager_attention_without_weights_is_named(demo, cats, monkeypatch):
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl as modeling

    original = modeling.eager_attention_forward
    monkeypatch.setattr(modeling, "eager_attention_forward", lambda *a, **k: (original(*a, **k)[0], None))
    with pytest.raises(CaptureError, match="returned no weights"):
        demo.ask(cats, QUESTION)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w * 0.9, "sums to one"),
        (lambda w: w * 0, "sums to one"),
        (lambda w: w.flip(-1), "after them"),
        (lambda w: w[:, :1], "shape"),
    ],
)
def test_self_check_refuses_what_is_not_attention(demo, cats, monkeypatch, spoil, message):
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl as modeling

    original = modeling.eager_attention_forward

    def spoiled(*args, **kwargs):
        output, weights = original(*args, **kwargs)
        return output, spoil(weights)

    monkeypatch.setattr(modeling, "eager_attention_forward", spoiled)
    with pytest.raises(CaptureError, match=message):
        prove_capture(demo.engine.model, dict(recipe(demo.engine.processor, [cats], "?")), "eager")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: w * 0.9, "sums to one"),
        (lambda w: w.flip(-1), "after them"),
        (lambda w: w[:1], "shape"),
        (lambda w: w * float("nan"), "not finite"),
    ],
)
def test_self_check_refuses_wrong_rows(demo, cats, monkeypatch, spoil, message):
    import qvl_attn.model.capture as capture

    original = capture.attention_rows
    monkeypatch.setattr(capture, "attention_rows", lambda *args: spoil(original(*args)))
    with pytest.raises(CaptureError, match=message):
        prove_capture(demo.engine.model, dict(recipe(demo.engine.processor, [cats], "?")), "rows")


def test_a_layer_without_attention_is_named():
    recorder = AttentionRecorder([0, 1], [Target((0,), (0,))], 1)
    with pytest.raises(CaptureError, match="layer 0 returned no attention"):
        recorder.results()
