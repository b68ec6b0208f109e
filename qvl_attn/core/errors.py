"""One error base: a line that says what is wrong, a hint that says what to do, and the exit code it deserves.

Anything that is not a `QvlAttnError` is a bug of ours and may show a traceback.
"""


class QvlAttnError(Exception):
    """A fault that is not a bug of ours: one clear line, and a hint.

    Args:
        message: what was typed or found, and what is wrong with it; one line.
        hint: what to do about it; one line, or empty.
        details: further faults of the same kind, a line each.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(QvlAttnError):
    """The user's words or files are at fault: exit code 2."""

    exit_code = 2


class ModelError(QvlAttnError):
    """The model cannot be had, or is not one that can be served: exit code 1."""


class CaptureError(QvlAttnError):
    """The attention that came back is not what attention must be: exit code 1, and never a picture."""


class MemoryLimitError(QvlAttnError):
    """The memory does not suffice: exit code 1, before the forward where it can be known."""


class StoreError(QvlAttnError):
    """A result cannot be written or read: exit code 1."""


class ResultExistsError(StoreError):
    """The same result is there already, and nobody asked to replace it."""


def describe_error(fault: Exception) -> str:
    """A fault as rows tell it."""
    return f"{type(fault).__name__}: {fault}"
