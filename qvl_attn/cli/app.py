"""The command line: parse the arguments, call the API, print. torch is imported only when a command needs it."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from qvl_attn.cli.ask import ask
from qvl_attn.cli.catalogue import methods, prompts
from qvl_attn.cli.check import check
from qvl_attn.cli.compare import compare
from qvl_attn.cli.demo_data import demo_data
from qvl_attn.cli.encoder import encoder
from qvl_attn.cli.estimate import estimate
from qvl_attn.cli.merge import merge
from qvl_attn.cli.plain_help import PlainCommand, PlainGroup, help_of
from qvl_attn.cli.render import render
from qvl_attn.cli.report import report
from qvl_attn.cli.selftest import selftest
from qvl_attn.cli.video import video
from qvl_attn.core.version import __version__

app = typer.Typer(
    name="qvl-attn",
    cls=PlainGroup,
    help="See where each layer of Qwen2.5-VL looked while it answered a question about a picture or a clip.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"qvl-attn {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


COMMANDS: dict[str, Callable[..., None]] = {
    "ask": ask,
    "video": video,
    "encoder": encoder,
    "render": render,
    "check": check,
    "merge": merge,
    "compare": compare,
    "report": report,
    "estimate": estimate,
    "selftest": selftest,
    "demo-data": demo_data,
    "prompts": prompts,
    "methods": methods,
}
for _name, _function in COMMANDS.items():
    app.command(_name, cls=PlainCommand, help=help_of(_function))(_function)


def run() -> None:
    """Run the command line."""
    # A terminal or pipe that lacks a character (a Windows code page) gets a replacement, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with _reported_stdout():
            app(prog_name="qvl-attn")
    finally:
        gc.freeze()  # otherwise the interpreter scans all of torch for garbage once more at exit


@contextmanager
def _reported_stdout() -> Iterator[None]:
    """End in one line and exit code 1 if stdout cannot be written, such as a file on a full disk."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:  # not of a write
            raise
        # What could not be written would be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # whoever reads a pipe may stop reading
            sys.stderr.write(f"error: cannot write to stdout: {error.strerror}\n")
        sys.exit(1)
