"""Keeps quiet what writes to the terminal by itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def libraries_in_c_hushed() -> Iterator[None]:
    """Keep off the terminal what C libraries write to it (libtiff on a broken file, Ray about its own log)."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
