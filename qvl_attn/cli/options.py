"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from qvl_attn.cli import completion
from qvl_attn.core.errors import InputError
from qvl_attn.core.options import part_of
from qvl_attn.core.text import argument, shortened

if TYPE_CHECKING:
    from qvl_attn.render.style import Drawing

T = TypeVar("T")
DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
MODEL, MAPS, OUTPUT, DRAWING, CLIP = "Model", "Attention", "Output", "Drawing", "Clip"


class EngineName(StrEnum):
    """Where `check` runs the model."""

    local = "local"
    ray = "ray"


class AttnMode(StrEnum):
    """Attention modes."""

    auto = "auto"
    eager = "eager"
    rows = "rows"


class DtypeName(StrEnum):
    """Precisions of a model."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class HeadDtype(StrEnum):
    """Precisions of heads that are stored one by one."""

    float32 = "float32"
    float16 = "float16"


class Colors(StrEnum):
    """Colour maps."""

    inferno = "inferno"
    viridis = "viridis"
    jet = "jet"


class Cells(StrEnum):
    """How the values of cells are drawn as pixels."""

    linear = "linear"
    cells = "cells"


class DenoiseFilter(StrEnum):
    """Filters of heat maps."""

    median = "median"
    rank_gaussian = "rank-gaussian"


class ScaleChoice(StrEnum):
    """What shares a colour scale: `layer` and `shared` of pictures, `clip` and `frame` of clips."""

    layer = "layer"
    shared = "shared"
    clip = "clip"
    frame = "frame"


CLIP_SCALES = (ScaleChoice.clip, ScaleChoice.frame)
PICTURE_SCALES = (ScaleChoice.layer, ScaleChoice.shared)


class OverHeads(StrEnum):
    """How heads are joined."""

    mean = "mean"
    max = "max"
    min = "min"


def seed_of(bits: int) -> Callable[[int], int]:
    """Return a check of a seed: help would show the limits of an option as a range of numbers with 19 digits."""

    def check(value: int) -> int:
        if not 0 <= value < 2**bits:
            raise typer.BadParameter(f"{value} is not a whole number from 0 to 2^{bits} - 1")
        return value

    return check


def _option(value_type: Any, metavar: str | None, text: str, panel: str, *names: str, **more: Any) -> Any:
    return Annotated[value_type, typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, **more)]


def _flag(text: str, panel: str, *names: str) -> Any:
    return _option(bool, None, text, panel, *names)


Model = _option(
    str,
    "MODEL",
    "Hugging Face id or local folder. 'demo' is the embedded model.",
    MODEL,
    "--model",
    "-m",
    autocompletion=completion.models,
)
Revision = _option(str | None, "NAME", "Branch, tag or commit of the model on the Hugging Face Hub.", MODEL)
Device = _option(str, "DEVICE", "auto, cpu, cuda or cuda:1.", MODEL, autocompletion=completion.devices)
DeviceMap = _option(str | None, "MAP", "auto spreads the model over several GPUs.", MODEL)
Dtype = _option(DtypeName, "DTYPE", "Precision: auto, float32, bfloat16 or float16.", MODEL)
Attn = _option(
    AttnMode,
    "MODE",
    "How attention is computed. eager: the reference. rows: with SDPA; only the rows that are shown are computed once "
    "more, in float32. auto: eager in float32 where it fits the memory, else rows.",
    MODEL,
)
Offline = _flag("Never connect to the Hugging Face Hub.", MODEL, "--offline")
System = _option(str | None, "TEXT", "System prompt. Default: that of the chat template.", MODEL)
MinPixels = _option(int | None, "PX", "Enlarge smaller pictures and frames to at least this many pixels.", MODEL)
MaxPixels = _option(int | None, "PX", "Shrink larger pictures to at most this many pixels.", MODEL)
Stretch = _flag(
    "Pictures of more than 8 bits: scale the range that they use, their minimum to their maximum.", MODEL, "--stretch"
)
MaxNewTokens = _option(int, "N", "Longest answer, in tokens.", MODEL)
Seed = _option(
    int, "N", "Seed of all random numbers. Answers do not depend on it: they are greedy.", MODEL, callback=seed_of(63)
)
Prompts = Annotated[
    str | None,
    typer.Option(
        metavar="SET",
        help="Ask the questions of a set: a JSONL file, or a built-in set (qvl-attn prompts lists them).",
        autocompletion=completion.prompt_sets,
    ),
]
Query = _option(
    str | None,
    "QUERY",
    "Show the attention of these tokens: question, last (the last of the prompt), answer or text:WORDS. Default: that "
    "of the profile, else question.",
    MAPS,
    autocompletion=completion.queries,
)
Profile = _option(
    str | None,
    "PROFILE",
    "Layers or heads of the headline map: the name of a profile, a file, or none. Default: the profile for this model.",
    MAPS,
    autocompletion=completion.profiles,
)
Fps = _option(float, "N", "Frames to sample per second.", CLIP)
MaxFrames = _option(int, "N", "Most frames to sample. A longer clip is sampled more sparsely.", CLIP)
Start = _option(float, "SECONDS", "Start of the part to sample.", CLIP, "--start")
End = _option(float | None, "SECONDS", "End of the part to sample. Default: the end of the clip.", CLIP, "--end")
SourceFps = _option(float, "N", "For a folder of frames: how many frame numbers make one second.", CLIP)
Layers = _option(
    str | None,
    "LAYERS",
    "Layers to capture and average: all, 18, 14-20 or 4,8,12. Default: capture all; average those of the profile, or "
    "those at 50 to 85 % of the depth.",
    MAPS,
)
Heads = _option(str | None, "HEADS", "Heads to average and to show one by one: 3,5, or 21.9,21.11 (layer.head).", MAPS)
Method = _option(
    str | None,
    "METHOD",
    "How to compute the headline map, such as mean, relative or gradient (qvl-attn methods lists all).",
    MAPS,
    autocompletion=completion.methods,
)
Faithfulness = _flag(
    "Also test the map by deletion, insertion and sanity checks. Takes some hundred more passes.",
    MAPS,
    "--faithfulness",
)
Denoise = _option(
    DenoiseFilter | None, "FILTER", "Filter the map over 3x3 cells: median, or rank-gaussian, that of TAM.", DRAWING
)
_OF_PICTURES = "layer, one for each layer (default), or shared, one for all"
_OF_CLIPS = "clip, one for the clip (default), or frame, one for each frame"
PictureScale = _option(ScaleChoice | None, "SCALE", f"Colour scale: {_OF_PICTURES}.", DRAWING, "--scale")
ClipScale = _option(ScaleChoice | None, "SCALE", f"Colour scale: {_OF_CLIPS}.", DRAWING, "--scale")
Scale = _option(
    ScaleChoice | None, "SCALE", f"Colour scale. Pictures: {_OF_PICTURES}. Clips: {_OF_CLIPS}.", DRAWING, "--scale"
)
StoreHeads = _option(
    HeadDtype, "DTYPE", "Precision of heads stored one by one: float32, or float16, which rounds by up to 2^-11.", MAPS
)
Answer = _option(str | None, "TEXT", "Teacher-force this answer: show its maps and its log-probability.", MAPS)
Colormap = _option(Colors, None, "Colour map.", DRAWING)
Alpha = _option(float, "NUMBER", "Opacity of the colours, from 0 to 1.", DRAWING)
Interp = _option(Cells, None, "linear: interpolate between cells. cells: draw each cell as a box.", DRAWING)
Blur = _option(float, "CELLS", "Blur the map: sigma of a Gaussian, in cells.", DRAWING, "--blur")
Smooth = _flag("Clips: blend the maps of sampled frames over time.", DRAWING, "--smooth")
SideBySide = _flag("Clips: draw the clip beside its heat map.", DRAWING, "--side-by-side")
TopPercent = _option(float, "PERCENT", "Colour only the strongest cells: this percentage of all.", DRAWING)
DrawSize = _option(str, "PX", "Longest side of drawn pictures in pixels, or full for the size of the file.", DRAWING)
Out = _option(Path, "DIR", "Folder for the results.", OUTPUT, "--out", "-o")
Overwrite = _flag("Do it again where the same result exists, and replace it.", OUTPUT, "--overwrite")
Json = _flag("Print each result as a JSON object.", OUTPUT, "--json")
Quiet = _flag("Print only the answers, or only the JSON.", OUTPUT, "--quiet", "-q")
Debug = _flag("Show the traceback of an error.", OUTPUT, "--debug")


def typed(ctx: typer.Context, options: type[T]) -> T:
    """Return what was typed for the options of a TypedDict: the command's parameters that are called as they are."""
    return part_of(_values(ctx), options)


