"""The library names arguments; the command line writes them as options."""

from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from qvl_attn.cli.app import app
from qvl_attn.cli.spelling import OPTIONS, OTHER_NAMES, spelled
from qvl_attn.core.text import argument, quoted


@pytest.mark.parametrize(
    ("name", "value", "python", "command_line"),
    [
        ("attn", "x", "`attn='x'`", "--attn x"),
        ("max_pixels", 100, "`max_pixels=100`", "--max-pixels 100"),
        ("fps", 2.0, "`fps=2.0`", "--fps 2"),
        ("fps", 0.5, "`fps=0.5`", "--fps 0.5"),
        ("start_s", 1.5, "`start_s=1.5`", "--start 1.5"),
        ("layers", None, "`layers`", "--layers"),
        ("overwrite", True, "`overwrite=True`", "--overwrite"),
        ("embeddings", ("pca", "tsne"), "`embeddings=('pca', 'tsne')`", "--embeddings pca,tsne"),
        ("at", [(2.0, 50.5)], "`at=[(2.0, 50.5)]`", "--at 2,50.5"),
        ("count", 0, "`count=0`", "--n 0"),
        ("encode_folder", None, "`encode_folder`", "--input-dir"),
        ("folder", Path("my photos"), "`folder='my photos'`", "--input-dir my photos"),
        ("query", "text:it's", '`query="text:it\'s"`', "--query text:it's"),
        ("query", "text:`", r"`query='text:\x60'`", "--query text:`"),
        ("answer", "é 猫\n", r"`answer='é 猫\n'`", "--answer é 猫\n"),
    ],
)
def test_an_argument(name, value, python, command_line):
    assert argument(name, value) == python
    assert spelled(f"{python}: unknown, or {python}") == f"{command_line}: unknown, or {command_line}"


def test_a_long_value_is_cut_and_still_spelled():
    message = argument("heads", "1." + "9" * 5000)
    assert len(message) < 80
    assert spelled(message) == f"--heads 1.{'9' * 55}…"


@pytest.mark.parametrize("value", [Path("/tmp") / ("x" * 300), "/home/me/" + "checkpoints/" * 20])
def test_a_path_can_be_copied(value):
    assert spelled(argument("out", value)) == f"--out {value}"


@pytest.mark.parametrize("text", ["`shapes`", "question `", "```", "`Layers`", "`a b`", "`layers", "`=x`"])
def test_other_text_stays(text):
    assert spelled(text) == text


@pytest.mark.parametrize("path", ["a`out`b.png", "pictures/`out`.png", "`out`/a.png", "a-`out`", ".`out`", "C:\\`out`"])
def test_a_path_with_backticks_stays(path):
    assert spelled(f"{path} does not exist: see {argument('out', path)}") == f"{path} does not exist: see --out {path}"


@given(st.lists(st.sampled_from(["`layers`", "`fps=2`", "`", "'", '"', "\\", " ", "a", "\n", "é"])), st.booleans())
def test_a_quoted_text_stays(parts, short):
    text = "".join(parts)
    written = quoted(text) if short else repr(text)
    message = "the model's {} is no question for the models' {}: lower {}, not {}"
    layers, fps = argument("layers"), argument("fps", 2)
    assert spelled(message.format(written, layers, fps, written)) == message.format(
        written, "--layers", "--fps 2", written
    )


def test_the_options_are_those_of_the_commands():
    commands = typer.main.get_group(app).commands.values()
    names = {name for command in commands for param in command.params for name in param.opts}
    assert {f"--{name}" for name in OPTIONS} == {name for name in names if name.startswith("--")}
    assert set(OTHER_NAMES.values()) <= OPTIONS
