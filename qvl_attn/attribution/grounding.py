"""Figures of maps against a region: did it look where the evidence is? Pure numpy.

All take K maps at once, (K, n) attention of any scale on the n cells of a region, and give (K,) figures; NaN where a
figure is not defined. A map without any attention has no mass and hits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvl_attn.attribution.regions import Bools, Floats, Region

GROUNDING = ("pointing", "mass", "lift", "auc", "iou")
PATTERNS = ("entropy", "top10_share", "spread", "distance")
SHUFFLES = 64  # random orders of the cells behind the IoU that chance gives


def pointing(maps: Floats, inside: Bools) -> Floats:
    """Whether the strongest cell has its centre in a box: the pointing game (Zhang et al. 2016, arXiv 1608.00507).

    1 or 0. Two cells that share the maximum point nowhere: a miss, and so is a map without attention.
    """
    strongest = maps.max(axis=1)
    unique = (maps == strongest[:, None]).sum(axis=1) == 1
    return np.asarray(inside[maps.argmax(axis=1)] & unique & (strongest > 0), dtype=np.float64)


def mass(maps: Floats, covered: Floats) -> Floats:
    """The share of the attention that lies in the boxes, each cell's spread evenly over its area.

    Energy in the box (the energy-based pointing game of Score-CAM, Wang et al. 2020, arXiv 1910.01279).
    """
    total = maps.sum(axis=1)
    return np.asarray(np.where(total > 0, maps @ covered / np.where(total > 0, total, 1), 0.0))


def lift(maps: Floats, covered: Floats) -> Floats:
    """The mass in the boxes over their share of the area, which a uniform map would have: 1 is chance."""
    area = covered.mean()
    return mass(maps, covered) / area if area > 0 else np.full(len(maps), np.nan)


def auc(maps: Floats, inside: Bools) -> Floats:
    """Area under the ROC curve of cells whose centre is in a box against the others.

    The probability that a cell inside has more attention than one outside, ties counting half (Mann and Whitney 1947;
    Hanley and McNeil 1982). NaN where no centre, or every one, is inside.
    """
    positive, negative = int(inside.sum()), int((~inside).sum())
    if not positive or not negative:
        return np.full(len(maps), np.nan)
    found = np.empty(len(maps))
    for k, values in enumerate(maps):
        outside = np.sort(values[~inside])
        below = np.searchsorted(outside, values[inside], "left") + np.searchsorted(outside, values[inside], "right")
        found[k] = below.sum() / (2 * positive * negative)
    return found


def otsu(maps: Floats) -> NDArray[np.int64]:
    """How many cells lie above Otsu's threshold (Otsu 1979): the split with the largest variance between its classes.

    Exact, over every split between different values and not over a histogram; of splits that are equally good the one
    with fewer cells above. 0 where all cells are equal.
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
    first = (between >= best * (1 - 1e-9)).argmax(axis=1)  # of splits that tie, whatever rounding makes of them
    return np.where(best[:, 0] > 0, first + 1, 0)


def iou(maps: Floats, covered: Floats) -> Floats:
    """Intersection over union of the boxes with the cells above Otsu's threshold, by area."""
    counts = otsu(maps)
    summed = covered[np.argsort(-maps, axis=1)].cumsum(axis=1)
    common = np.where(counts > 0, np.take_along_axis(summed, np.maximum(counts - 1, 0)[:, None], axis=1)[:, 0], 0.0)
    union = counts + covered.sum() - common
    return np.asarray(np.where(union > 0, common / np.where(union > 0, union, 1), 0.0))


def grounding(maps: Floats, region: Region) -> dict[str, Floats]:
    """The figures of `GROUNDING`, each (K,)."""
    return {
        "pointing": pointing(maps, region.inside),
        "mass": mass(maps, region.covered),
        "lift": lift(maps, region.covered),
        "auc": auc(maps, region.inside),
        "iou": iou(maps, region.covered),
    }


