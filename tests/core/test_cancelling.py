"""Cancelling: who is asked, and when."""

from __future__ import annotations

import threading

import pytest

from qvl_attn.core.errors import Cancelled, QvlAttnError
from qvl_attn.core.runtime import CANCEL, cancelling, check_cancelled, no_progress, prefetch


def test_a_call_of_progress_ends_the_work_after_it_was_passed_on():
    calls, event = [], threading.Event()
    with cancelling(event.is_set, lambda *call: calls.append(call)) as progress:
        progress("a", 0, 2)
        event.set()
        with pytest.raises(Cancelled) as caught:
            progress("a", 1, 2)
    assert calls == [("a", 0, 2), ("a", 1, 2)]
    assert isinstance(caught.value, QvlAttnError)
    assert caught.value.exit_code == 130
    assert CANCEL.get() is None


def test_a_fault_of_cancel_is_a_cancel_with_its_cause():
    def fail():
        raise ValueError("on purpose")

    with pytest.raises(Cancelled, match=r"cancel\(\) raised ValueError: on purpose") as caught:
        check_cancelled(fail)
    assert isinstance(caught.value.__cause__, ValueError)


def test_without_cancel_nothing_is_wrapped_and_an_outer_one_stays():
    with cancelling(None, no_progress) as progress:
        assert progress is no_progress
        assert CANCEL.get() is None
    with cancelling(lambda: False), cancelling(None):
        assert CANCEL.get() is not None
    check_cancelled(None)


def test_what_is_prefetched_is_cancelled_with_what_is_consumed():
    event = threading.Event()

    def items():
        for i in range(10):
            check_cancelled(CANCEL.get())
            yield i
            event.set()

    with cancelling(event.is_set), pytest.raises(Cancelled):
        list(prefetch(items()))
    assert list(prefetch(items())) == [*range(10)]


def test_another_thread_is_not_cancelled():
    seen = []
    with cancelling(lambda: True):
        thread = threading.Thread(target=lambda: seen.append(CANCEL.get()))
        thread.start()
        thread.join()
    assert seen == [None]
