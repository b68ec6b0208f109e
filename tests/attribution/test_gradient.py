"""Relevance and Grad-CAM against plain autograd through transformers' own eager attention."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from qvl_attn.model.probe import window_order
from tests.helpers.plain_eager import Example, assert_close, eager

EXAMPLES = [(which, kind) for which in ("demo", "genuine") for kind in ("one", "two", "clip")]


@pytest.fixture(params=EXAMPLES, ids="-".join)
def example(request, examples) -> Example:
    return examples(*request.param)


def differentiated(example: Example, ids, which):
    """Return attention (L, H, S, S), output of the encoder's last layer (P, C), and the gradients of both.

    The gradients are those of the sum of the logits of the answer tokens `which`, each where it is produced.
    """
    model, leaves = example.engine.model, []

    def leaf(module, args, output):
        leaves.append(output.detach().requires_grad_())
        return leaves[0]

    with ExitStack() as stack:
        stack.enter_context(eager(model))
        stack.callback(model.model.visual.blocks[-1].register_forward_hook(leaf).remove)
        # All attention must be in the graph, also that of tokens before the first picture.
        words = model.get_input_embeddings()
        stack.callback(words.register_forward_hook(lambda m, a, output: output.detach().requires_grad_()).remove)
        out = model(**example.full_inputs(ids), output_attentions=True)
    y = sum(out.logits[0, example.length - 1 + i, ids[i]] for i in which)
    gradients = torch.autograd.grad(y, [*out.attentions, leaves[0]])
    attention, gradient = (
        torch.cat([layer.detach() for layer in layers]) for layers in (out.attentions, gradients[:-1])
    )
    return attention.double().numpy(), gradient.double().numpy(), leaves[0].detach().numpy(), gradients[-1].numpy()


def relevance_by_hand(example: Example, ids, which) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the whole matrix, and that of each layer."""
    attention, gradient, *_ = differentiated(example, ids, which)
    layers = []
    for a, g in zip(attention, gradient, strict=True):
        layers.append(
            np.mean([np.where(head * slope > 0, head * slope, 0) for head, slope in zip(a, g, strict=True)], 0)
        )
    whole = np.eye(len(layers[0]))
    for layer in layers:
        whole = whole + layer @ whole
    return whole, layers


@pytest.mark.parametrize(("query", "block"), [("last", 7), ("answer", 3)])
def test_relevance_is_a_product_of_matrices(example, query, block, monkeypatch):
    monkeypatch.setattr("qvl_attn.model.probe.BLOCK_ROWS", block)
    which = example.explained_indices(query)
    whole, layers = relevance_by_hand(example, example.ids, which)
    method_map = example.map("gradient", query)
    rows = [example.length - 1 + i for i in which]
    assert_close(method_map.values, whole[rows].mean(axis=0)[example.vision_positions])
    assert_close(method_map.layer_values, [layer[rows].mean(axis=0)[example.vision_positions] for layer in layers])
    assert method_map.layers == method_map.layer_numbers == tuple(range(len(layers)))


def test_the_random_model_answers_with_several_tokens(examples):
    """So the sum over an answer, and the mean over its positions, have several terms."""
    assert len(examples("genuine", "one").explained_indices("answer")) > 2


@pytest.mark.parametrize("which", ["demo", "genuine"])
def test_blocks_change_nothing(examples, which, monkeypatch):
    example = examples(which, "one")
    unblocked = example.map("gradient")
    monkeypatch.setattr("qvl_attn.model.probe.BLOCK_ROWS", 13)
    assert_close(example.map("gradient").values, unblocked.values)


@pytest.mark.parametrize(("which", "answer"), [("demo", "red star"), ("genuine", "two red cats, 两只")])
@pytest.mark.parametrize("query", ["question", "last", "answer"])
def test_a_supplied_answer_is_what_is_explained(examples, which, answer, query):
    example = examples(which, "one")
    ids = example.supplied(answer)
    explained = example.explained_indices(query, ids)
    whole, _ = relevance_by_hand(example, ids, explained)
    method_map = example.map("gradient", query, answer=answer)
    rows = [example.length - 1 + i for i in explained]
    assert_close(method_map.values, whole[rows].mean(axis=0)[example.vision_positions])
    words = example.engine.processor.tokenizer.decode([ids[i] for i in explained])
    assert f"“{words}”" in method_map.caption


