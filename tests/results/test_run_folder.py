"""The folder of a run: rows that are safe once written, torn lines, damage, and folders in use."""

from __future__ import annotations

import json
import os

import pytest

from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.results.run_folder import (
    LOCK_FILE,
    ROWS_FILE,
    RUN_FILE,
    SUMMARY_FILE,
    open_run,
    read_rows,
    read_typed_rows,
)

RUN = {"schema_version": 1, "kind": "check", "same": {"--query": "last"}, "facts": {}, "samples": {"a": "1", "b": "2"}}
ROWS = [{"id": "a", "answer": "é"}, {"id": "b", "answer": "猫"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.fixture
def out(tmp_path):
    """The folder of a started run with two rows."""
    folder = tmp_path / "run"
    add(folder, *ROWS)
    return folder


def add(folder, *rows, run=RUN):
    with open_run(folder, run) as ledger, ledger.appending(run) as append:
        for row in rows:
            append(row)
    return ledger


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Rows


def test_a_row_is_on_the_disk_when_appending_comes_back(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync

    def fsync(handle):
        sync(handle)
        synced.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    with open_run(tmp_path / "run", RUN) as ledger, ledger.appending(RUN) as append:
        assert not (tmp_path / "run" / RUN_FILE).exists(), "nothing is there before the first row"
        for i, row in enumerate(ROWS):
            append(row)
            status = (tmp_path / "run" / ROWS_FILE).stat()
            assert synced[-1] == (status.st_ino, status.st_size), "synced at its present length"
            assert [row["id"] for row in read_rows(tmp_path / "run")] == ["a", "b"][: i + 1]
            assert ledger.done == {"a", "b"} - ({"b"} if i == 0 else set())
            assert json.loads((tmp_path / "run" / RUN_FILE).read_text()) == RUN
    assert (tmp_path / "run" / ROWS_FILE).read_bytes() == LINES


@pytest.mark.parametrize(
    "torn",
    [
        '{"id": "c", "answer": "猫'.encode()[:-1],
        b'{"id": "c", "answ',
        b'{"id": "c"}',
        b"\0" * 100,
        b"\0" * 70_000,
        b'{"id": "c", "answer": "' + b"x" * 200_000,
        b"x" * (2**16 - 1),
        b"x" * 2**16,
        b"x" * (2**17 + 1),
        b" ",
    ],
    ids=["character", "JSON", "newline", "null", "nulls", "long", "chunk-1", "chunk", "chunks+1", "blank"],
)
def test_a_torn_last_line_is_cut_off_and_its_sample_has_no_row(out, torn):
    with (out / ROWS_FILE).open("ab") as file:
        file.write(torn)
    with open_run(out, RUN) as ledger:
        assert ledger.done == {"a", "b"}
        assert (out / ROWS_FILE).read_bytes() == LINES
        with ledger.appending(RUN) as append:
            append({"id": "c"})
    assert (out / ROWS_FILE).read_bytes() == LINES + b'{"id": "c"}\n'


@pytest.mark.parametrize("content", [b"", b'{"id": "a"}', b"\0" * 2**17, None])
def test_rows_without_any_newline_are_none(out, content):
    (out / ROWS_FILE).unlink()
    if content is not None:
        (out / ROWS_FILE).write_bytes(content)
    assert add(out, *ROWS).done == {"a", "b"}
    assert (out / ROWS_FILE).read_bytes() == LINES


def test_whole_lines_are_left_alone_however_long(out):
    run = RUN | {"samples": {**RUN["samples"], "c": "3"}}
    (out / RUN_FILE).write_text(json.dumps(run))
    add(out, {"id": "c", "answer": "x" * 200_000}, run=run)
    before = (out / ROWS_FILE).stat()
    with open_run(out, run) as ledger:
        assert ledger.done == {"a", "b", "c"}
    assert (out / ROWS_FILE).stat().st_mtime_ns == before.st_mtime_ns
    assert (out / ROWS_FILE).stat().st_size == before.st_size


def test_a_row_about_no_sample_of_the_run_is_refused_and_not_counted(out):
    with (out / ROWS_FILE).open("a") as file:
        file.write(json.dumps({"id": "nobody asked"}) + "\n")
    with (
        pytest.raises(StoreError, match="line 3 is about 'nobody asked', no sample of this run"),
        open_run(out, RUN),
    ):
        pass


@pytest.mark.parametrize(
    "damage",
    [
        b'{"id": 7}',
        b"{broken}",
        b"",
        b"[]",
        b'"id"',
        b"7",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"id": []}',
        b"[" * 100_000,
        b"\0" * 9,
    ],
)
def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_changed(out, damage):
    first, second = LINES.splitlines(keepends=True)
    (out / ROWS_FILE).write_bytes(first + damage + b"\n" + second)
    before = contents(out)
    with pytest.raises(StoreError, match=r"scores\.jsonl: line 2 is not a JSON object with an id"), open_run(out, RUN):
        pytest.fail("it was opened")
    assert contents(out) == before


def test_a_number_that_json_does_not_have_is_named(out):
    (out / ROWS_FILE).write_text('{"id": "a", "mass": NaN}\n')
    with pytest.raises(StoreError, match=r"line 1 is .*\(NaN is not valid JSON\)"), open_run(out, RUN):
        pytest.fail("it was opened")
    (out / RUN_FILE).write_text('{"samples": Infinity}')
    with pytest.raises(StoreError, match=r"cannot be read as JSON \(Infinity is not valid JSON\)"), open_run(out, RUN):
        pytest.fail("it was opened")


def test_the_same_id_twice_is_named(out):
    (out / ROWS_FILE).write_bytes(LINES + LINES.splitlines(keepends=True)[0])
    with pytest.raises(StoreError, match="line 3 repeats the id of an earlier line"), open_run(out, RUN):
        pytest.fail("it was opened")


# Folders


@pytest.mark.parametrize("names", [["notes.txt"], [ROWS_FILE], [SUMMARY_FILE], [LOCK_FILE, "notes.txt"], [".hidden"]])
def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path, names):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("mine")
    before = contents(folder)
    with pytest.raises(InputError, match="already exists"), open_run(folder, RUN):
        pytest.fail("it was opened")
    assert contents(folder) == before


def test_a_file_or_a_link_to_nowhere_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(InputError, match="already exists"), open_run(tmp_path / name, RUN):
            pytest.fail("it was opened")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("names", [[], [LOCK_FILE]])
def test_a_folder_with_nothing_but_a_lock_is_as_good_as_none(tmp_path, names):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    assert add(folder, *ROWS).done == {"a", "b"}
    assert (folder / ROWS_FILE).read_bytes() == LINES


@pytest.mark.parametrize(
    "content",
    [
        b"{torn",
        b"[]",
        b"\xff",
        b'{"kind": "merge", "schema_version": 1}',
        b'{"kind": "check", "schema_version": 2}',
        b'{"kind": "check", "schema_version": 1}',
        b'{"kind": "check", "schema_version": 1, "same": [], "samples": 7}',
    ],
)
def test_a_run_of_no_known_kind_is_refused_and_left_alone(out, content):
    (out / RUN_FILE).write_bytes(content)
    before = contents(out)
    with pytest.raises(StoreError, match=r"run\.json"), open_run(out, RUN):
        pytest.fail("it was opened")
    assert contents(out) == before


def test_what_fails_before_the_first_row_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), open_run(tmp_path / "a" / "run", RUN) as ledger, ledger.appending(RUN):
        raise RuntimeError("no such weights")
    assert not (tmp_path / "a" / "run").exists()


