"""Cancelling: who is asked, and when; and what a caller's functions raise comes out as it is."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from qvl_attn.core.errors import Cancelled, QvlAttnError
from qvl_attn.core.runtime import CANCEL, PROGRESS, cancelling, check_cancelled, no_progress, prefetch


def test_a_call_of_progress_ends_the_work_after_it_was_passed_on():
    calls, event = [], threading.Event()

    def work(progress):
        progress("a", 0, 2)
        event.set()
        progress("a", 1, 2)

    with (
        pytest.raises(Cancelled) as caught,
        cancelling(event.is_set, lambda *call: calls.append(call)) as (progress, _),
    ):
        work(progress)
    assert calls == [("a", 0, 2), ("a", 1, 2)]
    assert isinstance(caught.value, QvlAttnError)
    assert caught.value.exit_code == 130
    assert CANCEL.get() is None


def fail_with(error):
    def fail(*values):
        try:
            raise KeyError("context")
        except KeyError:
            raise error from LookupError("cause")

    return fail


ERRORS = [ValueError, OSError, MemoryError, RuntimeError, Cancelled, StopIteration, KeyboardInterrupt]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("which", ["cancel", "progress", "on_token"])
def test_what_a_function_raises_comes_out_unchanged_past_all_that_looks_for_other_faults(which, error):
    expected = error("on purpose")

    def work(progress, on_token):
        try:
            if on_token is not None:
                on_token("two")
            progress("a", 0, 2)
        except Exception as fault:
            raise AssertionError("it was taken for another fault") from fault
        yield

    with pytest.raises(error) as caught, cancelling(**{which: fail_with(expected)}) as (progress, on_token):
        list(prefetch(work(progress, on_token)))
    assert caught.value is expected
    assert caught.traceback[-1].name == "fail", "its traceback leads to the caller's line"
    assert isinstance(expected.__cause__, LookupError)
    assert isinstance(expected.__context__, KeyError)
    assert CANCEL.get() is None


def test_a_pool_of_threads_carries_it():
    expected = OSError("on purpose")

    def work(progress):
        try:
            with ThreadPoolExecutor(1) as pool:
                list(pool.map(lambda done: progress("a", done, 2), range(2)))
        except Exception as fault:
            raise AssertionError("the pool took it for its own") from fault

    with (
        pytest.raises(OSError, match="on purpose") as caught,
        cancelling(progress=fail_with(expected)) as (progress, _),
    ):
        work(progress)
    assert caught.value is expected


def test_what_the_work_raises_itself_passes():
    with pytest.raises(ValueError, match="of the work"), cancelling(lambda: False, print):
        raise ValueError("of the work")


def test_an_inner_block_leaves_what_belongs_to_an_outer_one():
    expected = OSError("on purpose")

    def inner(progress):
        try:
            with cancelling(progress=progress) as (again, _):
                again("a", 0, 2)
        except Exception as fault:
            raise AssertionError("the inner block gave it up") from fault

    with (
        pytest.raises(OSError, match="on purpose") as caught,
        cancelling(progress=fail_with(expected)) as (progress, _),
    ):
        inner(progress)
    assert caught.value is expected


def test_what_the_work_held_is_free_with_the_error():
    """Without a search for cycles: an answer's tensors are large."""

    class Held:
        pass

    held: list[weakref.ref[Held]] = []

    def work(progress):
        large = Held()
        held.append(weakref.ref(large))
        try:
            progress("a", 0, 2)
        except BaseException as error:
            kept = error  # as pools and libraries do  # noqa: F841
            raise

    gc.disable()
    try:
        with pytest.raises(Cancelled), cancelling(lambda: True) as (progress, _):
            work(progress)
        assert held[0]() is None
    finally:
        gc.enable()


def test_without_functions_nothing_is_called_and_an_outer_cancel_stays():
    with cancelling() as (progress, on_token):
        progress("a", 0, 2)
        assert on_token is None
        assert CANCEL.get() is None
    with cancelling(lambda: False), cancelling():
        assert CANCEL.get() is not None
    check_cancelled()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cancel": threading.Event()}, "`cancel`: want a function such as event.is_set, got Event"),
        ({"cancel": True}, "`cancel`: want a function such as event.is_set, got bool"),
        ({"progress": []}, "`progress`: want a function such as print, got list"),
        ({"on_token": "print"}, "`on_token`: want a function such as print, got str"),
    ],
)
def test_what_cannot_be_called_is_refused(given, message):
    with pytest.raises(TypeError) as caught, cancelling(**given):
        pass
    assert str(caught.value) == message


def test_what_is_prefetched_is_cancelled_with_what_is_consumed():
    event = threading.Event()

    def items():
        for i in range(10):
            check_cancelled()
            yield i
            event.set()

    with pytest.raises(Cancelled), cancelling(event.is_set):
        list(prefetch(items()))
    assert list(prefetch(items())) == [*range(10)]


def test_what_reads_weights_reports_to_the_innermost_block():
    calls, inner = [], []
    with cancelling(progress=lambda *call: calls.append(call)):
        PROGRESS.get()("a", 0, 1)
        with pytest.raises(Cancelled), cancelling(lambda: True, lambda *call: inner.append(call)):
            PROGRESS.get()("b", 0, 1)
        PROGRESS.get()("a", 1, 1)
    assert (calls, inner) == ([("a", 0, 1), ("a", 1, 1)], [("b", 0, 1)])
    assert PROGRESS.get() is no_progress


def test_another_thread_is_not_cancelled():
    seen = []
    with cancelling(lambda: True):
        thread = threading.Thread(target=lambda: seen.append(CANCEL.get()))
        thread.start()
        thread.join()
    assert seen == [None]
