"""A clip's frame at the size, and with the pixels, that the model card's recipe (qwen-vl-utils) gives it."""

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
from qvl_attn.model.prompt import LEAST_PIXELS

# The model card's example (`"max_pixels": 360 * 420`).
CLIP_FRAME_PIXELS = 360 * 420
# What qwen-vl-utils 0.0.14 allows: 768 tokens a step, and 90 % of 128,000 for the clip.
_MOST_FRAME_CELLS, _MOST_CLIP_CELLS = 768, 0.9 * 128_000


def clip_pixel_limits(processor: Any, min_pixels: int | None, max_pixels: int | None, frames: int) -> tuple[int, int]:
    """The fewest and most pixels of a clip's frame after resizing.

    Args:
        processor: of the model; its own smallest size is the default of the smaller.
        min_pixels: as it was typed.
        max_pixels: as it was typed; `CLIP_FRAME_PIXELS` by default.
        frames: how many are sampled.

    Raises:
        InputError: out of range, or the smaller above the larger.
    """
    cell = (processor.video_processor.patch_size * processor.video_processor.merge_size) ** 2
    most = int(min(_MOST_FRAME_CELLS, _MOST_CLIP_CELLS / frames * 2) * cell)
    for flag, value in (("--min-pixels", min_pixels), ("--max-pixels", max_pixels)):
        if value is not None and not LEAST_PIXELS <= value <= most:
            raise InputError(
                f"{flag} {value}: want {LEAST_PIXELS} to {most} for each of {frames} frames of a clip",
                "fewer --max-frames allow more" if most < _MOST_FRAME_CELLS * cell else "",
            )
    low = min_pixels or min(processor.video_processor.size["shortest_edge"], max_pixels or CLIP_FRAME_PIXELS)
    high = max_pixels or max(CLIP_FRAME_PIXELS, low)
    if low > high:
        raise InputError(f"--min-pixels {min_pixels} is above --max-pixels {max_pixels}")
    return low, high


def frame_resizer(
    processor: Any, min_pixels: int | None, max_pixels: int | None, frames: int
) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """What resizes each of a clip's sampled frames; arguments and errors as in `clip_pixel_limits`."""
    limits = clip_pixel_limits(processor, min_pixels, max_pixels, frames)
    cell_px = processor.video_processor.patch_size * processor.video_processor.merge_size
    return partial(resize_frame, cell_px=cell_px, limits=limits)


def resize_frame(frame: NDArray[np.uint8], cell_px: int, limits: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) uint8 as qwen-vl-utils resizes the frames of a video file: bicubic, with anti-aliasing."""
    size = smart_resize(*frame.shape[:2], cell_px, *limits)
    tensor = torch.from_numpy(frame).permute(2, 0, 1)
    resized = resize(tensor, list(size), InterpolationMode.BICUBIC, antialias=True)
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())
