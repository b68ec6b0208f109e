"""What a look is said to take: against what is really allocated, and what is refused before the weights are loaded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from qvl_attn.core.errors import MemoryLimitError
from qvl_attn.encoder import Encoder
from qvl_attn.encoders import capture as look_room
from qvl_attn.encoders.hidden_states import read_states
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.spec import held_bytes, pass_bytes, states_bytes
from tests.helpers import tiny_encoders

AT = ((45, 20), (70, 70), (60, 60))


@pytest.mark.parametrize(
    "shown", [tiny_encoders.picture(150, 90), tiny_encoders.clip(84, 84, 6)], ids=["picture", "clip"]
)
@pytest.mark.parametrize("name", ["clip", "siglip", "registers", tiny_encoders.QWEN])
def test_what_is_held_is_what_is_allocated(name, shown):
    encoder = tiny_encoders.encoder(name)
    inputs, asked = encoder.read(shown, EncoderSettings(at=AT))
    order = look_room.sequence_order(encoder.model, encoder.spec, inputs)
    accumulator = look_room.Accumulator(encoder.spec, inputs, order, asked, torch.device("cpu"))
    device, host = held_bytes(encoder.spec, inputs.grid, len(asked))
    assert device == accumulator._received.nbytes + sum(one.nbytes for one in accumulator._sums.values())
    assert host == accumulator._rows.nbytes + (0 if accumulator._cls is None else accumulator._cls.nbytes)


@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "registers", tiny_encoders.QWEN])
def test_the_states_of_all_layers_are_as_large_as_is_said(name):
    encoder, sizes = tiny_encoders.encoder(name), []
    inputs, _ = encoder.read(tiny_encoders.clip(84, 84, 4), EncoderSettings())
    prefix = len(encoder.spec.prefix)
    read_states(encoder.model, encoder.spec, inputs, lambda layer, states: sizes.append(states[:, prefix:].numel() * 4))
    assert sum(sizes) == states_bytes(encoder.spec, encoder.config, inputs.grid)


@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "registers", tiny_encoders.QWEN])
def test_a_layer_hands_no_less_than_is_said_from_module_to_module(name):
    """A floor: what a layer's linear maps and norms give is at least what is said to be there at once."""
    encoder, given = tiny_encoders.encoder(name), []
    inputs, _ = encoder.read(tiny_encoders.picture(150, 90), EncoderSettings())
    layers = next(
        one
        for one in look_room.encoder_of(encoder.model, encoder.spec).modules()
        if isinstance(one, torch.nn.ModuleList) and len(one) == encoder.spec.layers
    )
    hooks = [
        one.register_forward_hook(lambda module, args, output: given.append(output.nbytes))
        for one in layers[0].modules()
        if not list(one.children()) and isinstance(getattr(one, "weight", None), torch.Tensor)
    ]
    look_room.run_encoder(encoder.model, encoder.spec, inputs)
    for hook in hooks:
        hook.remove()
    said = pass_bytes(encoder.spec, encoder.config, 4, inputs.grid)
    assert 0.5 * said < sum(given) < 3 * said


def test_what_cannot_fit_is_refused_before_the_weights_are_loaded(monkeypatch):
    encoder = Encoder.load(str(tiny_encoders.folder("dino")), device="cpu", dtype="float32")
    picture, limits = tiny_encoders.picture(90, 80), EncoderSettings(at=AT)
    inputs, asked = encoder.read(picture, limits)
    wanted = sum(held_bytes(encoder.spec, inputs.grid, len(asked))) + encoder.placement.weight_bytes
    wanted += pass_bytes(encoder.spec, encoder.config, 4, inputs.grid)

    def leave(count):
        monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=count))

    leave(wanted - 1)
    with pytest.raises(MemoryLimitError, match=r"looking at .* takes .* GiB or more on cpu, where .* are free") as e:
        encoder.encode(picture, limits)
    assert e.value.hint == "lower --max-pixels"
    assert "model" not in vars(encoder)
    leave(wanted)
    encoder.encode(picture, limits)
    leave(wanted - encoder.placement.weight_bytes)  # they are there now
    encoder.encode(picture, limits)
    leave(wanted - encoder.placement.weight_bytes - 1)
    with pytest.raises(MemoryLimitError):
        encoder.encode(picture, limits)


def test_of_a_long_clip_the_states_that_are_held_count_and_the_parts_do_not(monkeypatch):
    encoder = tiny_encoders.encoder("clip")
    clip = tiny_encoders.clip(84, 84, 8)
    inputs, _ = encoder.read(clip, EncoderSettings())
    monkeypatch.setattr(look_room, "TOKENS_AT_ONCE", 60)
    wanted = sum(held_bytes(encoder.spec, (8, 5, 5), 0)) + pass_bytes(encoder.spec, encoder.config, 4, (2, 5, 5))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=wanted))
    encoder.read(clip, EncoderSettings())
    with pytest.raises(MemoryLimitError) as e:
        encoder.read(clip, EncoderSettings(embeddings=("pca",)))
    assert e.value.hint == "lower --max-pixels or --max-frames"
    wanted += states_bytes(encoder.spec, encoder.config, inputs.grid)
    encoder.read(clip, EncoderSettings(embeddings=("pca",)))
