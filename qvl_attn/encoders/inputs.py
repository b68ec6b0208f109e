"""A picture or clip as an encoder's input, by its own processor; where each patch lies; and the picture turned back."""

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

from qvl_attn.core.errors import CaptureError, InputError
from qvl_attn.core.runtime import Progress, no_op
from qvl_attn.core.types import FloatArray, IntArray, Media
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.spec import QWEN, EncoderSpec
from qvl_attn.media.resize import fit_px, resize_picture
from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import open_clip, sample_clip
from qvl_attn.media.video_source import VideoSource
from qvl_attn.model.preprocess import frame_resizer
from qvl_attn.model.prompt import chat_messages, pixel_limits, shown_clips
from qvl_attn.model.token_grid import cell_boxes_px

# Of an encoder with fixed squares that is given another size.
MOST_PIXELS = 2**24
# Frames of a clip that the processor is given at a time.
FRAMES_AT_ONCE = 16
# Of the longer side to the shorter: Qwen2.5-VL's own limit. Beyond it a processor that makes the shorter side fit, and
# then crops, would fill the memory.
MOST_RATIO = 200


@dataclass(frozen=True, eq=False, repr=False)
class Inputs:
    """What goes into an encoder, and where its patches lie.

    Attributes:
        tensors: as the processor gave them: `pixel_values` (t, 3, H, W), or of Qwen2.5-VL (P, values of a patch) with
            its `grid_thw`.
        grid: (t, h, w) steps, rows and columns of patches.
        boxes_px: (P, 4) float32 xyxy in the upright original.
        place: (P,) int64, for each patch in the processor's order its place in the picture's: step, row, column.
        interpolate: whether positions are to be interpolated.
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

    An encoder that was trained on squares gets what its processor makes, a square as a rule, of which a crop may be all
    that it sees. With a limit of pixels it gets the whole picture instead, in its own proportions up to less than a
    patch, and its positions are interpolated.

    Args:
        spec: of the encoder.
        processor: as `load_encoder_processor` gives it.
        media: upright.
        min_pixels: to which a picture is resized at least.
        max_pixels: to which a picture is resized at most.

    Raises:
        InputError: limits out of range, or a picture that is too long and narrow.
        CaptureError: the processor does what cannot be followed.
    """
    if max(media.size_px) > MOST_RATIO * min(media.size_px):
        raise _narrow(media)
    if spec.model_type == QWEN:
        try:
            return _qwen_inputs(spec, processor, media, min_pixels, max_pixels)
        except ValueError as error:
            if "aspect ratio" not in str(error) and "height and width" not in str(error):
                raise
            raise _narrow(media) from None
    how = _limits(spec, media, min_pixels, max_pixels)
    values = torch.cat(
        [_values(processor, part, how) for part in np.split(media.frames, _batch_ends(len(media.frames)))]
    )
    t, _, height, width = values.shape
    h, w = height // spec.patch_px, width // spec.patch_px
    frame_px = (media.frames.shape[2], media.frames.shape[1])
    x0, y0, x1, y1 = part_px(processor, frame_px, **how)
    scale = np.array([media.size_px[0] / frame_px[0], media.size_px[1] / frame_px[1]] * 2)
    # What is left of the input at the right and at the bottom is no whole patch, and the encoder does not see it.
    seen = (x1 - x0) * w * spec.patch_px / width, (y1 - y0) * h * spec.patch_px / height
    boxes = (cell_boxes_px(h, w, (1, 1)) * np.array([*seen, *seen]) + np.array([x0, y0, x0, y0])) * scale
    return Inputs(
        tensors={"pixel_values": values},
        grid=(t, h, w),
        boxes_px=np.tile(boxes.round(2).astype(np.float32), (t, 1)),  # painting is as exact as that
        place=np.arange(t * h * w, dtype=np.int64),
        interpolate=(height, width) != (spec.trained_px, spec.trained_px),
        frames=np.repeat(np.arange(t, dtype=np.int64)[:, None], 2, axis=1),
    )


def _batch_ends(frames: int) -> range:
    """Where a clip's frames are parted, so that the processor holds few of them at full size."""
    return range(FRAMES_AT_ONCE, frames, FRAMES_AT_ONCE)


def _values(processor: Any, frames: NDArray[np.uint8], how: Mapping[str, Any]) -> torch.Tensor:
    """(t, 3, H, W) of (t, height, width, 3) uint8."""
    found = processor(images=list(frames), return_tensors="pt", input_data_format="channels_last", **how)
    values: torch.Tensor = found["pixel_values"]
    return values


