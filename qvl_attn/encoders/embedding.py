"""Projections of embeddings (PCA, t-SNE) and how well they separate classes. Needs scikit-learn.

Pure: uses no model and no file. Axes: N points, D dimensions, E layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.text import argument
from qvl_attn.core.types import FloatArray, IntArray, _require, _require_array
from qvl_attn.encoders.record import PatchEmbedding

# ARPACK needs a matrix whose smaller side is at least this many times the number of components.
ARPACK_RATIO = 20
COMPONENTS = 3
# Limits of t-SNE: fewer points have no neighbourhoods, more take too long.
LEAST_POINTS, MOST_POINTS = 5, 5000
PERPLEXITY = 30
# Standard deviation of the initial positions of t-SNE, as in scikit-learn.
TSNE_INIT_STD = 1e-4
# t-SNE is run on this many principal components, as by its authors (van der Maaten and Hinton 2008, section 4.2).
TSNE_COMPONENTS = 50
SHUFFLES = 500
# Points that differ by less than this share of their norm differ only by rounding errors.
ROUNDING = 1e-6
Floats = NDArray[np.float64]


class Projection(NamedTuple):
    """Points projected on their first principal components.

    Attributes:
        components: (N, C) float32; zero for components beyond the rank of the points.
        explained: (C,) float32, the share of the variance that each component explains.
    """

    components: FloatArray
    explained: FloatArray


def check_available() -> None:
    """Check that scikit-learn is installed, without loading it.

    Raises:
        InputError: it is not installed.
    """
    if find_spec("sklearn") is None:
        raise InputError(
            f"{argument('embeddings')} needs the library scikit-learn", "pip install 'qvl-attn[embeddings]'"
        )


def check_points(count: int, of: str) -> None:
    """Check that there are enough points for t-SNE.

    Args:
        count: number of points.
        of: what the points are, for the message: `patches` or `pictures`.

    Raises:
        InputError: there are too few.
    """
    if count < LEAST_POINTS:
        raise InputError(
            f"{argument('embeddings', 'tsne')}: {count} {of}; t-SNE needs {LEAST_POINTS} or more",
            f"use {argument('embeddings', 'pca')}",
        )


def project_pca(points: FloatArray, count: int = COMPONENTS) -> Projection:
    """Project points on their first principal components.

    The sign of a component is such that its largest loading is positive: the same points always give the same picture.

    Args:
        points: (N, D) float32.
        count: C, the number of components.
    """
    from sklearn.decomposition import PCA

    n, dimensions = points.shape
    components = np.zeros((n, count), dtype=np.float32)
    explained = np.zeros(count, dtype=np.float32)
    if all_equal(points):
        return Projection(components, explained)
    # ARPACK finds the same components in a quarter of the time, but needs a large matrix.
    solver = "arpack" if min(n, dimensions) > ARPACK_RATIO * count else "full"
    pca = PCA(min(count, n, dimensions), svd_solver=solver, random_state=0)
    projected = pca.fit_transform(points.astype(np.float64))
    nonzero = np.flatnonzero(pca.explained_variance_ratio_ > ROUNDING**2)
    components[:, nonzero] = projected[:, nonzero]
    explained[nonzero] = pca.explained_variance_ratio_[nonzero]
    return Projection(components, explained)


def all_equal(points: FloatArray | Floats) -> bool:
    """Return whether all points are equal up to rounding."""
    exact = points.astype(np.float64)
    return bool(exact.var(axis=0).sum() <= ROUNDING**2 * np.square(exact).mean(axis=0).sum())


def project_tsne(points: FloatArray, seed: int) -> FloatArray:
    """Project points on a plane with t-SNE (van der Maaten and Hinton 2008): (N, 2) float32.

    The initial positions are the first two principal components, so that the global structure is kept (Kobak and Berens
    2019), plus a little noise: other seeds show what is random. The perplexity is 30, or less for fewer than 91 points.

    Args:
        points: (N, D) float32, N at least `LEAST_POINTS`.
        seed: seed of the noise.
    """
    from sklearn.manifold import TSNE

    if all_equal(points):
        return np.zeros((len(points), 2), dtype=np.float32)
    reduced = project_pca(points, TSNE_COMPONENTS).components if points.shape[1] > TSNE_COMPONENTS else points
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    init = project_pca(points, 2).components
    init = TSNE_INIT_STD * init / init[:, 0].std()
    init += np.random.default_rng(seed).normal(scale=TSNE_INIT_STD / 10, size=init.shape).astype(np.float32)
    projected = TSNE(perplexity=perplexity, init=init, learning_rate="auto", random_state=seed).fit_transform(reduced)
    return np.asarray(projected, dtype=np.float32)


def even_subset(count: int, most: int = MOST_POINTS) -> IntArray:
    """Return the indices of at most `most` of `count` points, evenly spaced and ascending: int64."""
    return np.arange(min(count, most), dtype=np.int64) * count // min(count, most)


def embed_patches(projections: Sequence[Projection], last: FloatArray, seed: int | None) -> PatchEmbedding:
    """Return the projected embeddings of a picture's or a clip's patches.

    Args:
        projections: of the patches after each layer, -1, 0 and so on.
        last: (P, D) float32, the patches after the last layer.
        seed: seed of t-SNE; None for no t-SNE.

    Raises:
        InputError: too few patches for t-SNE.
    """
    subset = tsne = None
    if seed is not None:
        check_points(len(last), "patches")
        subset = even_subset(len(last))
        tsne = project_tsne(last[subset], seed)
    return PatchEmbedding(
        layers=np.arange(-1, len(projections) - 1, dtype=np.int64),
        components=np.stack([projection.components for projection in projections]),
        explained=np.stack([projection.explained for projection in projections]),
        tsne=tsne,
        tsne_patches=subset,
    )


@dataclass(frozen=True, eq=False, repr=False)
class Separation:
    """How well classes are separated in each layer, by the cosine distance of the pictures' vectors.

    Attributes:
        silhouette: (E,) float64, the mean silhouette (Rousseeuw 1987): 1 if each class is compact and far from the
            others, 0 if pictures are as near to another class as to their own; NaN if all vectors are equal.
        neighbour: (E,) float64, the share of pictures whose nearest neighbour is of their own class; NaN likewise.
        shuffled: (E, 3) float64, the same with shuffled labels: mean, and the middle 95 % of the shuffles.
        largest_class: the share of the largest class: the accuracy of always predicting it.
        pictures: (S,) int64, the pictures that are compared: all that have a class, or an evenly spaced subset.
        named: number of pictures that have a class.
    """

    silhouette: Floats
    neighbour: Floats
    shuffled: Floats
    largest_class: float
    pictures: IntArray
    named: int


@dataclass(frozen=True, eq=False, repr=False)
class FolderEmbedding:
    """The vectors of many pictures by layer, projected.

    Attributes:
        names: names of the N pictures.
        classes: the class of each, `""` if it has none.
        layers: (E,) int64, the layers whose outputs are projected; -1 is the input of the first.
        components: (E, N, 2) float32, the first two principal components of each layer's vectors.
        explained: (E, 2) float32, the share of the variance that each component explains.
        tsne: (S, 2) float32, t-SNE of the last layer's vectors; None if it was not requested.
        tsne_pictures: (S,) int64, the pictures of `tsne`: all, or an evenly spaced subset; None without `tsne`.
        separation: how well the classes are separated; None if there are fewer than two, or none has two pictures.
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
        _require(
            (self.tsne is None) == (self.tsne_pictures is None), "tsne and tsne_pictures: one given without the other"
        )
        if self.tsne is not None and self.tsne_pictures is not None:
            _require_array("tsne_pictures", self.tsne_pictures, np.int64, (len(self.tsne_pictures),))
            _require_array("tsne", self.tsne, np.float32, (len(self.tsne_pictures), 2))


