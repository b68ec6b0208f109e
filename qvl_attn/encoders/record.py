"""The record of an encoder's result: attention, embeddings, saliency, settings and provenance. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.options import of_type, set_types
from qvl_attn.core.text import argument
from qvl_attn.core.types import FloatArray, IntArray, _require, _require_array
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.results.record import Over, Provenance, Record


@dataclass(frozen=True)
class EncoderProvenance(Provenance):
    """The software and the vision encoder that made a result."""

    family: str


OVER: tuple[str, ...] = get_args(Over)
EMBEDDINGS = ("pca", "tsne")
SaliencyMethod = Literal["gradcam", "attention_gradient"]


class EncoderFolderOptions(TypedDict, total=False):
    """Options of a run over a folder of pictures.

    Attributes:
        min_pixels: lower limit of a picture's pixels after resizing; by default the processor's.
        max_pixels: upper limit of a picture's pixels after resizing; by default the processor's.
        stretch: of pictures of more than 8 bits per channel, scale the range that they use, not the whole one; False by
            default.
        embeddings: `pca`, `tsne`, or both; none by default. Stored in this order, without duplicates.
        seed: seed of t-SNE; 0 by default.
    """

    min_pixels: int | None
    max_pixels: int | None
    stretch: bool
    embeddings: str | Sequence[str]
    seed: int


class EncoderOptions(EncoderFolderOptions, total=False):
    """Options of one picture or clip: `EncoderFolderOptions`, and these.

    Attributes:
        at: (x, y) in pixels of the upright original, one point for each query patch; none by default.
        layer: the layer whose heads are drawn one by one; by default the last.
        over: how heads are joined in the maps of layers: `mean`, the default, `max` or `min`.
        saliency: whether to compute saliency maps of a class or of texts; False by default.
        texts: the texts that the picture is compared with; none by default.
        label: a class, by name or number; by default the likeliest.
        clip: which frames of a clip are sampled; by default as `ClipSettings` has it, and None for a picture.
    """

    at: Sequence[Sequence[float]]
    layer: int | None
    over: Over
    saliency: bool
    texts: str | Sequence[str]
    label: str | None
    clip: ClipSettings | None


@dataclass(frozen=True)
class EncoderSettings:
    """`EncoderOptions` with their defaults.

    Raises:
        InputError: an unknown value, or options that do not go together.
        TypeError: a value of another type.
    """

    at: tuple[tuple[float, float], ...] = ()
    min_pixels: int | None = None
    max_pixels: int | None = None
    stretch: bool = False
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
        set_types(self, EncoderOptions)
        for name in ("embeddings", "texts"):
            value = getattr(self, name)
            set_field(name, (value,) if isinstance(value, str) else tuple(value))
        if self.over not in OVER:
            raise InputError(f"{argument('over', self.over)}: unknown", f"choose one of {', '.join(OVER)}")
        for name in self.embeddings:
            if name not in EMBEDDINGS:
                raise InputError(f"{argument('embeddings', name)}: unknown", "choose pca, tsne or pca,tsne")
        set_field("embeddings", tuple(name for name in EMBEDDINGS if name in self.embeddings))
        if not self.saliency and (self.texts or self.label is not None):
            target = argument("texts" if self.texts else "label")
            raise InputError(f"{target} needs {argument('saliency')}", f"add {argument('saliency', True)}")


def with_options(settings: EncoderSettings | None, options: Mapping[str, object]) -> EncoderSettings:
    """Return settings with the given options in place of their own.

    Raises:
        InputError: an unknown value, or options that do not go together.
    """
    typed: dict[str, Any] = {**options}
    return replace(settings or EncoderSettings(), **typed)


def check_layer(layer: int | None, layers: int) -> None:
    """Check the layer whose heads are drawn one by one.

    Args:
        layer: its number; None for the last.
        layers: how many layers the encoder has.

    Raises:
        InputError: the encoder has no such layer.
    """
    if layer is not None and not 0 <= layer < layers:
        raise InputError(f"{argument('layer', layer)}: the encoder has layers 0 to {layers - 1}")


def _points(at: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    try:
        pairs = of_type("at", [(x, y) for x, y in at], Sequence[Sequence[float]])
        return tuple(pairs)
    except (TypeError, ValueError):
        raise InputError(f"{argument('at', at)}: not (x, y) pairs", "such as [(100, 100)]") from None


@dataclass(frozen=True, eq=False, repr=False)
class SaliencyMap:
    """Which patches raise the score of a class or of a text.

    Attributes:
        method: `gradcam` or `attention_gradient`.
        target: the text, or the name of the class.
        score: the model's score of the target: a probability for a class, a cosine similarity for a text.
        values: (t, h, w) float32, not negative; all zero if no patch raises the score.
    """

    method: SaliencyMethod
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
        layers: (E,) int64, the layers whose outputs are projected; -1 is the input of the first.
        components: (E, P, 3) float32, the first three principal components of each layer's patches.
        explained: (E, 3) float32, the share of the variance that each component explains.
        tsne: (S, 2) float32, t-SNE of the last layer's patches; None if it was not requested.
        tsne_patches: (S,) int64, the patches of `tsne`: all, or an evenly spaced subset; None without `tsne`.
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
        _require(
            (self.tsne is None) == (self.tsne_patches is None), "tsne and tsne_patches: one given without the other"
        )
        if self.tsne is not None and self.tsne_patches is not None:
            _require_array("tsne_patches", self.tsne_patches, np.int64, (None,))
            _require_array("tsne", self.tsne, np.float32, (len(self.tsne_patches), 2))
            _require(
                bool(((self.tsne_patches >= 0) & (self.tsne_patches < P)).all()),
                "tsne_patches: outside the grid of patches",
            )
        for name in ("components", "explained", "tsne"):
            values = getattr(self, name)
            _require(values is None or bool(np.isfinite(values).all()), f"{name}: not finite")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class EncoderRecord(Record):
    """The result of an encoder for one picture or clip, without its folder.

    Attributes:
        attention: the attention.
        reconstruction: (t, H, W, 3) uint8 RGB, the encoder's input, reconstructed from its normalised patches.
        settings: the settings of the run.
        provenance: the software and the vision encoder that made it.
        frames: (t, 2) int64, the first and last sampled frame of each step.
        similarity: (E, A, t, h, w) float32, after each layer the cosine similarity of the query patches to all patches
            of their step; None without query patches. Layers as in `similarity_layers`.
        similarity_layers: (E,) int64, the layers whose outputs are compared; -1 is the input of the first.
        embedding: the projected embeddings, if requested.
        saliency: the saliency maps, if requested.
        patch_rows: (L, K, t, h, w) float32, the attention of single patches on every patch of their step, the mean over
            the heads; None if it would be too large.
        patch_row_places: (K,) int64, the evenly spaced places in a step of these patches.
    """

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
        _require(len(self.media) == 1, f"media: an encoder has one picture or clip, not {len(self.media)}")
        L, A, grid = self.attention.layer_count, len(self.attention.query_patches), self.attention.grid
        t, h, w = grid
        side_px = self.attention.patch_px
        _require_array("reconstruction", self.reconstruction, np.uint8, (t, h * side_px, w * side_px, 3))
        _require_array("frames", self.frames, np.int64, (t, 2))
        _require(0 <= self.frames.min() <= self.frames.max() < len(self.media[0].frames), "frames: outside the clip")
        boxes_px, size_px = self.attention.boxes_px, np.array(self.media[0].size_px)
        _require(bool((boxes_px[:, :2] < boxes_px[:, 2:]).all()), "boxes_px: a patch without area")
        _require(float(np.abs(boxes_px).max()) <= 4 * size_px.max(), "boxes_px: far outside the picture")
        low, high = boxes_px[:, :2].min(axis=0), boxes_px[:, 2:].max(axis=0)
        _require(bool(((low < size_px) & (high > 0)).all()), "boxes_px: outside the picture")
        _require(len(self.settings.at) == A, "at: not as many points as query patches")
        _require(0 <= self.head_layer < L, f"layer {self.settings.layer} of {L}")
        _require(
            (self.similarity is None) == (self.similarity_layers is None),
            "similarity and similarity_layers: one given without the other",
        )
        if self.similarity is not None and self.similarity_layers is not None:
            _require_array("similarity_layers", self.similarity_layers, np.int64, (None,))
            _require_array("similarity", self.similarity, np.float32, (len(self.similarity_layers), A, *grid))
            _require(bool(np.isfinite(self.similarity).all()), "similarity: not finite")
        if self.embedding is not None:
            _require_array("components", self.embedding.components, np.float32, (None, t * h * w, 3))
        _require(all(saliency.values.shape == grid for saliency in self.saliency), "saliency: shape is not the grid")
        _require(
            (self.patch_rows is None) == (self.patch_row_places is None),
            "patch_rows and patch_row_places: one given without the other",
        )
        if self.patch_rows is not None and self.patch_row_places is not None:
            _require_array("patch_row_places", self.patch_row_places, np.int64, (None,))
            _require_array("patch_rows", self.patch_rows, np.float32, (L, len(self.patch_row_places), *grid))
            _require(
                bool(np.isfinite(self.patch_rows).all() and (self.patch_rows >= 0).all()),
                "patch_rows: negative or not finite",
            )
            inside = (self.patch_row_places >= 0) & (self.patch_row_places < h * w)
            _require(bool(inside.all()), "patch_row_places: outside the grid of patches")

    def __repr__(self) -> str:
        t, h, w = self.attention.grid
        return f"{type(self).__name__}({self.media[0].source!r}, {self.provenance.model!r}, {t} x {h} x {w} patches)"

    @property
    def head_layer(self) -> int:
        """The layer whose heads are drawn one by one, 0-based."""
        return self.attention.layer_count - 1 if self.settings.layer is None else self.settings.layer


def patches_at(at: Sequence[tuple[float, float]], boxes_px: FloatArray, size_px: tuple[int, int]) -> tuple[int, ...]:
    """Return the places in a step of the patches that cover some points.

    Args:
        at: (x, y) in pixels of the upright original.
        boxes_px: (h * w, 4) xyxy of a step's patches.
        size_px: (width, height) of the original.

    Raises:
        InputError: no patch covers a point.
    """
    places = []
    for x, y in at:
        x0, y0, x1, y1 = boxes_px.T
        inside = np.flatnonzero((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1))
        if not len(inside):
            region = f"{x0.min():.0f},{y0.min():.0f} to {x1.max():.0f},{y1.max():.0f}"
            point = argument("at", [(x, y)])
            if not (0 <= x < size_px[0] and 0 <= y < size_px[1]):
                raise InputError(f"{point}: outside the picture, which has {size_px[0]} x {size_px[1]} px")
            raise InputError(
                f"{point}: the encoder does not see this point, only the region from {region}",
                f"set {argument('max_pixels')}, with which it gets the whole picture",
            )
        places.append(int(inside[0]))
    return tuple(places)
