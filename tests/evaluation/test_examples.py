"""What a run keeps to be shown later: which samples, what of them, and that it lies there whatever happens."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import qvl_attn.vqa.engine as engine_room
from qvl_attn import load_samples, merge_runs
from qvl_attn.core.errors import CaptureError, StoreError
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.examples import (
    Example,
    chosen_examples,
    example_bytes,
    example_file,
    example_from,
    read_examples,
    write_example,
)
from qvl_attn.render.html.payload import jpeg
from qvl_attn.results.run_folder import read_run
from tests.conftest import DEMO_PICTURES
from tests.helpers.check_runs import assert_same_run, command, rows_of, summary_of, write_rows
from tests.helpers.run_comparison import ENVIRONMENT, assert_same_examples

LIMIT = 26


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "set"
    write_dataset(folder, 6)
    return folder / "questions.jsonl"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "set"
    write_dataset(folder, 2, video=True)
    return folder / "questions.jsonl"


@pytest.fixture
def choose(monkeypatch):
    """Of a run, this many by chance, and of the best and worst so many each; and no charts."""

    def choose(shown, each):
        monkeypatch.setattr("qvl_attn.evaluation.outputs.write_charts", lambda *args: [])
        monkeypatch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", shown)
        monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", each)

    return choose


def lines_of(path) -> dict:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row for row in rows}


def in_order(ids):
    """By the hash of an id."""
    return sorted(ids, key=lambda name: sha256(name.encode()).hexdigest())


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), float)


def npz_names(out) -> set[str]:
    return {f"gallery/{path.name}" for path in (Path(out) / "gallery").glob("*.npz")}


def made(name="a", **changes) -> Example:
    picture = jpeg(np.full((24, 30, 3), 90, np.uint8))
    values, boxes = np.ones((2, 3), np.float32), np.array([[0.0, 0, 1, 1]])
    return replace(Example(name, (picture,), (values,), (boxes,), (0,), 1, (), 1 / 6, 1.0), **changes)


# Which


@given(st.lists(st.text(max_size=5), unique=True, max_size=120), st.integers(1, 5), st.randoms())
def test_the_choice_of_all_is_among_those_of_the_parts(ids, of, chance):
    ids = [name.encode(errors="ignore").decode() for name in ids]
    ids = list(dict.fromkeys(ids))
    parts = [set() for _ in range(of)]
    for name in ids:
        chance.choice(parts).add(name)
    whole = chosen_examples(ids)
    assert len(whole) == min(48, len(ids))
    assert whole == chosen_examples(chance.sample(ids, len(ids))) == set(in_order(ids)[:48])
    assert whole == chosen_examples(name for part in parts for name in chosen_examples(part))


def test_names_of_files_are_safe_short_and_apart():
    ids = ["a", "A", "a ", "../../etc/passwd", "猫" * 99, "x" * 300, "", "con", "a\0b", "a/b"]
    files = [example_file(name) for name in ids]
    assert len({*files}) == len(ids)
    for name, file in zip(ids, files, strict=True):
        assert file.startswith("gallery/")
        assert file.endswith(f"-{sha256(name.encode()).hexdigest()[:8]}.npz")
        assert "/" not in file.removeprefix("gallery/")
        assert len(file.encode()) < 80


# What


def test_pictures_maps_and_boxes_are_those_of_the_sample(demo, scenes, tmp_path, choose):
    choose(10, 2)
    samples = load_samples(scenes, limit=LIMIT)
    summary = demo.check(samples, tmp_path / "run", max_new_tokens=4)
    typed, kept = lines_of(scenes), read_examples(tmp_path / "run")
    drawn = {path.stem for path in (tmp_path / "run" / "gallery").glob("*.png")}
    extremes = {one.id for one in samples if any(name.endswith(one.id.replace("/", "-")) for name in drawn)}
    assert len(extremes) == 4
    assert kept.keys() == {*in_order(one.id for one in samples)[:10]} | extremes
    assert extremes - {*in_order(one.id for one in samples)[:10]}, "or it would prove less"
    assert {name for name in summary["files"] if name.endswith(".npz")} == npz_names(tmp_path / "run")
    for name, example in kept.items():
        path = scenes.parent / typed[name]["image"]
        (one,) = demo.ask(path, typed[name]["question"], max_new_tokens=4).heatmaps()
        assert (example.id, example.places, example.of, example.times_s) == (name, (0,), 1, ())
        np.testing.assert_allclose(example.values[0], one.values[0], rtol=1e-4, atol=1e-7)
        assert example.uniform == pytest.approx(one.uniform, rel=1e-5)
        assert example.high == pytest.approx(one.scale.high, rel=1e-4)
        with Image.open(path) as image:
            want = np.array(typed[name]["boxes"], float).reshape(-1, 4) / [*image.size, *image.size]
            assert max(image.size) <= 480, "these stay as large as they are"
            assert np.abs(decoded(example.jpegs[0]) - np.asarray(image.convert("RGB"), float)).mean() < 2
        assert np.array_equal(example.boxes[0], want)


def test_large_pictures_are_made_small_and_keep_their_shape(demo, tmp_path, choose):
    choose(9, 0)
    with Image.open(DEMO_PICTURES / "cats.png") as image:
        large = image.convert("RGB").resize((1280, 700), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.png")
    noise = np.random.default_rng(0).integers(0, 256, (600, 500, 3), np.uint8)  # which JPEG cannot make small
    Image.fromarray(noise).save(tmp_path / "noise.png")
    row = {"question": "how many cats?", "boxes": [[320, 70, 640, 350]], "box_format": "xyxy", "box_units": "px"}
    rows = [{"id": "large", "image": "large.png", **row}, {"id": "noise", "image": "noise.png", **row, "boxes": []}]
    demo.check(load_samples(write_rows(tmp_path, rows)), tmp_path / "run", max_new_tokens=1, max_pixels=60_000)
    kept = read_examples(tmp_path / "run")
    found = decoded(kept["large"].jpegs[0])
    assert found.shape == (262, 480, 3)
    want = np.asarray(large.resize((480, 262), Image.Resampling.BOX), float)
    assert np.abs(found - want).mean() < 2
    assert kept["large"].boxes[0].tolist() == [[0.25, 0.1, 0.5, 0.5]]
    assert decoded(kept["noise"].jpegs[0]).shape == (480, 400, 3)
    assert kept["noise"].boxes[0].shape == (0, 4)


def test_of_many_pictures_some_are_kept_with_those_that_have_boxes(demo, tmp_path, choose):
    choose(9, 1)
    names = [f"{i}.png" for i in range(9)]
    for i, name in enumerate(names):
        Image.fromarray(np.full((56, 84, 3), 25 * i, np.uint8)).save(tmp_path / name)
    row = {"images": names, "frame": [7, 2, 7], "question": "what color is it?", "box_format": "xyxy"}
    row |= {"boxes": [[0, 0, 42, 28], [21, 0, 84, 56], [42, 28, 84, 56]], "box_units": "px"}
    few = row | {"id": "few", "images": names[:3], "frame": 1, "boxes": [[0, 0, 42, 28]]}
    data = write_rows(tmp_path, [row | {"id": "many"}, few])
    demo.check(load_samples(data), tmp_path / "run", max_new_tokens=1)
    kept = read_examples(tmp_path / "run")
    maps = demo.ask(tmp_path / names[0], row["question"], [tmp_path / name for name in names[1:]]).heatmaps()
    many = kept["many"]
    assert (many.of, len(many.places)) == (9, 6)
    others = sorted({*range(9)} - {2, 7}, key=lambda i: -maps[i].values.max())
    assert many.places == tuple(sorted([2, 7, *others[:4]]))
    for place, picture, values, boxes in zip(many.places, many.jpegs, many.values, many.boxes, strict=True):
        assert np.abs(decoded(picture) - 25 * place).max() < 3
        np.testing.assert_allclose(values, maps[place].values[0], rtol=1e-4, atol=1e-7)
        want = {2: [[0.25, 0, 1, 1]], 7: [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]}.get(place, [])
        assert boxes.tolist() == want
    assert many.uniform == pytest.approx(maps[0].uniform, rel=1e-4)
    assert (kept["few"].places, kept["few"].of) == ((0, 1, 2), 3)
    assert [len(boxes) for boxes in kept["few"].boxes] == [0, 1, 0]


def test_of_a_clip_the_steps_that_are_drawn_are_kept(demo, clips, tmp_path, choose):
    choose(3, 0)
    samples = load_samples(clips)
    demo.check(samples, tmp_path / "run", fps=4, max_new_tokens=1)
    typed, kept = lines_of(clips), read_examples(tmp_path / "run")
    assert len(kept) == 3
    outlined = 0
    for name, example in kept.items():
        row = typed[name]
        result = demo.ask_video(clips.parent / row["video"], row["question"], fps=4, max_new_tokens=1)
        (one,), grid, clip = result.heatmaps(), result.capture.grids[0], result.media[0]
        assert example.is_clip
        assert example.of == len(one.values)
        assert {int(one.values.max(axis=(1, 2)).argmax())} <= {*example.places}
        assert len(example.places) == min(6, example.of)
        frames = np.array(row["frame"], ndmin=1)
        starts = [*grid.frame_span[:, 0].tolist()]
        for i, step in enumerate(example.places):
            np.testing.assert_allclose(example.values[i], one.values[step], rtol=1e-4, atol=1e-7)
            assert example.times_s[i] == pytest.approx(grid.times_s[step, 0])
            frame = clip.frames[list(clip.facts.frame_indices).index(starts[step])]
            height, width = frame.shape[:2]
            found = decoded(example.jpegs[i])
            assert max(found.shape[:2]) == min(480, max(height, width))
            there = np.asarray(Image.fromarray(frame).resize(found.shape[1::-1], Image.Resampling.BOX), float)
            assert np.abs(found - there).mean() < 6
            stop = starts[step + 1] if step + 1 < len(starts) else np.inf
            within = [int(f) for f in frames if starts[step] <= f < stop]
            nearest = {min(within, key=lambda f: abs(f - s)) for s in grid.frame_span[step].tolist() if within}
            want = [box for box, f in zip(row["boxes"], frames, strict=True) if f in nearest]
            outlined += len(want)
            if step < len(starts) - 1:  # the last one is as long as the one before it
                np.testing.assert_allclose(
                    example.boxes[i], np.reshape(want, (-1, 4)) / [*clip.size_px, *clip.size_px], atol=1e-12
                )
    assert outlined


def test_of_a_long_clip_some_steps_are_kept_each_with_its_own_frame_and_boxes(demo, clip_file, tmp_path, choose):
    choose(9, 0)
    path = clip_file(40)
    row = {"id": "a", "video": path.name, "question": "what moves?", "box_format": "xyxy", "box_units": "px"}
    row |= {"frame": [*range(40)], "boxes": [[0, 0, i + 1, 48] for i in range(40)]}
    demo.check(load_samples(write_rows(tmp_path, [row])), tmp_path / "run", fps=10, max_new_tokens=1)
    found = read_examples(tmp_path / "run")["a"]
    clip = demo.ask_video(path, row["question"], fps=10, max_new_tokens=1).media[0]
    assert (found.of, len(found.places)) == (20, 6)
    for i, step in enumerate(found.places):
        assert found.times_s[i] == pytest.approx(step / 5)
        assert found.boxes[i].tolist() == [[0, 0, (2 * step + 1) / 64, 1], [0, 0, (2 * step + 2) / 64, 1]]
        shown = decoded(found.jpegs[i])
        frames = (Image.fromarray(clip.frames[j]).resize(shown.shape[1::-1]) for j in (2 * step, 2 * step + 1))
        first, last = (np.abs(shown - np.asarray(frame)).mean() for frame in frames)
        assert first < min(last, 6)


ASKED = [
    {},
    {"query": "last", "layers": "1-2"},
    {"query": "answer", "heads": "0,2"},
    {"heads": "1.0,3.2", "by_head": True},
    {"methods": "relative,gradient"},
    {"methods": "heads", "heads": "2"},
    {"query": "last", "store_heads": "float16", "by_head": True, "heads": "1"},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_what_is_made_with_the_score_is_what_asking_again_makes(demo, scenes, tmp_path, choose, asked):
    samples, kept = load_samples(scenes, limit=12), []
    for shown, each in ((0, 6), (99, 0)):
        choose(shown, each)
        demo.check(samples, tmp_path / f"{shown}", max_new_tokens=4, **asked)
        kept.append(read_examples(tmp_path / f"{shown}"))
    again, scored = kept
    assert len(again) >= 4
    assert len(scored) == 12
    rtol = 1e-3 if asked.get("store_heads") == "float16" else 1e-4
    assert_same_examples(again, {name: scored[name] for name in again}, rtol)
    rows = {row["id"]: row for row in rows_of(tmp_path / "99")}
    for name, example in scored.items():
        mass = example.values[0].sum(dtype=float)
        assert mass == pytest.approx(rows[name]["headline"]["vision_mass"], rel=1e-3), "whose figures are told"


def test_of_clips_what_is_made_with_the_score_is_what_asking_again_makes(demo, clips, tmp_path, choose):
    samples, kept = load_samples(clips, limit=4), []
    for shown, each in ((0, 6), (99, 0)):
        choose(shown, each)
        demo.check(samples, tmp_path / f"{shown}", max_new_tokens=1, fps=2, methods="relative")
        kept.append(read_examples(tmp_path / f"{shown}"))
    again, scored = kept
    assert again
    assert_same_examples(again, {name: scored[name] for name in again})


def test_a_calibration_shows_the_second_half_under_the_heads_that_were_found(
    demo, scenes, tmp_path, choose, monkeypatch
):
    samples, kept, written = load_samples(scenes), [], []

    def noted(folder, example):
        written.append(example.id)
        write_example(folder, example)

    monkeypatch.setattr("qvl_attn.evaluation.run.write_example", noted)
    for shown, each in ((0, 6), (8, 0)):
        choose(shown, each)
        demo.check(samples, tmp_path / f"{shown}", max_new_tokens=1, calibrate=tmp_path / f"{shown}.json")
        kept.append(read_examples(tmp_path / f"{shown}"))
    rows = rows_of(tmp_path / "8")
    assert kept[1].keys() == {*in_order(row["id"] for row in rows if row["half"] == "second")[:8]}
    assert {*written} == kept[0].keys() | kept[1].keys(), "none of the first half, even for a while"
    both = kept[0].keys() & kept[1].keys()
    assert both
    assert_same_examples({name: kept[0][name] for name in both}, {name: kept[1][name] for name in both})


# What it costs, and what it leaves alone


def test_no_pass_is_made_for_them_and_rows_are_what_they_were(demo, scenes, tmp_path, choose, monkeypatch):
    run_group, groups, samples = engine_room.run_group, [], load_samples(scenes, limit=LIMIT)

    def counted(*args, **more):
        groups.append(args)
        return run_group(*args, **more)

    monkeypatch.setattr(engine_room, "run_group", counted)
    passes, rows, summaries = [], [], []
    for shown in (0, 99):
        choose(shown, 0)
        groups.clear()
        summaries.append(demo.check(samples, tmp_path / f"{shown}", max_new_tokens=2, csv=True))
        passes.append(len(groups))
        rows.append([{**row, "seconds": 0} for row in rows_of(tmp_path / f"{shown}")])
    assert passes[0] == passes[1]
    assert rows[0] == rows[1]
    assert len(summaries[1].pop("files")) == len(summaries[0].pop("files")) + LIMIT
    assert summaries[0] == summaries[1]
    assert (tmp_path / "0" / "scores.csv").read_bytes() == (tmp_path / "99" / "scores.csv").read_bytes()


def test_errors_have_none_and_nobody_takes_their_place(demo, scenes, tmp_path, choose):
    choose(4, 0)
    rows = list(lines_of(scenes).values())[:10]
    broken = in_order(row["id"] for row in rows)[1]
    data = scenes.with_name("broken.jsonl")
    (scenes.parent / "cut.png").write_bytes((scenes.parent / rows[0]["image"]).read_bytes()[:300])
    cut = {"boxes": [], "image": "cut.png"}
    write_rows(scenes.parent, [row | (cut if row["id"] == broken else {}) for row in rows], data.name)
    demo.check(load_samples(data), tmp_path / "run", max_new_tokens=1)
    kept = {*in_order(row["id"] for row in rows)[:4]} - {broken}
    assert read_examples(tmp_path / "run").keys() == kept
    # As of a sample that was scored, and whose picture went before it was scored again.
    write_example(tmp_path / "run", made(broken))
    (tmp_path / "run" / "summary.json").unlink()
    demo.check(load_samples(data), tmp_path / "run", max_new_tokens=1)
    assert read_examples(tmp_path / "run").keys() == kept


def test_a_map_of_nothing_costs_the_exhibit_and_not_the_row(demo, scenes, tmp_path, choose, monkeypatch):
    choose(99, 0)

    def fails(*args):
        raise CaptureError("no attention at all")

    monkeypatch.setattr("qvl_attn.evaluation.loop.example_of", fails)
    summary = demo.check(load_samples(scenes, limit=3), tmp_path / "run", max_new_tokens=1)
    assert (summary["samples"], summary["errors"]) == (3, 0)
    assert npz_names(tmp_path / "run") == set()


def test_a_run_of_before_has_none(tmp_path):
    assert read_examples(tmp_path) == {}


# Killed, gone on with, ended again


KILLED = {
    "when one is about to be in its place": "first('Path.replace', Path, 'replace', '.npz.draft')",
    "between one and its row": "first('ledger._write', ledger, '_write', '')",
}


def killed(cwd, data, at, where):
    """A process that kills itself when it comes to something for the nth time."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import qvl_attn.results.run_folder as ledger\n"
        "import qvl_attn.evaluation.examples as examples, qvl_attn.evaluation.outputs as gallery\n"
        "examples.RANDOM_EXAMPLES, gallery.GALLERY_SIZE = 10, 2\n"
        "count = [0]\n"
        "def first(what, room, name, ending):\n"
        "    there = getattr(room, name)\n"
        "    def hooked(one, *more):\n"
        "        count[0] += getattr(one, 'name', '').endswith(ending) if ending else 1\n"
        f"        if count[0] == {at}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return there(one, *more)\n"
        "    setattr(room, name, hooked)\n"
        f"{where}\n"
        "from qvl_attn.__main__ import main\n"
        "main()\n"
    )
    words = command(data, "--limit", LIMIT, "--quiet", "--max-new-tokens", 2)[3:]
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def once(demo, scenes, tmp_path_factory):
    """A run that nothing happens to."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", 10)
        patch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 2)
        run_of(demo, scenes, folder)
    return folder / "run"


def run_of(demo, scenes, folder):
    return demo.check(load_samples(scenes, limit=LIMIT), folder / "run", name=scenes.name, max_new_tokens=2)


@pytest.mark.parametrize(("where", "at"), [*zip(KILLED, (4, 1), strict=True)])
def test_a_row_has_its_exhibit_whenever_the_run_is_killed(demo, scenes, once, tmp_path, monkeypatch, where, at):
    monkeypatch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", 10)
    monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 2)
    done = killed(tmp_path, scenes, at, KILLED[where])
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = tmp_path / "run"
    written = [row["id"] for row in rows_of(run)] if (run / "scores.jsonl").exists() else []
    assert len(written) == at - 1 if "row" in where else len(written) >= at - 1
    chosen = chosen_examples(one.id for one in load_samples(scenes, limit=LIMIT))
    assert {example_file(name) for name in written if name in chosen} <= npz_names(run)
    assert read_run(run)["samples"], "which is there before an exhibit"
    run_of(demo, scenes, tmp_path)
    assert_same_run(run, once)


def test_a_run_that_was_killed_before_its_first_row_goes_on(demo, scenes, tmp_path, choose, monkeypatch):
    """Its exhibit is there: what it is of must be known, or the folder would be refused."""
    choose(99, 0)

    def stopped(folder, example):
        write_example(folder, example)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qvl_attn.evaluation.run.write_example", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_of(demo, scenes, tmp_path)
    assert len(read_examples(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "scores.jsonl").exists()
    run_of(demo, scenes, tmp_path)
    assert len(read_examples(tmp_path / "run")) == len(rows_of(tmp_path / "run")) == LIMIT


def test_a_run_that_is_ended_again_keeps_what_was_made_with_its_rows(demo, scenes, once, tmp_path, monkeypatch):
    """Killed while the gallery was drawn; there are pages and exhibits of an end with other best ones."""
    monkeypatch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", 10)
    monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 2)
    shutil.copytree(once, tmp_path / "run")
    kept = tmp_path / "run"
    (kept / "summary.json").unlink()
    scored = {example_file(name) for name in chosen_examples(row["id"] for row in rows_of(once))}
    (kept / sorted(npz_names(once) - scored)[0]).unlink()
    write_example(kept, made("best of an end before"))
    before = {name: (kept / name).stat().st_mtime_ns for name in scored}
    run_of(demo, scenes, tmp_path)
    assert_same_run(kept, once)
    assert {name: (kept / name).stat().st_mtime_ns for name in scored} == before


def test_one_that_was_deleted_is_missed_by_nobody(demo, scenes, once, tmp_path, monkeypatch):
    monkeypatch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", 10)
    monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 2)
    shutil.copytree(once, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "gallery")
    summary = run_of(demo, scenes, tmp_path)
    assert len(read_examples(tmp_path / "run")) == 4, "those that are drawn"
    assert {name for name in summary["files"] if name.endswith(".npz")} == npz_names(tmp_path / "run")
    assert summary["notes"] == summary_of(once)["notes"]


# Parts


@pytest.mark.parametrize("shown", [5, 48])
def test_merged_parts_have_those_of_the_whole(demo, scenes, tmp_path, choose, shown):
    choose(shown, 2)
    samples = load_samples(scenes, limit=LIMIT)
    demo.check(samples, tmp_path / "whole", max_new_tokens=2)
    parts = [tmp_path / f"part-{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        demo.check(samples, part, max_new_tokens=2, shard=f"{i}/3")
        own = {row["id"] for row in rows_of(part)}
        assert read_examples(part).keys() <= own
        assert {*in_order(own)[:shown]} <= read_examples(part).keys()
    found = merge_runs(parts, tmp_path / "all")
    assert_same_examples(read_examples(tmp_path / "all"), read_examples(tmp_path / "whole"))
    assert found["files"] == summary_of(tmp_path / "whole")["files"]
    there = {(part / name).read_bytes() for part in parts for name in npz_names(part)}
    assert {(tmp_path / "all" / name).read_bytes() for name in npz_names(tmp_path / "all")} <= there, "as they were"
    for part in parts:
        for path in (part / "gallery").glob("*.npz"):
            path.unlink()
    without = merge_runs(parts, tmp_path / "without")
    assert npz_names(tmp_path / "without") == set()
    assert without["notes"] == found["notes"]


# What is read back


def test_an_exhibit_comes_back_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    pictures = tuple(jpeg(rng.integers(0, 256, (40, 60, 3), np.uint8)) for _ in range(3))
    values = tuple(rng.random((4, 6), np.float32) for _ in range(3))
    boxes = tuple(rng.random((count, 4)) for count in (0, 1, 3))
    clip = Example("猫\n/\0", pictures, values, boxes, (0, 2, 7), 9, (0.0, 1.5, 4.25), 0.125, 0.75)
    write_example(tmp_path, clip)
    for found in (read_examples(tmp_path)["猫\n/\0"], example_from(example_bytes(clip))):
        for name in ("id", "jpegs", "places", "of", "times_s", "uniform", "high"):
            assert getattr(found, name) == getattr(clip, name)
        for one, other in zip((*found.values, *found.boxes), (*values, *boxes), strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
    (path,) = (tmp_path / "gallery").iterdir()
    assert example_bytes(clip) == path.read_bytes(), "and is the same file each time"


WRONG = {
    "no picture": {"jpegs": (), "values": (), "boxes": (), "places": ()},
    "more than six": {name: (getattr(made(), name)) * 7 for name in ("jpegs", "values", "boxes")}
    | {"places": (*range(7),), "of": 7},
    "a map for another picture": {"values": (np.ones((2, 3), np.float32),) * 2},
    "boxes too few": {"boxes": ()},
    "PNG": {"jpegs": (b"\x89PNG\r\n\x1a\n" + b"\xff\xd9",)},
    "cut JPEG": {"jpegs": (made().jpegs[0][:-2],)},
    "large JPEG": {"jpegs": (b"\xff\xd8\xff" + bytes(4 * 2**20) + b"\xff\xd9",)},
    "NaN": {"values": (np.array([[np.nan]], np.float32),)},
    "infinite": {"values": (np.array([[np.inf]], np.float32),)},
    "negative": {"values": (np.array([[-1e-9]], np.float32),)},
    "float64": {"values": (np.ones((2, 3)),)},
    "flat": {"values": (np.ones(6, np.float32),)},
    "empty": {"values": (np.ones((0, 3), np.float32),)},
    "boxes of three": {"boxes": (np.ones((1, 3)),)},
    "infinite box": {"boxes": (np.full((1, 4), np.inf),)},
    "float32 boxes": {"boxes": (np.ones((1, 4), np.float32),)},
    "beyond the last": {"places": (1,)},
    "before the first": {"places": (-1,)},
    "times too many": {"times_s": (0.0, 1.0)},
    "time of nothing": {"times_s": (float("nan"),)},
    "uniform 0": {"uniform": 0.0},
    "uniform NaN": {"uniform": float("nan")},
    "high infinite": {"high": float("inf")},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_exhibit_is_none(what):
    with pytest.raises(ValueError, match=r"."):
        made(**WRONG[what])


def test_places_ascend():
    two = {name: getattr(made(), name) * 2 for name in ("jpegs", "values", "boxes")}
    assert made(**two, places=(0, 3), of=4).of == 4
    for places in ((3, 0), (1, 1)):
        with pytest.raises(ValueError, match="places"):
            made(**two, places=places, of=4)


def arrays_of(example) -> dict:
    with np.load(io.BytesIO(example_bytes(example))) as arrays:
        return dict(arrays)


def bomb() -> bytes:
    """A sound head that says 60,000 x 60,000 pixels."""
    data = bytearray(made().jpegs[0])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = (60_000).to_bytes(2, "big") * 2
    return bytes(data)


DAMAGED = {
    "empty": lambda path, arrays: path.write_bytes(b""),
    "text": lambda path, arrays: path.write_text("no arrays"),
    "cut": lambda path, arrays: path.write_bytes(path.read_bytes()[:-30]),
    "one byte": lambda path, arrays: path.write_bytes(path.read_bytes().replace(b"JFIF", b"JFIE")[:-1]),
    "another schema": lambda path, arrays: np.savez(path, **arrays | {"schema_version": np.array(2)}),
    "pickled": lambda path, arrays: np.savez(path, **arrays | {"of": np.array([print], object)}),
    "text for numbers": lambda path, arrays: np.savez(path, **arrays | {"uniform": np.array("1")}),
    "ids of other letters": lambda path, arrays: np.savez(path, **arrays | {"id": np.array([255], np.uint8)}),
    "of another sample": lambda path, arrays: np.savez(path, **arrays | {"id": np.array([98], np.uint8)}),
    "of many places": lambda path, arrays: np.savez(path, **arrays | {"places": np.arange(10**6)}),
    "other byte order": lambda path, arrays: np.savez(path, **arrays | {"values_0": np.ones((2, 3), ">f4")}),
    "a picture of many pixels": lambda path, arrays: np.savez(
        path, **arrays | {"jpeg_0": np.frombuffer(bomb(), np.uint8)}
    ),
    "a head without a picture": lambda path, arrays: np.savez(
        path, **arrays | {"jpeg_0": np.frombuffer(b"\xff\xd8\xff\xd9", np.uint8)}
    ),
    "unpacks to much": lambda path, arrays: np.savez_compressed(path, **arrays | {"more": np.zeros(2**26, np.uint8)}),
    "not attention": lambda path, arrays: np.savez(path, **arrays | {"values_0": np.full((2, 3), -1, np.float32)}),
    **{
        f"without {name}": lambda path, arrays, name=name: np.savez(
            path, **{key: value for key, value in arrays.items() if key != name}
        )
        for name in ("schema_version", "id", "places", "of", "times_s", "uniform", "high", "jpeg_0", "values_0")
    },
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_one_is_named(tmp_path, how):
    for name in ("a", "b"):
        write_example(tmp_path, made(name))
    path = tmp_path / example_file("a")
    DAMAGED[how](path, arrays_of(made("a")))
    with pytest.raises(StoreError) as fault:
        read_examples(tmp_path)
    assert str(path) in str(fault.value)


def test_bytes_that_are_damaged_anywhere_are_told_or_harmless():
    data, rng = example_bytes(made()), np.random.default_rng(0)
    for _ in range(3000):
        other = bytearray(data)
        for at in rng.integers(len(data), size=2):
            other[at] = rng.integers(256)
        try:
            assert isinstance(example_from(bytes(other)), Example)
        except StoreError:
            continue


def test_only_so_many_are_read_and_only_from_the_gallery(tmp_path, monkeypatch):
    for name in "abc":
        write_example(tmp_path, made(name))
    (tmp_path / "gallery" / "notes.txt").write_text("mine")
    (tmp_path / "gallery" / "deeper").mkdir()
    (tmp_path / "gallery" / "deeper" / "x.npz").write_text("mine")
    (tmp_path / "attention.npz").write_text("mine")
    assert [*read_examples(tmp_path)] == sorted("abc")
    monkeypatch.setattr("qvl_attn.evaluation.examples.MAX_EXAMPLES", 2)
    with pytest.raises(StoreError, match="3 examples"):
        read_examples(tmp_path)
