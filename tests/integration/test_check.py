"""`qvl-attn check` on the embedded model: scores, outputs, calibration and errors."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qvl_attn.attribution.profiles import load_profile
from qvl_attn.attribution.selection import Query, query_rows
from qvl_attn.core.errors import ModelError
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.answer_accuracy import accuracy
from qvl_attn.evaluation.data.jsonl import read_jsonl
from qvl_attn.evaluation.data.load import load_samples
from qvl_attn.evaluation.data.rows import Faults
from qvl_attn.evaluation.data.samples import read_samples
from qvl_attn.evaluation.loop import other_samples
from qvl_attn.evaluation.sharding import Shard
from qvl_attn.model.checkpoint import find_checkpoint
from tests.helpers.check_runs import invoke, rows_of, without_drawings, write_rows
from tests.helpers.loading import without_loading

SCENES = 12


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "set"
    write_dataset(folder, SCENES)
    return folder / "questions.jsonl"


@pytest.fixture
def drawn_check(tmp_path, monkeypatch, demo):
    """Run the command in an empty folder, without loading the weights each time."""
    monkeypatch.chdir(tmp_path)
    without_loading(monkeypatch, demo)
    return invoke


@pytest.fixture
def check(drawn_check, monkeypatch):
    """The same without most of the drawing."""
    without_drawings(monkeypatch)
    return drawn_check


@pytest.fixture
def run_summary(check):
    """Run a check, expect success, and return the summary."""

    def invoke(data, *args, out="run"):
        done = check(data, *args, "--json", out=out)
        assert done.exit_code == 0, done.output
        value = json.loads(done.stdout)
        assert value == json.loads((Path(out) / "summary.json").read_text(encoding="utf-8"))
        return value

    return invoke


def questions_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def row(tmp_path):
    """A valid record about a small picture."""
    Image.fromarray(np.full((112, 168, 3), (200, 60, 60), np.uint8)).save(tmp_path / "red.png")
    return {
        "id": "one",
        "image": "red.png",
        "question": "what color is it?",
        "answer": "red",
        "boxes": [[28, 28, 84, 84]],
        "box_format": "xyxy",
        "box_units": "px",
    }


# Scores


def test_every_sample_is_scored_as_its_result_says(run_summary, demo, scenes):
    summary = run_summary(scenes, "--query", "last", "--layers", "1-2", "--limit", 25)
    rows, records = sorted(rows_of(), key=lambda row: row["index"]), questions_of(scenes)[:25]
    assert [row["id"] for row in rows] == [row["id"] for row in records]
    for row, sample in list(zip(rows, records, strict=True))[::4]:
        result = demo.ask(scenes.parent / sample["image"], sample["question"], query="last", max_new_tokens=64)
        assert row["answer"] == result.answer
        assert row["accuracy"] == accuracy(result.answer, [sample["answer"]])
        assert row["headline"]["vision_mass"] == pytest.approx(result.heatmap(layers="1-2").vision_mass, abs=1e-5)
        if not sample["boxes"]:
            assert row["grounded"] is None
            continue
        boxes, grid = np.array(sample["boxes"], float), result.capture.grids[0]
        for name, layers in (("headline", [1, 2]), ("all_layers", [0, 1, 2, 3])):
            values = result.heatmap(layers=layers).values.ravel().astype(float)
            x0, y0, x1, y1 = grid.boxes_px[values.argmax()]
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            pointed = bool(((boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])).any())
            assert row[name]["pointing"] == pointed
            mass, area = mass_by_raster(values, boxes, grid, result.media[0].size_px)
            assert row[name]["mass"] == pytest.approx(mass, abs=2e-3)
            assert row[name]["lift"] == pytest.approx(mass / area, rel=2e-2)
        for layer in range(4):
            values = result.heatmap(layers=layer).values
            assert row["layers"]["vision_mass"][layer] == pytest.approx(values.sum(), abs=1e-5)
    boxed = [row for row in rows if row["grounded"] is not None]
    assert summary["headline"]["pointing"]["mean"] == pytest.approx(
        np.mean([row["grounded"] for row in boxed]), abs=1e-5
    )
    assert summary["headline"]["pointing"]["n"] == len(boxed) == summary["with_boxes"]
    for layer in range(4):
        mean = np.mean([row["layers"]["lift"][layer] for row in boxed])
        assert summary["layers"][layer]["lift"]["mean"] == pytest.approx(mean, rel=1e-4)


def mass_by_raster(values, boxes, grid, size_px):
    """Return the boxes' share of the attention and of the area, by counting pixels."""
    width, height = size_px
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    inside = np.zeros(x.shape, dtype=bool)
    for left, top, right, bottom in boxes:
        inside |= (left <= x) & (x < right) & (top <= y) & (y < bottom)
    _, rows, columns = grid.shape
    cell = (y * rows / height).astype(int) * columns + (x * columns / width).astype(int)
    density = values[cell] / np.bincount(cell.ravel())[cell]
    return (density * inside).sum() / values.sum(), inside.mean()