def test_without_values_the_map_is_zero(examples):
    """All attention values are set to 0."""
    example = examples("demo", "one")
    handles = [
        layer.self_attn.v_proj.register_forward_hook(lambda module, args, output: output * 0)
        for layer in example.engine.model.model.language_model.layers
    ]
    try:
        for method in ("gradient", "gradcam"):
            assert not example.map(method).values.any()
    finally:
        for handle in handles:
            handle.remove()


# Grad-CAM


def windows_of(model, grid_thw) -> torch.Tensor:
    """Return transformers' own order of the cells."""
    tower = model.model.visual
    if hasattr(tower, "get_window_index"):
        return torch.as_tensor(tower.get_window_index(grid_thw)[0])
    from transformers.vision_utils import get_vision_window_index

    return get_vision_window_index(grid_thw, tower.spatial_merge_size, tower.window_size, tower.patch_size)[0]


def cam_by_hand(example: Example, ids, which) -> np.ndarray:
    """Return the map, (V,)."""
    *_, features, gradients = differentiated(example, ids, which)
    alpha = sum(gradients.astype(np.float64)) / len(gradients)
    patches = np.array([max(float(patch.astype(np.float64) @ alpha), 0) for patch in features])
    grid = example.inputs["image_grid_thw" if "image_grid_thw" in example.inputs else "video_grid_thw"]
    cells = np.full(len(example.vision_positions), np.nan)
    for i, cell in enumerate(windows_of(example.engine.model, grid).tolist()):
        cells[cell] = patches[4 * i : 4 * i + 4].mean()
    return cells


@pytest.mark.parametrize("query", ["last", "answer"])
def test_grad_cam_of_the_encoders_last_layer(example, query):
    method_map = example.map("gradcam", query)
    assert_close(method_map.values, cam_by_hand(example, example.ids, example.explained_indices(query)))
    assert (method_map.layers, method_map.layer_values, method_map.layer_numbers) == ((), None, ())


def test_grad_cam_of_a_supplied_answer(examples):
    example = examples("demo", "two")
    ids = example.supplied("red star")
    method_map = example.map("gradcam", "answer", answer="red star")
    assert_close(method_map.values, cam_by_hand(example, ids, example.explained_indices("answer", ids)))


def test_some_windows_are_not_in_the_order_of_the_cells(examples):
    """Otherwise undoing the order would not be tested."""
    for which, kind in EXAMPLES:
        example = examples(which, kind)
        grid = example.inputs["image_grid_thw" if "image_grid_thw" in example.inputs else "video_grid_thw"]
        order = windows_of(example.engine.model, grid)
        assert not torch.equal(order, torch.arange(len(order))), (which, kind)
        assert not torch.equal(order[order], torch.arange(len(order))), "its own inverse"


@pytest.mark.parametrize("which", ["demo", "genuine"])
@pytest.mark.parametrize(
    "grids", [[(1, 2, 2)], [(1, 8, 8)], [(1, 18, 10)], [(1, 4, 34)], [(1, 10, 18), (1, 16, 6)], [(3, 10, 14)]]
)
@pytest.mark.parametrize("clips", [False, True])
def test_the_patch_order_is_that_of_transformers(request, which, grids, clips):
    model = request.getfixturevalue(which).engine.model
    grid = torch.tensor(grids)
    pixels = torch.zeros(int(grid.prod(dim=1).sum()), 3 * 2 * 14 * 14)
    names = ("pixel_values_videos", "video_grid_thw") if clips else ("pixel_values", "image_grid_thw")
    order = window_order(model.model.visual, dict(zip(names, (pixels, grid), strict=True)))
    cells = windows_of(model, grid)
    assert order.tolist() == [4 * cell + i for cell in cells.tolist() for i in range(4)]
