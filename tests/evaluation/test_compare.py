"""`qvl-attn compare`, against intervals written out, on real runs of `check`, and on rows made by hand."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import qvl_attn
from qvl_attn import compare_runs, load_samples
from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.demo.dataset import write_dataset
from qvl_attn.evaluation.compare import COMPARED
from qvl_attn.evaluation.figures import FIGURES
from qvl_attn.evaluation.rows import score_row
from qvl_attn.evaluation.score import Score
from tests.helpers.check_runs import without_drawings
from tests.helpers.kept import kept_files
from tests.helpers.made_up_scores import OTHER_FIGURES

SAME = {"--model": "demo", "--query": "last", "--profile": None}


def make_score(name, mass=0.5, *, accuracy=1.0, group=None, **changes):
    """Return a scored sample; all its figures except the mass are one half."""
    values = {
        "question": "what color?",
        "answer": "red",
        "references": ("red",),
        "boxes": 1,
        "evidence": f"of {name}",
        "headline": dict.fromkeys(FIGURES, 0.5) | {"mass": mass},
        "area": 0.1,
        **OTHER_FIGURES,
    }
    group = group or f"{name}.png"
    return Score(str(name), (group,), accuracy=accuracy, group=group, **(values | changes))


def failed(name, **changes):
    return make_score(
        name, status="error", accuracy=0.0, error="InputError: no picture", answer="", headline={}, **changes
    )


@pytest.fixture
def run(tmp_path):
    """Write the folder of a run: samples are numbered in their order, rows are written in the given order."""

    def write(name, scores, *, rows=None, calibrated=False, data="set.jsonl", **same) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        numbered = [score_row(replace(score, index=i)) for i, score in enumerate(scores)]
        lines = [numbered[i] for i in (range(len(scores)) if rows is None else rows)]
        (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), encoding="utf-8")
        run_json = {"schema_version": 1, "kind": "check", "same": SAME | same, "facts": {}}
        run_json["samples"] = {score.id: "1" for score in scores}
        (folder / "run.json").write_text(json.dumps(run_json))
        headline_map = "layers 1-2, mean of all heads, attention of last"
        changed = {"data": data, "headline_map": headline_map, "samples": len(scores), "heads": None}
        summary = json.loads(kept_files("check")["summary.json"]) | changed
        half = {"samples": 1, "scored": 1}
        calibration = {"profile": None, "first_half": half, "second_half": half, "all_layers": {}, "ranking": None}
        summary["calibration"] = calibration if calibrated else None
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return write


def command(*words):
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def printed(*words):
    done = command(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


def compared(*folders, **options):
    return compare_runs(folders, **options)["comparisons"][0]


# Intervals


def paired_masses(count=60, seed=0):
    """Return masses in two runs: easy samples are easy in both, and the change is similar within a picture."""
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 15, count))
    first = rng.uniform(0.2, 0.8, count)
    other = first + 0.03 + 0.05 * rng.standard_normal(15)[groups] + 0.005 * rng.standard_normal(count)
    return first, other, groups


def test_the_interval_is_that_of_a_paired_bootstrap_over_pictures_written_out(run):
    first, other, groups = paired_masses()
    a = run("a", [make_score(i, first[i], group=f"{groups[i]}.png") for i in range(60)])
    b = run("b", [make_score(i, other[i], group=f"{groups[i]}.png") for i in range(60)])
    mass = compared(a, b)["figures"]["mass"]
    rng = np.random.default_rng(1)
    names, means = np.unique(groups), []
    for _ in range(4000):
        indices = np.concatenate([np.flatnonzero(groups == name) for name in rng.choice(names, len(names))])
        means.append(other[indices].mean() - first[indices].mean())
    low, high = np.percentile(means, [2.5, 97.5])
    assert mass["difference"] == pytest.approx(np.mean(other - first), abs=1e-5)
    assert mass["low"] == pytest.approx(low, abs=0.12 * (high - low))
    assert mass["high"] == pytest.approx(high, abs=0.12 * (high - low))
    assert (mass["first"], mass["other"]) == (pytest.approx(first.mean()), pytest.approx(other.mean()))
    assert mass["n"] == 60


def test_with_a_picture_a_sample_it_is_scipys_paired_bootstrap(run):
    pytest.importorskip(
        "scipy", minversion="1.15"
    )  # a dependency of scikit-learn; older versions name the generator differently
    from scipy.stats import bootstrap

    first, other, _ = paired_masses(seed=3)
    a, b = (
        run(name, [make_score(i, value) for i, value in enumerate(values)])
        for name, values in (("a", first), ("b", other))
    )
    mass = compared(a, b)["figures"]["mass"]
    low, high = bootstrap(
        (first, other),
        lambda a, b, axis: b.mean(axis=axis) - a.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert mass["low"] == pytest.approx(low, abs=0.12 * (high - low))
    assert mass["high"] == pytest.approx(high, abs=0.12 * (high - low))


def test_the_groups_are_those_of_the_first_run(run):
    first, other, groups = paired_masses()
    a = [make_score(i, first[i], group=f"{groups[i]}.png") for i in range(60)]
    b = [make_score(i, other[i]) for i in range(60)]
    linked = [replace(score_b, group=score_a.group) for score_a, score_b in zip(a, b, strict=True)]
    a, b, linked = run("a", a), run("b", b), run("linked", linked)
    assert compared(a, b)["figures"] == compared(a, linked)["figures"]
    assert compared(a, b)["groups"] == len(set(groups.tolist()))


def test_the_seed_fixes_the_intervals(run):
    first, other, _ = paired_masses()
    a, b = (
        run(name, [make_score(i, mass) for i, mass in enumerate(values)])
        for name, values in (("a", first), ("b", other))
    )
    same_seed, again, other_seed = (compared(a, b, seed=seed)["figures"]["mass"] for seed in (1, 1, 2))
    assert same_seed == again
    assert same_seed["low"] != other_seed["low"]


def test_one_picture_alone_has_no_interval(run):
    a, b = (
        run("a", [make_score(i, 0.5, group="x.png") for i in range(3)]),
        run("b", [make_score(i, 0.6) for i in range(3)]),
    )
    mass = compared(a, b)["figures"]["mass"]
    assert (mass["difference"], mass["low"], mass["high"]) == (pytest.approx(0.1), None, None)
    assert any("1 independent" in note for note in compared(a, b)["notes"])
    assert "+0.100                   -        3" in printed(a, b)


# Pairing


def test_samples_are_paired_by_id_in_any_order(run):
    first, other, _ = paired_masses()
    accuracies = np.random.default_rng(7).integers(0, 2, (2, 60)).astype(float).tolist()
    a = [make_score(i, first[i], accuracy=accuracies[0][i]) for i in range(60)]
    b = [make_score(i, other[i], accuracy=accuracies[1][i]) for i in range(60)]
    mixed = np.random.default_rng(5).permutation(60).tolist()
    a, whole = run("a", a), run("b", b)
    shuffled, moved = run("shuffled", b, rows=mixed), run("moved", [b[i] for i in mixed])
    expected = compared(a, whole)
    assert expected["right"]["first_only"] > 5
    for folder in (shuffled, moved):
        assert compared(a, folder) == expected | {"other": str(folder)}


def test_samples_of_one_run_alone_are_left_out_and_counted(run):
    a = run("a", [make_score(i, 0.1 * i) for i in range(6)])
    b = run("b", [make_score(i, 0.05 * i + 0.4) for i in range(3, 11)])
    comparison = compared(a, b)
    assert (comparison["samples"], comparison["only_first"], comparison["only_other"]) == (3, 3, 5)
    assert comparison["figures"]["mass"]["first"] == pytest.approx(0.4)
    assert comparison["figures"]["mass"]["difference"] == pytest.approx(0.2)
    assert "samples: 3 in both, 3 only in 1, 5 only in 2" in printed(a, b)


def test_an_error_is_a_wrong_answer_and_in_no_other_figure(run):
    a = run(
        "a", [make_score(0, 0.2), make_score(1, 0.4), make_score(2, 0.6), failed(3), make_score(4, 0.9, accuracy=0.0)]
    )
    b = run("b", [make_score(0, 0.3), failed(1), make_score(2, 0.7), failed(3), make_score(4, 0.8)])
    comparison = compared(a, b)
    assert comparison["errors"] == {"first": 1, "other": 2, "either": 2}
    accuracy, mass = comparison["figures"]["accuracy"], comparison["figures"]["mass"]
    assert (accuracy["first"], accuracy["other"], accuracy["n"]) == (0.6, 0.6, 5)
    assert (mass["first"], mass["other"], mass["n"]) == (pytest.approx(1.7 / 3, abs=1e-5), 0.6, 3)
    assert comparison["right"] == {"both": 2, "first_only": 1, "other_only": 1, "neither": 1}
    assert sum(comparison["grounded"].values()) == 3
    assert [change["id"] for change in comparison["flipped"]["right_to_wrong"]] == ["1"]
    text = printed(a, b)
    assert "2 of 5 samples have an error (1 in the first run, 2 in the other)" in text
    assert "2: error: InputError: no picture (wrong)" in text


def test_a_figure_counts_where_both_runs_define_it(run):
    a = run("a", [make_score(0, 0.2), make_score(1, np.nan), make_score(2, 0.4), make_score(3, np.nan)])
    b = run("b", [make_score(0, 0.5), make_score(1, 0.9), make_score(2, np.nan), make_score(3, np.nan)])
    comparison = compared(a, b)
    assert comparison["figures"]["mass"]["n"] == 1
    assert (comparison["figures"]["mass"]["first"], comparison["figures"]["mass"]["other"]) == (0.2, 0.5)
    assert comparison["figures"]["iou"]["n"] == 4
    assert [change["id"] for change in comparison["changed_most"]] == ["0"]


def test_a_figure_that_no_sample_defines_is_null_and_not_printed(run):
    a, b = (run(name, [make_score(i, np.nan, accuracy=np.nan, references=()) for i in range(3)]) for name in "ab")
    comparison = compared(a, b)
    undefined = {"first": None, "other": None, "difference": None, "low": None, "high": None, "n": 0}
    assert comparison["figures"]["mass"] == comparison["figures"]["accuracy"] == undefined
    assert sum(comparison["right"].values()) == 0
    text = printed(a, b)
    assert "answer accuracy" not in text
    assert "mass in the box  " not in text


def test_right_and_grounded_are_counted_pair_by_pair(run):
    def judged_score(right, pointing, i, **changes):
        figures = dict.fromkeys(FIGURES, 0.5) | {"pointing": pointing}
        return make_score(i, accuracy=right, headline=figures, **changes)

    cells = [(1, 1), (1, 1), (1, 1), (1, 0), (1, 0), (0, 1), (0, 0.3)]
    a = [judged_score(float(first), float(second), i) for i, (first, second) in enumerate(cells)]
    b = [judged_score(float(second), float(first), i) for i, (first, second) in enumerate(cells)]
    a.append(judged_score(np.nan, 1.0, 7, references=()))
    b.append(judged_score(np.nan, np.nan, 7, references=(), area=np.nan))
    comparison = compared(run("a", a), run("b", b))
    assert comparison["right"] == {"both": 3, "first_only": 2, "other_only": 1, "neither": 1}
    assert comparison["grounded"] == {"both": 3, "first_only": 1, "other_only": 2, "neither": 1}


def test_each_of_several_runs_is_compared_with_the_first(run):
    a = run("a", [make_score(i, 0.5) for i in range(6)])
    b = run("b", [make_score(i, 0.6) for i in range(4)], **{"--query": "question"})
    c = run("c", [make_score(i, 0.2) for i in range(2, 8)], **{"--model": "other"})
    result = compare_runs([a, b, c])
    assert [comparison["other"] for comparison in result["comparisons"]] == [str(b), str(c)]
    assert [comparison["samples"] for comparison in result["comparisons"]] == [4, 4]
    masses = [comparison["figures"]["mass"]["difference"] for comparison in result["comparisons"]]
    assert masses == [pytest.approx(0.1), pytest.approx(-0.3)]
    assert result["comparisons"][1]["differences"] == ["--model: demo in 1, other in 3"]
    text = printed(a, b, c)
    assert f"3 against 1: {c} against {a}" in text
    assert "samples: 4 in both, 2 only in 1, 2 only in 3" in text


def test_of_a_calibration_the_second_half_is_compared(run):
    a = run("a", [make_score(i, 0.5) for i in range(6)])
    b = run("b", [make_score(i, 0.6, half="first" if i < 2 else "second") for i in range(6)], calibrated=True)
    for folders in ((a, b), (b, a)):
        result = compare_runs(folders)
        assert result["comparisons"][0]["samples"] == 4
        (note,) = (note for note in result["notes"] if "calibration" in note)
        assert "4 samples not used to choose its heads" in note
        assert note in printed(*folders)


# Differences and changed samples


def test_differences_are_printed_first(run):
    a = run("a", [make_score(0)])
    b = run("b", [make_score(0)], data="other.jsonl", **{"--query": "question", "--profile": '{"name": "mine"}'})
    lines = printed(a, b).splitlines()
    differs = [line for line in lines if line.startswith("differs: ")]
    assert differs == [
        "differs: --query: last in 1, question in 2",
        'differs: --profile: not given in 1, {"name": "mine"} in 2',
        "differs: data set: set.jsonl in 1, other.jsonl in 2",
    ]
    assert lines.index(differs[0]) < next(i for i, line in enumerate(lines) if "95 % interval" in line)
    assert sum("layers 1-2, mean of all heads, attention of last" in line for line in lines) == 2


def test_two_runs_of_the_same_differ_in_nothing(run):
    a, b = run("a", [make_score(i, 0.1 * i) for i in range(5)]), run("b", [make_score(i, 0.1 * i) for i in range(5)])
    comparison = compared(a, b)
    assert comparison["differences"] == comparison["changed_most"] == []
    mass = comparison["figures"]["mass"]
    assert (mass["difference"], mass["low"], mass["high"]) == (0, 0, 0)
    assert "differs: nothing" in printed(a, b)


def test_other_questions_and_accepted_answers_are_noted(run):
    a = run("a", [make_score(0), make_score(1), make_score(2)])
    b = run("b", [make_score(0, 0.4, question="which colour?"), make_score(1, references=("blue",)), make_score(2)])
    comparison = compared(a, b)
    assert (comparison["other_questions"], comparison["other_references"]) == (1, 1)
    text = printed(a, b)
    assert "in 1 of 3 samples the two runs asked different questions" in text
    assert "in 1 of 3 samples the accepted answers differ" in text
    assert "      1: what color?\n      2: which colour?\n      1: red (right), 2: red (right)" in text


def test_the_samples_that_changed_most_come_first(run):
    before, after = (0.5, 0.5, 0.5, 0.5, 0.5), (0.6, 0.1, 0.5, 0.4, 0.8)
    a = run("a", [make_score(i, mass) for i, mass in enumerate(before)])
    b = run("b", [make_score(i, mass, answer="blue") for i, mass in enumerate(after)])
    changes = compared(a, b)["changed_most"]
    assert [change["id"] for change in changes[:2]] == ["1", "4"]
    assert {change["id"] for change in changes[2:]} == {"0", "3"}, "unchanged samples are not listed"
    assert [change["difference"] for change in changes[:2]] == [pytest.approx(-0.4), pytest.approx(0.3)]
    side = {"question": "what color?", "answer": "red", "error": "", "right": True, "value": 0.5}
    assert (changes[0]["first"], changes[0]["other"]) == (side, side | {"answer": "blue", "value": 0.1})
    assert len(compared(a, b, top=1)["changed_most"]) == 1
    assert compared(a, b, by="iou")["changed_most"] == []
    assert "  1: mass 0.500 to 0.100 (-0.400)\n      what color?\n      1: red (right), 2: blue (right)" in printed(
        a, b
    )


def test_answers_that_flipped_are_listed_each_way(run):
    accuracies = [(1, 1), (1, 0), (0, 1), (0.6, 0.3), (0, 0), (1, 0)]
    a = run("a", [make_score(i, accuracy=float(first)) for i, (first, _) in enumerate(accuracies)])
    b = run("b", [make_score(i, accuracy=float(second)) for i, (_, second) in enumerate(accuracies)])
    flipped = compared(a, b)["flipped"]
    assert [first["id"] for first in flipped["right_to_wrong"]] == ["1", "3", "5"]
    assert [first["id"] for first in flipped["wrong_to_right"]] == ["2"]
    text = printed(a, b, "--top", 2)
    assert "answers right in 1 and wrong in 2: 3, the first 2\n  1: " in text
    assert "answers wrong in 1 and right in 2: 1\n  2: " in text
    assert "\n  5: " not in text


# Real runs


@pytest.fixture(scope="module")
def real(tmp_path_factory, demo):
    """`--query last` and `--query question` on the same scenes, and a calibration."""
    folder = tmp_path_factory.mktemp("real")
    write_dataset(folder / "set", 4)
    samples = load_samples(folder / "set" / "questions.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        without_drawings(patch)
        for query in ("last", "question"):
            demo.check(samples[:40], folder / query, query=query, layers="all", name="questions.jsonl")
        demo.check(samples, folder / "calibrated", query="last", calibrate=folder / "mine.json", name="questions.jsonl")
    return folder


def rows_of(folder):
    lines = (folder / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def test_real_runs_are_compared_as_their_rows_say(real):
    comparison = compared(real / "last", real / "question")
    first, other = rows_of(real / "last"), rows_of(real / "question")
    assert comparison["differences"] == ["--query: last in 1, question in 2"]
    assert comparison["samples"] == len(first) == 40
    for name in COMPARED:
        pairs = [
            (row["accuracy"], other[key]["accuracy"])
            if name == "accuracy"
            else (row["headline"][name], other[key]["headline"][name])
            for key, row in first.items()
        ]
        defined = np.array([pair for pair in pairs if None not in pair])
        figure = comparison["figures"][name]
        assert figure["n"] == len(defined) > 20
        assert [figure["first"], figure["other"]] == pytest.approx(defined.mean(axis=0), rel=1e-4)
        assert figure["difference"] == pytest.approx(np.mean(defined[:, 1] - defined[:, 0]), abs=1e-5)
        assert figure["low"] <= figure["difference"] <= figure["high"]
    assert comparison["figures"]["mass"]["high"] < 0 < comparison["figures"]["vision_mass"]["low"]
    for cells, field in (("right", "right"), ("grounded", "grounded")):
        judged = [(row[field], other[key][field]) for key, row in first.items()]
        expected = {(True, True): "both", (True, False): "first_only", (False, True): "other_only"}
        for pair, name in expected.items():
            assert comparison[cells][name] == judged.count(pair)


def test_real_runs_swapped_are_the_same_with_the_other_sign(real):
    forward, backward = compared(real / "last", real / "question"), compared(real / "question", real / "last")
    for name in COMPARED:
        first, second = forward["figures"][name], backward["figures"][name]
        assert (first["first"], first["other"]) == (second["other"], second["first"])
        assert (first["low"], first["high"]) == (pytest.approx(-second["high"]), pytest.approx(-second["low"]))


def test_the_means_of_real_runs_are_those_of_their_summaries(real):
    figures = compared(real / "last", real / "question")["figures"]
    for side, folder in (("first", "last"), ("other", "question")):
        summary = json.loads((real / folder / "summary.json").read_text(encoding="utf-8"))
        assert figures["accuracy"][side] == pytest.approx(summary["accuracy"]["mean"], abs=1e-5)
        assert figures["mass"][side] == pytest.approx(summary["headline"]["mass"]["mean"], abs=1e-5)


def test_a_real_calibration_is_compared_on_its_second_half(real):
    halves = [row["half"] for key, row in rows_of(real / "calibrated").items() if key in rows_of(real / "last")]
    result = compare_runs([real / "last", real / "calibrated"])
    assert result["runs"][1]["headline_map"].startswith("heads ")
    assert result["comparisons"][0]["samples"] == halves.count("second") > 0
    summary = json.loads((real / "calibrated" / "summary.json").read_text(encoding="utf-8"))
    assert (
        result["runs"][1]["samples"]
        == summary["samples"]
        == result["comparisons"][0]["only_other"] + halves.count("second")
    )


def test_it_needs_no_torch_and_no_charts(real):
    code = (
        "import sys; from typer.testing import CliRunner; from qvl_attn.cli.app import app;"
        "assert CliRunner().invoke(app, ['compare', '--help']).exit_code == 0;"
        "print(sorted({'torch', 'transformers', 'numpy', 'cv2', 'PIL'} & set(sys.modules)));"
        f"done = CliRunner().invoke(app, ['compare', {str(real / 'last')!r}, {str(real / 'question')!r}]);"
        "assert done.exit_code == 0, done.output;"
        "print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:2] == ["[]", "[]"]


# Errors


def refused(*words, code=2):
    done = command(*words)
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    return " ".join(done.stderr.split())


def test_fewer_than_two_runs_are_refused(run):
    a = run("a", [make_score(0)])
    assert "1 run: want two or more" in refused(a)
    assert command().exit_code == 2
    with pytest.raises(InputError, match="0 runs"):
        compare_runs([])


def test_folders_that_are_not_runs_are_refused(run, tmp_path):
    a, b = run("a", [make_score(0)]), run("b", [make_score(0)])
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "empty", a / "summary.json", tmp_path / ("x" * 300)):
        assert "is not a check: it has no run.json" in refused(a, path)
    (b / "run.json").write_text('{"kind": "other"}')
    assert "is not a check: run.json has kind 'other'" in refused(a, b, code=1)


def test_an_unfinished_run_is_refused_with_a_hint(run):
    a, b = run("a", [make_score(0)]), run("b", [make_score(0)])
    (b / "summary.json").unlink()
    assert f"{b} is not finished: it has no summary.json hint: run the same check again: it continues" in refused(a, b)


def test_a_folder_that_is_named_twice_is_refused(run, tmp_path):
    a, b = run("a", [make_score(0)]), run("b", [make_score(0)])
    (tmp_path / "link").symlink_to(a)
    for again in (a, tmp_path / "b" / ".." / "a", tmp_path / "link"):
        assert "are the same folder" in refused(a, b, again)


def test_runs_without_a_sample_in_common_are_refused(run):
    a, b, c = (
        run("a", [make_score(0), make_score(1)]),
        run("b", [make_score(0)]),
        run("c", [make_score(i) for i in (2, 3, 4)]),
    )
    assert f"{a} and {c} have no samples in common: none of 2 and 3 ids" in refused(a, b, c)


def test_samples_about_other_evidence_are_refused(run):
    a = run("a", [make_score(i) for i in range(80)])
    b = run("b", [make_score(i, evidence="moved" if i >= 20 else f"of {i}") for i in range(80)])
    errors = refused(a, b)
    assert "60 of 80 samples have other pictures or boxes under the same id" in errors
    assert "sample 20 sample 21" in errors
    assert "and 10 more" in errors


def test_an_unknown_figure_is_refused(run):
    a, b = run("a", [make_score(0)]), run("b", [make_score(0)])
    assert "--by weight: is not a compared figure" in refused(a, b, "--by", "weight")
    assert refused(a, b, "--by", "weight").endswith("hint: figures: " + ", ".join(COMPARED))
    for name in COMPARED:
        assert compared(a, b, by=name)["changed_most"] == []
    with pytest.raises(InputError, match="`top=-1`"):
        compared(a, b, top=-1)


def test_damaged_files_are_one_line(run):
    a = run("a", [make_score(0)])
    b = run("b", [make_score(0)])
    (b / "summary.json").write_text("{}")
    lacking = "summary.json is damaged: summary: object missing required field data hint: remove summary.json"
    assert lacking in refused(a, b, code=1)
    shutil.copy(a / "summary.json", b / "summary.json")
    (b / "scores.jsonl").write_text("no row\n")
    assert "line 1 is not a JSON object with an id" in refused(a, b, code=1)
    (b / "scores.jsonl").unlink()
    (b / "scores.jsonl").mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        compare_runs([a, b])


# Output


def test_json_is_what_the_api_gives(run):
    a = run("a", [make_score(0, np.nan), failed(1), make_score(2)])
    b = run("b", [make_score(0), make_score(1), make_score(2, 0.7)])

    def never(name):
        raise AssertionError(name)

    output = json.loads(printed(a, b, "--json", "--by", "lift", "--top", 1, "--seed", 4), parse_constant=never)
    assert output == compare_runs([a, b], by="lift", top=1, seed=4)
    assert output["bootstrap"]["seed"] == 4
    assert compare_runs is qvl_attn.compare_runs


def test_the_note_on_intervals_is_always_there(run):
    a, b = run("a", [make_score(0)]), run("b", [make_score(0)])
    text = printed(a, b)
    assert "where an interval includes 0, these samples show no difference" in text
    assert "not corrected for multiple comparisons" in text


def test_texts_are_safe_and_short(run):
    a = run("a", [make_score("\x1b[31mid", 0.1, question="a" * 500, answer="\u202eevil\nline")])
    b = run("b\x1b\u202e", [make_score("\x1b[31mid", 0.9, question="a" * 500, answer="b" * 500)])
    text = printed(a, b)
    assert not set(text) & {"\x1b", "\u202e"}
    assert "evil line (right)" in text
    assert "a" * 61 not in text
    assert "b" * 61 not in text


def test_a_csv_has_all_runs_side_by_side(run, tmp_path):
    a = run(
        "a",
        [make_score("=1+1", 0.25, question="@SUM(A1)", answer="-x"), make_score("b"), make_score("c", accuracy=np.nan)],
    )
    b = run("b", [make_score("=1+1", 0.75), failed("b")])
    c = run("c", [make_score("b", 0.125)])
    printed(a, b, c, "--csv", tmp_path / "side.csv")
    with (tmp_path / "side.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["'=1+1", "b"], "samples of the first run alone are left out"
    first, second = rows
    assert (first["question_1"], first["answer_1"], first["mass_1"], first["mass_2"]) == (
        "'@SUM(A1)",
        "'-x",
        "0.25",
        "0.75",
    )
    assert (first["mass_3"], first["answer_3"], first["right_3"]) == ("", "", "")
    assert (second["mass_1"], second["mass_2"], second["mass_3"]) == ("0.5", "", "0.125")
    assert (second["right_1"], second["right_2"], second["accuracy_2"]) == ("true", "false", "0.0")
    assert second["error_2"] == "InputError: no picture"
    assert {f"{name}_{number}" for name in COMPARED for number in (1, 2, 3)} <= set(first)


def test_a_csv_replaces_nothing(run, tmp_path):
    a, b = run("a", [make_score(0)]), run("b", [make_score(0)])
    (tmp_path / "mine.csv").write_text("mine")
    assert "already exists" in refused(a, b, "--csv", tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "mine"
    says = refused(a, b, "--csv", tmp_path / "nowhere" / "x.csv")
    assert "x.csv: cannot be written (No such file or directory)" in says
    assert "hint: name a file in a folder that exists" in says
