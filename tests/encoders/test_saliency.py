"""Maps of what decided: against the formulas written out on the plainly loaded models, under eager attention."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cosine_similarity, cross_entropy, linear

from qvl_attn.core.errors import CaptureError
from qvl_attn.encoder import Encoder
from qvl_attn.encoders import capture as look_room
from qvl_attn.encoders import saliency
from qvl_attn.encoders.capture import encoder_of
from qvl_attn.encoders.inputs import Inputs
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.saliency import SaliencyTarget
from qvl_attn.encoders.spec import spec_of
from qvl_attn.model import capture
from qvl_attn.model import probe as flow
from tests.helpers import tiny_encoders

HEADS = (*tiny_encoders.WITH_CLASSES, *tiny_encoders.WITH_TEXT)
TEXTS = ("a photo of a cat", "the red square on grass")
# A square from the middle, and the whole of an oblong picture.
LIMITS = (None, 9000)
PICTURE = tiny_encoders.picture(110, 70, seed=3)
PREFIX = {"clip": 1, "clip-classes": 1, "vit-classes": 1, "dinov2-classes": 1, "registers-classes": 5}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def settings_of(name: str, **more) -> EncoderSettings:
    texts = TEXTS if name in tiny_encoders.WITH_TEXT else ()
    return EncoderSettings(saliency=True, **{"texts": texts, **more})


def pixels_of(name: str, settings: EncoderSettings, media=PICTURE) -> torch.Tensor:
    inputs, _ = tiny_encoders.encoder(name).read(media, settings)
    return inputs.tensors["pixel_values"]


def run_plainly(name: str, pixels: torch.Tensor, **more):
    """The tower's own output."""
    plain = tiny_encoders.plain(name)
    tower = getattr(plain, "vision_model", None) or getattr(plain, plain.base_model_prefix)
    kwargs = {} if "dinov2" in type(plain).__name__.lower() else {"interpolate_pos_encoding": True}
    return tower(pixels, **kwargs, **more), tower


