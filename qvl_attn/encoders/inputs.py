"""The inputs of an encoder: run its processor, locate each patch in the original, reconstruct the picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from qwen_vl_utils import process_vision_info
from qwen_vl_utils.vision_process import smart_resize

from qvl_attn.core.errors import CaptureError, InputError, ModelError
from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.core.text import argument
from qvl_attn.core.types import Box, FloatArray, IntArray, Media
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.spec import QWEN, EncoderSpec
from qvl_attn.media.resize import fit_px, resize_picture
from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import open_clip, sample_clip
from qvl_attn.media.video_source import VideoSource
from qvl_attn.model.checkpoint import guarded
from qvl_attn.model.preprocess import load_clip
from qvl_attn.model.prompt import PREPARE, REMEDY, chat_messages, pixel_limits, video_kwargs
from qvl_attn.model.token_grid import cell_boxes_px

# The largest input of an encoder that was trained on squares.
MOST_PIXELS = 2**24
# The processor gets this many frames of a clip at a time.
FRAMES_AT_ONCE = 16
# Largest ratio of the longer to the shorter side, Qwen2.5-VL's own limit. Beyond it a processor that resizes the
# shorter side and then crops would fill the memory.
MOST_RATIO = 200


@dataclass(frozen=True, eq=False, repr=False)
class Inputs:
    """The inputs of an encoder and the boxes of its patches.

    Attributes:
        tensors: the processor's output: `pixel_values` (t, 3, H, W), or for Qwen2.5-VL (P, values of a patch) and
            `grid_thw`.
        grid: (t, h, w) steps, rows and columns of patches.
        boxes_px: (P, 4) float32 xyxy in the upright original.
        place: (P,) int64, for each patch in the processor's order its place in the picture's: step, row, column.
        interpolate: whether the position embeddings are interpolated.
        frames: (t, 2) int64, the first and last sampled frame of each step.
    """

    tensors: Mapping[str, torch.Tensor]
    grid: tuple[int, int, int]
    boxes_px: FloatArray
    place: IntArray
    interpolate: bool
    frames: IntArray


def read_inputs(
    spec: EncoderSpec, processor: Any, media: Media, min_pixels: int | None = None, max_pixels: int | None = None
) -> Inputs:
    """Run the processor on a picture or clip.

    An encoder that was trained on squares gets the default output of its processor, usually a square, often a crop.
    With a limit of pixels it gets the whole picture instead, with the aspect ratio kept to within a patch, and its
    position embeddings are interpolated.

    Args:
        spec: the specification of the encoder.
        processor: the result of `load_encoder_processor`.
        media: the upright picture or clip.
        min_pixels: lower limit of a picture's pixels after resizing.
        max_pixels: upper limit of a picture's pixels after resizing.

    Raises:
        InputError: limits are out of range, or the picture is too long and narrow.
        CaptureError: the processor does more than scale and crop.
    """
    if max(media.size_px) > MOST_RATIO * min(media.size_px):
        raise _narrow_error(media)
    if spec.model_type == QWEN:
        try:
            with guarded(PREPARE, REMEDY):
                return _qwen_inputs(spec, processor, media, min_pixels, max_pixels)
        except ModelError as error:
            if "aspect ratio" not in str(error) and "height and width" not in str(error):
                raise
            raise _narrow_error(media) from None
    kwargs = _processor_kwargs(spec, media, min_pixels, max_pixels)
    values = torch.cat(
        [_pixel_values(processor, batch, kwargs) for batch in np.split(media.frames, _batch_starts(len(media.frames)))]
    )
    t, _, height, width = values.shape
    h, w = height // spec.patch_px, width // spec.patch_px
    frame_px = (media.frames.shape[2], media.frames.shape[1])
    x0, y0, x1, y1 = input_box_px(processor, frame_px, **kwargs)
    scale = np.array([media.size_px[0] / frame_px[0], media.size_px[1] / frame_px[1]] * 2)
    # Pixels at the right and at the bottom that do not fill a patch are not used by the encoder.
    covered = (x1 - x0) * w * spec.patch_px / width, (y1 - y0) * h * spec.patch_px / height
    boxes = (cell_boxes_px(h, w, (1, 1)) * np.array([*covered, *covered]) + np.array([x0, y0, x0, y0])) * scale
    return Inputs(
        tensors={"pixel_values": values},
        grid=(t, h, w),
        boxes_px=np.tile(boxes.round(2).astype(np.float32), (t, 1)),  # the precision of `input_box_px`
        place=np.arange(t * h * w, dtype=np.int64),
        interpolate=(height, width) != (spec.trained_px, spec.trained_px),
        frames=np.repeat(np.arange(t, dtype=np.int64)[:, None], 2, axis=1),
    )


def _batch_starts(frames: int) -> range:
    """Return where to split a clip's frames, so that the processor holds few of them at full size."""
    return range(FRAMES_AT_ONCE, frames, FRAMES_AT_ONCE)


