"""A cancelled check keeps its rows and is continued to the same summary; no sample becomes an error."""

from __future__ import annotations

import threading

import pytest

from qvl_attn import load_samples
from qvl_attn.core.errors import Cancelled
from tests.helpers.cancelling import Cancel, state_of
from tests.helpers.check_runs import assert_same_run, line_count, make_data, rows_of, without_drawings, write_rows

COUNT = 6
OPTIONS = {"max_new_tokens": 2, "batch_size": 2}
DECODER = "Qwen2_5_VLTextModel.forward"
# Where it is cancelled: the functions that run there, and how many rows are written before.
PLACES = {
    "within a batch": (("_score_group", DECODER), 2),
    "between two samples": (("_score_part", "cancelling._progress_or_end"), 3),
    "while it reads": (("read_chunk",), 0),
}


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """Samples that are read two at a time."""
    monkeypatch.setattr("qvl_attn.evaluation.loop.CHUNK_QUESTIONS", 2)
    monkeypatch.setattr("qvl_attn.evaluation.loop.CHUNK_BATCHES", 1)
    return load_samples(write_rows(tmp_path, make_data(tmp_path, COUNT)))


def cancelled(demo, samples, out, cancel, **options):
    """Cancel a check, and assert that nothing of it is left in the process."""
    before, threads = state_of(demo.engine.model), threading.active_count()
    with pytest.raises(Cancelled) as caught:
        demo.check(samples, out, cancel=cancel, **OPTIONS | options)
    assert cancel.matches
    assert caught.value.__traceback__ is not None, "no thread ends only because the exception was forgotten"
    assert threading.active_count() == threads
    assert state_of(demo.engine.model) == before
    assert not (out / "summary.json").exists()


@pytest.mark.parametrize("place", PLACES)
def test_a_cancelled_check_is_continued(demo, samples, tmp_path, monkeypatch, place):
    without_drawings(monkeypatch)
    demo.check(samples, tmp_path / "whole", **OPTIONS)
    out, (functions, count) = tmp_path / "run", PLACES[place]
    cancelled(demo, samples, out, Cancel(*functions, also=lambda: line_count(out) >= count))
    assert line_count(out) == count
    rows = (out / "scores.jsonl").read_bytes() if count else b""
    demo.check(samples, out, **OPTIONS)
    assert (out / "scores.jsonl").read_bytes().startswith(rows)
    assert {row["status"] for row in rows_of(out)} == {"ok"}
    assert_same_run(out, tmp_path / "whole")


def test_with_faithfulness_it_is_cancelled_within_one_sample(demo, samples, tmp_path, monkeypatch):
    without_drawings(monkeypatch)
    out, options = tmp_path / "run", {"faithfulness": True}
    for functions in (("_answer_logprobs", DECODER), ("sanity_checks", DECODER)):
        cancelled(demo, samples[:1], out, Cancel(*functions), **options)
        assert not out.exists(), "no row, no folder"


def test_it_is_cancelled_while_the_gallery_is_drawn(demo, samples, tmp_path):
    demo.check(samples, tmp_path / "whole", **OPTIONS)
    for functions in (("ask_again", DECODER), ("_draw_gallery", "cancelling._progress_or_end")):
        out = tmp_path / "run"
        cancelled(demo, samples, out, Cancel(*functions))
        assert line_count(out) == COUNT
    demo.check(samples, out, **OPTIONS)
    assert_same_run(out, tmp_path / "whole")


def test_it_is_cancelled_while_a_clip_is_decoded(demo, tmp_path, clip_file, monkeypatch):
    """In the thread that reads ahead."""
    without_drawings(monkeypatch)
    row = {"id": "a", "video": clip_file(30).name, "question": "what moves?", "answer": "it"}
    samples = load_samples(write_rows(tmp_path, [row]))
    cancel = Cancel("sample_clip", nth=3)
    cancelled(demo, samples, tmp_path / "run", cancel)
    assert cancel.calls == 4, "once when it begins, then at each frame"


@pytest.mark.parametrize("argument", ["cancel", "progress"])
def test_what_a_callback_raises_ends_the_check_and_is_no_fault_of_a_sample(demo, samples, tmp_path, argument):
    expected, out = OSError("on purpose"), tmp_path / "run"

    def fail(*values):
        if line_count(out) >= 2:
            raise expected
        return False

    with pytest.raises(OSError, match="on purpose") as caught:
        demo.check(samples, out, **{argument: fail}, **OPTIONS)
    assert caught.value is expected
    assert {row["status"] for row in rows_of(out)} == {"ok"}
    with pytest.raises(TypeError, match="want a function"):
        demo.check(samples, out, **{argument: threading.Event()}, **OPTIONS)
