"""Limits that the pages of all kinds of results share: values of maps, and the size and number of pictures."""

from __future__ import annotations

from qvl_attn.core.types import Media
from qvl_attn.media.resize import fit_px

# The most map values of one result in a page, some 2 bytes each; the page lists what is left out beyond that.
MAX_VALUES = 4_000_000


# Parts that were left out of a page: a key of the page's strings and the values for its placeholders.
LeftOut = list[list[str | int]]


MAX_PICTURE_PX, MAX_FRAMES = 1280, 128


def drawn_px_of(media: Media, longest_px: int = MAX_PICTURE_PX) -> tuple[int, int]:
    """Return (width, height) of a picture in a page: not enlarged, its longer side at most `longest_px`."""
    return fit_px(media.size_px, min(max(media.frames.shape[1:3]), longest_px))
