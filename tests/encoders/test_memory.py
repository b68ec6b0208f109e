"""The memory estimates, against real allocations, and what is refused before the weights are loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from qvl_attn.core.errors import MemoryLimitError
from qvl_attn.encoders import capture as capture_module
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.hidden_states import read_states
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.spec import held_bytes, pass_bytes, states_bytes
from tests.helpers import tiny_encoders

AT = ((45, 20), (70, 70), (60, 60))


@pytest.mark.parametrize(
    "media", [tiny_encoders.picture(150, 90), tiny_encoders.clip(84, 84, 6)], ids=["picture", "clip"]
)
@pytest.mark.parametrize("name", ["clip", "siglip", "registers", tiny_encoders.QWEN])
def test_held_bytes_is_what_is_allocated(name, media):
    encoder = tiny_encoders.encoder(name)
    inputs, query_patches = encoder.read(media, EncoderSettings(at=AT))
    order = capture_module.sequence_order(encoder.model, encoder.spec, inputs)
    accumulator = capture_module.Accumulator(encoder.spec, inputs, order, query_patches, torch.device("cpu"))
    device, host = held_bytes(encoder.spec, inputs.grid, len(query_patches))
    assert device == accumulator._received.nbytes + sum(sums.nbytes for sums in accumulator._sums.values())
    assert host == accumulator._rows.nbytes + (0 if accumulator._cls is None else accumulator._cls.nbytes)


@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "registers", tiny_encoders.QWEN])
def test_states_bytes_is_the_size_of_all_layers(name):
    encoder, sizes = tiny_encoders.encoder(name), []
    inputs, _ = encoder.read(tiny_encoders.clip(84, 84, 4), EncoderSettings())
    prefix = len(encoder.spec.prefix)
    read_states(encoder.model, encoder.spec, inputs, lambda layer, states: sizes.append(states[:, prefix:].numel() * 4))
    assert sum(sizes) == states_bytes(encoder.spec, encoder.config, inputs.grid)


@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "registers", tiny_encoders.QWEN])
def test_pass_bytes_is_a_lower_bound_of_a_layers_activations(name):
    """The outputs of a layer's linear maps and norms are of the size of the estimate."""
    encoder, sizes = tiny_encoders.encoder(name), []
    inputs, _ = encoder.read(tiny_encoders.picture(150, 90), EncoderSettings())
    layers = next(
        module
        for module in capture_module.encoder_of(encoder.model, encoder.spec).modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == encoder.spec.layers
    )
    hooks = [
        part.register_forward_hook(lambda module, args, output: sizes.append(output.nbytes))
        for part in layers[0].modules()
        if not list(part.children()) and isinstance(getattr(part, "weight", None), torch.Tensor)
    ]
    capture_module.run_encoder(encoder.model, encoder.spec, inputs)
    for hook in hooks:
        hook.remove()
    estimate = pass_bytes(encoder.spec, encoder.config, 4, inputs.grid)
    assert 0.5 * estimate < sum(sizes) < 3 * estimate


def test_what_cannot_fit_is_refused_before_the_weights_are_loaded(monkeypatch):
    encoder = EncoderEngine.load(str(tiny_encoders.folder("dino")), device="cpu", dtype="float32")
    picture, limits = tiny_encoders.picture(90, 80), EncoderSettings(at=AT)
    inputs, query_patches = encoder.read(picture, limits)
    needed = sum(held_bytes(encoder.spec, inputs.grid, len(query_patches))) + encoder.placement.weight_bytes
    needed += pass_bytes(encoder.spec, encoder.config, 4, inputs.grid)

    def set_available(count):
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=count))

    set_available(needed - 1)
    with pytest.raises(MemoryLimitError, match=r"encoding .* takes .* GiB or more on cpu, where .* are free") as caught:
        encoder.encode(picture, limits)
    assert caught.value.hint == "lower `max_pixels`"
    assert "model" not in vars(encoder)
    set_available(needed)
    encoder.encode(picture, limits)
    set_available(needed - encoder.placement.weight_bytes)  # they are loaded now
    encoder.encode(picture, limits)
    set_available(needed - encoder.placement.weight_bytes - 1)
    with pytest.raises(MemoryLimitError):
        encoder.encode(picture, limits)


def test_for_a_clip_in_chunks_held_states_count_and_other_chunks_do_not(monkeypatch):
    encoder = tiny_encoders.encoder("clip")
    clip = tiny_encoders.clip(84, 84, 8)
    inputs, _ = encoder.read(clip, EncoderSettings())
    monkeypatch.setattr(capture_module, "TOKENS_AT_ONCE", 60)
    needed = sum(held_bytes(encoder.spec, (8, 5, 5), 0)) + pass_bytes(encoder.spec, encoder.config, 4, (2, 5, 5))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=needed))
    encoder.read(clip, EncoderSettings())
    with pytest.raises(MemoryLimitError) as caught:
        encoder.read(clip, EncoderSettings(embeddings=("pca",)))
    assert caught.value.hint == "lower `max_pixels` or `max_frames`"
    needed += states_bytes(encoder.spec, encoder.config, inputs.grid)
    encoder.read(clip, EncoderSettings(embeddings=("pca",)))
