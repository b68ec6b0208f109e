"""Out of memory, attention that is not finite, and other faults affect only their own sample."""

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
    rows_of,
    summary_of,
    write_rows,
)


@pytest.fixture
def before_forward(engine):
    """Call a function before each forward, with whether its prompt contains the marked question."""
    handles = []
    word = engine.processor.tokenizer(" triangle")["input_ids"][-1]

    def set_up(act):
        def before(module, args, more):
            ids = more.get("input_ids")
            act(ids is not None and ids.shape[1] > 1 and bool((ids == word).any()))

        handles.append(engine.model.register_forward_pre_hook(before, with_kwargs=True))

    yield set_up
    for handle in handles:
        handle.remove()


@pytest.fixture
def marked(rows):
    rows[BAD]["question"] = "where is the triangle?"
    return rows


@pytest.mark.parametrize("batch", [1, 4])
def test_out_of_memory_once_is_retried(check, tmp_path, marked, before_forward, batch):
    failures = []

    def act(is_marked):
        if is_marked and not failures:
            failures.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")

    before_forward(act)
    done = check(write_rows(tmp_path, marked), "--batch-size", batch)
    assert done.exit_code == 0, done.output
    assert failures
    by_id = {row["id"]: row for row in rows_of()}
    assert len(by_id) == COUNT
    assert {row["status"] for row in by_id.values()} == {"ok"}
    retried = [name for name, row in by_id.items() if "retried" in row]
    assert "3" in retried
    assert len(retried) <= batch
    assert by_id["3"]["retried"].startswith("MemoryLimitError: out of memory on cpu")
    assert summary_of()["retried"] == len(retried)


@pytest.mark.parametrize("batch", [1, 4])
def test_out_of_memory_twice_is_an_error_of_this_sample_alone(check, tmp_path, marked, before_forward, batch):
    failures = []

    def act(is_marked):
        if is_marked:
            failures.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")

    before_forward(act)
    done = check(write_rows(tmp_path, marked), "--batch-size", batch)
    faulty = assert_one_error(done, "MemoryLimitError: out of memory on cpu with a prompt of")
    assert faulty["retried"].startswith("MemoryLimitError")
    assert len(failures) == 2, "it is tried twice, not three times"


@pytest.mark.parametrize("shared", [False, True])
def test_attention_that_is_not_finite_is_an_error_row(check, engine, tmp_path, marked, before_forward, shared):
    bias = engine.model.model.language_model.layers[2].self_attn.q_proj.bias
    sound = bias.detach().clone()

    def act(is_marked):
        with torch.no_grad():
            bias.fill_(float("nan")) if is_marked else bias.copy_(sound)

    before_forward(act)
    if shared:  # all samples share a picture, which is encoded once
        for row in marked:
            row["image"] = "0.png"
    try:
        done = check(write_rows(tmp_path, marked), "--batch-size", 4)
    finally:
        with torch.no_grad():
            bias.copy_(sound)
    faulty = assert_one_error(done, "CaptureError: ")
    assert "not finite" in faulty["error"]
    assert "retried" not in faulty


def test_the_memory_of_the_first_attempt_is_freed_before_the_second(check, engine, tmp_path, marked, before_forward):
    """The fault of the first attempt must not keep its tensors alive."""
    tensors, alive = [], []

    def act(is_marked):
        if is_marked and tensors:
            gc.collect()
            alive.append(tensors[0]() is not None)
        if is_marked and not tensors:
            hidden = torch.zeros(1000)
            tensors.append(weakref.ref(hidden))
            raise torch.OutOfMemoryError("CUDA out of memory")

    before_forward(act)
    assert check(write_rows(tmp_path, marked), "--batch-size", 4).exit_code == 0
    assert alive == [False]


def test_a_prompt_that_does_not_fit_the_free_memory_is_retried(check, tmp_path, rows, monkeypatch):
    fit, refused = Engine.fit, []

    def short(self, questions):
        if questions[0].media[0].source.endswith("3.png") and len(refused) < times:
            refused.append(1)
            raise MemoryLimitError("no room")
        return fit(self, questions)

    monkeypatch.setattr(Engine, "fit", short)
    times = 1
    assert check(write_rows(tmp_path, rows)).exit_code == 0
    by_id = {row["id"]: row for row in rows_of()}
    assert {row["status"] for row in by_id.values()} == {"ok"}
    assert by_id["3"]["retried"] == "MemoryLimitError: no room"
    assert summary_of()["retried"] == 1
    times = 99
    refused.clear()
    assert check(write_rows(tmp_path, rows), out="again").exit_code == 0
    (faulty,) = [row for row in rows_of("again") if row["status"] == "error"]
    assert (faulty["id"], faulty["error"], faulty["retried"]) == ("3", *["MemoryLimitError: no room"] * 2)
    assert len(refused) == 2


@pytest.mark.parametrize("batch", [1, 4])
def test_an_unexpected_fault_is_an_error_row(check, tmp_path, marked, before_forward, batch):
    def act(is_marked):
        if is_marked:
            raise KeyError("unforeseen")

    before_forward(act)
    faulty = assert_one_error(check(write_rows(tmp_path, marked), "--batch-size", batch), "KeyError: 'unforeseen'")
    assert "retried" not in faulty


def test_a_dead_device_ends_the_run(check, tmp_path, marked, before_forward):
    def act(is_marked):
        if is_marked:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    before_forward(act)
    done = check(write_rows(tmp_path, marked), "--batch-size", 1)
    assert isinstance(done.exception, RuntimeError)
    assert {row["status"] for row in rows_of()} == {"ok"}
    assert 0 < len(rows_of()) < COUNT


def test_a_picture_is_encoded_once_for_all_its_questions(check, engine, tmp_path, rows):
    """The order of the questions does not matter."""
    calls = []
    handle = engine.model.model.visual.register_forward_pre_hook(lambda *args: calls.append(1))
    for i, row in enumerate(rows):
        row["image"] = f"{i % 3}.png"
    try:
        assert check(write_rows(tmp_path, rows)).exit_code == 0
    finally:
        handle.remove()
    assert len(calls) == 3
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
    (with_clip,) = [row for row in rows_of() if row["id"] == "1"]
    assert with_clip["headline"]["vision_mass"] == pytest.approx(alone["headline"]["vision_mass"], abs=1e-5)
