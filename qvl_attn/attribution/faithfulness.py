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

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.perturb import STEPS, area, descending, removed, shares
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
