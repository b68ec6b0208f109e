"""Sinks planted into the hidden states, found by the two criteria computed over plain hidden states."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from qvl_attn.attribution.methods import sinks
from qvl_attn.attribution.methods.registry import DIMENSIONS
from qvl_attn.attribution.methods.sinks import redistributed, removed, sink_cells
from qvl_attn.model.signals import States
from tests.helpers.plain_eager import Example, assert_close

EXAMPLES = [(which, kind) for which in ("demo", "genuine") for kind in ("one", "two", "clip")]
LAYER, DIMENSION, PLANTED = 1, 7, [2, 5, 11]


@contextmanager
def planted(example: Example, spoil):
    """Change the hidden states of some cells before the layer `LAYER`."""
    positions, residual = example.vision_positions[PLANTED].tolist(), []

    def before(module, args):
        residual[:] = args

    def change(module, args, output):
        if output.shape[1] <= max(positions):  # a generated token
            return output
        output = output.clone()
        passed = residual[0][:, positions]
        output[:, positions] = spoil(passed + output[:, positions]) - passed
        return output

    layer = example.engine.model.model.language_model.layers[LAYER - 1]
    handles = [
        layer.post_attention_layernorm.register_forward_pre_hook(before),
        layer.mlp.register_forward_hook(change),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def loud(hidden):
    """Return longer states in the same direction."""
    return hidden * 40


def one_sided(hidden):
    """Return states of the same norm with only one dimension."""
    sided = torch.zeros_like(hidden)
    sided[..., DIMENSION] = -hidden.norm(dim=-1)
    return sided


def by_hand(out, example: Example, dimensions) -> np.ndarray:
    """Return the sinks of each layer, (L, V), from its input."""
    layers = []
    for hidden in out.hidden_states[:-1]:
        cells = hidden[0, example.vision_positions].double().numpy()
        norms = [float(np.sqrt((cell**2).sum())) for cell in cells]
        ordered = sorted(norms)
        count = len(norms)
        median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        scores = [max(abs(cell[d]) for d in dimensions) / np.sqrt((cell**2).mean()) for cell in cells]
        layers.append([s >= sinks.SCORE or n >= 5 * median for s, n in zip(scores, norms, strict=True)])
    return np.array(layers)


@pytest.mark.parametrize(
    ("which", "kind", "spoil", "score", "dimensions"),
    [(*case, loud, 20.0, ()) for case in EXAMPLES]
    + [(*case, one_sided, 9.0, (3, DIMENSION)) for case in EXAMPLES]
    + [("demo", "one", one_sided, 9.0, ()), ("demo", "clip", loud, 1e6, (3,))],
)
def test_planted_sinks_are_found_by_either_criterion_alone(
    examples, monkeypatch, which, kind, spoil, score, dimensions
):
    example = examples(which, kind)
    # The test models are too narrow for the published score, which is at most the root of the hidden size.
    monkeypatch.setattr(sinks, "SCORE", score)
    text = example.engine.config.text_config
    monkeypatch.setattr("qvl_attn.vqa.explain.DIMENSIONS", {(text.num_hidden_layers, text.hidden_size): dimensions})
    everything = dimensions or range(text.hidden_size)
    with planted(example, spoil):
        own = Example(example.engine, example.media, example.question)
        first, second = own.result("sinks", "sinks-redistributed", layers="0-2", query="question").methods
        found_sinks = by_hand(own.plain, own, everything)
        attention = own.attention[:3][:, :, own.question_positions][..., own.vision_positions].mean(axis=(1, 2))
    assert not found_sinks[0].any(), "no sinks before the planted layer"
    assert np.flatnonzero(found_sinks[LAYER]).tolist() == PLANTED, "only the planted sinks"
    want = [
        [0 if sink else a for a, sink in zip(*pair, strict=True)]
        for pair in zip(attention, found_sinks[:3], strict=True)
    ]
    assert_close(first.layer_values, want)
    assert_close(first.values, np.mean(want, axis=0))
    assert first.removed == second.removed == tuple(np.flatnonzero(found_sinks[:3].any(axis=0)).tolist())
    assert f"{len(first.removed)} sink cells" in first.caption
    spread = [np.array(rest) * sum(a) / sum(rest) for rest, a in zip(want, attention, strict=True)]
    assert_close(second.layer_values, spread)
    assert_close(second.layer_values.sum(axis=1), attention.sum(axis=1))
    assert ("any dimension" in first.caption) is not bool(dimensions)


def test_a_large_value_in_another_dimension_is_no_sink(examples, monkeypatch):
    example = examples("demo", "one")
    monkeypatch.setattr(sinks, "SCORE", 9.0)
    monkeypatch.setattr("qvl_attn.vqa.explain.DIMENSIONS", {(4, 128): (DIMENSION + 1,)})
    with planted(example, one_sided):
        method_map = example.map("sinks", layers="1")
    assert method_map.removed == ()
    assert "no sinks found (dimensions 8 " in method_map.caption


@pytest.mark.parametrize(("which", "kind"), [("demo", "one"), ("genuine", "two")])
def test_without_sinks_it_is_the_mean(examples, which, kind):
    example = examples(which, kind)
    mean, *others = example.result("mean", "sinks", "sinks-redistributed").methods
    for method_map in others:
        np.testing.assert_allclose(method_map.values, mean.values, rtol=1e-6)
        assert method_map.removed == ()


def states(norms, scores):
    return States(np.array(norms, np.float32), np.array(scores, np.float32), ())


def test_the_thresholds():
    cells = sink_cells(states([[1, 1, 1, 4.99, 5.0], [2, 2, 2, 2, 2]], [[0, 19.99, 20, 0, 0], [0, 0, 0, 0, 21]]))
    assert cells.tolist() == [[False, False, True, False, True], [False, False, False, False, True]]


def test_a_layer_with_only_sinks_has_no_attention_left():
    layers, every = np.array([[0.1, 0.3], [0.2, 0.2]]), np.array([[True, True], [True, False]])
    assert removed(layers, every).tolist() == [[0, 0], [0, 0.2]]
    assert redistributed(layers, every).tolist() == [[0, 0], [0, 0.4]]


@pytest.mark.parametrize("size", ["3B", "7B"])
def test_published_dimensions_belong_to_the_genuine_shapes(shared_data, size):
    config = json.loads((shared_data / "tokenizer" / size / "config.json").read_text())
    config |= config.get("text_config", {})
    shape = config["num_hidden_layers"], config["hidden_size"]
    assert DIMENSIONS[shape] == {"3B": (318, 1874, 1819), "7B": (458, 2570)}[size]


def test_published_dimensions_are_in_range():
    assert {shape: len(dimensions) for shape, dimensions in DIMENSIONS.items()} == {
        (36, 2048): 3,
        (28, 3584): 2,
        (64, 5120): 2,
    }
    assert DIMENSIONS[64, 5120] == (4675, 3094)
    assert all(0 <= d < size for (_, size), dimensions in DIMENSIONS.items() for d in dimensions)
