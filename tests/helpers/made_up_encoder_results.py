"""Encoder results with made-up values, of the sizes and kinds that real encoders give. No model is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from qvl_attn.core.types import ClipFacts, Media
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.record import EncoderProvenance, EncoderSettings, SaliencyMap
from qvl_attn.encoders.result import EncoderResult

PROVENANCE = EncoderProvenance("0.1.0", "5.0", "2.9", "tiny/encoder", "0123456789abcdef", "float32", "cpu", "made up")


def random_attention(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return rows that sum to one, with some tokens far above the others."""
    values = rng.gamma(0.35, 1.0, shape) + 1e-4
    return (values / values.sum(axis=-1, keepdims=True)).astype(np.float32)


def made_up_result(
    grid: tuple[int, int, int] = (1, 6, 8),
    layers: int = 3,
    heads: int = 4,
    prefix: tuple[str, ...] = ("cls",),
    *,
    size_px: tuple[int, int] = (320, 240),
    crop_px: tuple[float, float, float, float] | None = None,
    windows: bool = False,
    query_patches: tuple[int, ...] = (19,),
    places: tuple[int, ...] | None = None,
    extras: bool = True,
    seed: int = 0,
    source: str = "folder/a picture.png",
    settings: EncoderSettings | None = None,
) -> EncoderResult:
    """Return a result; `places` are those of `patch_rows`, by default all; `extras` are similarity and saliency."""
    rng = np.random.default_rng(seed)
    t, h, w = grid
    T, L, H = len(prefix) + h * w, layers, heads
    x0, y0, x1, y1 = crop_px or (0, 0, *size_px)
    xs, ys = np.linspace(x0, x1, w + 1), np.linspace(y0, y1, h + 1)
    boxes = np.stack([*np.meshgrid(xs[:-1], ys[:-1]), *np.meshgrid(xs[1:], ys[1:])], axis=-1).reshape(-1, 4)
    frames = rng.integers(0, 256, (2 * t if t > 1 else 1, size_px[1] // 20, size_px[0] // 20, 3), np.uint8)
    frames = frames.repeat(20, axis=1).repeat(20, axis=2)
    places = tuple(range(h * w)) if places is None else places
    attention = EncoderAttention(
        family="made up",
        grid=grid,
        prefix=prefix,
        boxes_px=np.tile(boxes, (t, 1)).astype(np.float32),
        patch_px=14,
        full=np.array([not windows or layer % 2 == 1 for layer in range(L)]),
        window=(np.arange(h * w) % w // 4 + 2 * (np.arange(h * w) // w // 4)) if windows else None,
        received=random_attention(rng, L, H, t, T),
        cls=random_attention(rng, L, H, t, T) if "cls" in prefix else None,
        query_patches=np.array(query_patches, dtype=np.int64),
        rows=random_attention(rng, L, H, len(query_patches), t, T),
        distance_px=rng.uniform(10, 90, (L, H, t)).astype(np.float32),
        entropy_bits=rng.uniform(1, 5, (L, H, t)).astype(np.float32),
        window_share=rng.uniform(0, 1, (L, H, t)).astype(np.float32) if windows else None,
    )
    rows = random_attention(rng, L, len(places), t, T)[..., len(prefix) :].reshape(L, len(places), t, h, w)
    values = rng.gamma(0.5, 1.0, (t, h, w)).astype(np.float32)
    similar = extras and bool(query_patches)
    return EncoderResult(
        media=(_media(frames, size_px, t, source),),
        attention=attention,
        reconstruction=rng.integers(0, 256, (t, h * 14, w * 14, 3), np.uint8),
        settings=replace(settings or EncoderSettings(), at=tuple(_middle(boxes[place]) for place in query_patches)),
        provenance=PROVENANCE,
        frames=np.array([[2 * i, 2 * i + 1] for i in range(t)]) if t > 1 else np.zeros((1, 2), np.int64),
        similarity=rng.uniform(-1, 1, (L + 1, len(query_patches), t, h, w)).astype(np.float32) if similar else None,
        similarity_layers=np.arange(-1, L) if similar else None,
        saliency=(SaliencyMap("gradcam", "a cat", 0.25, values),) if extras else (),
        patch_rows=rows if places else None,
        patch_row_places=np.array(places, dtype=np.int64) if places else None,
    )


def _middle(box: np.ndarray) -> tuple[float, float]:
    return float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2


def _media(frames: np.ndarray, size_px: tuple[int, int], t: int, source: str) -> Media:
    if t == 1:
        return Media("picture", frames, np.zeros(1), size_px, source, "0" * 64)
    count = len(frames)
    facts = ClipFacts(0.0, count / 4, 4.0, 4.0, tuple(range(count)), count, count)
    return Media("clip", frames, np.arange(count) / 4, size_px, source, "0" * 64, clip=facts)


def results_of() -> Callable[[str], EncoderResult]:
    """Return a function that gives results of every kind by name, each made once."""
    kinds = {
        "cls": lambda: made_up_result(),
        "crop": lambda: made_up_result(crop_px=(40, 0, 280, 240), grid=(1, 6, 6), query_patches=(14,)),
        "inner": lambda: made_up_result(crop_px=(40, 30, 280, 210)),
        "registers": lambda: made_up_result(
            prefix=("cls", "register", "register"), settings=EncoderSettings(over="max")
        ),
        "windows": lambda: made_up_result(prefix=(), windows=True, query_patches=()),
        "sparse": lambda: made_up_result(places=tuple(range(0, 48, 5)), extras=False, query_patches=()),
        "none": lambda: made_up_result(places=(), extras=False, query_patches=(), prefix=()),
        "steps": lambda: made_up_result(grid=(3, 6, 8)),
    }
    return cache(lambda name: kinds[name]())
