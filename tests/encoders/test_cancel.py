"""A cancelled encoder ends where it is and is as it was; a cancelled run over a folder is continued."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from qvl_attn.core.errors import Cancelled
from qvl_attn.encoder import Encoder
from qvl_attn.encoders.record import EncoderSettings
from tests.helpers import tiny_encoders
from tests.helpers.cancelling import Cancel, state_of

TEXTS = ("a photo of a cat", "the red square on grass")
# By model: settings, and what runs where it is cancelled with the number of the call among those there.
CASES = {
    tiny_encoders.QWEN: (
        EncoderSettings(at=((20, 20),), embeddings=("pca",)),
        {
            "attention": (("capture_attention", "run_encoder"), 2),
            "embeddings": (("read_states", "run_encoder"), tiny_encoders.LAYERS),
        },
    ),
    "clip": (
        EncoderSettings(saliency=True, texts=TEXTS),
        {
            "a text": (("_embed_texts",), 1),
            "scores": (("saliency", "_similarities"), 1),
            "gradients, forward": (("_explain", "_similarities"), tiny_encoders.LAYERS),
            "gradients, backward": (("_explain", "grad"), 2),
        },
    ),
    "registers-classes": (EncoderSettings(saliency=True), {"gradients": (("_explain", "grad"), 1)}),
}


def values(result):
    arrays = [result.attention.received, result.similarity, *(saliency.values for saliency in result.saliency)]
    arrays.append(result.embedding and result.embedding.components)
    return [array for array in arrays if array is not None]


@pytest.mark.parametrize(
    "media", [tiny_encoders.picture(84, 84), tiny_encoders.clip(84, 84, 4)], ids=["picture", "clip"]
)
@pytest.mark.parametrize("name", CASES)
def test_an_encoder_is_cancelled_in_each_of_its_passes(name, media):
    encoder, (settings, places) = Encoder(tiny_encoders.encoder(name)), CASES[name]
    expected = values(encoder.encode(media, settings))
    assert len(expected) >= 3
    before = state_of(encoder.engine.model)
    for place, (functions, nth) in places.items():
        cancel = Cancel(*functions, nth=nth)
        with pytest.raises(Cancelled):
            encoder.encode(media, settings, cancel=cancel)
        assert cancel.matches == nth, f"{place}: it went on after it was cancelled"
        assert state_of(encoder.engine.model) == before, place
    after = values(encoder.encode(media, settings, cancel=lambda: False))
    assert all(np.array_equal(a, b) for a, b in zip(after, expected, strict=True))


@pytest.mark.parametrize("method", ["encode", "pooled"])
def test_it_is_cancelled_by_a_layer_and_by_a_call_of_progress(method):
    encoder, media, calls = Encoder(tiny_encoders.encoder("dino")), tiny_encoders.picture(80, 80), []
    run, before = getattr(encoder, method), state_of(encoder.engine.model)
    cancel = Cancel("run_encoder", nth=2)
    with pytest.raises(Cancelled):
        run(media, cancel=cancel)
    assert cancel.matches == 2
    assert state_of(encoder.engine.model) == before
    with pytest.raises(Cancelled):
        run(
            media,
            progress=lambda *call: calls.append(call),
            cancel=lambda: ("encoding", 2, tiny_encoders.LAYERS) in calls,
        )
    assert calls[-1] == ("encoding", 2, tiny_encoders.LAYERS)


@pytest.mark.parametrize("method", ["encode", "pooled"])
def test_a_clip_is_cancelled_while_it_is_decoded(method, clip_file):
    calls = []
    with pytest.raises(Cancelled):
        getattr(Encoder(tiny_encoders.encoder("dino")), method)(
            clip_file(20), progress=lambda *call: calls.append(call), cancel=lambda: ("decoding", 3, 20) in calls
        )
    assert calls == [("decoding", i, 20) for i in range(1, 4)]


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(4):
        Image.fromarray(tiny_encoders.pixels(80, 80, i)[0]).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("functions", [("capture_and_pool", "run_encoder"), ("cancelling._progress_or_end",)])
def test_a_cancelled_folder_run_is_continued(photos, tmp_path, monkeypatch, functions):
    """Within a picture and between two: no picture becomes an error."""
    monkeypatch.setattr(
        "qvl_attn.encoders.folder_summary.draw_folder_statistics", lambda *args: np.zeros((4, 4, 3), np.uint8)
    )
    monkeypatch.setattr("qvl_attn.encoders.folder_summary.folder_images", lambda *args: ())
    encoder, options = Encoder(tiny_encoders.encoder("dino")), {"embeddings": ("pca",)}
    whole = encoder.encode_folder(photos, tmp_path / "whole", **options)
    rows = tmp_path / "run" / "scores.jsonl"
    before = state_of(encoder.engine.model)
    cancel = Cancel(*functions, also=lambda: rows.exists() and rows.read_bytes().count(b"\n") == 2)
    with pytest.raises(Cancelled):
        encoder.encode_folder(photos, tmp_path / "run", cancel=cancel, **options)
    assert state_of(encoder.engine.model) == before
    written = rows.read_bytes()
    assert [json.loads(line)["status"] for line in written.splitlines()] == ["ok", "ok"]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert encoder.encode_folder(photos, tmp_path / "run", **options) == whole
    assert rows.read_bytes().startswith(written)
    assert rows.read_bytes() == (tmp_path / "whole" / "scores.jsonl").read_bytes()


@pytest.mark.parametrize("error", [ValueError, OSError, MemoryError])
@pytest.mark.parametrize("argument", ["cancel", "progress"])
def test_what_a_callback_raises_is_nobody_elses_fault(photos, tmp_path, argument, error):
    encoder, expected = Encoder(tiny_encoders.encoder("dino")), error("on purpose")
    before = state_of(encoder.engine.model)

    def fail(*values):
        raise expected

    with pytest.raises(error) as caught:
        encoder.encode(tiny_encoders.picture(80, 80), **{argument: fail})
    assert caught.value is expected
    with pytest.raises(error) as caught:
        encoder.encode_folder(photos, tmp_path / "run", **{argument: fail})
    assert caught.value is expected
    assert not (tmp_path / "run" / "scores.jsonl").exists(), "no picture became an error"
    assert state_of(encoder.engine.model) == before


def test_what_progress_raises_while_a_result_is_saved_is_no_fault_of_the_folder(tmp_path):
    result, expected = (
        Encoder(tiny_encoders.encoder("dino")).encode(tiny_encoders.picture(80, 80)),
        OSError("on purpose"),
    )

    def fail(*values):
        raise expected

    with pytest.raises(OSError, match="on purpose") as caught:
        result.save(tmp_path / "out", progress=fail)
    assert caught.value is expected
    assert not [*(tmp_path / "out").rglob("result.json")]