def embed_folder(
    names: Sequence[str], classes: Sequence[str], pooled: FloatArray, seed: int | None = None
) -> FolderEmbedding:
    """Return the projected embeddings of many pictures.

    Args:
        names: names of the N pictures.
        classes: the class of each, `""` if it has none.
        pooled: (E, N, D) float32, the pictures' vectors after layers -1, 0 and so on.
        seed: seed of t-SNE; None for no t-SNE.

    Raises:
        InputError: too few pictures for t-SNE.
    """
    tsne = subset = None
    if seed is not None:
        check_points(len(names), "pictures")
        subset = even_subset(len(names), MOST_POINTS)
        tsne = project_tsne(pooled[-1][subset], seed)
    projections = [project_pca(points, 2) for points in pooled]
    return FolderEmbedding(
        names=tuple(names),
        classes=tuple(classes),
        layers=np.arange(-1, len(pooled) - 1, dtype=np.int64),
        components=np.stack([projection.components for projection in projections]),
        explained=np.stack([projection.explained for projection in projections]),
        tsne=tsne,
        tsne_pictures=subset,
        separation=separation_of(classes, pooled),
    )


def separation_of(classes: Sequence[str], pooled: FloatArray) -> Separation | None:
    """Measure how well classes are separated in each layer. Pictures without a class are left out.

    Every picture is compared with every other, so of more than `MOST_POINTS` an evenly spaced subset is taken.

    Args:
        classes: the class of each of the N pictures, `""` if it has none.
        pooled: (E, N, D) float32.

    Returns:
        None if there are fewer than two classes, or none has two pictures.
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
    rows = [_separation_row(points[chosen], labels, shuffles) for points in pooled]
    silhouette, neighbour, *shuffled = np.array(rows, dtype=np.float64).T
    return Separation(
        silhouette, neighbour, np.stack(shuffled, axis=1), float(sizes.max() / len(labels)), chosen, len(named)
    )


def _separation_row(points: FloatArray, labels: IntArray, shuffles: IntArray) -> tuple[float, ...]:
    """Return silhouette, share of nearest neighbours of the same class, and its mean and 95 % range when shuffled."""
    from sklearn.metrics import silhouette_score
    from sklearn.metrics.pairwise import cosine_distances
    from sklearn.preprocessing import normalize

    directions = normalize(points.astype(np.float64))
    if all_equal(directions):
        return (np.nan,) * 5
    distances = cosine_distances(directions)
    silhouette = float(silhouette_score(distances, labels, metric="precomputed"))
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    shuffled = (shuffles == shuffles[:, nearest]).mean(axis=1)
    low, high = np.percentile(shuffled, (2.5, 97.5))
    return silhouette, float((labels == labels[nearest]).mean()), float(shuffled.mean()), float(low), float(high)
