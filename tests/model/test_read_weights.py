"""Weights that are read: each is reported, nothing is printed, and transformers is as the program had set it."""

from __future__ import annotations

import logging
import threading
from functools import partial

import numpy as np
import pytest
from transformers.utils import logging as transformers_logging

from qvl_attn import Analyzer, Encoder
from qvl_attn.core.errors import Cancelled
from qvl_attn.core.runtime import cancelling, reporting
from qvl_attn.encoders.loading import load_encoder_weights
from qvl_attn.model.loading import LOADING
from tests.helpers import tiny_encoders
from tests.helpers.cancelling import Cancel

OPTIONS = {"device": "cpu", "dtype": "float32"}
PICTURE = tiny_encoders.picture(84, 84)


class Lines(logging.Handler):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def emit(self, record):
        self.seen.append(record.getMessage())


@pytest.fixture
def seen():
    """What a program sees that has its own hook, log level and handler of transformers, which it must keep."""
    seen = []

    def hook(bar, args, options):
        seen.append(options["desc"])
        return transformers_logging.EmptyTqdm(*args, **options)

    log, lines = logging.getLogger("transformers"), Lines(seen)
    level, before = log.level, transformers_logging.set_tqdm_hook(hook)
    log.addHandler(lines)
    log.setLevel(logging.WARNING)
    yield seen
    after = log.level, transformers_logging.set_tqdm_hook(before)
    log.removeHandler(lines)
    log.setLevel(level)
    assert after == (logging.WARNING, hook)


@pytest.fixture(params=["questions", "encoder", "tower"])
def load(request):
    """Return a model that is not loaded, and what runs it, which returns numbers."""
    folder = tiny_encoders.folder("qwen" if request.param == "tower" else "dino")

    def load():
        if request.param == "questions":
            analyzer = Analyzer.load("demo", **OPTIONS)
            return analyzer, lambda **more: analyzer.ask(PICTURE, "?", max_new_tokens=1, **more).capture.weights
        encoder = Encoder.load(str(folder), **OPTIONS)
        return encoder, lambda **more: encoder.pooled(PICTURE, **more)

    return load


def test_each_weight_is_reported_and_nothing_is_printed(load, seen, capfd):
    (model, run), calls = load(), []
    run(progress=lambda *call: calls.append(call))
    total = len(list(model.engine.model.parameters()))
    assert calls[: total + 1] == [(LOADING, done, total) for done in range(total + 1)]
    assert {stage for stage, *_ in calls[total + 1 :]} <= {"answer tokens", "encoding"}
    assert seen == []
    assert capfd.readouterr() == ("", "")


def test_reading_is_cancelled_and_begins_anew(load, seen):
    (model, run), calls, cancel = load(), [], Cancel("_reported", nth=3)
    with pytest.raises(Cancelled):
        run(progress=lambda *call: calls.append(call), cancel=cancel)
    assert [call[:2] for call in calls] == [(LOADING, done) for done in range(3)]
    assert cancel.matches == 3
    assert "model" not in vars(model.engine)
    _, run_another = load()
    assert np.array_equal(run(), run_another())
    assert seen == []


def test_what_the_progress_raises_is_no_fault_of_the_files(seen):
    cause = KeyError("cause")

    def fail(stage, done, total):
        raise ValueError("on purpose") from cause

    encoder = Encoder.load(str(tiny_encoders.folder("dino")), **OPTIONS)
    with pytest.raises(ValueError, match="on purpose") as caught:
        encoder.encode(PICTURE, progress=fail)
    assert caught.value.__cause__ is cause


def test_several_threads_load_and_use_transformers_at_once(seen):
    """While one reads, another waits with its own progress, a cancelled one ends, and a program has its own bar."""
    engine = tiny_encoders.encoder("dino")
    read = partial(load_encoder_weights, engine.checkpoint, engine.spec, engine.config, engine.placement)
    seen.clear()  # of the first use of the encoder
    calls, its_calls, faults = [], [], []

    def read_second():
        with reporting(lambda *call: its_calls.append(call)):
            read()

    def read_third():
        try:
            with cancelling(lambda: True):
                read()
        except Cancelled as fault:
            faults.append(fault)

    def show_bar():
        assert list(transformers_logging.tqdm([1, 2], desc="Loading weights")) == [1, 2]

    waiting, *others = (threading.Thread(target=run, daemon=True) for run in (read_second, read_third, show_bar))

    def report(*call):
        calls.append(call)
        if len(calls) == 1:
            waiting.start()
            for thread in others:
                thread.start()
                thread.join(20)
            assert not any(thread.is_alive() for thread in others)
            assert not its_calls

    with reporting(report):
        read()
    waiting.join(20)
    assert calls == its_calls
    assert len(faults) == 1
    assert seen == ["Loading weights"]