def test_heads_are_scored_separately(run_summary, demo, scenes):
    summary = run_summary(scenes, "--query", "last", "--by-head", "--limit", 3)
    sample = questions_of(scenes)[0]
    result = demo.ask(scenes.parent / sample["image"], sample["question"], query="last", heads="0-3")
    rows = query_rows(result.capture, sample["question"], Query("last"))
    masses = result.capture.weights_by_head[:, :, rows].mean(axis=2).sum(axis=-1)
    assert np.allclose(rows_of()[0]["heads"]["vision_mass"], masses, atol=1e-5)
    assert np.shape(summary["heads"]["pointing"]) == (4, 4)


def test_the_headline_is_grounded_and_controls_are_not(run_summary, scenes):
    headline = run_summary(scenes, "--query", "last", "--layers", "all", "--limit", 80)["headline"]
    assert headline["pointing"]["mean"] > 0.9
    assert headline["pointing"]["low"] > headline["pointing"]["chance"] + 0.5
    assert headline["lift"]["mean"] > 3
    assert headline["lift"]["chance"] == headline["lift"]["uniform"] == 1
    assert headline["lift"]["other"] < 1.6
    assert headline["auc"]["mean"] > 0.9
    assert headline["auc"]["uniform"] == headline["auc"]["chance"] == 0.5
    assert headline["pointing"]["uniform"] == 0
    assert headline["lift"]["centre"] < 2


def test_the_two_by_two_table_counts_answers_and_grounding(run_summary, scenes):
    cells = run_summary(scenes, "--query", "last", "--layers", "0", "--limit", 60)["answers_and_grounding"]
    rows = [row for row in rows_of() if row["grounded"] is not None]
    for verdict, right in (("right", True), ("wrong", False)):
        for place, grounded in (("grounded", True), ("elsewhere", False)):
            count = sum((row["right"], row["grounded"]) == (right, grounded) for row in rows)
            assert cells[f"{verdict}_{place}"] == count


def test_clips_are_scored_by_step(run_summary, tmp_path):
    write_dataset(tmp_path / "clips", 3, video=True)
    summary = run_summary(tmp_path / "clips" / "questions.jsonl", "--query", "last", "--layers", "all", "--fps", 4)
    assert summary["accuracy"]["mean"] > 0.9
    assert summary["headline"]["pointing"]["mean"] > 0.8
    assert summary["headline"]["lift"]["mean"] > 2.5
    assert summary["headline"]["lift"]["other"] < 2


def test_boxes_may_be_on_the_second_picture(run_summary, demo, tmp_path, cats, wide):
    for file in (cats, wide):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    row = {
        "id": "two",
        "images": [cats.name, wide.name],
        "question": "how many cats?",
        "boxes": [[0, 0, 1, 1]],
        "box_format": "xyxy",
        "box_units": "normalized",
        "frame": [1],
    }
    summary = run_summary(write_rows(tmp_path, [row]), "--query", "last", "--layers", "all")
    result = demo.ask(tmp_path / cats.name, row["question"], [tmp_path / wide.name], query="last")
    first, second = (heatmap.values.sum() for heatmap in result.heatmaps(layers="all"))
    assert summary["headline"]["mass"]["mean"] == pytest.approx(second / (first + second), rel=1e-4)
    cells = [grid.cells for grid in result.capture.grids]
    assert rows_of()[0]["area"] == pytest.approx(cells[1] / sum(cells), rel=1e-5)


