"""The space that embeddings span: principal components, t-SNE, and how far apart classes lie. Needs scikit-learn.

Pure: knows no model and no file. Axes: N points, D dimensions, E layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import FloatArray, IntArray, _require, _require_array
from qvl_attn.encoders.record import PatchEmbedding

# Of the smaller side of a matrix for each component that ARPACK looks for.
ROOM = 20
COMPONENTS = 3
# Of t-SNE: fewer points have no neighbourhoods, more take too long.
LEAST_POINTS, MOST_POINTS = 5, 5000
PERPLEXITY = 30
# Standard deviation of where t-SNE begins, as scikit-learn has it.
START = 1e-4
# t-SNE is run on this many principal components, as its authors do (van der Maaten and Hinton 2008, section 4.2).
FIRST_REDUCED_TO = 50
SHUFFLES = 500
# Where the points differ by less than this share of their size they are rounding errors apart, and the same.
SAME = 1e-6
Floats = NDArray[np.float64]


class Projection(NamedTuple):
    """Points on their first principal components.

    Attributes:
        components: (N, C) float32; zero where the points do not vary so many ways.
        explained: (C,) float32, the share of the variance that each explains.
    """

    components: FloatArray
    explained: FloatArray


def check_available() -> None:
    """Find out whether scikit-learn is there, without loading it.

    Raises:
        InputError: it is not.
    """
    if find_spec("sklearn") is None:
        raise InputError("--embeddings needs the library scikit-learn", "pip install 'qvl-attn[embeddings]'")


def check_points(count: int, of: str) -> None:
    """Find out whether there are enough points for t-SNE.

    Args:
        count: how many there are.
        of: what they are, to be read.

    Raises:
        InputError: too few.
    """
    if count < LEAST_POINTS:
        raise InputError(f"--embeddings tsne: {count} {of}; t-SNE wants {LEAST_POINTS} or more", "write pca")


def principal(points: FloatArray, count: int = COMPONENTS) -> Projection:
    """Project points on their first principal components.

    Each component points where its largest loading is positive, so that the same points always give the same picture.

    Args:
        points: (N, D) float32.
        count: C.
    """
    from sklearn.decomposition import PCA

    n, dimensions = points.shape
    components = np.zeros((n, count), dtype=np.float32)
    explained = np.zeros(count, dtype=np.float32)
    if same(points):
        return Projection(components, explained)
    # ARPACK's components are the same, and of large layers it takes a quarter of the time; small ones leave it no room.
    solver = "arpack" if min(n, dimensions) > ROOM * count else "full"
    found = PCA(min(count, n, dimensions), svd_solver=solver, random_state=0)
    projected = found.fit_transform(points.astype(np.float64))
    ways = np.flatnonzero(found.explained_variance_ratio_ > SAME**2)
    components[:, ways] = projected[:, ways]
    explained[ways] = found.explained_variance_ratio_[ways]
    return Projection(components, explained)


def same(points: FloatArray | Floats) -> bool:
    """Whether points are all the same but for rounding."""
    whole = points.astype(np.float64)
    return bool(whole.var(axis=0).sum() <= SAME**2 * np.square(whole).mean(axis=0).sum())


def neighbour_map(points: FloatArray, seed: int) -> FloatArray:
    """Lay points out on a plane so that near ones stay near: (N, 2) float32, by t-SNE (van der Maaten, Hinton 2008).

    It begins with the first two principal components, so that its coarse shape means something (Kobak and Berens 2019),
    and a little noise: another seed shows what of it is chance. Perplexity 30, less where there are fewer than 91
    points.

    Args:
        points: (N, D) float32, N at least `LEAST_POINTS`.
        seed: of the noise.
    """
    from sklearn.manifold import TSNE

    if same(points):
        return np.zeros((len(points), 2), dtype=np.float32)
    reduced = principal(points, FIRST_REDUCED_TO).components if points.shape[1] > FIRST_REDUCED_TO else points
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    start = principal(points, 2).components
    start = START * start / start[:, 0].std()
    start += np.random.default_rng(seed).normal(scale=START / 10, size=start.shape).astype(np.float32)
    placed = TSNE(perplexity=perplexity, init=start, learning_rate="auto", random_state=seed).fit_transform(reduced)
    return np.asarray(placed, dtype=np.float32)


def even_subset(count: int, most: int = MOST_POINTS) -> IntArray:
    """The numbers of at most `most` of `count` points, evenly apart: ascending int64."""
    return np.arange(min(count, most), dtype=np.int64) * count // min(count, most)


def patch_space(projections: Sequence[Projection], last: FloatArray, seed: int | None) -> PatchEmbedding:
    """What is shown of a picture's embeddings.

    Args:
        projections: of the patches after each layer, -1, 0 and so on.
        last: (P, D) float32 the patches after the last layer.
        seed: of t-SNE; None for none.

    Raises:
        InputError: too few patches for t-SNE.
    """
    shown = tsne = None
    if seed is not None:
        check_points(len(last), "patches")
        shown = even_subset(len(last))
        tsne = neighbour_map(last[shown], seed)
    return PatchEmbedding(
        layers=np.arange(-1, len(projections) - 1, dtype=np.int64),
        components=np.stack([one.components for one in projections]),
        explained=np.stack([one.explained for one in projections]),
        tsne=tsne,
        tsne_patches=shown,
    )


@dataclass(frozen=True, eq=False, repr=False)
class Separation:
    """How far apart classes lie in each layer, by the cosine distance of the pictures' vectors.

    Attributes:
        silhouette: (E,) float64, the mean silhouette (Rousseeuw 1987): 1 where each class lies tight and apart, 0 where
            pictures are as near to another class as to their own; NaN where all vectors are the same.
        neighbour: (E,) float64, the share of pictures whose nearest other picture is of their own class; NaN likewise.
        shuffled: (E, 3) float64, the same with the labels shuffled: mean, and the middle 95 % of the shuffles.
        largest_class: the share of the largest class: what always naming it gives.
        pictures: (S,) int64, which pictures are compared: all that have a class, or of very many an even subset.
        named: how many have a class.
    """

    silhouette: Floats
    neighbour: Floats
    shuffled: Floats
    largest_class: float
    pictures: IntArray
    named: int


@dataclass(frozen=True, eq=False, repr=False)
class FolderEmbedding:
    """Many pictures' vectors by layer, projected.

    Attributes:
        names: of the N pictures.
        classes: of each, `""` where it has none.
        layers: (E,) int64, after which layer; -1 is before the first.
        components: (E, N, 2) float32, the first two principal components of each layer's vectors.
        explained: (E, 2) float32, the share of the variance that each explains.
        tsne: (S, 2) float32, t-SNE of the last layer's vectors; None where it was not asked for.
        tsne_pictures: (S,) int64, which pictures those are: all, or of very many an even subset; None without `tsne`.
        separation: how far apart the classes lie; None where there are not two classes, one with several pictures.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    layers: IntArray
    components: FloatArray
    explained: FloatArray
    tsne: FloatArray | None
    tsne_pictures: IntArray | None
    separation: Separation | None

    def __post_init__(self) -> None:
        E, N = len(self.layers), len(self.names)
        _require(len(self.classes) == N > 0, f"{N} names, {len(self.classes)} classes")
        _require_array("layers", self.layers, np.int64, (E,))
        _require_array("components", self.components, np.float32, (E, N, 2))
        _require_array("explained", self.explained, np.float32, (E, 2))
        _require((self.tsne is None) == (self.tsne_pictures is None), "tsne without its pictures, or they without it")
        if self.tsne is not None and self.tsne_pictures is not None:
            _require_array("tsne_pictures", self.tsne_pictures, np.int64, (len(self.tsne_pictures),))
            _require_array("tsne", self.tsne, np.float32, (len(self.tsne_pictures), 2))


