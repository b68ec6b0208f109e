"""The captured attention, against transformers' eager attention and a reference of Qwen2.5-VL's tower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from qvl_attn.core.errors import CaptureError
from qvl_attn.encoders import capture as capture_module
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.capture import capture_attention, run_encoder
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.inputs import read_inputs
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.spec import QWEN, spec_of
from qvl_attn.model.capture import keep_encoder_states
from tests.helpers import tiny_encoders
from tests.helpers.reference_tower import dense_attention, windows

# By name: the media and the settings.
MEDIA = {
    "square": (tiny_encoders.picture(120, 118), {}),
    "landscape": (tiny_encoders.picture(190, 100), {"max_pixels": 7000}),
    "portrait": (tiny_encoders.picture(64, 201), {"min_pixels": 3000, "max_pixels": 9000}),
    "clip": (tiny_encoders.clip(96, 80, 3), {}),
    "oblong clip": (tiny_encoders.clip(140, 84, 2), {"max_pixels": 12000}),
}


def plain_attention(name: str, inputs) -> np.ndarray:
    """Return the attention of the whole model as transformers runs it: (L, H, t, T, T)."""
    model, pixels = tiny_encoders.plain(name), inputs.tensors["pixel_values"]
    kwargs = {} if "dinov2" in model.config.model_type else {"interpolate_pos_encoding": inputs.interpolate}
    if name in tiny_encoders.WITH_TEXT:
        kwargs["input_ids"] = torch.tensor([[0, 3, 4, 1]])
    with torch.no_grad():
        output = model(pixel_values=pixels, output_attentions=True, **kwargs)
    if name in tiny_encoders.WITH_TEXT:
        output = output.vision_model_output
    return torch.stack(output.attentions).transpose(1, 2).numpy()


def far_from_uniform(attention: np.ndarray) -> bool:
    return bool((attention.max(axis=-1) > 3 / attention.shape[-1]).mean() > 0.5)


def compare_with_dense(attention, dense: np.ndarray, tolerance: float = 1e-6) -> None:
    """Compare captured attention with dense attention (L, H, t, T, T)."""
    assert far_from_uniform(dense)
    R = len(attention.prefix)
    pairs = {"received": (attention.received, dense[..., R:, :].mean(axis=-2))}
    if attention.prefix[:1] == ("cls",):
        pairs["cls"] = (attention.cls, dense[..., 0, :])
    for i, place in enumerate(attention.query_patches):
        pairs[f"rows {i}"] = (attention.rows[:, :, i], dense[..., R + place, :])
    for name, (ours, theirs) in pairs.items():
        assert ours.shape == theirs.shape, name
        assert np.abs(ours - theirs).max() < tolerance, name


@pytest.mark.parametrize("shape", MEDIA)
@pytest.mark.parametrize("name", tiny_encoders.SPECS)
def test_attention_is_that_of_plain_eager(name, shape):
    media, limits = MEDIA[shape]
    encoder = tiny_encoders.encoder(name)
    inputs, _ = encoder.read(media, EncoderSettings(**limits))
    t, h, w = inputs.grid
    assert t == len(media.frames)
    assert (h < w, h > w) == {"landscape": (True, False), "oblong clip": (True, False), "portrait": (False, True)}.get(
        shape, (False, False)
    )
    attention = capture_attention(encoder.model, encoder.spec, inputs, (1, w + 2, h * w - 1))
    assert attention.grid == (t, h, w)
    assert attention.query_patches.tolist() == [1, w + 2, h * w - 1]
    compare_with_dense(attention, plain_attention(name, inputs))


@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "registers"])
def test_the_prefix_has_its_roles(name):
    attention = tiny_encoders.encoder(name).encode(tiny_encoders.picture(90, 90)).attention
    cls, registers = name != "siglip", tiny_encoders.REGISTERS if name == "registers" else 0
    assert attention.prefix == ("cls",) * cls + ("register",) * registers
    assert (attention.cls is not None) == cls
    assert attention.queries == (("cls", "patch") if cls else ("patch",))


def last_states(model, spec, inputs) -> torch.Tensor:
    with torch.inference_mode():
        return run_encoder(model, spec, inputs).last_hidden_state


@pytest.mark.parametrize("name", tiny_encoders.NAMES)
def test_capturing_changes_nothing(name):
    encoder = tiny_encoders.encoder(name)
    inputs, _ = encoder.read(tiny_encoders.picture(131, 90), EncoderSettings())
    before = [config._attn_implementation for config in _configs(encoder.model)]
    unobserved = last_states(encoder.model, encoder.spec, inputs)
    with keep_encoder_states(encoder.model, SimpleNamespace(observe=lambda *_: None)):
        observed = last_states(encoder.model, encoder.spec, inputs)
    assert torch.equal(unobserved, observed)
    capture_attention(encoder.model, encoder.spec, inputs)
    assert [config._attn_implementation for config in _configs(encoder.model)] == before
    assert torch.equal(unobserved, last_states(encoder.model, encoder.spec, inputs))


def _configs(model):
    return {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}.values()


# (width, height) for Qwen2.5-VL, whose windows are four patches a side: whole windows, cut columns, cut rows, or both.
SIZES = [(112, 112), (140, 112), (112, 168), (196, 84), (84, 252)]


def compare_with_reference(media, at) -> EncoderAttention:
    """Compare the attention in float32 with the reference, and exactly that of a tower in float64."""
    encoder = tiny_encoders.encoder(tiny_encoders.QWEN)
    weights = tiny_encoders.plain(tiny_encoders.QWEN).model.visual.state_dict()
    processor, config = encoder.processor.image_processor, encoder.config.vision_config
    dense = dense_attention(weights, config, media.frames, processor.image_mean, processor.image_std)
    inputs, query_patches = encoder.read(media, EncoderSettings(at=at))
    compare_with_dense(capture_attention(exact_tower(), encoder.spec, inputs, query_patches), dense)
    attention = encoder.encode(media, EncoderSettings(at=at)).attention
    compare_with_dense(attention, dense, 5e-6)
    return attention


@cache
def exact_tower():
    return deepcopy(tiny_encoders.encoder(tiny_encoders.QWEN).model).double()


@pytest.mark.parametrize("size_px", SIZES, ids=str)
def test_qwens_tower_is_that_of_the_reference(size_px):
    w, h = size_px[0] // 14, size_px[1] // 14
    places = (0, w + 1, (h - 1) * w, h * w - 1, (h // 2) * w + w // 2)
    at = [(14 * (place % w) + 3.0, 14 * (place // w) + 12.0) for place in places]
    attention = compare_with_reference(tiny_encoders.picture(*size_px, seed=sum(size_px)), tuple(at))
    assert attention.grid == (1, h, w)
    assert attention.query_patches.tolist() == [*places]


@pytest.mark.parametrize("frames", [2, 5])
def test_qwens_tower_on_a_clip(frames):
    attention = compare_with_reference(tiny_encoders.clip(140, 84, frames), ((75.0, 30.0),))
    assert attention.grid == (-(-frames // 2), 6, 10)
    assert attention.query_patches.tolist() == [2 * 10 + 5]


def test_pictures_one_after_another_do_not_mix():
    for size_px in (SIZES[3], SIZES[1], SIZES[3]):
        compare_with_reference(tiny_encoders.picture(*size_px, seed=5), ())


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 4), (4, 3), (5, 9), (2, 7), (5, 0)])
def test_a_painted_patch_is_found_where_it_was_painted(row, column):
    """In the first layer the content of a patch changes its own key; other keys only change their normalised share."""
    encoder, w, h = tiny_encoders.encoder(tiny_encoders.QWEN), 10, 6
    image = tiny_encoders.pixels(w * 14, h * 14)[0]
    painted = image.copy()
    painted[row * 14 : row * 14 + 14, column * 14 : column * 14 + 14] = 255 - image[row * 14, column * 14]
    own = windows(h, w, 4)
    mates = np.flatnonzero(own == own[row * w + column])
    query = next(place for place in mates if place != row * w + column)
    at = ((14.0 * (query % w) + 7, 14.0 * (query // w) + 7),)
    before, after = (
        encoder.encode(tiny_encoders.picture_of(pixels), EncoderSettings(at=at)) for pixels in (image, painted)
    )
    rows = [result.attention.rows[0, :, 0, 0] for result in (before, after)]
    assert all((np.flatnonzero(heads.min(axis=0)) == mates).all() for heads in rows)
    moved = np.log(rows[1][:, mates]) - np.log(rows[0][:, mates])
    others = np.delete(moved, np.flatnonzero(mates == row * w + column), axis=1)
    assert np.ptp(others, axis=1).max() < 1e-4
    assert (np.abs(moved[:, mates == row * w + column][:, 0] - others.mean(axis=1)) > 1e-2).any()
    # The attention that patches of other windows receive does not change at all.
    changed = np.flatnonzero((before.attention.received[0] != after.attention.received[0]).any(axis=(0, 1)))
    assert set(changed) <= set(mates)
    assert row * w + column in changed
    differs = (before.reconstruction != after.reconstruction).any(axis=-1)[0]
    assert differs[row * 14 : row * 14 + 14, column * 14 : column * 14 + 14].mean() > 0.5
    assert not np.delete(differs, slice(row * 14, row * 14 + 14), axis=0).any()
    assert not np.delete(differs, slice(column * 14, column * 14 + 14), axis=1).any()


def test_only_full_layers_attend_beyond_the_window():
    attention = tiny_encoders.encoder(tiny_encoders.QWEN).encode(tiny_encoders.picture(196, 84)).attention
    assert attention.full.tolist() == [False, False, True, False]
    own = windows(6, 14, 4)
    assert (np.unique(own, return_inverse=True)[1] == np.unique(attention.window, return_inverse=True)[1]).all()
    shares = attention.window_share[:, :, 0]
    assert np.abs(shares[~attention.full] - 1).max() < 1e-6
    assert shares[attention.full].max() < 0.9


class LargestTensor(TorchDispatchMode):
    """Records the number of values of the largest tensor inside the `with` block."""

    values = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.untyped_storage().nbytes() // tensor.element_size())
        return output


@pytest.mark.parametrize("name", ["dino", "siglip", tiny_encoders.QWEN])
def test_no_matrix_of_all_patches_is_ever_held(name, monkeypatch):
    encoder, media = tiny_encoders.encoder(name), tiny_encoders.picture(600, 392)
    inputs, _ = encoder.read(media, EncoderSettings(max_pixels=600 * 392))
    P = inputs.grid[1] * inputs.grid[2]
    assert P > 800
    row, largest = encoder.spec.heads * (P + 8), {}
    with LargestTensor() as watch, torch.inference_mode():
        run_encoder(encoder.model, encoder.spec, inputs)
    unobserved = watch.values
    for rows in (16, P):
        monkeypatch.setattr(capture_module, "BLOCK_BYTES", 4 * row * rows)
        with LargestTensor() as watch:
            capture_attention(encoder.model, encoder.spec, inputs, (7,))
        largest[rows] = watch.values
    assert largest[P] >= encoder.spec.heads * P**2, "the mode records nothing"
    assert 16 * row < unobserved < encoder.spec.heads * P**2 / 2
    assert largest[16] == unobserved, "the run itself has the largest tensor"


@pytest.mark.parametrize("name", ["clip", "registers", tiny_encoders.QWEN])
def test_how_many_rows_are_held_changes_no_number(name, monkeypatch):
    encoder = tiny_encoders.encoder(name)
    media = tiny_encoders.clip(140, 84, 3)
    inputs, _ = encoder.read(media, EncoderSettings())
    T = len(encoder.spec.prefix) + inputs.grid[1] * inputs.grid[2]
    attentions = []
    for size in (capture_module.BLOCK_BYTES, 1, 4 * encoder.spec.heads * T * 7):
        monkeypatch.setattr(capture_module, "BLOCK_BYTES", size)
        attentions.append(capture_attention(encoder.model, encoder.spec, inputs, (3, 11)))
    for field in ("received", "cls", "rows", "distance_px", "entropy_bits", "window_share"):
        first, *others = (getattr(attention, field) for attention in attentions)
        for values in others:
            if first is None:
                assert values is None
            else:
                np.testing.assert_allclose(values, first, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["clip", "dinov2", "siglip", tiny_encoders.QWEN])
def test_sixteen_bits(name):
    encoder = tiny_encoders.encoder(name, "bfloat16")
    assert encoder.model.dtype == torch.bfloat16
    media, at = tiny_encoders.picture(112, 112), ((50.0, 40.0),)
    attention = encoder.encode(media, EncoderSettings(at=at)).attention
    exact = tiny_encoders.encoder(name).encode(media, EncoderSettings(at=at)).attention
    assert attention.rows.dtype == attention.received.dtype == np.float32
    # The softmax is in float32: rows sum to one far more exactly than in 16 bits.
    assert np.abs(attention.rows.sum(axis=-1) - 1).max() < 1e-5
    assert np.abs(attention.received[0] - exact.received[0]).mean() < 0.05 * exact.received[0].mean()
    assert (attention.received != exact.received).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["clip", "dinov2", tiny_encoders.QWEN])
def test_weights_that_are_not_finite(name, value):
    encoder = EncoderEngine.load(str(tiny_encoders.folder(name)), device="cpu", dtype="float32")
    weights = next(weight for key, weight in encoder.model.named_parameters() if "patch_embed" in key)
    with torch.no_grad():
        weights.view(-1)[0] = value
    with pytest.raises(CaptureError, match="not finite"):
        encoder.encode(tiny_encoders.picture(112, 112))


def test_what_does_not_attend_as_its_family_does_is_refused():
    encoder = tiny_encoders.encoder("clip")
    inputs, _ = encoder.read(tiny_encoders.picture(112, 112), EncoderSettings())
    for wrong, words in (
        (replace(encoder.spec, layers=2, full=(True,) * 2), "does not attend as its family does"),
        (replace(encoder.spec, layers=4, full=(True,) * 4), "the attention of some layers or patches was not captured"),
        (replace(encoder.spec, prefix=()), "has 26 tokens, expected 25"),
    ):
        with pytest.raises(CaptureError, match=words):
            capture_attention(encoder.model, wrong, inputs)


def test_other_windows_than_qwens_are_refused():
    encoder = tiny_encoders.encoder(tiny_encoders.QWEN)
    inputs, _ = encoder.read(tiny_encoders.picture(196, 112), EncoderSettings())
    for wrong in (
        replace(encoder.spec, window_px=84),
        replace(encoder.spec, window_px=112),
        replace(encoder.spec, full=(False, False, False, False)),
        replace(encoder.spec, full=(True, False, True, False)),
    ):
        with pytest.raises(CaptureError, match=r"does not attend within the windows of Qwen2\.5-VL"):
            capture_attention(encoder.model, wrong, inputs)


PEAK = """
import resource, sys
import psutil
from tests.helpers import tiny_encoders
from qvl_attn.encoders.record import EncoderSettings
name, side = sys.argv[1], int(sys.argv[2])
encoder = tiny_encoders.encoder(name)
encoder.encode(tiny_encoders.picture(140, 140))
media, before = tiny_encoders.picture(side, side), psutil.Process().memory_info().rss
patches = encoder.encode(media, EncoderSettings(max_pixels=side * side)).attention.received.shape[-1]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(patches, encoder.spec.heads, peak - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dino", tiny_encoders.QWEN])
def test_the_peak_is_far_below_a_matrix_of_all_patches(name):
    paths = str(Path(capture_module.__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", PEAK, name, "1400"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    patches, heads, peak = (int(word) for word in run.stdout.split())
    assert patches >= 98**2
    assert peak < 6 * capture_module.BLOCK_BYTES + 150 * 2**20
    assert peak < heads * patches**2 * 4 / 2


@pytest.mark.slow
def test_the_geometry_of_the_3b(shared_data):
    """The real width, heads, windows and patches, with eight of its layers, one of them full."""
    config = Qwen2_5_VLConfig(**json.loads((shared_data / "tokenizer" / "3B" / "config.json").read_text()))
    config.vision_config.depth = 8
    assert [layer for layer in config.vision_config.fullatt_block_indexes if layer < 8] == [7]
    tower = tiny_encoders.randomize(Qwen2_5_VisionTransformerPretrainedModel(config.vision_config).float())
    tower.set_attn_implementation("sdpa")
    encoder = tiny_encoders.encoder(tiny_encoders.QWEN)
    spec = spec_of(config, QWEN, encoder.spec.model_class)
    assert (spec.window_px, spec.heads, spec.layers) == (112, 16, 8)
    media = tiny_encoders.picture(336, 252)
    inputs = read_inputs(spec, encoder.processor, media)
    attention = capture_attention(tower, spec, inputs, (0, 100, 431))
    processor, weights = encoder.processor.image_processor, tower.state_dict()
    dense = dense_attention(weights, config.vision_config, media.frames, processor.image_mean, processor.image_std)
    compare_with_dense(attention, dense, 1e-5)


@pytest.mark.parametrize("name", ["registers", tiny_encoders.QWEN])
@pytest.mark.parametrize("tokens", [60, capture_module.TOKENS_AT_ONCE])
@pytest.mark.parametrize("method", ["encode", "pooled"])
def test_progress_counts_layers(name, tokens, method, monkeypatch):
    monkeypatch.setattr(capture_module, "TOKENS_AT_ONCE", tokens)
    encoder, calls = tiny_encoders.encoder(name), []
    L = encoder.spec.layers
    getattr(encoder, method)(tiny_encoders.clip(84, 84, 6), EncoderSettings(), lambda *call: calls.append(call))
    assert {(stage, total) for stage, _, total in calls} == {("encoding", L)}
    done = [count for _, count, _ in calls]
    assert done == sorted(done)
    assert {*done} == {*range(L + 1)}
    assert (done.count(0), done.count(L)) == (1, 1)
