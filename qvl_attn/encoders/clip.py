"""A clip's sampled frames for an encoder: small enough that many of them fit in memory."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import Progress, untold
from qvl_attn.core.types import Media
from qvl_attn.encoders.record import LookSettings
from qvl_attn.encoders.spec import QWEN
from qvl_attn.media.resize import fit_px, resize_picture
from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import open_clip, sample_clip
from qvl_attn.media.video_source import Footage
from qvl_attn.model.preprocess import clip_pixel_limits, resize_frame

if TYPE_CHECKING:
    from qvl_attn.encoders.engine import Encoder

# Of a frame that is kept for an encoder with a size of its own, which is smaller as a rule.
LONGEST_PX = 1024


def load_clip(
    encoder: Encoder,
    path: str | os.PathLike[str],
    how: ClipSettings | None = None,
    settings: LookSettings | None = None,
    progress: Progress = untold,
) -> Media:
    """Sample a clip's frames, as an encoder wants them.

    For Qwen2.5-VL they are resized as the model card's recipe does it: two make one step. For any other encoder each
    frame is a step, and its processor resizes it as it does a picture; a frame with a side above `LONGEST_PX` is
    averaged down to that first.

    Args:
        encoder: which is to look.
        path: a clip, an animated picture, or a folder of numbered frames.
        how: which frames.
        settings: their limits of pixels say how large Qwen2.5-VL's are.
        progress: told what is being done, how much of it is done, and of how much.

    Raises:
        InputError: no such clip, nothing to see at the times that were asked for, too much of it broken, or several
            passes, of which an encoder has no use.
    """
    how, settings = how or ClipSettings(), settings or LookSettings()
    if how.mode != "clip" or how.window:
        asked = f"--window {how.window}" if how.window else f"--mode {how.mode}"
        raise InputError(f"{asked}: an encoder sees each step of a clip alone", "leave it out")
    footage = open_clip(path, how.source_fps)
    plan = plan_frames(footage, how)

    def tell(done: int) -> None:
        progress("decoding", done, plan.stop - plan.first)

    if encoder.eye.model_type == QWEN:
        of_clips: Any = encoder.processor.video_processor
        limits = clip_pixel_limits(encoder.processor, settings.min_pixels, settings.max_pixels, len(plan.wanted))
        cell_px = of_clips.patch_size * of_clips.merge_size
        return sample_clip(footage, plan, partial(resize_frame, cell_px=cell_px, limits=limits), tell)
    media = sample_clip(footage, plan, _bounded, tell)
    return replace(media, notes=(*media.notes, *_said(footage)))


def _bounded(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return resize_picture(frame, _kept_px((frame.shape[1], frame.shape[0])))


def _kept_px(size_px: tuple[int, int]) -> tuple[int, int]:
    return fit_px(size_px, LONGEST_PX) if max(size_px) > LONGEST_PX else size_px


def _said(footage: Footage) -> list[str]:
    (width, height), kept = footage.size_px, _kept_px(footage.size_px)
    if kept == footage.size_px:
        return []
    return [f"frames of {width} x {height} px are kept at {kept[0]} x {kept[1]} px before the processor resizes them"]
