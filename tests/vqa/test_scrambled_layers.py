"""Layers with shuffled weights, and that every bit is restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qvl_attn.core.errors import MemoryLimitError
from qvl_attn.vqa import sanity
from qvl_attn.vqa.sanity import scrambled


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.detach().contiguous().view(torch.int32 if tensor.element_size() == 4 else torch.int16).tolist()


def some_layers(dtype=torch.float32, count=3) -> list[torch.nn.Module]:
    torch.manual_seed(0)
    return [torch.nn.Linear(12, 12, dtype=dtype) for _ in range(count)]


def weights(layers) -> list[list[int]]:
    return [bits(parameter) for layer in layers for parameter in layer.parameters()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_bit_comes_back(dtype):
    layers = some_layers(dtype)
    with torch.no_grad():
        layers[0].weight[0, :4] = torch.tensor([-0.0, 0.0, float("inf"), float("nan")])
    before = weights(layers)
    with scrambled(layers, 1):
        for was, now in zip(before, weights(layers), strict=True):
            assert now != was
            assert np.array_equal(np.sort(was, axis=None), np.sort(now, axis=None))
    assert weights(layers) == before


def test_every_bit_comes_back_after_a_fault():
    layers = some_layers()
    before = weights(layers)

    def fault():
        with scrambled(layers, 1):
            assert weights(layers) != before
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fault()
    assert weights(layers) == before


def test_every_bit_comes_back_after_a_fault_on_the_way(monkeypatch):
    layers, shuffle, seeds = some_layers(), sanity._shuffle, []

    def once_too_often(parameter, seed):
        seeds.append(seed)
        if len(seeds) == 4:
            raise torch.OutOfMemoryError
        shuffle(parameter, seed)

    before = weights(layers)
    monkeypatch.setattr(sanity, "_shuffle", once_too_often)
    with pytest.raises(torch.OutOfMemoryError), scrambled(layers, 1):
        pytest.fail("entered")
    assert weights(layers) == before


def test_a_seed_says_how():
    layers, shuffled = some_layers(), []
    for seed in (1, 1, 100):
        with scrambled(layers, seed):
            shuffled.append(weights(layers))
    assert shuffled[0] == shuffled[1]
    assert all(first != second for first, second in zip(shuffled[0], shuffled[2], strict=True))


def test_tensors_of_one_shape_are_shuffled_each_in_its_own_way():
    layers = some_layers()
    for layer in layers:
        layer.load_state_dict(layers[0].state_dict())
    with scrambled(layers, 1):
        assert len({str(bits(layer.weight)) for layer in layers}) == 3


def test_what_comes_behind_does_not_change_what_comes_before():
    layers = some_layers()
    with scrambled(layers[:1], 1):
        alone = weights(layers)
    with scrambled(layers[:2], 1):
        both = weights(layers)
    assert both[:2] == alone[:2]
    assert both[2:4] != alone[2:4]
    assert both[4:] == alone[4:]


def test_tied_weights_are_shuffled_once():
    layers = some_layers(count=2)
    alone, before = some_layers(count=1), weights(layers)
    layers[1].weight = layers[0].weight
    before = weights(layers)
    with scrambled([layers[0], layers[0], layers[1]], 1), scrambled(alone, 1):
        assert bits(layers[0].weight) == bits(alone[0].weight)
        assert bits(layers[1].bias) != before[3]
    assert weights(layers) == before


def test_weights_that_share_their_memory_come_back():
    layers = some_layers(count=2)
    layers[1].weight = torch.nn.Parameter(layers[0].weight.data)
    before = weights(layers)
    with scrambled(layers, 1):
        assert weights(layers) != before
    assert weights(layers) == before


def test_a_transposed_weight_comes_back():
    layers = some_layers(count=1)
    layers[0].weight = torch.nn.Parameter(layers[0].weight.data.T)
    before = weights(layers)
    with scrambled(layers, 1):
        assert weights(layers)[0] != before[0]
    assert weights(layers) == before


def test_nothing_is_shuffled_of_no_layers():
    with scrambled([], 1):
        pass


def test_weights_that_are_not_there_are_refused():
    layers = [*some_layers(count=1), torch.nn.Linear(3, 3, device="meta")]
    before = weights(layers[:1])
    with pytest.raises(MemoryLimitError, match="on the disk"), scrambled(layers, 1):
        pytest.fail("entered")
    assert weights(layers[:1]) == before


def test_the_model_forgets_and_remembers(demo, cats):
    before = demo.ask(cats, "what color is the dog?")
    layers = demo.engine.model.model.language_model.layers
    with scrambled(layers, 1):
        changed = demo.ask(cats, "what color is the dog?", answer=before.answer)
    after = demo.ask(cats, "what color is the dog?")
    assert changed.supplied_logprob < before.answer_logprob - 1
    assert after.answer_logprob == before.answer_logprob
    assert np.array_equal(after.capture.weights, before.capture.weights)
