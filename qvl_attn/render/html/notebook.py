"""A result in a notebook: its page in a frame that can reach nothing, over a picture for where frames are stripped."""

from __future__ import annotations

from base64 import b64encode

from markupsafe import Markup

from qvl_attn.core.text import plain
from qvl_attn.encoders.figures import draw_look
from qvl_attn.encoders.page import encoder_html
from qvl_attn.encoders.record import Look
from qvl_attn.media.resize import Picture
from qvl_attn.render.html.payload import jpeg
from qvl_attn.render.style import Drawing
from qvl_attn.results.codec import base_name
from qvl_attn.vqa.figures import draw_result
from qvl_attn.vqa.page import result_html
from qvl_attn.vqa.record import Result

HEIGHT_PX = 860
# The frame lies over the picture: whoever strips frames, as viewers of saved notebooks do, leaves the picture.
_HTML = Markup(
    '<div style="position:relative;min-height:{height}px;overflow:hidden">'
    '<img src="data:image/jpeg;base64,{picture}" alt="{alt}" style="max-width:100%;max-height:{height}px">'
    '<iframe title="{alt}" sandbox="allow-scripts allow-downloads" loading="lazy" srcdoc="{page}" '
    'style="position:absolute;inset:0;width:100%;height:100%;border:0;background:Canvas"></iframe></div>'
)


def notebook_html(result: Result) -> str:
    """HTML of a notebook's cell.

    Raises:
        CaptureError: there is no attention to draw.
    """
    drawn = draw_result(result, Drawing())
    page = result_html([result], [drawn.notes])
    return framed(page, drawn.overlay(), f"{result.question} — {result.mapped_answer}")


def look_notebook_html(look: Look) -> str:
    """The same of what an encoder saw."""
    told = f"{base_name(look.media.source)} — {look.maker.model}"
    return framed(encoder_html(look), draw_look(look, Drawing()).overlay(), told)


def framed(page: str, picture: Picture, told: str) -> str:
    """A page in a frame over a picture, both called by a line that tells what they are."""
    html = _HTML.format(height=HEIGHT_PX, picture=b64encode(jpeg(picture)).decode(), alt=plain(told), page=page)
    return str(html)
