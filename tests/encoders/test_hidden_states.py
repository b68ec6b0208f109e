"""Hidden states by layer in the picture's order, against plain transformers; similarities and pooled vectors."""

from __future__ import annotations

import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qvl_attn.core.errors import CaptureError, InputError
from qvl_attn.encoders import capture as capture_module
from qvl_attn.encoders import hidden_states as states_module
from qvl_attn.encoders.embedding import project_pca, project_tsne
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.hidden_states import read_states
from qvl_attn.encoders.record import EncoderSettings
from tests.helpers import tiny_encoders

OBLONG = EncoderSettings(max_pixels=70 * 70)  # not square: position embeddings are interpolated
ALL = sorted(tiny_encoders.NAMES)


def states_of(name, media, settings=OBLONG):
    encoder = tiny_encoders.encoder(name)
    inputs, _ = encoder.read(media, settings)
    by_layer = {}
    read_states(encoder.model, encoder.spec, inputs, lambda layer, states: by_layer.update({layer: states.clone()}))
    return inputs, by_layer


def plain_output(name, inputs):
    """Return the plain transformers encoder and its output with all hidden states."""
    model = tiny_encoders.plain(name)
    pixels = inputs.tensors["pixel_values"]
    with torch.no_grad():
        if name == tiny_encoders.QWEN:
            return model.model.visual, model.model.visual(
                pixels, grid_thw=inputs.tensors["grid_thw"], output_hidden_states=True
            )
        tower = model
        for inner in ("vision_model", "vit", "dinov2", "dinov2_with_registers"):
            tower = getattr(model, inner, tower)
        kwargs = {} if "dinov2" in type(tower).__name__.lower() else {"interpolate_pos_encoding": True}
        return tower, tower(pixels, output_hidden_states=True, **kwargs)


def final_norm(tower):
    """Return the norm between the last layer and `last_hidden_state`; for CLIP the identity."""
    if "CLIP" in type(tower).__name__:
        return torch.nn.Identity()
    return tower.layernorm if hasattr(tower, "layernorm") else tower.post_layernorm


