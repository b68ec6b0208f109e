"""Memory that ends and attention that is no number: the sample's fault, and not that of its batch or of the run."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from PIL import Image

from qvl_attn.core.errors import MemoryLimitError
from qvl_attn.vqa.engine import Engine
from tests.helpers.check_runs import (
    BAD,
    COUNT,
    assert_one_error,
    invoke,
    make_data,
    rows_of,
    summary_of,
    without_drawings,
    write_rows,
)


@pytest.fixture
def check(tmp_path, monkeypatch, demo):
    """The command in an empty folder, without loading the weights each time, and without most of the drawing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: demo.model)
    without_drawings(monkeypatch)
    return lambda data, *args, out="run": invoke(data, "--max-new-tokens", 4, *args, out=out)


@pytest.fixture
def rows(tmp_path):
    return make_data(tmp_path)


@pytest.fixture
def at_the_marked_one(demo):
    """Do something to the model whenever a prompt with the marked question goes through it."""
    handles = []
    word = demo.processor.tokenizer(" triangle")["input_ids"][-1]

    def set_up(act):
        def before(module, args, more):
            ids = more.get("input_ids")
            act(ids is not None and ids.shape[1] > 1 and bool((ids == word).any()))

        handles.append(demo.model.register_forward_pre_hook(before, with_kwargs=True))

    yield set_up
    for handle in handles:
        handle.remove()


@pytest.fixture
def marked(rows):
    rows[BAD]["question"] = "where is the triangle?"
    return rows


@pytest.mark.parametrize("batch", [1, 4])
def test_memory_that_ends_once_is_tried_once_more(check, tmp_path, marked, at_the_marked_one, batch):
    ended = []

    def act(is_marked):
        if is_marked and not ended:
            ended.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")

    at_the_marked_one(act)
    done = check(write_rows(tmp_path, marked), "--batch-size", batch)
    assert done.exit_code == 0, done.output
    assert ended
    found = {row["id"]: row for row in rows_of()}
    assert len(found) == COUNT
    assert {row["status"] for row in found.values()} == {"ok"}
    again = [name for name, row in found.items() if "retried" in row]
    assert "3" in again
    assert len(again) <= batch
    assert found["3"]["retried"].startswith("MemoryLimitError: out of memory on cpu")
    assert summary_of()["retried"] == len(again)


@pytest.mark.parametrize("batch", [1, 4])
def test_memory_that_ends_again_spoils_its_sample_and_no_other_of_its_batch(
    check, tmp_path, marked, at_the_marked_one, batch
):
    ended = []

    def act(is_marked):
        if is_marked:
            ended.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")

    at_the_marked_one(act)
    done = check(write_rows(tmp_path, marked), "--batch-size", batch)
    bad = assert_one_error(done, "MemoryLimitError: out of memory on cpu with a prompt of")
    assert bad["retried"].startswith("MemoryLimitError")
    assert len(ended) == 2, "once more, and not a third time"


@pytest.mark.parametrize("shared", [False, True])
def test_attention_that_is_no_number_spoils_its_sample(check, demo, tmp_path, marked, at_the_marked_one, shared):
    bias = demo.model.model.language_model.layers[2].self_attn.q_proj.bias
    sound = bias.detach().clone()

    def act(is_marked):
        with torch.no_grad():
            bias.fill_(float("nan")) if is_marked else bias.copy_(sound)

    at_the_marked_one(act)
    if shared:  # all about the same picture, which is then read once for all
        for row in marked:
            row["image"] = "0.png"
    try:
        done = check(write_rows(tmp_path, marked), "--batch-size", 4)
    finally:
        with torch.no_grad():
            bias.copy_(sound)
    bad = assert_one_error(done, "CaptureError: ")
    assert "not finite" in bad["error"]
    assert "retried" not in bad