def _pixel_values(processor: Any, frames: NDArray[np.uint8], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """Return (t, 3, H, W) pixel values of (t, height, width, 3) uint8 frames."""
    with guarded(PREPARE, REMEDY):
        outputs = processor(images=list(frames), return_tensors="pt", input_data_format="channels_last", **kwargs)
        values: torch.Tensor = outputs["pixel_values"]
        if values.ndim != 4 or values.shape[1] != 3:
            raise ValueError(f"it has the shape {tuple(values.shape)}")
    return values


def check_limits(spec: EncoderSpec, processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    """Check the limits of pixels without a picture.

    Raises:
        InputError: a limit is out of range, or the lower one is above the upper one.
    """
    if spec.model_type == QWEN:
        pixel_limits(processor, min_pixels, max_pixels)
    else:
        _square_limits(spec, min_pixels, max_pixels)


def _narrow_error(media: Media) -> InputError:
    width, height = media.size_px
    return InputError(
        f"{media.source} is {width}x{height}: too long and narrow; the longer side is at most {MOST_RATIO} times the "
        "shorter, and the shorter at least as long as a patch",
        f"crop it, or raise {argument('max_pixels')} if you gave it",
    )


def _processor_kwargs(
    spec: EncoderSpec, media: Media, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Return the arguments of the processor besides the picture."""
    if min_pixels is None and max_pixels is None:
        return {}
    low, high = _square_limits(spec, min_pixels, max_pixels)
    height, width = smart_resize(media.size_px[1], media.size_px[0], spec.patch_px, low, high)
    if not height or not width:
        raise _narrow_error(media)
    return {"size": {"height": height, "width": width}, "do_resize": True, "do_center_crop": False}


def _square_limits(spec: EncoderSpec, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
    """Return both limits for an encoder trained on squares: one that was not given follows from the other."""
    lowest, trained = 4 * spec.patch_px**2, (spec.trained_px or 224) ** 2
    for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
        if value is not None and not lowest <= value <= MOST_PIXELS:
            raise InputError(f"{argument(name, value)}: must be from {lowest} to {MOST_PIXELS}")
    low = min(trained, max_pixels or trained) if min_pixels is None else min_pixels
    high = max(trained, low) if max_pixels is None else max_pixels
    if low > high:
        raise InputError(f"{argument('min_pixels', min_pixels)} is above {argument('max_pixels', max_pixels)}")
    return low, high


def _qwen_inputs(
    spec: EncoderSpec, processor: Any, media: Media, min_pixels: int | None, max_pixels: int | None
) -> Inputs:
    if media.clip is None:
        low, high = pixel_limits(processor, min_pixels, max_pixels)
        size = {"shortest_edge": low, "longest_edge": high} if low and high else {}
        pictures, _ = process_vision_info(chat_messages([media], "?", None, low, high))
        outputs = processor.image_processor(
            images=pictures, return_tensors="pt", size=dict(processor.image_processor.size) | size
        )
        values, grid_thw = outputs["pixel_values"], outputs["image_grid_thw"]
    else:  # `load_encoder_clip` has resized the frames already
        low, high = 4, media.frames.shape[1] * media.frames.shape[2] * len(media.frames)
        outputs = processor.video_processor(
            **video_kwargs(processor, [media]),
            return_tensors="pt",
            size={"shortest_edge": low, "longest_edge": high},
        )
        values, grid_thw = outputs["pixel_values_videos"], outputs["video_grid_thw"]
    t, h, w = (int(n) for n in grid_thw[0])
    boxes = cell_boxes_px(h, w, media.size_px)
    per_step = -(-len(media.frames) // t)
    first = per_step * np.arange(t)
    return Inputs(
        tensors={"pixel_values": values, "grid_thw": grid_thw},
        grid=(t, h, w),
        boxes_px=np.tile(boxes, (t, 1)),
        place=merged_order((t, h, w), spec.merge),
        interpolate=False,
        frames=np.stack([first, np.minimum(first + per_step, len(media.frames)) - 1], axis=1).astype(np.int64),
    )


def merged_order(grid: tuple[int, int, int], merge: int) -> IntArray:
    """Return the place in the picture of each patch in Qwen2.5-VL's order, where merged patches are adjacent: (P,)."""
    t, h, w = grid
    numbers = np.arange(t * h * w, dtype=np.int64).reshape(t, h // merge, merge, w // merge, merge)
    return np.ascontiguousarray(numbers.transpose(0, 1, 3, 2, 4)).reshape(-1)


def reconstruct(spec: EncoderSpec, processor: Any, inputs: Inputs) -> NDArray[np.uint8]:
    """Reconstruct the picture from the encoder's normalised input with the places that are used to draw attention.

    A wrong order of patches or lost detail is visible in it.

    Returns:
        (t, H, W, 3) uint8 RGB; for a step of several frames the first.

    Raises:
        CaptureError: the input is not finite.
    """
    t, h, w = inputs.grid
    size = spec.patch_px
    image_processor = processor.image_processor if spec.model_type == QWEN else processor
    values = inputs.tensors["pixel_values"].float().cpu().numpy()
    if spec.model_type == QWEN:
        placed = np.empty_like(values)
        placed[inputs.place] = values
        patches = placed.reshape(t, h, w, 3, -1, size, size)[:, :, :, :, 0]
        picture = patches.transpose(0, 1, 4, 2, 5, 3).reshape(t, h * size, w * size, 3)
    else:
        picture = values[:, :, : h * size, : w * size].transpose(0, 2, 3, 1)
    with np.errstate(all="ignore"):  # what is not finite is an error below
        if image_processor.do_normalize:
            std, mean = (np.array(item, np.float32) for item in (image_processor.image_std, image_processor.image_mean))
            picture = picture * std + mean
        if image_processor.do_rescale:
            picture = picture / image_processor.rescale_factor
    if not np.isfinite(picture).all():
        raise CaptureError("the processor's output is not finite")
    return np.asarray(np.clip(np.rint(picture), 0, 255), dtype=np.uint8)


_TOLERANCE_PX = 0.75
# The shortest side of a ramp: near its ends a resized ramp is not linear.
_LEAST_PX = 32


def input_box_px(processor: Any, size_px: tuple[int, int], **kwargs: Any) -> Box:
    """Return the region of a picture that becomes the model's input, xyxy in the picture's pixels.

    It is measured: the processor gets pictures whose values are their own coordinates. A resized ramp is linear except
    near its ends, so a line fitted to the middle of the output gives the source of each input pixel; the fit is
    checked. If the crop is larger than the picture, the region extends beyond the picture.

    Args:
        processor: an image processor.
        size_px: (width, height) of the upright picture.
        kwargs: the arguments of the processor besides the picture.

    Raises:
        CaptureError: the processor does more than scale and crop.
    """
    width, height = size_px
    resizes = kwargs.get("do_resize", processor.do_resize)
    times = -(-_LEAST_PX // min(size_px)) if resizes else 1  # the same aspect ratio, so resized to the same size

    def ends(count: int, along: int) -> tuple[float, float]:
        # The ramp starts at 1, because the processor pads with 0.
        ramp = 1 + (np.arange(count * times, dtype=np.float32) + 0.5) / times
        shape = (height * times, width * times, 1)
        picture = np.broadcast_to(ramp[None, :, None] if along else ramp[:, None, None], shape)
        return _fit_ends(_process_channel(processor, np.ascontiguousarray(picture), kwargs), along, count)

    (x0, x1), (y0, y1) = ends(width, 1), ends(height, 0)
    return x0, y0, x1, y1


def _process_channel(processor: Any, picture: FloatArray, kwargs: dict[str, Any]) -> torch.Tensor:
    """Return the processor's output for a picture of one channel: (H, W)."""
    plain = {"do_rescale": False, "do_normalize": False, "do_convert_rgb": False, "input_data_format": "channels_last"}
    values: torch.Tensor = processor(images=[picture], return_tensors="pt", **{**kwargs, **plain})["pixel_values"]
    return values[0, 0].double()


def _fit_ends(output: torch.Tensor, along: int, count: int) -> tuple[float, float]:
    """Return where the first input pixel begins and the last one ends, by a line fitted to the middle of the ramp."""
    inside = output != 0
    indices = inside.any(dim=1 - along).nonzero()[:, 0]
    across = inside.any(dim=along).nonzero()[:, 0]
    middle = int(across[len(across) // 2])
    values = (output[middle] if along else output[:, middle])[indices].numpy() - 1
    positions = indices.double().numpy() + 0.5
    margin = len(positions) // 8 if len(positions) >= 8 else 0
    inner = slice(margin, len(positions) - margin)
    positions, values = positions[inner], values[inner]
    if len(positions) < 2:
        raise CaptureError("the picture is too small to locate the processor's crop in it")
    slope, start = np.polyfit(positions, values, 1)
    if np.abs(slope * positions + start - values).max() > max(_TOLERANCE_PX, 0.02 * slope):
        raise CaptureError("the processor does more than scale and crop a picture, so patches cannot be located")
    stop = start + slope * output.shape[along]
    # An end within a quarter of an input pixel of the picture's end is the picture's end.
    tolerance = slope / 4
    begin, end = float(start), float(stop)
    return (0.0 if abs(begin) < tolerance else begin), (float(count) if abs(end - count) < tolerance else end)


# The longest side of a sampled frame for encoders with a fixed input size, which is usually smaller.
LONGEST_PX = 1024


def load_encoder_clip(
    spec: EncoderSpec,
    processor: Any,
    path: str | os.PathLike[str],
    settings: EncoderSettings | None = None,
    progress: Progress = no_progress,
) -> Media:
    """Sample the frames of a clip for an encoder.

    For Qwen2.5-VL they are resized as in the model card's recipe, and two frames make one step. For any other encoder
    each frame is a step, and its processor resizes it like a picture; a frame with a side above `LONGEST_PX` is first
    reduced to it by area.

    Args:
        spec: the specification of the encoder.
        processor: its processor.
        path: a clip, an animated picture, or a folder of numbered frames.
        settings: `clip` selects the frames; the limits of pixels give the size of Qwen2.5-VL's.
        progress: called with (stage, done, total).

    Raises:
        InputError: no such clip, no frame in the requested span, too many broken frames, or settings for several
            passes, which an encoder does not have.
    """
    settings = settings or EncoderSettings()
    clip_settings = settings.clip or ClipSettings()
    if clip_settings.mode != "clip" or clip_settings.window:
        name = "window" if clip_settings.window else "mode"
        raise InputError(
            f"{argument(name, getattr(clip_settings, name))}: an encoder encodes each step of a clip by itself",
            "leave it out",
        )
    video = open_clip(path, clip_settings.source_fps)
    if spec.model_type == QWEN:
        return load_clip(processor, video, settings, progress)
    media = sample_clip(video, plan_frames(video, clip_settings), _limit_size, progress)
    return replace(media, notes=(*media.notes, *_describe_resize(video)))


def _limit_size(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return resize_picture(frame, _limited_px((frame.shape[1], frame.shape[0])))


def _limited_px(size_px: tuple[int, int]) -> tuple[int, int]:
    return fit_px(size_px, LONGEST_PX) if max(size_px) > LONGEST_PX else size_px


def _describe_resize(video: VideoSource) -> list[str]:
    (width, height), size_px = video.size_px, _limited_px(video.size_px)
    if size_px == video.size_px:
        return []
    size = f"{size_px[0]} x {size_px[1]} px"
    return [f"frames of {width} x {height} px are reduced to {size} before the processor resizes them"]