def _values(ctx: typer.Context) -> dict[str, Any]:
    """Return the values of a command's parameters, choices as text."""
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in ctx.params.items()}


def refuse(ctx: typer.Context, names: tuple[str, ...], why: str, instead: str = "leave it out") -> None:
    """Refuse options that would have no effect.

    Raises:
        InputError: one of these options was given.
    """
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise InputError(f"{argument(name)} {why}", instead)


def drawing_of(ctx: typer.Context, *, pictures: bool, clips: bool) -> Drawing:
    """Return what was typed for the fields of a `Drawing`.

    Args:
        ctx: the command.
        pictures: whether it draws pictures.
        clips: whether it draws clips.

    Raises:
        InputError: a value out of range, or an option for clips where none is drawn, or the other way around.
    """
    from qvl_attn.render.style import Drawing

    values, names = _values(ctx), [field.name for field in fields(Drawing)]
    if not clips:
        refuse(ctx, ("smooth", "side_by_side"), "is for clips, and no clip is drawn")
    scale, draw_size = values.pop("scale", None), values["draw_size"]
    if scale is not None:
        of_clips = scale in CLIP_SCALES
        kind, others = ("clip", PICTURE_SCALES) if of_clips else ("picture", CLIP_SCALES)
        if not (clips if of_clips else pictures):
            raise InputError(
                f"{argument('scale', scale)} is for {kind}s, and no {kind} is drawn",
                f"use --scale {' or '.join(others)}",
            )
        values["clip_scale" if of_clips else "scale"] = scale
    if draw_size != "full" and not re.fullmatch(r"[1-9]\d{0,8}", draw_size, re.ASCII):
        raise InputError(f"--draw-size {shortened(draw_size)}: want a number of pixels, or full")
    values["draw_size_px"] = 0 if draw_size == "full" else int(draw_size)
    return Drawing(**{name: values[name] for name in names if name in values})
