"""Encoder results and attention made by hand: every number is known."""

import numpy as np

from qvl_attn.core.types import ClipFacts, Media
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.figures import EncoderFigures
from qvl_attn.encoders.record import EncoderProvenance, EncoderSettings
from qvl_attn.encoders.result import EncoderResult, request_key, request_label
from qvl_attn.model.token_grid import cell_boxes_px
from qvl_attn.results.codec import write_sampled_frames
from qvl_attn.results.result import request_folder

PROVENANCE = EncoderProvenance("1", "4", "2", "someone/an-encoder", "0" * 12, "float32", "cpu", "DINOv2 with registers")


def random_attention(rng, *shape):
    values = rng.random(shape, dtype=np.float32) ** 8 + 1e-4
    return (values / values.sum(axis=-1, keepdims=True)).astype(np.float32)


def made_attention(grid=(1, 4, 6), prefix=("cls", "register"), layers=3, heads=2, window=None, full=None, **changes):
    """Return random attention; `changes` replace fields."""
    rng, (t, h, w) = np.random.default_rng(5), grid
    A, T = len(changes.get("query_patches", ())), len(prefix) + h * w
    statistics = (rng.random((layers, heads, t), dtype=np.float32) for _ in range(3))
    values = {
        "family": "DINOv2 with registers",
        "grid": grid,
        "prefix": prefix,
        "boxes_px": np.tile(cell_boxes_px(h, w, (10 * w, 10 * h)), (t, 1)),
        "patch_px": 14,
        "full": np.ones(layers, bool) if full is None else np.array(full, bool),
        "window": window,
        "received": random_attention(rng, layers, heads, t, T),
        "cls": random_attention(rng, layers, heads, t, T) if "cls" in prefix else None,
        "query_patches": np.zeros(0, np.int64),
        "rows": random_attention(rng, layers, heads, A, t, T),
        "distance_px": next(statistics) * 40,
        "entropy_bits": next(statistics) * 4,
        "window_share": None if window is None else next(statistics),
    }
    return EncoderAttention(**values | changes)


def made_picture(size_px, pixels=None, **changes):
    """Return a picture; without `pixels` a gradient in which every place has its own colour."""
    width, height = size_px
    if pixels is None:
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    return Media("picture", pixels[None], np.zeros(1), size_px, changes.pop("source", "a.png"), "0" * 64, **changes)


def made_clip(size_px, frames):
    pixels = np.stack([np.full((size_px[1], size_px[0], 3), 10 * i, np.uint8) for i in range(frames)])
    facts = ClipFacts(0.0, float(frames), 25.0, 1.0, tuple(25 * i for i in range(frames)), None, frames)
    return Media("clip", pixels, np.arange(frames, dtype=np.float64), size_px, "a.mp4", "0" * 64, clip=facts)


def made_record(attention=None, media=None, **changes):
    """Return an encoder's result; its reconstruction is grey."""
    attention = made_attention() if attention is None else attention
    t, h, w = attention.grid
    per_step = 1 if media is None else len(media.frames) // t
    values = {
        "media": (made_picture((10 * w, 10 * h)) if media is None else media,),
        "attention": attention,
        "reconstruction": np.full((t, *attention.input_px[::-1], 3), 128, np.uint8),
        "settings": EncoderSettings(),
        "provenance": PROVENANCE,
        "frames": np.stack([per_step * np.arange(t), per_step * np.arange(t) + per_step - 1], axis=1).astype(np.int64),
    }
    return EncoderResult(**values | changes)


def encoder_folder(out, media, settings, drawing, provenance):
    """Return the folder of an encoder's request."""
    return request_folder(out, [media], request_label(provenance), request_key(media, settings, provenance), drawing)


def skip_drawing(patch):
    """Draw almost no pictures, for tests of files: drawing takes most of the time."""
    every, kept = EncoderFigures.images, ("picture_", "input/")
    patch.setattr(EncoderFigures, "images", lambda drawn: [i for i in every(drawn) if i[0].startswith(kept)])
    patch.setattr(
        EncoderResult,
        "_draw_clip",
        lambda result, folder, *args: (write_sampled_frames(folder, result.media[0]) if result.is_clip else [], []),
    )
