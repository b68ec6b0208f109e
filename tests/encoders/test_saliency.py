"""Saliency maps, against the formulas written out on the plain transformers models with eager attention."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cosine_similarity, cross_entropy, linear

from qvl_attn.core.errors import CaptureError, ModelError
from qvl_attn.encoders import capture as capture_module
from qvl_attn.encoders import saliency
from qvl_attn.encoders.capture import encoder_of
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.inputs import Inputs
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.saliency import SaliencyTarget
from qvl_attn.encoders.spec import spec_of
from qvl_attn.model import capture
from qvl_attn.model import probe as flow
from tests.helpers import tiny_encoders

HEADS = (*tiny_encoders.WITH_CLASSES, *tiny_encoders.WITH_TEXT)
TEXTS = ("a photo of a cat", "the red square on grass")
# None: the middle square; 9000: the whole oblong picture.
LIMITS = (None, 9000)
PICTURE = tiny_encoders.picture(110, 70, seed=3)
PREFIX = {"clip": 1, "clip-classes": 1, "vit-classes": 1, "dinov2-classes": 1, "registers-classes": 5}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def settings_of(name: str, **options) -> EncoderSettings:
    texts = TEXTS if name in tiny_encoders.WITH_TEXT else ()
    return EncoderSettings(saliency=True, **{"texts": texts, **options})


def pixels_of(name: str, settings: EncoderSettings, media=PICTURE) -> torch.Tensor:
    inputs, _ = tiny_encoders.encoder(name).read(media, settings)
    return inputs.tensors["pixel_values"]


def run_plain(name: str, pixels: torch.Tensor, **options):
    """Return the output of the plain transformers tower, and the tower."""
    plain = tiny_encoders.plain(name)
    tower = getattr(plain, "vision_model", None) or getattr(plain, plain.base_model_prefix)
    kwargs = {} if "dinov2" in type(plain).__name__.lower() else {"interpolate_pos_encoding": True}
    return tower(pixels, **kwargs, **options), tower


def text_features(name: str, text: str) -> torch.Tensor:
    padding = {"padding": "max_length", "max_length": 16} if name == "siglip" else {}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoders.folder(name))
    encoding = tokenizer(text, return_tensors="pt", **padding)
    ids = {"input_ids": encoding["input_ids"]} if padding else dict(encoding)
    return tiny_encoders.plain(name).get_text_features(**ids).pooler_output


def last_norm(name: str, tower):
    if name == "vit-classes":
        layers = tower.layers if hasattr(tower, "layers") else tower.encoder.layer  # transformers 5.6
        return layers[-1].layernorm_before
    return (
        tower.encoder.layer[-1].norm1
        if "classes" in name and "clip" not in name and "sig" not in name
        else (tower.encoder.layers[-1].layer_norm1)
    )


def pool_by_hand(head, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return SigLIP's pooled output and its attention (H, 1, T) as part of the graph, without `torch.nn` attention."""
    heads, width = head.attention.num_heads, states.shape[-1] // head.attention.num_heads
    projected = [
        linear(vectors, weight, bias).view(-1, heads, width).transpose(0, 1)
        for vectors, weight, bias in zip(
            (head.probe[0], states[0], states[0]),
            head.attention.in_proj_weight.chunk(3),
            head.attention.in_proj_bias.chunk(3),
            strict=True,
        )
    ]
    query, key, value = projected
    weights = (query @ key.transpose(1, 2) / width**0.5).softmax(dim=-1)
    pooled = head.attention.out_proj((weights @ value).transpose(0, 1).reshape(1, 1, -1))
    return (pooled + head.mlp(head.layernorm(pooled)))[:, 0], weights


