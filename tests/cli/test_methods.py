"""`--method`, `--denoise` and `--faithfulness` of `ask` and `video`, and `qvl-attn methods`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from qvl_attn import Result
from qvl_attn.attribution.methods import METHODS, parse_methods
from qvl_attn.attribution.profiles import Profile, profile_json, shape_of
from qvl_attn.cli import app
from qvl_attn.core.errors import InputError

QUESTION = "how many cats?"
SMALL = ("--max-pixels", 16 * 28**2)
NAMES = ["mean", "max", "heads", "relative", "sinks", "sinks-redistributed", "gradient", "gradcam", "rollout", "tam"]


@pytest.fixture
def run(tmp_path, monkeypatch, demo):
    """A command on the embedded model in an empty folder, without loading its weights each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: demo.model)
    return invoke


def invoke(command, *args):
    return CliRunner().invoke(app, [command, *map(str, args), "--model", "demo", "--draw-size", "320"])


@pytest.fixture
def ask(run):
    """Run, expect success, and give the row and the folder back."""

    def invoke(*args, command="ask"):
        done = run(command, *args, "--json")
        assert done.exit_code == 0, done.output
        (line,) = done.stdout.splitlines()
        row = json.loads(line)
        return row, Path(row["folder"])

    return invoke


def told(folder):
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


# What is listed


def test_all_methods_are_listed_with_what_should_be_known_of_them():
    done = CliRunner().invoke(app, ["methods"])
    assert done.exit_code == 0
    blocks = [block.splitlines() for block in done.stdout.strip().split("\n\n")]
    assert [block[0] for block in blocks] == NAMES
    for block in blocks:
        assert [line.split(":")[0].strip() for line in block[1:]] == [
            "shows",
            "needs",
            "cost",
            "when",
            "wrong",
            "source",
        ]
        assert all(line.split(":", 1)[1].strip() for line in block[1:]), block


def test_the_list_as_json_says_the_same():
    rows = [json.loads(line) for line in CliRunner().invoke(app, ["methods", "--json"]).stdout.splitlines()]
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        method = METHODS[row["name"]]
        assert (row["wrong"], row["source"], row["cost"]) == (method.wrong, method.source, method.cost)
        assert row["needs"].startswith("attention rows")
    needs = {row["name"]: row["needs"] for row in rows}
    assert needs["mean"] == "attention rows"
    assert needs["heads"] == "attention rows; the profile's heads apart"
    assert needs["max"] == "attention rows; the heads' maximum of each row"


# Names


def test_names_are_taken_once_in_their_order():
    assert parse_methods(" relative , mean,relative,tam") == ("relative", "mean", "tam")
    assert parse_methods(["tam", "mean"]) == ("tam", "mean")


@pytest.mark.parametrize("typed", ["", ",", "mean,", "Mean", "mean relative", [], ["mean", ""], ["relatve"]])
def test_what_is_no_name_is_refused_by_its_option(typed):
    with pytest.raises(InputError, match=r"^--some .*: no method") as caught:
        parse_methods(typed, "--some")
    assert all(name in caught.value.hint for name in NAMES)


# Asking


def test_a_method_is_asked_for_and_told(ask, cats):
    row, folder = ask(cats, QUESTION, "--method", "tam,mean")
    value = told(folder)
    assert (row["method"], value["headline"]["method"], value["settings"]["methods"]) == ("tam", "tam", ["tam", "mean"])
    back = Result.load(folder)
    assert row["vision_mass"] == back.heatmap().vision_mass
    assert np.array_equal(back.heatmap().values.ravel(), back.methods[0].values)
    assert not (folder / "faithfulness.png").exists()


def test_without_a_method_none_is_told(ask, cats):
    row, folder = ask(cats, QUESTION)
    assert row["method"] is None
    assert told(folder)["methods"] == []
    assert told(folder)["headline"]["method"] == "mean"


def test_each_request_has_its_folder_and_the_same_one_is_not_made_again(ask, cats):
    found = {}
    for extra in ((), ("--method", "mean"), ("--method", "mean,max"), ("--method", "mean", "--denoise", "median")):
        row, folder = ask(cats, QUESTION, *extra, *SMALL)
        assert not row["reused"]
        found[folder] = extra
    assert len(found) == 4
    for folder, extra in found.items():
        row, again = ask(cats, QUESTION, *extra, *SMALL)
        assert (again, row["reused"]) == (folder, True)
    assert ask(cats, QUESTION, "--method", "mean, mean", *SMALL)[0]["reused"]


def test_heads_are_for_the_method_of_heads(ask, cats):
    row, folder = ask(cats, QUESTION, "--method", "heads", "--heads", "1.0,2.1")
    assert row["method"] == "heads"
    assert told(folder)["headline"]["heads"] == "1.0,2.1"
    row, _ = ask(cats, QUESTION, "--method", "mean", "--heads", "all")
    assert row["method"] == "mean"


def test_a_profile_with_heads_serves_the_method_of_heads(ask, cats, demo):
    mine = Profile("mine", "measured", "a test", shape_of(demo.config), heads=((1, 0), (3, 2)))
    Path("mine.json").write_text(json.dumps(profile_json(mine, {})))
    row, folder = ask(cats, QUESTION, "--method", "heads,mean", "--profile", "mine.json")
    assert row["method"] == "heads"
    value = told(folder)
    assert value["headline"]["heads"] == "1.0,3.2"
    assert value["methods"][1]["layers"] == [2], "a profile of heads says nothing of whole layers"


