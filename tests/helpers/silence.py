"""What libraries print while a file is read: nothing, since a user would see it before our one line."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO


@contextmanager
def silent() -> Iterator[None]:
    """Raise an AssertionError with what Python, or a library beneath it, wrote to stderr."""
    sys.stderr.flush()
    saved, printed = os.dup(2), StringIO()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with redirect_stderr(printed):
                yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            text = printed.getvalue() + file.read().decode(errors="replace")
            if text:
                raise AssertionError(f"printed: {' '.join(text.split())[:300]}")
