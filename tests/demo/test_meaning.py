"""The embedded model really sees: its attention lies on what was asked about, and a wrong grid would show.

Chance for the lift is 1. The thresholds leave room: what is measured is printed with `pytest -rP`. The whole
evaluation behind the model card is the slow one at the end.
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
from qvl_attn.vqa.clip import answer_clip, load_clip, prepare_clip
from tests.conftest import DEMO_MODEL, DEMO_PICTURES

SCENES = 16
CLIPS = 18
FILMS = 9
LEAST_LIFT = 4.5
KINDS = ("color", "shape", "exist")


def share_inside(boxes_px, cells_px):
    """(cells,) share of each cell's area that lies in the union of some boxes, by counting a fine raster."""
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
    """Colour, shape and yes questions on held-out scenes: the answer, the map, the share of each cell in the box."""
    rows = []
    for index in range(count):
        sample = heldout.scene(index)
        picture = sample.shown.picture
        media = Media("picture", picture[None], np.zeros(1), picture.shape[1::-1], f"scene {index}", "0" * 64)
        for item in sample.questions:
            if item.kind in KINDS and item.fact.boxes_xyxy_px:
                result = analyzer.ask(media, item.question, **settings)
                values = result.heatmap(layers="all", query="last").values[0]
                inside = share_inside(item.fact.boxes_xyxy_px, result.capture.grids[0].boxes_px)
                rows.append((result.answer == item.answer, values, inside))
    return rows


@pytest.fixture(scope="module")
def asked(demo):
    return ask_scenes(demo, SCENES)


def mean_lift(rows, change=lambda values: values):
    lifts = []
    for _, values, inside in rows:
        wrong = change(values).ravel()
        lifts.append((wrong * inside).sum() / wrong.sum() / inside.mean())
    return float(np.mean(lifts))


def test_it_answers_in_both_languages(asked):
    right = np.mean([right for right, _, _ in asked])
    print(f"{len(asked)} questions on {SCENES} scenes, {right:.3f} right")
    assert len(asked) >= 40
    assert right >= 0.95


def test_it_looks_at_what_was_asked_about(asked):
    lift = mean_lift(asked)
    print(f"lift {lift:.2f}")
    assert lift >= LEAST_LIFT


WRONG_GRIDS = {
    "transposed": lambda v: v.ravel().reshape(v.shape[::-1]).T,
    "columns mirrored": lambda v: v[:, ::-1],
    "rows mirrored": lambda v: v[::-1],
    "shifted by one token": lambda v: np.roll(v.ravel(), 1),
    "shifted by one row": lambda v: np.roll(v, 1, axis=0),
    "shuffled": lambda v: np.random.default_rng(0).permutation(v.ravel()),
}


@pytest.mark.parametrize("name", sorted(WRONG_GRIDS))
def test_a_wrong_grid_fails(asked, name):
    lift = mean_lift(asked, WRONG_GRIDS[name])
    print(f"lift {lift:.2f} {name}")
    assert lift < (2 if name in ("transposed", "shuffled") else 0.8 * mean_lift(asked))


def test_random_weights_have_no_lift(genuine):
    assert 0.7 < mean_lift(ask_scenes(genuine, 3, max_new_tokens=1)) < 1.4


@pytest.fixture(scope="module")
def watched(demo):
    """Every question on some held-out clips, through the real video processor."""
    from demo_model.measures import ask_all

    return ask_all(demo.model, demo.processor, [heldout.clip(i) for i in range(CLIPS)])


def test_it_understands_clips(watched):
    from evaluate_demo_model import happenings

    right, events = (np.mean([one.right for one in chosen]) for chosen in (watched, happenings(watched)))
    print(f"{len(watched)} questions on {CLIPS} clips, {right:.3f} right; {events:.3f} of what no single frame answers")
    assert len(watched) >= 200
    assert right >= 0.93
    assert events >= 0.8


def test_it_understands_clips_as_they_are_written(demo, tmp_path):
    """Through H.264 and back, with colour at half the resolution."""
    from demo_model.measures import ask_all

    write_dataset(tmp_path / "set", 3, video=True)
    films = []
    for index in range(3):
        sample = heldout.clip(index)
        with av.open(tmp_path / "set" / "videos" / f"clip-{index:05d}.mp4") as container:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        films.append(heldout.HeldOut(replace(sample.shown, frames=frames), sample.questions))
    right = [one.right for one in ask_all(demo.model, demo.processor, films)]
    assert len(right) >= 36
    assert np.mean(right) >= 0.93


def test_it_looks_at_the_right_place_in_each_step(watched):
    from demo_model import grounding

    changing = [one for one in watched if grounding.changes(one)]
    for name, change in grounding.WRONG_TIMES.items():
        figures, together = grounding.on_clips(watched, change), grounding.in_space_and_time(changing, change)
        print(name, figures, together)
        if name == "right grid":
            assert figures.lift >= 3
            assert figures.pointing >= 0.65
            right = together
        else:
            assert together < 0.8 * right


@pytest.fixture(scope="module")
def filmed(demo, tmp_path_factory):
    """Every question on held-out clips, written as `demo-data` does and asked as `qvl-attn video` does."""
    folder = tmp_path_factory.mktemp("films") / "set"
    write_dataset(folder, FILMS, video=True)
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    found = []
    for index, (name, group) in enumerate(groupby(rows, key=lambda row: row["video"])):
        about = list(group)
        how = ClipSettings(fps=heldout.clip(index).shown.fps)
        settings = Settings(query="last", layers="all", clip=how, max_new_tokens=8)
        media = load_clip(demo.processor, open_clip(folder / name), settings)
        prepared = prepare_clip(demo, media, [row["question"] for row in about], settings)
        found += [(about[i], result) for i, result in answer_clip(demo, prepared)]
    return found


def test_the_figures_hold_through_the_video_command(demo, watched, filmed):
    from demo_model import grounding

    lifts, pointed = [], []
    for row, result in filmed:
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
    right = np.mean([result.answer.strip() == row["answer"] for row, result in filmed])
    print(
        f"{len(filmed)} questions on {FILMS} clips as MP4, {right:.3f} right, lift {np.mean(lifts):.2f}, "
        f"pointing {np.mean(pointed):.3f}"
    )
    assert right >= 0.93
    assert np.mean(lifts) >= 3
    assert np.mean(pointed) >= 0.65
    ours = [question for index in range(FILMS) for question in heldout.clip(index).questions]
    same = grounding.on_clips([one for one in watched if one.question in ours], lambda maps: maps)
    assert len(lifts) == same.maps
    assert np.mean(lifts) == pytest.approx(same.lift, rel=0.05), "as measured on the frames themselves"


SHIPPED = json.loads((DEMO_PICTURES / "pictures.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("file", "question", "answer"),
    [(one["file"], item["question"], item["answer"]) for one in SHIPPED for item in one["questions"]],
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