def test_the_control_boxes_are_those_of_another_picture(scenes):
    samples = read_samples(read_jsonl(scenes, scenes.name, Faults()), scenes.parent, Faults())
    others = other_samples(samples, 0)
    boxed = [sample for sample in samples if len(sample.boxes_px)]
    assert set(others) == {sample.id for sample in boxed}
    assert all(others[sample.id].names != sample.names and len(others[sample.id].boxes_px) for sample in boxed)
    assert len({other_sample.id for other_sample in others.values()}) > len(boxed) / 3, "not always the same sample"


# Calibration


def test_the_calibrated_profile_beats_the_mean_of_all_layers_on_unseen_scenes(run_summary, scenes, capsys):
    summary = run_summary(scenes, "--calibrate", "mine.json", out="calibrated")
    lift = summary["headline"]["lift"]["over_all_layers"]
    print(summary["headline"]["pointing"], lift)
    assert lift["low"] > 0, "with the default query, at the 95 % level"
    first, second = (
        {row["media"][0] for row in rows_of("calibrated") if row["half"] == half} for half in ("first", "second")
    )
    assert not first & second
    assert len(first) == len(second) == SCENES / 2
    assert summary["samples"] == sum(row["half"] == "second" for row in rows_of("calibrated")), (
        "the first half is in no figure"
    )
    profile = load_profile("mine.json")
    assert profile.evidence == "measured"
    assert profile.query == "question"
    assert len(summary["calibration"]["ranking"]["layers"]) == 4


def test_a_profile_is_used_by_check(run_summary, scenes):
    run_summary(scenes, "--query", "last", "--calibrate", "mine.json", "--limit", 24, out="calibrated")
    with_profile = run_summary(scenes, "--profile", "mine.json", "--limit", 10, out="again")
    assert with_profile["settings"]["query"] == "last"
    assert "profile mine: calibrated" in with_profile["headline_map"]
    heads = ",".join(f"{layer}.{head}" for layer, head in load_profile("mine.json").heads)
    with_heads = run_summary(scenes, "--query", "last", "--heads", heads, "--limit", 10, out="typed")
    for name in ("pointing", "lift", "auc"):
        assert with_profile["headline"][name]["mean"] == pytest.approx(with_heads["headline"][name]["mean"], rel=1e-4)


def test_calibration_excludes_other_choices_of_layers(check, scenes):
    done = check(scenes, "--calibrate", "p.json", "--layers", "1")
    assert done.exit_code == 2
    assert "--calibrate chooses the headline itself" in " ".join(done.stderr.split())
    (Path("there.json")).write_text("mine")
    assert check(scenes, "--calibrate", "there.json").exit_code == 2
    assert Path("there.json").read_text() == "mine"


# Output


def test_what_it_writes(drawn_check, scenes):
    before = set(Path().iterdir())
    done = drawn_check(scenes, "--query", "last", "--by-head", "--csv", "--limit", 30)
    assert done.exit_code == 0, done.output
    assert set(Path().iterdir()) - before == {Path("run")}, "nothing is written outside --out"
    summary = json.loads(Path("run/summary.json").read_text(encoding="utf-8"))
    files = sorted(path.relative_to("run").as_posix() for path in Path("run").rglob("*") if path.is_file())
    assert files == summary["files"]
    assert {"scores.jsonl", "scores.csv", "layers.png", "patterns.png", "heads.png"} <= set(files)
    assert sum(name.startswith("gallery/best_") for name in files) >= 2
    assert sum(name.startswith("gallery/worst_") for name in files) >= 2
    for name in ("pointing game", "ROC-AUC", "answers right", "not grounded", "layer"):
        assert name in done.stdout
    for name in files:
        if name.endswith(".png"):
            assert np.asarray(Image.open(Path("run") / name)).std() > 5, f"{name} is blank"


def test_quiet_prints_the_path_alone(check, scenes):
    done = check(scenes, "--quiet", "--limit", 2)
    assert done.stdout.strip() == str(Path("run/summary.json"))
    assert done.stderr == ""


def test_formulas_in_the_csv_are_quoted(check, tmp_path, row):
    bad = row | {"id": "=1+1", "question": "@SUM(A1) what color?", "answer": ["-red", "+x"]}
    assert check(write_rows(tmp_path, [bad]), "--csv").exit_code == 0
    with Path("run/scores.csv").open(encoding="utf-8-sig", newline="") as file:
        (csv_row,) = csv.DictReader(file)
    assert csv_row["id"] == "'=1+1"
    assert csv_row["question"] == "'@SUM(A1) what color?"
    assert csv_row["references"] == "'-red | +x"
    assert float(csv_row["area"]) > 0


