"""What deletion and insertion take away from a picture or clip, and in which order. Pure.

The cells go in the order of a map, strongest first; how the answer's probability changes shows whether the map found
what the answer rests on (Samek et al. 2017, arXiv 1509.06321; deletion and insertion: RISE, Petsiuk et al. 2018, arXiv
1806.07421). V is the number of cells, F that of frames.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.types import IntArray

STEPS = 16
BLURRED_SIDE_PX = 512  # the longer side at which larger frames are blurred
BLUR_SHARE = 0.1  # the sigma of the blur over the longer side of the frame


def shares() -> NDArray[np.float64]:
    """(STEPS + 1,) the share of the cells that is gone at each step, from 0 to 1."""
    return np.arange(STEPS + 1) / STEPS


def counts(cells: int) -> IntArray:
    """(STEPS + 1,) how many of so many cells are gone at each share: to the nearest, a half up; first 0, last all."""
    return (2 * np.arange(STEPS + 1, dtype=np.int64) * cells + STEPS) // (2 * STEPS)


def descending(values: NDArray[np.floating[Any]], ties: IntArray) -> IntArray:
    """The cells of a map in the order in which they go: strongest first.

    Args:
        values: (V,) of any scale.
        ties: (V,) the cells in the order in which those of equal value go: a random permutation, so that being in the
            top left corner is no advantage.

    Returns:
        (V,) indices into `values`.
    """
    return ties[np.argsort(-values[ties], kind="stable")]


def removed(order: IntArray) -> NDArray[np.bool_]:
    """Which cells are gone at each share: (STEPS + 1, V), of (V,) cells in the order in which they go."""
    place = np.argsort(order)
    return np.asarray(place < counts(len(order))[:, None])


def area(logprobs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """The area under curves over the share that is gone, by the trapezoidal rule.

    Args:
        logprobs: (..., STEPS + 1) a value for each of `shares`.

    Returns:
        (...), in the unit of `logprobs`.
    """
    return np.asarray(np.trapezoid(logprobs.astype(np.float64), shares(), axis=-1))


def blurred(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame of which no detail is left: a Gaussian blur whose sigma is a tenth of the longer side.

    At the borders the frame is reflected with its edge (dcba|abcd|dcba).

    Args:
        frame: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8, to the nearest level.
    """
    height, width = frame.shape[:2]
    # A kernel as wide as a photograph would take minutes, and of what it blurs nothing finer than this is left.
    shrunk = min(1.0, BLURRED_SIDE_PX / max(height, width))
    small = frame
    if shrunk < 1:
        size_px = max(1, round(width * shrunk)), max(1, round(height * shrunk))
        small = cv2.resize(frame, size_px, interpolation=cv2.INTER_AREA)
    sigma_px = BLUR_SHARE * max(small.shape[:2])
    # Not in uint8, where OpenCV rounds the weights of a wide kernel to 1/256.
    soft = cv2.GaussianBlur(small.astype(np.float32), (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT)
    if shrunk < 1:
        soft = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.rint(soft), dtype=np.uint8)


def flat(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames of the one colour that is the mean of all their pixels, to the nearest level.

    Args:
        frames: (F, H, W, 3) uint8.

    Returns:
        (F, H, W, 3) uint8.
    """
    colour = np.rint(frames.mean(axis=(0, 1, 2), dtype=np.float64)).astype(np.uint8)
    return np.broadcast_to(colour, frames.shape).copy()
