"""A fault of one sample becomes an error row that counts as a wrong answer, and the run continues."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import qvl_attn.evaluation.data.load as load_module
import qvl_attn.evaluation.loop as loop_module
import qvl_attn.evaluation.run as run_module
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.sharding import Shard
from tests.helpers.check_runs import (
    BAD,
    COUNT,
    assert_one_error,
    files_of,
    make_data,
    one_line,
    rows_of,
    rows_without_times,
    summary_of,
    write_rows,
)


@pytest.fixture
def after_the_check(monkeypatch):
    """Call a function that damages files after all of them were checked."""

    def set_up(damage):
        load = load_module.load_samples

        def damage_after(*args, **more):
            samples = load(*args, **more)
            damage()
            return samples

        monkeypatch.setattr(load_module, "load_samples", damage_after)

    return set_up


# Files that change after they were checked


def rewrite(path, how):
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif how == "text":
        path.write_text("not a picture")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "other":  # of the same size
        Image.open(path).rotate(180).save(path)


CHANGES = {
    "deleted": "InputError: 0.png does not exist",
    "truncated": "InputError: 1.png is truncated",
    "text": "InputError: 2.png is not a JPEG",
    "empty": "InputError: 3.png is empty",
    "folder": "InputError: 4.png is a directory",
    "other": "InputError: 5.png has changed since the data set was checked",
}


def test_a_picture_that_changes_meanwhile_is_an_error_row(check, tmp_path, after_the_check):
    """Six of sixty errors are within the limit."""
    rows = make_data(tmp_path, 60)
    after_the_check(lambda: [rewrite(tmp_path / f"{i}.png", how) for i, how in enumerate(CHANGES)])
    done = check(write_rows(tmp_path, rows))
    assert done.exit_code == 0, done.output
    rows_by_id = rows_without_times("run")
    assert [name for name, row in rows_by_id.items() if row["status"] == "error"] == list("012345")
    assert len(rows_by_id) == 60
    for i, (how, error) in enumerate(CHANGES.items()):
        faulty = rows_by_id[str(i)]
        assert error in faulty["error"].replace(f"{tmp_path}/", ""), how
        assert faulty["retried"] == faulty["error"], "it was tried twice"
    summary = summary_of()
    assert (summary["samples"], summary["errors"], summary["retried"], summary["with_boxes"]) == (60, 6, 6, 54)
    assert summary["accuracy"]["n"] == 60


def test_a_replaced_picture_is_an_error_of_every_sample_about_it(check, tmp_path, rows, after_the_check):
    """The boxes are in pixels of the checked picture."""
    more = [row | {"id": f"again {row['id']}", "question": "how many?"} for row in rows]
    after_the_check(lambda: rewrite(tmp_path / "3.png", "other"))
    done = check(write_rows(tmp_path, rows + more))
    assert done.exit_code == 0, done.output
    assert {name for name, row in rows_without_times("run").items() if row["status"] == "error"} == {"3", "again 3"}


def test_a_clip_that_cannot_be_decoded_is_an_error_row(check, tmp_path, after_the_check):
    write_dataset(tmp_path / "clips", 12, video=True)
    file = tmp_path / "clips" / "questions.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    boxed = [line for line in lines if line["boxes"]]
    one_each = list({line["video"]: line for line in boxed}.values())
    clip = tmp_path / "clips" / one_each[BAD]["video"]

    def damage():
        data = bytearray(clip.read_bytes())
        start = data.index(b"mdat") + 8
        data[start : start + 60_000] = bytes(len(data[start : start + 60_000]))
        clip.write_bytes(data)

    after_the_check(damage)
    done = check(write_rows(file.parent, one_each), "--fps", 1)
    assert len(one_each) == 12
    assert_one_error(done, f"InputError: clips/videos/{clip.name}: 0 of", one_each[BAD]["id"])


# Reading


def test_a_disk_that_fails_once_is_retried(check, tmp_path, rows, monkeypatch, after_the_check):
    failed = fail_to_open(monkeypatch, after_the_check, "3.png", times=1)
    done = check(write_rows(tmp_path, rows))
    assert done.exit_code == 0, done.output
    assert failed == ["3.png"]
    by_id = {row["id"]: row for row in rows_of()}
    assert {row["status"] for row in by_id.values()} == {"ok"}
    assert by_id["3"]["retried"].startswith(f"InputError: {tmp_path}/3.png cannot be read: input/output error")
    assert [name for name, row in by_id.items() if "retried" in row] == ["3"]
    assert (summary_of()["retried"], summary_of()["errors"]) == (1, 0)
    assert "1 sample tried twice" in one_line(done.stdout)


def test_a_disk_that_fails_twice_is_an_error_row(check, tmp_path, rows, monkeypatch, after_the_check):
    failed = fail_to_open(monkeypatch, after_the_check, "3.png", times=99)
    faulty = assert_one_error(check(write_rows(tmp_path, rows)), "InputError: 3.png cannot be read: input/output error")
    assert faulty["retried"] == faulty["error"]
    assert failed == ["3.png"] * 2, "not a third time"


def fail_to_open(monkeypatch, after_the_check, name, times):
    failed = []

    def damage():
        opened = Path.open

        def fails(self, *args, **more):
            if self.name == name and len(failed) < times:
                failed.append(name)
                raise OSError(errno.EIO, "Input/output error")
            return opened(self, *args, **more)

        monkeypatch.setattr(Path, "open", fails)

    after_the_check(damage)
    return failed


def test_an_unexpected_fault_while_reading_is_an_error_row(check, tmp_path, monkeypatch):
    load = loop_module.load_picture
    faults = {"3.png": RuntimeError("of no known kind"), "4.png": MemoryError("no room"), "5.png": KeyError("a")}

    def fails(path, *options):
        if path.name in faults:
            raise faults[path.name]
        return load(path, *options)

    monkeypatch.setattr(loop_module, "load_picture", fails)
    done = check(write_rows(tmp_path, make_data(tmp_path, 30)))
    assert done.exit_code == 0, done.output
    errors = {row["media"][0]: row["error"] for row in rows_without_times("run").values() if row["status"] == "error"}
    assert errors == {name: f"{type(fault).__name__}: {fault}" for name, fault in faults.items()}
    assert len(rows_of()) == 30


def test_a_prompt_that_is_too_long_is_an_error_row(check, tmp_path, rows):
    rows[BAD]["question"] = "what color is the cat? " * 1000
    faulty = assert_one_error(check(write_rows(tmp_path, rows)), "InputError: the prompt is ")
    assert "the model's context is 4096" in faulty["error"]
    assert "retried" not in faulty, "only faults of disk and memory are retried"


# The limit of errors


@pytest.mark.parametrize(("count", "bad", "code"), [(10, 1, 0), (10, 2, 1), (9, 1, 1), (20, 2, 0), (2, 2, 1)])
def test_a_tenth_may_fail_and_no_more(check, tmp_path, after_the_check, count, bad, code):
    rows = make_data(tmp_path, count)
    after_the_check(lambda: [(tmp_path / f"{i}.png").unlink() for i in range(bad)])
    done = check(write_rows(tmp_path, rows))
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    summary = summary_of()
    assert (summary["samples"], summary["errors"]) == (count, bad)
    assert (f"{bad} of {count} samples have no score" in one_line(done.stderr)) == bool(code)


def test_a_finished_run_with_too_many_errors_fails_again(check, tmp_path, rows, monkeypatch):
    load = loop_module.load_picture

    def fails(path, *options):
        if path.stem in "012":
            raise RuntimeError("of no known kind")
        return load(path, *options)

    monkeypatch.setattr(loop_module, "load_picture", fails)
    data = write_rows(tmp_path, rows)
    assert check(data).exit_code == 1
    before = files_of("run")
    monkeypatch.setattr(loop_module, "load_picture", load)
    done = check(data)
    assert done.exit_code == 1, done.output
    assert "3 of 12 samples have no score" in one_line(done.stderr)
    assert files_of("run") == before


def test_errors_count_as_misses_for_a_threshold(check, tmp_path, rows, after_the_check):
    for row in rows:
        row["boxes"] = [[0, 0, 112, 112]]  # any pointing is a hit
    assert check(write_rows(tmp_path, rows), "--fail-under", "pointing=1", out="whole").exit_code == 0
    after_the_check((tmp_path / "3.png").unlink)
    done = check(tmp_path / "rows.jsonl", "--fail-under", "pointing=1")
    assert summary_of()["headline"]["pointing"]["mean"] == 1
    assert done.exit_code == 1
    assert "--fail-under pointing=1: it is 0.9167" in one_line(done.stderr)


def test_a_figure_that_only_another_part_can_have_is_refused(check, tmp_path):
    rows = make_data(tmp_path, 6)
    own = {sample.id for sample in Shard(1, 2).own(load_module.load_samples(write_rows(tmp_path, rows)))}
    data = write_rows(tmp_path, [row if row["id"] in own else {**row, "boxes": []} for row in rows])
    assert check(data, "--fail-under", "pointing=0", "--shard", "2/2").exit_code == 2
    assert check(data, "--fail-under", "pointing=0", "--shard", "1/2").exit_code == 0


@pytest.mark.parametrize("fault", [None, RuntimeError("of no known kind")])
def test_a_picture_that_can_no_longer_be_drawn_is_a_note(check, tmp_path, rows, monkeypatch, fault):
    """It is deleted after it was scored: the run ends, and the gallery lacks it."""
    write_outputs, load = run_module.write_outputs, loop_module.load_picture

    def fails(path, *options):
        if path.name == "3.png":
            raise fault
        return load(path, *options)

    def hooked(*args, **more):
        if fault:
            monkeypatch.setattr(loop_module, "load_picture", fails)
        else:
            shutil.move("3.png", "gone.png")
        return write_outputs(*args, **more)

    monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 6)
    monkeypatch.setattr(run_module, "write_outputs", hooked)
    done = check(write_rows(tmp_path, rows))
    assert done.exit_code == 0, done.output
    assert any(note.startswith("gallery: 3 could not be drawn") for note in summary_of()["notes"])
    for suffix in ("png", "npz"):
        assert len(list(Path("run/gallery").glob(f"*.{suffix}"))) == COUNT - 1
