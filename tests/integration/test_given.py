"""Questions and encoders about pictures that have no file: answered as their files, saved, found again, redrawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from qvl_attn import Encoder, Result, redrawn
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.render.style import Drawing
from tests.helpers import tiny_encoders

QUESTION = "how many cats?"
SMALL = Drawing(draw_size_px=64)


@pytest.fixture
def picture(make_picture):
    return make_picture(84, 112)


def pixels_of(path):
    with Image.open(path) as image:
        return np.array(image)


def test_a_question_is_answered_as_about_the_file(demo, picture):
    options = {"max_new_tokens": 2}
    with Image.open(picture) as image:
        given = [image, pixels_of(picture)]
        expected = demo.ask(picture, QUESTION, **options)
        results = [demo.ask(each, QUESTION, **options) for each in given]
        several = demo.ask(image, QUESTION, pixels_of(picture), **options)
        results += demo.ask_many([(each, QUESTION) for each in given], **options)
        assert demo.estimate(image, QUESTION).job == demo.estimate(picture, QUESTION).job
    for result in results:
        assert result.answer == expected.answer
        assert np.allclose(result.capture.weights, expected.capture.weights, atol=1e-5)
    assert [media.source for media in several.media] == ["random.png", "picture"]
    assert demo.ask(picture, QUESTION, [picture], **options).answer == several.answer


def test_it_is_saved_found_again_and_redrawn(demo, picture, tmp_path):
    options = {"max_new_tokens": 1, "out": tmp_path / "out", "drawing": SMALL}
    array, tokens = pixels_of(picture), []
    first = demo.ask(array, QUESTION, on_token=tokens.append, **options)
    assert tokens
    tokens.clear()
    again = demo.ask(Image.fromarray(array), QUESTION, on_token=tokens.append, **options)
    assert not tokens, "it was found"
    assert np.array_equal(again.media[0].frames[0], array)
    (folder,) = (path.parent for path in (tmp_path / "out").rglob("result.json"))
    assert (folder / "picture_1.png").is_file()
    loaded = Result.load(folder)
    assert loaded.media[0].sha256 == first.media[0].sha256
    assert np.array_equal(redrawn(loaded, media=array).media[0].frames[0], array)
    demo.ask(array[:, ::-1], QUESTION, on_token=tokens.append, **options)
    assert tokens, "another picture of the same name"


def test_an_encoder_takes_it_too(picture, tmp_path):
    encoder, array = Encoder(tiny_encoders.encoder("dino")), pixels_of(picture)
    expected = encoder.encode(picture).attention.received
    with Image.open(picture) as image:
        for given in (image, array):
            assert np.array_equal(encoder.encode(given).attention.received, expected)
            assert np.array_equal(encoder.pooled(given), encoder.pooled(picture))
        first = encoder.encode(array, out=tmp_path / "out", drawing=SMALL)
        (file,) = (tmp_path / "out").rglob("result.json")
        written = file.stat().st_mtime_ns
        encoder.encode(array.copy(), out=tmp_path / "out", drawing=SMALL)
    assert file.stat().st_mtime_ns == written, "it was found"
    assert EncoderResult.load(file.parent).media[0].sha256 == first.media[0].sha256


def test_what_is_no_picture_is_refused_in_one_line(demo):
    encoder = Encoder(tiny_encoders.encoder("dino"))
    for call in (
        lambda: demo.ask(3, QUESTION),
        lambda: demo.ask_many([(3, QUESTION)]),
        lambda: demo.ask(np.zeros((56, 56, 3), np.uint8), QUESTION, 3),
        lambda: demo.estimate(3),
        lambda: encoder.encode(3),
        lambda: encoder.pooled(3),
    ):
        with pytest.raises(TypeError, match=r"^`\w+`: want a path, a PIL image, .* or a Media, got int$"):
            call()
