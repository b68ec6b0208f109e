"""How long work runs: stages with their seconds and peak memory, progress, prefetching, quiet libraries.

Imports no torch, and asks it only where it is loaded already.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, TypeVar

import psutil

# What is being done, how much of it is done, and of how much: 0 where that is not known.
Progress = Callable[[str, int, int], None]


def no_op(*values: object) -> None:
    """A callback that does nothing."""
    del values


_MEMORY_EVERY_S = 0.005


class Stages:
    """Seconds and peak memory of named stages.

    Attributes:
        seconds: by stage.
        peak_bytes: by stage; `host` is the largest resident size of the process, looked at every 5 ms, `before` what it
            was when the stage began, `device` the most that torch held on all GPUs.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, dict[str, int]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        process, done = psutil.Process(), threading.Event()
        before = peak = process.memory_info().rss

        def look() -> None:
            nonlocal peak
            while not done.wait(_MEMORY_EVERY_S):
                peak = max(peak, process.memory_info().rss)

        for gpu, cuda in _gpus():
            cuda.reset_peak_memory_stats(gpu)
        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 3)
            done.set()
            watcher.join()
            self.peak_bytes[name] = {"before": before, "host": max(peak, process.memory_info().rss)}
            held = [cuda.max_memory_allocated(gpu) for gpu, cuda in _gpus()]
            if held:
                self.peak_bytes[name]["device"] = sum(held)


def describe_memory(stage: str, peak: Mapping[str, int]) -> str:
    """The peak memory of a stage, to be read."""
    above = (peak["host"] - peak["before"]) / 2**20
    device = f", {peak['device'] / 2**20:,.0f} MiB on the GPU" if "device" in peak else ""
    return f"peak memory, {stage}: {peak['host'] / 2**20:,.0f} MiB, {above:,.0f} of them since it began{device}"


def joined(one: Stages, other: Stages) -> Stages:
    """The stages of both."""
    both = Stages()
    both.seconds, both.peak_bytes = one.seconds | other.seconds, one.peak_bytes | other.peak_bytes
    return both


def _gpus() -> list[tuple[int, Any]]:
    """The GPUs that torch has begun to use, each with `torch.cuda`."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return [(gpu, cuda) for gpu in range(cuda.device_count())] if cuda and cuda.is_initialized() else []


T = TypeVar("T")
_STOP_EVERY_S = 0.05


def prefetch(items: Generator[T, None, None], depth: int = 3) -> Generator[T, None, None]:
    """The same items, made in a thread of their own, at most `depth` of them waiting.

    A fault in making them is raised where they are used. Whoever stops using them stops their making as well.
    """
    waiting: Queue[tuple[T | None, BaseException | None]] = Queue(depth)
    stop = threading.Event()

    def put(item: T | None, fault: BaseException | None) -> None:
        while not stop.is_set():
            with suppress(Full):
                waiting.put((item, fault), timeout=_STOP_EVERY_S)
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

    producer = threading.Thread(target=make, daemon=True)
    producer.start()
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
        while producer.is_alive():
            try:
                waiting.get_nowait()
            except Empty:
                producer.join(_STOP_EVERY_S)


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Keep off the terminal what C libraries write to it (libtiff on a broken file, Ray about its own log)."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
