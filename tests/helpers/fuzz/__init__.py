"""Seeded fuzzing of everything that reads a user's file: our own error or a result, and nothing else.

Each module of this package fuzzes one loader. It has

- `NAME: str`, which `scripts/fuzz.py --only NAME` takes;
- `try_one(rng: random.Random, folder: pathlib.Path) -> None`, which builds one mutated input in the empty `folder`,
  all its choices taken from `rng`, and loads it as a user's file is loaded. It returns if the result is a value. A
  `QvlAttnError` may simply leave it: the runner counts it. Any other exception is a fault, and so are a warning and
  more time than the limit;
- optionally `QUICK_INPUTS: int`, how many inputs the suite tries (`QUICK_INPUTS` below if it has none). All modules
  together must take less than 30 s on one slow core. What the inputs are built from is built once (`functools.cache`).

The input of a seed is always the same: input `i` of a run that begins at seed `s` is that of seed `s + i`.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from qvl_attn.core.errors import QvlAttnError

QUICK_INPUTS = 100
PATIENCE = 30


class TooSlow(BaseException):
    """An input took longer than the limit. Not an `Exception`, so that nothing catches it on its way."""


@dataclass
class Outcome:
    """What a loader made of its inputs: counts, and for each fault its seed, kind and traceback."""

    name: str
    inputs: int = 0
    values: int = 0
    own_errors: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    faults: list[tuple[int, str, str]] = field(default_factory=list)


def fuzz_modules() -> dict[str, ModuleType]:
    """Return the modules of this package by their `NAME`."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {module.NAME: module for module in sorted(modules, key=lambda module: module.NAME)}


def fuzz(module: ModuleType, inputs: int, seed: int = 0, limit_s: float = 10.0) -> Outcome:
    """Try the inputs of `inputs` seeds, beginning at `seed`; each may take `limit_s` of processor time."""
    outcome = Outcome(module.NAME)
    for number in range(seed, seed + inputs):
        start_s = time.perf_counter()
        outcome.inputs += 1
        try:
            with tempfile.TemporaryDirectory() as folder, _strict_warnings(), _limit(limit_s):
                module.try_one(random.Random(f"{module.NAME} {number}"), Path(folder))
            outcome.values += 1
        except QvlAttnError:
            outcome.own_errors += 1
        except (Exception, TooSlow) as fault:
            frame = next(iter(traceback.extract_tb(fault.__traceback__)[::-1]))
            kind = f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]} ({frame.filename}:{frame.lineno})"
            outcome.faults.append((number, kind, traceback.format_exc()))
        took_s = time.perf_counter() - start_s
        outcome.seconds, outcome.slowest_s = outcome.seconds + took_s, max(outcome.slowest_s, took_s)
    return outcome


@contextmanager
def _strict_warnings() -> Iterator[None]:
    """Raise warnings as errors: a user would see their text on the terminal. Deprecations are not the input's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise `TooSlow` in the main thread after this processor time, which a busy machine does not lengthen.

    What waits for ever takes no processor time, so the clock counts as well, `PATIENCE` times as long.
    """

    def stop(*_: object) -> None:
        raise TooSlow(f"more than {seconds:g} s")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE * seconds)}
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, limit_s in timers.values():
        signal.setitimer(timer, limit_s)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
