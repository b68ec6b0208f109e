"""Commands take the options of the Python API from their parameters of the same names."""

from __future__ import annotations

import inspect
import re
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

import qvl_attn
from qvl_attn import LoadOptions
from qvl_attn.cli import options
from qvl_attn.cli.check import check
from qvl_attn.cli.encoder import encoder
from qvl_attn.cli.estimate import estimate
from qvl_attn.cli.options import AttnMode

# By command: the TypedDicts that it takes, and of each what the command does not have.
TAKEN = {
    check: {"LoadOptions": "", "CommonOptions": "store_heads", "SamplingOptions": ""},
    encoder: {"EncoderLoadOptions": "", "EncoderOptions": "texts clip", "ClipOptions": "mode window stride"},
    estimate: {
        "EncoderLoadOptions": "",
        "VideoOptions": "query method faithfulness answer stretch seed store_heads source_fps mode window stride",
        "ClipOptions": "source_fps mode window stride",
    },
}
PARSED = ("at", "embeddings")  # by the command itself
PAIRS = [(command, name) for command, taken in TAKEN.items() for name in taken]


def choices(hint: Any) -> set[Any]:
    """The types of an annotation, and its texts where it lists them."""
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {choice.value for choice in hint}
    if get_origin(hint) in (Union, UnionType):
        return set().union(*map(choices, get_args(hint)))
    return set(get_args(hint)) if get_origin(hint) is Literal else {hint}


@pytest.mark.parametrize("command", TAKEN)
def test_every_use_is_listed(command):
    assert sorted(TAKEN[command]) == sorted(re.findall(r"typed\(ctx, (\w+)\)", inspect.getsource(command)))


@pytest.mark.parametrize(("command", "name"), PAIRS)
def test_a_command_has_the_options_that_it_takes(command, name):
    parameters, wanted = get_type_hints(command), get_type_hints(getattr(qvl_attn, name))
    assert sorted(wanted.keys() - parameters.keys()) == sorted(TAKEN[command][name].split())
    for option in (wanted.keys() & parameters.keys()) - {*PARSED}:
        assert choices(parameters[option]) <= choices(wanted[option]), option


def test_what_was_typed_is_taken_and_choices_are_texts():
    app, taken = typer.Typer(), {}

    @app.command()
    def command(
        ctx: typer.Context, attn: options.Attn = AttnMode.auto, device: options.Device = "auto", limit: int = 1
    ) -> None:
        taken.update(options.typed(ctx, LoadOptions), limit=limit)

    for arguments, attn, device in ([], "auto", "auto"), (["--attn", "rows", "--device", "cpu"], "rows", "cpu"):
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
        assert taken == {"attn": attn, "device": device, "limit": 1}
        assert type(taken["attn"]) is str
