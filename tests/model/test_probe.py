"""The pass that collects the methods' signals: it collects only those, restores the model, and works in 16 bits."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.core.errors import CaptureError
from qvl_attn.model import capture
from qvl_attn.model.probe import Probe, window_order
from qvl_attn.model.signals import ATTENTION, CLASSES, RELEVANCE, STATES, TOWER
from tests.helpers.plain_eager import Example, assert_close

PROBED = ("sinks", "sinks-redistributed", "gradient", "gradcam", "rollout", "tam")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state_of(model):
    """Return everything that a pass could leave behind in a model."""
    hooks = [(name, kind, len(getattr(module, kind))) for name, module in model.named_modules() for kind in HOOKS]
    gradients = [name for name, weight in model.named_parameters() if weight.grad is not None or weight.requires_grad]
    config = model.model.language_model.config
    return hooks, gradients, config._attn_implementation, model.model.visual.config._attn_implementation


def plain_logits(example: Example):
    with torch.inference_mode():
        output = example.engine.model.generate(
            **example.inputs, do_sample=False, max_new_tokens=3, output_logits=True, return_dict_in_generate=True
        )
    return output.sequences, torch.stack(output.logits)


@contextmanager
def hooked(module, hook, **options):
    handle = module.register_forward_hook(hook, **options)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("which", ["demo", "genuine"])
def test_nothing_stays_behind(examples, which):
    example = examples(which, "one")
    model = example.engine.model
    plain = plain_logits(example)
    before = state_of(model)
    example.result(*METHODS, heads="0.0")
    assert state_of(model) == before
    assert before[1:] == ([], "sdpa", "sdpa")
    assert capture._observers == capture._recorders == {}
    assert all(torch.equal(after, before) for after, before in zip(plain_logits(example), plain, strict=True))


def in_the_forward_pass(module, args, output):
    if not torch.is_inference_mode_enabled():
        raise RuntimeError("on purpose")


def in_the_backward_pass(module, args, output):
    def fail(gradient):
        raise RuntimeError("on purpose")

    if output.requires_grad:
        output.register_hook(fail)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (in_the_forward_pass, "model.visual.blocks.1"),
        (in_the_forward_pass, "model.language_model.layers.2.mlp"),
        (in_the_forward_pass, "lm_head"),
        (in_the_backward_pass, "model.visual.merger"),
        (in_the_backward_pass, "model.language_model.layers.2.mlp"),
    ],
)
def test_nothing_stays_behind_after_a_fault(examples, fault, where):
    example = examples("demo", "one")
    model = example.engine.model
    plain = plain_logits(example)
    before = state_of(model)
    with (
        hooked(model.get_submodule(where), fault),
        pytest.raises(RuntimeError, match="on purpose"),
    ):
        example.result(*PROBED)
    assert state_of(model) == before
    assert capture._observers == {}
    assert all(torch.equal(after, before) for after, before in zip(plain_logits(example), plain, strict=True))
    assert example.result(*PROBED).methods


def test_the_vision_encoder_is_differentiated_in_its_last_layer_only(examples):
    example, differentiated = examples("demo", "one"), []
    tower = example.engine.model.model.visual
    with hooked(tower.blocks[-2], lambda module, args, output: differentiated.append(output.requires_grad)):
        example.result("gradcam")
    assert differentiated
    assert not any(differentiated)


@pytest.mark.parametrize(
    ("methods", "passes"), [(("mean", "max"), 0), (("relative",), 1), *(((name,), 1) for name in PROBED), (PROBED, 1)]
)
def test_one_more_pass_serves_all_methods_that_need_one(examples, methods, passes):
    example, grad_enabled = examples("demo", "clip"), []

    def count(module, args, output):
        grad_enabled.append(torch.is_grad_enabled())

    with hooked(example.engine.model.model.language_model, count):
        example.result()
        plain_passes = len(grad_enabled)
        grad_enabled.clear()
        example.result(*methods)
    assert len(grad_enabled) == plain_passes + passes
    assert any(grad_enabled) is bool({"gradient", "gradcam"} & {*methods})


def signals(example: Example, *needs: str):
    (question,) = example.engine.prepare([(example.media, example.question)], example.engine.settings())
    tokens = example.result().capture.tokens[example.length :]
    return Probe(question.prompt, example.ids, tokens, whole=False).run(example.engine.model, needs, ())


@pytest.mark.parametrize("need", [STATES, ATTENTION, RELEVANCE, TOWER, CLASSES])
def test_only_needed_signals_are_collected(examples, need):
    captured = signals(examples("demo", "one"), need)
    assert {name for name in (STATES, ATTENTION, RELEVANCE, TOWER, CLASSES) if getattr(captured, name)} == {need}


def test_products_work_for_any_row(examples):
    """Not only for the answer's rows."""
    example = examples("genuine", "two")
    products = signals(example, ATTENTION).attention
    row = np.random.default_rng(0).normal(size=example.length + len(example.ids))
    row[::3] = 0
    assert len(products) == len(example.attention)
    for product, matrices in zip(products, example.attention, strict=True):
        assert_close(product(row), row @ matrices.mean(axis=0), 1e-3)


