"""A result in a notebook: its page in a sandboxed frame, over a picture for viewers that strip frames."""

from __future__ import annotations

from base64 import b64encode

from markupsafe import Markup

from qvl_attn.core.text import plain
from qvl_attn.media.resize import Picture
from qvl_attn.render.html.payload import jpeg

HEIGHT_PX = 860
# The frame covers the picture. Viewers of saved notebooks strip frames; the picture then stays.
_HTML = Markup(
    '<div style="position:relative;min-height:{height}px;overflow:hidden">'
    '<img src="data:image/jpeg;base64,{picture}" alt="{alt}" style="max-width:100%;max-height:{height}px">'
    '<iframe title="{alt}" sandbox="allow-scripts allow-downloads" loading="lazy" srcdoc="{page}" '
    'style="position:absolute;inset:0;width:100%;height:100%;border:0;background:Canvas"></iframe></div>'
)


def framed(page: str, picture: Picture, title: str) -> str:
    """Return the HTML of a page in a sandboxed frame that covers a picture.

    Args:
        page: HTML of the page.
        picture: (H, W, 3) uint8 RGB, visible where frames are stripped.
        title: title of the frame and alternative text of the picture.
    """
    html = _HTML.format(height=HEIGHT_PX, picture=b64encode(jpeg(picture)).decode(), alt=plain(title), page=page)
    return str(html)
