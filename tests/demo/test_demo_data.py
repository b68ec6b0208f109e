"""The held-out distribution is frozen, and `demo-data` writes it unchanged."""

from __future__ import annotations

import hashlib
import json

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError
from qvl_attn.demo import heldout
from qvl_attn.demo.scenes import SIDES_PX
from qvl_attn.evaluation.data.question_sets import load_prompts
from qvl_attn.media.mp4 import write_mp4

FIELDS = ["id", "image", "question", "answer", "boxes", "box_format", "box_units"]


def run(*args: object):
    return CliRunner().invoke(app, ["demo-data", *map(str, args)])


def fingerprint(samples) -> str:
    """Hash of all questions, answers and boxes; `test_the_pictures_are_frozen` covers the pixels."""
    digest = hashlib.sha256()
    for sample in samples:
        for question in sample.questions:
            fact = question.fact
            digest.update(repr((question.question, question.answer, fact.boxes_xyxy_px, fact.frames)).encode())
    return digest.hexdigest()[:16]


def test_the_distribution_is_frozen() -> None:
    """If this fails, the published figures no longer hold: measure them again before changing the hashes."""
    assert fingerprint(heldout.scene(i) for i in range(60)) == FROZEN["scenes"]
    assert fingerprint(heldout.pair(i) for i in range(60)) == FROZEN["pairs"]
    assert fingerprint(heldout.clip(i) for i in range(60)) == FROZEN["clips"]


FROZEN = {"scenes": "0e0b9d390fe31588", "pairs": "02c831bba9eeb291", "clips": "7c4be5937a0022ba"}


def test_the_pictures_are_frozen() -> None:
    arrays = [heldout.scene(i).content.picture for i in range(4)] + [heldout.clip(i).content.frames for i in range(4)]
    means = [round(float(pixels.mean()), 2) for pixels in arrays]
    assert means == pytest.approx(MEANS, abs=0.1)
    assert [pixels.shape for pixels in arrays] == SHAPES_PX
    assert [heldout.clip(i).content.fps for i in range(9)] == [4, 4, 4, 2, 2, 2, 1, 1, 1]


MEANS = [229.66, 225.58, 217.61, 187.06, 224.18, 184.86, 219.53, 182.44]
SHAPES_PX = [
    (224, 168, 3),
    (252, 224, 3),
    (168, 168, 3),
    (168, 168, 3),
    (4, 140, 112, 3),
    (6, 112, 168, 3),
    (8, 168, 168, 3),
    (4, 112, 112, 3),
]


def test_sizes_and_the_chance_of_pointing() -> None:
    shares = []
    for index in range(200):
        sample = heldout.scene(index)
        height, width = sample.content.picture.shape[:2]
        assert {height, width} <= set(SIDES_PX)
        for question in sample.questions:
            if question.kind in ("color", "shape", "exist"):
                sizes_px = [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in question.fact.boxes_xyxy_px]
                assert all(max(size) in range(32, 87) for size in sizes_px)
                if sizes_px:
                    shares.append(sum(w * h for w, h in sizes_px) / width / height)
    assert np.mean(shares) <= 0.1


def test_both_languages_ask_the_same() -> None:
    for sample in (heldout.scene(3), heldout.pair(3), heldout.clip(3)):
        english, chinese = sample.questions[::2], sample.questions[1::2]
        assert [(q.language, q.fact) for q in english] == [("en", q.fact) for q in chinese]


def test_nine_clips_in_a_row_have_all_lengths_at_all_rates() -> None:
    kinds = {(len(heldout.clip(i).content.frames), heldout.clip(i).content.fps) for i in range(9)}
    assert kinds == {(frames, fps) for frames in (4, 6, 8) for fps in (4.0, 2.0, 1.0)}


def test_scenes_are_written_with_boxes_in_their_own_pixels(tmp_path) -> None:
    done = run("--out", tmp_path / "set", "--n", 5)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "set" / "questions.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "set" / "questions.jsonl").read_text("utf-8").splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    assert len({row["image"] for row in rows}) == 5
    for row in rows:
        assert list(row) == FIELDS
        assert (row["box_format"], row["box_units"]) == ("xyxy", "px")
        index = int(row["image"].split("-")[1].split(".")[0])
        with Image.open(tmp_path / "set" / row["image"]) as picture:
            assert np.array_equal(np.asarray(picture), heldout.scene(index).content.picture)
            assert all(x0 < x1 <= picture.width and y0 < y1 <= picture.height for x0, y0, x1, y1 in row["boxes"])
    expected = [(q.question, q.answer) for i in range(5) for q in heldout.scene(i).questions]
    assert [(row["question"], row["answer"]) for row in rows] == expected