def test_what_fails_later_keeps_the_rows(tmp_path):
    with pytest.raises(TypeError, match="set"):
        add(tmp_path / "run", ROWS[0], {"id": "b", "answer": {1}})
    with open_run(tmp_path / "run", RUN) as ledger:
        assert ledger.done == {"a"}
        assert not ledger.finished


def test_a_finished_run_says_so_and_has_no_lock(out):
    (out / SUMMARY_FILE).write_text("{}")
    with open_run(out, RUN) as ledger:
        assert ledger.finished
    assert sorted(contents(out)) == sorted([RUN_FILE, ROWS_FILE, SUMMARY_FILE])


def test_what_is_not_the_same_is_named(out):
    before = contents(out)
    now = RUN | {"same": {"--query": "x" * 500, "--seed": 1}, "samples": {"b": "3", "c": "4"}}
    with pytest.raises(InputError, match="was started with other settings or samples") as caught, open_run(out, now):
        pytest.fail("it was opened")
    query, *others = caught.value.details
    assert query.startswith("`query`: last before, xxx")
    assert len(query) < 300
    assert others == [
        "`seed`: not given before, 1 now",
        "samples removed (another `limit`?): 1 (a)",
        "samples added (another `limit`?): 1 (c)",
        "samples changed (question, answers, boxes or pictures): 1 (b)",
    ]
    assert contents(out) == before


@pytest.mark.parametrize(
    ("kind", "remedy"), [("check", "run the same check again"), ("survey", "run the encoder over")]
)
def test_a_row_that_its_kind_refuses_is_named_with_what_makes_it_anew(out, kind, remedy):
    def answer(row):
        if row["answer"] == "猫":
            raise ValueError("row.answer: no cat")
        return row["answer"]

    rows = read_typed_rows(out, kind, answer)
    assert next(rows) == "é"
    with pytest.raises(StoreError, match=r"line 2 is not a row of this version \(row.answer: no cat\)") as caught:
        next(rows)
    assert remedy in caught.value.in_one_line()
