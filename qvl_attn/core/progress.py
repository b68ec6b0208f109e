"""Who is told how far long work has come."""

from __future__ import annotations

from collections.abc import Callable

# What is being done, how much of it is done, and of how much: 0 where that is not known.
Progress = Callable[[str, int, int], None]


def untold(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
    del what, done, total