def test_clips_are_written_with_a_box_in_each_frame(tmp_path) -> None:
    done = run("--out", tmp_path / "set", "--n", 9, "--video")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "set" / "questions.jsonl").read_text("utf-8").splitlines()]
    for index in range(9):
        clip_rows = [row for row in rows if row["id"].startswith(f"clip-{index:05d}-")]
        clip = heldout.clip(index).content
        with av.open(tmp_path / "set" / clip_rows[0]["video"]) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert float(stream.average_rate) == clip.fps
        assert len(frames) == len(clip.frames)
        # Colour is stored at half the resolution: edges differ, areas do not.
        for track in clip.tracks:
            for frame, drawn, box in zip(frames, clip.frames, track.boxes_xyxy_px, strict=True):
                if box is not None:
                    inside = (slice(box[1], box[3]), slice(box[0], box[2]))
                    assert np.abs(frame[inside].mean((0, 1)) - drawn[inside].mean((0, 1))).max() <= 8
        for row in clip_rows:
            assert list(row) == [*("video" if name == "image" else name for name in FIELDS), "frame"]
            assert len(row["boxes"]) == len(row["frame"])
            assert set(row["frame"]) <= set(range(len(frames)))


def test_any_count_begins_with_the_same_samples(tmp_path) -> None:
    for count in (2, 4):
        assert run("--out", tmp_path / str(count), "--n", count).exit_code == 0
    few, many = ((tmp_path / name / "questions.jsonl").read_text("utf-8") for name in ("2", "4"))
    assert many.startswith(few)


@pytest.mark.parametrize("count", [0, -3, "many"])
def test_an_invalid_count_is_refused(tmp_path, count) -> None:
    assert run("--out", tmp_path / "set", "--n", count).exit_code == 2
    assert not (tmp_path / "set").exists()


def test_existing_files_and_folders_are_not_changed(tmp_path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("set", "file"):
        done = run("--out", tmp_path / name)
        assert done.exit_code == 2
        assert "already exists" in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "set" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "set"]


def test_a_folder_created_in_the_meantime_is_not_changed(tmp_path, monkeypatch) -> None:
    real = heldout.scene

    def create_folder(index: int):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / "mine.txt").write_text("mine")
        return real(index)

    monkeypatch.setattr(heldout, "scene", create_folder)
    done = run("--out", tmp_path / "set", "--n", 2)
    assert done.exit_code == 2
    assert "already exists" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set" / "mine.txt").read_text() == "mine"


def test_an_invalid_name_is_refused(tmp_path) -> None:
    for name in ("x" * 300, "file/set"):
        (tmp_path / "file").write_text("mine")
        done = run("--out", tmp_path / name)
        assert done.exit_code == 2
        assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_data_set_is_not_accepted_as_a_set_of_questions(tmp_path) -> None:
    assert run("--out", tmp_path / "set", "--n", 1).exit_code == 0
    with pytest.raises(InputError) as caught:
        load_prompts(str(tmp_path / "set" / "questions.jsonl"))
    assert "line 1: image: a question set names no pictures; this looks like a data set" in caught.value.details


def test_an_error_half_way_leaves_nothing(tmp_path, monkeypatch) -> None:
    real = heldout.scene

    def fails(index: int):
        if index == 2:
            raise KeyboardInterrupt
        return real(index)

    monkeypatch.setattr(heldout, "scene", fails)
    assert run("--out", tmp_path / "set", "--n", 5).exit_code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frame"),
        ([np.zeros((20, 21, 3), np.uint8)], "even"),
        ([np.zeros((20, 20, 3), np.uint8), np.zeros((20, 22, 3), np.uint8)], "frame 1 is 22 x 20"),
    ],
)
def test_frames_that_cannot_be_encoded_are_refused(tmp_path, frames, message) -> None:
    with pytest.raises(ValueError, match=message):
        write_mp4(tmp_path / "clip.mp4", ((pixels, float(i)) for i, pixels in enumerate(frames)), 2.0, rate_fps=1)
