"""A check that is killed, interrupted or run again in real processes ends with the same outputs."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

import qvl_attn.vqa.engine as engine_module
from qvl_attn.evaluation.examples import example_file
from tests.helpers.check_runs import (
    assert_same_run,
    files_of,
    invoke,
    make_data,
    one_line,
    rows_of,
    rows_without_times,
    run_process,
    start_process,
    without_drawings,
    write_rows,
)
from tests.helpers.loading import without_loading
from tests.helpers.processes import PATIENCE_S, signal_at_call, wait_until_stopped

# The function that writes a row.
WRITE = "qvl_attn.results.run_folder:_write"
KEPT = "interrupted; finished rows are kept in run: run the same command to continue"


@pytest.fixture
def here(tmp_path, monkeypatch, demo):
    """Run the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    without_loading(monkeypatch, demo)
    return invoke


def contents(out) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}


def test_a_run_that_is_killed_terminated_and_interrupted_ends_with_equal_outputs(tmp_path, scenes, once, here):
    """Each time it goes on after the rows that are there; while it runs, another process is refused."""
    process = start_process(tmp_path, scenes, code=signal_at_call(WRITE, 4, signal.SIGSTOP))
    wait_until_stopped(process)
    files = contents("run")
    second = here(scenes)
    assert second.exit_code == 2, second.output
    assert "--out run: another process is writing to it" in one_line(second.stderr)
    assert second.stdout == ""
    assert contents("run") == files, "a refused run changes nothing"
    process.kill()
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    process.communicate()
    total = len(rows_without_times(once))
    for count, number, code in ((3, signal.SIGTERM, 143), (5, signal.SIGINT, 130)):
        rows = Path("run/scores.jsonl").read_bytes()
        assert rows.count(b"\n") == count
        assert rows.endswith(b"\n"), "the last row is complete"
        assert not Path("run/summary.json").exists()
        done = run_process(tmp_path, scenes, code=signal_at_call(WRITE, 3, number))
        assert (done.returncode, done.stdout) == (code, "")
        assert f"run: {count} of {total} samples are already done" in one_line(done.stderr)
        assert one_line(done.stderr).endswith(KEPT)
        assert "Traceback" not in done.stderr
        assert Path("run/scores.jsonl").read_bytes().startswith(rows), "earlier rows are unchanged"
    rows = Path("run/scores.jsonl").read_bytes()
    done = here(scenes)
    assert done.exit_code == 0, done.output
    assert f"run: 7 of {total} samples are already done" in one_line(done.stderr)
    assert_same_run("run", once)
    assert Path("run/scores.jsonl").read_bytes().startswith(rows)
    assert len(rows_of("run")) == total
    assert done.stdout == (once.parent / "stdout").read_text(encoding="utf-8")


def copy_partial_run(run: Path, out: Path, count: int) -> None:
    """Copy a run as if it had been killed after so many rows."""
    out.mkdir()
    shutil.copy(run / "run.json", out)
    lines = (run / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (out / "scores.jsonl").write_bytes(b"".join(lines[:count]) + lines[count][:50])
    for name in (
        example_file(json.loads(line)["id"]) for line in lines[: count + 1]
    ):  # an example is written before its row
        if (run / name).exists():
            (out / name).parent.mkdir(exist_ok=True)
            shutil.copy(run / name, out / name)


def test_only_open_samples_are_asked_and_progress_starts_from_their_number(tmp_path, scenes, once, demo):
    from qvl_attn import load_samples

    count = 30
    copy_partial_run(once, tmp_path / "run", count)
    calls = []
    samples = load_samples(scenes)
    demo.check(
        samples,
        tmp_path / "run",
        name="questions.jsonl",
        max_new_tokens=64,
        progress=lambda *call: calls.append(call),
    )
    counts = [call[1:] for call in calls if call[0] == "asking"]
    assert counts == [(i, len(samples)) for i in range(count, len(samples) + 1)]
    assert_same_run(tmp_path / "run", once)


def test_a_finished_run_is_only_printed_again(tmp_path, scenes, once, here, monkeypatch):
    shutil.copytree(once, "run")
    before = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.is_file()}
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    done = here(scenes)
    assert done.exit_code == 0, done.output
    assert done.stdout == (once.parent / "stdout").read_text(encoding="utf-8")
    assert "the run is finished, nothing is left to do" in one_line(done.stderr)
    bad = here(scenes, "--fail-under", "lift=99")
    assert bad.exit_code == 1
    assert "--fail-under lift=99: it is" in one_line(bad.stderr)
    assert here(scenes, "--json").stdout.strip() == json.dumps(json.loads(Path("run/summary.json").read_text("utf-8")))
    after = {path: path.stat().st_mtime_ns for path in Path("run").rglob("*") if path.is_file()}
    assert after == before, "nothing is written"
    assert not Path("run/scores.csv").exists()
    assert here(scenes, "--csv").exit_code == 0
    assert len(Path("run/scores.csv").read_text(encoding="utf-8-sig").splitlines()) == 1 + len(rows_of("run"))


