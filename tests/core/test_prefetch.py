"""`prefetch`: the same items in order, errors raised in the consumer, no thread left running."""

from __future__ import annotations

import threading
import time

import pytest

from qvl_attn.core.runtime import prefetch


def test_the_same_items_in_their_order():
    assert list(prefetch(i * i for i in range(200))) == [i * i for i in range(200)]
    assert list(prefetch(i for i in ())) == []


def test_no_more_items_are_queued_than_allowed():
    produced = []

    def items():
        for i in range(50):
            produced.append(i)
            yield i

    for used in prefetch(items(), depth=3):
        time.sleep(0.002)
        assert len(produced) <= used + 1 + 3 + 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_is_raised_in_the_consumer(error):
    def items():
        yield 1
        raise error("broken")

    used = []
    with pytest.raises(error, match="broken"):
        used.extend(prefetch(items()))
    assert used == [1]


def test_closing_the_generator_closes_the_items():
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
    assert closed.wait(60)
    assert threading.active_count() == before
