"""`check --methods`: scores, outputs, errors, and equal results in any batches and parts."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qvl_attn.cli.app import app
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.data.load import load_samples
from qvl_attn.evaluation.outputs import draw_sample
from qvl_attn.evaluation.rows import read_scores
from tests.helpers.check_runs import make_data, without_drawings, write_rows
from tests.helpers.loading import without_loading
from tests.helpers.run_comparison import json_differences, rows_of, summary_of

GROUNDING = ("pointing", "mass", "lift", "auc", "iou")
AREAS = ("deletion_blur", "deletion_mean", "insertion_blur", "insertion_mean")
SANITY = [f"{what}_{how}" for how in ("rank", "ssim") for what in ("weights", "question", "picture")]
METHODS = "relative,mean,gradient"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "set"
    write_dataset(folder, 3)
    return folder / "questions.jsonl"


@pytest.fixture(scope="module")
def check(demo):
    """Run the command without loading the weights each time."""
    with pytest.MonkeyPatch.context() as patch:
        without_loading(patch, demo)

        def invoke(data, out, *args, command="check"):
            inputs = [str(data), "--model", "demo"] if command == "check" else [*map(str, data)]
            return CliRunner().invoke(app, [command, *inputs, "--out", str(out), *map(str, args)])

        yield invoke


@pytest.fixture(scope="module")
def whole(check, scenes, tmp_path_factory):
    """The folder of a run over all questions, and its output."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = check(scenes, folder, "--methods", METHODS, "--csv")
    assert done.exit_code == 0, done.output
    return folder, done.stdout


def by_id(folder):
    return {row["id"]: row for row in rows_of(folder)}


def samples_of(scenes):
    return {sample.id: sample for sample in load_samples(str(scenes))}


def inside_and_covered(sample, grid):
    """Return the cells whose centre is in a box, and each cell's share in the boxes, on a raster 40 times as fine."""
    _, rows, columns = grid.shape
    fine = 40
    y, x = ((np.arange(n * fine) + 0.5) / (n * fine) for n in (rows, columns))
    covered, inside = np.zeros((rows * fine, columns * fine), bool), np.zeros((rows, columns), bool)
    width, height = sample.media_refs[0].size_px
    for x0, y0, x1, y1 in sample.boxes_px / (width, height, width, height):
        covered |= ((y0 <= y) & (y < y1))[:, None] & ((x0 <= x) & (x < x1))
        cy, cx = ((np.arange(n) + 0.5) / n for n in (rows, columns))
        inside |= ((y0 <= cy) & (cy < y1))[:, None] & ((x0 <= cx) & (cx < x1))
    return inside.ravel(), covered.reshape(rows, fine, columns, fine).mean(axis=(1, 3)).ravel()


def test_the_figures_in_a_row_are_those_of_each_methods_map(whole, scenes, demo):
    samples, scored = samples_of(scenes), 0
    for row in list(by_id(whole[0]).values())[:8]:
        sample = samples[row["id"]]
        assert list(row["methods"]) == METHODS.split(",") == list(row["method_chance"])
        if not len(sample.boxes_px):
            assert all(figures.pop("empty") == 0 for figures in row["methods"].values()), "its maps are not empty"
            assert all(value is None for figures in row["methods"].values() for value in figures.values())
            continue
        scored += 1
        result = demo.ask(sample.media_refs[0].source, sample.question, method=METHODS, max_new_tokens=64)
        inside, covered = inside_and_covered(sample, result.capture.grids[0])
        for method_map in result.methods:
            values, figures = method_map.values.astype(float), row["methods"][method_map.method]
            assert figures["mass"] == pytest.approx((values * covered).sum() / values.sum(), abs=3e-3)
            assert figures["lift"] == pytest.approx((values * covered).sum() / values.sum() / covered.mean(), rel=0.02)
            if inside.any() and not inside.all():
                wins = np.sign(values[inside][:, None] - values[~inside]).mean() / 2 + 0.5
                assert figures["auc"] == pytest.approx(wins, abs=2e-5)
            assert figures["pointing"] == float(inside[values.argmax()])
            assert 0 <= figures["iou"] <= 1
            chance = row["method_chance"][method_map.method]
            assert chance["pointing"] == pytest.approx(inside.mean(), abs=1e-5)
            assert (chance["lift"], chance["auc"]) == (1, 0.5 if inside.any() else None)
    assert scored >= 5