FAULTS = {
    "a wrong name": (["--method", "relatve"], ["--method relatve: no method 'relatve'", "there are mean, max"]),
    "an empty name": (["--method", ""], ["no method ''"]),
    "an empty name among others": (["--method", "mean,"], ["--method mean,: no method ''"]),
    "no heads": (["--method", "heads"], ["--method heads: there is no profile with heads", "--heads"]),
    "no heads though all": (["--method", "heads", "--heads", "all"], ["no profile with heads"]),
    "no profile": (["--method", "mean,heads", "--profile", "none"], ["no profile with heads"]),
    "heads": (["--method", "mean", "--heads", "1.0"], ["--method mean stands beside --heads 1.0"]),
    "the second beside heads": (["--method", "heads,tam", "--heads", "1.0"], ["--method tam stands beside --heads"]),
    "a query of no word": (["--method", "mean", "--query", "text:dog"], ["--query text:dog"]),
    "an empty answer": (["--method", "gradient", "--answer", ""], ["the answer is empty"]),
    "a layer beyond": (["--method", "mean", "--layers", "9"], ["--layers 9"]),
}


@pytest.mark.parametrize("command", ["ask", "video"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line_before_anything_is_computed(run, cats, clip_file, monkeypatch, command, fault):
    def never(*args):
        raise AssertionError("the weights are not wanted")

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


def test_a_filter_is_drawn_and_what_is_kept_is_raw(ask, cats):
    (_, plain), (_, drawn) = (ask(cats, QUESTION, *args) for args in ((), ("--denoise", "rank-gaussian")))
    with np.load(plain / "attention.npz") as one, np.load(drawn / "attention.npz") as other:
        for name in one.files:
            assert np.array_equal(one[name], other[name]), name
    assert told(plain)["headline"] == told(drawn)["headline"]
    assert told(plain)["scale"] != told(drawn)["scale"]


def test_faithfulness_is_measured_drawn_and_told(run, cats):
    done = run("ask", cats, QUESTION, "--faithfulness", *SMALL)
    assert done.exit_code == 0, done.output
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    folder = Path(lines["faithfulness"]).parent
    assert lines["faithfulness"].endswith("faithfulness.png")
    assert Path(lines["faithfulness"]).is_file()
    value = told(folder)
    assert "faithfulness.png" in value["files"]
    areas = value["faithfulness"]["curves"]["areas"]
    assert list(areas) == ["headline", "random", "uniform"]
    for kind, better in (("deletion", "lower"), ("insertion", "higher")):
        for fill in ("blur", "mean"):
            said = lines[f"{kind}, {fill} fill ({better} is better, nats)"]
            assert said == ", ".join(f"{name} {own[f'{kind}_{fill}']:.2f}" for name, own in areas.items())
    sanity = value["faithfulness"]["sanity"]["headline"]
    labels = [f"scrambled weights of the top {n} of 4 layers" for n in (1, 2, 3, 4)]
    labels[0] += " (above the map's layers)"  # the map's is layer 2 alone
    assert [one["label"] for one in sanity["weights"]] == labels
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


def test_many_questions_with_methods_are_those_one_by_one(demo, cats, wide):
    pairs = [(cats, QUESTION), (wide, "is there a dog?"), (cats, "what is there?")]
    together = demo.ask_many(pairs, method="relative,gradient", batch_size=3)
    for (picture, question), one in zip(pairs, together, strict=True):
        alone = demo.ask(picture, question, method=["relative", "gradient"])
        assert (one.question, one.answer) == (question, alone.answer)
        for ours, theirs in zip(one.methods, alone.methods, strict=True):
            assert ours.method == theirs.method
            assert np.allclose(ours.values, theirs.values, atol=1e-5 + 1e-4 * theirs.values.max())


# Clips


def test_a_clip_with_a_method_has_a_map_for_each_step(ask, clip_file):
    row, folder = ask(clip_file(8), "what moves?", "--fps", 8, "--method", "gradient", command="video")
    assert row["method"] == "gradient"
    value, back = told(folder), Result.load(folder)
    (one,) = back.heatmaps()
    steps = one.values.sum(axis=(1, 2))
    assert one.values.shape == back.capture.grids[0].shape
    assert len(steps) == 4
    assert [step["share"] for step in value["steps"]] == pytest.approx(steps / steps.sum(), rel=1e-5)
    with np.load(folder / "attention.npz") as arrays:
        assert np.array_equal(arrays["gradient_values"], one.values.ravel())


@pytest.mark.parametrize("how", [("--window", 4), ("--mode", "frames"), ("--mode", "both")])
def test_a_method_of_a_clip_in_several_prompts_is_refused_before_the_weights(run, clip_file, monkeypatch, how):
    monkeypatch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: pytest.fail("the weights are not wanted"))
    done = run("video", clip_file(8), "what moves?", "--fps", 8, "--method", "mean,tam", *how)
    assert done.exit_code == 2, done.output
    assert "error: --method mean,tam: a method looks at one prompt, and this clip is looked at in" in done.stderr
    assert "leave --mode and --window, or --method" in done.stderr


def test_faithfulness_of_a_clip_in_several_prompts_is_refused_by_its_name(demo, clip_file):
    with pytest.raises(InputError, match=r"^faithfulness: it is measured in one prompt, and .* looked at in 3"):
        demo.ask_video(clip_file(8), "what moves?", fps=8, window=4, faithfulness=True)
