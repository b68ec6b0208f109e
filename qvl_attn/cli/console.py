"""What reaches the terminal: progress and faults on stderr, data on stdout, exit codes."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

from qvl_attn.core.errors import QvlAttnError
from qvl_attn.core.text import plain

if TYPE_CHECKING:
    from qvl_attn.analyzer import Analyzer
    from qvl_attn.encoder import Encoder

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
MOST_DETAILS = 50
stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def say(message: str) -> None:
    """A line of progress on stderr."""
    stderr.print(Text(plain(message), style="dim"))


def no_op(message: str) -> None:
    """What `--quiet` makes of a line of progress."""
    del message


def hush_libraries(*, bars: bool) -> None:
    """Keep the log lines of libraries off the terminal, and their bars where they would not be wanted."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.getLogger("qwen_vl_utils").setLevel(logging.ERROR)
    if not (bars and sys.stderr.isatty()):
        from huggingface_hub.utils.tqdm import disable_progress_bars

        transformers_logging.disable_progress_bar()
        disable_progress_bars()


def find_model(model: str, *, offline: bool, bars: bool, tell: Callable[[str], None] = say, **where: Any) -> Analyzer:
    """Import what a model needs, and get ready to load it; here and not before, since `--help` must not wait for torch.

    Args:
        model: as it was typed.
        offline: never reach for the hub.
        bars: whether libraries may show theirs.
        tell: is told what was chosen.
        where: the other keywords of `Analyzer.load`.
    """
    with importing():
        from qvl_attn.analyzer import Analyzer

    hush_libraries(bars=bars)
    return Analyzer.load(model, offline=offline, say=tell, **where)


def find_encoder(model: str, *, offline: bool, bars: bool, tell: Callable[[str], None], **where: Any) -> Encoder:
    """As `find_model`, a vision encoder."""
    with importing():
        from qvl_attn.encoder import Encoder

    hush_libraries(bars=bars)
    return Encoder.load(model, offline=offline, say=tell, **where)


def go_offline() -> None:
    """Forbid the hub; to be called before anything imports huggingface_hub, which reads this at import."""
    os.environ["HF_HUB_OFFLINE"] = "1"


@contextmanager
def importing() -> Iterator[None]:
    """While large libraries are imported: signals wait, and nobody looks for garbage in what is there to stay.

    Python raises an interrupt wherever it is, and C++ in the middle of an import aborts the process at that.
    """
    waiting: list[int] = []
    before = {number: signal.signal(number, lambda number, _: waiting.append(number)) for number in _ENDING}
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in waiting:
        signal.raise_signal(number)


class _Terminated(SystemExit):
    """By a signal."""


def _terminated(number: int, frame: FrameType | None) -> None:
    raise _Terminated(128 + number)


@contextmanager
def faults(*, debug: bool, interrupted: str = "interrupted; what is finished is kept") -> Iterator[None]:
    """Known faults become one line and an exit code; SIGTERM and SIGHUP unwind like exceptions: drafts are removed."""
    signals = [number for number in _ENDING if number != signal.SIGINT]
    before = [signal.signal(number, _terminated) for number in signals]
    try:
        yield
    except KeyboardInterrupt:
        stderr.print(interrupted)
        raise typer.Exit(130) from None
    except _Terminated:
        stderr.print(interrupted)
        raise
    except QvlAttnError as error:
        if debug:
            traceback.print_exc()
        stderr.print(Text.assemble(("error: ", "bold red"), plain(error.message)))
        for line in error.details[:MOST_DETAILS]:
            stderr.print(Text(f"  {plain(line)}"))
        if len(error.details) > MOST_DETAILS:
            stderr.print(Text(f"  and {len(error.details) - MOST_DETAILS} more"))
        if error.hint:
            stderr.print(Text.assemble(("hint: ", "bold"), plain(error.hint)))
        raise typer.Exit(error.exit_code) from None
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
