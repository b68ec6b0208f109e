"""The base class of all expected errors: one line that says what is wrong, a hint what to do, and an exit code.

Any other exception is a bug in this package and may show a traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager

# What was typed, a file's content or a library's message may have several lines; an error has one.
_ONE_LINE = str.maketrans(dict.fromkeys("\n\r\v\f\x85\u2028\u2029", " "))
_SHOWN_DETAILS = 10


class QvlAttnError(Exception):
    """An expected error: one clear line, and a hint.

    Args:
        message: what was given, and what is wrong with it; one line.
        hint: what to do about it; one line, or empty.
        details: further errors of the same kind, one line each.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "", details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message.translate(_ONE_LINE)
        self.hint = hint.translate(_ONE_LINE)
        self.details = tuple(line.translate(_ONE_LINE) for line in details)

    def __str__(self) -> str:
        shown = [f"  {line}" for line in self.details[:_SHOWN_DETAILS]]
        if len(self.details) > _SHOWN_DETAILS:
            shown.append(f"  and {len(self.details) - _SHOWN_DETAILS} more (.details)")
        return "\n".join([self.in_one_line(), *shown])

    def in_one_line(self) -> str:
        """Return message and hint, without the details."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(QvlAttnError):
    """The user's options, question or files are invalid: exit code 2."""

    exit_code = 2


class ArgumentError(InputError, TypeError):
    """A function has no argument of this name."""


class ModelError(QvlAttnError):
    """The model cannot be loaded or is not supported: exit code 1."""


class CaptureError(QvlAttnError):
    """The captured attention is invalid: exit code 1, and nothing is drawn."""


class MemoryLimitError(QvlAttnError):
    """There is not enough memory: exit code 1, raised before the forward pass where it can be estimated."""


class StoreError(QvlAttnError):
    """A result cannot be written or read: exit code 1."""


class Cancelled(QvlAttnError):  # noqa: N818  what the caller asked for is no error
    """The caller's `cancel()` returned true: exit code 130, like Ctrl-C. The model is as it was before."""

    exit_code = 130


class ResultExistsError(StoreError):
    """The result already exists, and overwriting was not requested."""


def describe_error(error: Exception) -> str:
    """Return an error as result rows store it: its type and message."""
    return f"{type(error).__name__}: {error.in_one_line() if isinstance(error, QvlAttnError) else error}"


@contextmanager
def numbered(i: int, count: int, noun: str) -> Iterator[None]:
    """Name the item in an error about one of several.

    Args:
        i: its index.
        count: how many there are.
        noun: what messages call one of them.

    Raises:
        InputError: the block raised one.
    """
    try:
        yield
    except InputError as error:
        prefix = f"{noun} {i + 1} of {count}: " if count > 1 else ""
        raise InputError(prefix + error.message, error.hint) from None
