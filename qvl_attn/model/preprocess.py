"""Sample the frames of a clip, and resize them exactly as the model card's recipe (qwen-vl-utils) does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from qwen_vl_utils import vision_process
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from qvl_attn.core.errors import InputError, ModelError
from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.core.text import argument
from qvl_attn.core.types import Media
from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import sample_clip
from qvl_attn.media.video_source import VideoSource
from qvl_attn.model.prompt import MIN_PIXELS

# The model card's example (`"max_pixels": 360 * 420`).
CLIP_FRAME_PIXELS = 360 * 420


class FrameSettings(Protocol):
    """Which frames of a clip are sampled, and how large they are: settings of a question or of an encoder."""

    @property
    def clip(self) -> ClipSettings | None:
        """Which frames are sampled; by default as `ClipSettings` has it."""

    @property
    def min_pixels(self) -> int | None:
        """As in `clip_pixel_limits`."""

    @property
    def max_pixels(self) -> int | None:
        """As in `clip_pixel_limits`."""


def load_clip(processor: Any, video: VideoSource, settings: FrameSettings, progress: Progress = no_progress) -> Media:
    """Sample a clip's frames at the size that the processor uses.

    Args:
        processor: the processor of a Qwen2.5-VL, or of its encoder.
        video: the clip.
        settings: `clip` selects the frames, `min_pixels` and `max_pixels` limit their size.
        progress: called with (stage, done, total).

    Raises:
        InputError: the clip has no frames at the requested times, too many of them cannot be decoded, or a limit is out
            of range.
        ModelError: the checkpoint's own minimum is out of range.
    """
    plan = plan_frames(video, settings.clip or ClipSettings())
    resize = frame_resizer(processor, settings.min_pixels, settings.max_pixels, len(plan.frame_indices))
    return sample_clip(video, plan, resize, progress)


def clip_pixel_limits(processor: Any, min_pixels: int | None, max_pixels: int | None, frames: int) -> tuple[int, int]:
    """Return the minimum and maximum number of pixels of a resized clip frame, those of qwen-vl-utils' `fetch_video`.

    A checkpoint replaces the recipe's minimum with `clip_min_pixels` in its `video_preprocessor_config.json`.

    Args:
        processor: the model's processor.
        min_pixels: as typed; the recipe's or the checkpoint's own minimum by default.
        max_pixels: as typed; `CLIP_FRAME_PIXELS` by default.
        frames: number of sampled frames.

    Raises:
        InputError: a limit is out of range, or the minimum is above the maximum.
        ModelError: the checkpoint's own minimum is out of range.
    """
    video_processor = processor.video_processor
    cell = (video_processor.patch_size * video_processor.merge_size) ** 2
    most_cells = vision_process.VIDEO_MAX_TOKEN_NUM
    clip_cells = 0.9 * vision_process.MODEL_SEQ_LEN * vision_process.FRAME_FACTOR
    most = int(min(most_cells, clip_cells / frames) * cell)
    for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
        if value is not None and not MIN_PIXELS <= value <= most:
            raise InputError(
                f"{argument(name, value)}: want {MIN_PIXELS} to {most} for each of {frames} frames of a clip",
                f"a lower {argument('max_frames')} allows more pixels" if most < most_cells * cell else "",
            )
    own = getattr(video_processor, "clip_min_pixels", vision_process.VIDEO_MIN_TOKEN_NUM * cell)
    if not isinstance(own, int) or not MIN_PIXELS <= own <= most_cells * cell:
        raise ModelError(
            f"the model's video_preprocessor_config.json has clip_min_pixels {own!r}: "
            f"want {MIN_PIXELS} to {most_cells * cell}"
        )
    low = min_pixels or min(own, max_pixels or CLIP_FRAME_PIXELS)
    high = max_pixels or max(CLIP_FRAME_PIXELS, low)
    if low > high:
        raise InputError(f"{argument('min_pixels', min_pixels)} is above {argument('max_pixels', max_pixels)}")
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
    size = vision_process.smart_resize(*frame.shape[:2], cell_px, *limits)
    tensor = torch.from_numpy(frame).permute(2, 0, 1)
    resized = resize(tensor, list(size), InterpolationMode.BICUBIC, antialias=True)
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())
