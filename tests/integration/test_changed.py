"""A run is only resumed with the same settings, data and model: every difference is reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvl_attn.cli.app import app
from qvl_attn.demo.dataset import write_dataset
from tests.helpers.check_runs import (
    files_of,
    invoke,
    one_line,
    rows_of,
    rows_without_times,
    without_drawings,
    write_rows,
)

MODEL = Path(__file__).parents[2] / "qvl_attn" / "demo" / "model"
COUNT = 6
PROFILE = {
    "profile_version": 1,
    "name": "own",
    "evidence": "measured",
    "source": "a test",
    "model": {"layers": 4, "heads": 4, "hidden_size": 128},
    "heads": [[2, 1]],
}


def write_picture(path, seed, size_px=112):
    """Write a picture of random colours without compression: pictures of one size have files of one length."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory, engine):
    """A folder with a data set, and a run of it that was stopped before its last row."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "set").mkdir()
    for i in range(COUNT):
        write_picture(folder / "set" / f"{i}.png", i)
    write_picture(folder / "set" / "large.png", 99, 700)
    box = {"boxes": [[0, 0, 56, 56]], "box_format": "xyxy", "box_units": "px"}
    rows = [{"id": str(i), "image": f"{i}.png", "question": "what is it?", "answer": "cat"} | box for i in range(COUNT)]
    rows.append(rows[0] | {"id": "large", "image": "large.png"})
    write_rows(folder / "set", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: engine.model)
        without_drawings(patch)
        assert invoke("set/rows.jsonl", "--max-new-tokens", 2, out="finished").exit_code == 0
    shutil.copytree(folder / "finished", folder / "run")
    (folder / "run" / "summary.json").unlink()
    lines = (folder / "run" / "scores.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "run" / "scores.jsonl").write_bytes(b"".join(lines[:-1]))
    return folder


@pytest.fixture
def weights(monkeypatch, engine):
    """Loading the weights fails until the returned function is called."""
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    return lambda: monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: engine.model)


@pytest.fixture
def resume(stopped_run, tmp_path, monkeypatch, weights):
    """Run the same command again, in a copy of the folder."""
    shutil.copytree(stopped_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    without_drawings(monkeypatch)

    def invoked(*args, data="set/rows.jsonl", out="run"):
        tokens = () if "--max-new-tokens" in args else ("--max-new-tokens", 2)
        return invoke(data, *tokens, *args, out=out)

    return invoked


def assert_refused(done, *lines, out="run"):
    """Check that the command was refused with these lines before the weights were loaded, and changed no file."""
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert f"--out {out} was started with other settings or samples" in one_line(done.stderr)
    for line in lines:
        assert any(stderr_line.strip().startswith(line) for stderr_line in done.stderr.splitlines()), (
            line,
            done.stderr,
        )
    assert not (Path(out) / "summary.json").exists()
    assert len(rows_of(out)) == COUNT


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--query", "last"), "--query: question before, last now"),
        (("--layers", "1-2"), "--layers: not given before, 1-2 now"),
        (("--heads", "1"), "--heads: not given before, 1 now"),
        (("--system", "be brief"), "--system: not given before, be brief now"),
        (("--min-pixels", "10000"), "--min-pixels: not given before, 10000 now"),
        (("--max-pixels", "20000"), "--max-pixels: not given before, 20000 now"),
        (("--max-new-tokens", "3"), "--max-new-tokens: 2 before, 3 now"),
        (("--seed", "1"), "--seed: 0 before, 1 now"),
        (("--by-head",), "--by-head: False before, True now"),
        (("--attn", "rows"), "--attn: auto before, rows now"),
        (("--dtype", "bfloat16"), "--dtype: float32 before, bfloat16 now"),
        (("--shard", "1/2"), "--shard: not given before, 1/2 now"),
        (("--fps", "1"), "--fps: 2.0 before, 1.0 now"),
        (("--max-frames", "8"), "--max-frames: 64 before, 8 now"),
        (("--profile", "own.json"), "--profile: not given before, {"),
        (("--limit", "3"), "samples removed (another --limit?): 4 (3, 4, 5, large)"),
    ],
)
def test_settings(resume, args, line):
    Path("own.json").write_text(json.dumps(PROFILE), encoding="utf-8")
    assert_refused(resume(*args), line)


def test_several_differences_are_all_reported(resume):
    done = resume("--query", "last", "--seed", 7, "--limit", 5)
    names = (
        "--query: ",
        "--seed: 0 before, 7 now",
        "the data: ",
        "samples removed (another --limit?): 2 (5, large)",
    )
    assert_refused(done, *names)


def test_every_option_must_be_the_same_or_may_change(stopped_run):
    """A new option must be added to one of the two."""
    import typer

    (command,) = [command for name, command in typer.main.get_group(app).commands.items() if name == "check"]
    options = {name for option in command.params for name in option.opts if name.startswith("--")}
    may_change = {"--out", "--batch-size", "--csv", "--json", "--quiet", "--debug", "--offline", "--fail-under"}
    may_change |= {"--engine", "--concurrency", "--gpus-per-worker", "--device-map", "--revision", "--help"}
    data_options = {"--prompts", "--data-root", "--limit", "--split", "--columns", "--box-format", "--box-units"}
    same = json.loads((stopped_run / "run" / "run.json").read_text(encoding="utf-8"))["same"]
    compared = {name for name in same if name.startswith("--")}
    assert options - may_change - data_options == compared
    assert "the data" in same
    assert "the model's files" in same


# The data


def change_row(place, **changes):
    rows = [json.loads(line) for line in Path("set/rows.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[place] |= changes
    write_rows(Path("set"), rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "what is it"},
        {"boxes": [[0, 0, 56, 57]]},
        {"boxes": [[0, 0, 56, 56], [60, 60, 100, 100]]},
        {"boxes": []},
        {"answer": "dog"},
        {"answer": ["cat", "dog"]},
        {"image": "3.png"},
    ],
)
def test_a_changed_sample_is_named(resume, changes):
    change_row(2, **changes)
    done = resume()
    assert_refused(done, "the data: ", "samples changed (question, answers, boxes or pictures): 1 (2)")
    assert one_line(done.stderr).count("samples changed") == 1


def test_a_changed_picture_of_the_same_size_is_named(resume):
    path = Path("set/4.png")
    before = path.stat().st_size
    write_picture(path, 77)
    assert path.stat().st_size == before
    assert_refused(resume(), "the data: ", "samples changed (question, answers, boxes or pictures): 1 (4)")


@pytest.mark.parametrize("where", [0.5, 1.0])
def test_a_large_file_that_changed_in_its_middle_or_end_is_named(resume, where):
    path = Path("set/large.png")
    data = bytearray(path.read_bytes())
    assert len(data) > 2**20
    data[min(int(len(data) * where), len(data) - 1)] ^= 1
    path.write_bytes(data)
    assert_refused(resume(), "samples changed (question, answers, boxes or pictures): 1 (large)")


def test_a_sample_more_or_less_is_named(resume):
    lines = Path("set/rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("set/rows.jsonl").write_text("".join([*lines[1:], lines[0].replace('"0"', '"new"')]), encoding="utf-8")
    assert_refused(
        resume(),
        "the data: ",
        "samples removed (another --limit?): 1 (0)",
        "samples added (another --limit?): 1 (new)",
    )


def test_another_order_is_refused(resume):
    """The halves, the controls and the batches would be different."""
    lines = Path("set/rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("set/rows.jsonl").write_text("".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    assert_refused(resume(), "the data: ")


# The model


def test_other_weights_of_the_same_name_are_named(resume, weights):
    shutil.copytree(MODEL, "model")
    weights()
    assert resume("--model", "model", out="other").exit_code == 0
    data = bytearray(Path("model/model.safetensors").read_bytes())
    data[-1] ^= 1
    Path("model/model.safetensors").write_bytes(data)
    before = files_of("other")
    done = resume("--model", "model", out="other")
    assert done.exit_code == 2, done.output
    assert "the model's files: " in one_line(done.stderr)
    assert "--model: " not in one_line(done.stderr)
    assert files_of("other") == before


def test_changed_settings_of_a_models_processor_are_named(resume, weights):
    shutil.copytree(MODEL, "model")
    weights()
    assert resume("--model", "model", out="other").exit_code == 0
    Path("other/summary.json").unlink()
    file = Path("model/preprocessor_config.json")
    file.write_text(file.read_text(encoding="utf-8").replace("{", '{"qvl": 1,', 1), encoding="utf-8")
    assert "the model's files: " in one_line(resume("--model", "model", out="other").stderr)


def test_a_model_of_another_name_is_named(resume):
    shutil.copytree(MODEL, "model")
    assert_refused(resume("--model", "model"), "--model: demo before, model now")


def test_another_version_is_named(resume, monkeypatch):
    monkeypatch.setattr("qvl_attn.model.placement.__version__", "99.0")
    monkeypatch.setattr("qvl_attn.model.placement.version", lambda package: "98.0")
    assert_refused(resume(), "qvl_attn: ", "transformers: ")


# What may change


@pytest.mark.parametrize("args", [(), ("--batch-size", 1), ("--batch-size", 3, "--quiet"), ("--csv",)])
def test_what_may_change(resume, weights, args):
    weights()
    rows = Path("run/scores.jsonl").read_bytes()
    done = resume(*args)
    assert done.exit_code == 0, done.output
    assert Path("run/scores.jsonl").read_bytes().startswith(rows), "earlier rows are unchanged"
    assert rows_without_times("run").keys() == rows_without_times("finished").keys()
    assert (Path("run") / "scores.csv").exists() == ("--csv" in args)
    if not args:
        assert files_of("run") == files_of("finished")
        assert rows_without_times("run") == rows_without_times("finished")


def test_the_data_may_lie_elsewhere(resume, weights):
    weights()
    shutil.move("set", "moved")
    assert resume(data=Path("moved/rows.jsonl").absolute()).exit_code == 0
    assert files_of("run") == files_of("finished")
    assert rows_without_times("run") == rows_without_times("finished")


def test_a_clip_that_changed_is_named(tmp_path, monkeypatch, engine):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: engine.model)
    write_dataset(Path("clips"), 2, video=True)
    arguments = ("clips/questions.jsonl", "--fps", 1, "--max-new-tokens", 1)
    assert invoke(*arguments).exit_code == 0
    first, second = sorted(Path("clips/videos").iterdir())
    first.write_bytes(second.read_bytes())
    done = invoke(*arguments)
    assert done.exit_code == 2
    changed = [name for name, row in rows_without_times("run").items() if row["media"] == ["videos/clip-00000.mp4"]]
    assert f"boxes or pictures): {len(changed)} (" in one_line(done.stderr)
    assert set(one_line(done.stderr).partition("pictures): ")[2].partition("(")[2].partition(")")[0].split(", ")) <= {
        *changed,
        "...",
    }


# Damaged rows of a finished run


@pytest.mark.parametrize(
    "damage", ["a row is missing", "the last row is cut", "a figure is a text", "a line is no row"]
)
def test_a_finished_run_whose_rows_are_damaged_is_finished_again(resume, weights, damage):
    path, summary = Path("finished/scores.jsonl"), Path("finished/summary.json")
    whole, before = rows_without_times("finished"), path.read_bytes()
    lines = before.splitlines(keepends=True)
    number = len(lines) if damage == "the last row is cut" else 2
    row = json.loads(lines[number - 1])
    bad = {
        "a row is missing": b"",
        "the last row is cut": lines[-1][:50],
        "a figure is a text": json.dumps(row | {"area": "0.25"}).encode() + b"\n",
        "a line is no row": b"junk\n",
    }[damage]
    path.write_bytes(b"".join([*lines[: number - 1], bad, *lines[number:]]))
    summary.write_text(json.dumps(json.loads(summary.read_text("utf-8")) | {"notes": ["stale"]}), encoding="utf-8")
    if bad.endswith(b"\n"):
        refused, damaged = resume(out="finished"), path.read_bytes()
        assert refused.exit_code == 1, refused.output
        assert "scores.jsonl: line 2 is not a" in one_line(refused.stderr)
        assert "remove the line and run the same check again: it asks the sample again" in one_line(refused.stderr)
        assert (refused.stdout, path.read_bytes()) == ("", damaged)
        path.write_bytes(damaged.replace(bad, b""))
    weights()
    done = resume(out="finished")
    assert done.exit_code == 0, done.output
    assert f"finished: {COUNT} of {COUNT + 1} samples are already done" in one_line(done.stderr)
    assert "nothing is left to do" not in done.stderr
    assert rows_without_times("finished") == whole
    assert json.loads(summary.read_text("utf-8"))["notes"] != ["stale"]


def test_a_kill_while_a_missing_row_is_asked_leaves_no_old_summary(resume, weights, monkeypatch):
    path = Path("finished/scores.jsonl")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    weights()

    def stop(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("qvl_attn.evaluation.run.write_outputs", stop)
    assert resume(out="finished").exit_code == 130
    assert len(rows_of("finished")) == COUNT + 1
    assert not Path("finished/summary.json").exists()
