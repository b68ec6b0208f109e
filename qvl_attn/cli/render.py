"""`qvl-attn render`: draw a saved result again."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qvl_attn.cli import completion, options
from qvl_attn.cli.ask import FILES as PICTURE_FILES
from qvl_attn.cli.console import handle_errors, print_line
from qvl_attn.cli.options import DRAWING, MAPS, OUTPUT, Cells, Colors, drawing_of
from qvl_attn.cli.output import print_result
from qvl_attn.cli.progress import progress_bars
from qvl_attn.cli.video import FILES as CLIP_FILES
from qvl_attn.core.errors import InputError

if TYPE_CHECKING:
    from qvl_attn.vqa.result import Result


class ScaleChoice(StrEnum):
    """What shares a colour scale: `layer` and `shared` for pictures, `clip` and `frame` for clips."""

    layer = "layer"
    shared = "shared"
    clip = "clip"
    frame = "frame"


CLIP_SCALES = (ScaleChoice.clip, ScaleChoice.frame)


def render(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that ask or video wrote.")],
    layers: Annotated[
        str | None,
        typer.Option(metavar="LAYERS", help="Layers to average: all, 18, 14-20 or 4,8,12.", rich_help_panel=MAPS),
    ] = None,
    heads: options.Heads = None,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="QUERY",
            help="Show the attention of these tokens: question, last, answer or text:WORDS.",
            rich_help_panel=MAPS,
            autocompletion=completion.queries,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Draw the map of this method, if it is saved. mean: plain attention.",
            rich_help_panel=MAPS,
            autocompletion=completion.methods,
        ),
    ] = None,
    media: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The original file, to draw pictures at full size, or all frames of a clip. Can be repeated.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    chosen_scale: Annotated[
        ScaleChoice | None,
        typer.Option(
            "--scale",
            metavar="SCALE",
            help="Colour scale. Pictures: layer or shared. Clips: clip or frame.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    smooth: options.Smooth = False,
    side_by_side: options.SideBySide = False,
    colormap: options.Colormap = Colors.inferno,
    alpha: options.Alpha = 0.5,
    interp: options.Interp = Cells.linear,
    denoise: options.Denoise = None,
    blur_cells: options.Blur = 0.0,
    top_percent: options.TopPercent = 100.0,
    draw_size: options.DrawSize = "1280",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder for the result. Default: the folder that DIR is in.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw a saved result again, with other layers, heads or colours. No model is needed.

    qvl-attn render qvl-attn-out/cats-how-many-cats-1a2b3c4d --layers 14-20 --colormap viridis
    """
    with handle_errors(debug=debug), progress_bars(enabled=not quiet) as progress:
        # Imported here, so that --help need not wait for numpy.
        from qvl_attn.core.files import check_writable
        from qvl_attn.kinds import check_whole, read_saved
        from qvl_attn.results.session import run_session
        from qvl_attn.vqa.redraw import left_behind, redrawn
        from qvl_attn.vqa.result import Result

        saved = read_saved(folder)
        if not isinstance(saved, Result):
            raise InputError(f"{folder} is a result of encoder", "name a result that ask or video wrote")
        if out is None:
            check_whole(folder)
        drawing = drawing_of(ctx, **_scale_field(saved, chosen_scale, smooth, side_by_side))
        result = redrawn(saved, layers=layers, heads=heads, query=query, method=method, media=media or [])
        out = out or (folder if folder.name not in ("", "..") else folder.resolve()).parent
        check_writable(out)
        for name in left_behind(saved, result):
            if not quiet:
                print_line(f"note: {name} belongs to another map and is not copied; it stays in {folder}")

        for drawn in run_session(
            [result.folder(out, drawing)],
            lambda missing: ((position, result) for position in range(len(missing))),
            save=partial(Result.save, out=out, drawing=drawing, overwrite=overwrite, progress=progress),
            load=Result.load,
            overwrite=overwrite,
        ):
            files = PICTURE_FILES if saved.media[0].clip is None else CLIP_FILES
            print_result(drawn, files, as_json=as_json, quiet=quiet, done="drawn")


def _scale_field(saved: Result, scale: ScaleChoice | None, smooth: bool, side_by_side: bool) -> dict[str, str]:
    """Return the field of `Drawing` that the scale is, of pictures and clips another; none if no scale is chosen.

    Raises:
        InputError: an option for clips is given for a picture, or the other way around.
    """
    is_clip = saved.media[0].clip is not None
    for option, is_set in (("--smooth", smooth), ("--side-by-side", side_by_side)):
        if is_set and not is_clip:
            raise InputError(f"{option} is for clips, and this result is of a picture", f"leave out {option}")
    if scale is not None and (scale in CLIP_SCALES) != is_clip:
        kinds = ("pictures", "a clip") if is_clip else ("clips", "a picture")
        choices = [choice.value for choice in ScaleChoice if (choice in CLIP_SCALES) == is_clip]
        raise InputError(
            f"--scale {scale.value} is for {kinds[0]}, and this result is of {kinds[1]}",
            f"use --scale {' or '.join(choices)}",
        )
    return {} if scale is None else {"clip_scale" if is_clip else "scale": scale.value}
