"""Memory that ends and attention that is no number: the sample's fault, and not that of its batch or of the run."""

from __future__ import annotations

import pytest
import torch
from running import BAD, COUNT, assert_spoiled, invoke, make_data, rows_of, summary_of, undrawn, write_rows


@pytest.fixture
def check(tmp_path, monkeypatch, demo):
    """The command in an empty folder, without loading the weights each time, and without most of the drawing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qvl_attn.engine.load_weights", lambda *args: demo.model)
    undrawn(monkeypatch)
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
    bad = assert_spoiled(done, "MemoryLimitError: out of memory on cpu with a prompt of")
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
    bad = assert_spoiled(done, "CaptureError: ")
    assert "not finite" in bad["error"]
    assert "retried" not in bad
