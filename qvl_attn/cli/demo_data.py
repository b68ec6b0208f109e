"""`qvl-attn demo-data`: write held-out scenes and clips for the embedded model, with boxes and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import handle_errors
from qvl_attn.core.text import pluralize


def demo_data(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="New folder for the data set.")],
    count: Annotated[int, typer.Option("--n", "-n", metavar="N", min=1, help="Number of scenes or clips.")] = 200,
    video: Annotated[bool, typer.Option("--video", help="Write clips instead of pictures.")] = False,
    debug: options.Debug = False,
) -> None:
    """Write drawn scenes or clips with questions, answers and boxes: the held-out test set of the embedded model.

    They are always the same, in the same order. The model's published figures are measured on them, so do not train on
    them.

    qvl-attn demo-data --out scenes --n 200
    """
    with handle_errors(debug=debug, interrupted="interrupted; nothing was written"):
        # Imported here, so that --help need not wait for numpy.
        from rich.console import Console
        from rich.progress import Progress

        from qvl_attn.demo.dataset import QUESTIONS_FILE, write_dataset

        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("drawing", total=count)
            questions = write_dataset(
                out, count, video=video, progress=lambda stage, done, total: bar.update(task, completed=done)
            )
        typer.echo(
            f"{pluralize(questions, 'question')} about {pluralize(count, 'clip' if video else 'scene')}", err=True
        )
        typer.echo(out / QUESTIONS_FILE)
