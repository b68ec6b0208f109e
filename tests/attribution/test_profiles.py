"""Profiles: files, the models that they fit, and the headline that they define."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from transformers import Qwen2_5_VLConfig
from typer.testing import CliRunner

from qvl_attn import Result
from qvl_attn.attribution.profiles import (
    Profile,
    Shape,
    choose_profile,
    load_profile,
    profile_json,
    shape_of,
    shipped_profiles,
    stated_shape,
)
from qvl_attn.attribution.selection import Query, query_rows
from qvl_attn.cli.app import app
from qvl_attn.core.errors import InputError
from qvl_attn.core.typed_json import decoded
from qvl_attn.vqa.merge_passes import merge_captures
from tests.helpers.loading import without_loading
from tests.helpers.small import SMALL_DRAWING

# As published in the authors' code.
PUBLISHED = {
    "qwen2.5-vl-3b": ((21, 9), (21, 11), (22, 0), (22, 7)),
    "qwen2.5-vl-3b-text": ((20, 1), (20, 4), (22, 14)),
    "qwen2.5-vl-7b": ((16, 1), (16, 7), (16, 17), (19, 17), (19, 20)),
    "qwen2.5-vl-7b-text": ((22, 1), (22, 4), (23, 6), (23, 11)),
}
QUESTION = "how many cats?"


def demo_profile(**changes):
    values = {
        "name": "own",
        "evidence": "measured",
        "source": "a test",
        "model": Shape(4, 4, 128),
        "heads": ((1, 0), (2, 2)),
    }
    return Profile(**(values | changes))


@pytest.fixture
def file(tmp_path):
    def write(profile, name="own.json"):
        path = tmp_path / name
        path.write_text(json.dumps(profile_json(profile, {})), encoding="utf-8")
        return path

    return write


def test_the_published_heads_ship_and_say_that_they_are_not_measured_here():
    assert set(shipped_profiles()) == set(PUBLISHED)
    for name, heads in PUBLISHED.items():
        profile = load_profile(name)
        assert profile.heads == heads
        assert profile.evidence == "published"
        assert "not measured here" in profile.status
        assert "SD-RPN" in profile.source


@pytest.mark.parametrize(("size", "name"), [("3B", "qwen2.5-vl-3b"), ("7B", "qwen2.5-vl-7b")])
def test_they_are_the_default_of_models_of_the_real_shape(shared_data, size, name):
    value = json.loads((shared_data / "tokenizer" / size / "config.json").read_text())
    shape = stated_shape(value)
    assert shape == shape_of(Qwen2_5_VLConfig.from_dict(value))
    assert choose_profile(None, shape, chosen=False) == load_profile(name)
    assert choose_profile(None, shape, chosen=True) is None, "layers or heads were named"
    assert choose_profile("none", shape, chosen=False) is None
    assert choose_profile(f"{name}-text", shape, chosen=False) == load_profile(f"{name}-text")


def test_other_models_have_none_by_default(demo):
    assert choose_profile(None, shape_of(demo.engine.config), chosen=False) is None
    config = json.loads((demo.engine.checkpoint.folder / "config.json").read_text())
    assert stated_shape(config) == shape_of(demo.engine.config) == Shape(4, 4, 128)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"text_config": []},
        {"text_config": {"num_hidden_layers": 4, "num_attention_heads": 4}, "hidden_size": 128},
        {"num_hidden_layers": 4, "num_attention_heads": 4.0, "hidden_size": 128},
        {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": None},
    ],
)
def test_a_shape_that_is_not_stated_is_not_guessed(config):
    assert stated_shape(config) is None


def test_a_profile_for_another_model_is_refused(demo):
    with pytest.raises(InputError, match="is for a model of 36 layers of 16 heads"):
        choose_profile("qwen2.5-vl-3b", shape_of(demo.engine.config), chosen=False)


def test_a_profile_beside_layers_is_refused(demo, file):
    with pytest.raises(InputError, match="cannot be combined with `layers` or `heads`"):
        choose_profile(str(file(demo_profile())), shape_of(demo.engine.config), chosen=True)


def test_a_file_gives_its_profile_back(file):
    for profile in (demo_profile(), demo_profile(heads=(), layers=(1, 3), query="last")):
        assert load_profile(str(file(profile))) == profile


@pytest.mark.parametrize(
    "change",
    [
        {"heads": ((4, 0),)},
        {"heads": ((0, 4),)},
        {"heads": ()},
        {"layers": (1,)},
        {"heads": ((2, 2), (1, 0))},
        {"heads": ((1, 0), (1, 0))},
        {"evidence": "guessed"},
        {"source": ""},
    ],
)
def test_invalid_profiles_are_refused(change):
    with pytest.raises(ValueError, match=r"want|no such layer|no such head"):
        demo_profile(**change)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"profile_version": 2}', '{"profile_version": 1, "name": "x"}', "\x00"]
)
def test_a_file_without_a_profile_is_an_error_of_one_line(tmp_path, text):
    (tmp_path / "bad.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="not a profile"):
        load_profile(str(tmp_path / "bad.json"))


@pytest.mark.parametrize("heads", ["[[0.5, 1]]", "[[true, 1]]", '[["1", 1]]', "[[1]]", "[1]"])
def test_heads_are_whole_numbers(file, heads):
    path = file(demo_profile())
    text = json.dumps(json.loads(path.read_text()) | {"heads": json.loads(heads)})
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="not a profile"):
        load_profile(str(path))


def test_deep_json_is_no_profile(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not a profile"):
        load_profile(str(tmp_path / "deep.json"))


@pytest.mark.parametrize("name", ["missing.json", "qwen2.5-vl-72b", "x" * 5000, "a\0b", "."])
def test_an_unknown_profile_names_those_that_ship(name):
    with pytest.raises(InputError, match="no such file or profile") as fault:
        load_profile(name)
    assert "qwen2.5-vl-3b" in fault.value.hint


# The headline


@pytest.fixture
def own(file):
    return str(file(demo_profile(query="last")))


def test_the_headline_is_the_mean_of_its_heads_alone(demo, cats, own):
    result = demo.ask(cats, QUESTION, profile=own)
    everything = demo.ask(cats, QUESTION, query="last", heads="0-3")
    rows = query_rows(everything.capture, QUESTION, Query("last"))
    heads = everything.capture.weights_by_head[[1, 2], [0, 2]][:, rows].mean(axis=(0, 1))
    assert result.settings.query == "last", "the profile's query"
    assert np.allclose(result.heatmap().values.ravel(), heads, atol=1e-6)
    assert result.heatmap().heads == "1.0,2.2"


def test_only_its_heads_are_recorded(demo, cats, own):
    result = demo.ask(cats, QUESTION, profile=own)
    everything = demo.ask(cats, QUESTION, query="last", heads="0-3")
    by_head = result.capture.weights_by_head
    assert by_head.shape == (2, 2, *result.capture.weights.shape[1:]), "layers 1 and 2, heads 0 and 2"
    assert np.allclose(by_head, everything.capture.weights_by_head[np.ix_([1, 2], [0, 2])], atol=1e-6)
    assert np.allclose(result.capture.weights, everything.capture.weights, atol=1e-6)
    with pytest.raises(InputError, match=r"head 3\.1 was not recorded"):
        result.heatmap(heads="3.1")


def test_named_layers_override_the_profile(demo, cats, own):
    result = demo.ask(cats, QUESTION, profile=own)
    plain = demo.ask(cats, QUESTION, query="last")
    assert np.allclose(result.heatmap(layers="1-3").values, plain.heatmap(layers="1-3").values, atol=1e-6)


def test_a_profile_of_layers(demo, cats, file):
    profile = str(file(demo_profile(heads=(), layers=(1, 3))))
    result, plain = (
        demo.ask(cats, QUESTION, query="last", **options) for options in ({"profile": profile}, {"layers": "1,3"})
    )
    assert np.allclose(result.heatmap().values, plain.heatmap().values, atol=1e-6)
    assert result.capture.weights_by_head is None
    assert len(result.capture.layers) == 4, "all layers are captured nevertheless"


def test_it_is_saved_and_read_back_with_its_heads(demo, cats, own, tmp_path):
    result = demo.ask(cats, QUESTION, profile=own)
    back = Result.load(result.save(tmp_path, SMALL_DRAWING))
    assert back.settings == result.settings
    assert back.capture.apart == result.capture.apart
    assert np.array_equal(back.heatmap().values, result.heatmap().values)


def test_windows_of_a_clip_keep_its_heads(demo, clip_file, file):
    profile = str(file(demo_profile(query="last")))
    result = demo.ask_video(clip_file(8), QUESTION, fps=10, window=4, profile=profile)
    captures = [window.capture for window in result.passes]
    merged = merge_captures(captures, (0, 1, 2), result.media[0])
    assert result.capture.weights_by_head.shape[:2] == (2, 2)
    assert np.array_equal(merged.weights_by_head, result.capture.weights_by_head)
    full = demo.ask_video(clip_file(8), QUESTION, fps=10, window=4, query="last", heads="1.0,2.2")
    assert np.allclose(result.heatmap().values, full.heatmap().values, atol=1e-6)


def test_the_command_names_its_profile(demo, cats, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_loading(monkeypatch, demo)
    run = CliRunner().invoke(app, ["ask", str(cats), QUESTION, "--model", "demo", "--profile", own])
    assert run.exit_code == 0, run.output
    assert "heads 1.0,2.2 (profile own: calibrated" in " ".join(run.stderr.split())
    both = CliRunner().invoke(app, ["ask", str(cats), QUESTION, "--model", "demo", "--profile", own, "--layers", "1"])
    assert both.exit_code == 2
    assert "cannot be combined with --layers or --heads" in both.stderr


def test_the_default_of_a_3b_is_its_published_heads(demo, cats, monkeypatch):
    """The shipped profile is changed to fit the demo model."""
    fitting = replace(load_profile("qwen2.5-vl-3b"), model=Shape(4, 4, 128), heads=((1, 0), (2, 2)))
    monkeypatch.setattr("qvl_attn.attribution.profiles.load_profile", lambda name: fitting)
    assert demo.ask(cats, QUESTION).heatmap().heads == "1.0,2.2"
    assert demo.ask(cats, QUESTION, layers="1").heatmap().heads == "all"
    assert demo.ask(cats, QUESTION, profile="none").heatmap().layers == (2,)


def test_json_of_a_profile_is_checked_field_by_field():
    value = json.loads(json.dumps(profile_json(demo_profile(), {"pointing": 1})))
    assert decoded(value, Profile, "profile") == demo_profile()
    for field in ("name", "evidence", "source", "model"):
        with pytest.raises(ValueError, match=f"^profile: object missing required field {field}$"):
            decoded({name: item for name, item in value.items() if name != field}, Profile, "profile")
