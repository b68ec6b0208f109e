"""From Python: values of another type are a plain TypeError before anything runs, and equal requests are one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qvl_attn import Analyzer, Drawing, Encoder, Result, compare_runs, redrawn
from qvl_attn.media.image import load_picture
from tests.conftest import DEMO_PICTURES
from tests.helpers import tiny_encoders
from tests.helpers.kept import kept_files, write_kept
from tests.helpers.small import SMALL_DRAWING
from tests.integration.test_found_again import command, nothing_is_computed

CATS, WIDE, CLIP = (DEMO_PICTURES / name for name in ("cats.png", "wide.png", "clip.mp4"))
QUESTION = "how many cats?"
PICTURES = "want a path, a PIL image, an array (height, width, 3) of uint8 or a Media"
OPTIONS = {
    "heads": (3, "want str or None, got int"),
    "heads as a list": ([3], "want str or None, got list of int"),
    "query": (3, "want str or None, got int"),
    "seed": ("1", "want int, got str"),
    "max_pixels": (60000.0, "want int or None, got float"),
    "layers": (1.5, "want str, int, a sequence of int or None, got float"),
    "profile": (3, "want str or None, got int"),
    "method": (3, "want str or None, got int"),
    "faithfulness": (1, "want bool, got int"),
    "answer": (2, "want str or None, got int"),
    "out": (3, "want str, PathLike or None, got int"),
    "drawing": ("jet", "want Drawing or None, got str"),
}


@pytest.fixture(scope="module")
def unloaded() -> Analyzer:
    return Analyzer.load("demo", device="cpu", dtype="float32")


@pytest.mark.parametrize("case", OPTIONS)
def test_an_option_of_another_type_is_named(case, unloaded):
    name, (value, said) = case.split()[0], OPTIONS[case]
    calls = [
        lambda: unloaded.ask(CATS, QUESTION, **{name: value}),
        lambda: unloaded.ask_many([(CATS, QUESTION)], **{name: value}),
        lambda: unloaded.ask_video(CLIP, QUESTION, **{name: value}),
    ]
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call()
        assert (type(caught.value), str(caught.value)) == (TypeError, f"`{name}`: {said}")
    assert "model" not in vars(unloaded.engine)


# By name: what is said, and the call.
CALLS = {
    "a pair of one": (
        "`pairs`: want pairs of pictures and a question, got ('cats.png',)",
        lambda demo, folder: demo.ask_many([("cats.png",)]),
    ),
    "a text for a pair": (
        "`pairs`: want pairs of pictures and a question, got 'ab'",
        lambda demo, folder: demo.ask_many(["ab"]),
    ),
    "a number for a pair": (
        "`pairs`: want pairs of pictures and a question, got 3",
        lambda demo, folder: demo.ask_many([3]),
    ),
    "a number for a picture": (
        f"`picture`: {PICTURES}, got int",
        lambda demo, folder: demo.ask(3, QUESTION),
    ),
    "a number for more pictures": (f"`images`: {PICTURES}, got int", lambda demo, folder: demo.ask(CATS, QUESTION, 3)),
    "numbers for pictures": (
        f"`pictures`: {PICTURES}, got int",
        lambda demo, folder: demo.ask_many([((3,), QUESTION)]),
    ),
    "a text for a batch": (
        "`batch_size`: want int, got str",
        lambda demo, folder: demo.ask_many([(CATS, QUESTION)], batch_size="2"),
    ),
    "methods of a check": (
        "`methods`: want str or a sequence of str, got int",
        lambda demo, folder: demo.engine.settings(methods=3),
    ),
    "fps": ("`fps`: want float, got str", lambda demo, folder: demo.ask_video(CLIP, QUESTION, fps="2")),
    "a device": ("`device`: want str, got int", lambda demo, folder: Analyzer.load("demo", device=0)),
    "a device of an encoder": ("`device`: want str, got int", lambda demo, folder: Encoder.load("demo", device=0)),
    "a layer of an encoder": (
        "`layer`: want int or None, got str",
        lambda demo, folder: Encoder(tiny_encoders.encoder("dino")).encode(CATS, layer="1"),
    ),
    "heads of a map": (
        "`heads`: want str or None, got int",
        lambda demo, folder: Result.load(write_kept("ask", folder / "kept")).heatmap(heads=3),
    ),
    "a query to draw again": (
        "`query`: want str or None, got int",
        lambda demo, folder: redrawn(Result.load(write_kept("ask", folder / "kept")), query=3),
    ),
    "a folder to draw again": ("`result`: want StoredResult, got str", lambda demo, folder: redrawn("folder")),
    "one run to compare": (
        "`folders`: want a sequence of str or PathLike, got str",
        lambda demo, folder: compare_runs("run"),
    ),
}


@pytest.mark.parametrize(("said", "call"), CALLS.values(), ids=CALLS)
def test_an_argument_of_another_type_is_named(said, call, unloaded, tmp_path):
    with pytest.raises(TypeError) as caught:
        call(unloaded, tmp_path)
    assert (type(caught.value), str(caught.value)) == (TypeError, said)


def test_one_more_picture_is_one(demo):
    results = [
        demo.ask(CATS, QUESTION, images, max_new_tokens=1)
        for images in (str(WIDE), WIDE, load_picture(WIDE), [WIDE], (str(WIDE),))
    ]
    for result in results:
        assert [medium.sha256 for medium in result.media] == [medium.sha256 for medium in results[-1].media]
        assert np.array_equal(result.capture.weights, results[-1].capture.weights)
    assert len(results[-1].media) == 2


@pytest.mark.parametrize(("typed", "text"), [(2, "2"), ([2, 1], "1-2"), ((0, 2, 3), "0,2-3"), (range(2), "0-1")])
def test_layers_as_numbers_are_kept_as_text(typed, text, engine):
    assert engine.settings(layers=typed) == engine.settings(layers=text)
    assert engine.settings(layers=typed).layers == text


def test_layers_as_text_are_kept_as_typed(engine):
    assert engine.settings(layers=" 2, 1").layers == " 2, 1"


def test_a_result_that_was_saved_with_numbers_of_layers_has_their_text(tmp_path):
    saved = json.loads(kept_files("ask")["result.json"])
    saved["settings"]["layers"] = [1, 2]
    folder = write_kept("ask", tmp_path / "kept", **{"result.json": json.dumps(saved).encode()})
    assert Result.load(folder).settings.layers == "1-2"


def test_whole_numbers_are_found_as_the_floats_of_the_command_line(demo, tmp_path, monkeypatch):
    def from_python(number, layers):
        drawing = Drawing(alpha=number(1), top_percent=number(50), blur_cells=number(0), draw_size_px=160)
        options = {"fps": number(1), "start_s": number(0), "end_s": number(1), "max_new_tokens": 1, "layers": layers}
        return demo.ask_video(CLIP, "what moves?", out=tmp_path, drawing=drawing, **options)

    result = from_python(int, [1, 2])
    (folder,) = tmp_path.iterdir()
    assert json.loads((folder / "result.json").read_bytes())["settings"]["layers"] == "1-2"
    with nothing_is_computed(demo.engine, monkeypatch):
        assert np.array_equal(from_python(float, "1-2").capture.weights, result.capture.weights)
    words = ["--fps", "1", "--start", "0", "--end", "1", "--max-new-tokens", "1", "--layers", "1-2"]
    words += ["--alpha", "1", "--top-percent", "50", "--blur", "0", "--draw-size", "160"]
    printed = command("video", [str(CLIP), "what moves?", *words], tmp_path)
    assert (printed["reused"], printed["folder"]) == (True, str(folder))


def test_layers_as_numbers_are_found_again(demo, tmp_path, monkeypatch):
    asked = {"max_new_tokens": 1, "out": tmp_path, "drawing": SMALL_DRAWING}
    demo.ask(CATS, QUESTION, layers=2, **asked)
    with nothing_is_computed(demo.engine, monkeypatch):
        demo.ask(CATS, QUESTION, layers=[2], **asked)
        demo.ask(CATS, QUESTION, layers="2", **asked)
