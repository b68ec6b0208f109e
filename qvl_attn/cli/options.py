"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qvl_attn.core.errors import InputError

if TYPE_CHECKING:
    from qvl_attn.render.style import Drawing

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


def _option(value_type: Any, text: str, panel: str, *names: str, **limits: Any) -> Any:
    return Annotated[value_type, typer.Option(*names, help=text, rich_help_panel=panel, **limits)]


Model = _option(str, "Hugging Face id or local folder; 'demo' is the embedded model.", MODEL, "--model", "-m")
Revision = _option(str | None, "Branch, tag or commit of a model on the Hugging Face Hub.", MODEL)
Device = _option(str, "auto, cpu, cuda or cuda:1.", MODEL)
DeviceMap = _option(str | None, "auto: spread the model over several GPUs.", MODEL)
Dtype = _option(str, "auto, float32, bfloat16 or float16.", MODEL)
Attn = _option(
    AttnMode,
    "eager: eager attention, the reference; rows: SDPA; only the displayed rows are recomputed, in float32; "
    "auto: eager in float32 where it fits the memory, else rows.",
    MODEL,
)
Offline = _option(bool, "Never connect to the Hugging Face Hub.", MODEL, "--offline")
System = _option(str | None, "System prompt, in place of the template's.", MODEL)
MinPixels = _option(int | None, "Pictures and frames are resized to at least this many pixels.", MODEL)
MaxPixels = _option(int | None, "Pictures are resized to at most this many pixels.", MODEL)
MaxNewTokens = _option(int, "Longest answer, in tokens.", MODEL)
Seed = _option(int, "Seed for torch; answers are greedy.", MODEL, min=-(2**63), max=2**63 - 1)
Prompts = Annotated[
    str | None, typer.Option(help="A set of questions: a JSONL file, or a built-in set (see qvl-attn prompts).")
]
Query = _option(
    str | None,
    "Tokens whose attention is shown: question, last, answer or text:WORDS. Default: the profile's, else question.",
    MAPS,
)
Profile = _option(
    str | None,
    "Layers or heads of the headline map: the name of a profile, a file, or none. Default: the profile for this model.",
    MAPS,
)
Fps = _option(float, "Frames sampled per second.", CLIP)
MaxFrames = _option(int, "Most frames to sample; a longer clip is sampled more sparsely.", CLIP)
Start = _option(float, "Start of the part to sample, in seconds.", CLIP)
End = _option(float | None, "End of the part to sample, in seconds. Default: the clip's end.", CLIP)
SourceFps = _option(float, "For a folder of frames: how many frame numbers make one second.", CLIP)
Layers = _option(
    str | None,
    "Layers to capture and average: all, 18, 14-20 or 4,8,12. Default: capture all; average those of the profile, or "
    "those at 50-85 % of the depth.",
    MAPS,
)
Heads = _option(str | None, "Heads to average and to show one by one: 3,5 or 21.9,21.11 (layer.head).", MAPS)
Method = _option(
    str | None, "How the headline map is computed: mean, relative, gradient, ... (see qvl-attn methods).", MAPS
)
Faithfulness = _option(
    bool,
    "Test the map by deletion, insertion and sanity checks: some hundred more passes.",
    MAPS,
    "--faithfulness",
)
Denoise = _option(DenoiseFilter | None, "Filter the map over 3x3 cells: median, or the rank Gaussian of TAM.", DRAWING)
StoreHeads = _option(HeadDtype, "Precision of heads that are stored one by one; float16 rounds by 2^-11 at most.", MAPS)
Answer = _option(str | None, "Teacher-force this answer: show its maps and its log-probability.", MAPS)
Colormap = _option(Colors, "Colour map.", DRAWING)
Alpha = _option(float, "Opacity of the colours, 0 to 1.", DRAWING)
Interp = _option(Cells, "linear: interpolate between cells; cells: draw each cell as a box.", DRAWING)
Blur = _option(float, "Gaussian blur of the map: sigma in cells.", DRAWING)
Smooth = _option(bool, "Clips: blend the maps of sampled frames over time.", DRAWING, "--smooth")
SideBySide = _option(bool, "Clips: draw the clip next to its heat map.", DRAWING, "--side-by-side")
TopPercent = _option(float, "Colour only the strongest cells: this percentage of all.", DRAWING)
DrawSize = _option(str, "Longest side of drawn pictures in pixels, or 'full'.", DRAWING)
Out = _option(Path, "Folder that holds the results.", OUTPUT, "--out", "-o")
Overwrite = _option(bool, "Replace an identical result.", OUTPUT, "--overwrite")
Json = _option(bool, "Print one JSON object per result on stdout.", OUTPUT, "--json")
Quiet = _option(bool, "Print only the answers, or the JSON.", OUTPUT, "--quiet", "-q")
Debug = _option(bool, "Show tracebacks.", OUTPUT, "--debug")


def drawing_of(
    colormap: Colors, interp: Cells, draw_size: str, denoise: DenoiseFilter | None = None, **fields: Any
) -> Drawing:
    """Return the drawing options as a `Drawing`; `fields` are its other fields.

    Raises:
        InputError: a value out of range.
    """
    from qvl_attn.render.style import Drawing

    if draw_size != "full" and not (draw_size.isdecimal() and int(draw_size) > 0):
        raise InputError(f"--draw-size {draw_size}: want a number of pixels, or full")
    return Drawing(
        colormap=colormap.value,
        interp=interp.value,
        denoise=denoise and denoise.value,
        draw_size_px=0 if draw_size == "full" else int(draw_size),
        **fields,
    )
