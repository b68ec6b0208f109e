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
from functools import partial
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Protocol, TypeVar

import psutil

from qvl_attn.core.errors import Cancelled
from qvl_attn.core.text import argument


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


T = TypeVar("T")
# Returns whether what is under way should end, such as `threading.Event().is_set`. Called after each layer of a model,
# so it must be quick, and also in threads that read ahead.
Cancel = Callable[[], bool]
# Called with each new piece of an answer's text.
OnToken = Callable[[str], None]
# Ends the work inside a `cancelling` block that has a `cancel` if that returns true; None outside of such blocks.
CANCEL: ContextVar[Callable[[], None] | None] = ContextVar("cancel", default=None)
# What is called while weights are read: whatever needs a model first loads it, also where no progress is passed on.
PROGRESS: ContextVar[Progress] = ContextVar("progress", default=no_progress)


@contextmanager
def reporting(progress: Progress) -> Iterator[Progress]:
    """Report the weights that are read inside the block to `progress`, in this thread and in those of `prefetch`."""
    outer = PROGRESS.set(progress)
    try:
        yield progress
    finally:
        PROGRESS.reset(outer)


class _Raised(BaseException):
    """What a caller's function raised, on its way to the caller.

    No `except Exception` on the way takes it for a fault of a file, of the model or of one sample.
    """

    def __init__(self, error: Exception, block: object) -> None:
        super().__init__()
        self.error: Exception | None = error
        self.block = block

    def take(self) -> Exception:
        """Return the error, and keep neither it nor the frames of the work: frames that hold this end with it."""
        error, self.error = self.error, None
        self.__traceback__ = self.__context__ = self.__cause__ = None
        assert error is not None
        return error


def check_cancelled() -> None:
    """Inside a `cancelling` block, end the work if the caller's `cancel()` returns true."""
    if (end_if_cancelled := CANCEL.get()) is not None:
        end_if_cancelled()


def check_callbacks(**callbacks: Callable[..., object] | None) -> None:
    """Check the functions of a caller: `cancel`, `progress`, `on_token`.

    Raises:
        TypeError: one of them cannot be called.
    """
    examples = {"cancel": "event.is_set", "progress": "print", "on_token": "print"}
    for name, callback in callbacks.items():
        if callback is not None and not callable(callback):
            raise TypeError(
                f"{argument(name)}: want a function such as {examples[name]}, got {type(callback).__name__}"
            )


class cancelling:  # noqa: N801  used like a function
    """Call a caller's functions inside the block, and end the block with what they raise, unchanged.

    `cancel` is asked after each layer of a model that runs, each decoded frame and each call of the progress that this
    yields, so for each weight that is read, too: see `PROGRESS`. It holds for this thread and for those of `prefetch`.
    The block yields (progress, on_token) to call.

    Args:
        cancel: returns whether to end the block with `Cancelled`; None for never.
        progress: called by the progress that this yields; None for nothing.
        on_token: called by the function that this yields; None yields None.

    Raises:
        Cancelled: `cancel()` returned true.
        TypeError: one of them cannot be called.
    """

    def __init__(
        self, cancel: Cancel | None = None, progress: Progress | None = None, on_token: OnToken | None = None
    ) -> None:
        check_callbacks(cancel=cancel, progress=progress, on_token=on_token)
        self.cancel, self.progress, self.on_token = cancel, progress, on_token

    def __enter__(self) -> tuple[Progress, OnToken | None]:
        self._outer = CANCEL.set(CANCEL.get() if self.cancel is None else self._end_if_cancelled)
        self._outer_progress = PROGRESS.set(self._progress_or_end)
        return self._progress_or_end, None if self.on_token is None else partial(self._call, self.on_token)

    def __exit__(self, kind: object, raised: BaseException | None, traceback: object) -> None:
        CANCEL.reset(self._outer)
        PROGRESS.reset(self._outer_progress)
        if not isinstance(raised, _Raised) or raised.block is not self:
            return
        error = raised.take()
        context = error.__context__
        del raised, traceback
        try:
            raise error
        finally:
            error.__context__ = context  # not `raised`, which is none of the caller's business
            del error, context

    def _call(self, function: Callable[..., T], *values: object) -> T:
        try:
            return function(*values)
        except Exception as error:
            raise _Raised(error, self) from error

    def _end_if_cancelled(self) -> None:
        if self.cancel is not None and self._call(self.cancel):
            raise _Raised(Cancelled("cancelled: cancel() returned true"), self)

    def _progress_or_end(self, stage: str, done: int, total: int, /) -> None:
        if self.progress is not None:
            self._call(self.progress, stage, done, total)
        check_cancelled()


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
