"""Seconds and peak memory of the stages of the work. Imports no torch, and asks it only where it is there already."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil

_LOOK_EVERY_S = 0.005


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
            while not done.wait(_LOOK_EVERY_S):
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


def memory_words(stage: str, peak: Mapping[str, int]) -> str:
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
