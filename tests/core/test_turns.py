"""One call at a time: threads wait, a call from inside another is refused, and a turn ends however its block does."""

from __future__ import annotations

import threading
from contextvars import copy_context

import pytest

from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import prefetch
from qvl_attn.core.turns import Turns


def test_threads_wait_for_each_other():
    turns, inside, most = Turns("no"), [], []
    gate = threading.Barrier(4)

    def work():
        gate.wait()
        with turns.turn():
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


def test_a_call_from_inside_is_refused_in_this_thread_and_in_one_that_reads_ahead():
    turns = Turns("one at a time")

    def ask():
        with turns.turn():
            yield 1

    with turns.turn():
        with pytest.raises(InputError, match="one at a time"):
            list(ask())
        with pytest.raises(InputError, match="one at a time"):
            list(prefetch(ask()))
        assert list(prefetch(iter_of(Turns("another")))) == [1]
    assert list(ask()) == [1]


def iter_of(turns):
    with turns.turn():
        yield 1


def test_a_turn_ends_with_an_error_and_the_context_of_an_ended_call_is_free():
    turns = Turns("no")

    def fail():
        with turns.turn():
            contexts.append(copy_context())
            raise KeyboardInterrupt

    contexts = []
    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(KeyboardInterrupt):
        contexts[0].run(fail)
