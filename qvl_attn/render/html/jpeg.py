"""Pictures as JPEG bytes, for pages that carry their pictures in themselves. (H, W, 3) uint8 RGB in."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from qvl_attn.media.resize import Picture

QUALITY = 90


def jpeg(picture: Picture) -> bytes:
    """A picture as a JPEG file, its colours as fine as its brightness."""
    file = BytesIO()
    # Not optimize: Pillow gives it a byte a pixel to write into, which is too little for noise.
    Image.fromarray(picture).save(file, format="JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
