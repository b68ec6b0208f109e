"""The rows of single patches that a page can show: against plain attention, evenly laid, no more than there is room."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_attn.encoders import capture
from qvl_attn.encoders.capture import even_places
from qvl_attn.encoders.record import EncoderSettings
from tests.encoders.test_capture import SHOWN, plain_attention
from tests.helpers import tiny_encoders
from tests.helpers.reference_tower import dense_attention

QWEN_AT = ((75.0, 30.0),)


def held_against(found, dense: np.ndarray, tolerance: float) -> None:
    """The kept rows of a look against (L, H, t, T, T) attention."""
    t, h, w = found.attention.grid
    prefix = len(found.attention.prefix)
    want = dense.mean(axis=1)[:, :, prefix + found.patch_row_places, prefix:].swapaxes(1, 2)
    assert found.patch_rows.dtype == np.float32
    assert found.patch_rows.shape == (len(dense), len(found.patch_row_places), t, h, w)
    assert np.abs(found.patch_rows - want.reshape(found.patch_rows.shape)).max() < tolerance
    assert np.ptp(want, axis=-1).min() > 1e-3, "nothing is held against nothing"


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shown", ["square", "landscape", "clip"])
@pytest.mark.parametrize("name", ["clip", "siglip", "registers"])
def test_they_are_the_mean_over_the_heads_of_plain_eager(name, shown, sparse, monkeypatch):
    media, limits = SHOWN[shown]
    encoder = tiny_encoders.encoder(name)
    inputs, _ = encoder.read(media, EncoderSettings(**limits))
    t, h, w = inputs.grid
    if sparse:
        monkeypatch.setattr(capture, "GRID_VALUES", encoder.spec.layers * t * (h * w) ** 2 * 2 // 3)
    monkeypatch.setattr(capture, "BLOCK_BYTES", 4 * 4 * 30 * 7)  # some rows at a time
    found = encoder.encode(media, EncoderSettings(**limits))
    assert (len(found.patch_row_places) < h * w) == sparse
    held_against(found, plain_attention(name, inputs), 1e-6)


@pytest.mark.parametrize("room", [10**6, 8 * 60 * 3 * 4])
@pytest.mark.parametrize("frames", [1, 5])
def test_those_of_qwens_tower_whose_patches_stand_in_another_order(frames, room, monkeypatch):
    monkeypatch.setattr(capture, "GRID_VALUES", room)
    encoder = tiny_encoders.encoder(tiny_encoders.QWEN)
    media = tiny_encoders.picture(140, 84) if frames == 1 else tiny_encoders.clip(140, 84, frames)
    weights = tiny_encoders.plain(tiny_encoders.QWEN).model.visual.state_dict()
    one = encoder.processor.image_processor
    dense = dense_attention(weights, encoder.config.vision_config, media.frames, one.image_mean, one.image_std)
    found = encoder.encode(media)
    assert found.patch_row_places is not None
    assert (len(found.patch_row_places) < 60) == (room < 10**6)
    held_against(found, dense, 5e-6)


def test_asked_places_have_the_same_rows():
    found = tiny_encoders.encoder("clip").encode(tiny_encoders.picture(120, 118), EncoderSettings(at=((60.0, 60.0),)))
    place = found.patch_row_places.tolist().index(found.attention.query_patches[0])
    want = found.attention.maps("at_1").mean(axis=1)
    np.testing.assert_allclose(found.patch_rows[:, place], want, atol=1e-7)


@pytest.mark.parametrize("grid", [(1, 24, 24), (1, 37, 37), (1, 5, 9), (1, 1, 12), (3, 16, 9), (1, 60, 80)], ids=str)
@pytest.mark.parametrize("most", [4, 9, 50, 97, 300, 10**6])
def test_places_lie_evenly_and_fit(grid, most):
    _, h, w = grid
    places = even_places(grid, most)
    assert 1 <= len(places) <= most
    rows, columns = np.unique(places // w), np.unique(places % w)
    assert places.tolist() == [row * w + column for row in rows for column in columns]
    steps = [int(np.diff(one)[0]) if len(one) > 1 else size for one, size in ((rows, h), (columns, w))]
    for one, size, step in ((rows, h, steps[0]), (columns, w, steps[1])):
        assert (np.diff(one) == step).all()
        assert one[0] < step, "none is left out at the near edge"
        assert size - 1 - one[-1] < step, "nor at the far one"
        assert abs(one[0] - (size - 1 - one[-1])) <= 1, "in the middle"
    if h * w <= most:
        assert len(places) == h * w
    else:
        finer = max(steps[0], 1) * max(steps[1], 1)
        assert h * w / finer <= most * 4, "not far fewer than there is room for"


def test_where_not_even_four_fit_there_are_none(monkeypatch):
    assert len(even_places((1, 24, 24), 3)) == 0
    monkeypatch.setattr(capture, "GRID_VALUES", 100)
    found = tiny_encoders.encoder("clip").encode(tiny_encoders.picture(120, 118))
    assert found.patch_rows is None
    assert found.patch_row_places is None
