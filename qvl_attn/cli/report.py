"""`qvl-attn report`: the page of a saved result, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import faults


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...",
            help="What ask, video, encoder, check, merge or render wrote; several results stand side by side.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A page to make. Default: report.html in DIR, made again.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Make the page of a saved result again, or one page of several. No model is needed.

    qvl-attn report qvl-attn-out/cats-how-many-cats-1a2b3c4d
    """
    with faults(debug=debug, interrupted="interrupted"):
        from qvl_attn.report import make_report

        typer.echo(f"report: {make_report(folders, out)}")
