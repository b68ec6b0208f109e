"""A picture with a title above and lines beneath. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from qvl_attn.media.resize import Picture
from qvl_attn.render import lettering
from qvl_attn.render.layout import GREY, INK, PAGE

MARGIN_PX, GAP_PX, LEAST_WIDTH_PX = 32, 14, 720


def captioned(picture: Picture, title: str, lines: Sequence[str]) -> Picture:
    """A page with a picture, a title above it and lines in grey beneath it, wrapped to its width.

    Args:
        picture: (H, W, 3) uint8 RGB; it stands on the page as it is.
        title: in letters that have all scripts.
        lines: each a paragraph.
    """
    height, width = picture.shape[:2]
    inner = max(width, LEAST_WIDTH_PX)
    title_px, line_px = (round(size * min(max(inner / 1280, 0.85), 1.5)) for size in (28, 17))
    above = lettering.wrap(title, inner, title_px, max_lines=4)
    beneath = [piece for line in lines for piece in lettering.wrap(line, inner, line_px, max_lines=4)]
    top = MARGIN_PX + len(above) * lettering.line_height_px(title_px) + GAP_PX
    foot = top + height + GAP_PX
    bottom = foot + len(beneath) * lettering.line_height_px(line_px) + MARGIN_PX
    page = Image.new("RGB", (inner + 2 * MARGIN_PX, bottom), PAGE)
    lettering.draw_lines(page, (MARGIN_PX, MARGIN_PX), above, title_px, INK)
    page.paste(Image.fromarray(picture), (MARGIN_PX, top))
    lettering.draw_lines(page, (MARGIN_PX, foot), beneath, line_px, GREY)
    return np.asarray(page)
