"""A result in a notebook: its page in a frame that can reach nothing, over a picture for where frames are stripped."""

from __future__ import annotations

from base64 import b64encode

from markupsafe import Markup

from qvl_attn.core.text import plain
from qvl_attn.media.resize import Picture
from qvl_attn.render.html.payload import jpeg

HEIGHT_PX = 860
# The frame lies over the picture: whoever strips frames, as viewers of saved notebooks do, leaves the picture.
_HTML = Markup(
    '<div style="position:relative;min-height:{height}px;overflow:hidden">'
    '<img src="data:image/jpeg;base64,{picture}" alt="{alt}" style="max-width:100%;max-height:{height}px">'
    '<iframe title="{alt}" sandbox="allow-scripts allow-downloads" loading="lazy" srcdoc="{page}" '
    'style="position:absolute;inset:0;width:100%;height:100%;border:0;background:Canvas"></iframe></div>'
)


def framed(page: str, picture: Picture, told: str) -> str:
    """A page in a frame over a picture, both called by a line that tells what they are."""
    html = _HTML.format(height=HEIGHT_PX, picture=b64encode(jpeg(picture)).decode(), alt=plain(told), page=page)
    return str(html)