def test_methods_do_not_change_the_headline(whole, check, scenes, tmp_path):
    assert check(scenes, tmp_path / "plain", "--limit", 12, "--quiet").exit_code == 0
    with_methods = by_id(whole[0])
    for name, row in by_id(tmp_path / "plain").items():
        assert "methods" not in row
        assert row["answer"] == with_methods[name]["answer"]
        for part in ("headline", "layers", "all_layers"):
            assert not json_differences(row[part], with_methods[name][part], abs_tol=1e-4), (name, part)
    assert summary_of(tmp_path / "plain")["methods"] == {}
    assert not (tmp_path / "plain" / "methods.png").exists()


def test_the_mean_of_the_chosen_layers_is_the_headline(check, scenes, tmp_path, monkeypatch):
    without_drawings(monkeypatch)
    for options, method in ((("--layers", 1), "mean"), (("--heads", "1.0,2.3"), "heads")):
        folder = tmp_path / method
        assert check(scenes, folder, "--limit", 6, "--methods", method, *options, "--quiet").exit_code == 0
        for row in rows_of(folder):
            figures = {"empty": 0.0, **{name: row["headline"][name] for name in GROUNDING}}
            assert not json_differences(row["methods"][method], figures)


def test_the_summary_is_the_mean_of_the_rows(whole):
    rows, table = rows_of(whole[0]), summary_of(whole[0])["methods"]
    assert list(table) == METHODS.split(",")
    for name, figures in table.items():
        assert list(figures) == [*GROUNDING, "empty"]
        assert figures.pop("empty")["mean"] == 0
        for figure, estimate in figures.items():
            values = [row["methods"][name][figure] for row in rows if row["methods"][name][figure] is not None]
            by_chance = [row["method_chance"][name][figure] for row in rows]
            assert estimate["n"] == len(values) > 20
            assert estimate["mean"] == pytest.approx(np.mean(values), rel=2e-5, abs=2e-6)
            assert estimate["chance"] == pytest.approx(
                np.mean([x for x in by_chance if x is not None]), rel=2e-5, abs=2e-6
            )
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]


def test_the_printed_table_has_the_figures_of_the_summary(whole):
    table = summary_of(whole[0])["methods"]
    lines = whole[1].splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("method "))
    assert lines[head].split() == ["method", "pointing", "lift", "ROC-AUC", "IoU"]
    for line, name in zip(lines[head + 1 :], METHODS.split(","), strict=False):
        cells = [
            f"{table[name][figure]['mean']:.3f} [{table[name][figure]['low']:.2f}, {table[name][figure]['high']:.2f}]"
            for figure in ("pointing", "lift", "auc", "iou")
        ]
        assert line.split() == f"{name} {' '.join(cells)}".split()
    chances = [
        np.median([figures[figure]["chance"] for figures in table.values()])
        for figure in ("pointing", "lift", "auc", "iou")
    ]
    assert lines[head + 4].split() == ["chance", *(f"{chance:.3f}" for chance in chances)]
    assert "area, nats" not in whole[1]


def test_the_csv_has_a_column_for_each_figure_of_each_method(whole):
    with (whole[0] / "scores.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    for name, row in by_id(whole[0]).items():
        for method in METHODS.split(","):
            for figure in GROUNDING:
                value = row["methods"][method][figure]
                assert rows[name][f"{figure}_{method}"] == ("" if value is None else f"{value:.6g}")


def test_scores_of_methods_come_back_from_their_rows(whole):
    rows = by_id(whole[0])
    for score in read_scores(whole[0]):
        for field in ("methods", "method_chance"):
            by_method = getattr(score, field)
            for method, figures in by_method.items():
                values = [None if np.isnan(value) else value for value in figures.values()]
                assert values == list(rows[score.id][field][method].values())


def test_the_chart_is_listed_and_drawn(whole):
    assert "methods: " + str(whole[0] / "methods.png") in whole[1]
    with Image.open(whole[0] / "methods.png") as picture:
        assert picture.width > 1000


def test_the_gallery_shows_the_map_of_the_headline_with_its_figures(whole, scenes, demo):
    samples = samples_of(scenes)
    scores = {score.id: score for score in read_scores(whole[0])}
    files = sorted((whole[0] / "gallery").glob("best_1_*.png"))
    (path,) = files
    (name,) = [sample_id for sample_id in samples if path.stem.endswith(sample_id.replace("/", "-"))]
    plain = demo.ask(samples[name].media_refs[0].source, samples[name].question, max_new_tokens=64)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), draw_sample(samples[name], scores[name], plain))


def test_batches_of_any_size_give_the_same_figures(check, scenes, whole, tmp_path, monkeypatch):
    without_drawings(monkeypatch)
    assert check(scenes, tmp_path / "one", "--methods", METHODS, "--batch-size", 1, "--quiet").exit_code == 0
    assert not json_differences(rows_of(tmp_path / "one"), rows_of(whole[0]), abs_tol=1e-3)


