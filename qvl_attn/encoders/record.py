"""What an encoder gives for one picture or clip: attention, embeddings, saliency, and what was asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import FloatArray, IntArray, Media, _require, _require_array
from qvl_attn.encoders.attention import EncoderAttention, Over
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.results.record import Provenance, Record


@dataclass(frozen=True)
class EncoderProvenance(Provenance):
    """What made an encoder's result."""

    family: str


OVER = ("mean", "max", "min")
EMBEDDINGS = ("pca", "tsne")


@dataclass(frozen=True)
class EncoderSettings:
    """What was asked for, as it was typed.

    Attributes:
        at: (x, y) in pixels of the upright original, each a place whose patch is asked about.
        min_pixels: to which a picture is resized at least; None for what the processor does.
        max_pixels: to which it is resized at most.
        layer: whose heads are shown one by one; None for the last.
        over: how heads are joined in the maps of layers.
        embeddings: `pca`, `tsne`, or both; kept in this order, each once.
        saliency: whether maps of what decided a class or a likeness are wanted.
        texts: that the picture is compared with.
        label: a class, by name or number; None for the likeliest.
        seed: of t-SNE.
        clip: which frames of a clip; None for a picture.
    """

    at: tuple[tuple[float, float], ...] = ()
    min_pixels: int | None = None
    max_pixels: int | None = None
    layer: int | None = None
    over: Over = "mean"
    embeddings: tuple[str, ...] = ()
    saliency: bool = False
    texts: tuple[str, ...] = ()
    label: str | None = None
    seed: int = 0
    clip: ClipSettings | None = None

    def __post_init__(self) -> None:
        set_field = partial(object.__setattr__, self)
        set_field("at", _points(self.at))
        for name in ("embeddings", "texts"):
            typed = getattr(self, name)
            set_field(name, (typed,) if isinstance(typed, str) else tuple(typed))
        if self.over not in OVER:
            raise InputError(f"--over {self.over}: unknown", f"write {', '.join(OVER)}")
        for one in self.embeddings:
            if one not in EMBEDDINGS:
                raise InputError(f"--embeddings {one}: unknown", "write pca, tsne or pca,tsne")
        set_field("embeddings", tuple(one for one in EMBEDDINGS if one in self.embeddings))
        if not self.saliency and (self.texts or self.label is not None):
            flag = "--text" if self.texts else "--label"
            raise InputError(f"{flag} is of the maps of saliency, which are not asked for", "add --saliency")


