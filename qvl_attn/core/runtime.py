"""Time and peak memory of stages, progress and cancelling, prefetching, and suppressing the stderr of C libraries.

Does not import torch; uses it only if it is already loaded.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar, copy_context
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Protocol, TypeVar

import psutil

from qvl_attn.core.errors import Cancelled, describe_error


class Progress(Protocol):
    """Called while something long is under way."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Receive the state of a stage.

        Args:
            stage: what is being done.
            done: how much of it is done.
            total: how much there is; 0 if it is unknown.
        """


def no_progress(stage: str, done: int, total: int, /) -> None:
    """Do nothing; the default of every `progress`."""
    del stage, done, total


# Returns whether what is under way should end, such as `threading.Event().is_set`. Called after each layer of a model,
# so it must be quick, and also in threads that read ahead.
Cancel = Callable[[], bool]
# Called with each new piece of an answer's text.
OnToken = Callable[[str], None]
# What the code inside a `cancelling` block is to ask; None outside of such blocks.
CANCEL: ContextVar[Cancel | None] = ContextVar("cancel", default=None)


def check_cancelled(cancel: Cancel | None) -> None:
    """Raise `Cancelled` if there is a `cancel` and it returns true, or fails: its fault is not that of a sample."""
    if cancel is None:
        return
    try:
        cancelled = cancel()
    except Exception as error:
        raise Cancelled(f"cancelled: cancel() raised {describe_error(error)}") from error
    if cancelled:
        raise Cancelled("cancelled: cancel() returned true")


@contextmanager
def cancelling(cancel: Cancel | None, progress: Progress = no_progress) -> Iterator[Progress]:
    """End the work inside the block with `Cancelled` soon after `cancel()` returns true.

    It is asked after each layer of a model that runs, each decoded frame and each call of the progress that this
    yields. It holds for this thread and for those of `prefetch`.

    Args:
        cancel: returns whether to end; None for never.
        progress: called by the progress that this yields.

    Raises:
        Cancelled: `cancel()` returned true.
    """
    if cancel is None:
        yield progress
        return

    def progress_or_end(stage: str, done: int, total: int, /) -> None:
        progress(stage, done, total)
        check_cancelled(cancel)

    outer = CANCEL.set(cancel)
    try:
        yield progress_or_end
    finally:
        CANCEL.reset(outer)


LOG = logging.getLogger(__name__)
_MEMORY_EVERY_S = 0.005


class Stages:
    """Seconds and peak memory of named stages.

    Attributes:
        seconds: duration of each stage.
        peak_bytes: memory of each stage: `host` is the largest resident size of the process, sampled every 5 ms,
            `before` its resident size when the stage began, `device` the most that torch allocated on all GPUs.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, dict[str, int]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the body of a `with` block as one stage."""
        process, done = psutil.Process(), threading.Event()
        before = peak = process.memory_info().rss

        def sample_memory() -> None:
            nonlocal peak
            while not done.wait(_MEMORY_EVERY_S):
                peak = max(peak, process.memory_info().rss)

        for gpu, cuda in _gpus():
            cuda.reset_peak_memory_stats(gpu)
        watcher = threading.Thread(target=sample_memory, daemon=True)
        watcher.start()
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 3)
            done.set()
            watcher.join()
            self.peak_bytes[name] = {"before": before, "host": max(peak, process.memory_info().rss)}
            allocated = [cuda.max_memory_allocated(gpu) for gpu, cuda in _gpus()]
            if allocated:
                self.peak_bytes[name]["device"] = sum(allocated)


def describe_memory(stage: str, peak: Mapping[str, int]) -> str:
    """Describe the peak memory of a stage in one line."""
    above = (peak["host"] - peak["before"]) / 2**20
    device = f", {peak['device'] / 2**20:,.0f} MiB on the GPU" if "device" in peak else ""
    return f"peak memory, {stage}: {peak['host'] / 2**20:,.0f} MiB, {above:,.0f} MiB more than at its start{device}"


def describe_size(size_bytes: float) -> str:
    """Describe a size in MiB, or from 1 GiB on in GiB."""
    return f"{size_bytes / 2**20:.0f} MiB" if size_bytes < 2**30 else f"{size_bytes / 2**30:.1f} GiB"


@contextmanager
def loading(size_bytes: int) -> Iterator[None]:
    """Log that weights of a size are loaded, and when they are, how long it took."""
    LOG.info(f"loading the weights: {describe_size(size_bytes)}")
    started_s = time.perf_counter()
    yield
    LOG.info(f"loaded in {time.perf_counter() - started_s:.1f} s")


def joined(first: Stages, second: Stages) -> Stages:
    """Return the stages of both."""
    union = Stages()
    union.seconds, union.peak_bytes = first.seconds | second.seconds, first.peak_bytes | second.peak_bytes
    return union


def _gpus() -> list[tuple[int, Any]]:
    """The index of each GPU with `torch.cuda`; empty unless torch is loaded and CUDA is initialized."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return [(gpu, cuda) for gpu in range(cuda.device_count())] if cuda and cuda.is_initialized() else []


T = TypeVar("T")
_STOP_EVERY_S = 0.05


def prefetch(items: Generator[T, None, None], depth: int = 3) -> Generator[T, None, None]:
    """Yield the same items, produced in a thread, with at most `depth` of them queued.

    An exception of the producer is raised in the consumer. Closing this generator also closes `items`.
    """
    queue: Queue[tuple[T | None, BaseException | None]] = Queue(depth)
    stop = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stop.is_set():
            with suppress(Full):
                queue.put((item, error), timeout=_STOP_EVERY_S)
                break

    def produce() -> None:
        try:
            with closing(items):
                for item in items:
                    put(item, None)
                    if stop.is_set():
                        return
            put(None, None)
        except BaseException as error:
            put(None, error)

    # A copy of the context: what is produced is cancelled with what is consumed.
    producer = threading.Thread(target=copy_context().run, args=(produce,), daemon=True)
    producer.start()
    try:
        while True:
            item, error = queue.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
        while producer.is_alive():
            try:
                queue.get_nowait()
            except Empty:
                producer.join(_STOP_EVERY_S)


def finished_within(seconds: float, run: Callable[[], T]) -> T:
    """Run something in a thread of its own and return its value; if it takes longer, stop it.

    A thread is stopped between two of its operations; one that is inside a long operation is left behind.

    Raises:
        TimeoutError: it took longer.
    """
    values: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            values.append(run())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(seconds)
    if worker.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident or 0), ctypes.py_object(SystemExit))
        worker.join(seconds)
        raise TimeoutError
    if errors:
        raise errors[0]
    return values[0]


# Two threads at once would restore each other's null device.
_STDERR = threading.RLock()


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Redirect the stderr of the process to the null device: Ray prints about its own log.

    What other threads write to it meanwhile is lost. Nothing happens in a process without stderr.
    """
    with _STDERR:
        saved_stderr = None
        with suppress(AttributeError, OSError, ValueError):  # None, a closed descriptor, a closed stream
            sys.stderr.flush()
            saved_stderr = os.dup(2)
        try:
            if saved_stderr is not None:
                with Path(os.devnull).open("wb") as null:
                    os.dup2(null.fileno(), 2)
            yield
        finally:
            if saved_stderr is not None:
                os.dup2(saved_stderr, 2)
                os.close(saved_stderr)
