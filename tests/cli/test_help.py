"""The help of every command, and what the shell completes."""

from __future__ import annotations

import re

import pytest
from typer.core import TyperArgument
from typer.main import get_command
from typer.testing import CliRunner

from qvl_attn.attribution.methods.registry import METHODS
from qvl_attn.cli.app import COMMANDS, app
from qvl_attn.cli.options import DEFAULT_MODEL, Colors, DtypeName

GROUP = get_command(app)


def help_of(name, columns):
    done = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_for_people(name, columns):
    text = help_of(name, columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text, "cut"
    assert not re.search(r"<(bool|str|int|float|path|list)", text), "a type of Python"
    assert not re.search(r"\d{11}", text), "a range that nobody reads"
    assert not re.search(r"\.\.\.\W*\.\.\.", text), "dots twice"
    assert ("--model" in text) == (f"[default: {DEFAULT_MODEL}]" in re.sub(r"[│\s]+", " ", text))


def test_help_names_every_option_and_argument():
    for name, command in GROUP.commands.items():
        text = help_of(name, 120)
        for parameter in command.params:
            shown = parameter.metavar if isinstance(parameter, TyperArgument) else max(parameter.opts, key=len)
            assert shown in text, (name, parameter.name)
            assert parameter.help, (name, parameter.name)


def test_paragraphs_are_not_broken_as_the_source_is():
    text = help_of("estimate", 300)
    assert re.search(r"^ Without MEDIA it prints .*that you name\. *$", text, re.MULTILINE)
    assert re.search(r"^ qvl-attn estimate cats.png --model demo *$", text, re.MULTILINE)


def completed(command, parameter, incomplete=""):
    """The values that the shell offers for a parameter of a command."""
    context = GROUP.commands[command].make_context(command, [], resilient_parsing=True)
    (found,) = (param for param in GROUP.commands[command].params if param.name == parameter)
    return [item.value for item in found.shell_complete(context, incomplete)]


def test_methods_are_completed():
    assert completed("ask", "method") == list(METHODS)
    assert completed("video", "method", "gradc") == ["gradcam"]
    assert completed("check", "methods", "tam,gr") == ["tam,gradient", "tam,gradcam"]
    assert "tam,tam" not in completed("check", "methods", "tam,")


def test_choices_are_completed():
    assert completed("ask", "dtype") == [dtype.value for dtype in DtypeName]
    assert completed("render", "colormap") == [color.value for color in Colors]
    assert completed("ask", "query", "te") == ["text:"]
    assert {"none", "qwen2.5-vl-7b"} <= set(completed("ask", "profile"))
    assert completed("ask", "device", "cp") == ["cpu"]


def test_sets_of_questions_are_completed():
    assert "counting" in completed("ask", "prompts")
    assert completed("prompts", "name", "counting-") == ["counting-zh"]


def test_models_in_the_cache_are_completed(tmp_path, monkeypatch):
    for name in ("models--Qwen--Qwen2.5-VL-3B-Instruct", "models--a--b.c", "datasets--a--d", "models--gpt2", ".locks"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for command in ("ask", "encoder", "selftest", "estimate"):
        assert completed(command, "model") == ["demo", "Qwen/Qwen2.5-VL-3B-Instruct", "a/b.c"]
    assert completed("ask", "model", "Qw") == ["Qwen/Qwen2.5-VL-3B-Instruct"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "none"))
    assert completed("ask", "model") == ["demo"]


@pytest.mark.parametrize("command", ["ask x.png hi", "video x.mp4 hi", "encoder x.png", "check x --out y", "compare x"])
def test_seeds_out_of_range_are_refused_at_once(command):
    bits = 32 if command.startswith("encoder") else 63  # scikit-learn's t-SNE takes 32 bits
    for seed in (-1, 2**bits):
        done = CliRunner().invoke(app, [*command.split(), "--seed", str(seed)])
        assert done.exit_code == 2
        assert f"from 0 to 2^{bits} - 1" in re.sub(r"[│\s]+", " ", done.output)
