"""`--method`, `--denoise` and `--faithfulness` of `ask` and `video`, and `qvl-attn methods`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qvl_attn import Result
from qvl_attn.attribution.methods.registry import METHODS, parse_methods
from qvl_attn.attribution.profiles import Profile, profile_json, shape_of
from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError
from tests.helpers.loading import without_loading

QUESTION = "how many cats?"
SMALL = ("--max-pixels", 16 * 28**2)
NAMES = ["mean", "max", "heads", "relative", "sinks", "sinks-redistributed", "gradient", "gradcam", "rollout", "tam"]


@pytest.fixture
def run(tmp_path, monkeypatch, demo):
    """A command on the embedded model in an empty folder, without loading its weights each time."""
    monkeypatch.chdir(tmp_path)
    without_loading(monkeypatch, demo)
    return invoke


def invoke(command, *args):
    return CliRunner().invoke(app, [command, *map(str, args), "--model", "demo", "--draw-size", "320"])


@pytest.fixture
def ask(run):
    """Run, expect success, and return the JSON row and the folder."""

    def invoke(*args, command="ask"):
        done = run(command, *args, "--json")
        assert done.exit_code == 0, done.output
        (line,) = done.stdout.splitlines()
        row = json.loads(line)
        return row, Path(row["folder"])

    return invoke


def read_result(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


# The list of methods


def test_all_methods_are_listed_with_all_fields():
    done = CliRunner().invoke(app, ["methods"])
    assert done.exit_code == 0
    blocks = [block.splitlines() for block in done.stdout.strip().split("\n\n")]
    assert [block[0] for block in blocks] == NAMES
    for block in blocks:
        differs = ["differs"] if METHODS[block[0]].differs else []
        fields = ["shows", "needs", "cost", "when", "wrong", *differs, "source"]
        assert [line.split(":")[0].strip() for line in block[1:]] == fields
        assert all(line.split(":", 1)[1].strip() for line in block[1:]), block


def test_the_list_as_json_has_the_same_fields():
    rows = [json.loads(line) for line in CliRunner().invoke(app, ["methods", "--json"]).stdout.splitlines()]
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        method = METHODS[row["name"]]
        assert (row["wrong"], row["source"], row["cost"]) == (method.wrong, method.source, method.cost)
        assert row["differs"] == method.differs
        assert row["needs"].startswith("attention rows")
    differs = {row["name"]: row["differs"] for row in rows}
    assert "the line break before the answer in place of its first token" in differs["tam"]
    assert "“Answer the question using a single word or phrase.”" in differs["relative"]
    assert not differs["mean"]
    needs = {row["name"]: row["needs"] for row in rows}
    assert needs["mean"] == "attention rows"
    assert needs["heads"] == "attention rows; the profile's single heads"
    assert needs["max"] == "attention rows; the heads' maximum of each row"


# Names


def test_duplicate_names_are_dropped_and_the_order_is_kept():
    assert parse_methods(" relative , mean,relative,tam") == ("relative", "mean", "tam")
    assert parse_methods(["tam", "mean"]) == ("tam", "mean")


@pytest.mark.parametrize("typed", ["", ",", "mean,", "Mean", "mean relative", [], ["mean", ""], ["relatve"]])
def test_an_unknown_name_is_refused_with_its_argument(typed):
    with pytest.raises(InputError, match=r"^`some=.*`: no method") as caught:
        parse_methods(typed, "some")
    assert all(name in caught.value.hint for name in NAMES)


# Asking


def test_a_method_is_used_and_recorded(ask, cats):
    row, folder = ask(cats, QUESTION, "--method", "tam,mean")
    value = read_result(folder)
    assert (row["method"], value["headline"]["method"], value["settings"]["methods"]) == ("tam", "tam", ["tam", "mean"])
    loaded = Result.load(folder)
    assert row["vision_mass"] == loaded.heatmap().vision_mass
    assert np.array_equal(loaded.heatmap().values.ravel(), loaded.methods[0].values)
    assert not (folder / "faithfulness.png").exists()


def test_without_a_method_none_is_recorded(ask, cats):
    row, folder = ask(cats, QUESTION)
    assert row["method"] is None
    assert read_result(folder)["methods"] == []
    assert read_result(folder)["headline"]["method"] == "mean"


def test_each_request_has_its_folder_and_an_identical_one_is_reused(ask, cats):
    folders = {}
    for extra in ((), ("--method", "mean"), ("--method", "mean,max"), ("--method", "mean", "--denoise", "median")):
        row, folder = ask(cats, QUESTION, *extra, *SMALL)
        assert not row["reused"]
        folders[folder] = extra
    assert len(folders) == 4
    for folder, extra in folders.items():
        row, again = ask(cats, QUESTION, *extra, *SMALL)
        assert (again, row["reused"]) == (folder, True)
    assert ask(cats, QUESTION, "--method", "mean, mean", *SMALL)[0]["reused"]


def test_heads_are_for_the_method_of_heads(ask, cats):
    row, folder = ask(cats, QUESTION, "--method", "heads", "--heads", "1.0,2.1")
    assert row["method"] == "heads"
    assert read_result(folder)["headline"]["heads"] == "1.0,2.1"
    row, _ = ask(cats, QUESTION, "--method", "mean", "--heads", "all")
    assert row["method"] == "mean"


def test_a_profile_with_heads_serves_the_method_of_heads(ask, cats, demo):
    profile = Profile("mine", "measured", "a test", shape_of(demo.engine.config), heads=((1, 0), (3, 2)))
    Path("mine.json").write_text(json.dumps(profile_json(profile, {})))
    row, folder = ask(cats, QUESTION, "--method", "heads,mean", "--profile", "mine.json")
    assert row["method"] == "heads"
    value = read_result(folder)
    assert value["headline"]["heads"] == "1.0,3.2"
    assert value["methods"][1]["layers"] == [2], "a profile of heads names no whole layers"


FAULTS = {
    "a wrong name": (["--method", "relatve"], ["--method relatve: no method 'relatve'", "there are mean, max"]),
    "an empty name": (["--method", ""], ["no method ''"]),
    "an empty name among others": (["--method", "mean,"], ["--method mean,: no method ''"]),
    "no heads": (["--method", "heads"], ["--method heads: there is no profile with heads", "--heads"]),
    "no heads though all": (["--method", "heads", "--heads", "all"], ["no profile with heads"]),
    "no profile": (["--method", "mean,heads", "--profile", "none"], ["no profile with heads"]),
    "heads": (["--method", "mean", "--heads", "1.0"], ["--method mean cannot be combined with --heads 1.0"]),
    "the second beside heads": (
        ["--method", "heads,tam", "--heads", "1.0"],
        ["--method tam cannot be combined with --heads"],
    ),
    "a query of no word": (["--method", "mean", "--query", "text:dog"], ["--query text:dog"]),
    "an empty answer": (["--method", "gradient", "--answer", ""], ["the answer is empty"]),
    "a layer beyond": (["--method", "mean", "--layers", "9"], ["--layers 9"]),
}


@pytest.mark.parametrize("command", ["ask", "video"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line_before_anything_is_computed(run, cats, clip_file, monkeypatch, command, fault):
    def never(*args):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", never)
    args, words = FAULTS[fault]
    done = run(command, cats if command == "ask" else clip_file(4), QUESTION, *args, "--out", "out")
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1
    for word in words:
        assert word in done.stderr, done.stderr
    assert list(Path("out").iterdir()) == []


def test_an_unknown_filter_is_a_fault_of_usage(run, cats):
    done = run("ask", cats, QUESTION, "--denoise", "average")
    assert done.exit_code == 2
    assert "median" in done.stderr


def test_a_filter_changes_the_drawing_and_not_the_saved_numbers(ask, cats):
    (_, plain), (_, drawn) = (ask(cats, QUESTION, *args) for args in ((), ("--denoise", "rank-gaussian")))
    with np.load(plain / "attention.npz") as first, np.load(drawn / "attention.npz") as second:
        for name in first.files:
            assert np.array_equal(first[name], second[name]), name
    assert read_result(plain)["headline"] == read_result(drawn)["headline"]
    assert read_result(plain)["scale"] != read_result(drawn)["scale"]


def test_faithfulness_is_measured_drawn_and_printed(run, cats):
    done = run("ask", cats, QUESTION, "--faithfulness", *SMALL)
    assert done.exit_code == 0, done.output
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    folder = Path(lines["faithfulness"]).parent
    assert lines["faithfulness"].endswith("faithfulness.png")
    assert Path(lines["faithfulness"]).is_file()
    value = read_result(folder)
    assert "faithfulness.png" in value["files"]
    areas = value["faithfulness"]["curves"]["areas"]
    assert list(areas) == ["headline", "random", "uniform"]
    for kind, better in (("deletion", "lower"), ("insertion", "higher")):
        for fill in ("blur", "mean"):
            line = lines[f"{kind}, {fill} fill ({better} is better, nats)"]
            assert line == ", ".join(f"{name} {values[f'{kind}_{fill}']:.2f}" for name, values in areas.items())
    sanity = value["faithfulness"]["sanity"]["headline"]
    labels = [f"scrambled weights of the top {n} of 4 layers" for n in (1, 2, 3, 4)]
    labels[0] += " (above the map's layers)"  # the map's is layer 2 alone
    assert [row["label"] for row in sanity["weights"]] == labels
    assert sanity["weights"][0]["rank_correlation"] == pytest.approx(1)
    assert (
        f"rank correlation {sanity['picture']['rank_correlation']:.2f}, "
        in lines["headline with another picture (a drawn scene)"]
    )
    assert {"sanity", "curves"} == set(value["faithfulness"])
    again = run("ask", cats, QUESTION, "--faithfulness", *SMALL)
    assert "nothing was computed" in again.stderr
    assert again.stdout == done.stdout


# From Python


def test_batched_questions_with_methods_equal_single_ones(demo, cats, wide):
    pairs = [(cats, QUESTION), (wide, "is there a dog?"), (cats, "what is there?")]
    together = demo.ask_many(pairs, method="relative,gradient", batch_size=3)
    for (picture, question), batched in zip(pairs, together, strict=True):
        alone = demo.ask(picture, question, method="relative,gradient")
        assert (batched.question, batched.answer) == (question, alone.answer)
        for actual, expected in zip(batched.methods, alone.methods, strict=True):
            assert actual.method == expected.method
            assert np.allclose(actual.values, expected.values, atol=1e-5 + 1e-4 * expected.values.max())


# Clips


def test_a_clip_with_a_method_has_a_map_per_step(ask, clip_file):
    row, folder = ask(clip_file(8), "what moves?", "--fps", 8, "--method", "gradient", command="video")
    assert row["method"] == "gradient"
    value, loaded = read_result(folder), Result.load(folder)
    (heatmap,) = loaded.heatmaps()
    steps = heatmap.values.sum(axis=(1, 2))
    assert heatmap.values.shape == loaded.capture.grids[0].shape
    assert len(steps) == 4
    assert [step["share"] for step in value["steps"]] == pytest.approx(steps / steps.sum(), rel=1e-5)
    with np.load(folder / "attention.npz") as arrays:
        assert np.array_equal(arrays["gradient_values"], heatmap.values.ravel())


@pytest.mark.parametrize("options", [("--window", 4), ("--mode", "frames"), ("--mode", "both")])
def test_a_method_of_a_clip_in_several_prompts_is_refused_before_the_weights(run, clip_file, monkeypatch, options):
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: pytest.fail("the weights were loaded"))
    done = run("video", clip_file(8), "what moves?", "--fps", 8, "--method", "mean,tam", *options)
    assert done.exit_code == 2, done.output
    assert "error: --method mean,tam: needs one prompt, and this clip is asked about in" in done.stderr
    assert "drop --mode and --window, or --method" in done.stderr


def test_faithfulness_of_a_clip_in_several_prompts_is_refused_by_its_name(demo, clip_file):
    with pytest.raises(InputError, match=r"^faithfulness: needs one prompt, and .* asked about in 3"):
        demo.ask_video(clip_file(8), "what moves?", fps=8, window=4, faithfulness=True)
