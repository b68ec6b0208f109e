"""Methods and cell removal in unusual cases: empty maps, large pictures, gradients that are not finite."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from qvl_attn.attribution.faithfulness import BLURRED_SIDE_PX, blurred, seed_of
from qvl_attn.core.errors import CaptureError
from qvl_attn.evaluation.summary import method_table
from qvl_attn.vqa.timeline import lines
from tests.conftest import DEMO_PICTURES

QUESTION = "how many cats?"


def answered(engine, picture, **typed):
    ((_, result),) = engine.answer(engine.prepare([([picture], QUESTION)], engine.settings(**typed)))
    return result


def test_drawing_an_empty_map_is_an_error(demo, cats):
    result = answered(demo.engine, cats, method="gradient")
    (method_map,) = result.methods
    zeros = np.zeros_like(method_map.values)
    empty = replace(result, methods=(replace(method_map, values=zeros),))
    with pytest.raises(CaptureError, match="`method='gradient'`: its map is zero everywhere") as caught:
        empty.heatmap()
    assert "choose another: there are mean, " in caught.value.hint


def test_a_gradient_that_is_not_finite_is_named(demo, cats):
    """The answer is finite, but a gradient is not."""
    layer = demo.engine.model.model.language_model.layers[2]

    def spoil(module, args, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * np.inf)

    handle = layer.mlp.register_forward_hook(spoil)
    try:
        with pytest.raises(CaptureError, match="a gradient is not finite"):
            answered(demo.engine, cats, method="gradient")
    finally:
        handle.remove()
    assert answered(demo.engine, cats, method="gradient").methods[0].values.any()


def test_the_vision_mass_of_single_heads(demo, cats):
    heads = "0.1,2.0"
    plain = answered(demo.engine, cats, heads=heads, query="last")
    method = answered(demo.engine, cats, heads=heads, query="last", method="heads")
    row = np.flatnonzero(plain.capture.query_role == "last")[0]
    by_hand = np.mean([plain.capture.weights_by_head[layer, head, row].sum() for layer, head in ((0, 1), (2, 0))])
    assert method.heatmap().vision_mass == pytest.approx(by_hand, rel=1e-5)
    assert plain.heatmap().vision_mass == pytest.approx(by_hand, rel=1e-5)


def test_a_large_picture_is_blurred_as_a_small_one_is():
    rng = np.random.default_rng(0)
    small = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (480, 360), interpolation=cv2.INTER_CUBIC)
    large = cv2.resize(small, (1920, 1440), interpolation=cv2.INTER_CUBIC)
    assert max(small.shape) <= BLURRED_SIDE_PX < max(large.shape)
    back = cv2.resize(blurred(large), (480, 360), interpolation=cv2.INTER_AREA)
    assert blurred(large).shape == large.shape
    assert np.abs(back.astype(int) - blurred(small)).max() <= 3


def test_a_question_has_orders_of_its_own():
    first, second = (SimpleNamespace(sha256=digest) for digest in ("aa", "bb"))
    seeds = [
        seed_of(0, [first], "why?"),
        seed_of(1, [first], "why?"),
        seed_of(0, [second], "why?"),
        seed_of(0, [first, second], "why?"),
        seed_of(0, [first], "when?"),
    ]
    assert len({*seeds}) == 5
    assert seed_of(0, [first], "why?") == seeds[0]
    assert all(0 <= seed < 2**62 for seed in seeds)


def test_methods_are_compared_with_random_orders_in_pairs():
    rng = np.random.default_rng(1)
    random = rng.normal(size=40) * 10
    scores = [
        SimpleNamespace(
            group=str(i),
            method_chance={},
            methods={"mean": {"deletion_blur": random[i] - 1}, "random": {"deletion_blur": random[i]}},
        )
        for i in range(40)
    ]
    table = method_table(scores, 0)
    paired = table["mean"]["deletion_blur"]["over_random"]
    assert (paired["mean"], paired["low"], paired["high"]) == pytest.approx((-1, -1, -1))
    assert table["mean"]["deletion_blur"]["high"] - table["mean"]["deletion_blur"]["low"] > 2
    assert "over_random" not in table["random"]["deletion_blur"]


@pytest.mark.parametrize(
    ("method", "label"), [("tam", "headline: method tam"), ("mean", "headline: method mean, layer 2")]
)
def test_the_timeline_names_the_method(demo, method, label):
    result = demo.ask_video(DEMO_PICTURES / "clip.mp4", "what moves?", query="last", method=method)
    labels = [line.label for line in lines(result)]
    assert labels[-1] == label
    assert labels[:-1] == [f"layer {layer}" for layer in range(4)], "the lines of all layers remain"
