"""`qvl-attn merge`: merged parts equal one run over everything; anything else is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn import merge_runs
from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError
from tests.conftest import DEMO_PICTURES
from tests.helpers.loading import without_loading
from tests.helpers.processes import signal_at_call, start_command
from tests.helpers.run_comparison import ENVIRONMENT, assert_runs_match, files_of, pictures_of, rows_of, summary_of

OF = 3


@pytest.fixture(scope="module")
def command(demo):
    """The command line without loading the weights each time."""

    def invoke(*args):
        return CliRunner().invoke(app, [str(arg) for arg in args])

    with pytest.MonkeyPatch.context() as patch:
        without_loading(patch, demo)
        yield invoke


@pytest.fixture(scope="module")
def finished_runs(command, tmp_path_factory) -> Path:
    """A data set with a broken picture, the run over all of it, `whole`, and its parts, `part-1` and on."""
    folder = tmp_path_factory.mktemp("finished")
    rows = []
    for i, picture in enumerate(sorted(DEMO_PICTURES.glob("*.png"))):
        shutil.copyfile(picture, folder / picture.name)
        row = {"image": picture.name, "boxes": [[20 * i, 30, 20 * i + 40, 80]], "box_format": "xyxy", "box_units": "px"}
        questions = ("how many cats?", "what color is the star?", "有几条鱼？", "is there a dog?")
        rows += [row | {"id": f"{i}-{j}", "question": words, "answer": "2"} for j, words in enumerate(questions)]
    (folder / "cut.png").write_bytes((folder / "cats.png").read_bytes()[:400])
    rows.insert(5, rows[0] | {"id": "cut", "image": "cut.png"})
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for name, words in {"whole": (), **{f"part-{i}": ("--shard", f"{i}/{OF}") for i in range(1, OF + 1)}}.items():
        done = command("check", data, "--out", folder / name, "--model", "demo", "--max-new-tokens", 4, "--csv", *words)
        assert done.exit_code in (0, 1), done.output  # a single error exceeds the limit of a small part
        assert (folder / name / "summary.json").exists(), done.output
    return folder


@pytest.fixture
def runs(finished_runs, tmp_path) -> Path:
    """A copy of the runs, to damage them."""
    for name in (*(f"part-{i}" for i in range(1, OF + 1)), "whole"):
        shutil.copytree(finished_runs / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


def parts_in(folder):
    return [folder / f"part-{i}" for i in range(1, OF + 1)]


def stderr_line(done):
    return " ".join(done.stderr.split())


# Merged runs


def test_merged_parts_are_the_whole_run(command, finished_runs, tmp_path):
    first, second, third = parts_in(finished_runs)
    assert all(summary_of(part)["samples"] > 3 for part in (first, second, third)), "else the test would prove little"
    done = command(
        "merge", third, first, second, "--out", tmp_path / "all", "--csv", "--json", "--fail-under", "lift=0"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == summary_of(tmp_path / "all")
    assert_runs_match(tmp_path / "all", finished_runs / "whole")
    assert {"scores.csv", "layers.png", "patterns.png"} <= set(files_of(tmp_path / "all"))
    assert sum(name.startswith("gallery/") for name in pictures_of(tmp_path / "all")) == 12
    assert summary_of(tmp_path / "all")["errors"] == 1
    runs = [
        json.loads((folder / "run.json").read_text("utf-8")) for folder in (tmp_path / "all", finished_runs / "whole")
    ]
    assert runs[0] == runs[1]
    assert list(runs[0]["samples"]) == list(runs[1]["samples"])
    lines = (tmp_path / "all" / "scores.csv").read_text("utf-8-sig").splitlines()
    assert [line.partition(",")[0] for line in lines[1:]] == [row["id"] for row in rows_of(finished_runs / "whole")]


def test_each_part_is_a_run_of_its_own(finished_runs):
    whole = rows_of(finished_runs / "whole")
    ids: list[str] = []
    for number, part in enumerate(parts_in(finished_runs), 1):
        summary = summary_of(part)
        assert summary["shard"] == {"number": number, "of": OF}
        assert summary["samples"] == len(rows_of(part)) == len(json.loads((part / "run.json").read_text())["samples"])
        assert summary["files"] == files_of(part)
        ids += [row["id"] for row in rows_of(part)]
    assert sorted(ids) == sorted(row["id"] for row in whole)


def test_a_check_of_everything_finds_the_merged_run_finished(command, finished_runs, tmp_path, monkeypatch):
    merge_runs(parts_in(finished_runs), tmp_path / "all", csv=True)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "all").rglob("*.*")}
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    words = ("--out", tmp_path / "all", "--model", "demo", "--max-new-tokens", 4, "--csv")
    done = command("check", finished_runs / "rows.jsonl", *words)
    assert done.exit_code == 0, done.output
    count = len(rows_of(finished_runs / "whole"))
    assert f"{count} of {count} samples are already done; the run is finished, nothing is left to do" in stderr_line(
        done
    )
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "all").rglob("*.*")} == before


def test_it_needs_no_model_and_imports_no_torch(finished_runs, tmp_path):
    words = ["merge", *map(str, parts_in(finished_runs)), "--out", str(tmp_path / "all"), "--quiet"]
    code = (
        "import atexit, sys\n"
        f"sys.argv = ['qvl-attn', *{words!r}]\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers', 'ray'} & set(sys.modules))))\n"
        "from qvl_attn.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [str(tmp_path / "all" / "summary.json"), "[]"]


def test_parts_without_samples_are_merged_and_many_errors_fail(command, tmp_path):
    """Two pictures, one of them broken, in three parts."""
    rows = []
    for name in ("sound.png", "cut.png"):
        pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
        row = {"image": name, "boxes": [[28, 28, 84, 84]], "box_format": "xyxy", "box_units": "px"}
        rows += [row | {"id": f"{name}-{i}", "question": f"what color is it?{'?' * i}"} for i in range(2)]
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--model", "demo", "--max-new-tokens", 1)
    folders = [tmp_path / f"part-{i}" for i in range(1, 4)]
    for i, folder in enumerate(folders, 1):
        done = command("check", data, "--out", folder, *words, "--shard", f"{i}/3")
        assert done.exit_code == summary_of(folder)["errors"] / 2, done.output
    assert sorted(summary_of(folder)["samples"] for folder in folders) == [0, 2, 2]
    assert command("check", data, "--out", tmp_path / "whole", *words).exit_code == 1
    done = command("merge", *folders, "--out", tmp_path / "all")
    assert done.exit_code == 1
    assert "2 of 4 samples have no score" in stderr_line(done)
    assert "2 of 4 samples could not be scored" in done.stdout
    assert_runs_match(tmp_path / "all", tmp_path / "whole")


@pytest.mark.parametrize(("threshold", "code"), [("lift=99", 1), ("beauty=1", 2)])
def test_a_missed_threshold_fails_the_command_but_the_run_is_written(command, finished_runs, tmp_path, threshold, code):
    (tmp_path / "all").mkdir()  # an empty folder may be used
    done = command("merge", *parts_in(finished_runs), "--out", tmp_path / "all", "--fail-under", threshold, "--quiet")
    assert done.exit_code == code
    assert (tmp_path / "all" / "summary.json").exists() == (code == 1)
    assert f"--fail-under {threshold}" in stderr_line(done)


def test_a_drawing_that_a_part_lacks_is_a_note(finished_runs, runs, tmp_path):
    lost = next(runs.glob("part-*/gallery/best_1_*"))
    lost.unlink()
    summary = merge_runs(parts_in(runs), tmp_path / "all")
    missing = pictures_of(finished_runs / "whole").keys() - pictures_of(tmp_path / "all").keys()
    assert len(missing) <= 1
    assert len([note for note in summary["notes"] if "its part has no drawing of" in note]) == len(missing)
    assert summary["files"] == files_of(tmp_path / "all")


# Errors


def refused(command, folders, out):
    before = sorted(out.parent.rglob("*"))
    done = command("merge", *folders, "--out", out)
    assert sorted(out.parent.rglob("*")) == before, "nothing is written"
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done


def test_all_faults_are_reported_at_once(command, finished_runs, runs):
    shutil.copytree(runs / "part-1", runs / "again")
    (runs / "part-3" / "summary.json").unlink()
    for name, old, changes in (
        ("half", "part-1", {'"of": 3': '"of": 2', "1/3": "1/2"}),
        ("other", "part-3", {'"--query": "question"': '"--query": "last"'}),
    ):
        text = (finished_runs / old / "run.json").read_text("utf-8")
        for old_text, new_text in changes.items():
            assert old_text in text
            text = text.replace(old_text, new_text)
        shutil.copytree(finished_runs / old, runs / name)
        (runs / name / "run.json").write_text(text, encoding="utf-8")
    folders = [runs / name for name in ("part-1", "part-3", "other", "half", "again")]
    done = refused(command, folders, runs / "all")
    assert done.exit_code == 2
    lines = done.stderr.splitlines()
    assert lines[0] == "error: these are not all the finished parts of one check"
    assert len(lines) == 7
    for start in (
        f"{runs / 'other'} is not a part of the same check as {runs / 'part-1'}: --query",
        f"{runs / 'half'} is one of 2 parts, {runs / 'part-1'} one of 3",
        f"part 1/3 is given twice: {runs / 'part-1'} and {runs / 'again'}",
        "part 2/3 is missing: run it with --shard 2/3",
        f"part 3/3 is given twice: {runs / 'part-3'} and {runs / 'other'}",
        f"{runs / 'part-3'} is not finished",
    ):
        assert sum(line.strip().startswith(start) for line in lines) == 1, start
    with pytest.raises(InputError) as caught:
        merge_runs(folders, runs / "all")
    faults = [line for line in caught.value.details if line.startswith(f"{runs / 'other'} is not a part")]
    assert faults[0].startswith(f"{runs / 'other'} is not a part of the same check as {runs / 'part-1'}: `query`: ")


@pytest.mark.parametrize("first", ["whole", "part-1"])
def test_a_whole_run_among_the_parts_is_refused(command, runs, first):
    folders = sorted([*parts_in(runs), runs / "whole"], key=lambda path: path.name != first)
    done = refused(command, folders, runs / "all")
    assert done.exit_code == 2
    assert f"{runs / 'whole'} is not a part" in stderr_line(done)


@pytest.mark.parametrize("target", ["part-1", "file"])
def test_an_existing_file_or_folder_is_not_replaced(command, runs, target):
    (runs / "file").write_text("mine")
    done = refused(command, parts_in(runs), runs / target)
    assert done.exit_code == 2
    assert f"--out {runs / target}: already exists" in stderr_line(done)
    assert (runs / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_folders_that_are_not_runs_are_refused(command, runs, name):
    (runs / "empty").mkdir()
    (runs / "file").write_text("")
    done = refused(command, [*parts_in(runs), runs / name], runs / "all")
    assert done.exit_code in (1, 2)
    assert str(runs / name) in stderr_line(done)


def test_no_parts_are_refused(tmp_path):
    with pytest.raises(InputError, match="no part"):
        merge_runs([], tmp_path / "all")


def change_rows(part, change):
    path = part / "scores.jsonl"
    path.write_text("".join(change(path.read_text("utf-8").splitlines(keepends=True))), encoding="utf-8")


@pytest.mark.parametrize("change", ["missing", "doubled", "torn", "another's", "no row"])
def test_a_finished_part_without_its_rows_is_damaged(command, runs, change):
    other = (runs / "part-2" / "scores.jsonl").read_text("utf-8").splitlines(keepends=True)
    changes = {
        "missing": lambda lines: lines[:2] + lines[3:],
        "doubled": lambda lines: [*lines, lines[2]],
        "torn": lambda lines: [*lines[:-1], lines[-1][:30]],
        "another's": lambda lines: [*lines, other[0]],
        "no row": lambda lines: [*lines[:-1], '{"id": "x"}\n'],
    }
    change_rows(runs / "part-1", changes[change])
    done = refused(command, parts_in(runs), runs / "all")
    assert done.exit_code == 1
    assert str(runs / "part-1") in stderr_line(done)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_kill_in_the_middle_leaves_no_merged_run(finished_runs, tmp_path, number):
    words = ["merge", *parts_in(finished_runs), "--out", tmp_path / "all", "--csv", "--quiet"]
    code = signal_at_call("qvl_attn.evaluation.sharding:_copy_gallery", 1, number)
    done = start_command(words, tmp_path, code).completed()
    assert done.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "all").exists()
    if number != signal.SIGKILL:
        assert not list(tmp_path.iterdir())
        assert "nothing was written" in done.stderr
    else:
        merge_runs(parts_in(finished_runs), tmp_path / "all", csv=True)
        assert_runs_match(tmp_path / "all", finished_runs / "whole")


@pytest.mark.parametrize("api", [False, True])
def test_parts_are_not_calibrated(command, demo, finished_runs, tmp_path, monkeypatch, api):
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    if api:
        from qvl_attn import load_samples

        with pytest.raises(InputError, match="in one process"):
            demo.check(load_samples(finished_runs / "rows.jsonl"), tmp_path / "run", calibrate="p.json", shard="1/2")
    else:
        words = ("--calibrate", tmp_path / "p.json", "--shard", "1/2", "--model", "demo")
        done = command("check", finished_runs / "rows.jsonl", "--out", tmp_path / "run", *words)
        assert done.exit_code == 2
        assert "--calibrate keeps the maps of all heads in one process" in stderr_line(done)
    assert not list(tmp_path.iterdir())
