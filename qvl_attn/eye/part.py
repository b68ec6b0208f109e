"""Which part of a picture a processor shows to its model. Found by painting, not by doing its sums again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from qvl_attn.errors import CaptureError

Part = tuple[float, float, float, float]
_TOLERANCE_PX = 0.75


def part_px(processor: Any, size_px: tuple[int, int], **how: Any) -> Part:
    """The part of a picture that becomes the model's input, xyxy in the picture's pixels.

    The processor is given a picture whose values are its own coordinates. Resizing keeps a ramp a ramp but near its
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
    painted = np.zeros((height, width, 3), dtype=np.float32)
    painted[..., 0], painted[..., 1] = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    painted[..., 2] = 1
    plain = {"do_rescale": False, "do_normalize": False, "do_convert_rgb": False, "input_data_format": "channels_last"}
    shown = processor(images=[painted], return_tensors="pt", **{**how, **plain})["pixel_values"][0]
    inside = shown[2].float() > 0.999
    x0, x1 = _ends(shown[0].float(), inside, along=1)
    y0, y1 = _ends(shown[1].float(), inside, along=0)
    return x0, y0, x1, y1


def _ends(ramp: torch.Tensor, inside: torch.Tensor, along: int) -> tuple[float, float]:
    """Where the first input pixel begins and the last one ends, by the line through the ramp's middle."""
    count = ramp.shape[along]
    places = inside.any(dim=1 - along).nonzero()[:, 0]
    across = inside.any(dim=along).nonzero()[:, 0]
    middle = int(across[len(across) // 2])
    values = (ramp[middle] if along else ramp[:, middle])[places].double().numpy()
    at = places.double().numpy() + 0.5
    cut = len(at) // 8 if len(at) >= 8 else 0
    kept = slice(cut, len(at) - cut)
    if len(at[kept]) < 2:
        raise CaptureError("the picture is too small for its place in the processor's crop to be found")
    slope, start = np.polyfit(at[kept], values[kept], 1)
    if np.abs(slope * at[kept] + start - values[kept]).max() > max(_TOLERANCE_PX, 0.02 * slope):
        raise CaptureError("the processor does more than to scale and crop a picture, so patches cannot be placed")
    return float(start), float(start + slope * count)
