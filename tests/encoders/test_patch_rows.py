"""The rows of single patches for the page: against plain attention, evenly spaced, and not too many."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_attn.encoders import capture
from qvl_attn.encoders.capture import evenly_spaced_places
from qvl_attn.encoders.record import EncoderSettings
from tests.encoders.test_capture import MEDIA, plain_attention
from tests.helpers import tiny_encoders
from tests.helpers.reference_tower import dense_attention

QWEN_AT = ((75.0, 30.0),)


def compare_with_dense(result, dense: np.ndarray, tolerance: float) -> None:
    """Compare the patch rows of a result with (L, H, t, T, T) attention."""
    t, h, w = result.attention.grid
    prefix = len(result.attention.prefix)
    expected = dense.mean(axis=1)[:, :, prefix + result.patch_row_places, prefix:].swapaxes(1, 2)
    assert result.patch_rows.dtype == np.float32
    assert result.patch_rows.shape == (len(dense), len(result.patch_row_places), t, h, w)
    assert np.abs(result.patch_rows - expected.reshape(result.patch_rows.shape)).max() < tolerance
    assert np.ptp(expected, axis=-1).min() > 1e-3, "rows are not constant"


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", ["square", "landscape", "clip"])
@pytest.mark.parametrize("name", ["clip", "siglip", "registers"])
def test_rows_are_the_mean_over_the_heads_of_plain_eager(name, shape, sparse, monkeypatch):
    media, limits = MEDIA[shape]
    encoder = tiny_encoders.encoder(name)
    inputs, _ = encoder.read(media, EncoderSettings(**limits))
    t, h, w = inputs.grid
    if sparse:
        monkeypatch.setattr(capture, "GRID_VALUES", encoder.spec.layers * t * (h * w) ** 2 * 2 // 3)
    monkeypatch.setattr(capture, "BLOCK_BYTES", 4 * 4 * 30 * 7)  # a few rows at a time
    result = encoder.encode(media, EncoderSettings(**limits))
    assert (len(result.patch_row_places) < h * w) == sparse
    compare_with_dense(result, plain_attention(name, inputs), 1e-6)


@pytest.mark.parametrize("most", [10**6, 8 * 60 * 3 * 4])
@pytest.mark.parametrize("frames", [1, 5])
def test_rows_of_qwens_tower_which_orders_patches_differently(frames, most, monkeypatch):
    monkeypatch.setattr(capture, "GRID_VALUES", most)
    encoder = tiny_encoders.encoder(tiny_encoders.QWEN)
    media = tiny_encoders.picture(140, 84) if frames == 1 else tiny_encoders.clip(140, 84, frames)
    weights = tiny_encoders.plain(tiny_encoders.QWEN).model.visual.state_dict()
    processor, config = encoder.processor.image_processor, encoder.config.vision_config
    dense = dense_attention(weights, config, media.frames, processor.image_mean, processor.image_std)
    result = encoder.encode(media)
    assert result.patch_row_places is not None
    assert (len(result.patch_row_places) < 60) == (most < 10**6)
    compare_with_dense(result, dense, 5e-6)


def test_query_patches_have_the_same_rows():
    result = tiny_encoders.encoder("clip").encode(tiny_encoders.picture(120, 118), EncoderSettings(at=((60.0, 60.0),)))
    place = result.patch_row_places.tolist().index(result.attention.query_patches[0])
    expected = result.attention.maps("at_1").mean(axis=1)
    np.testing.assert_allclose(result.patch_rows[:, place], expected, atol=1e-7)


@pytest.mark.parametrize("grid", [(1, 24, 24), (1, 37, 37), (1, 5, 9), (1, 1, 12), (3, 16, 9), (1, 60, 80)], ids=str)
@pytest.mark.parametrize("most", [4, 9, 50, 97, 300, 10**6])
def test_places_are_evenly_spaced_and_fit(grid, most):
    _, h, w = grid
    places = evenly_spaced_places(grid, most)
    assert 1 <= len(places) <= most
    rows, columns = np.unique(places // w), np.unique(places % w)
    assert places.tolist() == [row * w + column for row in rows for column in columns]
    steps = [int(np.diff(axis)[0]) if len(axis) > 1 else size for axis, size in ((rows, h), (columns, w))]
    for axis, size, step in ((rows, h, steps[0]), (columns, w, steps[1])):
        assert (np.diff(axis) == step).all()
        assert axis[0] < step, "none is left out at the near edge"
        assert size - 1 - axis[-1] < step, "nor at the far one"
        assert abs(axis[0] - (size - 1 - axis[-1])) <= 1, "centred"
    if h * w <= most:
        assert len(places) == h * w
    else:
        finer = max(steps[0], 1) * max(steps[1], 1)
        assert h * w / finer <= most * 4, "not far fewer than fit"


def test_there_are_none_if_four_do_not_fit(monkeypatch):
    assert len(evenly_spaced_places((1, 24, 24), 3)) == 0
    monkeypatch.setattr(capture, "GRID_VALUES", 100)
    result = tiny_encoders.encoder("clip").encode(tiny_encoders.picture(120, 118))
    assert result.patch_rows is None
    assert result.patch_row_places is None
