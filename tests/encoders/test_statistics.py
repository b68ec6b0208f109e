"""Statistics of an encoder's layers: each formula in plain loops over dense attention, and for uniform attention."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import dist, log2

import numpy as np
import pytest
import torch

from qvl_attn.core.errors import InputError
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.capture import Accumulator, windows_of
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.statistics import STATISTICS, TITLES, statistics_of
from tests.encoders.test_capture import plain_attention
from tests.helpers import tiny_encoders
from tests.helpers.encoder_records import made_attention
from tests.helpers.reference_tower import dense_attention, windows


def row_statistics(
    row: np.ndarray, place: int, prefix: int, w: int, patch_px: int, own: np.ndarray
) -> dict[str, float]:
    """Return the statistics of the attention row of one patch."""
    centres = [((i // w + 0.5) * patch_px, (i % w + 0.5) * patch_px) for i in range(len(row) - prefix)]
    patches = row[prefix:] / row[prefix:].sum()
    return {
        "distance_px": sum(p * dist(centres[place], centre) for p, centre in zip(patches, centres, strict=True)),
        "entropy_bits": -sum(p * log2(p) for p in row if p > 0),
        "window_share": sum(p for p, number in zip(patches, own, strict=True) if number == own[place]),
    }


def strongest_share(row: np.ndarray) -> float:
    return sum(sorted(row.tolist(), reverse=True)[:10])


def token_count(row: np.ndarray, share: float) -> float:
    rest, count = share * row.sum(), 0.0
    for value in sorted(row.tolist(), reverse=True):
        if value >= rest:
            return count + rest / value
        rest, count = rest - value, count + 1
    raise AssertionError


def computed_in_loops(dense: np.ndarray, prefix: int, w: int, patch_px: int, own: np.ndarray) -> dict[str, np.ndarray]:
    """Return (L, H) values of each statistic of (L, H, t, T, T) attention."""
    L, H, t = dense.shape[:3]
    statistics = {name: np.zeros((L, H)) for name in STATISTICS}
    for layer, head, step in product(range(L), range(H), range(t)):
        rows = dense[layer, head, step, prefix:].astype(np.float64)
        for place, row in enumerate(rows):
            for name, value in row_statistics(row, place, prefix, w, patch_px, own).items():
                statistics[name][layer, head] += value / len(rows) / t
        mean = rows.mean(axis=0)
        statistics["top10_share"][layer, head] += strongest_share(mean) / t
        statistics["tokens_50"][layer, head] += token_count(mean, 0.5) / t
        statistics["tokens_90"][layer, head] += token_count(mean, 0.9) / t
    return statistics


def compare_with_formulas(attention: EncoderAttention, dense: np.ndarray, own: np.ndarray) -> None:
    expected = computed_in_loops(dense, len(attention.prefix), attention.grid[2], attention.patch_px, own)
    if attention.window is None:
        del expected["window_share"]
    statistics = statistics_of(attention)
    assert list(statistics) == list(expected) == [name for name in STATISTICS if name in statistics]
    for name, statistic in statistics.items():
        np.testing.assert_allclose(statistic.values, expected[name], rtol=2e-5, err_msg=name)
        assert statistic.values.shape == (attention.layer_count, attention.head_count)
        assert statistic.chance.shape == (attention.layer_count,)


@pytest.mark.parametrize(
    ("name", "media", "limits"),
    [
        ("clip", tiny_encoders.picture(120, 118), {}),
        ("siglip", tiny_encoders.picture(190, 100), {"max_pixels": 9000}),
        ("registers", tiny_encoders.picture(64, 150), {"max_pixels": 7000}),
        ("dino", tiny_encoders.clip(96, 80, 3), {}),
    ],
    ids=["clip", "siglip", "registers", "dino"],
)
def test_every_statistic_is_its_formula(name, media, limits):
    encoder = tiny_encoders.encoder(name)
    inputs, _ = encoder.read(media, EncoderSettings(**limits))
    dense = plain_attention(name, inputs)
    compare_with_formulas(
        encoder.encode(media, EncoderSettings(**limits)).attention, dense, np.zeros(inputs.grid[1] * inputs.grid[2])
    )


@pytest.mark.parametrize(
    "media", [tiny_encoders.picture(140, 84), tiny_encoders.clip(84, 112, 3)], ids=["picture", "clip"]
)
def test_every_statistic_of_qwens_tower_is_its_formula(media):
    encoder = tiny_encoders.encoder(tiny_encoders.QWEN)
    attention = encoder.encode(media).attention
    weights = tiny_encoders.plain(tiny_encoders.QWEN).model.visual.state_dict()
    processor, config = encoder.processor.image_processor, encoder.config.vision_config
    dense = dense_attention(weights, config, media.frames, processor.image_mean, processor.image_std)
    compare_with_formulas(attention, dense, windows(attention.grid[1], attention.grid[2], 4))


def uniform_attention(name: str, media, limits) -> EncoderAttention:
    """Return what is accumulated if all queries and keys are zero."""
    encoder = tiny_encoders.encoder(name)
    inputs, _ = encoder.read(media, EncoderSettings(**limits))
    t, h, w = inputs.grid
    order = np.arange(t * h * w)
    size, numbers = 4, windows_of(encoder.spec, inputs.grid)
    if numbers is not None:
        order = np.lexsort((order, numbers[order % (h * w)], order // (h * w)))
    accumulator = Accumulator(encoder.spec, inputs, order, (), torch.device("cpu"))
    for layer in range(encoder.spec.layers):
        T = len(encoder.spec.prefix) + h * w
        counts = [T] if numbers is None or encoder.spec.full[layer] else np.bincount(numbers)
        for _ in range(t):
            for count in counts:
                zeros = torch.zeros(1, encoder.spec.heads, int(count), size)
                if numbers is None:
                    zeros = zeros.expand(t, -1, -1, -1)
                accumulator.observe(layer, zeros, zeros, zeros, None, 1.0, zeros)
            if numbers is None:
                break
    return accumulator.attention()


@pytest.mark.parametrize(
    ("name", "media", "limits"),
    [
        ("clip", tiny_encoders.picture(120, 118), {}),
        ("siglip", tiny_encoders.picture(190, 100), {"max_pixels": 9000}),
        ("registers", tiny_encoders.clip(64, 150, 2), {"max_pixels": 7000}),
        (tiny_encoders.QWEN, tiny_encoders.picture(112, 112), {}),
        (tiny_encoders.QWEN, tiny_encoders.picture(140, 84), {}),
        (tiny_encoders.QWEN, tiny_encoders.picture(84, 252), {}),
        (tiny_encoders.QWEN, tiny_encoders.picture(28, 28), {}),
        (tiny_encoders.QWEN, tiny_encoders.clip(196, 140, 3), {}),
    ],
    ids=["clip", "siglip", "registers", "whole windows", "cut windows", "tall", "one window", "steps"],
)
def test_chance_is_the_value_for_uniform_attention(name, media, limits):
    attention = uniform_attention(name, media, limits)
    # In windows of any size, too: each of n patches gives 1 / n to each of them.
    assert np.ptp(attention.received, axis=-1).max() < 1e-6
    for statistic_name, statistic in statistics_of(attention).items():
        expected = np.repeat(statistic.chance[:, None], attention.head_count, axis=1)
        np.testing.assert_allclose(statistic.values, expected, rtol=1e-5, atol=1e-6, err_msg=statistic_name)


def attention_of(received: np.ndarray) -> EncoderAttention:
    """Return attention of one layer and head with given received attention and no rows."""
    cells = len(received)
    flat = np.zeros((1, 1, 1), np.float32)
    return EncoderAttention(
        family="any",
        grid=(1, 1, cells),
        prefix=(),
        boxes_px=np.zeros((cells, 4), np.float32),
        patch_px=14,
        full=np.ones(1, np.bool_),
        window=None,
        received=received.astype(np.float32)[None, None, None],
        cls=None,
        query_patches=np.zeros(0, np.int64),
        rows=np.zeros((1, 1, 0, 1, cells), np.float32),
        distance_px=flat,
        entropy_bits=flat,
        window_share=None,
    )


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ([1, 0, 0, 0], {"top10_share": 1, "tokens_50": 0.5, "tokens_90": 0.9}),
        ([0.25] * 4, {"top10_share": 1, "tokens_50": 2, "tokens_90": 3.6}),
        ([0.1, 0.5, 0.0, 0.4], {"top10_share": 1, "tokens_50": 1, "tokens_90": 2}),
        ([0.6, 0.3, 0.1], {"top10_share": 1, "tokens_50": 0.5 / 0.6, "tokens_90": 2}),
        ([0.02] * 10 + [0.04] * 20, {"top10_share": 0.4, "tokens_50": 12.5, "tokens_90": 25}),
    ],
    ids=str,
)
def test_concentration(received, expected):
    statistics = statistics_of(attention_of(np.array(received)))
    for name, value in expected.items():
        assert statistics[name].values.item() == pytest.approx(value, rel=1e-5)


def test_chance_of_a_few_tokens():
    statistics = statistics_of(attention_of(np.full(4, 0.25)))
    assert statistics["top10_share"].chance.tolist() == [1]
    statistics = statistics_of(attention_of(np.full(40, 1 / 40)))
    assert statistics["top10_share"].chance.tolist() == [0.25]
    assert statistics["tokens_50"].chance.tolist() == [20]


def test_every_statistic_has_a_title():
    assert TITLES.keys() == {*STATISTICS}


@pytest.mark.parametrize(
    "wrong",
    [
        {"received": np.zeros((1, 1, 1, 4), np.float32)},
        {"received": np.full((1, 1, 1, 4), np.nan, np.float32)},
        {"received": np.array([[[[2, -1, 0, 0]]]], np.float32)},
        {"received": np.full((1, 1, 1, 4), 0.25)},
        {"received": np.full((1, 1, 2, 4), 0.25, np.float32)},
        {"grid": (1, 2, 3)},
        {"prefix": ("cls",)},
        {"query_patches": np.array([4])},
        {"full": np.zeros(1, np.bool_)},
        {"window": np.zeros(4, np.int64)},
        {"entropy_bits": np.full((1, 1, 1), np.inf, np.float32)},
        {"patch_px": 0},
    ],
    ids=str,
)
def test_invalid_attention_is_refused(wrong):
    valid = attention_of(np.full(4, 0.25))
    with pytest.raises(ValueError, match=r"\w"):
        replace(valid, **wrong)


def test_maps_are_joined_over_heads():
    attention = (
        tiny_encoders.encoder("registers")
        .encode(tiny_encoders.picture(90, 90), EncoderSettings(at=((30.0, 50.0),)))
        .attention
    )
    assert attention.queries == ("cls", "patch", "at_1")
    tokens = {"cls": attention.cls, "patch": attention.received, "at_1": attention.rows[:, :, 0]}
    for query, values in tokens.items():
        cells = values[..., 5:].reshape(3, 2, 1, 5, 5)
        assert np.array_equal(attention.maps(query), cells)
        for over, joined in (
            ("mean", (cells[1, 0] + cells[1, 1]) / 2),
            ("max", cells[1].max(0)),
            ("min", cells[1].min(0)),
        ):
            np.testing.assert_allclose(attention.map(query, 1, over), joined, rtol=1e-6)
        np.testing.assert_allclose(attention.patch_share(query), 1 - values[..., :5].sum(axis=(-1, -2)), rtol=1e-5)
    for query, layer in (("cls", 3), ("patch", -1)):
        with pytest.raises(InputError, match="the encoder has layers 0 to 2"):
            attention.map(query, layer)
    with pytest.raises(InputError, match="choose one of cls, patch, at_1"):
        attention.map("at_2", 0)


def test_uniform_is_over_the_tokens_that_a_patch_attends_to():
    """For a patch in a windowed layer its own window; for the mean over all patches the step, in all layers."""
    window = np.array([0, 0, 1, 0, 0, 1], dtype=np.int64)
    attention = made_attention(
        (1, 2, 3), prefix=(), layers=2, window=window, full=[False, True], query_patches=np.array([4, 5])
    )
    assert [attention.uniform("at_1", 0), attention.uniform("at_2", 0)] == [1 / 4, 1 / 2]
    assert {attention.uniform(query, 1) for query in attention.queries} == {attention.uniform("patch", 0)} == {1 / 6}
    received = np.zeros((6, 6))
    for place in range(6):
        received[place, window == window[place]] = attention.uniform_at(place, 0)
    np.testing.assert_allclose(received.mean(axis=0), attention.uniform("patch", 0))
    assert made_attention((1, 2, 3)).uniform("cls", 0) == 1 / 8, "[CLS] and a register count, too"
