"""What the pages of all kinds of results share: how much a page carries, and at which size its pictures are drawn."""

from __future__ import annotations

from qvl_attn.core.types import Media
from qvl_attn.media.resize import fit_px

# The most values of maps that a page carries of one result, some 2 bytes each; what is beyond is left out, and said.
MAX_VALUES = 4_000_000


# What was left out: a key of the page's words, and what they speak of.
LeftOut = list[list[str | int]]


MAX_PICTURE_PX, MAX_FRAMES = 1280, 128


def drawn_px_of(media: Media, longest_px: int = MAX_PICTURE_PX) -> tuple[int, int]:
    """How large a page has a picture: no larger than it is, its longer side at most `longest_px`."""
    return fit_px(media.size_px, min(max(media.frames.shape[1:3]), longest_px))
