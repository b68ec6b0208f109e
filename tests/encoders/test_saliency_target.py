"""The targets of saliency maps: classes by name and number, texts, and their errors before weights are loaded."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec

import pytest

from qvl_attn.core.errors import InputError, ModelError
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.record import EncoderSettings
from tests.helpers import tiny_encoders

PICTURE = tiny_encoders.picture(110, 70, seed=3)


def settings_of(name: str, **options) -> EncoderSettings:
    texts = ("a cat",) if name in tiny_encoders.WITH_TEXT else ()
    return EncoderSettings(saliency=True, **{"texts": texts, **options})


def fresh_encoder(name: str, folder) -> EncoderEngine:
    """Load an encoder that a test may change."""
    shutil.copytree(tiny_encoders.folder(name), folder / name)
    return EncoderEngine.load(str(folder / name), device="cpu", dtype="float32")


@pytest.mark.parametrize("label", ["red square", "RED Square ", "2"])
def test_a_class_by_name_or_number(label):
    maps = tiny_encoders.encoder("vit-classes").encode(PICTURE, settings_of("vit-classes", label=label)).saliency
    assert {saliency_map.target for saliency_map in maps} == {"red square"}


ERRORS = [
    ("dino", {}, "neither classes nor a text tower"),
    ("clip-vision", {}, "neither classes nor a text tower"),
    ("siglip-vision", {"texts": ("a cat",)}, "neither classes nor a text tower"),
    (tiny_encoders.QWEN, {}, "`method='gradient'`"),
    ("clip", {"texts": ()}, "none is given"),
    ("siglip", {"texts": ("a cat", " ")}, "the text after `texts` is empty"),
    ("clip", {"texts": ("a </s> cat",)}, "contains '</s>'"),
    ("clip", {"texts": ("cat \ud800",)}, "not valid Unicode"),
    ("clip", {"texts": ("cat",) * 2}, "twice"),
    ("clip", {"texts": ("a " * 15,)}, "17 tokens; the encoder reads at most 16"),
    ("siglip", {"texts": ("a " * 15,)}, "17 tokens; the encoder reads at most 16"),
    ("clip", {"label": "cat"}, "has no classes"),
    ("clip-classes", {"texts": ("a cat",)}, "no text tower"),
    ("vit-classes", {"label": "red squire"}, r"none of the encoder's 5 classes.*\(similar names: red square\)"),
    ("vit-classes", {"label": "circle"}, "similar names: blue circle"),
    ("vit-classes", {"label": "5"}, "a number from 0 to 4"),
    ("vit-classes", {"label": "-1"}, "a number from 0 to 4"),
    ("vit-classes", {"label": ""}, "a number from 0 to 4"),
    ("vit-classes", {"label": "²"}, "a number from 0 to 4"),
]


@pytest.mark.parametrize(("name", "options", "message"), ERRORS)
def test_errors_are_found_before_the_weights_are_loaded(name, options, message):
    encoder = EncoderEngine.load(str(tiny_encoders.folder(name)), device="cpu", dtype="float32")
    settings = settings_of(name, **options)
    with pytest.raises(InputError, match=message):
        encoder.encode(PICTURE, settings)
    assert "model" not in vars(encoder)


def test_a_text_of_the_maximum_length():
    assert len(tiny_encoders.encoder("clip").encode(PICTURE, settings_of("clip", texts=("a " * 14,))).saliency) == 2


def test_two_classes_of_one_name(tmp_path):
    encoder = fresh_encoder("vit-classes", tmp_path)
    encoder.config.id2label = {0: "crane", 1: "dog", 2: "Crane", 3: "7", 4: "grass"}
    with pytest.raises(InputError, match="one of the numbers 0, 2"):
        encoder.encode(PICTURE, settings_of("vit-classes", label="crane"))
    assert encoder.saliency_target(settings_of("vit-classes", label="2")).label == 2
    assert encoder.saliency_target(settings_of("vit-classes", label="7")).label == 3


@pytest.mark.parametrize("options", [{"texts": ("a cat",)}, {"label": "cat"}, {"label": ""}])
def test_targets_without_saliency_are_refused(options):
    with pytest.raises(InputError, match="add `saliency=True`"):
        EncoderSettings(**options)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is there")
def test_a_tokenizer_whose_library_is_missing(tmp_path):
    encoder = fresh_encoder("siglip", tmp_path)
    settings = encoder.checkpoint.folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": "SiglipTokenizer"}))
    with pytest.raises(ModelError, match=r"\(pip install sentencepiece\)"):
        encoder.encode(PICTURE, settings_of("siglip"))
