"""Options that several commands share, each written once, and what they become."""

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
    """Where the model of a check works."""

    local = "local"
    ray = "ray"


class AttnMode(StrEnum):
    """Attention modes."""

    auto = "auto"
    eager = "eager"
    rows = "rows"


class HeadDtype(StrEnum):
    """Precisions of heads that are kept apart."""

    float32 = "float32"
    float16 = "float16"


class Colors(StrEnum):
    """Colour maps."""

    inferno = "inferno"
    viridis = "viridis"
    jet = "jet"


class Cells(StrEnum):
    """How cells become pixels."""

    linear = "linear"
    cells = "cells"


class DenoiseFilter(StrEnum):
    """Filters of maps."""

    median = "median"
    rank_gaussian = "rank-gaussian"


def _option(kind: Any, text: str, panel: str, *names: str, **more: Any) -> Any:
    return Annotated[kind, typer.Option(*names, help=text, rich_help_panel=panel, **more)]


Model = _option(str, "Hugging Face id or folder; 'demo' is embedded.", MODEL, "--model", "-m")
Revision = _option(str | None, "Branch, tag or commit of a hub model.", MODEL)
Device = _option(str, "auto, cpu, cuda, cuda:1.", MODEL)
DeviceMap = _option(str | None, "auto: spread the model over several GPUs.", MODEL)
Dtype = _option(str, "auto, float32, bfloat16, float16.", MODEL)
Attn = _option(
    AttnMode, "eager: the reference; rows: what is shown, beside SDPA; auto: eager in float32 where it fits.", MODEL
)
Offline = _option(bool, "Never reach for the hub.", MODEL, "--offline")
System = _option(str | None, "System prompt.", MODEL)
MinPixels = _option(int | None, "Smallest size a picture or frame is resized to, in pixels.", MODEL)
MaxPixels = _option(int | None, "Largest size a picture is resized to, in pixels.", MODEL)
MaxNewTokens = _option(int, "Where an answer is cut.", MODEL)
Seed = _option(int, "For torch; answers are greedy.", MODEL, min=-(2**63), max=2**63 - 1)
Prompts = Annotated[str | None, typer.Option(help="A set of questions: a JSONL file, or the name of a set that ships.")]
Query = _option(
    str | None, "Whose attention: question, last, answer, text:WORDS. Default: the profile's, else question.", MAPS
)
Profile = _option(
    str | None,
    "Layers or heads of the headline: a name, a file, none. Default: the one for the model.",
    MAPS,
)
Fps = _option(float, "Frames sampled a second.", CLIP)
MaxFrames = _option(int, "Frames sampled at most; beyond it further apart.", CLIP)
Start = _option(float, "Where to begin, in seconds.", CLIP)
End = _option(float | None, "Where to end, in seconds.", CLIP)
SourceFps = _option(float, "Of a folder of frames: numbers in their names a second.", CLIP)
Layers = _option(
    str | None, "all, 18, 14-20 or 4,8,12: captured and averaged. Default: all, headline 50-85 % of the depth.", MAPS
)
Heads = _option(str | None, "3,5 or 21.9,21.11 (layer.head).", MAPS)
Method = _option(str | None, "How the map is made: mean, relative, gradient, ... (qvl-attn methods).", MAPS)
Faithfulness = _option(
    bool, "Does the map hold? Deletion, insertion, sanity checks; some hundred passes more.", MAPS, "--faithfulness"
)
Denoise = _option(
    DenoiseFilter | None, "A filter of the cells' map, 3x3: median, or the rank Gaussian of TAM.", DRAWING
)
StoreHeads = _option(HeadDtype, "Of heads kept apart; float16 rounds by 2^-11 at most.", MAPS)
Answer = _option(str | None, "Maps and log-probability of this answer, teacher-forced.", MAPS)
Colormap = _option(Colors, "Colours.", DRAWING)
Alpha = _option(float, "Weight of the colours, 0 to 1.", DRAWING)
Interp = _option(Cells, "Interpolated, or each cell as its box.", DRAWING)
Blur = _option(float, "Gaussian sigma, in cells.", DRAWING)
Smooth = _option(bool, "Of a clip: mix maps by time between sampled frames.", DRAWING, "--smooth")
SideBySide = _option(bool, "The clip beside its heat map.", DRAWING, "--side-by-side")
TopPercent = _option(float, "Colour only this share of the cells, the strongest.", DRAWING)
DrawSize = _option(str, "Longest side of a drawn picture in pixels, or 'full'.", DRAWING)
Out = _option(Path, "Folder for the results.", OUTPUT, "--out", "-o")
Overwrite = _option(bool, "Replace an identical result.", OUTPUT, "--overwrite")
Json = _option(bool, "One JSON object a question on stdout.", OUTPUT, "--json")
Quiet = _option(bool, "Only the answers, or the JSON.", OUTPUT, "--quiet", "-q")
Debug = _option(bool, "Show tracebacks.", OUTPUT, "--debug")


def drawing_of(
    colormap: Colors, interp: Cells, draw_size: str, denoise: DenoiseFilter | None = None, **others: Any
) -> Drawing:
    """How to draw, as it was typed.

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
        **others,
    )
