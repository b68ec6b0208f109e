"""Examples of a run: which samples have one, what is in it, and that it is there after kills and merges."""

from __future__ import annotations

import io
import json
import shutil
import signal
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import qvl_attn.vqa.engine as engine_module
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
from tests.helpers.check_runs import assert_same_run, rows_of, summary_of, words_of, write_rows
from tests.helpers.processes import start_command
from tests.helpers.run_comparison import assert_same_examples

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
    """Set the numbers of random examples and of best and worst samples, and switch off the charts."""

    def choose(random_count, gallery_size):
        monkeypatch.setattr("qvl_attn.evaluation.outputs.write_charts", lambda *args: [])
        monkeypatch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", random_count)
        monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", gallery_size)

    return choose


def lines_of(path) -> dict:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row for row in rows}


def in_order(ids):
    """Return ids in the order of their hashes."""
    return sorted(ids, key=lambda name: sha256(name.encode()).hexdigest())


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), float)


def npz_names(out) -> set[str]:
    return {f"gallery/{path.name}" for path in (Path(out) / "gallery").glob("*.npz")}


def make_example(name="a", **changes) -> Example:
    picture = jpeg(np.full((24, 30, 3), 90, np.uint8))
    values, boxes = np.ones((2, 3), np.float32), np.array([[0.0, 0, 1, 1]])
    return replace(Example(name, (picture,), (values,), (boxes,), (0,), 1, (), 1 / 6, 1.0), **changes)


# Choice


@given(st.lists(st.text(max_size=5), unique=True, max_size=120), st.integers(1, 5), st.randoms())
def test_the_choice_of_all_is_among_the_choices_of_the_parts(ids, of, chance):
    ids = [name.encode(errors="ignore").decode() for name in ids]
    ids = list(dict.fromkeys(ids))
    parts = [set() for _ in range(of)]
    for name in ids:
        chance.choice(parts).add(name)
    whole = chosen_examples(ids)
    assert len(whole) == min(48, len(ids))
    assert whole == chosen_examples(chance.sample(ids, len(ids))) == set(in_order(ids)[:48])
    assert whole == chosen_examples(name for part in parts for name in chosen_examples(part))


def test_file_names_are_safe_short_and_unique():
    ids = ["a", "A", "a ", "../../etc/passwd", "猫" * 99, "x" * 300, "", "con", "a\0b", "a/b"]
    files = [example_file(name) for name in ids]
    assert len({*files}) == len(ids)
    for name, file in zip(ids, files, strict=True):
        assert file.startswith("gallery/")
        assert file.endswith(f"-{sha256(name.encode()).hexdigest()[:8]}.npz")
        assert "/" not in file.removeprefix("gallery/")
        assert len(file.encode()) < 80


# Contents


def test_pictures_maps_and_boxes_are_those_of_the_sample(demo, scenes, tmp_path, choose):
    choose(10, 2)
    samples = load_samples(scenes, limit=LIMIT)
    summary = demo.check(samples, tmp_path / "run", max_new_tokens=4)
    records, examples = lines_of(scenes), read_examples(tmp_path / "run")
    drawing_names = {path.stem for path in (tmp_path / "run" / "gallery").glob("*.png")}
    extremes = {
        sample.id for sample in samples if any(name.endswith(sample.id.replace("/", "-")) for name in drawing_names)
    }
    assert len(extremes) == 4
    assert examples.keys() == {*in_order(sample.id for sample in samples)[:10]} | extremes
    assert extremes - {*in_order(sample.id for sample in samples)[:10]}, "else the test would prove less"
    assert {name for name in summary["files"] if name.endswith(".npz")} == npz_names(tmp_path / "run")
    for name, example in examples.items():
        path = scenes.parent / records[name]["image"]
        (heatmap,) = demo.ask(path, records[name]["question"], max_new_tokens=4).heatmaps()
        assert (example.id, example.places, example.of, example.times_s) == (name, (0,), 1, ())
        np.testing.assert_allclose(example.values[0], heatmap.values[0], rtol=1e-4, atol=1e-7)
        assert example.uniform == pytest.approx(heatmap.uniform, rel=1e-5)
        assert example.high == pytest.approx(heatmap.scale.high, rel=1e-4)
        with Image.open(path) as image:
            want = np.array(records[name]["boxes"], float).reshape(-1, 4) / [*image.size, *image.size]
            assert max(image.size) <= 480, "small pictures keep their size"
            assert np.abs(decoded(example.jpegs[0]) - np.asarray(image.convert("RGB"), float)).mean() < 2
        assert np.array_equal(example.boxes[0], want)


