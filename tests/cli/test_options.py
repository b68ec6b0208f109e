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
from qvl_attn import Drawing, LoadOptions
from qvl_attn.cli import options
from qvl_attn.cli.ask import ask
from qvl_attn.cli.check import check
from qvl_attn.cli.encoder import encoder
from qvl_attn.cli.estimate import estimate
from qvl_attn.cli.options import AttnMode, Cells
from qvl_attn.cli.render import render
from qvl_attn.cli.video import video
from qvl_attn.core.errors import InputError

# By command: the TypedDicts that it takes, and of each what the command does not have.
TAKEN = {
    ask: {"LoadOptions": "", "QuestionOptions": ""},
    video: {"LoadOptions": "", "QuestionOptions": "faithfulness stretch", "ClipOptions": ""},
    check: {"LoadOptions": "", "CommonOptions": "store_heads", "SamplingOptions": ""},
    encoder: {"EncoderLoadOptions": "", "EncoderOptions": "texts clip", "ClipOptions": "mode window stride"},
    estimate: {
        "EncoderLoadOptions": "",
        "VideoOptions": "query method faithfulness answer stretch seed store_heads source_fps mode window stride",
        "ClipOptions": "source_fps mode window stride",
    },
    render: {"RedrawOptions": ""},
}
PARSED = ("at", "embeddings", "scale")  # by the command itself
PAIRS = [(command, name) for command, taken in TAKEN.items() for name in taken]
# The fields of a Drawing that a command does not have, or that it parses itself.
NOT_DRAWN = {
    ask: "draw_size_px clip_scale smooth side_by_side",
    video: "draw_size_px clip_scale",
    encoder: "draw_size_px clip_scale",
    render: "draw_size_px clip_scale",
}


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
    check_parameters(command, getattr(qvl_attn, name), TAKEN[command][name])


@pytest.mark.parametrize("command", NOT_DRAWN)
def test_a_command_has_the_fields_of_its_drawing(command):
    check_parameters(command, Drawing, NOT_DRAWN[command])


def check_parameters(command: Any, typed: type[Any], missing: str) -> None:
    """Check which of the names a command has as parameters, and that it passes on only what their types admit."""
    parameters, wanted = get_type_hints(command), get_type_hints(typed)
    assert sorted(wanted.keys() - parameters.keys()) == sorted(missing.split())
    for option in (wanted.keys() & parameters.keys()) - {*PARSED}:
        admitted = choices(wanted[option])
        texts = {choice for choice in choices(parameters[option]) if isinstance(choice, str) and str in admitted}
        assert choices(parameters[option]) - texts <= admitted, option


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


def test_what_was_typed_is_drawn():
    app, drawn = typer.Typer(), []

    @app.command()
    def command(
        ctx: typer.Context,
        kinds: str,
        alpha: options.Alpha = 0.5,
        blur_cells: options.Blur = 0.0,
        interp: options.Interp = Cells.linear,
        denoise: options.Denoise = None,
        scale: options.Scale = None,
        smooth: options.Smooth = False,
        draw_size: options.DrawSize = "1280",
    ) -> None:
        drawn.append(options.drawing_of(ctx, pictures="pictures" in kinds, clips="clips" in kinds))

    def run(*arguments):
        return CliRunner().invoke(app, arguments, catch_exceptions=False)

    typed = ["--alpha", "0.25", "--blur", "2", "--interp", "cells", "--denoise", "median", "--draw-size", "full"]
    for arguments in [], typed, ["--scale", "frame", "--smooth"]:
        assert run("clips", *arguments).exit_code == 0
    assert drawn[0] == Drawing()
    assert drawn[1] == Drawing(alpha=0.25, blur_cells=2.0, interp="cells", denoise="median", draw_size_px=0)
    assert type(drawn[1].denoise) is str
    assert drawn[2] == Drawing(clip_scale="frame", smooth=True)
    for scale, kinds in [("layer", "pictures"), ("shared", "pictures clips"), ("frame", "pictures clips")]:
        assert run(kinds, "--scale", scale).exit_code == 0
    assert [(each.scale, each.clip_scale) for each in drawn[3:]] == [
        ("layer", "clip"),
        ("shared", "clip"),
        ("layer", "frame"),
    ]


@pytest.mark.parametrize(
    ("kinds", "typed", "says"),
    [
        ("pictures", ["--scale", "clip"], "`scale='clip'` is for clips, and no clip is drawn"),
        ("clips", ["--scale", "shared"], "`scale='shared'` is for pictures, and no picture is drawn"),
        ("pictures", ["--smooth"], "`smooth` is for clips, and no clip is drawn"),
    ],
)
def test_options_of_clips_and_of_pictures_are_told_apart(kinds, typed, says):
    app = typer.Typer()

    @app.command()
    def command(
        ctx: typer.Context,
        scale: options.Scale = None,
        smooth: options.Smooth = False,
        draw_size: options.DrawSize = "1280",
    ) -> None:
        options.drawing_of(ctx, pictures=kinds == "pictures", clips=kinds == "clips")

    with pytest.raises(InputError, match=re.escape(says)):
        CliRunner().invoke(app, typed, catch_exceptions=False)
