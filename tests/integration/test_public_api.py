"""What users call: options by name, what is refused, and messages that are logged."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from qvl_attn import Analyzer, Encoder
from qvl_attn.core.errors import ArgumentError
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.media.image import load_picture
from tests.conftest import DEMO_PICTURES
from tests.helpers import tiny_encoders

CLIP = DEMO_PICTURES / "clip.mp4"
QUESTION = "how many cats?"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(tiny_encoders.encoder("dino"))


# By name: the nearest option, and a call with an unknown one.
CALLS = {
    "load": ("device", lambda demo, encoder, cats: Analyzer.load("demo", devise="cpu")),
    "load an encoder": ("device", lambda demo, encoder, cats: Encoder.load("demo", devise="cpu")),
    "ask": ("query", lambda demo, encoder, cats: demo.ask(cats, QUESTION, quary="last")),
    "ask_many": ("batch_size", lambda demo, encoder, cats: demo.ask_many([(cats, QUESTION)], batchsize=3)),
    "ask_video": ("max_frames", lambda demo, encoder, cats: demo.ask_video(CLIP, QUESTION, frames=3)),
    "check": ("methods", lambda demo, encoder, cats: demo.check([], "out", method="mean")),
    "estimate": ("max_pixels", lambda demo, encoder, cats: demo.estimate(cats, max_pixel=9000)),
    "encode": ("layer", lambda demo, encoder, cats: encoder.encode(cats, layers=1)),
    "encode_folder": ("embeddings", lambda demo, encoder, cats: encoder.encode_folder("in", "out", embedding="pca")),
    "pooled": ("min_pixels", lambda demo, encoder, cats: encoder.pooled(cats, minpixels=9000)),
}


@pytest.mark.parametrize(("nearest", "call"), CALLS.values(), ids=CALLS)
def test_an_unknown_option_is_refused_with_the_nearest_name(nearest, call, demo, encoder, cats, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match="no such argument") as caught:
        call(demo, encoder, cats)
    assert caught.value.hint == f"did you mean `{nearest}`?"
    assert not list(tmp_path.iterdir())


def test_an_option_of_another_function_is_refused_with_all_that_there_are(demo, cats):
    with pytest.raises(ArgumentError, match="`on_token`: no such argument") as caught:
        demo.ask_many([(cats, QUESTION)], on_token=print)
    assert caught.value.hint.startswith("there are batch_size, progress, cancel, query, ")
    assert caught.value.hint.endswith("out, drawing, overwrite")


def test_only_what_users_call_is_shown(demo, encoder):
    shown = {name for name in dir(demo) if not name.startswith("_")}
    assert shown == {"ask", "ask_many", "ask_video", "check", "engine", "estimate", "load"}
    shown = {name for name in dir(encoder) if not name.startswith("_")}
    assert shown == {"encode", "encode_folder", "engine", "load", "pooled"}


def test_options_of_an_encoder_replace_those_of_its_settings(encoder, cats):
    settings = EncoderSettings(at=((5.0, 6.0),), layer=1, max_pixels=9000)
    assert encoder.encode(cats, settings, layer=0).settings == EncoderSettings(
        at=((5.0, 6.0),), layer=0, max_pixels=9000
    )
    vectors = encoder.engine.pooled(load_picture(cats), EncoderSettings(max_pixels=9000))
    assert np.array_equal(encoder.pooled(cats, settings), vectors)
    assert np.array_equal(encoder.pooled(load_picture(cats), max_pixels=9000), vectors)
    assert not np.allclose(encoder.pooled(cats), vectors)


def test_a_clip_named_by_its_path_is_pooled_over_its_steps(encoder):
    (media, _) = encoder.engine.load_media(CLIP)
    assert np.array_equal(encoder.pooled(CLIP), encoder.engine.pooled(media))


def test_a_program_that_asks_for_no_messages_gets_none(cats, capfd):
    Analyzer.load("demo", device="cpu", dtype="float32").ask(cats, QUESTION, max_new_tokens=2)
    assert capfd.readouterr() == ("", "")
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("qvl_attn").handlers)


def test_a_program_that_asks_for_messages_gets_them(cats, engine, monkeypatch, caplog):
    caplog.set_level("INFO", "qvl_attn")
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: engine.model)
    analyzer = Analyzer.load("demo", device="cpu", dtype="bfloat16", attn="eager")
    analyzer.engine.settings(profile="none")
    analyzer.ask(cats, QUESTION, max_new_tokens=2)
    first, *others = caplog.messages
    assert first.startswith(f"demo ({analyzer.engine.checkpoint.revision[:12]}): bfloat16 on cpu (")
    assert others[:2] == [
        "eager attention in 16 bits can change the answer; `attn='rows'` does not",
        "eager attention: asked for",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert {record.name for record in caplog.records} == {"qvl_attn.vqa.engine", "qvl_attn.core.runtime"}
