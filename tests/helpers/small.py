"""How results are drawn whose pixels no test looks at."""

from qvl_attn import Drawing

SMALL_DRAWING = Drawing(draw_size_px=160)