def folder_space(
    names: Sequence[str], classes: Sequence[str], pooled: FloatArray, seed: int | None = None
) -> FolderEmbedding:
    """What is shown of many pictures' embeddings.

    Args:
        names: of the N pictures.
        classes: of each, `""` where it has none.
        pooled: (E, N, D) float32, the pictures' vectors after layers -1, 0 and so on.
        seed: of t-SNE; None for none.

    Raises:
        InputError: too few pictures for t-SNE.
    """
    tsne = shown = None
    if seed is not None:
        check_points(len(names), "pictures")
        shown = even_subset(len(names), MOST_POINTS)
        tsne = neighbour_map(pooled[-1][shown], seed)
    projections = [principal(points, 2) for points in pooled]
    return FolderEmbedding(
        names=tuple(names),
        classes=tuple(classes),
        layers=np.arange(-1, len(pooled) - 1, dtype=np.int64),
        components=np.stack([one.components for one in projections]),
        explained=np.stack([one.explained for one in projections]),
        tsne=tsne,
        tsne_pictures=shown,
        separation=separation_of(classes, pooled),
    )


def separation_of(classes: Sequence[str], pooled: FloatArray) -> Separation | None:
    """How far apart classes lie in each layer. Pictures without a class do not count.

    Every picture is compared with every other, so of very many an even subset is taken.

    Args:
        classes: of the N pictures, `""` where one has none.
        pooled: (E, N, D) float32.
    """
    named = np.flatnonzero(np.array(classes) != "")
    if not len(named):
        return None
    chosen = named[even_subset(len(named), MOST_POINTS)]
    labels = np.unique(np.array(classes)[chosen], return_inverse=True)[1]
    sizes = np.bincount(labels)
    if not 2 <= len(sizes) < len(labels):
        return None
    shuffles = np.stack([np.random.default_rng(seed).permutation(labels) for seed in range(SHUFFLES)])
    rows = [_apart(points[chosen], labels, shuffles) for points in pooled]
    silhouette, neighbour, *shuffled = np.array(rows, dtype=np.float64).T
    return Separation(
        silhouette, neighbour, np.stack(shuffled, axis=1), float(sizes.max() / len(labels)), chosen, len(named)
    )


def _apart(points: FloatArray, labels: IntArray, shuffles: IntArray) -> tuple[float, ...]:
    """Silhouette, nearest neighbours of the own class, and of shuffled labels the mean and the middle 95 %."""
    from sklearn.metrics import silhouette_score
    from sklearn.metrics.pairwise import cosine_distances
    from sklearn.preprocessing import normalize

    directions = normalize(points.astype(np.float64))
    if same(directions):
        return (np.nan,) * 5
    distances = cosine_distances(directions)
    silhouette = float(silhouette_score(distances, labels, metric="precomputed"))
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    by_chance = (shuffles == shuffles[:, nearest]).mean(axis=1)
    low, high = np.percentile(by_chance, (2.5, 97.5))
    return silhouette, float((labels == labels[nearest]).mean()), float(by_chance.mean()), float(low), float(high)
