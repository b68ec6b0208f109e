"""Mutations of JSON values, bytes and arrays, for the fuzzing of loaders. All choices come from a `random.Random`."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

# Values that people's files and attackers' files have where something else belongs.
STRANGE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    7,
    10**6,
    2**31,
    2**63,
    -(2**63),
    10**40,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "1",
    "1/2",
    "nan",
    "../../etc/passwd",
    "a\nb",
    "a\x00b",
    "\u2028",
    "\ud800",
    "\x1b[31m",
    "<script>",
    "猫 " * 50,
    "x" * 10_000,
    [],
    [[]],
    [None],
    [1, 2],
    [[0, 0, 9, 9]],
    ["a"],
    {},
    {"a": 1},
    {"": None},
)


def strange(rng: random.Random) -> Any:
    """Return one of `STRANGE`, or a nested one."""
    value = copy.deepcopy(rng.choice(STRANGE))
    if rng.random() < 0.02:
        for _ in range(rng.choice((3, 50, 400))):
            value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def mutate_json(rng: random.Random, value: Any, changes: int = 0) -> Any:
    """Return a copy of a JSON value with some places replaced, removed, repeated, renamed or nudged.

    Args:
        rng: makes all choices.
        value: the JSON value.
        changes: how many places change; 0 for one to three.
    """
    value = copy.deepcopy(value)
    for _ in range(changes or rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            return strange(rng)
        holder, key = rng.choice(places)
        action = rng.random()
        if action < 0.45:
            holder[key] = strange(rng)
        elif action < 0.65:
            del holder[key]
        elif action < 0.75 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif action < 0.75:
            holder[rng.choice((f"{key}s", f"x_{key}", "meta", "a", ""))] = copy.deepcopy(holder[key])
        elif action < 0.85:
            other_holder, other_key = rng.choice(places)
            holder[key] = copy.deepcopy(other_holder.get(other_key) if isinstance(other_holder, dict) else holder[key])
        else:
            holder[key] = _nudged(rng, holder[key])
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place inside a JSON value, as its holder and key or index."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _nudged(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return rng.choice((value + 1, -value, value * 1000, value / 3, str(value), [value]))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice((value[:at], value + value, value.upper(), value[:at] + "\u2028" + value[at:], [value]))
    if isinstance(value, list):
        return rng.choice((value[:-1], value * 2, value[::-1], dict(enumerate(map(str, value)))))
    return [list(pair) for pair in value.items()]


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return data with bytes changed, cut off, removed, repeated or inserted in some places."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 1, 2, 4, 16, 256))
        action = rng.random()
        if action < 0.5 and at < len(changed):
            changed[at] = rng.choice((0, 255, 10, changed[at] ^ (1 << rng.randrange(8)), rng.randrange(256)))
        elif action < 0.6:
            del changed[at:]
        elif action < 0.75:
            del changed[at : at + length]
        elif action < 0.85:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at:at] = rng.randbytes(length)
    return bytes(changed)


def mutate_numbers(rng: random.Random, data: bytes) -> bytes:
    """Return data of the same length, with some of its numbers replaced by those at the limits of their types."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        length = rng.choice((1, 2, 2, 4, 4, 4, 8))
        reach = len(changed) if rng.random() < 0.4 else min(512, len(changed))
        at, top = rng.randrange(max(1, reach - length)), 256**length
        number = rng.choice((0, 1, 2, 255, 65535, top - 1, top // 2, top // 2 - 1, top // 16, rng.randrange(top)))
        changed[at : at + length] = (number % top).to_bytes(length, rng.choice(("big", "little")))
    return bytes(changed)


def mutate_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    """Return a copy of an array with another shape, type or other values."""
    try:
        return _mutated_array(rng, array)
    except (ValueError, TypeError, OverflowError):  # its values have no such type
        return array.reshape(-1)[:1]


def _mutated_array(rng: random.Random, array: np.ndarray) -> np.ndarray:
    action = rng.random()
    if action < 0.3 and array.size:
        changed = array.copy()
        at = rng.randrange(array.size)
        if array.dtype.kind in "fc":
            changed.flat[at] = rng.choice((np.nan, np.inf, -1.0, 0.0, 1e30, 2.0))
        elif array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            changed.flat[at] = rng.choice((0, 1, limits.max, limits.min, int(array.flat[at]) // 2 + 1))
        elif array.dtype.kind == "U":
            changed = array.astype("U8")
            changed.flat[at] = rng.choice(("", "x", "cls", "answer"))
        elif array.dtype.kind == "b":
            changed.flat[at] = not changed.flat[at]
        return changed
    if action < 0.45:
        return array.astype(rng.choice((np.float16, np.float64, np.int8, np.int64, np.complex64, "U4", bool, "M8[s]")))
    if action < 0.65 and array.ndim:
        axis = rng.randrange(array.ndim)
        return np.take(array, range(rng.randrange(array.shape[axis] + 1)), axis=axis)
    if action < 0.75:
        return array[None] if rng.random() < 0.5 else array.reshape(-1)
    if action < 0.85:
        return np.concatenate([array.reshape(-1)] * 2).reshape(2, -1)
    return rng.choice((np.zeros(0), np.zeros((0, 4)), np.array(rng.choice((0, -1, 2**40))), np.full_like(array, 1)))