def expected_maps(name: str, limit: int | None, column: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Return (P,) Grad-CAM and (P,) attention x gradient, with whole attention matrices; and y."""
    pixels, norms = pixels_of(name, settings_of(name, max_pixels=limit)).requires_grad_(), []
    plain = tiny_encoders.plain(name)
    tower = run_plain(name, pixels)[1]
    handle = last_norm(name, tower).register_forward_hook(lambda module, args, output: norms.append((args[0], output)))
    output, _ = run_plain(name, pixels, output_attentions=True)
    handle.remove()
    R, states, probe = PREFIX.get(name, 0), output.last_hidden_state, None
    if name == "clip":
        y = cosine_similarity(plain.visual_projection(output.pooler_output), text_features(name, TEXTS[column]))[0]
    elif name == "siglip":
        pooled, probe = pool_by_hand(tower.head, states)
        torch.testing.assert_close(pooled, output.pooler_output)
        y = cosine_similarity(pooled, text_features(name, TEXTS[column]))[0]
    else:
        kwargs = {} if R == 5 or "dino" in name else {"interpolate_pos_encoding": True}
        y = plain.classifier(
            {
                "vit-classes": lambda: states[:, 0],
                "clip-classes": lambda: states[:, 1:].mean(dim=1),
                "siglip-classes": lambda: states.mean(dim=1),
                "dinov2-classes": lambda: torch.cat([states[:, 0], states[:, 1:].mean(dim=1)], dim=1),
                "registers-classes": lambda: torch.cat([states[:, 0], states[:, 5:].mean(dim=1)], dim=1),
            }[name]()
        )[0, column]
        torch.testing.assert_close(y, plain(pixels, **kwargs).logits[0, column])
    target = norms[0][1] if name in ("vit-classes", "clip") else norms[0][0]
    sources = [target, *output.attentions, *([] if probe is None else [probe])]
    gradients = torch.autograd.grad(y, sources)
    F, G = target[0, R:].detach().double(), gradients[0][0, R:].double()
    alpha = G.mean(dim=0)
    gradcam = torch.stack([(alpha * F[p]).sum().clamp(min=0) for p in range(len(F))])
    T = states.shape[1]
    matrix = torch.eye(T, dtype=torch.float64)
    for attention, gradient in zip(output.attentions, gradients[1:], strict=False):
        layer_relevance = (attention[0].detach().double() * gradient[0].double()).clamp(min=0).mean(dim=0)
        matrix = matrix + layer_relevance @ matrix
    matrix = matrix - torch.eye(T)
    patches = matrix[R:].mean(dim=0)
    row = {
        "vit-classes": lambda: matrix[0],
        "clip": lambda: matrix[0],
        "siglip": lambda: (probe.double() * gradients[-1].double()).clamp(min=0).mean(dim=0)[0] @ matrix,
        "clip-classes": lambda: patches,
        "siglip-classes": lambda: patches,
    }.get(name, lambda: matrix[0] + patches)()
    return gradcam.numpy(), row[R:].detach().numpy(), float(y.detach())


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", HEADS)
def test_maps_are_the_formulas(name, limit):
    encoder = tiny_encoders.encoder(name)
    texts, maxima = name in tiny_encoders.WITH_TEXT, []
    for column in (0, 1) if texts else (1, 3):
        options = {} if texts else {"label": str(column)}
        result = encoder.encode(PICTURE, settings_of(name, max_pixels=limit, **options))
        assert (result.attention.grid[1] != result.attention.grid[2]) is (limit is not None)
        assert [saliency_map.method for saliency_map in result.saliency] == [*saliency.METHODS] * (2 if texts else 1)
        maps = result.saliency[2 * column : 2 * column + 2] if texts else result.saliency
        gradcam, relevance, y = expected_maps(name, limit, column)
        for saliency_map, expected in zip(maps, (gradcam, relevance), strict=True):
            values = saliency_map.values
            assert values.shape == result.attention.grid
            np.testing.assert_allclose(values.ravel(), expected, rtol=1e-4, atol=1e-7 + 2e-6 * expected.max())
        maxima.append([gradcam.max(), relevance.max()])
        if texts:
            assert maps[0].target == TEXTS[column]
            assert maps[0].score == pytest.approx(y, abs=1e-6)
        assert result.seconds["saliency"] > 0
    assert min(np.max(maxima, axis=0)) > 1e-4


def test_blocks_of_rows_change_nothing(monkeypatch):
    whole = tiny_encoders.encoder("siglip").encode(PICTURE, settings_of("siglip", max_pixels=9000)).saliency
    monkeypatch.setattr(flow, "BLOCK_ROWS", 7)
    in_blocks = tiny_encoders.encoder("siglip").encode(PICTURE, settings_of("siglip", max_pixels=9000)).saliency
    for expected, blocked in zip(whole, in_blocks, strict=True):
        np.testing.assert_allclose(blocked.values, expected.values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", tiny_encoders.WITH_TEXT)
def test_each_text_has_its_own_maps_and_similarity(name):
    maps = tiny_encoders.encoder(name).encode(PICTURE, settings_of(name)).saliency
    alone = tiny_encoders.encoder(name).encode(PICTURE, settings_of(name, texts=TEXTS[1:])).saliency
    for first, second, single in zip(maps[:2], maps[2:], alone, strict=True):
        assert np.abs(first.values / first.values.max() - second.values / second.values.max()).max() > 0.05
        np.testing.assert_allclose(second.values, single.values, rtol=1e-4, atol=1e-7)
        assert single.score == pytest.approx(second.score, abs=1e-6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoders.folder(name))
    padding = {"padding": "max_length", "max_length": 16} if name == "siglip" else {"padding": True}
    ids = tokenizer([*TEXTS], return_tensors="pt", **padding)
    ids = {"input_ids": ids["input_ids"]} if name == "siglip" else dict(ids)
    plain = tiny_encoders.plain(name)
    output = plain(pixel_values=pixels_of(name, settings_of(name)), **ids)
    bias = getattr(plain, "logit_bias", torch.zeros(1))
    cosines = (output.logits_per_image[0] - bias) / plain.logit_scale.exp()
    assert [saliency_map.score for saliency_map in maps[::2]] == pytest.approx(cosines.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", tiny_encoders.WITH_CLASSES)
def test_the_score_is_the_models_own_probability(name):
    kwargs = {} if "dinov2" in type(tiny_encoders.plain(name)).__name__.lower() else {"interpolate_pos_encoding": True}
    logits = tiny_encoders.plain(name)(pixel_values=pixels_of(name, settings_of(name)), **kwargs).logits[0]
    likeliest = int(logits.argmax())
    maps = tiny_encoders.encoder(name).encode(PICTURE, settings_of(name)).saliency
    assert {saliency_map.target for saliency_map in maps} == {tiny_encoders.LABELS[likeliest]}
    assert maps[0].score == pytest.approx(float(logits.softmax(dim=0)[likeliest]), abs=1e-5)


def test_multi_label_classes(tmp_path):
    encoder = fresh_encoder("vit-classes", tmp_path)
    encoder.model.config.problem_type = "multi_label_classification"
    logits = tiny_encoders.plain("vit-classes")(
        pixel_values=pixels_of("vit-classes", settings_of("vit-classes"))
    ).logits[0]
    maps = encoder.encode(PICTURE, settings_of("vit-classes", label="grass")).saliency
    assert maps[0].score == pytest.approx(float(logits[4].sigmoid()), abs=1e-5)


@pytest.mark.parametrize(("name", "columns"), [("registers-classes", 1), ("siglip", 2)])
def test_steps_of_a_clip_are_treated_as_pictures(name, columns):
    clip = tiny_encoders.clip(70, 70, 3, seed=5)
    settings = settings_of(name) if columns == 2 else settings_of(name, label="1")
    maps = tiny_encoders.encoder(name).encode(clip, settings).saliency
    by_frame = [
        tiny_encoders.encoder(name).encode(tiny_encoders.picture_of(frame), settings).saliency for frame in clip.frames
    ]
    assert len(maps) == 2 * columns
    for i, saliency_map in enumerate(maps):
        expected = np.concatenate([frame_maps[i].values for frame_maps in by_frame])
        np.testing.assert_allclose(saliency_map.values, expected, rtol=1e-3, atol=1e-6)
        score = np.mean([frame_maps[i].score for frame_maps in by_frame])
        assert saliency_map.score == pytest.approx(score, abs=1e-6)


def test_the_likeliest_class_of_a_clip_is_that_of_all_its_steps():
    clip = tiny_encoders.clip(70, 70, 5, seed=1)
    clip = replace(clip, frames=np.ascontiguousarray(clip.frames[[1, 0, 2, 3, 4]]))
    logits = tiny_encoders.plain("dinov2-classes")(
        pixels_of("dinov2-classes", settings_of("dinov2-classes"), clip)
    ).logits
    maps = tiny_encoders.encoder("dinov2-classes").encode(clip, settings_of("dinov2-classes")).saliency
    mean = logits.softmax(dim=-1).mean(dim=0)
    assert logits[0].argmax() != mean.argmax()
    assert maps[0].target == tiny_encoders.LABELS[int(mean.argmax())]
    assert maps[0].score == pytest.approx(float(mean.max()), abs=1e-5)


def fresh_encoder(name: str, folder) -> EncoderEngine:
    """Load an encoder that a test may change."""
    shutil.copytree(tiny_encoders.folder(name), folder / name)
    return EncoderEngine.load(str(folder / name), device="cpu", dtype="float32")


def one_patch(folder) -> EncoderEngine:
    """Save a ViT without biases and positions: the states, keys and values of a black patch are zero."""
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=48, patch_size=8
    )
    model = transformers.ViTForImageClassification(config)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.zero_() if "bias" in name or "token" in name or "embeddings" in name else None
            if weight.ndim == 2 and "embeddings" not in name:
                weight.copy_(torch.randn(weight.shape, generator=rng))
        model.vit.embeddings.patch_embeddings.projection.weight.copy_(torch.randn((8, 3, 8, 8), generator=rng) / 8)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 48, "width": 48}, do_normalize=False).save_pretrained(folder)
    return EncoderEngine.load(str(folder), device="cpu", dtype="float32")


@pytest.mark.parametrize("place", [0, 9, 35])
def test_one_patch_that_matters(tmp_path, place):
    """Only one bright patch can raise a score, and it raises that of one of the two classes."""
    image = np.zeros((48, 48, 3), np.uint8)
    row, column = divmod(place, 6)
    image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = (250, 120, 200)
    encoder = one_patch(tmp_path)
    maps = [
        encoder.encode(tiny_encoders.picture_of(image), EncoderSettings(saliency=True, label=label)).saliency
        for label in "01"
    ]
    for method in (0, 1):
        by_class = [class_maps[method].values.ravel() for class_maps in maps]
        largest = max(values.max() for values in by_class)
        assert largest > 1e-4
        for values in by_class:
            assert np.delete(values, place).max() <= 1e-6 * largest


def state_of(model):
    hooks = [(name, kind, len(getattr(module, kind))) for name, module in model.named_modules() for kind in HOOKS]
    gradients = [name for name, weight in model.named_parameters() if weight.grad is not None or weight.requires_grad]
    config = model.config
    return hooks, gradients, config._attn_implementation, getattr(config, "vision_config", config)._attn_implementation


@pytest.mark.parametrize("name", ["vit-classes", "clip", "siglip"])
def test_the_model_is_unchanged_afterwards(name):
    model, settings = tiny_encoders.encoder(name).model, settings_of(name)
    before, plain = state_of(model), tiny_encoders.encoder(name).encode(PICTURE).attention.received
    tiny_encoders.encoder(name).encode(PICTURE, settings)
    assert state_of(model) == before
    assert before[1:] == ([], "sdpa", "sdpa")
    assert capture._observers == {}

    def fail(gradient):
        raise RuntimeError("on purpose")

    def fail_in_forward(module, args, output):
        if torch.is_grad_enabled() and output.requires_grad:
            raise RuntimeError("on purpose")

    def fail_in_backward(module, args, output):
        if output.requires_grad:
            output.register_hook(fail)

    tower = encoder_of(model, tiny_encoders.encoder(name).spec)
    norm = tower.layernorm if name == "vit-classes" else tower.post_layernorm
    for hook in (fail_in_forward, fail_in_backward):
        handle = norm.register_forward_hook(hook)
        try:
            with pytest.raises(ModelError, match="on purpose"):
                tiny_encoders.encoder(name).encode(PICTURE, settings)
        finally:
            handle.remove()
        assert state_of(model) == before
        assert capture._observers == {}
    np.testing.assert_array_equal(tiny_encoders.encoder(name).encode(PICTURE).attention.received, plain)


def test_scores_and_gradients_that_are_not_finite_are_refused(tmp_path):
    encoder = fresh_encoder("vit-classes", tmp_path)
    torch.nn.init.constant_(encoder.model.classifier.weight, torch.inf)
    with pytest.raises(CaptureError, match="score of the model is not finite"):
        encoder.encode(PICTURE, settings_of("vit-classes"))
    encoder = fresh_encoder("clip", tmp_path)

    def spoil(module, args, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * torch.nan)

    encoder.model.vision_model.post_layernorm.register_forward_hook(spoil)
    with pytest.raises(CaptureError, match="gradient is not finite"):
        encoder.encode(PICTURE, settings_of("clip"))


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2-classes"])
def test_scores_of_a_clip_in_chunks_are_those_of_the_clip(name, monkeypatch):
    encoder, media, batches = tiny_encoders.encoder(name), tiny_encoders.clip(84, 84, 7), []
    whole = encoder.encode(media, settings_of(name)).saliency
    monkeypatch.setattr(capture_module, "TOKENS_AT_ONCE", 60)
    handle = encoder_of(encoder.model, encoder.spec).embeddings.register_forward_hook(
        lambda module, args, output: batches.append(len(output))
    )
    in_chunks = encoder.encode(media, settings_of(name)).saliency
    handle.remove()
    assert max(batches) == (3 if name == "siglip" else 2)
    for chunked, expected in zip(in_chunks, whole, strict=True):
        assert (chunked.method, chunked.target) == (expected.method, expected.target)
        assert chunked.score == pytest.approx(expected.score, abs=1e-6)
        np.testing.assert_allclose(chunked.values, expected.values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["siglip", "dinov2-classes"])
def test_half_precision_gives_similar_maps(name):
    exact = tiny_encoders.encoder(name).encode(PICTURE, settings_of(name)).saliency
    half = tiny_encoders.encoder(name, "bfloat16").encode(PICTURE, settings_of(name)).saliency
    for expected, rounded in zip(exact, half, strict=True):
        assert expected.target == rounded.target
        assert np.corrcoef(expected.values.ravel(), rounded.values.ravel())[0, 1] > 0.9


def test_without_saliency_there_are_no_maps_and_no_gradients():
    grads = []
    model = tiny_encoders.encoder("clip").model
    handle = model.vision_model.post_layernorm.register_forward_hook(
        lambda module, args, output: grads.append(output.requires_grad)
    )
    result = tiny_encoders.encoder("clip").encode(PICTURE)
    handle.remove()
    assert result.saliency == ()
    assert grads == [False]
    assert "saliency" not in result.seconds


def squares(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return pixels of noise with a coloured square in one of 16 places, the places, and the classes of the colours."""
    colours = torch.tensor([[1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1], [1, 1, -0.5]])
    pixels = 0.4 * torch.randn(count, 3, 32, 32, generator=generator)
    places, classes = (torch.randint(0, n, (count,), generator=generator) for n in (16, 4))
    for picture, place, colour in zip(pixels, places.tolist(), colours[classes], strict=True):
        row, column = 8 * (place // 4), 8 * (place % 4)
        picture[:, row : row + 8, column : column + 8] += 1.5 * colour[:, None, None]
    return pixels, places, classes


@pytest.mark.slow
@pytest.mark.parametrize(("name", "minima"), [("vit", (0.3, 0.7)), ("siglip", (0.1, 0.7)), ("dinov2", (0.3, 0.7))])
def test_maps_point_at_the_square_that_decides_the_class(name, minima):
    """The class is the colour of a square at a random place: by chance a map points at it once in 16 times."""
    vision = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
    vision |= {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = {
        "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**vision, num_labels=4)),
        "siglip": lambda: transformers.SiglipForImageClassification(
            transformers.SiglipConfig(vision_config=vision, num_labels=4)
        ),
        "dinov2": lambda: transformers.Dinov2ForImageClassification(
            transformers.Dinov2Config(**vision, num_labels=4, layerscale_value=1.0)
        ),
    }[name]()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(150):
        pixels, _, classes = squares(64, generator)
        cross_entropy(model(pixel_values=pixels).logits, classes).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().requires_grad_(False)
    spec, hits, count = spec_of(model.config, name, type(model).__name__), np.zeros(2), 0
    pixels, places, classes = squares(120, generator)
    for label in range(4):
        chosen = pixels[classes == label]
        t = len(chosen)
        boxes, frames = np.zeros((16 * t, 4), np.float32), np.zeros((t, 2), np.int64)
        inputs = Inputs({"pixel_values": chosen}, (t, 4, 4), boxes, np.arange(16 * t), False, frames)
        maps = saliency.saliency(model, spec, inputs, SaliencyTarget(label=label))
        assert maps[0].score > 0.9
        targets = places[classes == label].numpy()
        hits += [(saliency_map.values.reshape(t, 16).argmax(axis=1) == targets).sum() for saliency_map in maps]
        count += t
    print(f"{name}: {dict(zip(saliency.METHODS, (hits / count).round(2).tolist(), strict=True))}, chance {1 / 16:.2f}")
    assert (hits / count > minima).all(), hits / count