@pytest.mark.parametrize("name", tiny_encoders.SPECS)
def test_states_are_those_of_plain_transformers(name):
    inputs, by_layer = states_of(name, tiny_encoders.picture(98, 60))
    assert inputs.grid[1] != inputs.grid[2]
    tower, out = plain_output(name, inputs)
    assert list(by_layer) == list(range(-1, tiny_encoders.LAYERS))
    # The last of transformers' hidden states may be taken after the final norm; the others are always before it.
    for layer in range(-1, tiny_encoders.LAYERS - 1):
        torch.testing.assert_close(by_layer[layer], out.hidden_states[layer + 1], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        last = final_norm(tower)(by_layer[tiny_encoders.LAYERS - 1])
    torch.testing.assert_close(last, out.last_hidden_state, atol=1e-5, rtol=1e-5)


def embedded_in_picture_order(tower, media, processor, size_px):
    """Return each patch's embedding before the first layer, computed from the normalised picture row by row.

    It has no position, so it does not depend on the order of patches in the processor and the tower.
    """
    frames = torch.from_numpy(media.frames).permute(0, 3, 1, 2).float()
    assert tuple(frames.shape[2:]) == size_px
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    values = (frames / 255 - mean) / std
    if len(values) % 2:
        values = torch.cat([values, values[-1:]])
    steps = values.view(-1, 2, *values.shape[1:]).transpose(1, 2)  # (t, 3, 2, H, W)
    with torch.no_grad():
        embedded = torch.nn.functional.conv3d(steps, tower.patch_embed.proj.weight, stride=(2, 14, 14))
    return embedded.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    ("media", "kind"), [(tiny_encoders.picture(140, 84), "image"), (tiny_encoders.clip(140, 84, 4), "video")]
)
def test_states_of_qwen_lie_in_picture_order(media, kind):
    inputs, by_layer = states_of(tiny_encoders.QWEN, media, EncoderSettings())
    t, h, w = inputs.grid
    assert (h, w) == (6, 10)
    assert t == (1 if kind == "image" else 2)
    tower, out = plain_output(tiny_encoders.QWEN, inputs)
    processor = getattr(tiny_encoders.encoder(tiny_encoders.QWEN).processor, f"{kind}_processor")
    expected = embedded_in_picture_order(tower, media, processor, (84, 140))
    torch.testing.assert_close(by_layer[-1], expected, atol=1e-4, rtol=1e-4)

    # The embeddings show which position of the tower has which place; it is the same in every layer.
    places = torch.cdist(out.hidden_states[0].float(), expected.flatten(0, 1)).argmin(dim=1)
    assert sorted(places.tolist()) == list(range(t * h * w))
    assert places.tolist() != list(range(t * h * w))
    for layer in range(len(out.hidden_states) - 1):
        torch.testing.assert_close(
            by_layer[layer].flatten(0, 1)[places], out.hidden_states[layer + 1], atol=1e-4, rtol=1e-4
        )

    # The tower itself puts its output, cell by cell, into the picture's order.
    cells = by_layer[tower.config.depth - 1].view(t, h // 2, 2, w // 2, 2, -1).transpose(2, 3).reshape(t * h * w, -1)
    with torch.no_grad():
        torch.testing.assert_close(tower.merger(cells), out.pooler_output, atol=1e-4, rtol=1e-4)


def test_steps_of_a_clip_do_not_mix():
    media = tiny_encoders.clip(80, 80, 3)
    _, by_layer = states_of("dinov2", media, EncoderSettings())
    for step in range(3):
        alone = tiny_encoders.picture_of(media.frames[step])
        _, single = states_of("dinov2", alone, EncoderSettings())
        torch.testing.assert_close(by_layer[2][step], single[2][0], atol=1e-5, rtol=1e-5)


def test_nothing_is_kept():
    encoder = tiny_encoders.encoder(tiny_encoders.QWEN)
    inputs, _ = encoder.read(tiny_encoders.picture(140, 84), EncoderSettings())
    references = []

    def on_states(layer, states):
        earlier = references[: layer - 1]
        assert [reference() for reference in earlier] == [None] * max(0, min(len(references), layer - 1))
        references.append(weakref.ref(states))

    read_states(encoder.model, encoder.spec, inputs, on_states)
    assert len(references) == encoder.spec.layers + 1
    assert all(reference() is None for reference in references)


def hooks_of(model):
    return [hook for module in model.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


@pytest.mark.parametrize("name", ["clip", "registers", tiny_encoders.QWEN])
@pytest.mark.parametrize("when", [-1, 1])
def test_hooks_are_removed_after_an_error(name, when):
    encoder = tiny_encoders.encoder(name)
    inputs, _ = encoder.read(tiny_encoders.picture(98, 60), OBLONG)
    before = hooks_of(encoder.model)

    def on_states(layer, states):
        if layer == when:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        read_states(encoder.model, encoder.spec, inputs, on_states)
    assert hooks_of(encoder.model) == before
    read_states(encoder.model, encoder.spec, inputs, lambda layer, states: None)
    assert hooks_of(encoder.model) == before


def test_states_that_are_not_finite_are_refused():
    encoder = tiny_encoders.encoder("dino")
    inputs, _ = encoder.read(tiny_encoders.picture(98, 60), OBLONG)
    pixels = inputs.tensors["pixel_values"].clone()
    pixels[0, 0, 3, 3] = torch.nan
    with pytest.raises(CaptureError, match="layer -1: the embeddings are not finite"):
        read_states(encoder.model, encoder.spec, replace(inputs, tensors={"pixel_values": pixels}), lambda *_: None)


def test_an_encoder_that_does_not_match_its_specification_is_refused():
    encoder = tiny_encoders.encoder("dino")
    inputs, _ = encoder.read(tiny_encoders.picture(98, 60), OBLONG)
    with pytest.raises(CaptureError, match="0 lists of 4 layers"):
        read_states(encoder.model, replace(encoder.spec, layers=4), inputs, lambda *_: None)
    with pytest.raises(CaptureError, match="expected 1 x "):
        read_states(encoder.model, replace(encoder.spec, prefix=()), inputs, lambda *_: None)


@pytest.mark.parametrize("name", ALL)
def test_similarity_is_cosine_similarity(name):
    media = tiny_encoders.picture(140, 84)
    at = ((60.0, 45.0), (95.0, 30.0))
    result = tiny_encoders.encoder(name).encode(media, replace(OBLONG, at=at))
    inputs, by_layer = states_of(name, media)
    (t, h, w), prefix = inputs.grid, len(result.attention.prefix)
    assert result.similarity.shape == (len(by_layer), 2, t, h, w)
    assert result.similarity.dtype == np.float32
    assert result.similarity_layers.tolist() == list(by_layer)
    boxes = result.attention.boxes_px[: h * w].reshape(h, w, 4)
    for a, (x, y) in enumerate(at):
        (row,), (column,) = np.nonzero(
            (boxes[..., 0] <= x) & (x < boxes[..., 2]) & (boxes[..., 1] <= y) & (y < boxes[..., 3])
        )
        for layer, states in by_layer.items():
            patches = states[0, prefix:].reshape(h, w, -1)
            expected = torch.nn.functional.cosine_similarity(patches, patches[row, column], dim=-1)
            np.testing.assert_allclose(result.similarity[layer + 1, a, 0], expected.numpy(), atol=1e-5)
        np.testing.assert_allclose(result.similarity[:, a, 0, row, column], 1, atol=1e-6)
    assert np.abs(result.similarity).max() <= 1


def test_similarity_of_a_clip_is_to_the_patches_of_each_step():
    result = tiny_encoders.encoder("siglip").encode(tiny_encoders.clip(64, 64, 3), EncoderSettings(at=((40, 20),)))
    assert result.similarity.shape == (tiny_encoders.LAYERS + 1, 1, 3, 4, 4)
    np.testing.assert_allclose(result.similarity[:, 0, :, 1, 2], 1, atol=1e-6)
    _, by_layer = states_of("siglip", tiny_encoders.clip(64, 64, 3), EncoderSettings())
    patches = by_layer[1][2]
    expected = torch.nn.functional.cosine_similarity(patches, patches[6], dim=-1)
    np.testing.assert_allclose(result.similarity[2, 0, 2].ravel(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_pooled_is_the_cls_token_or_the_mean_of_the_patches(name):
    media = tiny_encoders.picture(98, 60)
    pooled = tiny_encoders.encoder(name).pooled(media, OBLONG)
    _, by_layer = states_of(name, media)
    assert pooled.shape == (len(by_layer), by_layer[0].shape[-1])
    assert pooled.dtype == np.float32
    has_cls = not name.startswith(("siglip", tiny_encoders.QWEN))
    for layer, states in by_layer.items():
        expected = states[0, 0] if has_cls else states[0].mean(dim=0)
        np.testing.assert_allclose(pooled[layer + 1], expected.numpy(), atol=1e-5)


def test_pooled_of_a_clip_is_the_mean_over_its_steps():
    media = tiny_encoders.clip(80, 80, 3)
    steps = [tiny_encoders.encoder("dinov2").pooled(tiny_encoders.picture_of(frame)) for frame in media.frames]
    np.testing.assert_allclose(tiny_encoders.encoder("dinov2").pooled(media), np.mean(steps, axis=0), atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip", "registers", tiny_encoders.QWEN])
def test_a_clip_in_chunks_is_the_clip(name, monkeypatch):
    encoder, media = tiny_encoders.encoder(name), tiny_encoders.clip(84, 84, 7)
    settings = EncoderSettings(at=((40, 20), (10, 70)), embeddings=("pca", "tsne"))
    runs, run = [], states_module.run_encoder
    monkeypatch.setattr(
        states_module, "run_encoder", lambda model, spec, chunk: (runs.append(chunk.grid[0]), run(model, spec, chunk))
    )
    whole, pooled = encoder.encode(media, settings), encoder.pooled(media)
    assert len(runs) == 2
    runs.clear()
    monkeypatch.setattr(capture_module, "TOKENS_AT_ONCE", 3 * 30)
    chunked, pooled_in_chunks = encoder.encode(media, settings), encoder.pooled(media)
    steps = [4] if name == tiny_encoders.QWEN else [5, 2] if name == "siglip" else [3, 3, 1]
    assert runs == 2 * steps
    np.testing.assert_allclose(chunked.similarity, whole.similarity, atol=1e-5)
    np.testing.assert_allclose(pooled_in_chunks, pooled, atol=1e-5)
    np.testing.assert_allclose(chunked.embedding.components, whole.embedding.components, atol=1e-4)
    np.testing.assert_allclose(chunked.embedding.explained, whole.embedding.explained, atol=1e-5)
    assert chunked.embedding.tsne.shape == whole.embedding.tsne.shape
    by_step = (
        whole.similarity[1:, 1].reshape(tiny_encoders.LAYERS, whole.attention.grid[0], -1)
        if name != tiny_encoders.QWEN
        else None
    )
    assert by_step is None or np.abs(np.diff(by_step, axis=1)).max(axis=(0, 2)).min() > 1e-3, (
        "a wrong order is detected"
    )


def test_a_complete_layer_of_a_clip_in_chunks_is_released(monkeypatch):
    """While the last chunk runs, the patches of a whole layer are in memory only once, and then released."""
    encoder, references = tiny_encoders.encoder("clip"), []

    def project(points):
        assert all(reference() is None for reference in references)
        references.append(weakref.ref(points))
        return project_pca(points)

    def concatenate(chunks, **kwargs):
        references.extend(map(weakref.ref, chunks))
        return np.concatenate(chunks, **kwargs)

    monkeypatch.setattr(states_module, "project_pca", project)
    monkeypatch.setattr(states_module, "np", SimpleNamespace(concatenate=concatenate))
    monkeypatch.setattr(capture_module, "TOKENS_AT_ONCE", 60)
    inputs, _ = encoder.read(tiny_encoders.clip(84, 84, 5), EncoderSettings())
    states_module.read_embedding(encoder.model, encoder.spec, inputs, (), ("pca",), 0)
    assert len(references) == (tiny_encoders.LAYERS + 1) * (3 + 1), "three chunks of each layer, and the whole layer"


def test_the_embedding_is_of_the_patches_of_each_layer():
    media = tiny_encoders.picture(98, 60)
    result = (
        tiny_encoders.encoder("registers").encode(media, replace(OBLONG, embeddings=("pca", "tsne"), seed=5)).embedding
    )
    _, by_layer = states_of("registers", media)
    patches = by_layer[1][0, 1 + tiny_encoders.REGISTERS :].double()
    centred = patches - patches.mean(dim=0)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(result.components[2]), (centred @ axes[:3].T).abs().numpy(), atol=1e-4)
    np.testing.assert_allclose(result.explained[2], (sizes**2 / (sizes**2).sum())[:3].numpy(), atol=1e-5)
    assert result.layers.tolist() == [-1, 0, 1, 2]
    last = by_layer[2][0, 1 + tiny_encoders.REGISTERS :].numpy()
    np.testing.assert_array_equal(result.tsne, project_tsne(last, 5))
    assert result.tsne_patches.tolist() == list(range(len(patches)))


def test_what_is_not_requested_is_not_computed():
    encoder = tiny_encoders.encoder("dino")
    plain = encoder.encode(tiny_encoders.picture(98, 60))
    assert (plain.similarity, plain.similarity_layers, plain.embedding) == (None, None, None)
    assert "embeddings" not in plain.seconds
    only = encoder.encode(tiny_encoders.picture(98, 60), EncoderSettings(embeddings=("pca",)))
    assert only.similarity is None
    assert (only.embedding.tsne, only.embedding.tsne_patches) == (None, None)
    assert "embeddings" in only.seconds
    assert "embeddings" in only.peak_memory_bytes


def test_errors_are_found_before_the_weights_are_loaded(monkeypatch):
    encoder = EncoderEngine.load(str(tiny_encoders.folder("dino")), device="cpu", dtype="float32")
    monkeypatch.setattr("qvl_attn.encoders.embedding.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the library scikit-learn") as caught:
        encoder.encode(tiny_encoders.picture(98, 60), EncoderSettings(embeddings=("pca",)))
    assert caught.value.hint == "pip install 'qvl-attn[embeddings]'"
    monkeypatch.undo()
    with pytest.raises(InputError, match="`embeddings='tsne'`: 4 patches; t-SNE needs 5 or more"):
        encoder.encode(
            tiny_encoders.picture(28, 28), EncoderSettings(embeddings=("tsne",), min_pixels=784, max_pixels=784)
        )
    assert "model" not in vars(encoder)
