"""Progress of long work, with rate and time left: bars on a terminal, a line per minute in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvl_attn.cli.console import print_line, stderr
from qvl_attn.core.runtime import Progress, no_progress, reporting

if TYPE_CHECKING:
    from rich.progress import TaskID

LOG_EVERY_S = 60.0


@dataclass(frozen=True)
class Pace:
    """When a stage began, and how much of it was done by then (more than 0 if a stopped run continues)."""

    started_s: float
    done: int

    def describe(self, now_s: float, done: int, total: int) -> str:
        """Return rate and time left, such as `3.2/s, 7 min left`; empty until something is done."""
        seconds, count = now_s - self.started_s, done - self.done
        if seconds <= 0 or count <= 0:
            return ""
        rate = count / seconds
        return f"{_rate(rate)}, {_duration((total - done) / rate)} left" if total else _rate(rate)


def _rate(per_s: float) -> str:
    for unit, seconds in (("s", 1), ("min", 60)):
        if per_s * seconds >= 1:
            return f"{per_s * seconds:.1f}/{unit}"
    return f"{per_s * 3600:.1f}/h"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def progress_bars(*, enabled: bool) -> Iterator[Progress]:
    """Yield a progress callback, called with (stage, done, total); weights that are read are reported to it."""
    if not enabled:
        yield no_progress
        return
    with _bars() if stderr.is_terminal else nullcontext(_log()) as update, reporting(update):
        yield update


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    fields = (TextColumn(f"{{task.fields[{name}]}}") for name in ("count", "pace"))
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        *fields,
        console=stderr,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # a file or pipe gets what is printed, a terminal shows it above the bars
    )
    tasks: dict[str, tuple[TaskID, Pace]] = {}

    def update(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total or None, count="", pace=""), Pace(now, done)
        task, pace = tasks[stage]
        if done <= pace.done:  # the same stage begins again, for the next item
            pace = Pace(now, done)
            tasks[stage] = task, pace
        if done == total > 0:
            del tasks[stage]
            bars.remove_task(task)
        else:
            count = f"{done:,}/{total:,}" if total else f"{done:,}"
            bars.update(task, completed=done, total=total or None, count=count, pace=pace.describe(now, done, total))
        # Between stages the terminal is free: for results, and for bars of others (a download).
        if tasks:
            bars.start()
        else:
            bars.stop()

    try:
        yield update
    finally:
        bars.stop()


def _log() -> Progress:
    paces: dict[str, Pace] = {}
    printed_s = time.monotonic()

    def update(stage: str, done: int, total: int) -> None:
        nonlocal printed_s
        now = time.monotonic()
        if stage not in paces or done <= paces[stage].done:  # the same stage begins again, for the next item
            paces[stage] = Pace(now, done)
        pace = paces[stage]
        description = pace.describe(now, done, total)
        if description and now - printed_s >= LOG_EVERY_S and (done < total or not total):
            printed_s = now
            print_line(f"{stage}: {done:,}{f' of {total:,}' if total else ''}, {description}")

    return update
