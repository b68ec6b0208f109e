"""Items made ahead in a thread: the same ones, faults where they are used, nothing left running."""

from __future__ import annotations

import threading
import time

import pytest

from qvl_attn.core.runtime import prefetch


def test_the_same_items_in_their_order():
    assert list(prefetch(i * i for i in range(200))) == [i * i for i in range(200)]
    assert list(prefetch(i for i in ())) == []


def test_no_more_wait_than_allowed():
    made = []

    def items():
        for i in range(50):
            made.append(i)
            yield i

    for used in prefetch(items(), depth=3):
        time.sleep(0.002)
        assert len(made) <= used + 1 + 3 + 2


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_a_fault_is_raised_where_the_items_are_used(fault):
    def items():
        yield 1
        raise fault("broken")

    used = []
    with pytest.raises(fault, match="broken"):
        used.extend(prefetch(items()))
    assert used == [1]


def test_whoever_stops_using_stops_the_making():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    before = threading.active_count()
    for _ in (used := prefetch(items())):
        used.close()
    assert closed.wait(5)
    assert threading.active_count() == before