def test_a_run_that_lacks_only_the_summary(tmp_path, scenes, once, here):
    """It was killed while charts and gallery were written: their drafts may be there."""
    shutil.copytree(once, "run")
    Path("run/summary.json").unlink()
    Path("run/layers.png").unlink()
    Path("run/.layers.png.draft").write_bytes(b"half of it")
    Path("run/.summary.json.draft").write_bytes(b"{")
    Path("run/.lock").touch()
    rows = Path("run/scores.jsonl").read_bytes()
    assert here(scenes).exit_code == 0
    assert_same_run("run", once)
    assert Path("run/scores.jsonl").read_bytes() == rows


@pytest.mark.parametrize("shared", [False, True])
def test_a_resumed_run_has_the_same_batches(tmp_path, here, monkeypatch, shared):
    """Other batches would change the last digits."""
    without_drawings(monkeypatch)
    run_group, groups = engine_module.run_group, []

    def record_group(model, processor, config, group, **more):
        groups.append([(job.media[0].source, job.prompt.question) for batch in group for job in batch])
        return run_group(model, processor, config, group, **more)

    monkeypatch.setattr(engine_module, "run_group", record_group)
    rows = make_data(tmp_path, 24)
    for i, row in enumerate(rows):
        row["question"] += " and why" * (i * 7 % 5) + "?" * (i % 3)
        row["image"] = f"{i // 6}.png" if shared else row["image"]
    arguments = (write_rows(tmp_path, rows), "--batch-size", 4, "--max-new-tokens", 2)
    assert here(*arguments, out="whole").exit_code == 0
    usual = list(groups)
    copy_partial_run(Path("whole"), Path("run"), 7)
    groups.clear()
    assert here(*arguments).exit_code == 0
    assert len(usual) > len(groups) > 0
    assert [group for group in groups if group not in usual] == []
    assert_same_run("run", "whole")


@pytest.mark.parametrize("count", [7, pytest.param(30, marks=pytest.mark.slow)])
def test_a_calibration_is_resumed_in_either_half(scenes, here, monkeypatch, count):
    without_drawings(monkeypatch)
    assert here(scenes, "--calibrate", "found.json", out="whole").exit_code == 0
    profile = Path("found.json").read_bytes()
    Path("found.json").unlink()
    assert rows_of("whole")[count]["half"] == ("first" if count == 7 else "second")
    copy_partial_run(Path("whole"), Path("run"), count)
    assert here(scenes, "--calibrate", "found.json").exit_code == 0
    assert_same_run("run", "whole")
    assert Path("found.json").read_bytes() == profile


def test_a_finished_run_without_its_profile_writes_the_profile(scenes, here, monkeypatch):
    """It was killed between the summary and the profile."""
    without_drawings(monkeypatch)
    assert here(scenes, "--calibrate", "found.json").exit_code == 0
    before, profile = files_of("run"), Path("found.json").read_bytes()
    Path("found.json").unlink()
    assert here(scenes, "--calibrate", "found.json").exit_code == 0
    assert Path("found.json").read_bytes() == profile
    assert files_of("run") == before


@pytest.mark.slow
def test_two_runs_in_one_folder(tmp_path, scenes, once, here):
    """The second run is refused, and the first is not affected."""
    first = start_process(tmp_path, scenes, code=signal_at_call(WRITE, 2, signal.SIGSTOP))
    wait_until_stopped(first)
    try:
        before = contents("run")
        done = here(scenes)
        after = contents("run")
    finally:
        first.send_signal(signal.SIGCONT)
    assert done.exit_code == 2, done.output
    assert "--out run: another process is writing to it" in one_line(done.stderr)
    assert done.stdout == ""
    assert after == before
    _, stderr = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 0, stderr
    assert_same_run("run", once)