def test_large_pictures_are_made_small_and_keep_their_shape(demo, tmp_path, choose):
    choose(9, 0)
    with Image.open(DEMO_PICTURES / "cats.png") as image:
        large = image.convert("RGB").resize((1280, 700), Image.Resampling.BICUBIC)
    large.save(tmp_path / "large.png")
    noise = np.random.default_rng(0).integers(0, 256, (600, 500, 3), np.uint8)  # which JPEG cannot compress well
    Image.fromarray(noise).save(tmp_path / "noise.png")
    row = {"question": "how many cats?", "boxes": [[320, 70, 640, 350]], "box_format": "xyxy", "box_units": "px"}
    rows = [{"id": "large", "image": "large.png", **row}, {"id": "noise", "image": "noise.png", **row, "boxes": []}]
    demo.check(load_samples(write_rows(tmp_path, rows)), tmp_path / "run", max_new_tokens=1, max_pixels=60_000)
    examples = read_examples(tmp_path / "run")
    pixels = decoded(examples["large"].jpegs[0])
    assert pixels.shape == (262, 480, 3)
    want = np.asarray(large.resize((480, 262), Image.Resampling.BOX), float)
    assert np.abs(pixels - want).mean() < 2
    assert examples["large"].boxes[0].tolist() == [[0.25, 0.1, 0.5, 0.5]]
    assert decoded(examples["noise"].jpegs[0]).shape == (480, 400, 3)
    assert examples["noise"].boxes[0].shape == (0, 4)


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
    examples = read_examples(tmp_path / "run")
    maps = demo.ask(tmp_path / names[0], row["question"], [tmp_path / name for name in names[1:]]).heatmaps()
    many = examples["many"]
    assert (many.of, len(many.places)) == (9, 6)
    others = sorted({*range(9)} - {2, 7}, key=lambda i: -maps[i].values.max())
    assert many.places == tuple(sorted([2, 7, *others[:4]]))
    for place, picture, values, boxes in zip(many.places, many.jpegs, many.values, many.boxes, strict=True):
        assert np.abs(decoded(picture) - 25 * place).max() < 3
        np.testing.assert_allclose(values, maps[place].values[0], rtol=1e-4, atol=1e-7)
        want = {2: [[0.25, 0, 1, 1]], 7: [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]}.get(place, [])
        assert boxes.tolist() == want
    assert many.uniform == pytest.approx(maps[0].uniform, rel=1e-4)
    assert (examples["few"].places, examples["few"].of) == ((0, 1, 2), 3)
    assert [len(boxes) for boxes in examples["few"].boxes] == [0, 1, 0]


def test_of_a_clip_the_steps_that_are_drawn_are_kept(demo, clips, tmp_path, choose):
    choose(3, 0)
    samples = load_samples(clips)
    demo.check(samples, tmp_path / "run", fps=4, max_new_tokens=1)
    records, examples = lines_of(clips), read_examples(tmp_path / "run")
    assert len(examples) == 3
    outlined = 0
    for name, example in examples.items():
        row = records[name]
        result = demo.ask_video(clips.parent / row["video"], row["question"], fps=4, max_new_tokens=1)
        (heatmap,), grid, clip = result.heatmaps(), result.capture.grids[0], result.media[0]
        assert example.is_clip
        assert example.of == len(heatmap.values)
        assert {int(heatmap.values.max(axis=(1, 2)).argmax())} <= {*example.places}
        assert len(example.places) == min(6, example.of)
        frames = np.array(row["frame"], ndmin=1)
        starts = [*grid.frame_span[:, 0].tolist()]
        for i, step in enumerate(example.places):
            np.testing.assert_allclose(example.values[i], heatmap.values[step], rtol=1e-4, atol=1e-7)
            assert example.times_s[i] == pytest.approx(grid.times_s[step, 0])
            frame = clip.frames[list(clip.facts.frame_indices).index(starts[step])]
            height, width = frame.shape[:2]
            pixels = decoded(example.jpegs[i])
            assert max(pixels.shape[:2]) == min(480, max(height, width))
            expected = np.asarray(Image.fromarray(frame).resize(pixels.shape[1::-1], Image.Resampling.BOX), float)
            assert np.abs(pixels - expected).mean() < 6
            stop = starts[step + 1] if step + 1 < len(starts) else np.inf
            within = [int(f) for f in frames if starts[step] <= f < stop]
            nearest = {min(within, key=lambda f: abs(f - s)) for s in grid.frame_span[step].tolist() if within}
            want = [box for box, f in zip(row["boxes"], frames, strict=True) if f in nearest]
            outlined += len(want)
            if step < len(starts) - 1:  # the last step is as long as the one before it
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
    example = read_examples(tmp_path / "run")["a"]
    clip = demo.ask_video(path, row["question"], fps=10, max_new_tokens=1).media[0]
    assert (example.of, len(example.places)) == (20, 6)
    for i, step in enumerate(example.places):
        assert example.times_s[i] == pytest.approx(step / 5)
        assert example.boxes[i].tolist() == [[0, 0, (2 * step + 1) / 64, 1], [0, 0, (2 * step + 2) / 64, 1]]
        pixels = decoded(example.jpegs[i])
        frames = (Image.fromarray(clip.frames[j]).resize(pixels.shape[1::-1]) for j in (2 * step, 2 * step + 1))
        first, last = (np.abs(pixels - np.asarray(frame)).mean() for frame in frames)
        assert first < min(last, 6)


