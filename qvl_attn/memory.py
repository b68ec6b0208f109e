"""What memory is free, what a stage of the work takes of it, and what to say when it ends."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from qvl_attn.errors import MemoryLimitError
from qvl_attn.model import Placement

_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
_LOOK_EVERY_S = 0.005


def free_bytes(placement: Placement) -> int:
    """Memory that is free where the model runs."""
    if placement.device.startswith("cuda"):
        device = torch.device(placement.device)
        # What torch keeps for itself but does not use is free for the next question.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return int(psutil.virtual_memory().available)


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

        gpus = range(torch.cuda.device_count())
        for gpu in gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
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
            if gpus:
                self.peak_bytes[name]["device"] = sum(torch.cuda.max_memory_allocated(gpu) for gpu in gpus)


@contextmanager
def on_device(placement: Placement, tokens: int) -> Iterator[None]:
    """Turn an out-of-memory fault into one line, with the device's memory given back.

    Raises:
        MemoryLimitError: the memory ended.
    """
    try:
        yield
        return
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if not any(words in str(error) for words in _MEMORY_WORDS):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise MemoryLimitError(
        f"out of memory on {placement.device}" + (f" with a prompt of {tokens} tokens" if tokens else ""),
        "lower --max-pixels, or take a smaller model",
    )
