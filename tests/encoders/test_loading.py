"""Loading of encoders: which are supported, what is read of a checkpoint, and the errors."""

from __future__ import annotations

import json
import re
import shutil
import socket

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from qvl_attn.core.errors import InputError, MemoryLimitError, ModelError
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.spec import FAMILIES, SUPPORTED
from tests.helpers import tiny_encoders

CLASSES = "ViTForImageClassification"


def load(folder, **options) -> EncoderEngine:
    return EncoderEngine.load(str(folder), **{"device": "cpu", "dtype": "float32"} | options)


@pytest.fixture
def copy_of(tmp_path):
    """A function that copies a checkpoint, which a test may break; with or without the weights."""

    def copy_of(name, *, weights=True, **changes):
        out = tmp_path / name
        ignored = shutil.ignore_patterns(*(() if weights else ("*.safetensors",)))
        shutil.copytree(tiny_encoders.folder(name), out, ignore=ignored)
        config = json.loads((out / "config.json").read_text()) | changes
        (out / "config.json").write_text(json.dumps(config))
        return out

    return copy_of


@pytest.mark.parametrize("name", tiny_encoders.NAMES)
def test_every_weight_is_the_checkpoints(name):
    ours, theirs = tiny_encoders.encoder(name).model, tiny_encoders.plain(name)
    theirs = theirs.model.visual if name == tiny_encoders.QWEN else theirs
    assert type(ours) is type(theirs)
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not any(weight.requires_grad for weight in tiny_encoders.encoder(name).model.parameters())
    assert not tiny_encoders.encoder(name).model.training


def test_every_supported_class_is_tested():
    tested = {kind for kind, *_ in tiny_encoders.SPECS.values()} | {"Qwen2_5_VisionTransformerPretrainedModel"}
    assert tested == {kind for family in FAMILIES.values() for kind in family.models}


@pytest.mark.parametrize("kind", ["bert", "llava", "dinov3_vit", "", None, ["vit"], 7])
def test_an_unsupported_family_is_refused_before_its_weights_are_searched(copy_of, kind):
    folder = copy_of("dino", weights=False, model_type=kind)
    message = f"is a {kind!r} model, not a supported vision encoder".replace("[", r"\[")
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert SUPPORTED in caught.value.hint
    for family in FAMILIES.values():
        assert all(part in SUPPORTED for part in family.name.split(" or "))


@pytest.mark.parametrize("text", ["{", "[]", "3", '"vit"', "null", "\xff", "[" * 100_000], ids=lambda text: text[:6])
def test_a_config_that_cannot_be_read(copy_of, text):
    folder = copy_of("dino")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load(folder)


def test_no_config(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json in it"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dino", {"patch_size": "large"}),
        ("dino", {"patch_size": None}),
        ("dino", {"patch_size": 0}),
        ("dino", {"image_size": 0}),
        ("dino", {"num_hidden_layers": "three"}),
        ("dino", {"num_attention_heads": 5}),
        ("clip", {"vision_config": {"image_size": -1}}),
        ("clip", {"vision_config": 3}),
        (tiny_encoders.QWEN, {"vision_config": {"depth": "four"}}),
    ],
    ids=str,
)
def test_an_inconsistent_config(copy_of, name, changes):
    with pytest.raises(ModelError, match=r"config|misshapen"):
        _ = load(copy_of(name, **changes)).model


@pytest.mark.parametrize(("name", "field"), [("dino", "patch_size"), ("dino", "image_size"), ("dinov2", "patch_size")])
def test_patches_that_are_not_square(copy_of, name, field):
    with pytest.raises(ModelError, match=f"{field} 14 x 28: patches and training pictures that are not square"):
        load(copy_of(name, **{field: [14, 28]}))


def test_equal_height_and_width_are_a_square(copy_of):
    folder = copy_of("dino", patch_size=[14, 14], image_size=[70, 70])
    media = tiny_encoders.picture(90, 70)
    attention = load(folder).encode(media).attention
    assert (attention.patch_px, attention.grid) == (14, (1, 5, 5))
    assert np.array_equal(attention.received, tiny_encoders.encoder("dino").encode(media).attention.received)


@pytest.mark.parametrize(("name", "method"), [("dino", "awq"), (tiny_encoders.QWEN, "bitsandbytes")])
def test_quantised(copy_of, name, method):
    with pytest.raises(ModelError, match=rf"is quantised \({method}\)"):
        load(copy_of(name, quantization_config={"quant_method": method}))