def text_features(name: str, text: str) -> torch.Tensor:
    filled = {"padding": "max_length", "max_length": 16} if name == "siglip" else {}
    words = transformers.AutoTokenizer.from_pretrained(tiny_encoders.folder(name))(text, return_tensors="pt", **filled)
    ids = {"input_ids": words["input_ids"]} if filled else dict(words)
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
    """SigLIP's pooling with its attention (H, 1, T) in sight, a leaf of the graph: written out, no `nn` attention."""
    heads, width = head.attention.num_heads, states.shape[-1] // head.attention.num_heads
    projected = [
        linear(one, weight, bias).view(-1, heads, width).transpose(0, 1)
        for one, weight, bias in zip(
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


def by_hand(name: str, limit: int | None, column: int) -> tuple[np.ndarray, np.ndarray, float]:
    """(P,) Grad-CAM and (P,) Chefer's, with every matrix whole; and y."""
    pixels, seen = pixels_of(name, settings_of(name, max_pixels=limit)).requires_grad_(), []
    plain = tiny_encoders.plain(name)
    tower = run_plainly(name, pixels)[1]
    handle = last_norm(name, tower).register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    output, _ = run_plainly(name, pixels, output_attentions=True)
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
    where = seen[0][1] if name in ("vit-classes", "clip") else seen[0][0]
    wanted = [where, *output.attentions, *([] if probe is None else [probe])]
    gradients = torch.autograd.grad(y, wanted)
    F, G = where[0, R:].detach().double(), gradients[0][0, R:].double()
    alpha = G.mean(dim=0)
    gradcam = torch.stack([(alpha * F[p]).sum().clamp(min=0) for p in range(len(F))])
    T = states.shape[1]
    matrix = torch.eye(T, dtype=torch.float64)
    for attention, gradient in zip(output.attentions, gradients[1:], strict=False):
        relevant = (attention[0].detach().double() * gradient[0].double()).clamp(min=0).mean(dim=0)
        matrix = matrix + relevant @ matrix
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
    texts, spoke = name in tiny_encoders.WITH_TEXT, []
    for column in (0, 1) if texts else (1, 3):
        more = {} if texts else {"label": str(column)}
        look = encoder.encode(PICTURE, settings_of(name, max_pixels=limit, **more))
        assert (look.attention.grid[1] != look.attention.grid[2]) is (limit is not None)
        assert [one.method for one in look.saliency] == [*saliency.METHODS] * (2 if texts else 1)
        maps = look.saliency[2 * column : 2 * column + 2] if texts else look.saliency
        gradcam, relevance, y = by_hand(name, limit, column)
        for found, expected in zip(maps, (gradcam, relevance), strict=True):
            assert found.values.shape == look.attention.grid
            np.testing.assert_allclose(found.values.ravel(), expected, rtol=1e-4, atol=1e-7 + 2e-6 * expected.max())
        spoke.append([gradcam.max(), relevance.max()])
        if texts:
            assert maps[0].target == TEXTS[column]
            assert maps[0].score == pytest.approx(y, abs=1e-6)
        assert look.seconds["saliency"] > 0
    assert min(np.max(spoke, axis=0)) > 1e-4


def test_blocks_of_rows_change_nothing(monkeypatch):
    whole = tiny_encoders.encoder("siglip").encode(PICTURE, settings_of("siglip", max_pixels=9000)).saliency
    monkeypatch.setattr(flow, "BLOCK_ROWS", 7)
    parts = tiny_encoders.encoder("siglip").encode(PICTURE, settings_of("siglip", max_pixels=9000)).saliency
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", tiny_encoders.WITH_TEXT)
def test_each_text_has_its_own_maps_and_its_own_likeness(name):
    found = tiny_encoders.encoder(name).encode(PICTURE, settings_of(name)).saliency
    alone = tiny_encoders.encoder(name).encode(PICTURE, settings_of(name, texts=TEXTS[1:])).saliency
    for one, other, again in zip(found[:2], found[2:], alone, strict=True):
        assert np.abs(one.values / one.values.max() - other.values / other.values.max()).max() > 0.05
        np.testing.assert_allclose(other.values, again.values, rtol=1e-4, atol=1e-7)
        assert again.score == pytest.approx(other.score, abs=1e-6)
    words = transformers.AutoTokenizer.from_pretrained(tiny_encoders.folder(name))
    filled = {"padding": "max_length", "max_length": 16} if name == "siglip" else {"padding": True}
    ids = words([*TEXTS], return_tensors="pt", **filled)
    ids = {"input_ids": ids["input_ids"]} if name == "siglip" else dict(ids)
    plain = tiny_encoders.plain(name)
    likeness = plain(pixel_values=pixels_of(name, settings_of(name)), **ids)
    bias = getattr(plain, "logit_bias", torch.zeros(1))
    cosines = (likeness.logits_per_image[0] - bias) / plain.logit_scale.exp()
    assert [one.score for one in found[::2]] == pytest.approx(cosines.tolist(), abs=1e-5)


@pytest.mark.parametrize("name", tiny_encoders.WITH_CLASSES)
def test_the_score_is_the_models_own_probability(name):
    kwargs = {} if "dinov2" in type(tiny_encoders.plain(name)).__name__.lower() else {"interpolate_pos_encoding": True}
    logits = tiny_encoders.plain(name)(pixel_values=pixels_of(name, settings_of(name)), **kwargs).logits[0]
    likeliest = int(logits.argmax())
    found = tiny_encoders.encoder(name).encode(PICTURE, settings_of(name)).saliency
    assert {one.target for one in found} == {tiny_encoders.LABELS[likeliest]}
    assert found[0].score == pytest.approx(float(logits.softmax(dim=0)[likeliest]), abs=1e-5)


def test_classes_that_do_not_exclude_each_other(tmp_path):
    encoder = changed("vit-classes", tmp_path)
    encoder.model.config.problem_type = "multi_label_classification"
    logits = tiny_encoders.plain("vit-classes")(
        pixel_values=pixels_of("vit-classes", settings_of("vit-classes"))
    ).logits[0]
    found = encoder.encode(PICTURE, settings_of("vit-classes", label="grass")).saliency
    assert found[0].score == pytest.approx(float(logits[4].sigmoid()), abs=1e-5)


@pytest.mark.parametrize(("name", "columns"), [("registers-classes", 1), ("siglip", 2)])
def test_steps_of_a_clip_are_pictures(name, columns):
    clip = tiny_encoders.clip(70, 70, 3, seed=5)
    settings = settings_of(name) if columns == 2 else settings_of(name, label="1")
    found = tiny_encoders.encoder(name).encode(clip, settings).saliency
    singly = [
        tiny_encoders.encoder(name).encode(tiny_encoders.picture_of(frame), settings).saliency for frame in clip.frames
    ]
    assert len(found) == 2 * columns
    for i, one in enumerate(found):
        np.testing.assert_allclose(
            one.values, np.concatenate([each[i].values for each in singly]), rtol=1e-3, atol=1e-6
        )
        assert one.score == pytest.approx(np.mean([each[i].score for each in singly]), abs=1e-6)


def test_the_likeliest_class_of_a_clip_is_that_of_all_its_steps():
    clip = tiny_encoders.clip(70, 70, 5, seed=1)
    clip = replace(clip, frames=np.ascontiguousarray(clip.frames[[1, 0, 2, 3, 4]]))
    logits = tiny_encoders.plain("dinov2-classes")(
        pixels_of("dinov2-classes", settings_of("dinov2-classes"), clip)
    ).logits
    found = tiny_encoders.encoder("dinov2-classes").encode(clip, settings_of("dinov2-classes")).saliency
    mean = logits.softmax(dim=-1).mean(dim=0)
    assert logits[0].argmax() != mean.argmax()
    assert found[0].target == tiny_encoders.LABELS[int(mean.argmax())]
    assert found[0].score == pytest.approx(float(mean.max()), abs=1e-5)


def changed(name: str, folder) -> Encoder:
    """One that may be changed: loaded for itself."""
    shutil.copytree(tiny_encoders.folder(name), folder / name)
    return Encoder.load(str(folder / name), device="cpu", dtype="float32")


def one_patch(folder) -> Encoder:
    """A ViT that answers by what is bright: a black patch is zero throughout, and so are its keys and its values."""
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
    return Encoder.load(str(folder), device="cpu", dtype="float32")


@pytest.mark.parametrize("place", [0, 9, 35])
def test_one_patch_that_matters(tmp_path, place):
    """All that can speak for a class is one bright patch, and for one of the two classes it does."""
    image = np.zeros((48, 48, 3), np.uint8)
    row, column = divmod(place, 6)
    image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = (250, 120, 200)
    encoder = one_patch(tmp_path)
    maps = [
        encoder.encode(tiny_encoders.picture_of(image), EncoderSettings(saliency=True, label=one)).saliency
        for one in "01"
    ]
    for method in (0, 1):
        spoken = [one[method].values.ravel() for one in maps]
        assert max(values.max() for values in spoken) > 1e-4
        for values in spoken:
            assert np.delete(values, place).max() <= 1e-6 * max(values.max() for values in spoken)


def traces(model):
    hooks = [(name, what, len(getattr(one, what))) for name, one in model.named_modules() for what in HOOKS]
    gradients = [name for name, one in model.named_parameters() if one.grad is not None or one.requires_grad]
    config = model.config
    return hooks, gradients, config._attn_implementation, getattr(config, "vision_config", config)._attn_implementation


@pytest.mark.parametrize("name", ["vit-classes", "clip", "siglip"])
def test_nothing_stays_behind(name):
    model, settings = tiny_encoders.encoder(name).model, settings_of(name)
    before, plain = traces(model), tiny_encoders.encoder(name).encode(PICTURE).attention.received
    tiny_encoders.encoder(name).encode(PICTURE, settings)
    assert traces(model) == before
    assert before[1:] == ([], "sdpa", "sdpa")
    assert capture._observers == {}

    def fail(gradient):
        raise RuntimeError("on purpose")

    def on_the_way_up(module, args, output):
        if torch.is_grad_enabled() and output.requires_grad:
            raise RuntimeError("on purpose")

    def on_the_way_down(module, args, output):
        if output.requires_grad:
            output.register_hook(fail)

    tower = encoder_of(model, tiny_encoders.encoder(name).spec)
    norm = tower.layernorm if name == "vit-classes" else tower.post_layernorm
    for fault in (on_the_way_up, on_the_way_down):
        handle = norm.register_forward_hook(fault)
        with pytest.raises(RuntimeError, match="on purpose"):
            tiny_encoders.encoder(name).encode(PICTURE, settings)
        handle.remove()
        assert traces(model) == before
        assert capture._observers == {}
    np.testing.assert_array_equal(tiny_encoders.encoder(name).encode(PICTURE).attention.received, plain)


def test_what_is_not_finite_is_no_map(tmp_path):
    encoder = changed("vit-classes", tmp_path)
    torch.nn.init.constant_(encoder.model.classifier.weight, torch.inf)
    with pytest.raises(CaptureError, match="outcome is not finite"):
        encoder.encode(PICTURE, settings_of("vit-classes"))
    encoder = changed("clip", tmp_path)

    def spoil(module, args, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * torch.nan)

    encoder.model.vision_model.post_layernorm.register_forward_hook(spoil)
    with pytest.raises(CaptureError, match="gradient is not finite"):
        encoder.encode(PICTURE, settings_of("clip"))


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2-classes"])
def test_scores_of_a_clip_in_parts_are_those_of_the_clip(name, monkeypatch):
    encoder, media, given = tiny_encoders.encoder(name), tiny_encoders.clip(84, 84, 7), []
    whole = encoder.encode(media, settings_of(name)).saliency
    monkeypatch.setattr(look_room, "TOKENS_AT_ONCE", 60)
    handle = encoder_of(encoder.model, encoder.spec).embeddings.register_forward_hook(
        lambda module, args, output: given.append(len(output))
    )
    parted = encoder.encode(media, settings_of(name)).saliency
    handle.remove()
    assert max(given) == (3 if name == "siglip" else 2)
    for one, other in zip(parted, whole, strict=True):
        assert (one.method, one.target) == (other.method, other.target)
        assert one.score == pytest.approx(other.score, abs=1e-6)
        np.testing.assert_allclose(one.values, other.values, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["siglip", "dinov2-classes"])
def test_half_precision_tells_the_same(name):
    exact = tiny_encoders.encoder(name).encode(PICTURE, settings_of(name)).saliency
    rough = tiny_encoders.encoder(name, "bfloat16").encode(PICTURE, settings_of(name)).saliency
    for one, other in zip(exact, rough, strict=True):
        assert one.target == other.target
        assert np.corrcoef(one.values.ravel(), other.values.ravel())[0, 1] > 0.9


def test_without_saliency_there_are_no_maps_and_no_gradients():
    grads = []
    model = tiny_encoders.encoder("clip").model
    handle = model.vision_model.post_layernorm.register_forward_hook(
        lambda module, args, output: grads.append(output.requires_grad)
    )
    look = tiny_encoders.encoder("clip").encode(PICTURE)
    handle.remove()
    assert look.saliency == ()
    assert grads == [False]
    assert "saliency" not in look.seconds


def squares(count: int, drawn: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise with a coloured square in one of 16 places: pixels, places, and the colours."""
    colours = torch.tensor([[1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1], [1, 1, -0.5]])
    pixels = 0.4 * torch.randn(count, 3, 32, 32, generator=drawn)
    places, classes = (torch.randint(0, n, (count,), generator=drawn) for n in (16, 4))
    for one, place, colour in zip(pixels, places.tolist(), colours[classes], strict=True):
        row, column = 8 * (place // 4), 8 * (place % 4)
        one[:, row : row + 8, column : column + 8] += 1.5 * colour[:, None, None]
    return pixels, places, classes


@pytest.mark.slow
@pytest.mark.parametrize(("name", "floors"), [("vit", (0.3, 0.7)), ("siglip", (0.1, 0.7)), ("dinov2", (0.3, 0.7))])
def test_maps_point_at_what_decides(name, floors):
    """The colour of a square decides, its place does not: chance would point at it once in 16 times."""
    vision = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
    vision |= {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    drawn = torch.Generator().manual_seed(0)
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
        pixels, _, classes = squares(64, drawn)
        cross_entropy(model(pixel_values=pixels).logits, classes).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().requires_grad_(False)
    eye, hits, count = spec_of(model.config, name, type(model).__name__), np.zeros(2), 0
    pixels, places, classes = squares(120, drawn)
    for label in range(4):
        shown = pixels[classes == label]
        t = len(shown)
        boxes, frames = np.zeros((16 * t, 4), np.float32), np.zeros((t, 2), np.int64)
        inputs = Inputs({"pixel_values": shown}, (t, 4, 4), boxes, np.arange(16 * t), False, frames)
        maps = saliency.saliency(model, eye, inputs, SaliencyTarget(label=label))
        assert maps[0].score > 0.9
        where = places[classes == label].numpy()
        hits += [(one.values.reshape(t, 16).argmax(axis=1) == where).sum() for one in maps]
        count += t
    print(f"{name}: {dict(zip(saliency.METHODS, (hits / count).round(2).tolist(), strict=True))}, chance {1 / 16:.2f}")
    assert (hits / count > floors).all(), hits / count
