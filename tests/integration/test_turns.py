"""Threads that share an `Analyzer` or `Encoder`, and calls from inside a caller's own functions."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from qvl_attn import Analyzer, Encoder
from qvl_attn.core.errors import InputError
from tests.helpers import tiny_encoders

QUESTION = "how many cats?"


def test_four_threads_load_once_and_get_what_one_gets(make_picture, caplog):
    paths = [make_picture(56, 56, f"{i}.png", seed=i) for i in range(4)]
    analyzer, gate = Analyzer.load("demo"), threading.Barrier(4)

    def ask(path):
        gate.wait()
        return analyzer.ask(path, QUESTION, max_new_tokens=2)

    with caplog.at_level(logging.INFO, logger="qvl_attn"), ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, paths))
    assert sum("loading the weights" in message for message in caplog.messages) == 1
    for path, result in zip(paths, together, strict=True):
        alone = analyzer.ask(path, QUESTION, max_new_tokens=2)
        assert result.answer == alone.answer
        assert np.array_equal(result.capture.weights, alone.capture.weights)


@pytest.mark.parametrize("callback", ["progress", "on_token", "cancel"])
def test_a_call_from_inside_is_refused_and_the_next_is_answered(demo, make_picture, callback):
    path = make_picture(56, 56)

    def again(*values):
        demo.ask(path, QUESTION, max_new_tokens=1)

    with pytest.raises(InputError, match="one question at a time: ask after this one has ended"):
        demo.ask(path, QUESTION, max_new_tokens=1, **{callback: again})
    another = Encoder(tiny_encoders.encoder("dino"))
    assert demo.ask(path, QUESTION, max_new_tokens=1, progress=lambda *call: another.pooled(path) is None).answer


def test_threads_share_an_encoder(make_picture):
    encoder, gate = Encoder(tiny_encoders.encoder("dino")), threading.Barrier(4)
    paths = [make_picture(80, 80, f"{i}.png", seed=i) for i in range(4)]

    def encode(path):
        gate.wait()
        return encoder.encode(path).attention.received

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encode, paths))
    for path, received in zip(paths, together, strict=True):
        assert np.array_equal(received, encoder.encode(path).attention.received)
    with pytest.raises(InputError, match="one picture at a time"):
        encoder.encode(paths[0], progress=lambda *call: encoder.pooled(paths[0]))


def test_what_cannot_be_called_is_refused_before_anything_is_read(demo, tmp_path):
    encoder, missing = Encoder(tiny_encoders.encoder("dino")), tmp_path / "missing.png"
    for call in (
        lambda **options: demo.ask(missing, QUESTION, **options),
        lambda **options: demo.ask_many([(missing, QUESTION)], **options),
        lambda **options: demo.ask_video(missing, QUESTION, **options),
        lambda **options: demo.check([], tmp_path / "run", **options),
        lambda **options: encoder.encode(missing, **options),
        lambda **options: encoder.encode_folder(missing, tmp_path / "run", **options),
    ):
        with pytest.raises(TypeError, match=r"`cancel`: want a function such as event\.is_set, got Event"):
            call(cancel=threading.Event())
        with pytest.raises(TypeError, match="`progress`: want a function"):
            call(progress=3)