def test_only_pickled_weights(copy_of):
    folder = copy_of("dino", weights=False)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelError, match="no safetensors weights") as caught:
        load(folder)
    assert "pickled" in caught.value.hint


def test_weights_that_are_cut_off(copy_of):
    folder = copy_of("dino")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="its weights cannot be loaded"):
        load(folder).encode(tiny_encoders.picture(70, 70))


def rewrite(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["dino", "clip", "registers", tiny_encoders.QWEN])
@pytest.mark.parametrize("damage", ["missing", "misshapen"])
def test_weights_that_are_missing_or_misshapen(copy_of, name, damage):
    folder = copy_of(name)

    def change(weights):
        key = next(key for key in weights if "norm" in key and (name != tiny_encoders.QWEN or "visual" in key))
        weight = weights.pop(key)
        return weights if damage == "missing" else weights | {key: torch.zeros(len(weight) + 1)}

    rewrite(folder, change)
    with pytest.raises(ModelError, match=rf"1 weight is {damage}, such as .*norm"):
        _ = load(folder).model


@pytest.mark.parametrize("prefix", ["model.visual.", "visual."])
def test_only_the_tower_of_a_whole_qwen_is_loaded(copy_of, prefix, capfd, caplog):
    """The original files of the model have no `model.` prefix; those that transformers writes today have it."""
    folder = copy_of(tiny_encoders.QWEN)
    assert any(key.startswith("visual.") for key in load_file(folder / "model.safetensors"))
    rewrite(
        folder, lambda weights: {key.replace("visual.", prefix, 1): weight.clone() for key, weight in weights.items()}
    )
    caplog.set_level("INFO", "qvl_attn")
    encoder = load(folder)
    theirs = tiny_encoders.plain(tiny_encoders.QWEN).model.visual.state_dict()
    ours = encoder.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # Only the weights of the tower are in memory and are counted.
    held = sum(weight.numel() * weight.itemsize for weight in encoder.model.parameters())
    assert held == encoder.placement.weight_bytes
    assert held < 0.5 * (folder / "model.safetensors").stat().st_size
    assert caplog.messages[0].startswith(f"{folder} ({encoder.checkpoint.revision[:12]}): float32 on cpu")
    assert [re.sub(r"\d+", "N", message) for message in caplog.messages[1:]] == [
        "loading the weights: N MiB",
        "loaded in N.N s",
    ]
    assert "unexpected" not in capfd.readouterr().err.lower()


def test_a_checkpoint_for_another_task_is_loaded_as_the_default_class(tmp_path):
    whole = tiny_encoders.randomize(transformers.ViTForMaskedImageModeling(tiny_encoders.SPECS["dino"][1]()))
    whole.config.encoder_stride = 14
    whole.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 70, "width": 70}).save_pretrained(tmp_path)
    encoder = load(tmp_path)
    assert encoder.spec.model_class == "ViTModel"
    media = tiny_encoders.picture(80, 90)
    inputs, _ = encoder.read(media, EncoderSettings())
    whole.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = whole.vit(inputs.tensors["pixel_values"], output_attentions=True).attentions
    expected = torch.stack(attentions)[:, 0, :, 1:].mean(dim=2).numpy()
    assert np.abs(encoder.encode(media).attention.received[:, :, 0] - expected).max() < 1e-6


@pytest.mark.parametrize("architectures", [None, [], ["VitTypo", CLASSES]])
def test_the_class_is_the_first_that_is_known(copy_of, architectures):
    spec = load(copy_of("vit-classes", architectures=architectures)).spec
    assert spec.model_class == (
        "ViTForImageClassification" if isinstance(architectures, list) and architectures else "ViTModel"
    )


