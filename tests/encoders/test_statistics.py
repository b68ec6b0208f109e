"""Figures of an encoder's layers: each formula written out over dense attention, in loops, and even attention's own."""

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
from qvl_attn.encoders.statistics import FIGURES, TITLES, statistics_of
from tests.encoders.test_capture import plain_attention
from tests.helpers import tiny_encoders
from tests.helpers.encoder_records import made_attention
from tests.helpers.reference_tower import dense_attention, windows


def row_figures(row: np.ndarray, place: int, prefix: int, w: int, patch_px: int, own: np.ndarray) -> dict[str, float]:
    """Of what one patch gives the tokens of its step."""
    centres = [((i // w + 0.5) * patch_px, (i % w + 0.5) * patch_px) for i in range(len(row) - prefix)]
    patches = row[prefix:] / row[prefix:].sum()
    return {
        "distance_px": sum(p * dist(centres[place], centre) for p, centre in zip(patches, centres, strict=True)),
        "entropy_bits": -sum(p * log2(p) for p in row if p > 0),
        "window_share": sum(p for p, number in zip(patches, own, strict=True) if number == own[place]),
    }


def strongest_share(row: np.ndarray) -> float:
    return sum(sorted(row.tolist(), reverse=True)[:10])


def tokens_that_carry(row: np.ndarray, share: float) -> float:
    left, count = share * row.sum(), 0.0
    for value in sorted(row.tolist(), reverse=True):
        if value >= left:
            return count + left / value
        left, count = left - value, count + 1
    raise AssertionError


def by_hand(dense: np.ndarray, prefix: int, w: int, patch_px: int, own: np.ndarray) -> dict[str, np.ndarray]:
    """(L, H) of each figure: (L, H, t, T, T) attention."""
    L, H, t = dense.shape[:3]
    found = {name: np.zeros((L, H)) for name in FIGURES}
    for layer, head, step in product(range(L), range(H), range(t)):
        rows = dense[layer, head, step, prefix:].astype(np.float64)
        for place, row in enumerate(rows):
            for name, value in row_figures(row, place, prefix, w, patch_px, own).items():
                found[name][layer, head] += value / len(rows) / t
        mean = rows.mean(axis=0)
        found["top10_share"][layer, head] += strongest_share(mean) / t
        found["tokens_50"][layer, head] += tokens_that_carry(mean, 0.5) / t
        found["tokens_90"][layer, head] += tokens_that_carry(mean, 0.9) / t
    return found


def held_against(attention: EncoderAttention, dense: np.ndarray, own: np.ndarray) -> None:
    wanted = by_hand(dense, len(attention.prefix), attention.grid[2], attention.patch_px, own)
    if attention.window is None:
        del wanted["window_share"]
    found = statistics_of(attention)
    assert list(found) == list(wanted) == [name for name in FIGURES if name in found]
    for name, figure in found.items():
        np.testing.assert_allclose(figure.values, wanted[name], rtol=2e-5, err_msg=name)
        assert figure.values.shape == (attention.layer_count, attention.head_count)
        assert figure.chance.shape == (attention.layer_count,)


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
def test_every_figure_is_its_formula(name, media, limits):
    encoder = tiny_encoders.encoder(name)
    inputs, _ = encoder.read(media, EncoderSettings(**limits))
    dense = plain_attention(name, inputs)
    held_against(
        encoder.encode(media, EncoderSettings(**limits)).attention, dense, np.zeros(inputs.grid[1] * inputs.grid[2])
    )


@pytest.mark.parametrize(
    "media", [tiny_encoders.picture(140, 84), tiny_encoders.clip(84, 112, 3)], ids=["picture", "clip"]
)
def test_every_figure_of_qwens_tower_is_its_formula(media):
    encoder = tiny_encoders.encoder(tiny_encoders.QWEN)
    attention = encoder.encode(media).attention
    weights, one = tiny_encoders.plain(tiny_encoders.QWEN).model.visual.state_dict(), encoder.processor.image_processor
    dense = dense_attention(weights, encoder.config.vision_config, media.frames, one.image_mean, one.image_std)
    held_against(attention, dense, windows(attention.grid[1], attention.grid[2], 4))


def even(name: str, media, limits) -> EncoderAttention:
    """What is added up where nothing is nearer to anything than anything else."""
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
                nothing = torch.zeros(1, encoder.spec.heads, int(count), size)
                if numbers is None:
                    nothing = nothing.expand(t, -1, -1, -1)
                accumulator.see(layer, nothing, nothing, nothing, None, 1.0, nothing)
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
def test_chance_is_what_even_attention_gives(name, media, limits):
    attention = even(name, media, limits)
    # In windows too, of whatever size: each of n patches gives each of n the n-th part.
    assert np.ptp(attention.received, axis=-1).max() < 1e-6
    for what, figure in statistics_of(attention).items():
        wanted = np.repeat(figure.chance[:, None], attention.head_count, axis=1)
        np.testing.assert_allclose(figure.values, wanted, rtol=1e-5, atol=1e-6, err_msg=what)


def sight_of(received: np.ndarray) -> EncoderAttention:
    """One layer and head of a sight, of whose rows nothing is known."""
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
    ("received", "wanted"),
    [
        ([1, 0, 0, 0], {"top10_share": 1, "tokens_50": 0.5, "tokens_90": 0.9}),
        ([0.25] * 4, {"top10_share": 1, "tokens_50": 2, "tokens_90": 3.6}),
        ([0.1, 0.5, 0.0, 0.4], {"top10_share": 1, "tokens_50": 1, "tokens_90": 2}),
        ([0.6, 0.3, 0.1], {"top10_share": 1, "tokens_50": 0.5 / 0.6, "tokens_90": 2}),
        ([0.02] * 10 + [0.04] * 20, {"top10_share": 0.4, "tokens_50": 12.5, "tokens_90": 25}),
    ],
    ids=str,
)
def test_how_it_gathers(received, wanted):
    found = statistics_of(sight_of(np.array(received)))
    for name, value in wanted.items():
        assert found[name].values.item() == pytest.approx(value, rel=1e-5)


def test_chance_of_a_few_tokens():
    found = statistics_of(sight_of(np.full(4, 0.25)))
    assert found["top10_share"].chance.tolist() == [1]
    found = statistics_of(sight_of(np.full(40, 1 / 40)))
    assert found["top10_share"].chance.tolist() == [0.25]
    assert found["tokens_50"].chance.tolist() == [20]


def test_every_figure_has_a_title():
    assert TITLES.keys() == {*FIGURES}


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
def test_what_is_no_attention_is_no_sight(wrong):
    right = sight_of(np.full(4, 0.25))
    with pytest.raises(ValueError, match=r"\w"):
        replace(right, **wrong)


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
    with pytest.raises(InputError, match="it has cls, patch, at_1"):
        attention.map("at_2", 0)


def test_even_is_of_the_tokens_that_a_patch_sees():
    """Of windows of unequal size, each patch's own; of all patches together the step, also in such layers."""
    window = np.array([0, 0, 1, 0, 0, 1], dtype=np.int64)
    attention = made_attention(
        (1, 2, 3), prefix=(), layers=2, window=window, full=[False, True], query_patches=np.array([4, 5])
    )
    assert [attention.even("at_1", 0), attention.even("at_2", 0)] == [1 / 4, 1 / 2]
    assert {attention.even(query, 1) for query in attention.queries} == {attention.even("patch", 0)} == {1 / 6}
    received = np.zeros((6, 6))
    for place in range(6):
        received[place, window == window[place]] = attention.even_at(place, 0)
    np.testing.assert_allclose(received.mean(axis=0), attention.even("patch", 0))
    assert made_attention((1, 2, 3)).even("cls", 0) == 1 / 8, "[CLS] and a register are seen, too"
