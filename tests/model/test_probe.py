"""The pass that collects what methods need: nothing more than is needed, nothing left behind, in 16 bits too."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from qvl_attn.attribution.methods import METHODS
from qvl_attn.core.errors import CaptureError
from qvl_attn.model import capture
from qvl_attn.model.probe import Probe, window_order
from qvl_attn.model.signals import ATTENTION, CLASSES, RELEVANCE, STATES, TOWER
from tests.helpers.plain_eager import Example, alike

PROBED = ("sinks", "sinks-redistributed", "gradient", "gradcam", "rollout", "tam")
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def traces(model):
    """All that could be left behind."""
    hooks = [(name, what, len(getattr(one, what))) for name, one in model.named_modules() for what in HOOKS]
    gradients = [name for name, one in model.named_parameters() if one.grad is not None or one.requires_grad]
    config = model.model.language_model.config
    return hooks, gradients, config._attn_implementation, model.model.visual.config._attn_implementation


def plain_logits(example: Example):
    with torch.inference_mode():
        made = example.analyzer.model.generate(
            **example.inputs, do_sample=False, max_new_tokens=3, output_logits=True, return_dict_in_generate=True
        )
    return made.sequences, torch.stack(made.logits)


@contextmanager
def hooked(module, hook, **how):
    handle = module.register_forward_hook(hook, **how)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("which", ["demo", "genuine"])
def test_nothing_stays_behind(examples, which):
    example = examples(which, "one")
    model = example.analyzer.model
    plain = plain_logits(example)
    before = traces(model)
    example.result(*METHODS, heads="0.0")
    assert traces(model) == before
    assert before[1:] == ([], "sdpa", "sdpa")
    assert capture._watching == capture._active == {}
    assert all(torch.equal(one, other) for one, other in zip(plain_logits(example), plain, strict=True))


def on_the_way_up(module, args, output):
    if not torch.is_inference_mode_enabled():
        raise RuntimeError("on purpose")


def on_the_way_down(module, args, output):
    def fail(gradient):
        raise RuntimeError("on purpose")

    if output.requires_grad:
        output.register_hook(fail)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        (on_the_way_up, "model.visual.blocks.1"),
        (on_the_way_up, "model.language_model.layers.2.mlp"),
        (on_the_way_up, "lm_head"),
        (on_the_way_down, "model.visual.merger"),
        (on_the_way_down, "model.language_model.layers.2.mlp"),
    ],
)
def test_nothing_stays_behind_after_a_fault(examples, fault, where):
    example = examples("demo", "one")
    model = example.analyzer.model
    plain = plain_logits(example)
    before = traces(model)
    with (
        hooked(model.get_submodule(where), fault),
        pytest.raises(RuntimeError, match="on purpose"),
    ):
        example.result(*PROBED)
    assert traces(model) == before
    assert capture._watching == {}
    assert all(torch.equal(one, other) for one, other in zip(plain_logits(example), plain, strict=True))
    assert example.result(*PROBED).methods


def test_the_tower_is_not_differentiated_below_its_last_layer(examples):
    example, seen = examples("demo", "one"), []
    tower = example.analyzer.model.model.visual
    with hooked(tower.blocks[-2], lambda module, args, output: seen.append(output.requires_grad)):
        example.result("gradcam")
    assert seen
    assert not any(seen)


@pytest.mark.parametrize(
    ("methods", "passes"), [(("mean", "max"), 0), (("relative",), 1), *(((name,), 1) for name in PROBED), (PROBED, 1)]
)
def test_a_pass_more_only_where_one_is_needed_and_one_for_all(examples, methods, passes):
    example, seen = examples("demo", "clip"), []

    def count(module, args, output):
        seen.append(torch.is_grad_enabled())

    with hooked(example.analyzer.model.model.language_model, count):
        example.result()
        alone = len(seen)
        seen.clear()
        example.result(*methods)
    assert len(seen) == alone + passes
    assert any(seen) is bool({"gradient", "gradcam"} & {*methods})


def signals(example: Example, *needs: str):
    (question,) = example.analyzer.prepare([(example.shown, example.question)], example.analyzer.settings())
    tokens = example.result().capture.tokens[example.length :]
    return Probe(question.prompt, example.ids, tokens, whole=False).run(example.analyzer.model, needs, ())


@pytest.mark.parametrize("need", [STATES, ATTENTION, RELEVANCE, TOWER, CLASSES])
def test_only_what_is_needed_is_kept(examples, need):
    found = signals(examples("demo", "one"), need)
    kept = {name for name in (STATES, ATTENTION, RELEVANCE, TOWER, CLASSES) if getattr(found, name)}
    assert kept == {need}


def test_products_are_of_any_row(examples):
    """Not of the answer's rows alone."""
    example = examples("genuine", "two")
    products = signals(example, ATTENTION).attention
    row = np.random.default_rng(0).normal(size=example.length + len(example.ids))
    row[::3] = 0
    assert len(products) == len(example.attention)
    for product, matrices in zip(products, example.attention, strict=True):
        alike(product(row), row @ matrices.mean(axis=0), 1e-3)


