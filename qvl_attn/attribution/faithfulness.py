"""Deletion and insertion curves: the answer's probability as cells are removed or restored in a map's order. Pure.

If a map shows what the answer depends on, the deletion curve falls early and the insertion curve rises early (RISE,
Petsiuk et al. 2018, arXiv 1806.07421; against random orders: Samek et al. 2017, arXiv 1509.06321). N is the number of
curves, V the number of cells. A curve has one value for each of `shares()`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.typed_json import Finite, decoded
from qvl_attn.core.types import FloatArray, IntArray, Media

KINDS = ("deletion", "insertion")
FILLS = ("blur", "mean")
CONTROLS = ("random", "uniform")
RANDOM_ORDERS = 4
HEADLINE = "headline"  # the name of the headline map among the methods


@dataclass(frozen=True, eq=False)
class Curves:
    """The curves of several maps of one answer, and of the controls.

    Attributes:
        names: (N) names of the maps, then `CONTROLS`: the mean over random orders, and a uniform map, which removes the
            same share of every cell.
        logprobs: (N, 2, 2, STEPS + 1) float64, natural logarithm of the probability of the answer's text tokens (as
            `Result.answer_logprob`), by `KINDS`, by `FILLS`, at each share removed (deletion) or restored (insertion).
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
            raise ValueError(f"names: {self.names}, want unique names, then {CONTROLS}")

    @property
    def shares(self) -> NDArray[np.float64]:
        """(STEPS + 1,) the share of the cells at each value, from 0 to 1."""
        return shares()

    def figures(self) -> dict[str, dict[str, float]]:
        """Return the areas under the curves in nats, by name, each with keys such as `deletion_blur`.

        An area is the mean of its curve. Lower is better for deletion, higher for insertion.
        """
        areas = area(self.logprobs)
        return {
            name: {
                f"{kind}_{fill}": float(areas[n, k, f]) for k, kind in enumerate(KINDS) for f, fill in enumerate(FILLS)
            }
            for n, name in enumerate(self.names)
        }


def curves_json(curves: Curves) -> dict[str, Any]:
    """Return the curves as JSON values: the log-probabilities and the labels of each axis."""
    axes = {"names": list(curves.names), "kinds": list(KINDS), "fills": list(FILLS), "shares": curves.shares.tolist()}
    return {**axes, "logprobs": curves.logprobs.tolist()}


class _Saved(TypedDict):
    names: tuple[str, ...]
    logprobs: list[list[list[list[Finite]]]]


def curves_from(value: object) -> Curves:
    """Return the curves that `curves_json` wrote.

    Raises:
        ValueError: the value is not that of curves.
    """
    saved = decoded(value, _Saved, "curves")
    return Curves(saved["names"], np.array(saved["logprobs"], dtype=np.float64))


def seed_of(seed: int, media: Sequence[Media], question: str) -> int:
    """Return a seed of its own for each question, so that pictures of one size do not share their random orders."""
    text = json.dumps([seed, [item.sha256 for item in media], question])
    return int(sha256(text.encode()).hexdigest()[:12], 16)


def removal_orders(maps: Iterable[FloatArray], cells: int, seed: int) -> IntArray:
    """Return the orders in which cells are removed: for each map strongest first, ties at random; then random orders.

    Args:
        maps: maps of any scale, (V,) each.
        cells: V.
        seed: seed of the ties and random orders, which are the same for every map.

    Returns:
        (maps + RANDOM_ORDERS, V) indices of cells.

    Raises:
        ValueError: a map has another shape or is not finite.
    """
    rng = np.random.default_rng(seed)
    random = [rng.permutation(cells) for _ in range(1 + RANDOM_ORDERS)]
    orders = []
    for values in maps:
        if values.shape != (cells,) or not np.isfinite(values).all():
            raise ValueError(f"a map of shape {values.shape} for {cells} cells, or not finite")
        orders.append(descending(values, random[0]))
    return np.stack([*orders, *random[1:]])