OPTIONS = [
    {},
    {"query": "last", "layers": "1-2"},
    {"query": "answer", "heads": "0,2"},
    {"heads": "1.0,3.2", "by_head": True},
    {"methods": "relative,gradient"},
    {"methods": "heads", "heads": "2"},
    {"query": "last", "store_heads": "float16", "by_head": True, "heads": "1"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_examples_made_with_the_score_equal_those_made_by_asking_again(demo, scenes, tmp_path, choose, options):
    samples, runs = load_samples(scenes, limit=12), []
    for random_count, gallery_size in ((0, 6), (99, 0)):
        choose(random_count, gallery_size)
        demo.check(samples, tmp_path / f"{random_count}", max_new_tokens=4, **options)
        runs.append(read_examples(tmp_path / f"{random_count}"))
    again, scored = runs
    assert len(again) >= 4
    assert len(scored) == 12
    rtol = 1e-3 if options.get("store_heads") == "float16" else 1e-4
    assert_same_examples(again, {name: scored[name] for name in again}, rtol)
    rows = {row["id"]: row for row in rows_of(tmp_path / "99")}
    for name, example in scored.items():
        mass = example.values[0].sum(dtype=float)
        assert mass == pytest.approx(rows[name]["headline"]["vision_mass"], rel=1e-3), (
            "the map must be that of the figures in the row"
        )


def test_examples_of_clips_made_with_the_score_equal_those_made_by_asking_again(demo, clips, tmp_path, choose):
    samples, runs = load_samples(clips, limit=4), []
    for random_count, gallery_size in ((0, 6), (99, 0)):
        choose(random_count, gallery_size)
        demo.check(samples, tmp_path / f"{random_count}", max_new_tokens=1, fps=2, methods="relative")
        runs.append(read_examples(tmp_path / f"{random_count}"))
    again, scored = runs
    assert again
    assert_same_examples(again, {name: scored[name] for name in again})


def test_a_calibration_shows_the_second_half_under_the_heads_that_were_found(
    demo, scenes, tmp_path, choose, monkeypatch
):
    samples, runs, written = load_samples(scenes), [], []

    def record_id(folder, example):
        written.append(example.id)
        write_example(folder, example)

    monkeypatch.setattr("qvl_attn.evaluation.run.write_example", record_id)
    for random_count, gallery_size in ((0, 6), (8, 0)):
        choose(random_count, gallery_size)
        demo.check(samples, tmp_path / f"{random_count}", max_new_tokens=1, calibrate=tmp_path / f"{random_count}.json")
        runs.append(read_examples(tmp_path / f"{random_count}"))
    rows = rows_of(tmp_path / "8")
    assert runs[1].keys() == {*in_order(row["id"] for row in rows if row["half"] == "second")[:8]}
    assert {*written} == runs[0].keys() | runs[1].keys(), "no example of the first half is ever written"
    both = runs[0].keys() & runs[1].keys()
    assert both
    assert_same_examples({name: runs[0][name] for name in both}, {name: runs[1][name] for name in both})


# Cost, and other outputs


def test_examples_need_no_extra_pass_and_do_not_change_the_rows(demo, scenes, tmp_path, choose, monkeypatch):
    run_group, groups, samples = engine_module.run_group, [], load_samples(scenes, limit=LIMIT)

    def counted(*args, **options):
        groups.append(args)
        return run_group(*args, **options)

    monkeypatch.setattr(engine_module, "run_group", counted)
    passes, rows, summaries = [], [], []
    for random_count in (0, 99):
        choose(random_count, 0)
        groups.clear()
        summaries.append(demo.check(samples, tmp_path / f"{random_count}", max_new_tokens=2, csv=True))
        passes.append(len(groups))
        rows.append([{**row, "seconds": 0} for row in rows_of(tmp_path / f"{random_count}")])
    assert passes[0] == passes[1]
    assert rows[0] == rows[1]
    assert len(summaries[1].pop("files")) == len(summaries[0].pop("files")) + LIMIT
    assert summaries[0] == summaries[1]
    assert (tmp_path / "0" / "scores.csv").read_bytes() == (tmp_path / "99" / "scores.csv").read_bytes()


def test_errors_have_no_example_and_are_not_replaced_by_others(demo, scenes, tmp_path, choose):
    choose(4, 0)
    rows = list(lines_of(scenes).values())[:10]
    broken = in_order(row["id"] for row in rows)[1]
    data = scenes.with_name("broken.jsonl")
    (scenes.parent / "cut.png").write_bytes((scenes.parent / rows[0]["image"]).read_bytes()[:300])
    cut = {"boxes": [], "image": "cut.png"}
    write_rows(scenes.parent, [row | (cut if row["id"] == broken else {}) for row in rows], data.name)
    demo.check(load_samples(data), tmp_path / "run", max_new_tokens=1)
    ids = {*in_order(row["id"] for row in rows)[:4]} - {broken}
    assert read_examples(tmp_path / "run").keys() == ids
    # As if the sample had been scored, and its picture deleted before it was scored again.
    write_example(tmp_path / "run", make_example(broken))
    (tmp_path / "run" / "summary.json").unlink()
    demo.check(load_samples(data), tmp_path / "run", max_new_tokens=1)
    assert read_examples(tmp_path / "run").keys() == ids


def test_without_attention_there_is_a_row_but_no_example(demo, scenes, tmp_path, choose, monkeypatch):
    choose(99, 0)

    def fails(*args):
        raise CaptureError("no attention at all")

    monkeypatch.setattr("qvl_attn.evaluation.loop.example_of", fails)
    summary = demo.check(load_samples(scenes, limit=3), tmp_path / "run", max_new_tokens=1)
    assert (summary["samples"], summary["errors"]) == (3, 0)
    assert npz_names(tmp_path / "run") == set()


def test_an_older_run_has_no_examples(tmp_path):
    assert read_examples(tmp_path) == {}


# Kills and resumed runs


KILL_HOOKS = {
    "before an example has its name": "hook(Path, 'replace', '.npz.draft')",
    "between an example and its row": "hook(ledger, '_write', '')",
}


def run_killed(cwd, data, at, hook):
    """Run a process that kills itself at the nth call of a function."""
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "import qvl_attn.results.run_folder as ledger\n"
        "import qvl_attn.evaluation.examples as examples, qvl_attn.evaluation.outputs as gallery\n"
        "examples.RANDOM_EXAMPLES, gallery.GALLERY_SIZE = 10, 2\n"
        "count = [0]\n"
        "def hook(owner, name, ending):\n"
        "    original = getattr(owner, name)\n"
        "    def hooked(file, *args):\n"
        "        count[0] += getattr(file, 'name', '').endswith(ending) if ending else 1\n"
        f"        if count[0] == {at}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return original(file, *args)\n"
        "    setattr(owner, name, hooked)\n"
        f"{hook}\n"
    )
    words = words_of(data, "--limit", LIMIT, "--quiet", "--max-new-tokens", 2)
    return start_command(words, cwd, code).completed()


@pytest.fixture(scope="module")
def once(demo, scenes, tmp_path_factory):
    """A run that is not interrupted."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", 10)
        patch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 2)
        run_of(demo, scenes, folder)
    return folder / "run"


def run_of(demo, scenes, folder):
    return demo.check(load_samples(scenes, limit=LIMIT), folder / "run", name=scenes.name, max_new_tokens=2)


@pytest.mark.parametrize(("moment", "at"), [*zip(KILL_HOOKS, (4, 1), strict=True)])
def test_a_row_has_its_example_whenever_the_run_is_killed(demo, scenes, once, tmp_path, monkeypatch, moment, at):
    monkeypatch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", 10)
    monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 2)
    done = run_killed(tmp_path, scenes, at, KILL_HOOKS[moment])
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = tmp_path / "run"
    written = [row["id"] for row in rows_of(run)] if (run / "scores.jsonl").exists() else []
    assert len(written) == at - 1 if "row" in moment else len(written) >= at - 1
    example_ids = chosen_examples(sample.id for sample in load_samples(scenes, limit=LIMIT))
    assert {example_file(name) for name in written if name in example_ids} <= npz_names(run)
    assert read_run(run)["samples"], "run.json is written before the first example"
    run_of(demo, scenes, tmp_path)
    assert_same_run(run, once)


def test_a_run_that_was_killed_before_its_first_row_goes_on(demo, scenes, tmp_path, choose, monkeypatch):
    """The first example is there: run.json must be there, too, else the folder would be refused."""
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


def test_a_run_that_is_finished_again_keeps_the_examples_of_its_rows(demo, scenes, once, tmp_path, monkeypatch):
    """It was killed while the gallery was drawn; drawings and examples of other best samples are there."""
    monkeypatch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", 10)
    monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 2)
    shutil.copytree(once, tmp_path / "run")
    run = tmp_path / "run"
    (run / "summary.json").unlink()
    scored = {example_file(name) for name in chosen_examples(row["id"] for row in rows_of(once))}
    (run / sorted(npz_names(once) - scored)[0]).unlink()
    write_example(run, make_example("best of an end before"))
    before = {name: (run / name).stat().st_mtime_ns for name in scored}
    run_of(demo, scenes, tmp_path)
    assert_same_run(run, once)
    assert {name: (run / name).stat().st_mtime_ns for name in scored} == before


def test_deleted_examples_do_not_stop_a_run(demo, scenes, once, tmp_path, monkeypatch):
    monkeypatch.setattr("qvl_attn.evaluation.examples.RANDOM_EXAMPLES", 10)
    monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 2)
    shutil.copytree(once, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(tmp_path / "run" / "gallery")
    summary = run_of(demo, scenes, tmp_path)
    assert len(read_examples(tmp_path / "run")) == 4, "only those of the drawn samples"
    assert {name for name in summary["files"] if name.endswith(".npz")} == npz_names(tmp_path / "run")
    assert summary["notes"] == summary_of(once)["notes"]


# Merged parts


@pytest.mark.parametrize("random_count", [5, 48])
def test_merged_parts_have_those_of_the_whole(demo, scenes, tmp_path, choose, random_count):
    choose(random_count, 2)
    samples = load_samples(scenes, limit=LIMIT)
    demo.check(samples, tmp_path / "whole", max_new_tokens=2)
    parts = [tmp_path / f"part-{i}" for i in (1, 2, 3)]
    for i, part in enumerate(parts, 1):
        demo.check(samples, part, max_new_tokens=2, shard=f"{i}/3")
        own = {row["id"] for row in rows_of(part)}
        assert read_examples(part).keys() <= own
        assert {*in_order(own)[:random_count]} <= read_examples(part).keys()
    merged = merge_runs(parts, tmp_path / "all")
    assert_same_examples(read_examples(tmp_path / "all"), read_examples(tmp_path / "whole"))
    assert merged["files"] == summary_of(tmp_path / "whole")["files"]
    part_files = {(part / name).read_bytes() for part in parts for name in npz_names(part)}
    assert {(tmp_path / "all" / name).read_bytes() for name in npz_names(tmp_path / "all")} <= part_files, (
        "unchanged copies"
    )
    for part in parts:
        for path in (part / "gallery").glob("*.npz"):
            path.unlink()
    without = merge_runs(parts, tmp_path / "without")
    assert npz_names(tmp_path / "without") == set()
    assert without["notes"] == merged["notes"]


# Reading


def test_an_example_is_read_as_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    pictures = tuple(jpeg(rng.integers(0, 256, (40, 60, 3), np.uint8)) for _ in range(3))
    values = tuple(rng.random((4, 6), np.float32) for _ in range(3))
    boxes = tuple(rng.random((count, 4)) for count in (0, 1, 3))
    clip = Example("猫\n/\0", pictures, values, boxes, (0, 2, 7), 9, (0.0, 1.5, 4.25), 0.125, 0.75)
    write_example(tmp_path, clip)
    for example in (read_examples(tmp_path)["猫\n/\0"], example_from(example_bytes(clip))):
        for name in ("id", "jpegs", "places", "of", "times_s", "uniform", "high"):
            assert getattr(example, name) == getattr(clip, name)
        for actual, want in zip((*example.values, *example.boxes), (*values, *boxes), strict=True):
            assert actual.dtype == want.dtype
            assert np.array_equal(actual, want)
    (path,) = (tmp_path / "gallery").iterdir()
    assert example_bytes(clip) == path.read_bytes(), "the file is deterministic"


WRONG = {
    "no picture": {"jpegs": (), "values": (), "boxes": (), "places": ()},
    "more than six": {name: (getattr(make_example(), name)) * 7 for name in ("jpegs", "values", "boxes")}
    | {"places": (*range(7),), "of": 7},
    "a map for another picture": {"values": (np.ones((2, 3), np.float32),) * 2},
    "boxes too few": {"boxes": ()},
    "PNG": {"jpegs": (b"\x89PNG\r\n\x1a\n" + b"\xff\xd9",)},
    "cut JPEG": {"jpegs": (make_example().jpegs[0][:-2],)},
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


@pytest.mark.parametrize("case", WRONG)
def test_invalid_examples_are_refused(case):
    with pytest.raises(ValueError, match=r"."):
        make_example(**WRONG[case])


def test_places_ascend():
    doubled = {name: getattr(make_example(), name) * 2 for name in ("jpegs", "values", "boxes")}
    assert make_example(**doubled, places=(0, 3), of=4).of == 4
    for places in ((3, 0), (1, 1)):
        with pytest.raises(ValueError, match="places"):
            make_example(**doubled, places=places, of=4)


def arrays_of(example) -> dict:
    with np.load(io.BytesIO(example_bytes(example))) as arrays:
        return dict(arrays)


def bomb() -> bytes:
    """Return a JPEG with a valid header of 60,000 x 60,000 pixels."""
    data = bytearray(make_example().jpegs[0])
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
    "unpacks to much": lambda path, arrays: np.savez_compressed(path, **arrays | {"jpeg_0": np.zeros(2**26, np.uint8)}),
    "not attention": lambda path, arrays: np.savez(path, **arrays | {"values_0": np.full((2, 3), -1, np.float32)}),
    **{
        f"without {name}": lambda path, arrays, name=name: np.savez(
            path, **{key: value for key, value in arrays.items() if key != name}
        )
        for name in ("schema_version", "id", "places", "of", "times_s", "uniform", "high", "jpeg_0", "values_0")
    },
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_example_is_named(tmp_path, damage):
    for name in ("a", "b"):
        write_example(tmp_path, make_example(name))
    path = tmp_path / example_file("a")
    DAMAGED[damage](path, arrays_of(make_example("a")))
    with pytest.raises(StoreError) as fault:
        read_examples(tmp_path)
    assert str(path) in str(fault.value)


def test_damaged_bytes_are_an_error_or_harmless():
    data, rng = example_bytes(make_example()), np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(data)
        for at in rng.integers(len(data), size=2):
            damaged[at] = rng.integers(256)
        try:
            assert isinstance(example_from(bytes(damaged)), Example)
        except StoreError:
            continue


def test_examples_are_limited_and_only_read_from_the_gallery(tmp_path, monkeypatch):
    for name in "abc":
        write_example(tmp_path, make_example(name))
    (tmp_path / "gallery" / "notes.txt").write_text("mine")
    (tmp_path / "gallery" / "deeper").mkdir()
    (tmp_path / "gallery" / "deeper" / "x.npz").write_text("mine")
    (tmp_path / "attention.npz").write_text("mine")
    assert [*read_examples(tmp_path)] == sorted("abc")
    monkeypatch.setattr("qvl_attn.evaluation.examples.MAX_EXAMPLES", 2)
    with pytest.raises(StoreError, match="3 examples"):
        read_examples(tmp_path)
