"""Text of users, models and files made safe for a terminal, drawings and spreadsheets; numbers as text."""

from __future__ import annotations

import re
import unicodedata

_VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# A cell that begins so is a formula to a spreadsheet (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
LONG = 60


def shortened(text: str) -> str:
    """A text where one of many stands: its beginning, if it is long."""
    return text if len(text) <= LONG else text[: LONG - 1].rstrip() + "…"


def inert(text: str) -> str:
    """A text as a cell that a spreadsheet does not run."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def plain(text: str) -> str:
    """Text that is safe to print and to draw: no control or format characters, every white space a space.

    Bidirectional marks, zero-width joiners, variation selectors and the ESC of terminal sequences go; half a
    surrogate pair becomes U+FFFD; what can be composed is (NFC).
    """
    kept = []
    for char in unicodedata.normalize("NFC", _VARIATION_SELECTORS.sub("", text)):
        category = unicodedata.category(char)
        if char.isspace() or category[0] == "Z":
            kept.append(" ")
        elif category == "Cs":
            kept.append("\ufffd")
        elif category not in ("Cc", "Cf"):
            kept.append(char)
    return "".join(kept)


def times_uniform(multiple: float, unit: str = "uniform") -> str:
    """A multiple of a uniform map, or of another unit, to be read."""
    return f"{multiple:.{1 if 0 < multiple < 100 else 0}f}× {unit}"


def compact(value: float) -> str:
    """An attention weight, to be read."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-4 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share, to be read."""
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.{1 if share < 0.0995 else 0}f} %"
