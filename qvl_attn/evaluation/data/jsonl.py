"""JSONL: UTF-8 text with one JSON value a line. Data sets and question sets are read with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import json_fault, quoted
from qvl_attn.evaluation.data.rows import Faults

MAX_LINE_BYTES = 2**20
MAX_ROWS = 1_000_000
# A byte order mark, or the zero bytes of the first two characters without one.
_UTF_16 = re.compile(rb"\xff\xfe|\xfe\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", re.DOTALL)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHOLE_FILE = re.compile(rb"\s*(?:(\[)\s*(?:\{.*)?|\{\s*)", re.DOTALL)


class _RepeatedKeyError(ValueError):
    """A JSON object has a key twice."""


def read_jsonl(path: Path, name: str, faults: Faults) -> Iterator[tuple[str, object]]:
    """Yield the place and the JSON value of each non-empty line; a line that is not JSON is added to `faults`.

    Args:
        path: the file.
        name: what messages call it.
        faults: every fault is added to it.

    Raises:
        InputError: the file cannot be read, is too long, or is JSON or UTF-16 as a whole.
    """
    first = True
    try:
        with path.open("rb") as lines:
            for number in range(1, MAX_ROWS + 2):
                line = lines.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                if number > MAX_ROWS:
                    raise InputError(f"{name} has more than {MAX_ROWS:,} lines", "split the file")
                if number == 1:
                    if _UTF_16.match(line):
                        raise InputError(f"{name} is UTF-16, not UTF-8", "save it as UTF-8")
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                if first and (whole := _WHOLE_FILE.fullmatch(line)):
                    found = "an array" if whole[1] else "an object over several lines"
                    raise InputError(f"{name}: a JSON file, {found}", "want JSONL: one JSON object a line")
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{name}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
                try:
                    text = line.decode().strip()
                    if text:
                        first = False
                        yield f"line {number}", json.loads(text, object_pairs_hook=_object)
                except UnicodeDecodeError:
                    faults.add(f"line {number}", "", "not UTF-8")
                except _RepeatedKeyError as error:
                    faults.add(f"line {number}", "", str(error))
                except (ValueError, RecursionError) as error:
                    faults.add(f"line {number}", "", json_fault(error, "not JSON"))
    except OSError as error:
        raise InputError(f"{name} cannot be read: {(error.strerror or 'not a file').lower()}") from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in value if names.count(name) > 1)
        raise _RepeatedKeyError(f"{quoted(twice)} is there twice")
    return value
