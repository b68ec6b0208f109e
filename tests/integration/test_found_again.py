"""From Python as from the command line: what was asked before is found again, whoever asked it."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pytest
from typer.testing import CliRunner

from qvl_attn import Analyzer, ClipSettings, Drawing, Encoder, InputError, MemoryLimitError
from qvl_attn.cli.app import app
from tests.conftest import DEMO_PICTURES

CATS, CLIP = DEMO_PICTURES / "cats.png", DEMO_PICTURES / "clip.mp4"
QUESTION = "how many cats?"
# By command: the arguments after the command's name, the call, and the method of the model that does the work.
ASKED = {
    "ask": (
        [str(CATS), QUESTION, "--layers", "1-2", "--method", "relative"],
        lambda analyzer, **options: analyzer.ask(CATS, QUESTION, layers="1-2", method="relative", **options),
    ),
    "video": (
        [str(CLIP), "what moves?", "--fps", "1", "--mode", "both"],
        lambda analyzer, **options: analyzer.ask_video(CLIP, "what moves?", fps=1, mode="both", **options),
    ),
    "encoder": (
        [str(CATS), "--at", "60,160"],
        lambda encoder, **options: encoder.encode(CATS, at=[(60, 160)], **options),
    ),
}


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load("demo", dtype="float32", device="cpu")


@contextmanager
def nothing_is_computed(engine, monkeypatch):
    """The model is not to be run in this block."""
    with monkeypatch.context() as patch:
        for name in ("answer_group", "encode"):
            patch.setattr(engine, name, lambda *args, **options: pytest.fail("computed again"), raising=False)
        yield


def command(name, words, out):
    where = ["--model", "demo", "--device", "cpu", "--dtype", "float32", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, [name, *words, *where])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def arrays(result):
    return result.attention.received if hasattr(result, "attention") else result.capture.weights


@pytest.mark.parametrize("name", ASKED)
def test_a_saved_result_is_found_by_the_other(name, demo, encoder, tmp_path, monkeypatch):
    words, ask = ASKED[name]
    user = encoder if name == "encoder" else demo
    result = ask(user, out=tmp_path)
    (folder,) = tmp_path.iterdir()
    with nothing_is_computed(user.engine, monkeypatch):
        again = ask(user, out=tmp_path)
    assert np.array_equal(arrays(again), arrays(result))
    for media, before in zip(again.media, result.media, strict=True):
        assert (media.source, media.path, media.frames.shape) == (before.source, before.path, before.frames.shape)
    printed = command(name, words, tmp_path)
    assert printed["reused"]
    assert printed["folder"] == str(folder)
    fresh = tmp_path / "fresh"
    assert not command(name, words, fresh)["reused"]
    with nothing_is_computed(user.engine, monkeypatch):
        assert np.array_equal(arrays(ask(user, out=fresh)), arrays(result))


def test_another_drawing_is_another_result_and_overwriting_computes_again(demo, tmp_path):
    for drawing in (None, Drawing(alpha=0.3)):
        demo.ask(CATS, QUESTION, out=tmp_path, drawing=drawing)
    folders = {folder: (folder / "result.json").stat().st_mtime_ns for folder in tmp_path.iterdir()}
    assert len(folders) == 2
    demo.ask(CATS, QUESTION, out=tmp_path, overwrite=True)
    changed = [folder for folder, time in folders.items() if (folder / "result.json").stat().st_mtime_ns != time]
    assert len(changed) == 1


def test_of_many_only_the_missing_are_asked(demo, tmp_path, monkeypatch):
    pairs = [(CATS, "how many cats?"), (CATS, "how many dogs?"), (CATS, "is there a fish?")]
    demo.ask(*pairs[1], out=tmp_path)
    asked, answer = [], demo.engine.answer

    def answer_and_note(questions, *args):
        asked.extend(question.prompt.question for question in questions)
        return answer(questions, *args)

    with monkeypatch.context() as patch:
        patch.setattr(demo.engine, "answer", answer_and_note)
        results = demo.ask_many(pairs, out=tmp_path)
    assert asked == [pairs[0][1], pairs[2][1]]
    assert [result.question for result in results] == [text for _, text in pairs]
    assert len(list(tmp_path.iterdir())) == 3


def test_equal_pairs_are_asked_once(demo, tmp_path, caplog):
    with caplog.at_level("INFO", logger="qvl_attn"):
        results = demo.ask_many([(CATS, QUESTION)] * 3, out=tmp_path)
    assert [result.answer for result in results] == ["2", "2", "2"]
    (folder,) = tmp_path.iterdir()
    assert [line for line in caplog.messages if str(folder) in line] == [
        f"saved in {folder}",
        f"found in {folder}",
        f"found in {folder}",
    ]
    assert results[0].folder(tmp_path) == folder


def test_a_saved_result_needs_no_memory(demo, tmp_path, monkeypatch):
    demo.ask(CATS, QUESTION, out=tmp_path)
    demo.ask_video(CLIP, "what moves?", fps=1, out=tmp_path)
    monkeypatch.setattr(demo.engine, "free_bytes", lambda: 1000)
    demo.ask(CATS, QUESTION, out=tmp_path)
    demo.ask_video(CLIP, "what moves?", fps=1, out=tmp_path)
    with pytest.raises(MemoryLimitError):
        demo.ask(CATS, "is there a fish?", out=tmp_path)


def test_a_picture_has_no_settings_of_clips(encoder, tmp_path):
    for clip in (None, ClipSettings()):
        encoder.encode(CATS, clip=clip, out=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_sanity_checks_are_saved(demo, tmp_path):
    result = demo.ask(CATS, QUESTION, faithfulness=True, out=tmp_path)
    again = demo.ask(CATS, QUESTION, faithfulness=True, out=tmp_path)
    assert again.sanity.keys() == result.sanity.keys() != set()


@pytest.mark.parametrize("options", [{"drawing": Drawing()}, {"overwrite": True}])
def test_options_of_saving_need_a_folder(demo, encoder, options):
    (name,) = options
    for ask in (lambda: demo.ask(CATS, QUESTION, **options), lambda: encoder.encode(CATS, **options)):
        with pytest.raises(InputError, match=f"`{name}`: nothing is saved"):
            ask()


def test_a_folder_that_cannot_be_written_to_is_found_before_the_weights_are_loaded(tmp_path):
    (tmp_path / "file").touch()
    analyzer = Analyzer.load("demo")
    with pytest.raises(InputError, match="is a file"):
        analyzer.ask(CATS, QUESTION, out=tmp_path / "file")
    assert "model" not in vars(analyzer.engine)
