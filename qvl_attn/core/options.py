"""Options that are given by name: their names and types stand in a TypedDict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any, TypeVar, cast

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
