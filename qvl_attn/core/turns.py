"""One call at a time on a model: calls from several threads wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar, cast

from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import check_callbacks

# The calls inside which this code runs, also in the threads of `prefetch`.
_CALLS: ContextVar[tuple[object, ...]] = ContextVar("calls", default=())


class Turns:
    """The turns of calls on one model.

    Args:
        refusal: message of the error that a call from inside another raises.
    """

    def __init__(self, refusal: str) -> None:
        self._refusal = refusal
        self._lock = threading.Lock()
        self._call: object | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other call is under way, and let others wait until this block has ended.

        Raises:
            InputError: this is called from inside such a block, which would wait for itself.
        """
        if self._call is not None and self._call in _CALLS.get():
            raise InputError(self._refusal)
        with self._lock:
            self._call = call = object()
            outer = _CALLS.set((*_CALLS.get(), call))
            try:
                yield
            finally:
                _CALLS.reset(outer)
                self._call = None


F = TypeVar("F", bound=Callable[..., Any])


def in_turn(method: F) -> F:
    """Let a public method wait for its turn on `self.engine`, after a check of its caller's functions.

    Raises:
        InputError: it is called from inside another call on the same engine.
        TypeError: `cancel`, `progress` or `on_token` cannot be called.
    """

    @wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        check_callbacks(**{name: options.get(name) for name in ("cancel", "progress", "on_token")})
        with self.engine.turns.turn():
            return method(self, *args, **options)

    return cast(F, call)
