"""The embedded model is grounded: its attention lies on the things asked about, and wrong grids lower the figures.

The lift of a uniform map is 1. The thresholds have a margin: `pytest -rP` prints the measured figures. The slow test
at the end runs the whole evaluation of the model card.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby

import av
import numpy as np
import pytest

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.types import Media
from qvl_attn.demo import heldout
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.model.preprocess import load_clip
from qvl_attn.vqa.clip import answer_clip, prepare_clip
from tests.conftest import DEMO_MODEL, DEMO_PICTURES

SCENES = 16
CLIPS = 18
WRITTEN_CLIPS = 9
MIN_LIFT = 4.5
KINDS = ("color", "shape", "exist")


def share_inside(boxes_px, cells_px):
    """(cells,) share of each cell's area in the union of some boxes, counted on a pixel raster."""
    width, height = cells_px[-1, 2], cells_px[-1, 3]
    x, y = np.meshgrid(np.arange(0.5, width), np.arange(0.5, height))
    inside = np.zeros(x.shape, dtype=bool)
    for left, top, right, bottom in boxes_px:
        inside |= (x >= left) & (x < right) & (y >= top) & (y < bottom)
    shares = []
    for left, top, right, bottom in cells_px:
        cell = inside[int(top) : int(bottom), int(left) : int(right)]
        shares.append(cell.mean())
    return np.array(shares)


def ask_scenes(analyzer, count, **settings):
    """Ask colour, shape and yes questions on held-out scenes: correctness, map, and share of each cell in the boxes."""
    rows = []
    for index in range(count):
        sample = heldout.scene(index)
        picture = sample.content.picture
        media = Media("picture", picture[None], np.zeros(1), picture.shape[1::-1], f"scene {index}", "0" * 64)
        for item in sample.questions:
            if item.kind in KINDS and item.fact.boxes_xyxy_px:
                result = analyzer.ask(media, item.question, **settings)
                values = result.heatmap(layers="all", query="last").values[0]
                inside = share_inside(item.fact.boxes_xyxy_px, result.capture.grids[0].boxes_px)
                rows.append((result.answer == item.answer, values, inside))
    return rows


@pytest.fixture(scope="module")
def scene_rows(demo):
    return ask_scenes(demo, SCENES)


def mean_lift(rows, change=lambda values: values):
    lifts = []
    for _, values, inside in rows:
        changed = change(values).ravel()
        lifts.append((changed * inside).sum() / changed.sum() / inside.mean())
    return float(np.mean(lifts))


def test_it_answers_in_both_languages(scene_rows):
    accuracy = np.mean([correct for correct, _, _ in scene_rows])
    print(f"{len(scene_rows)} questions on {SCENES} scenes, accuracy {accuracy:.3f}")
    assert len(scene_rows) >= 40
    assert accuracy >= 0.95


def test_its_attention_lies_on_the_things_asked_about(scene_rows):
    lift = mean_lift(scene_rows)
    print(f"lift {lift:.2f}")
    assert lift >= MIN_LIFT


WRONG_GRIDS = {
    "transposed": lambda v: v.ravel().reshape(v.shape[::-1]).T,
    "columns mirrored": lambda v: v[:, ::-1],
    "rows mirrored": lambda v: v[::-1],
    "shifted by one token": lambda v: np.roll(v.ravel(), 1),
    "shifted by one row": lambda v: np.roll(v, 1, axis=0),
    "shuffled": lambda v: np.random.default_rng(0).permutation(v.ravel()),
}


@pytest.mark.parametrize("name", sorted(WRONG_GRIDS))
def test_a_wrong_grid_fails(scene_rows, name):
    lift = mean_lift(scene_rows, WRONG_GRIDS[name])
    print(f"lift {lift:.2f} {name}")
    assert lift < (2 if name in ("transposed", "shuffled") else 0.8 * mean_lift(scene_rows))


def test_random_weights_have_no_lift(genuine):
    assert 0.7 < mean_lift(ask_scenes(genuine, 3, max_new_tokens=1)) < 1.4


@pytest.fixture(scope="module")
def on_frames(demo):
    """Every question on some held-out clips, through the real video processor."""
    from demo_model.measures import ask_all

    return ask_all(demo.engine.model, demo.engine.processor, [heldout.clip(i) for i in range(CLIPS)])


def test_it_understands_clips(on_frames):
    from evaluate_demo_model import event_questions

    accuracy, events = (np.mean([item.correct for item in items]) for items in (on_frames, event_questions(on_frames)))
    print(
        f"{len(on_frames)} questions on {CLIPS} clips, accuracy {accuracy:.3f}; {events:.3f} on questions about events"
    )
    assert len(on_frames) >= 200
    assert accuracy >= 0.93
    assert events >= 0.8


