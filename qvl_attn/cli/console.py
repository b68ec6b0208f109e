"""What reaches the terminal: progress and faults on stderr, data on stdout, exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from rich.console import Console
from rich.text import Text

from qvl_attn.errors import QvlAttnError

_stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def harmless(text: str) -> str:
    """Text of users, models and files without what a terminal would obey: control characters and bidi marks."""
    return "".join(
        " " if character in "\n\t" else character
        for character in text
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
    )


def say(message: str) -> None:
    """A line of progress on stderr."""
    _stderr.print(Text(harmless(message), style="dim"))


def hush_libraries(*, bars: bool) -> None:
    """Keep the log lines of libraries off the terminal, and their bars where they would not be wanted."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    logging.getLogger("qwen_vl_utils").setLevel(logging.ERROR)
    if not (bars and sys.stderr.isatty()):
        from huggingface_hub.utils.tqdm import disable_progress_bars

        transformers_logging.disable_progress_bar()
        disable_progress_bars()


def go_offline() -> None:
    """Forbid the hub; to be called before anything imports huggingface_hub, which reads this at import."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def faults(*, debug: bool) -> Iterator[None]:
    """Known faults become one line and an exit code; SIGTERM unwinds like any exception, so drafts are removed."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except QvlAttnError as error:
        if debug:
            raise
        _stderr.print(Text.assemble(("error: ", "bold red"), harmless(error.message)))
        if error.hint:
            _stderr.print(Text.assemble(("hint: ", "bold"), harmless(error.hint)))
        raise typer.Exit(error.exit_code) from None
    finally:
        signal.signal(signal.SIGTERM, before)
