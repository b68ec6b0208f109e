"""What is to be explained: classes by name and number, texts, and every fault in them before weights are loaded."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest

from qvl_attn.core.errors import InputError, ModelError
from qvl_attn.encoder import Encoder
from qvl_attn.encoders.record import EncoderSettings
from tests.helpers import tiny_encoders

PICTURE = tiny_encoders.picture(110, 70, seed=3)


def settings_of(name: str, **more) -> EncoderSettings:
    texts = ("a cat",) if name in tiny_encoders.WITH_TEXT else ()
    return EncoderSettings(saliency=True, **{"texts": texts, **more})


def changed(name: str, folder) -> Encoder:
    """One that may be changed: loaded for itself."""
    shutil.copytree(tiny_encoders.folder(name), folder / name)
    return Encoder.load(str(folder / name), device="cpu", dtype="float32")


@pytest.mark.parametrize("label", ["red square", "RED Square ", "2"])
def test_a_class_by_name_or_number(label):
    found = tiny_encoders.encoder("vit-classes").encode(PICTURE, settings_of("vit-classes", label=label)).saliency
    assert {one.target for one in found} == {"red square"}


FAULTS = [
    ("dino", {}, "neither classes nor a text side"),
    ("clip-vision", {}, "neither classes nor a text side"),
    ("siglip-vision", {"texts": ("a cat",)}, "neither classes nor a text side"),
    (tiny_encoders.QWEN, {}, "--method gradient"),
    ("clip", {"texts": ()}, "there is none"),
    ("siglip", {"texts": ("a cat", " ")}, "the text after --text is empty"),
    ("clip", {"texts": ("a </s> cat",)}, "'</s>' in it"),
    ("clip", {"texts": ("cat \ud800",)}, "not valid Unicode"),
    ("clip", {"texts": ("cat",) * 2}, "twice"),
    ("clip", {"texts": ("a " * 15,)}, "17 tokens, and the encoder reads at most 16"),
    ("siglip", {"texts": ("a " * 15,)}, "17 tokens, and the encoder reads at most 16"),
    ("clip", {"label": "cat"}, "has no classes"),
    ("clip-classes", {"texts": ("a cat",)}, "no text side"),
    ("vit-classes", {"label": "red squire"}, r"knows 5 classes.*\(the nearest: red square\)"),
    ("vit-classes", {"label": "circle"}, "nearest: blue circle"),
    ("vit-classes", {"label": "5"}, "a number from 0 to 4"),
    ("vit-classes", {"label": "-1"}, "a number from 0 to 4"),
    ("vit-classes", {"label": ""}, "a number from 0 to 4"),
    ("vit-classes", {"label": "²"}, "a number from 0 to 4"),
]


@pytest.mark.parametrize(("name", "more", "said"), FAULTS)
def test_faults_are_found_before_the_weights(name, more, said):
    encoder = Encoder.load(str(tiny_encoders.folder(name)), device="cpu", dtype="float32")
    settings = settings_of(name, **more)
    with pytest.raises(InputError, match=said):
        encoder.encode(PICTURE, settings)
    assert "model" not in vars(encoder)


def test_a_text_as_long_as_it_may_be():
    assert len(tiny_encoders.encoder("clip").encode(PICTURE, settings_of("clip", texts=("a " * 14,))).saliency) == 2


def test_two_classes_of_one_name(tmp_path):
    encoder = changed("vit-classes", tmp_path)
    encoder.config.id2label = {0: "crane", 1: "dog", 2: "Crane", 3: "7", 4: "grass"}
    with pytest.raises(InputError, match="one of the numbers 0, 2"):
        encoder.encode(PICTURE, settings_of("vit-classes", label="crane"))
    assert encoder.saliency_target(settings_of("vit-classes", label="2")).label == 2
    assert encoder.saliency_target(settings_of("vit-classes", label="7")).label == 3


@pytest.mark.parametrize("more", [{"texts": ("a cat",)}, {"label": "cat"}, {"label": ""}])
def test_words_without_saliency_are_a_fault(more):
    with pytest.raises(InputError, match="add --saliency"):
        EncoderSettings(**more)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is there")
def test_a_tokenizer_whose_library_is_missing(tmp_path):
    encoder = changed("siglip", tmp_path)
    settings = encoder.checkpoint.folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
    with pytest.raises(ModelError, match=r"\(pip install sentencepiece\)"):
        encoder.encode(PICTURE, settings_of("siglip"))
