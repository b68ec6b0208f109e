"""Argument types of the scripts' command lines."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """Parse a number of steps, samples or threads.

    Raises:
        argparse.ArgumentTypeError: the number is less than 1.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: want 1 or more")
    return number
