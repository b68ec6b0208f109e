"""`qvl-attn demo-data`: held-out scenes and clips for the embedded model, as a data set with boxes and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvl_attn.cli.console import faults


def demo_data(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    count: Annotated[int, typer.Option("--n", "-n", min=1, help="How many scenes or clips.")] = 200,
    video: Annotated[bool, typer.Option("--video", help="Clips instead of pictures.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write drawn scenes, or clips, with questions, answers and boxes: the embedded model's own held-out test set.

    Any number begins with the same ones, on which its published figures were measured: do not train on them.

    qvl-attn demo-data --out scenes --n 200
    """
    with faults(debug=debug, interrupted="interrupted; nothing was written"):
        # Imported here: --help must not wait for numpy.
        from rich.console import Console
        from rich.progress import Progress

        from qvl_attn.demo.dataset import QUESTIONS_FILE, write_dataset

        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("drawing", total=count)
            questions = write_dataset(out, count, video=video, progress=lambda done: bar.update(task, completed=done))
        typer.echo(f"{questions} questions, {'clips' if video else 'scenes'}: {count}", err=True)
        typer.echo(out / QUESTIONS_FILE)