def test_it_understands_clips_as_they_are_written(demo, tmp_path):
    """Encoded as H.264 and decoded again, with colour at half the resolution."""
    from demo_model.measures import ask_all

    write_dataset(tmp_path / "set", 3, video=True)
    samples = []
    for index in range(3):
        sample = heldout.clip(index)
        with av.open(tmp_path / "set" / "videos" / f"clip-{index:05d}.mp4") as container:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        samples.append(heldout.HeldOut(replace(sample.content, frames=frames), sample.questions))
    correct = [item.correct for item in ask_all(demo.engine.model, demo.engine.processor, samples)]
    assert len(correct) >= 36
    assert np.mean(correct) >= 0.93


def test_its_attention_is_at_the_right_place_in_each_step(on_frames):
    from demo_model import grounding

    changing = [item for item in on_frames if grounding.changes(item)]
    for name, change in grounding.WRONG_TIMES.items():
        figures, lift = grounding.on_clips(on_frames, change), grounding.in_space_and_time(changing, change)
        print(name, figures, lift)
        if name == "right grid":
            assert figures.lift >= 3
            assert figures.pointing >= 0.65
            right_lift = lift
        else:
            assert lift < 0.8 * right_lift


@pytest.fixture(scope="module")
def on_files(demo, tmp_path_factory):
    """Every question on held-out clips, written as `demo-data` does and asked as `qvl-attn video` does."""
    folder = tmp_path_factory.mktemp("clips") / "set"
    write_dataset(folder, WRITTEN_CLIPS, video=True)
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    results = []
    for index, (name, group) in enumerate(groupby(rows, key=lambda row: row["video"])):
        clip_rows = list(group)
        sampling = ClipSettings(fps=heldout.clip(index).content.fps)
        settings = Settings(query="last", layers="all", clip=sampling, max_new_tokens=8)
        media = load_clip(demo.engine.processor, open_clip(folder / name), settings)
        prepared = prepare_clip(demo.engine, media, [row["question"] for row in clip_rows], settings)
        results += [(clip_rows[i], result) for i, result in answer_clip(demo.engine, prepared)]
    return results


def test_the_figures_hold_through_the_video_command(demo, on_frames, on_files):
    from demo_model import grounding

    lifts, pointed = [], []
    for row, result in on_files:
        grid, values = result.capture.grids[0], result.heatmap().values
        cells = grid.boxes_px[: grid.cells // grid.shape[0]]
        for step, (first, last) in enumerate(grid.frame_span.tolist()):
            boxes = [box for box, frame in zip(row["boxes"], row["frame"], strict=True) if frame in (first, last)]
            if boxes:
                inside = share_inside(boxes, cells)
                lifts.append((values[step].ravel() * inside).sum() / values[step].sum() / inside.mean())
                x0, y0, x1, y1 = cells[values[step].argmax()]
                x, y = (x0 + x1) / 2, (y0 + y1) / 2
                pointed.append(any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes))
    accuracy = np.mean([result.answer.strip() == row["answer"] for row, result in on_files])
    print(
        f"{len(on_files)} questions on {WRITTEN_CLIPS} clips as MP4, accuracy {accuracy:.3f}, "
        f"lift {np.mean(lifts):.2f}, pointing {np.mean(pointed):.3f}"
    )
    assert accuracy >= 0.93
    assert np.mean(lifts) >= 3
    assert np.mean(pointed) >= 0.65
    written = [question for index in range(WRITTEN_CLIPS) for question in heldout.clip(index).questions]
    expected = grounding.on_clips([item for item in on_frames if item.question in written], lambda maps: maps)
    assert len(lifts) == expected.maps
    assert np.mean(lifts) == pytest.approx(expected.lift, rel=0.05), "as measured on the frames themselves"


SHIPPED = json.loads((DEMO_PICTURES / "pictures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("file", "question", "answer"),
    [(row["file"], item["question"], item["answer"]) for row in SHIPPED for item in row["questions"]],
)
def test_the_shipped_pictures_are_understood(demo, file, question, answer):
    assert demo.ask(DEMO_PICTURES / file, question).answer == answer


CLIP = json.loads((DEMO_PICTURES / "clip.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("question", "answer"), [(item["question"], item["answer"]) for item in CLIP["questions"]])
def test_the_shipped_clip_is_understood_and_the_map_follows(demo, question, answer):
    result = demo.ask_video(DEMO_PICTURES / CLIP["file"], question, fps=CLIP["fps"], query="last", layers="all")
    assert result.answer == answer
    grid, values = result.capture.grids[0], result.heatmap().values
    cells = grid.boxes_px[: grid.cells // grid.shape[0]]
    for step, (first, last) in enumerate(grid.frame_span.tolist()):
        inside = share_inside([CLIP["boxes_xyxy_px"][first], CLIP["boxes_xyxy_px"][last]], cells)
        assert (values[step].ravel() * inside).sum() / values[step].sum() / inside.mean() > 2


@pytest.mark.slow
def test_every_bar_is_met():
    from evaluate_demo_model import evaluate

    bars = evaluate(DEMO_MODEL, 500, 500, 504)
    assert [str(bar) for bar in bars if not bar.met] == []
