"""Work on the next item while the one before is used: decoding, drawing and encoding at the same time."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import closing, suppress
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")
_LOOK_EVERY_S = 0.05


def ahead(items: Generator[T, None, None], depth: int = 3) -> Generator[T, None, None]:
    """The same items, made in a thread of their own, at most `depth` of them waiting.

    A fault in making them is raised where they are used. Whoever stops using them stops their making as well.
    """
    waiting: Queue[tuple[T | None, BaseException | None]] = Queue(depth)
    stop = threading.Event()

    def put(item: T | None, fault: BaseException | None) -> None:
        while not stop.is_set():
            with suppress(Full):
                waiting.put((item, fault), timeout=_LOOK_EVERY_S)
                break

    def make() -> None:
        try:
            with closing(items):
                for item in items:
                    put(item, None)
                    if stop.is_set():
                        return
            put(None, None)
        except BaseException as fault:
            put(None, fault)

    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    try:
        while True:
            item, fault = waiting.get()
            if fault is not None:
                raise fault
            if item is None:
                return
            yield item
    finally:
        stop.set()
        while maker.is_alive():
            try:
                waiting.get_nowait()
            except Empty:
                maker.join(_LOOK_EVERY_S)
