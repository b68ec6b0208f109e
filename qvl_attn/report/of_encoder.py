"""Stand-in until the page is merged."""

from collections.abc import Sequence

from qvl_attn.eye.result import Look


def encoder_html(look: Look, notes: Sequence[str]) -> str:
    """Nothing yet."""
    return ""
