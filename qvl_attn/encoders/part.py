"""Which part of a picture a processor shows to its model. Found by painting, not by doing its sums again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import FloatArray

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