def test_file_names_of_samples_are_safe(drawn_check, tmp_path, row):
    assert drawn_check(write_rows(tmp_path, [row | {"id": "../../../a:b|\x07" + "x" * 300}])).exit_code == 0
    names = sorted(path.name for path in Path("run/gallery").iterdir())
    assert [name[-4:] for name in names] == [".npz", ".png"]
    assert max(len(name.encode()) for name in names) < 100


def test_fail_under_applies_to_the_headline_and_not_to_the_best_layer(check, scenes):
    """Layer 0 points badly, layer 2 well: the threshold applies to the layers of the headline."""
    for layer, code in (("2", 0), ("0", 1)):
        words = (scenes, "--query", "last", "--layers", layer, "--limit", 20)
        done = check(*words, "--fail-under", "pointing=0.5", out=layer)
        assert done.exit_code == code, done.output
        assert Path(layer, "summary.json").is_file()
    for threshold, code in (("pointing=0.6", 0), ("lift=99", 1), ("accuracy=0.5", 0), ("mass=1", 1)):
        done = check(scenes, "--query", "last", "--layers", "2", "--limit", 20, "--fail-under", threshold, out="2")
        assert done.exit_code == code, done.output


@pytest.mark.parametrize(
    ("lacking", "thresholds", "want"),
    [
        ("box", ["mass=0.1"], "--fail-under mass: this run will not have it, because no row has boxes"),
        ("answer", ["accuracy=1", "lift=1"], "--fail-under accuracy: this run will not have it, because no row has an"),
        ("", ["accuracy=1", "lift=1"], "--fail-under accuracy, lift: this run will not have it, because no row has an"),
    ],
)
def test_a_figure_that_a_run_cannot_have_is_refused_before_a_model_is_found(
    check, tmp_path, row, monkeypatch, lacking, thresholds, want
):
    monkeypatch.setattr("qvl_attn.cli.check.find_model", None)
    parts = (lacking,) if lacking else ("box", "answer")
    without = {name: value for name, value in row.items() if not name.startswith(parts)}
    done = check(write_rows(tmp_path, [without]), *(word for item in thresholds for word in ("--fail-under", item)))
    assert done.exit_code == 2, done.output
    errors = " ".join(done.stderr.split())
    assert want in errors
    figures = {"answer": "accuracy", "box": "pointing, mass, lift, auc, iou"}
    has = [name for part, name in figures.items() if part not in parts]
    assert f"hint: figures that it will have: {', '.join([*has, 'vision_mass'])}" in errors
    assert not Path("run").exists()


def test_two_runs_have_the_same_summary(run_summary, scenes):
    first, second = (run_summary(scenes, "--limit", 12, out=out) for out in ("a", "b"))
    assert first == second


def test_prompts_are_asked_of_pictures(run_summary, tmp_path, cats, wide):
    (tmp_path / "pictures").mkdir()
    for file in (cats, wide):
        (tmp_path / "pictures" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    summary = run_summary(tmp_path / "pictures", "--prompts", "counting", "--max-new-tokens", 4)
    assert summary["pictures"] == 2
    assert summary["samples"] == 2 * 10
    assert summary["with_boxes"] == 0
    assert rows_of()[0]["id"] == f"{cats.name}/counting-cats"
    assert summary["headline"]["pointing"]["mean"] is None
    assert summary["headline"]["vision_mass"]["mean"] > 0


# Errors


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--fail-under", "beauty=1"), "--fail-under beauty=1: no figure 'beauty'"),
        (("--fail-under", "pointng=.5"), "did you mean pointing?"),
        (("--fail-under", "accuracy=50"), "--fail-under accuracy=50: accuracy is between 0 and 1"),
        (("--fail-under", "pointing"), "--fail-under pointing"),
        (("--fail-under", "pointing=nan"), "--fail-under pointing=nan"),
        (("--query", "why"), "--query why"),
        (("--max-pixels", "9"), "--max-pixels 9"),
        (("--max-new-tokens", "0"), "--max-new-tokens 0"),
        (("--layers", "9"), "no layer 9"),
        (("--heads", "9.9"), "layer 9 is not among"),
        (("--profile", "qwen2.5-vl-7b"), "is for a model of 28 layers"),
        (("--box-format", "xyxy"), "Hugging Face"),
        (("--data-root", "nowhere"), "--data-root nowhere"),
        (("--fps", "0"), "--fps 0"),
        (("--prompts", "nothing"), "--prompts nothing"),
    ],
)
def test_options_are_checked_before_the_weights_are_loaded(check, tmp_path, row, monkeypatch, args, message):
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    done = check(write_rows(tmp_path, [row]), *args)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
    assert not Path("run").exists()


