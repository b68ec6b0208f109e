"""How far long work has come: bars on a terminal, a line a minute in a log; with the rate and the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qvl_attn.cli.console import say, stderr
from qvl_attn.core.runtime import Progress, no_op

if TYPE_CHECKING:
    from rich.progress import TaskID

LOG_EVERY_S = 60.0


@dataclass(frozen=True)
class Pace:
    """When something was begun, and how much of it was done by then, as when a stopped run goes on."""

    begun_s: float
    done: int

    def words(self, now_s: float, done: int, total: int) -> str:
        """`3.2/s, 7 min left`; empty while nothing can be said."""
        seconds, count = now_s - self.begun_s, done - self.done
        if seconds <= 0 or count <= 0:
            return ""
        rate = count / seconds
        return f"{_rate(rate)}, {_span((total - done) / rate)} left" if total else _rate(rate)


def _rate(per_s: float) -> str:
    for unit, seconds in (("s", 1), ("min", 60)):
        if per_s * seconds >= 1:
            return f"{per_s * seconds:.1f}/{unit}"
    return f"{per_s * 3600:.1f}/h"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def progress_bars(*, shown: bool) -> Iterator[Progress]:
    """What is told what is being done, how much is done, and of how much."""
    if not shown:
        yield no_op
    elif stderr.is_terminal:
        with _bars() as tell:
            yield tell
    else:
        yield _log()


@contextmanager
def _bars() -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Bars(*columns, console=stderr, transient=True) as bars:
        tasks: dict[str, tuple[TaskID, Pace]] = {}

        def tell(what: str, done: int, total: int) -> None:
            now = time.monotonic()
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None, pace=""), Pace(now, done)
            task, pace = tasks[what]
            if done <= pace.done:  # the next of several, each of which begins anew
                pace = Pace(now, done)
                tasks[what] = task, pace
            shown = done < total or not total
            bars.update(task, completed=done, total=total or None, visible=shown, pace=pace.words(now, done, total))

        yield tell


def _log() -> Progress:
    paces: dict[str, Pace] = {}
    told_s = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told_s
        now = time.monotonic()
        if what not in paces or done <= paces[what].done:  # the next of several, each of which begins anew
            paces[what] = Pace(now, done)
        pace = paces[what]
        words = pace.words(now, done, total)
        if words and now - told_s >= LOG_EVERY_S and (done < total or not total):
            told_s = now
            say(f"{what}: {done:,}{f' of {total:,}' if total else ''}, {words}")

    return tell
