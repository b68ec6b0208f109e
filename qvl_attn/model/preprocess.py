"""Resize the frames of a clip exactly as the model card's recipe (qwen-vl-utils) does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from qwen_vl_utils.vision_process import smart_resize
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from qvl_attn.core.errors import InputError
from qvl_attn.model.prompt import MIN_PIXELS

# The model card's example (`"max_pixels": 360 * 420`).
CLIP_FRAME_PIXELS = 360 * 420
# The limits of qwen-vl-utils 0.0.14: 768 tokens a step, and 90 % of 128,000 tokens a clip.
_MAX_FRAME_CELLS, _MAX_CLIP_CELLS = 768, 0.9 * 128_000


def clip_pixel_limits(processor: Any, min_pixels: int | None, max_pixels: int | None, frames: int) -> tuple[int, int]:
    """Return the minimum and maximum number of pixels of a resized clip frame.

    Args:
        processor: the model's processor; its own minimum is the default of `min_pixels`.
        min_pixels: the value of `--min-pixels`.
        max_pixels: the value of `--max-pixels`; `CLIP_FRAME_PIXELS` by default.
        frames: number of sampled frames.

    Raises:
        InputError: a limit is out of range, or the minimum is above the maximum.
    """
    cell = (processor.video_processor.patch_size * processor.video_processor.merge_size) ** 2
    most = int(min(_MAX_FRAME_CELLS, _MAX_CLIP_CELLS / frames * 2) * cell)
    for flag, value in (("--min-pixels", min_pixels), ("--max-pixels", max_pixels)):
        if value is not None and not MIN_PIXELS <= value <= most:
            raise InputError(
                f"{flag} {value}: want {MIN_PIXELS} to {most} for each of {frames} frames of a clip",
                "a lower --max-frames allows more pixels" if most < _MAX_FRAME_CELLS * cell else "",
            )
    low = min_pixels or min(processor.video_processor.size["shortest_edge"], max_pixels or CLIP_FRAME_PIXELS)
    high = max_pixels or max(CLIP_FRAME_PIXELS, low)
    if low > high:
        raise InputError(f"--min-pixels {min_pixels} is above --max-pixels {max_pixels}")
    return low, high


def frame_resizer(
    processor: Any, min_pixels: int | None, max_pixels: int | None, frames: int
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return a function that resizes one sampled frame; arguments and errors as in `clip_pixel_limits`."""
    limits = clip_pixel_limits(processor, min_pixels, max_pixels, frames)
    cell_px = processor.video_processor.patch_size * processor.video_processor.merge_size
    return partial(resize_frame, cell_px=cell_px, limits=limits)


def resize_frame(frame: NDArray[np.uint8], cell_px: int, limits: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an (H, W, 3) uint8 frame as qwen-vl-utils does: bicubic, with anti-aliasing."""
    size = smart_resize(*frame.shape[:2], cell_px, *limits)
    tensor = torch.from_numpy(frame).permute(2, 0, 1)
    resized = resize(tensor, list(size), InterpolationMode.BICUBIC, antialias=True)
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())