def test_all_faults_of_the_data_are_reported_before_the_weights_are_loaded(check, tmp_path, row, monkeypatch):
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    bad = [
        row,
        row | {"id": "two", "boxes": [[84, 28, 28, 84]]},
        row | {"id": "three", "image": "../../etc/passwd"},
        row | {"id": "one"},
        row | {"id": "five", "boxes": [[0, 0, 999, 50]]},
        row | {"id": "six", "box_units": "inches"},
    ]
    done = check(write_rows(tmp_path, bad))
    errors = " ".join(done.stderr.split())
    assert done.exit_code == 2
    for text in (
        "5 faults",
        "line 2: boxes[0]",
        "line 3: image",
        "line 4: id",
        "line 5: boxes[0]",
        "line 6: box_units",
    ):
        assert text in errors


def test_words_that_are_commands_are_reported_with_all_other_faults(check, tmp_path, row, monkeypatch):
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    commands = ["<|image_pad|>", "<|im_end|>"]
    bad = [
        row,
        row | {"id": "b", "question": "".join(commands), "boxes": [[5, 5, 1, 9]]},
        row | {"id": "c", "awnser": ""},
    ]
    done = check(write_rows(tmp_path, bad))
    assert done.exit_code == 2
    errors = " ".join(done.stderr.split())
    assert "3 faults" in errors
    assert "line 2: boxes[0]" in errors
    assert "line 2: question: the question contains '<|im_end|>' and '<|image_pad|>', which the model would" in errors
    assert "line 3: awnser" in errors


def test_words_that_are_commands_in_a_question_set_are_reported(check, tmp_path, cats, monkeypatch):
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", None)
    (tmp_path / "set.jsonl").write_text('{"id": "a", "question": "x?"}\n{"id": "b", "question": "<|im_end|> y?"}')
    done = check(cats, "--prompts", "set.jsonl")
    assert done.exit_code == 2
    assert "--prompts b: question: the question contains '<|im_end|>'" in " ".join(done.stderr.split())


def test_counts_of_one_are_singular(check, tmp_path, row):
    """With a box in which no cell has its centre, which is a note about one sample."""
    done = check(write_rows(tmp_path, [row | {"boxes": [[1, 1, 4, 4]]}]))
    assert done.exit_code == 0
    printed = one_line_of(done) + " ".join(done.stdout.split())
    assert "1 sample about 1 picture or clip" in printed
    assert "in 1 sample no cell has its centre in a box" in printed
    assert not re.findall(r"(?<![\d.,/])1 (?:\w+ )?(?:samples|pictures|questions|clips|layers|heads|tokens)\b", printed)


def test_fail_under_in_an_empty_part(check, tmp_path, row, monkeypatch):
    """Of two parts of one sample one is empty: what its rows lack is not the reason."""
    monkeypatch.setattr("qvl_attn.cli.check.find_model", None)
    data = write_rows(tmp_path, [row])
    samples = load_samples(data)
    empty = next(part for part in ("1/2", "2/2") if not Shard.parse(part).own(samples))
    done = check(data, "--shard", empty, "--fail-under", "accuracy=0.1", "--fail-under", "lift=1")
    assert done.exit_code == 2
    assert "error: --fail-under accuracy, lift: this part of the data set is empty" in one_line_of(done)
    assert "no row" not in done.stderr