def chance(maps: Floats, region: Region) -> dict[str, Floats]:
    """What the same maps would score with their cells in random order: the expectation of each figure.

    For the IoU it is the mean over `SHUFFLES` orders, always the same ones; for the others it is exact.
    """
    some, ones = maps.sum(axis=1) > 0, np.ones(len(maps))
    area, inside = region.covered.mean(), region.inside
    return {
        "pointing": pointing(maps, np.ones_like(inside)) * inside.mean(),
        "mass": np.where(some, area, 0.0),
        "lift": np.where(some, 1.0, 0.0) if area > 0 else ones * np.nan,
        "auc": ones * (0.5 if 0 < inside.mean() < 1 else np.nan),
        "iou": _shuffled_iou(region.covered)[otsu(maps)],
    }


def _shuffled_iou(covered: Floats) -> Floats:
    """(n + 1,) the expected IoU of that many cells chosen at random."""
    rng = np.random.default_rng(0)
    counts = np.arange(1, len(covered) + 1)
    found = np.zeros(len(covered) + 1)
    for _ in range(SHUFFLES):
        common = rng.permutation(covered).cumsum()
        found[1:] += common / (counts + covered.sum() - common) / SHUFFLES
    return found


def baselines(region: Region) -> dict[str, dict[str, float]]:
    """What maps that do not depend on the model score: `uniform`, and `centre`, a Gaussian around the centre.

    A uniform map points nowhere, by the rule of ties. Of the centre prior the point itself is the picture's centre
    (the `Center` of Zhang et al. 2016): on an even grid four cells would share the maximum.
    """
    maps = np.stack([np.ones(len(region.cells)), region.central])
    both = grounding(maps, region)
    both["pointing"] = np.array([0.0, region.centre_hit])
    return {
        name: {figure: float(values[i]) for figure, values in both.items()}
        for i, name in enumerate(("uniform", "centre"))
    }


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the V cells of a prompt lie, for the patterns of its maps.

    Attributes:
        centres_px: (V, 2) x and y in the pixels of each one's picture.
        diagonal_px: (V,) of each one's picture.
        picture: (V,) which picture of the prompt.
    """

    centres_px: Floats
    diagonal_px: Floats
    picture: NDArray[np.int64]


def patterns(maps: Floats, cells: Cells) -> dict[str, Floats]:
    """How focused and how wide maps are, whatever they look at: three of the figures of `PATTERNS`, each (K,).

    `entropy`: of the cells' shares, over that of a uniform map (Shannon 1948): 1 is uniform, 0 a single cell.
    `top10_share`: the share of the ten strongest cells.
    `spread`: the root mean square distance of the attention from its own centre within each picture, over the diagonal.

    NaN where a map has no attention.
    """
    total = maps.sum(axis=1, keepdims=True)
    share = np.where(total > 0, maps / np.where(total > 0, total, 1), np.nan)
    logs = np.log2(share, where=share > 0, out=np.zeros_like(share))
    most = np.log2(maps.shape[1])
    variance = np.zeros(len(maps))
    for number in np.unique(cells.picture):
        own = cells.picture == number
        part, centres = share[:, own], cells.centres_px[own] / cells.diagonal_px[own, None]
        weight = part.sum(axis=1, keepdims=True)
        middle = part @ centres / np.where(weight > 0, weight, 1)
        variance += part @ (centres**2).sum(axis=1) - weight[:, 0] * (middle**2).sum(axis=1)
    return {
        "entropy": np.where(total[:, 0] > 0, np.abs((share * logs).sum(axis=1)) / (most or 1), np.nan),
        "top10_share": -np.sort(-share, axis=1)[:, :10].sum(axis=1),
        "spread": np.sqrt(np.maximum(variance, 0)),
    }


def distance(maps: Floats, region: Region) -> Floats:
    """How far from the nearest box the attention lies on average, over the diagonal; 0 in a box.

    Attention on pictures of the prompt that have no box is left out.
    """
    seen = np.isfinite(region.distance)
    total = maps[:, seen].sum(axis=1)
    far = maps[:, seen] @ region.distance[seen]
    return np.asarray(np.where(total > 0, far / np.where(total > 0, total, 1), np.nan))
