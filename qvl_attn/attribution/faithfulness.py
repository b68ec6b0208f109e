"""How the probability of an answer changes as cells of the picture are taken away or put back in a map's order. Pure.

A map that shows what the answer rests on makes the deletion's curve fall early, and the insertion's rise early (RISE,
Petsiuk et al. 2018, arXiv 1806.07421; against random orders: Samek et al. 2017, arXiv 1509.06321). N is the number of
curves, V that of cells; a curve has a value for each of `perturb.shares`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.types import FloatArray, IntArray, Media

KINDS = ("deletion", "insertion")
FILLS = ("blur", "mean")
CONTROLS = ("random", "uniform")
RANDOM_ORDERS = 4
HEADLINE = "headline"  # what the plain headline's map is called among methods


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of several maps of one answer, and of what knows nothing.

    Attributes:
        names: (N) of the maps, then `CONTROLS`: the mean over random orders, and a map that is the same everywhere,
            which takes the same share of every cell.
        logprobs: (N, 2, 2, STEPS + 1) float64, natural logarithm of the probability of the answer's text tokens (as
            `Result.answer_logprob`), by `KINDS`, by `FILLS`, at each share that is gone (deletion) or back (insertion).
    """

    names: tuple[str, ...]
    logprobs: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = len(self.names), len(KINDS), len(FILLS), STEPS + 1
        if self.logprobs.shape != shape or self.logprobs.dtype != np.float64:
            raise ValueError(f"logprobs: want float64 {shape}, got {self.logprobs.dtype} {self.logprobs.shape}")
        if not np.isfinite(self.logprobs).all():
            raise ValueError("logprobs: not finite")
        if self.names[-len(CONTROLS) :] != CONTROLS or len({*self.names}) < len(self.names):
            raise ValueError(f"names: {self.names}, want different ones, then {CONTROLS}")

    @property
    def shares(self) -> NDArray[np.float64]:
        """(STEPS + 1,) the share of the cells at each value, from 0 to 1."""
        return shares()

    def figures(self) -> dict[str, dict[str, float]]:
        """The area under each curve, in nats, as `deletion_blur` and the like, by name.

        The mean of the curve, in other words: of a deletion the lower the better, of an insertion the higher.
        """
        areas = area(self.logprobs)
        return {
            name: {
                f"{kind}_{fill}": float(areas[n, k, f]) for k, kind in enumerate(KINDS) for f, fill in enumerate(FILLS)
            }
            for n, name in enumerate(self.names)
        }


def curves_json(curves: Curves) -> dict[str, Any]:
    """As plain values: the log-probabilities, and what stands along each of their axes, in their order."""
    axes = {"names": list(curves.names), "kinds": list(KINDS), "fills": list(FILLS), "shares": curves.shares.tolist()}
    return {**axes, "logprobs": curves.logprobs.tolist()}


def curves_from(written: Mapping[str, Any]) -> Curves:
    """From what `curves_json` wrote.

    Raises:
        ValueError: it is none.
    """
    return Curves(tuple(written["names"]), np.array(written["logprobs"], dtype=np.float64))


def seed_of(seed: int, media: Sequence[Media], question: str) -> int:
    """A seed of a question's own: with one for all, pictures of one size would meet the same random orders."""
    told = json.dumps([seed, [one.sha256 for one in media], question])
    return int(sha256(told.encode()).hexdigest()[:12], 16)


def removal_orders(maps: Iterable[FloatArray], cells: int, seed: int) -> IntArray:
    """The orders in which the cells go: each map's, strongest first and ties at random, then random ones.

    Args:
        maps: (V,) each, of any scale.
        cells: V.
        seed: of ties and random orders, which are the same for every map.

    Returns:
        (maps + RANDOM_ORDERS, V) indices of cells.

    Raises:
        ValueError: a map of another shape, or not finite.
    """
    rng = np.random.default_rng(seed)
    random = [rng.permutation(cells) for _ in range(1 + RANDOM_ORDERS)]
    orders = []
    for values in maps:
        if values.shape != (cells,) or not np.isfinite(values).all():
            raise ValueError(f"a map of shape {values.shape} for {cells} cells, or not finite")
        orders.append(descending(values, random[0]))
    return np.stack([*orders, *random[1:]])


def gone_shares(orders: IntArray) -> FloatArray:
    """How much of each cell is gone at each value of the curves.

    Args:
        orders: (K, V) of cells as they go.

    Returns:
        (K + 1, 2, STEPS + 1, V) float32, 0 to 1: by order and at last the same share of every cell, by `KINDS`.
    """
    evenly = np.repeat(shares()[:, None], orders.shape[1], axis=1)
    deleted = np.stack([*(removed(order) for order in orders), evenly]).astype(np.float32)
    return np.stack([deleted, 1 - deleted], axis=1)


def curves_of(names: Iterable[str], logprobs: NDArray[np.float64]) -> Curves:
    """The curves, of the log-probabilities at `gone_shares`.

    Args:
        names: of the maps.
        logprobs: (maps + RANDOM_ORDERS + 1, 2, 2, STEPS + 1) by order, by `KINDS`, by `FILLS`.
    """
    maps, random, uniform = np.split(logprobs, [-1 - RANDOM_ORDERS, -1])
    return Curves((*names, *CONTROLS), np.concatenate([maps, random.mean(axis=0, keepdims=True), uniform]))


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