def one_line_of(done):
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--layers", "99"], 2, "error: --layers 99: no layer 99 hint: the model has layers 0 to 3"),
        (["--model", "nosuch"], 2, "error: --model nosuch: no such folder, and no Hugging Face id"),
        (["--model", "no/such", "--offline"], 1, "error: no/such is not in the cache, and --offline forbids"),
    ],
)
def test_a_wrong_option_is_no_fault_of_the_questions(check, tmp_path, row, monkeypatch, options, code, error):
    """Questions with `<` are checked with the model's processor, so that the options matter while the data is read."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [row | {"id": str(i), "question": "is a < b?"} for i in range(3)]
    done = check(write_rows(tmp_path, rows), *options)
    assert done.exit_code == code
    assert one_line_of(done).startswith(error)
    assert "fault" not in done.stderr
    assert "question" not in done.stderr


def test_faults_of_the_data_are_reported_where_no_model_is_found(check, tmp_path, row, monkeypatch):
    rows = [row | {"question": "is a < b?"}, row | {"id": "b", "bokses": []}]
    done = check(write_rows(tmp_path, rows), "--model", "no/such", "--offline")
    assert done.exit_code == 2
    errors = one_line_of(done)
    assert "error: the data set has 1 fault line 2: bokses: unknown field: did you mean boxes?" in errors
    assert "hint: questions with < are not checked yet: no/such is not in the cache" in errors


def test_the_words_that_are_commands_come_from_the_settings_files_alone(check, tmp_path, row, monkeypatch):
    """The processor is built once for all questions, and no weights are looked for before the faults are listed."""
    asked = []

    def find(name, revision=None, *, offline, weights):
        asked.append(weights)
        return find_checkpoint("demo", weights=weights)

    monkeypatch.setattr("qvl_attn.model.checkpoint.find_checkpoint", find)
    monkeypatch.setattr("qvl_attn.vqa.session.find_on_disk", lambda *args, **more: None)
    rows = [row | {"id": str(i), "question": "is a < b? <|im_end|>"} for i in range(3)]
    done = check(write_rows(tmp_path, rows), "--model", "owner/not-downloaded")
    assert done.exit_code == 2
    assert "the data set has 3 faults line 1: question: the question contains '<|im_end|>'" in one_line_of(done)
    assert asked == [False]


def test_questions_without_such_words_are_checked_without_a_model(check, tmp_path, row, monkeypatch):
    monkeypatch.setattr("qvl_attn.cli.check.find_processor", None)
    done = check(write_rows(tmp_path, [row | {"awnser": ""}]))
    assert done.exit_code == 2
    assert "line 1: awnser: unknown field: did you mean answer?" in " ".join(done.stderr.split())


def test_a_broken_picture_is_an_error_row_and_the_run_continues(check, tmp_path, row):
    """Its header is valid, so that the fault is found only when the picture is decoded."""
    whole = (tmp_path / "red.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    rows = [row | {"id": str(i)} for i in range(12)]
    rows[3] |= {"image": "cut.png"}
    done = check(write_rows(tmp_path, rows))
    assert done.exit_code == 0, done.output
    by_id = {scored["id"]: scored for scored in rows_of()}
    assert by_id["3"]["status"] == "error"
    assert "cut.png" in by_id["3"]["error"]
    assert sum(scored["status"] == "ok" for scored in by_id.values()) == 11
    assert "1 of 12 samples could not be scored" in done.stdout


def test_too_many_errors_fail(check, tmp_path, row):
    (tmp_path / "cut.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    rows = [row, row | {"id": "b", "image": "cut.png"}]
    done = check(write_rows(tmp_path, rows))
    assert done.exit_code == 1, done.output
    assert "1 of 2 samples have no score" in " ".join(done.stderr.split())


def test_a_question_without_the_query_words_is_an_error_row(check, tmp_path, row):
    rows = [row | {"id": str(i)} for i in range(11)] + [row | {"id": "x", "question": "how many cats?"}]
    done = check(write_rows(tmp_path, rows), "--query", "text:color")
    assert done.exit_code == 0
    assert "the first error: InputError: --query text:color: not in the question" in " ".join(done.stdout.split())
    assert [scored["status"] for scored in rows_of()].count("error") == 1


def test_a_profile_created_meanwhile_is_not_replaced(check, scenes, monkeypatch):
    from qvl_attn.evaluation import run

    def slow(*args, **more):
        Path("mine.json").write_text("mine")
        return run.profile_from_first_half(*args, **more)

    monkeypatch.setattr(run, "profile_from_first_half", run._calibrated, raising=False)
    monkeypatch.setattr(run, "_calibrated", slow)
    done = check(scenes, "--calibrate", "mine.json", "--limit", 24)
    assert done.exit_code == 1
    assert "was not replaced" in " ".join(done.stderr.split())
    assert Path("mine.json").read_text() == "mine"


def test_a_model_that_cannot_be_loaded_leaves_no_files(check, tmp_path, row, monkeypatch):
    def fails(*args):
        raise ModelError("no such weights")

    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", fails)
    data = write_rows(tmp_path, [row])
    assert check(data).exit_code == 1
    assert not list(Path("run").glob("*"))


def test_boxes_on_frames_that_were_not_sampled_are_noted(run_summary, tmp_path):
    write_dataset(tmp_path / "clips", 2, video=True)
    summary = run_summary(tmp_path / "clips" / "questions.jsonl", "--query", "last", "--fps", 0.5)
    assert summary["unsampled_boxes"] > 0
    assert any("not sampled" in note for note in summary["notes"])


def test_a_run_is_never_written_over(check, scenes):
    assert check(scenes, "--limit", 2).exit_code == 0
    before = Path("run/summary.json").read_bytes()
    done = check(scenes, "--limit", 3)
    assert done.exit_code == 2
    assert "was started with other settings or samples" in done.stderr
    assert Path("run/summary.json").read_bytes() == before


# Real photographs


def test_real_photographs_with_human_boxes_run_through(drawn_check, shared_data, tmp_path, monkeypatch):
    """The embedded model cannot ground photographs, so the lift of its maps must be near chance."""
    index = json.loads((shared_data / "images" / "grounding_index.json").read_text(encoding="utf-8"))
    rows = [
        {
            "id": f"{i}",
            "image": photograph["image"],
            "question": photograph["question"],
            "boxes": photograph["boxes_xywh"],
            "box_format": "xywh",
            "box_units": "px",
        }
        for i, photograph in enumerate(index)
    ]
    before = {path: path.stat().st_mtime_ns for path in shared_data.rglob("*")}
    monkeypatch.setattr("qvl_attn.evaluation.outputs.GALLERY_SIZE", 2)
    done = drawn_check(
        write_rows(tmp_path, rows), "--data-root", shared_data, "--max-pixels", 60_000, "--max-new-tokens", 1, "--json"
    )
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["samples"], summary["errors"], summary["with_boxes"]) == (len(index), 0, len(index))
    assert {path: path.stat().st_mtime_ns for path in shared_data.rglob("*")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "run"}
    rows = {row["id"]: row for row in rows_of()}
    assert len(rows) == len(index)
    for i, photograph in enumerate(index):
        row = rows[str(i)]
        width, height = photograph["width"], photograph["height"]
        boxes = np.array(photograph["boxes_xywh"])
        biggest = (boxes[:, 2] * boxes[:, 3]).max() / (width * height)
        assert biggest - 0.01 <= row["area"] <= (boxes[:, 2] * boxes[:, 3]).sum() / (width * height) + 0.01
    lift = summary["headline"]["lift"]
    assert 0.7 < lift["mean"] < 1.3
    assert list((tmp_path / "run" / "gallery").iterdir())


def test_random_weights_with_the_genuine_vocabulary_are_at_chance(genuine, shared_data, tmp_path):
    from qvl_attn import load_samples

    index = json.loads((shared_data / "images" / "grounding_index.json").read_text(encoding="utf-8"))[::12]
    rows = [
        {
            "id": i,
            "image": photograph["image"],
            "question": photograph["question"],
            "boxes": photograph["boxes_xywh"],
            "box_format": "xywh",
        }
        | {"box_units": "px", "answer": "nothing of the kind"}
        for i, photograph in enumerate(index)
    ]
    samples = load_samples(write_rows(tmp_path, rows), data_root=shared_data)
    summary = genuine.check(samples, tmp_path / "run", by_head=True, max_pixels=60_000, max_new_tokens=1)
    assert (summary["samples"], summary["errors"]) == (len(index), 0)
    assert summary["accuracy"]["mean"] == 0
    assert np.shape(summary["heads"]["lift"]) == (3, 2)
    assert 0.7 < summary["headline"]["lift"]["mean"] < 1.4
    assert 0.3 < summary["headline"]["auc"]["mean"] < 0.7
