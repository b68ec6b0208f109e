"""The folder of a run with several processes: one writer at a time, kills at any moment, a full disk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from qvl_attn.core.errors import InputError
from qvl_attn.results.run_folder import LOCK_FILE, ROWS_FILE, RUN_FILE, open_run, read_rows
from tests.helpers.processes import ENV, PATIENCE_S

SAMPLES = dict.fromkeys(["a", "b", "c", "more", *map(str, range(100))], "1")
RUN = {"schema_version": 1, "kind": "check", "same": {"--query": "last"}, "facts": {}, "samples": SAMPLES}

WORK = """
import json, os, resource, signal, sys
from pathlib import Path
from qvl_attn.core.errors import StoreError
from qvl_attn.results.run_folder import open_run
folder, run, how = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
if how == "killed while run.json is written":
    Path.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
if how.isdigit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(how), int(how)))  # CPython ignores SIGXFSZ: writes are short
done = 0
try:
    with open_run(folder, run) as ledger, ledger.appending(run) as append:
        if how == "first":
            print("held", flush=True)
            sys.stdin.readline()
        append({"id": "a"})
        if how == "later":
            print("held", flush=True)
            sys.stdin.readline()
        append({"id": "b"})
        if how.isdigit():
            for done in range(100):
                append({"id": str(done), "answer": "x" * 999})
except StoreError as error:
    sys.exit(f"{done} {error}")
"""


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def work(tmp_path):
    started = []

    def start(how):
        words = [sys.executable, "-c", WORK, str(tmp_path / "run"), json.dumps(RUN), how]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(words, env=ENV, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", ["first", "later"])
def test_a_second_process_is_refused_and_the_first_goes_on_unharmed(tmp_path, work, how):
    """Before the first process has written a row, and after."""
    first = work(how)
    assert first.stdout.readline() == "held\n"
    before = contents(tmp_path / "run")
    assert LOCK_FILE in before
    with pytest.raises(InputError, match="another process is writing to it"), open_run(tmp_path / "run", RUN):
        pytest.fail("both opened the run")
    assert contents(tmp_path / "run") == before, "the refused process removes nothing"
    assert first.communicate("go on\n", timeout=PATIENCE_S)[1] == ""
    assert first.returncode == 0
    assert [row["id"] for row in read_rows(tmp_path / "run")] == ["a", "b"]


@pytest.mark.parametrize(("how", "rows"), [("first", set()), ("later", {"a"})])
def test_the_lock_is_gone_after_a_kill(tmp_path, work, how, rows):
    first = work(how)
    assert first.stdout.readline() == "held\n"
    first.kill()
    assert first.wait(PATIENCE_S) == -signal.SIGKILL
    with open_run(tmp_path / "run", RUN) as ledger:
        assert ledger.done == rows
        with ledger.appending(RUN) as append:
            append({"id": "c"})
    assert json.loads((tmp_path / "run" / RUN_FILE).read_text()) == RUN


def test_a_kill_while_the_first_file_is_written_leaves_a_folder_to_go_on_in(tmp_path, work):
    killed = work("killed while run.json is written")
    assert killed.wait(PATIENCE_S) == -signal.SIGKILL
    assert not (tmp_path / "run" / RUN_FILE).exists()
    with open_run(tmp_path / "run", RUN) as ledger, ledger.appending(RUN) as append:
        assert ledger.done == set()
        append({"id": "a"})
    assert sorted(contents(tmp_path / "run")) == sorted([LOCK_FILE, RUN_FILE, ROWS_FILE])


def test_a_full_disk_keeps_the_finished_rows(tmp_path, work):
    full = work("12345")
    _, errors = full.communicate(timeout=PATIENCE_S)
    assert full.returncode == 1
    done, _, message = errors.partition(" ")
    assert message.startswith(f"cannot write to {tmp_path / 'run'}: File too large")
    assert (tmp_path / "run" / ROWS_FILE).stat().st_size == 12345, "the last line is torn"
    ids = {"a", "b", *map(str, range(int(done)))}
    assert len(ids) > 10
    with open_run(tmp_path / "run", RUN) as ledger:
        assert ledger.done == ids, "exactly those whose append returned"
        with ledger.appending(RUN) as append:
            append({"id": "more"})
    assert {row["id"] for row in read_rows(tmp_path / "run")} == ids | {"more"}


def test_a_disk_that_is_full_from_the_first_leaves_nothing(tmp_path, work):
    full = work("10")
    assert "File too large" in full.communicate(timeout=PATIENCE_S)[1]
    assert full.returncode == 1
    assert not (tmp_path / "run").exists()


def test_who_is_refused_does_not_wait(tmp_path, work, monkeypatch):
    first = work("later")
    assert first.stdout.readline() == "held\n"
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    with pytest.raises(InputError, match="another process"), open_run(tmp_path / "run", RUN):
        pytest.fail("both opened the run")
    assert first.poll() is None