def test_no_text_is_left_to_explain(examples):
    """The model ends its turn at once."""
    example = replace(examples("demo", "one"))
    ends = example.analyzer.model.generation_config.eos_token_id
    end = ends if isinstance(ends, int) else ends[0]
    loud = torch.zeros(example.analyzer.config.text_config.vocab_size)
    loud[end] = 1000
    with hooked(example.analyzer.model.lm_head, lambda module, args, output: output + loud):
        result = example.result("mean", "relative", *PROBED)
    assert result.answer == ""
    assert [one.method for one in result.methods] == ["mean", "relative", *PROBED]


@pytest.mark.parametrize("method", ["gradient", "sinks", "tam"])
def test_what_is_not_finite_is_a_fault(examples, method):
    example = examples("demo", "one")

    def spoil(module, args, output):
        return output if torch.is_inference_mode_enabled() else output * float("nan")

    mlp = example.analyzer.model.model.language_model.layers[3].mlp
    with hooked(mlp, spoil), pytest.raises(CaptureError, match="not finite"):
        example.result(method)


def test_a_tower_of_another_kind_is_named(examples, monkeypatch):
    example = examples("demo", "one")
    tower = example.analyzer.model.model.visual
    monkeypatch.setattr(tower, "forward", lambda pixels, grid_thw: pixels)
    with pytest.raises(CaptureError, match="the vision tower does not run as"):
        window_order(example.analyzer.model.model.visual, example.inputs)
    assert not tower.patch_embed._forward_hooks
    assert not tower.blocks[0]._forward_pre_hooks


def test_many_questions_find_their_pixels_again(examples):
    """Of several prompts the pixels are given up until they run."""
    example = examples("demo", "two")
    settings = replace(example.analyzer.settings(query="last", max_new_tokens=4), methods=("gradient", "gradcam"))
    pairs = [([path], question) for path in example.shown for question in ("how many cats?", "what color is the dog?")]
    for i, result in example.analyzer.answer(example.analyzer.prepare(pairs, settings), batch_size=3):
        alone = replace(example, shown=pairs[i][0], question=pairs[i][1]).result("gradient", "gradcam")
        assert result.answer == alone.answer
        for one, other in zip(result.methods, alone.methods, strict=True):
            assert one.caption == other.caption
            alike(one.values, other.values, 1e-3)


@pytest.fixture(scope="module")
def rounded():
    """The embedded model in 16 bits."""
    from qvl_attn import Analyzer

    return Analyzer.load("demo", dtype="bfloat16", device="cpu")


@pytest.mark.parametrize("kind", ["one", "two"])
def test_sixteen_bits_are_close(examples, rounded, kind):
    example = examples("demo", kind)
    methods = ("mean", "max", "relative", *PROBED)
    answer = "2"  # the same for both
    whole = example.result(*methods, answer=answer).methods
    half = replace(example, analyzer=rounded).result(*methods, answer=answer).methods
    for one, other in zip(half, whole, strict=True):
        assert one.values.dtype == np.float32
        assert np.corrcoef(one.values, other.values)[0, 1] > 0.99, one.method
        assert np.abs(one.values - other.values).max() < 0.15 * other.values.max(), one.method
