"""JSON of files that anybody may have written, as values of a given type; an error names the field that is wrong.

A type is a `TypedDict` for values that stay JSON, or a frozen dataclass, whose `__post_init__` may check more.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
from msgspec import Meta

from qvl_attn.core.errors import QvlAttnError
from qvl_attn.core.text import NOT_JSON, shortened

# Numbers as files may hold them: small enough for sums and squares to be finite, null where a figure is not defined;
# whole ones that every reader of JSON and NumPy's int64 can hold.
Finite = Annotated[float, Meta(ge=-1e100, le=1e100)]
Number = Finite | None
Share = Annotated[float, Meta(ge=0, le=1)] | None
Whole = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
# Numbers of layers and heads, which are counted up to: more than any model has.
LayerOrHead = Annotated[int, Meta(ge=0, le=2**16)]
T = TypeVar("T")
_PLACE = re.compile(r"(.*) - at `\$(.*)`", re.DOTALL)


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text, which must not have NaN, infinities or numbers beyond the range of floats.

    Unlike `msgspec`'s own parser it takes lone surrogates, which names of files may have.

    Raises:
        ValueError: it is not such a text.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_reject, parse_float=_finite)


def _reject(number: str) -> NoReturn:
    raise ValueError(f"{shortened(number)} {NOT_JSON}")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _reject(text)


def decoded(value: Any, kind: type[T], name: str, *, exact: bool = False) -> T:
    """Return a JSON value as a value of a type; fields that the type does not have are left out.

    Args:
        value: the value.
        kind: the type: a typed dictionary, a dataclass, or one of these in lists, dictionaries and tuples. Its own
            numbers are not converted, except whole ones to floats.
        name: where the value is from, for the message.
        exact: whether a field that the type, a dataclass, does not have is refused instead.

    Raises:
        ValueError: a field is missing or has another type, or the dataclass refuses it: `row.boxes: expected int, got
            str`.
    """
    try:
        converted = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        message, place = found.groups() if (found := _PLACE.fullmatch(text)) else (text, "")
        message = message.replace("`", "")
        raise ValueError(f"{name}{place}: {shortened(message[:1].lower() + message[1:])}") from None
    except QvlAttnError as error:
        raise ValueError(f"{name}: {error.message}") from None
    unknown = value.keys() - vars(converted).keys() if exact else ()
    if unknown:
        raise ValueError(f"{name}.{min(unknown)}: unknown")
    return converted