def _points(at: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    try:
        return tuple((float(x), float(y)) for x, y in at)
    except (TypeError, ValueError):
        raise InputError(f"at: {at!r}"[:80] + ": want (x, y) pairs", "such as [(100, 100)]") from None


@dataclass(frozen=True, eq=False, repr=False)
class SaliencyMap:
    """What decided how like a text a picture is, or a class.

    Attributes:
        method: `gradcam` or `attention_gradient`.
        target: the text, or the class, to be read.
        score: the model's own figure for it: a probability for a class, a cosine similarity for a text.
        values: (t, h, w) float32, not negative; zero everywhere where nothing speaks for the target.
    """

    method: str
    target: str
    score: float
    values: FloatArray

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype != np.float32:
            raise ValueError(f"values: {self.values.dtype} {self.values.shape}")
        if not (np.isfinite(self.values).all() and (self.values >= 0).all() and np.isfinite(self.score)):
            raise ValueError("values: not finite, or negative")


@dataclass(frozen=True, eq=False, repr=False)
class PatchEmbedding:
    """The patches' embeddings by layer, projected.

    Attributes:
        layers: (E,) int64, after which layer; -1 is before the first.
        components: (E, P, 3) float32, the first three principal components of each layer's patches.
        explained: (E, 3) float32, the share of the variance that each explains.
        tsne: (S, 2) float32, t-SNE of the last layer's patches; None where it was not asked for.
        tsne_patches: (S,) int64, which patches those are: all, or of very many an even subset; None without `tsne`.
    """

    layers: IntArray
    components: FloatArray
    explained: FloatArray
    tsne: FloatArray | None = None
    tsne_patches: IntArray | None = None

    def __post_init__(self) -> None:
        E, P = self.components.shape[:2]
        _require_array("layers", self.layers, np.int64, (E,))
        _require_array("components", self.components, np.float32, (E, P, 3))
        _require_array("explained", self.explained, np.float32, (E, 3))
        _require((self.tsne is None) == (self.tsne_patches is None), "tsne without its patches, or they without it")
        if self.tsne is not None and self.tsne_patches is not None:
            _require_array("tsne_patches", self.tsne_patches, np.int64, (None,))
            _require_array("tsne", self.tsne, np.float32, (len(self.tsne_patches), 2))
            _require(bool(((self.tsne_patches >= 0) & (self.tsne_patches < P)).all()), "tsne_patches: no patches")
        for name in ("components", "explained", "tsne"):
            values = getattr(self, name)
            _require(values is None or bool(np.isfinite(values).all()), f"{name}: not finite")


@dataclass(frozen=True, eq=False, repr=False)
class EncoderRecord(Record):
    """One picture or clip as an encoder sees it.

    Attributes:
        media: the picture or clip, upright.
        attention: the attention.
        reconstruction: (t, H, W, 3) uint8, what went in, put together again from the normalised patches.
        settings: what was asked for.
        provenance: what made it.
        frames: (t, 2) int64, the first and last sampled frame of each step.
        similarity: (E, A, t, h, w) float32, by layer, the cosine similarity of the patches that were asked about to all
            of their step; None without `at`. Layers as in `similarity_layers`.
        similarity_layers: (E,) int64, after which layer; -1 is before the first.
        embedding: the embeddings, projected, where they were asked for.
        saliency: where it was asked for.
        patch_rows: (L, K, t, h, w) float32, what single patches give every patch of their step, the mean over the
            heads; None where there is no room for them.
        patch_row_places: (K,) int64, which patches those are, places in a step that lie evenly over it.
    """

    media: Media
    attention: EncoderAttention
    reconstruction: NDArray[np.uint8]
    settings: EncoderSettings
    provenance: EncoderProvenance
    frames: IntArray
    similarity: FloatArray | None = None
    similarity_layers: IntArray | None = None
    embedding: PatchEmbedding | None = None
    saliency: tuple[SaliencyMap, ...] = ()
    patch_rows: FloatArray | None = None
    patch_row_places: IntArray | None = None

    def __post_init__(self) -> None:
        L, A, grid = self.attention.layer_count, len(self.attention.query_patches), self.attention.grid
        t, h, w = grid
        _require_array("frames", self.frames, np.int64, (t, 2))
        _require(0 <= self.frames.min() <= self.frames.max() < len(self.media.frames), "frames: not of the clip")
        _require(len(self.settings.at) == A, "at: not the places of the queries")
        _require(0 <= self.head_layer < L, f"layer {self.settings.layer} of {L}")
        _require((self.similarity is None) == (self.similarity_layers is None), "similarity without its layers")
        if self.similarity is not None and self.similarity_layers is not None:
            _require_array("similarity_layers", self.similarity_layers, np.int64, (None,))
            _require_array("similarity", self.similarity, np.float32, (len(self.similarity_layers), A, *grid))
            _require(bool(np.isfinite(self.similarity).all()), "similarity: not finite")
        if self.embedding is not None:
            _require_array("components", self.embedding.components, np.float32, (None, t * h * w, 3))
        _require(all(one.values.shape == grid for one in self.saliency), "saliency: not of the grid")
        _require((self.patch_rows is None) == (self.patch_row_places is None), "grid_rows without their places")
        if self.patch_rows is not None and self.patch_row_places is not None:
            _require_array("grid_places", self.patch_row_places, np.int64, (None,))
            _require_array("grid_rows", self.patch_rows, np.float32, (L, len(self.patch_row_places), *grid))
            _require(
                bool(np.isfinite(self.patch_rows).all() and (self.patch_rows >= 0).all()), "grid_rows: not attention"
            )
            inside = (self.patch_row_places >= 0) & (self.patch_row_places < h * w)
            _require(bool(inside.all()), "grid_places: not among the patches")

    def __repr__(self) -> str:
        t, h, w = self.attention.grid
        return f"{type(self).__name__}({self.media.source!r}, {self.provenance.model!r}, {t} x {h} x {w} patches)"

    @property
    def head_layer(self) -> int:
        """The layer whose heads are shown one by one, 0-based."""
        return self.attention.layer_count - 1 if self.settings.layer is None else self.settings.layer


def patches_at(at: Sequence[tuple[float, float]], boxes_px: FloatArray, size_px: tuple[int, int]) -> tuple[int, ...]:
    """The places in a step of the patches that show some points.

    Args:
        at: (x, y) in pixels of the upright original.
        boxes_px: (h * w, 4) xyxy of a step's patches.
        size_px: (width, height) of the original.

    Raises:
        InputError: a point that no patch shows.
    """
    found = []
    for x, y in at:
        x0, y0, x1, y1 = boxes_px.T
        inside = np.flatnonzero((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1))
        if not len(inside):
            ends = f"{x0.min():.0f},{y0.min():.0f} to {x1.max():.0f},{y1.max():.0f}"
            if not (0 <= x < size_px[0] and 0 <= y < size_px[1]):
                raise InputError(f"--at {x:g},{y:g}: outside the picture, which has {size_px[0]} x {size_px[1]} px")
            raise InputError(
                f"--at {x:g},{y:g}: the encoder does not see it; what it sees reaches from {ends}",
                "--max-pixels shows it the whole picture",
            )
        found.append(int(inside[0]))
    return tuple(found)