def check_limits(spec: EncoderSpec, processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    """Find limits of pixels that no picture can have.

    Raises:
        InputError: out of range, or the smaller above the larger.
    """
    if spec.model_type == QWEN:
        pixel_limits(processor, min_pixels, max_pixels)
    else:
        _squares(spec, min_pixels, max_pixels)


def _narrow(media: Media) -> InputError:
    width, height = media.size_px
    return InputError(
        f"{media.source} is {width}x{height}: too long and narrow; the longer side is at most {MOST_RATIO} times the "
        "shorter, and the shorter at least as long as a patch",
        "crop it, or raise --max-pixels if you gave it",
    )


def _limits(spec: EncoderSpec, media: Media, min_pixels: int | None, max_pixels: int | None) -> dict[str, Any]:
    """What the processor is told beside the picture."""
    if min_pixels is None and max_pixels is None:
        return {}
    low, high = _squares(spec, min_pixels, max_pixels)
    height, width = smart_resize(media.size_px[1], media.size_px[0], spec.patch_px, low, high)
    if not height or not width:
        raise _narrow(media)
    return {"size": {"height": height, "width": width}, "do_resize": True, "do_center_crop": False}


def _squares(spec: EncoderSpec, min_pixels: int | None, max_pixels: int | None) -> tuple[int, int]:
    """Both limits of an encoder of squares: one that was not given follows the other."""
    least, trained = 4 * spec.patch_px**2, (spec.trained_px or 224) ** 2
    for flag, value in (("--min-pixels", min_pixels), ("--max-pixels", max_pixels)):
        if value is not None and not least <= value <= MOST_PIXELS:
            raise InputError(f"{flag} {value}: want {least} to {MOST_PIXELS}")
    low = min(trained, max_pixels or trained) if min_pixels is None else min_pixels
    high = max(trained, low) if max_pixels is None else max_pixels
    if low > high:
        raise InputError(f"--min-pixels {min_pixels} is above --max-pixels {max_pixels}")
    return low, high


def _qwen_inputs(
    spec: EncoderSpec, processor: Any, media: Media, min_pixels: int | None, max_pixels: int | None
) -> Inputs:
    if media.clip is None:
        low, high = pixel_limits(processor, min_pixels, max_pixels)
        size = {"shortest_edge": low, "longest_edge": high} if low and high else {}
        pictures, _ = process_vision_info(chat_messages([media], "?", None, low, high))
        found = processor.image_processor(
            images=pictures, return_tensors="pt", size=dict(processor.image_processor.size) | size
        )
        values, grid_thw = found["pixel_values"], found["image_grid_thw"]
    else:  # resized already, as `resize.py` does it
        low, high = 4, media.frames.shape[1] * media.frames.shape[2] * len(media.frames)
        found = processor.video_processor(
            **shown_clips(processor, [media]),
            return_tensors="pt",
            size={"shortest_edge": low, "longest_edge": high},
        )
        values, grid_thw = found["pixel_values_videos"], found["video_grid_thw"]
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
    """(P,) the place in the picture's order of each patch in Qwen2.5-VL's, where those that merge stand together."""
    t, h, w = grid
    numbers = np.arange(t * h * w, dtype=np.int64).reshape(t, h // merge, merge, w // merge, merge)
    return np.ascontiguousarray(numbers.transpose(0, 1, 3, 2, 4)).reshape(-1)


def reconstruct(spec: EncoderSpec, processor: Any, inputs: Inputs) -> NDArray[np.uint8]:
    """What the encoder sees, from its normalised input, put together by the places that attention is drawn by.

    So a wrong order or lost detail shows.

    Returns:
        (t, H, W, 3) uint8 RGB; of a step of several frames its first.
    """
    t, h, w = inputs.grid
    size = spec.patch_px
    one = processor.image_processor if spec.model_type == QWEN else processor
    values = inputs.tensors["pixel_values"].float().cpu().numpy()
    if spec.model_type == QWEN:
        placed = np.empty_like(values)
        placed[inputs.place] = values
        patches = placed.reshape(t, h, w, 3, -1, size, size)[:, :, :, :, 0]
        picture = patches.transpose(0, 1, 4, 2, 5, 3).reshape(t, h * size, w * size, 3)
    else:
        picture = values[:, :, : h * size, : w * size].transpose(0, 2, 3, 1)
    if one.do_normalize:
        picture = picture * np.array(one.image_std, np.float32) + np.array(one.image_mean, np.float32)
    if one.do_rescale:
        picture = picture / one.rescale_factor
    if not np.isfinite(picture).all():
        raise CaptureError("what the processor gave is not finite")
    return np.asarray(np.clip(np.rint(picture), 0, 255), dtype=np.uint8)


Part = tuple[float, float, float, float]
_TOLERANCE_PX = 0.75
# What is painted has at least so many pixels a side: near its ends a ramp that is resized is no ramp.
_LEAST_PX = 32


def part_px(processor: Any, size_px: tuple[int, int], **how: Any) -> Part:
    """The part of a picture that becomes the model's input, xyxy in the picture's pixels.

    The processor is given pictures whose values are their own coordinates. Resizing keeps a ramp a ramp but near its
    ends, so the line through the middle of what comes out tells where each input pixel comes from; that it is a line is
    checked. Input outside the picture (a crop larger than the picture) lies outside of it.

    Args:
        processor: an image processor.
        size_px: (width, height) of the upright picture.
        how: what the processor is called with, beside the picture.

    Raises:
        CaptureError: the processor does more than to scale and to crop.
    """
    width, height = size_px
    resizes = how.get("do_resize", processor.do_resize)
    times = -(-_LEAST_PX // min(size_px)) if resizes else 1  # larger in the same proportions, so resized to the same

    def ends(count: int, along: int) -> tuple[float, float]:
        # From 1 on: what the processor adds around a picture is 0.
        ramp = 1 + (np.arange(count * times, dtype=np.float32) + 0.5) / times
        shape = (height * times, width * times, 1)
        painted = np.broadcast_to(ramp[None, :, None] if along else ramp[:, None, None], shape)
        return _ends(_shown(processor, np.ascontiguousarray(painted), how), along, count)

    (x0, x1), (y0, y1) = ends(width, 1), ends(height, 0)
    return x0, y0, x1, y1


def _shown(processor: Any, painted: FloatArray, how: dict[str, Any]) -> torch.Tensor:
    """(H, W): what becomes of a picture of one channel."""
    plain = {"do_rescale": False, "do_normalize": False, "do_convert_rgb": False, "input_data_format": "channels_last"}
    found: torch.Tensor = processor(images=[painted], return_tensors="pt", **{**how, **plain})["pixel_values"]
    return found[0, 0].double()


def _ends(shown: torch.Tensor, along: int, count: int) -> tuple[float, float]:
    """Where the first input pixel begins and the last one ends, by the line through the ramp's middle."""
    inside = shown != 0
    places = inside.any(dim=1 - along).nonzero()[:, 0]
    across = inside.any(dim=along).nonzero()[:, 0]
    middle = int(across[len(across) // 2])
    values = (shown[middle] if along else shown[:, middle])[places].numpy() - 1
    at = places.double().numpy() + 0.5
    cut = len(at) // 8 if len(at) >= 8 else 0
    kept = slice(cut, len(at) - cut)
    if len(at[kept]) < 2:
        raise CaptureError("the picture is too small for its place in the processor's crop to be found")
    slope, start = np.polyfit(at[kept], values[kept], 1)
    if np.abs(slope * at[kept] + start - values[kept]).max() > max(_TOLERANCE_PX, 0.02 * slope):
        raise CaptureError("the processor does more than to scale and crop a picture, so patches cannot be placed")
    stop = start + slope * shown.shape[along]
    # A picture's end that is met within a quarter of an input pixel is met.
    near = slope / 4
    return (0.0 if abs(start) < near else float(start)), (float(count) if abs(stop - count) < near else float(stop))


# Of a frame that is kept for an encoder with a size of its own, which is smaller as a rule.
LONGEST_PX = 1024


def load_encoder_clip(
    spec: EncoderSpec,
    processor: Any,
    path: str | os.PathLike[str],
    how: ClipSettings | None = None,
    settings: EncoderSettings | None = None,
    progress: Progress = no_op,
) -> Media:
    """Sample a clip's frames, as an encoder wants them.

    For Qwen2.5-VL they are resized as the model card's recipe does it: two make one step. For any other encoder each
    frame is a step, and its processor resizes it as it does a picture; a frame with a side above `LONGEST_PX` is
    averaged down to that first.

    Args:
        spec: the encoder's.
        processor: the encoder's.
        path: a clip, an animated picture, or a folder of numbered frames.
        how: which frames.
        settings: their limits of pixels say how large Qwen2.5-VL's are.
        progress: told what is being done, how much of it is done, and of how much.

    Raises:
        InputError: no such clip, nothing to see at the times that were asked for, too much of it broken, or several
            passes, of which an encoder has no use.
    """
    how, settings = how or ClipSettings(), settings or EncoderSettings()
    if how.mode != "clip" or how.window:
        asked = f"--window {how.window}" if how.window else f"--mode {how.mode}"
        raise InputError(f"{asked}: an encoder sees each step of a clip alone", "leave it out")
    video = open_clip(path, how.source_fps)
    plan = plan_frames(video, how)

    def tell(done: int) -> None:
        progress("decoding", done, plan.stop - plan.first)

    if spec.model_type == QWEN:
        resize = frame_resizer(processor, settings.min_pixels, settings.max_pixels, len(plan.wanted))
        return sample_clip(video, plan, resize, tell)
    media = sample_clip(video, plan, _bounded, tell)
    return replace(media, notes=(*media.notes, *_said(video)))


def _bounded(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return resize_picture(frame, _kept_px((frame.shape[1], frame.shape[0])))


def _kept_px(size_px: tuple[int, int]) -> tuple[int, int]:
    return fit_px(size_px, LONGEST_PX) if max(size_px) > LONGEST_PX else size_px


def _said(video: VideoSource) -> list[str]:
    (width, height), kept = video.size_px, _kept_px(video.size_px)
    if kept == video.size_px:
        return []
    return [f"frames of {width} x {height} px are kept at {kept[0]} x {kept[1]} px before the processor resizes them"]