def test_merged_parts_equal_the_whole_run(check, scenes, whole, tmp_path, monkeypatch):
    parts = [tmp_path / "a", tmp_path / "b"]
    with monkeypatch.context() as patch:
        without_drawings(patch)
        for i, part in enumerate(parts):
            assert check(scenes, part, "--methods", METHODS, "--shard", f"{i + 1}/2", "--quiet").exit_code == 0
    done = check(parts, tmp_path / "all", "--csv", command="merge")
    assert done.exit_code == 0, done.output
    assert not json_differences(rows_of(tmp_path / "all"), rows_of(whole[0]), abs_tol=1e-3)
    assert not json_differences(summary_of(tmp_path / "all")["methods"], summary_of(whole[0])["methods"], abs_tol=1e-3)
    assert (tmp_path / "all" / "methods.png").is_file()
    assert "pointing_gradient" in (tmp_path / "all" / "scores.csv").read_text(encoding="utf-8-sig").splitlines()[0]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--methods", "mean,relative,gradient"), f"--methods: {METHODS} before, mean,relative,gradient now"),
        (("--methods", "relative"), f"--methods: {METHODS} before, relative now"),
        ((), f"--methods: {METHODS} before, not given now"),
        (("--methods", METHODS, "--faithfulness"), "--faithfulness: False before, True now"),
    ],
)
def test_a_run_is_only_resumed_with_the_same_methods(check, scenes, whole, args, line):
    before = (whole[0] / "scores.jsonl").read_bytes()
    done = check(scenes, whole[0], *args)
    assert done.exit_code == 2
    assert line in done.stderr
    assert (whole[0] / "scores.jsonl").read_bytes() == before


def test_a_stopped_run_is_resumed_with_equal_results(check, scenes, tmp_path, monkeypatch):
    without_drawings(monkeypatch)
    args = ("--methods", "mean,relative", "--limit", 12, "--quiet")
    assert check(scenes, tmp_path / "once", *args).exit_code == 0
    assert check(scenes, tmp_path / "twice", *args).exit_code == 0
    rows = (tmp_path / "twice" / "scores.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "twice" / "scores.jsonl").write_text("".join(rows[:5]), encoding="utf-8")
    (tmp_path / "twice" / "summary.json").unlink()
    assert check(scenes, tmp_path / "twice", *args).exit_code == 0
    assert not json_differences(rows_of(tmp_path / "twice"), rows_of(tmp_path / "once"))
    assert summary_of(tmp_path / "twice")["methods"] == summary_of(tmp_path / "once")["methods"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--methods", "relatve"), "--methods relatve: no method 'relatve'"),
        (("--methods", ""), "no method ''"),
        (("--methods", "mean,heads"), "--methods heads: there is no profile with heads"),
        (("--methods", "mean", "--heads", "1.0"), "--methods mean cannot be combined with --heads 1.0"),
        (("--methods", "mean", "--query", "text:zebra"), "--query text:zebra"),
    ],
)
def test_errors_of_methods_are_one_line_before_anything_is_computed(check, scenes, tmp_path, monkeypatch, args, words):
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: pytest.fail("the weights must not be loaded"))
    done = check(scenes, tmp_path / "run", *args)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in line
    assert not (tmp_path / "run").exists()


def test_methods_exclude_calibration(check, tmp_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "set"
    write_dataset(folder, 24)
    for extra in (("--methods", "mean"), ("--faithfulness",)):
        done = check(folder / "questions.jsonl", tmp_path / "run", "--calibrate", tmp_path / "p.json", *extra)
        assert done.exit_code == 2
        assert "--calibrate finds heads and --methods compares maps: one at a time" in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_unreadable_sample_does_not_affect_the_methods_of_the_others(check, tmp_path, monkeypatch):
    without_drawings(monkeypatch)
    rows = make_data(tmp_path)
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:2000])
    data = write_rows(tmp_path, rows)
    done = check(data, tmp_path / "run", "--methods", "tam,mean", "--quiet")
    assert done.exit_code == 0, done.output
    scored_rows, table = by_id(tmp_path / "run"), summary_of(tmp_path / "run")["methods"]
    assert scored_rows.pop("2")["status"] == "error"
    assert "methods" not in by_id(tmp_path / "run")["2"]
    assert {row["status"] for row in scored_rows.values()} == {"ok"}
    assert table["tam"]["mass"]["n"] == table["mean"]["mass"]["n"] == 11
    assert table["tam"]["mass"]["mean"] == pytest.approx(
        np.mean([row["methods"]["tam"]["mass"] for row in scored_rows.values()]), rel=2e-5
    )
