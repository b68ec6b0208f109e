"""Grounding scores: does a map agree with the boxes of a region? Pure numpy.

Each function takes K maps, (K, n) attention of any scale on the n cells of a region, and returns (K,) scores, NaN where
a score is undefined. A map without attention has no mass and hits no box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.regions import Bools, Floats, Region

GROUNDING = ("pointing", "mass", "lift", "auc", "iou")
PATTERNS = ("entropy", "top10_share", "spread", "distance")
SHUFFLES = 64  # random orders of the cells, for the IoU expected by chance


def pointing(maps: Floats, inside: Bools) -> Floats:
    """Return whether the centre of the strongest cell is in a box: the pointing game (Zhang et al. 2016, 1608.00507).

    1 or 0. A map whose maximum is shared by several cells is a miss, and so is a map without attention.
    """
    strongest = maps.max(axis=1)
    unique = (maps == strongest[:, None]).sum(axis=1) == 1
    return np.asarray(inside[maps.argmax(axis=1)] & unique & (strongest > 0), dtype=np.float64)


def mass(maps: Floats, covered: Floats) -> Floats:
    """Return the share of the attention inside the boxes, with each cell's attention spread evenly over its area.

    This is the energy-based pointing game of Score-CAM (Wang et al. 2020, arXiv 1910.01279).
    """
    total = maps.sum(axis=1)
    return np.asarray(np.where(total > 0, maps @ covered / np.where(total > 0, total, 1), 0.0))


def lift(maps: Floats, covered: Floats) -> Floats:
    """Return the mass in the boxes over the boxes' share of the area. A uniform map has a lift of 1."""
    area = covered.mean()
    return mass(maps, covered) / area if area > 0 else np.full(len(maps), np.nan)


def auc(maps: Floats, inside: Bools) -> Floats:
    """Return the area under the ROC curve: cells whose centre is in a box against all others.

    It is the probability that a cell inside has more attention than a cell outside; ties count half (Mann and Whitney
    1947; Hanley and McNeil 1982). NaN if no centre or every centre is inside.
    """
    positive, negative = int(inside.sum()), int((~inside).sum())
    if not positive or not negative:
        return np.full(len(maps), np.nan)
    scores = np.empty(len(maps))
    for k, values in enumerate(maps):
        outside = np.sort(values[~inside])
        below = np.searchsorted(outside, values[inside], "left") + np.searchsorted(outside, values[inside], "right")
        scores[k] = below.sum() / (2 * positive * negative)
    return scores


def otsu(maps: Floats) -> NDArray[np.int64]:
    """Return how many cells are above Otsu's threshold (Otsu 1979), the split with the largest between-class variance.

    The search is exact: it covers every split between different values and uses no histogram. Of equally good splits it
    takes the one with fewer cells above. 0 if all cells are equal.
    """
    count = maps.shape[1]
    highest = maps.max(axis=1, keepdims=True)
    ordered = -np.sort(-maps / np.where(highest > 0, highest, 1), axis=1)
    above = np.arange(1, count)
    sums = ordered.cumsum(axis=1)
    upper = sums[:, :-1] / above
    lower = (sums[:, -1:] - sums[:, :-1]) / (count - above)
    between = above * (count - above) * (upper - lower) ** 2
    between[ordered[:, :-1] == ordered[:, 1:]] = -1
    if not between.size:
        return np.zeros(len(maps), dtype=np.int64)
    best = between.max(axis=1, keepdims=True)
    first = (between >= best * (1 - 1e-9)).argmax(axis=1)  # the first of the splits that tie up to rounding
    return np.where(best[:, 0] > 0, first + 1, 0)


def iou(maps: Floats, covered: Floats) -> Floats:
    """Return the intersection over union, by area, of the boxes and the cells above Otsu's threshold."""
    counts = otsu(maps)
    summed = covered[np.argsort(-maps, axis=1)].cumsum(axis=1)
    common = np.where(counts > 0, np.take_along_axis(summed, np.maximum(counts - 1, 0)[:, None], axis=1)[:, 0], 0.0)
    union = counts + covered.sum() - common
    return np.asarray(np.where(union > 0, common / np.where(union > 0, union, 1), 0.0))


def grounding(maps: Floats, region: Region) -> dict[str, Floats]:
    """Return the scores named in `GROUNDING`, each (K,)."""
    return {
        "pointing": pointing(maps, region.inside),
        "mass": mass(maps, region.covered),
        "lift": lift(maps, region.covered),
        "auc": auc(maps, region.inside),
        "iou": iou(maps, region.covered),
    }


