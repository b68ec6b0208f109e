"""Makes text of users, models and files safe for terminals, drawings and spreadsheets; formats numbers."""

from __future__ import annotations

import os
import re
import unicodedata

from qvl_attn.core.errors import InputError

_VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# Spreadsheets read a cell that begins with one of these as a formula (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
LONG = 60
_LONG_MESSAGE = 600
_LONG_VALUE = 260  # longer than most paths, which may be copied from a message
# What data sets write where a picture or a clip belongs.
_PLACEHOLDER = re.compile("<(?:image|video)>")


def check_written(name: str, text: str) -> None:
    """Refuse a text that is empty or not valid Unicode.

    Args:
        name: what the message calls it.
        text: as the user typed it.

    Raises:
        InputError: the text is empty or holds a lone surrogate.
    """
    if not text.strip():
        raise InputError(f"the {name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"the {name} is not valid Unicode text") from None


# The end of the message about NaN, infinities and numbers beyond the range of floats: see `typed_json.parse_json`.
NOT_JSON = "is not valid JSON"


def json_fault(error: Exception, otherwise: str) -> str:
    """Return what is wrong with a text that Python's parser of JSON refuses although it may be JSON, or `otherwise`."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if str(error).endswith(NOT_JSON):
        return str(error)
    return "a number with too many digits" if "integer string conversion" in str(error) else otherwise


def shortened(text: str, limit: int = LONG) -> str:
    """Return a text cut to `limit` characters, for lists and pages."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def quoted(value: object) -> str:
    """Return a value of a user or a file as Python writes it, cut like `shortened`; a text keeps its closing quote."""
    written = repr(value)
    if len(written) <= LONG or not isinstance(value, str):
        return shortened(written)
    return shortened(written, LONG - 1) + written[-1]


def argument(name: str, value: object = None) -> str:
    """Return an argument as messages name it, Python code between backticks: `layers`, or `layers='14-20'`.

    The command line writes it as an option: see `cli.spelling`.

    Args:
        name: name of the argument in the Python API.
        value: its value; of more than 260 characters it is cut like `quoted`, but a path never; None to name the
            argument alone.
    """
    if value is None:
        return f"`{name}`"
    written = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if len(written) > _LONG_VALUE and not isinstance(value, os.PathLike):
        written = quoted(value)
    return "`{}={}`".format(name, written.replace("`", r"\x60"))


def without_middle(text: str) -> str:
    """Return a message that is longer than any that we write without the middle of its long words, which were typed.

    If it is still too long, its own middle goes as well.
    """
    if len(text) > _LONG_MESSAGE:
        text = re.sub(r"\S{161,}", lambda word: f"{word[0][:100]}…{word[0][-59:]}", text)
    return text if len(text) <= _LONG_MESSAGE else f"{text[:150].rstrip()} … {text[-350:].lstrip()}"


def placeholder(text: str) -> str | None:
    """Return the first `<image>` or `<video>` of a question, which would be asked as text; None if it has none."""
    found = _PLACEHOLDER.search(text)
    return found and found[0]


def inert(text: str) -> str:
    """Return a text as a cell that spreadsheets do not read as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def plain(text: str) -> str:
    """Return text that is safe to print and draw: no control or format characters, all white space as spaces.

    Bidirectional marks, zero-width joiners, variation selectors and the ESC of terminal sequences are removed; a lone
    surrogate becomes U+FFFD; characters are composed (NFC).
    """
    safe = []
    for char in unicodedata.normalize("NFC", _VARIATION_SELECTORS.sub("", text)):
        category = unicodedata.category(char)
        if char.isspace() or category[0] == "Z":
            safe.append(" ")
        elif category == "Cs":
            safe.append("\ufffd")
        elif category not in ("Cc", "Cf"):
            safe.append(char)
    return "".join(safe)


def pluralize(count: int, noun: str) -> str:
    """Return a count with its noun, such as `picture` or `picture or clip`, in singular or plural."""
    return f"{count:,} {noun if count == 1 else noun.replace(' or ', 's or ') + 's'}"


def times_uniform(multiple: float, unit: str = "uniform") -> str:
    """Format a multiple of a uniform map, or of another unit."""
    return f"{multiple:.{1 if 0 < multiple < 100 else 0}f}× {unit}"


def compact(value: float) -> str:
    """Format an attention weight with three digits."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-4 else f"{value:.3g}"


def percent(share: float) -> str:
    """Format a share as a percentage."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.{1 if share < 0.0995 else 0}f} %"
