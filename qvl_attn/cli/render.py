"""`qvl-attn render`: draw a saved result again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from qvl_attn.cli import completion, options
from qvl_attn.cli.console import handle_errors, printed_log
from qvl_attn.cli.options import DRAWING, MAPS, OUTPUT, Cells, Colors, OverHeads, drawing_of
from qvl_attn.cli.output import print_results
from qvl_attn.cli.progress import progress_bars


def render(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that ask, video or encoder wrote.")],
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
    layer: Annotated[
        int | None,
        typer.Option(metavar="N", help="Of an encoder: draw the heads of this layer one by one.", rich_help_panel=MAPS),
    ] = None,
    over: Annotated[
        OverHeads | None,
        typer.Option(help="Of an encoder: how the map of a layer combines its heads.", rich_help_panel=MAPS),
    ] = None,
    media: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="The original file, to draw pictures at full size, or all frames of a clip. Can be repeated.",
            rich_help_panel=DRAWING,
        ),
    ] = None,
    scale: options.Scale = None,
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
    """Draw a saved result of ask, video or encoder again, with other layers, heads or colours. No model is needed.

    qvl-attn render qvl-attn-out/cats-how-many-cats-1a2b3c4d --layers 14-20 --colormap viridis
    """
    with handle_errors(debug=debug), progress_bars(enabled=not quiet) as progress, printed_log(quiet=quiet):
        # Imported here, so that --help need not wait for numpy.
        from qvl_attn.core.files import check_writable
        from qvl_attn.kinds import check_whole, read_saved
        from qvl_attn.results.redraw import RedrawOptions, redrawn
        from qvl_attn.results.session import run_session

        saved = read_saved(folder)
        if out is None:
            check_whole(folder)
        drawing = drawing_of(ctx, pictures=not saved.is_clip, clips=saved.is_clip)
        result = redrawn(saved, media=media or [], **options.typed(ctx, RedrawOptions))
        out = out or (folder if folder.name not in ("", "..") else folder.resolve()).parent
        check_writable(out)
        results = run_session(
            [result.folder(out, drawing)],
            lambda missing: ((position, result) for position in range(len(missing))),
            save=partial(type(result).save, out=out, drawing=drawing, overwrite=overwrite, progress=progress),
            load=type(result).load,
            overwrite=overwrite,
        )
        print_results(results, as_json=as_json, quiet=quiet, done="drawn")
