"""`qvl-attn render`: a saved result drawn again."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.ask import FILES as PICTURE_FILES
from qvl_attn.cli.console import faults, say
from qvl_attn.cli.options import DRAWING, MAPS, OUTPUT, Cells, Colors, drawing_of
from qvl_attn.cli.output import results, tell
from qvl_attn.cli.progress import progress_bars
from qvl_attn.cli.video import FILES as CLIP_FILES
from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import suppress_stderr

if TYPE_CHECKING:
    from qvl_attn.vqa.result import Result


class ScaleChoice(StrEnum):
    """What shares a scale: of pictures, and of a clip."""

    layer = "layer"
    shared = "shared"
    clip = "clip"
    frame = "frame"


OF_CLIPS = (ScaleChoice.clip, ScaleChoice.frame)


def render(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `ask` or `video` wrote.")],
    layers: Annotated[
        str | None,
        typer.Option(help="all, 18, 14-20 or 4,8,12, of those captured: their mean.", rich_help_panel=MAPS),
    ] = None,
    heads: options.Heads = None,
    query: Annotated[
        str | None, typer.Option(help="Whose attention: question, last, answer, text:WORDS.", rich_help_panel=MAPS)
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="One that was saved; or mean, plain attention.", rich_help_panel=MAPS),
    ] = None,
    media: Annotated[
        list[str] | None,
        typer.Option(
            help="The original file, for a full-size picture or all frames of a clip; of several pictures, each.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    scale: Annotated[
        ScaleChoice | None,
        typer.Option(help="Pictures: layer or shared. Clips: clip or frame.", rich_help_panel=DRAWING),
    ] = None,
    smooth: options.Smooth = False,
    side_by_side: options.SideBySide = False,
    colormap: options.Colormap = Colors.inferno,
    alpha: options.Alpha = 0.5,
    interp: options.Interp = Cells.linear,
    denoise: options.Denoise = None,
    blur: options.Blur = 0.0,
    top_percent: options.TopPercent = 100.0,
    draw_size: options.DrawSize = "1280",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the result. Default: the one with DIR.", rich_help_panel=OUTPUT),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw a saved result again from its saved weights: other layers, heads, colours. No model is needed.

    qvl-attn render qvl-attn-out/cats-how-many-cats-1a2b3c4d --layers 14-20 --colormap viridis
    """
    with faults(debug=debug), progress_bars(shown=not quiet) as progress:
        # Imported here: --help must not wait for numpy.
        from qvl_attn.core.files import check_writable
        from qvl_attn.vqa.redraw import check_whole, left_behind, read_result, redrawn

        saved = read_result(folder)
        if out is None:
            check_whole(folder)
        drawing = drawing_of(
            colormap,
            interp,
            draw_size,
            denoise,
            alpha=alpha,
            blur_cells=blur,
            top_percent=top_percent,
            **_of_its_kind(saved, scale, smooth, side_by_side),
        )
        with suppress_stderr():
            result = redrawn(saved, layers=layers, heads=heads, query=query, method=method, media=media or [])
        out = out or (folder if folder.name not in ("", "..") else folder.resolve()).parent
        check_writable(out)
        for gone in left_behind(saved, result):
            if not quiet:
                say(f"note: {gone} is of another map, and stays in {folder}")

        def drawn(missing: list[int]) -> Iterator[tuple[int, Result]]:
            return ((at, result) for at in range(len(missing)))

        for one, target, reused in results(
            [result.folder(out, drawing)],
            drawn,
            lambda one: one.save(out, drawing, overwrite=overwrite, progress=progress),
            overwrite,
        ):
            files = PICTURE_FILES if saved.media[0].clip is None else CLIP_FILES
            tell(one, target, reused, files, as_json=as_json, quiet=quiet, done="drawn")


def _of_its_kind(saved: Result, scale: ScaleChoice | None, smooth: bool, side_by_side: bool) -> dict[str, Any]:
    """What of the drawing is for pictures or clips alone.

    Raises:
        InputError: what is for clips is named for pictures, or the other way around.
    """
    of_clip = saved.media[0].clip is not None
    for option, named in (("--smooth", smooth), ("--side-by-side", side_by_side)):
        if named and not of_clip:
            raise InputError(f"{option} is for clips, and this result is of a picture", f"leave {option}")
    if scale is not None and (scale in OF_CLIPS) != of_clip:
        kinds = ("pictures", "a clip") if of_clip else ("clips", "a picture")
        fitting = [one.value for one in ScaleChoice if (one in OF_CLIPS) == of_clip]
        raise InputError(
            f"--scale {scale.value} is for {kinds[0]}, and this result is of {kinds[1]}",
            f"write {' or '.join(fitting)}",
        )
    chosen = {} if scale is None else {"clip_scale" if of_clip else "scale": scale.value}
    return {"smooth": smooth, "side_by_side": side_by_side, **chosen}
