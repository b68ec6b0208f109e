"""`qvl-attn video` through typer's runner on the embedded model."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn.cli.app import app
from tests.conftest import CLIP_FPS
from tests.helpers.loading import without_loading

QUESTION = "what moves?"


@pytest.fixture
def run(tmp_path, monkeypatch, demo):
    """The command in an empty folder, without loading the weights each time."""
    monkeypatch.chdir(tmp_path)
    without_loading(monkeypatch, demo)

    def invoke(*args):
        words = [str(arg) for arg in args]
        return CliRunner().invoke(app, ["video", "--model", "demo", "--draw-size", "320", *words])

    return invoke


@pytest.fixture
def video(run):
    """Run, expect success, and return the JSON rows."""

    def invoke(*args):
        done = run(*args, "--json")
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    return invoke


def read_result(folder) -> dict:
    return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))


def test_what_it_writes_and_prints(run, clip_file):
    done = run(clip_file(9), QUESTION, "--fps", 5)
    assert done.exit_code == 0, done.output
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines["question"] == QUESTION
    for name in ("heatmap.mp4", "timeline", "overlay", "layers", "tokens", "attention.npz", "result.json"):
        assert Path(lines[name]).is_file(), name
    assert len(list(Path(lines["frames/"]).iterdir())) == 5
    value = read_result(Path(lines["result.json"]).parent)
    assert sorted(value["files"]) == sorted(
        path.relative_to(Path(lines["result.json"]).parent).as_posix()
        for path in Path(lines["result.json"]).parent.rglob("*")
        if path.is_file()
    )


def test_sampling(video, clip_file):
    clip = clip_file(40)
    (row,) = video(clip, QUESTION, "--fps", 5, "--start", 1, "--end", 3, "--max-frames", 4)
    facts = read_result(row["folder"])["media"][0]["clip"]
    assert facts["frame_indices"] == [10, 15, 20, 25]
    assert (facts["start_s"], facts["end_s"], facts["sampled_fps"]) == (1, 3, 2)
    with av.open(row["heatmap"]) as container:
        stream = container.streams.video[0]
        assert (stream.frames, float(stream.duration * stream.time_base)) == (20, pytest.approx(2.0))


def test_a_folder_of_frames(video, tmp_path):
    (tmp_path / "frames").mkdir()
    for number in range(0, 24, 4):
        Image.new("RGB", (64, 48), (number * 10, 0, 0)).save(tmp_path / "frames" / f"{number:05d}.jpg")
    (row,) = video(tmp_path / "frames", QUESTION, "--source-fps", 8)
    assert read_result(row["folder"])["media"][0]["times_s"] == [0, 0.5, 1, 1.5, 2, 2.5]


def test_a_clip_that_is_no_folder_of_frames(clip_file):
    done = CliRunner().invoke(app, ["video", str(clip_file(6)), QUESTION, "--source-fps", "8", "--model", "demo"])
    assert done.exit_code == 2
    assert "error: --source-fps is for a folder of frames, and this clip is a file" in done.stderr


@pytest.mark.parametrize("mode", ["frames", "both"])
def test_modes(video, clip_file, mode):
    (row,) = video(clip_file(6), QUESTION, "--fps", CLIP_FPS, "--mode", mode)
    value = read_result(row["folder"])
    assert [single["times_s"] for single in row["passes"]] == [[i / CLIP_FPS] for i in range(6)]
    assert value["passes"]["mode"] == "frames"
    assert (value["passes"]["merged"] is None) == (mode == "both")
    for single in value["passes"]["results"]:
        assert read_result(Path(row["folder"]) / single["folder"])["answer"] == single["answer"]


def test_windows(video, run, clip_file):
    words = [clip_file(12), QUESTION, "--fps", CLIP_FPS, "--window", 8, "--stride", 4]
    (row,) = video(*words)
    value = read_result(row["folder"])
    assert value["passes"]["mode"] == "windows"
    assert "gets their mean" in value["passes"]["merged"]
    assert [single["frame_indices"] for single in value["passes"]["results"]] == [list(range(8)), list(range(4, 12))]
    answers = {single["answer"] for single in value["passes"]["results"]}
    whose = "2 different answers of 2 prompts" if len(answers) == 2 else "the answer of all 2 prompts"
    assert f"   ({whose})\n" in run(*words).stdout


def test_drawing(video, clip_file):
    clip = clip_file(6)

    def first_frame(*flags):
        (row,) = video(clip, QUESTION, "--fps", CLIP_FPS / 2, *flags)
        with av.open(row["heatmap"]) as container:
            return [frame.to_ndarray(format="rgb24")[:230] for frame in container.decode(video=0)]

    plain, wide = first_frame(), first_frame("--side-by-side")
    assert wide[0].shape[1] == 2 * plain[0].shape[1] + 8
    per_frame, smooth = first_frame("--scale", "frame"), first_frame("--smooth")
    assert not np.array_equal(per_frame[-1], plain[-1])
    assert not np.array_equal(smooth[3], plain[3])


def test_maps_of_a_supplied_answer(video, clip_file):
    (row,) = video(clip_file(6), QUESTION, "--fps", CLIP_FPS, "--query", "answer", "--answer", "red star")
    value = read_result(row["folder"])
    assert value["headline"]["query"] == "answer"
    assert row["supplied_answer"] == "red star"
    drawn = sorted(path.name for path in (Path(row["folder"]) / "answer").iterdir())
    assert drawn == ["01_red.png", "02_star.png"]


def test_several_questions_and_a_second_run(video, run, clip_file):
    clip = clip_file(6)
    rows = video(clip, QUESTION, "what color is the star?")
    assert [row["question"] for row in rows] == [QUESTION, "what color is the star?"]
    again = run(clip, QUESTION)
    assert "nothing was computed" in again.stderr
    (same,) = video(clip, QUESTION)
    assert same["reused"]
    assert same["folder"] == rows[0]["folder"]
    (other,) = video(clip, QUESTION, "--fps", 3)
    assert other["folder"] != same["folder"]


def test_notes_are_printed(run, clip_file):
    done = run(clip_file(6), QUESTION, "--fps", 30)
    assert "note: clip: the clip has no more than 10 frames a second" in " ".join(done.stderr.split())
    assert done.exit_code == 0
    quiet = run(clip_file(6), "what color is the star?", "--fps", 30, "--quiet")
    assert quiet.stderr == ""
    assert len(quiet.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no question"),
        ((QUESTION, "--fps", "0"), "--fps 0"),
        ((QUESTION, "--window", "3"), "--window 3"),
        ((QUESTION, "--start", "99"), "--start 99"),
        ((QUESTION, "--max-pixels", "9"), "--max-pixels 9"),
        ((QUESTION, "--draw-size", "small"), "--draw-size small"),
        ((QUESTION, "--layers", "77"), "no layer 77"),
        (("<|video_pad|>",), "video_pad"),
    ],
)
def test_faults_are_one_line_and_exit_2(run, clip_file, monkeypatch, words, message):
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    done = run(clip_file(6), *words)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.output


def test_a_faulty_clip_is_reported_before_the_model_is_searched(tmp_path):
    done = CliRunner().invoke(app, ["video", str(tmp_path / "no.mp4"), QUESTION, "--model", "no/such-model"])
    assert done.exit_code == 2
    assert "does not exist" in done.stderr


def test_a_folder_that_cannot_be_written(run, clip_file, tmp_path):
    (tmp_path / "file").write_text("")
    done = run(clip_file(4), QUESTION, "--out", tmp_path / "file" / "out")
    assert done.exit_code == 2
    assert "is a file, and results go into a folder" in done.stderr


def shared_clips() -> list[str]:
    folder = Path(os.environ.get("QVL_ATTN_DATA", Path(__file__).parents[3] / "shared" / "data"))
    files = [path for kind in ("videos", "videos_corrupt") for path in sorted((folder / kind).glob("*"))]
    return [path.relative_to(folder).as_posix() for path in files if path.suffix != ".json"]


@pytest.mark.slow
@pytest.mark.parametrize("name", shared_clips())
def test_every_clip_of_the_shared_data(run, shared_data, name):
    done = run(shared_data / name, QUESTION, "--max-frames", 8, "--max-pixels", 20_000, "--max-new-tokens", 4, "--json")
    broken = name.startswith("videos_corrupt") and not name.endswith("webm_trunc60.webm")
    assert done.exit_code == (2 if broken else 0), done.output
    if broken:
        assert len(re.findall(r"^error: ", done.stderr, re.MULTILINE)) == 1
        return
    row = json.loads(done.stdout)
    with av.open(row["heatmap"]) as container:
        stream = container.streams.video[0]
        facts = read_result(row["folder"])["media"][0]["clip"]
        assert stream.frames == facts["decoded_frames"]
        assert float(stream.duration * stream.time_base) == pytest.approx(facts["end_s"] - facts["start_s"], abs=2e-3)


def test_bars_need_a_terminal(run, clip_file):
    done = run(clip_file(6), QUESTION)
    assert "\x1b" not in done.output
    assert "drawing" not in done.stderr