def chance(maps: Floats, region: Region) -> dict[str, Floats]:
    """Return the expected scores of the same maps with their cells in random order.

    The IoU is the mean over `SHUFFLES` fixed random orders; the other scores are exact.
    """
    positive, ones = maps.sum(axis=1) > 0, np.ones(len(maps))
    area, inside = region.covered.mean(), region.inside
    return {
        "pointing": pointing(maps, np.ones_like(inside)) * inside.mean(),
        "mass": np.where(positive, area, 0.0),
        "lift": np.where(positive, 1.0, 0.0) if area > 0 else ones * np.nan,
        "auc": ones * (0.5 if 0 < inside.mean() < 1 else np.nan),
        "iou": _shuffled_iou(region.covered)[otsu(maps)],
    }


def _shuffled_iou(covered: Floats) -> Floats:
    """Return the expected IoU of 0 to n randomly chosen cells, (n + 1,)."""
    rng = np.random.default_rng(0)
    counts = np.arange(1, len(covered) + 1)
    expected = np.zeros(len(covered) + 1)
    for _ in range(SHUFFLES):
        common = rng.permutation(covered).cumsum()
        expected[1:] += common / (counts + covered.sum() - common) / SHUFFLES
    return expected


def baselines(region: Region) -> dict[str, dict[str, float]]:
    """Return the scores of two maps that do not depend on the model: `uniform`, and `centre`, a Gaussian.

    The uniform map misses the pointing game, since all cells share the maximum. The centre prior points at the centre
    of the picture itself (`Center` of Zhang et al. 2016): on an even grid four cells would share the maximum.
    """
    maps = np.stack([np.ones(len(region.cells)), region.central])
    scores = grounding(maps, region)
    scores["pointing"] = np.array([0.0, region.centre_hit])
    return {
        name: {score: float(values[i]) for score, values in scores.items()}
        for i, name in enumerate(("uniform", "centre"))
    }


@dataclass(frozen=True, eq=False)
class Cells:
    """Positions of the V cells of a prompt, for the patterns of its maps.

    Attributes:
        centres_px: (V, 2) x and y of each cell's centre, in pixels of its picture.
        diagonal_px: (V,) diagonal of each cell's picture.
        picture: (V,) index of each cell's picture in the prompt.
    """

    centres_px: Floats
    diagonal_px: Floats
    picture: NDArray[np.int64]


def patterns(maps: Floats, cells: Cells) -> dict[str, Floats]:
    """Return how focused and how wide maps are, independent of boxes: three of `PATTERNS`, each (K,).

    `entropy`: entropy of the cells' shares over that of a uniform map (Shannon 1948): 1 is uniform, 0 a single cell.
    `top10_share`: share of the ten strongest cells.
    `spread`: root mean square distance of the attention from its own centre within each picture, over the diagonal.

    NaN if a map has no attention.
    """
    total = maps.sum(axis=1, keepdims=True)
    share = np.where(total > 0, maps / np.where(total > 0, total, 1), np.nan)
    logs = np.log2(share, where=share > 0, out=np.zeros_like(share))
    largest_entropy = np.log2(maps.shape[1])
    variance = np.zeros(len(maps))
    for number in np.unique(cells.picture):
        inside = cells.picture == number
        part, centres = share[:, inside], cells.centres_px[inside] / cells.diagonal_px[inside, None]
        weight = part.sum(axis=1, keepdims=True)
        middle = part @ centres / np.where(weight > 0, weight, 1)
        variance += part @ (centres**2).sum(axis=1) - weight[:, 0] * (middle**2).sum(axis=1)
    return {
        "entropy": np.where(total[:, 0] > 0, np.abs((share * logs).sum(axis=1)) / (largest_entropy or 1), np.nan),
        "top10_share": -np.sort(-share, axis=1)[:, :10].sum(axis=1),
        "spread": np.sqrt(np.maximum(variance, 0)),
    }


def distance(maps: Floats, region: Region) -> Floats:
    """Return the mean distance of the attention to the nearest box, over the diagonal; 0 inside a box.

    Attention on pictures without a box is left out.
    """
    boxed = np.isfinite(region.distance)
    total = maps[:, boxed].sum(axis=1)
    weighted = maps[:, boxed] @ region.distance[boxed]
    return np.asarray(np.where(total > 0, weighted / np.where(total > 0, total, 1), np.nan))
