"""`qvl-attn report`: make the page of a saved result again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import handle_errors


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR",
            help="Folders that ask, video, encoder, check, merge or render wrote. Several results share one page.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="New file for the page. Default: replace report.html in DIR.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Make the page of a saved result again, or one page of several results. No model is needed.

    qvl-attn report qvl-attn-out/cats-how-many-cats-1a2b3c4d
    """
    with handle_errors(debug=debug, interrupted="interrupted"):
        from qvl_attn.report import make_report

        typer.echo(f"report: {make_report(folders, out)}")