def removed_shares(orders: IntArray) -> FloatArray:
    """Return the removed share of each cell at each point of the curves.

    Args:
        orders: (K, V) indices of cells in the order of their removal.

    Returns:
        (K + 1, 2, STEPS + 1, V) float32, 0 to 1: by order, the last with the same share of every cell; by `KINDS`.
    """
    evenly = np.repeat(shares()[:, None], orders.shape[1], axis=1)
    deleted = np.stack([*(removed(order) for order in orders), evenly]).astype(np.float32)
    return np.stack([deleted, 1 - deleted], axis=1)


def curves_of(names: Iterable[str], logprobs: NDArray[np.float64]) -> Curves:
    """Return the curves, given the log-probabilities at `removed_shares`.

    Args:
        names: names of the maps.
        logprobs: (maps + RANDOM_ORDERS + 1, 2, 2, STEPS + 1) by order, by `KINDS`, by `FILLS`.
    """
    maps, random, uniform = np.split(logprobs, [-1 - RANDOM_ORDERS, -1])
    return Curves((*names, *CONTROLS), np.concatenate([maps, random.mean(axis=0, keepdims=True), uniform]))


STEPS = 16
BLURRED_SIDE_PX = 512  # larger frames are blurred at this longer side
BLUR_SHARE = 0.1  # sigma of the blur over the longer side of the frame


def shares() -> NDArray[np.float64]:
    """Return the share of the cells removed at each step, (STEPS + 1,), from 0 to 1."""
    return np.arange(STEPS + 1) / STEPS


def counts(cells: int) -> IntArray:
    """Return the number of cells removed at each share, (STEPS + 1,): rounded half up, first 0, last `cells`."""
    return (2 * np.arange(STEPS + 1, dtype=np.int64) * cells + STEPS) // (2 * STEPS)


def descending(values: NDArray[np.floating[Any]], ties: IntArray) -> IntArray:
    """Return the cells of a map from the strongest to the weakest.

    Args:
        values: (V,) map of any scale.
        ties: (V,) the order of cells with equal values: a random permutation, so that the top left corner has no
            advantage.

    Returns:
        (V,) indices into `values`.
    """
    return ties[np.argsort(-values[ties], kind="stable")]


def removed(order: IntArray) -> NDArray[np.bool_]:
    """Return which cells are removed at each share, (STEPS + 1, V), for the (V,) cells in the order of removal."""
    rank = np.argsort(order)
    return np.asarray(rank < counts(len(order))[:, None])


def area(logprobs: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the area under curves over the removed share, by the trapezoidal rule.

    Args:
        logprobs: (..., STEPS + 1) one value for each of `shares()`.

    Returns:
        (...), in the unit of `logprobs`.
    """
    return np.asarray(np.trapezoid(logprobs.astype(np.float64), shares(), axis=-1))


def blurred(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a frame without detail: a Gaussian blur whose sigma is a tenth of the longer side.

    At the borders the frame is reflected with its edge (dcba|abcd|dcba).

    Args:
        frame: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8, rounded.
    """
    height, width = frame.shape[:2]
    # A kernel for a whole photograph would take minutes, and the blur leaves no finer detail than this.
    shrunk = min(1.0, BLURRED_SIDE_PX / max(height, width))
    small = frame
    if shrunk < 1:
        size_px = max(1, round(width * shrunk)), max(1, round(height * shrunk))
        small = cv2.resize(frame, size_px, interpolation=cv2.INTER_AREA)
    sigma_px = BLUR_SHARE * max(small.shape[:2])
    # Not in uint8: OpenCV would round the weights of a wide kernel to 1/256.
    soft = cv2.GaussianBlur(small.astype(np.float32), (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT)
    if shrunk < 1:
        soft = cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.rint(soft), dtype=np.uint8)


def flat(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return frames of a single colour, the rounded mean of all their pixels.

    Args:
        frames: (F, H, W, 3) uint8.

    Returns:
        (F, H, W, 3) uint8.
    """
    colour = np.rint(frames.mean(axis=(0, 1, 2), dtype=np.float64)).astype(np.uint8)
    return np.broadcast_to(colour, frames.shape).copy()
