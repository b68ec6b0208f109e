"""The terminal: progress and errors on stderr, exit codes, signals, and loading with quiet libraries."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Any, Unpack

import typer
from rich.console import Console
from rich.text import Text

from qvl_attn.cli.spelling import spelled
from qvl_attn.core.errors import QvlAttnError
from qvl_attn.core.text import plain, without_middle

if TYPE_CHECKING:
    from qvl_attn.analyzer import Analyzer
    from qvl_attn.encoder import Encoder
    from qvl_attn.evaluation.workers import Workers
    from qvl_attn.model.placement import EncoderLoadOptions, LoadOptions

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
MAX_DETAILS = 50
# Set once the line about a Ctrl-C was printed: typer ends silently if the signal arrives while it parses.
interrupt_reported = Event()
stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def print_line(message: str) -> None:
    """Print a line of progress on stderr."""
    stderr.print(Text(plain(spelled(message)), style="dim"))


class _LinePrinter(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_line(record.getMessage())


@contextmanager
def printed_log(*, quiet: bool = False) -> Iterator[None]:
    """Print what the package logs on stderr, a line for each message, unless `quiet`."""
    log, printer = logging.getLogger("qvl_attn"), _LinePrinter()
    level = log.level
    if not quiet:
        log.addHandler(printer)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(printer)
        log.setLevel(level)


def silence_libraries(*, bars: bool) -> None:
    """Keep log lines of libraries off the terminal, and bars of downloads, unless it is a terminal with `bars`."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.getLogger("qwen_vl_utils").setLevel(logging.ERROR)
    if not (bars and sys.stderr.isatty()):
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()


def find_model(model: str, *, bars: bool, workers: Workers | None = None, **options: Unpack[LoadOptions]) -> Analyzer:
    """Find a model with `Analyzer.load`. Imports torch only now, since `--help` must not wait for it.

    Args:
        model: the value of `--model`.
        bars: whether bars of downloads may show.
        workers: as in `Analyzer.load`.
        options: as in `Analyzer.load`.
    """
    check_model(model, weights=True, **options)
    with importing():
        from qvl_attn.analyzer import Analyzer

    silence_libraries(bars=bars)
    return Analyzer.load(model, workers=workers, **options)


def find_processor(model: str, revision: str | None, *, offline: bool, bars: bool) -> Any:
    """Load the processor of a model from its settings files: the weights are neither needed nor downloaded."""
    with importing():
        from qvl_attn.model.checkpoint import find_checkpoint
        from qvl_attn.model.loading import load_config, load_processor

    silence_libraries(bars=bars)
    checkpoint = find_checkpoint(model, revision, offline=offline, weights=False)
    return load_processor(checkpoint, load_config(checkpoint))


def find_encoder(model: str, *, bars: bool, **options: Unpack[EncoderLoadOptions]) -> Encoder:
    """Find a vision encoder with `Encoder.load`; otherwise as `find_model`."""
    check_model(model, weights=False, **options)
    with importing():
        from qvl_attn.encoder import Encoder

    silence_libraries(bars=bars)
    return Encoder.load(model, **options)


def check_model(model: str, *, weights: bool, **options: Unpack[LoadOptions]) -> None:
    """Refuse a mistyped model or device before the seconds that torch takes to load.

    Raises:
        InputError: an unknown device, or neither a folder nor an id.
        ModelError: the model's files are incomplete.
    """
    from qvl_attn.model.checkpoint import find_on_disk
    from qvl_attn.model.placement import LoadSettings

    load = LoadSettings(**options)
    find_on_disk(model, load.revision, offline=load.offline, weights=weights)


def go_offline() -> None:
    """Forbid connections to the Hub. Call it before anything imports huggingface_hub, which reads this at import."""
    os.environ["HF_HUB_OFFLINE"] = "1"


@contextmanager
def importing() -> Iterator[None]:
    """Hold back signals while large libraries are imported, and do not collect garbage: imported objects stay.

    Python raises KeyboardInterrupt at any point, and C++ code aborts the process if that happens during an import.
    """
    pending: list[int] = []
    handlers = {number: signal.signal(number, lambda number, _: pending.append(number)) for number in _SIGNALS}
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in pending:
        signal.raise_signal(number)


class _Terminated(SystemExit):
    """Raised where SIGTERM or SIGHUP arrives."""


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise _Terminated(128 + number)


def _line(text: str) -> str:
    return without_middle(plain(spelled(text)))


@contextmanager
def handle_errors(*, debug: bool, interrupted: str = "interrupted; any finished results are kept") -> Iterator[None]:
    """Print a `QvlAttnError` as one line and exit with its code. Ctrl-C, SIGTERM and SIGHUP unwind, so drafts go.

    Args:
        debug: print the traceback as well.
        interrupted: the line to print after Ctrl-C, SIGTERM or SIGHUP.
    """
    signals = [number for number in _SIGNALS if number != signal.SIGINT]
    handlers = [signal.signal(number, _raise_terminated) for number in signals]
    try:
        yield
    except KeyboardInterrupt:
        stderr.print(interrupted)
        interrupt_reported.set()
        raise typer.Exit(130) from None
    except _Terminated:
        stderr.print(interrupted)
        raise
    except QvlAttnError as error:
        if debug:
            traceback.print_exc()
        stderr.print(Text.assemble(("error: ", "bold red"), _line(error.message)))
        for line in error.details[:MAX_DETAILS]:
            stderr.print(Text(f"  {_line(line)}"))
        if len(error.details) > MAX_DETAILS:
            stderr.print(Text(f"  and {len(error.details) - MAX_DETAILS} more"))
        if error.hint:
            stderr.print(Text.assemble(("hint: ", "bold"), _line(error.hint)))
        raise typer.Exit(error.exit_code) from None
    finally:
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)
