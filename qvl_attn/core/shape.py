"""Checks that a JSON value which was read back has the shape that it was written with."""

from __future__ import annotations

import math
from typing import Any

# A type, a list of one shape, `{str: shape}` for any names, `{name: shape}` for these names (others are allowed), or a
# tuple of alternatives, of which None is one.
Shape = Any
NUMBER = (float, None)  # a finite number; null where a figure is not defined


def check_shape(value: Any, shape: Shape, name: str) -> None:
    """Check a JSON value.

    Args:
        value: the value.
        shape: what it should be: `str`, `bool`, `int`, `float` (finite, whole numbers too), None, or of these as above.
        name: where it stands, for the message.

    Raises:
        ValueError: it has another shape.
    """
    if isinstance(shape, tuple):
        if value is not None or None not in shape:
            check_shape(value, shape[0], name)
    elif isinstance(shape, list):
        _require(isinstance(value, list), name, "a list")
        for i, item in enumerate(value):
            check_shape(item, shape[0], f"{name}[{i}]")
    elif isinstance(shape, dict):
        _require(isinstance(value, dict), name, "an object")
        if str in shape:
            shape = dict.fromkeys(value, shape[str])
        for key, inner in shape.items():
            _require(key in value, f"{name}.{key}", "a value")
            check_shape(value[key], inner, f"{name}.{key}")
    elif shape is float:
        _require(isinstance(value, int | float) and not isinstance(value, bool), name, "a number")
        try:
            finite = math.isfinite(value)
        except OverflowError:  # a whole number beyond the range of floats
            finite = False
        _require(finite, name, "a finite number")
    else:
        fits = isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
        _require(fits, name, {str: "a text", int: "a whole number", bool: "true or false"}[shape])


def _require(condition: bool, name: str, want: str) -> None:
    if not condition:
        raise ValueError(f"{name}: want {want}")