def test_no_image_processor(copy_of):
    folder = copy_of("dino")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="it has no image processor"):
        load(folder)
    (folder / "preprocessor_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="its image processor cannot be loaded"):
        load(folder)


def test_no_tokenizer(copy_of):
    """Without its files transformers builds an empty tokenizer, for which all texts are the same."""
    folder = copy_of("clip")
    (folder / "tokenizer.json").unlink()
    encoder = load(folder)
    with pytest.raises(ModelError, match="it has no tokenizer"):
        encoder.read(tiny_encoders.picture(80, 80), EncoderSettings(saliency=True, texts=("a cat",)))
    encoder.read(tiny_encoders.picture(80, 80), EncoderSettings())


def test_texts_that_are_the_same_to_the_tokenizer():
    encoder = tiny_encoders.encoder("clip")
    word = next(iter(tiny_encoders.WORDS))
    with pytest.raises(InputError, match="are the same to the model's tokenizer"):
        encoder.read(tiny_encoders.picture(80, 80), EncoderSettings(saliency=True, texts=(word, f" {word}")))


@pytest.mark.parametrize(
    "options",
    [{"device": "mps"}, {"device": "gpu"}, {"device": "cuda:9"}, {"dtype": "int8"}, {"revision": "main"}],
    ids=str,
)
def test_unknown_options(options):
    with pytest.raises(InputError):
        load(tiny_encoders.folder("dino"), **options)


def test_a_name_that_is_neither_folder_nor_id(tmp_path):
    with pytest.raises(InputError, match="no such folder, and no Hugging Face id"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="not in the cache, and `offline=True` forbids downloading it"):
        load("nobody/nothing", offline=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model: its cache, and the downloads as (revision, whether with weights)."""
    cached, fetched = tmp_path / "snapshots" / ("c0ffee" * 6 + "0000"), []

    def snapshot(name, *, revision, allow_patterns, local_files_only=False):
        assert name == "someone/encoder"
        if local_files_only and not cached.is_dir():
            raise OSError("not in the cache")
        if not local_files_only:
            fetched.append((revision, "*.safetensors" in allow_patterns))
            cached.mkdir(parents=True, exist_ok=True)
            for pattern in allow_patterns:
                for file in tiny_encoders.folder("dino").glob(pattern):
                    shutil.copy(file, cached)
        return str(cached)

    monkeypatch.setattr("qvl_attn.model.checkpoint.snapshot_download", snapshot)
    return cached, fetched


def test_weights_are_fetched_when_they_are_needed(hub):
    cached, fetched = hub
    encoder = load("someone/encoder", revision="main")
    assert fetched == [("main", False)]
    for settings in (EncoderSettings(layer=99), EncoderSettings(at=((900, 1),)), EncoderSettings(saliency=True)):
        with pytest.raises(InputError):
            encoder.encode(tiny_encoders.picture(90, 80), settings)
    assert fetched == [("main", False)]
    before = encoder.provenance
    assert before.revision == cached.name
    result = encoder.encode(tiny_encoders.picture(90, 80))
    assert fetched == [("main", False), (cached.name, True)]
    assert np.array_equal(
        result.attention.received,
        tiny_encoders.encoder("dino").encode(tiny_encoders.picture(90, 80)).attention.received,
    )
    again = load("someone/encoder", offline=True)
    assert result.provenance == before == again.provenance
    again.encode(tiny_encoders.picture(90, 80))
    assert len(fetched) == 2


def test_weights_that_are_not_in_the_cache_are_not_fetched_offline(hub):
    _, fetched = hub
    load("someone/encoder")
    with pytest.raises(ModelError, match="not in the cache, and `offline=True` forbids downloading it"):
        load("someone/encoder", offline=True).encode(tiny_encoders.picture(90, 80))
    assert fetched == [(None, False)]


def test_weights_that_do_not_fit(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(MemoryLimitError, match="the weights do not fit"):
        load(tiny_encoders.folder("dino"))


@pytest.mark.parametrize("name", ["clip", "dino", "registers", tiny_encoders.QWEN])
def test_a_local_folder_needs_no_network(name, monkeypatch):
    def refuse(*args):
        raise AssertionError(f"network access: {args[1:]}")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load(tiny_encoders.folder(name)).encode(tiny_encoders.picture(70, 70))


def test_code_in_a_checkpoint_is_never_run(copy_of, tmp_path):
    folder = copy_of("dino", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoImageProcessor": "evil.Evil"}}))
    load(folder).encode(tiny_encoders.picture(70, 70))
    assert not (tmp_path / "ran").exists()
    file.write_text(json.dumps({"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.Evil"}}))
    with pytest.raises(ModelError, match="its image processor cannot be loaded"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_the_demo_has_an_encoder():
    encoder = EncoderEngine.load("demo", device="cpu", dtype="float32")
    result = encoder.encode(tiny_encoders.picture(112, 84), EncoderSettings())
    assert result.attention.family == result.provenance.family == "Qwen2.5-VL"
    assert result.attention.received.shape == (4, 4, 1, 48)
    assert result.seconds.keys() == {"prepare", "look"}
