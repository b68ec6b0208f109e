"""Pictures of every format and kind, still and animated, as files, frames of a folder, and from their headers alone."""

from __future__ import annotations

import random
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, features

from qvl_attn.media.image import MAX_PIXELS, load_picture, upright_size_px
from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import open_clip, sample_clip
from tests.helpers.mutations import mutate_bytes, mutate_numbers
from tests.helpers.silence import silent

NAME = "pictures"
QUICK_INPUTS = 200
SIZE_PX = (23, 17)


@cache
def seeds() -> dict[str, bytes]:
    """Return small valid files by name."""
    rng = np.random.default_rng(0)
    width, height = SIZE_PX
    colours = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    clear = colours.copy()
    clear.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)))
    grey16 = Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    numbers = Image.fromarray(rng.normal(size=(height, width)).astype(np.float32))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ImageDescription] = "cats"

    def several(**options: Any) -> dict[str, Any]:
        return {"save_all": True, "append_images": [colours.rotate(90), colours.rotate(180)], **options}

    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "a.jpg": (colours, {"exif": exif}),
        "progressive.jpg": (colours, {"progressive": True}),
        "cmyk.jpg": (colours.convert("CMYK"), {}),
        "grey.jpg": (colours.convert("L"), {}),
        "a.mpo": (colours, several()),
        "a.png": (colours, {"exif": exif}),
        "clear.png": (clear, {}),
        "palette.png": (colours.quantize(9), {"transparency": 3}),
        "bits.png": (colours.convert("1"), {}),
        "grey16.png": (grey16, {}),
        "moving.png": (colours, several(duration=40, default_image=True)),
        "a.webp": (colours, {"exif": exif}),
        "lossless.webp": (clear, {"lossless": True}),
        "moving.webp": (colours, several(duration=40)),
        "a.gif": (colours.quantize(7), {}),
        "moving.gif": (colours, several(duration=40, disposal=2)),
        "a.bmp": (colours, {}),
        "a.tif": (colours, {"exif": exif}),
        "lzw.tif": (colours, {"compression": "tiff_lzw"}),
        "deflate.tif": (grey16, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (colours, {"compression": "jpeg"}),
        "fax.tif": (colours.convert("1"), {"compression": "group4"}),
        "pages.tif": (colours, several(compression="packbits")),
        "float.tif": (numbers, {}),
        "lab.tif": (Image.merge("LAB", colours.split()), {}),
        "cmyk.tif": (colours.convert("CMYK"), {"compression": "tiff_lzw"}),
    }
    if features.check("avif"):
        kinds |= {"a.avif": (colours, {"exif": exif}), "moving.avif": (colours, several())}
    files = {}
    for name, (image, options) in kinds.items():
        stream = BytesIO()
        suffix = Path(name).suffix[1:]
        image.copy().save(stream, format={"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix), **options)
        files[name] = stream.getvalue()
    try:
        import pillow_heif
    except ImportError:
        return files
    stream = BytesIO()
    pillow_heif.from_pillow(colours.resize((64, 64))).save(stream, exif=exif.tobytes())
    return files | {"a.heic": stream.getvalue()}


def try_one(rng: random.Random, folder: Path) -> None:
    name = rng.choice(list(seeds()))
    path = folder / (name if rng.random() < 0.8 else rng.choice(list(seeds())))
    data = rng.choice((mutate_bytes, mutate_numbers))(rng, seeds()[name])
    path.write_bytes(_with_checksums(data) if rng.random() < 0.7 else data)
    if rng.random() < 0.1:
        return _read_frames(rng, path)
    with silent():
        size_px = upright_size_px(path, path.name) if rng.random() < 0.3 else None
        media = load_picture(path, stretch=rng.random() < 0.3)
    _, height, width, _ = media.frames.shape
    assert media.frames.dtype == np.uint8
    assert media.size_px == (width, height)
    assert width * height <= MAX_PIXELS
    assert size_px in (None, media.size_px), f"{size_px} by the header, {media.size_px} decoded"
    assert all(note.isprintable() for note in media.notes), media.notes
    return None


def _with_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks have the right checksums, so that its decoder goes on to their content."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    place, corrected = 8, bytearray(data)
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        corrected[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")[: max(0, len(data) - end)]
        place = end + 4
    return bytes(corrected)


def _read_frames(rng: random.Random, path: Path) -> None:
    """Read an animation, or a folder with the picture among its frames, as a clip."""
    source = path
    if rng.random() < 0.3:
        source = path.parent / "frames"
        source.mkdir()
        for number in range(3):
            (source / f"{number:03d}{path.suffix}").write_bytes(seeds()["a.jpg"])
        path.rename(source / f"002{path.suffix}")
    with silent():
        video = open_clip(source)
        media = sample_clip(video, plan_frames(video, ClipSettings(fps=8, max_frames=8)), lambda frame: frame)
    assert media.frames.shape[1:3] == media.size_px[::-1]