def test_the_second_try_has_the_memory_of_the_first(check, demo, tmp_path, marked, at_the_marked_one):
    """Nothing that the first one made is still held by its fault."""
    made, alive = [], []

    def act(is_marked):
        if is_marked and made:
            gc.collect()
            alive.append(made[0]() is not None)
        if is_marked and not made:
            hidden = torch.zeros(1000)
            made.append(weakref.ref(hidden))
            raise torch.OutOfMemoryError("CUDA out of memory")

    at_the_marked_one(act)
    assert check(write_rows(tmp_path, marked), "--batch-size", 4).exit_code == 0
    assert alive == [False]


def test_a_prompt_that_the_free_memory_refuses_is_tried_once_more(check, tmp_path, rows, monkeypatch):
    fit, refused = Engine.fit, []

    def short(self, questions):
        if questions[0].media[0].source.endswith("3.png") and len(refused) < times:
            refused.append(1)
            raise MemoryLimitError("no room")
        return fit(self, questions)

    monkeypatch.setattr(Engine, "fit", short)
    times = 1
    assert check(write_rows(tmp_path, rows)).exit_code == 0
    found = {row["id"]: row for row in rows_of()}
    assert {row["status"] for row in found.values()} == {"ok"}
    assert found["3"]["retried"] == "MemoryLimitError: no room"
    assert summary_of()["retried"] == 1
    times = 99
    refused.clear()
    assert check(write_rows(tmp_path, rows), out="again").exit_code == 0
    (bad,) = [row for row in rows_of("again") if row["status"] == "error"]
    assert (bad["id"], bad["error"], bad["retried"]) == ("3", *["MemoryLimitError: no room"] * 2)
    assert len(refused) == 2


@pytest.mark.parametrize("batch", [1, 4])
def test_what_nobody_foresaw_spoils_its_sample(check, tmp_path, marked, at_the_marked_one, batch):
    def act(is_marked):
        if is_marked:
            raise KeyError("unforeseen")

    at_the_marked_one(act)
    bad = assert_one_error(check(write_rows(tmp_path, marked), "--batch-size", batch), "KeyError: 'unforeseen'")
    assert "retried" not in bad


def test_a_device_that_is_dead_ends_the_run_and_not_every_sample(check, tmp_path, marked, at_the_marked_one):
    def act(is_marked):
        if is_marked:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    at_the_marked_one(act)
    done = check(write_rows(tmp_path, marked), "--batch-size", 1)
    assert isinstance(done.exception, RuntimeError)
    assert {row["status"] for row in rows_of()} == {"ok"}
    assert 0 < len(rows_of()) < COUNT


def test_a_picture_is_read_by_the_tower_once_wherever_its_questions_stand(check, demo, tmp_path, rows):
    """And a clip of the same name is not taken for it."""
    calls = []
    handle = demo.model.model.visual.register_forward_pre_hook(lambda *args: calls.append(1))
    for i, row in enumerate(rows):
        row["image"] = f"{i % 3}.png"
    try:
        assert check(write_rows(tmp_path, rows)).exit_code == 0
    finally:
        handle.remove()
    assert len(calls) == 2 + 3, "two for the proof of the capture"
    assert [row["index"] for row in rows_of()] != list(range(COUNT))


def test_a_picture_and_a_clip_of_one_name_are_two(check, tmp_path, rows):
    frames = [Image.new("RGB", (112, 112), colour) for colour in ("red", "blue", "green", "white")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=200)
    rows[0] = {**rows[0], "video": "a.gif", "frame": 0}
    del rows[0]["image"]
    rows[1] |= {"image": "a.gif"}
    assert check(write_rows(tmp_path, rows), "--batch-size", 1).exit_code == 0
    assert {row["status"] for row in rows_of()} == {"ok"}
    assert check(write_rows(tmp_path, rows[1:2]), "--batch-size", 1, out="alone").exit_code == 0
    (alone,) = rows_of("alone")
    (among,) = [row for row in rows_of() if row["id"] == "1"]
    assert among["headline"]["vision_mass"] == pytest.approx(alone["headline"]["vision_mass"], abs=1e-5)
