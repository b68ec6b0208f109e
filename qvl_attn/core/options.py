"""Options and settings: their names and types stand in a TypedDict or a dataclass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter, signature
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from qvl_attn.core.errors import ArgumentError
from qvl_attn.core.text import argument

T = TypeVar("T")
# A slip of the fingers, not another word: `on_token` is not `max_new_tokens`.
_NEAR = 0.7


def check_names(given: Mapping[str, object], options: type[Any], function: Callable[..., object]) -> None:
    """Refuse options that a function does not have.

    Args:
        given: the options as they were given.
        options: the TypedDict of the function's options.
        function: the function; its own parameters are suggested, too.

    Raises:
        ArgumentError: an option has another name; the hint has the nearest one, or all if none is near.
    """
    known = options.__annotations__
    for name in given:
        if name not in known:
            own = [p for p in signature(function).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
            optional = [p.name for p in own if p.kind is Parameter.KEYWORD_ONLY or p.default is not Parameter.empty]
            near = get_close_matches(name, [*known, *(p.name for p in own)], n=1, cutoff=_NEAR)
            hint = f"did you mean {argument(near[0])}?" if near else f"there are {', '.join([*optional, *known])}"
            raise ArgumentError(f"{argument(name)}: no such argument", hint)


def part_of(given: Mapping[str, object], options: type[T]) -> T:
    """Return those of the given options that a TypedDict has."""
    known = options.__annotations__
    return cast(T, {name: value for name, value in given.items() if name in known})


def set_types(settings: object, owner: type[Any] | None = None) -> None:
    """Check the types of a frozen dataclass's fields; to be called first in its `__post_init__`.

    Numbers become those of the annotations, so that `fps=2` and `fps=2.0` are the same settings.

    Args:
        settings: the dataclass.
        owner: whose annotations count; by default its own.

    Raises:
        TypeError: a value is of another type.
    """
    for name, value in with_types(vars(settings), owner or type(settings)).items():
        object.__setattr__(settings, name, value)


def with_types(given: Mapping[str, object], owner: type[Any]) -> dict[str, Any]:
    """Return values of the types that a TypedDict or a dataclass has for their names; other names are not checked.

    Raises:
        TypeError: a value is of another type.
    """
    hints = get_type_hints(owner)
    return {name: of_type(name, value, hints[name]) if name in hints else value for name, value in given.items()}


def of_type(name: str, value: object, hint: Any) -> Any:
    """Return the value of an argument as an annotation has it.

    Whole numbers become floats where floats belong, and NumPy's numbers become Python's; True is no number, and a text
    is no sequence. Of a `Literal` only the type counts.

    Args:
        name: name of the argument.
        value: its value.
        hint: classes, `Literal`, sequences of them, and their unions.

    Raises:
        TypeError: the value is of another type.
    """
    try:
        return _converted(value, hint)
    except TypeError:
        raise TypeError(f"{argument(name)}: want {_written(hint)}, got {_type_of(value)}") from None


def _converted(value: Any, hint: Any) -> Any:
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        for part in parts:
            try:
                return _converted(value, part)
            except TypeError:
                continue
    elif origin is Literal:
        return _converted(value, type(parts[0]))
    elif origin is float and not isinstance(value, bool) and isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:
            return -math.inf if value < 0 else math.inf
    elif origin is int and not isinstance(value, bool) and isinstance(value, Integral):
        return int(value)
    elif origin is Sequence and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        items = [_converted(item, parts[0]) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    elif origin not in (int, float, Sequence) and isinstance(value, origin):
        return value
    raise TypeError


def _written(hint: Any) -> str:
    """Return a type in words."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        *first, last = map(_written, parts)
        return f"{', '.join(first)} or {last}"
    if origin is Literal:
        return type(parts[0]).__name__
    if origin is Sequence:
        return f"a sequence of {_written(parts[0])}"
    return "None" if origin is NoneType else str(origin.__name__)


def _type_of(value: object) -> str:
    name = type(value).__name__
    if not isinstance(value, list | tuple) or not value:
        return "None" if value is None else name
    return f"{name} of {' and '.join(sorted({type(item).__name__ for item in value}))}"