def test_an_empty_answer(examples):
    """The model ends its turn at once."""
    example = replace(examples("demo", "one"))
    ends = example.engine.model.generation_config.eos_token_id
    end = ends if isinstance(ends, int) else ends[0]
    bias = torch.zeros(example.engine.config.text_config.vocab_size)
    bias[end] = 1000
    with hooked(example.engine.model.lm_head, lambda module, args, output: output + bias):
        result = example.result("mean", "relative", *PROBED)
    assert result.answer == ""
    assert [method.method for method in result.methods] == ["mean", "relative", *PROBED]


@pytest.mark.parametrize("method", ["gradient", "sinks", "tam"])
def test_values_that_are_not_finite_are_an_error(examples, method):
    example = examples("demo", "one")

    def spoil(module, args, output):
        return output if torch.is_inference_mode_enabled() else output * float("nan")

    mlp = example.engine.model.model.language_model.layers[3].mlp
    with hooked(mlp, spoil), pytest.raises(CaptureError, match="not finite"):
        example.result(method)


def test_a_vision_encoder_of_another_kind_is_named(examples, monkeypatch):
    example = examples("demo", "one")
    tower = example.engine.model.model.visual
    monkeypatch.setattr(tower, "forward", lambda pixels, grid_thw: pixels)
    with pytest.raises(CaptureError, match="the vision encoder does not run as"):
        window_order(example.engine.model.model.visual, example.inputs)
    assert not tower.patch_embed._forward_hooks
    assert not tower.blocks[0]._forward_pre_hooks


def test_many_questions_get_their_pixels_back(examples):
    """The pixels of several prompts are dropped until the prompts run."""
    example = examples("demo", "two")
    settings = replace(example.engine.settings(query="last", max_new_tokens=4), methods=("gradient", "gradcam"))
    pairs = [([path], question) for path in example.media for question in ("how many cats?", "what color is the dog?")]
    for i, result in example.engine.answer(example.engine.prepare(pairs, settings), batch_size=3):
        alone = replace(example, media=pairs[i][0], question=pairs[i][1]).result("gradient", "gradcam")
        assert result.answer == alone.answer
        for batched, single in zip(result.methods, alone.methods, strict=True):
            assert batched.caption == single.caption
            assert_close(batched.values, single.values, 1e-3)


@pytest.fixture(scope="module")
def bfloat16_model():
    """The demo model in 16 bits."""
    from qvl_attn.vqa.engine import Engine

    return Engine.load("demo", dtype="bfloat16", device="cpu")


@pytest.mark.parametrize("kind", ["one", "two"])
def test_sixteen_bits_are_close(examples, bfloat16_model, kind):
    example = examples("demo", kind)
    methods = ("mean", "max", "relative", *PROBED)
    answer = "2"  # the same for both
    full = example.result(*methods, answer=answer).methods
    half = replace(example, engine=bfloat16_model).result(*methods, answer=answer).methods
    for rounded, exact in zip(half, full, strict=True):
        assert rounded.values.dtype == np.float32
        assert np.corrcoef(rounded.values, exact.values)[0, 1] > 0.99, rounded.method
        assert np.abs(rounded.values - exact.values).max() < 0.15 * exact.values.max(), rounded.method
