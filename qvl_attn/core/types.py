"""The dataclasses that the parts exchange: frozen, and validated on creation.

They do not depend on models, files or drawing. Axes: F frames, L layers, H heads, Q query tokens, V vision tokens;
t, h, w are steps, rows and columns of a merged grid. Sizes are (width, height), boxes are xyxy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.typed_json import Count, Finite

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
Box = tuple[float, float, float, float]  # xyxy

ROLES = ("system", "question", "template", "vision", "last", "answer")


# More frames than a clip may have (a day and a half at 30 a second); more seconds, and frames a second, than any has.
MAX_FRAMES, MAX_S, MAX_FPS = 4_000_000, 1e9, 1e9


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_array(name: str, array: np.ndarray, dtype: type, shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        expected is None or expected == actual for expected, actual in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:  # NumPy takes its time for the names of types
        raise ValueError(f"{name}: want {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")


@dataclass(frozen=True)
class ClipFacts:
    """Facts about a clip, and which of its frames were sampled.

    Attributes:
        start_s: start of the sampled part.
        end_s: end of the sampled part.
        rate_fps: the clip's own frames per second in that part, on average.
        sampled_fps: one frame was sampled every 1 / `sampled_fps` seconds.
        frame_indices: (F,) index of each sampled frame in the clip, from 0.
        declared_frames: number of frames of the whole clip according to the file; None if the file does not say.
        decoded_frames: number of frames of the part that could be decoded.
        skipped_s: times of the frames that could not be decoded.
    """

    start_s: Finite
    end_s: Finite
    rate_fps: Finite
    sampled_fps: Finite
    frame_indices: tuple[Count, ...]
    declared_frames: Count | None
    decoded_frames: Count
    skipped_s: tuple[Finite, ...] = ()

    def __post_init__(self) -> None:
        _require(0 <= self.start_s < self.end_s <= MAX_S, f"start {self.start_s} s, end {self.end_s} s")
        _require(0 < self.rate_fps <= MAX_FPS, f"rate_fps {self.rate_fps}")
        _require(0 < self.sampled_fps <= MAX_FPS, f"sampled_fps {self.sampled_fps}")
        ascending = list(self.frame_indices) == sorted(self.frame_indices)
        _require(bool(self.frame_indices) and ascending, "frame_indices: none, or not ascending")
        _require(self.frame_indices[0] >= 0 and self.frame_indices[-1] < MAX_FRAMES, "frame_indices: out of range")


class Source(Protocol):
    """What was asked about: `Media`, or a clip that is not decoded yet.

    Attributes:
        source: the path as it was typed.
        sha256: SHA-256 of its file or files, in hex.
    """

    @property
    def source(self) -> str: ...  # noqa: D102

    @property
    def sha256(self) -> str: ...  # noqa: D102


@dataclass(frozen=True, eq=False, repr=False)
class Media:
    """One picture, or the sampled frames of one clip, upright and in RGB.

    Attributes:
        kind: `picture` or `clip`.
        frames: (F, H, W, 3) uint8, upright; F is 1 for a picture. The frames of a clip have the processor's size; a
            picture of a loaded result may be smaller than the original.
        times_s: (F,) float64, presentation time of each frame; 0 for a picture.
        size_px: (width, height) of the upright original.
        source: the path as it was typed; the file name alone in a loaded result.
        sha256: SHA-256 of the file's bytes, in hex.
        notes: conversions that the user may not expect, one line each.
        clip: facts about the clip; None for a picture.
        path: path of the clip, to decode it again; None for pictures and in loaded results.
    """

    kind: Literal["picture", "clip"]
    frames: NDArray[np.uint8]
    times_s: NDArray[np.float64]
    size_px: tuple[int, int]
    source: str
    sha256: str
    notes: tuple[str, ...] = ()
    clip: ClipFacts | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        _require_array("frames", self.frames, np.uint8, (None, None, None, 3))
        _require_array("times_s", self.times_s, np.float64, (len(self.frames),))
        _require(self.frames.size > 0, "frames: empty")
        _require(min(self.size_px) > 0, f"size_px: {self.size_px}")
        _require(bool((np.abs(self.times_s) <= MAX_S).all()), "times_s: out of range")
        _require((self.kind == "clip") == (self.clip is not None), f"kind {self.kind!r}: only a clip has clip facts")
        _require(
            self.clip is None or len(self.clip.frame_indices) == len(self.frames), "frame_indices: not one per frame"
        )

    @property
    def facts(self) -> ClipFacts:
        """The facts about a clip."""
        assert self.clip is not None
        return self.clip

    @property
    def time_label(self) -> str:
        """The time range of the frames, as text."""
        first, last = self.times_s[0], self.times_s[-1]
        return f"{first:.2f} s" if first == last else f"{first:.2f}-{last:.2f} s"

    @property
    def sampled_s(self) -> NDArray[np.float64]:
        """(F,) float64, the time from which each sampled frame is valid, ascending.

        This is the frame's presentation time. A frame that is sampled several times has the sampling time for all
        but the first.
        """
        if self.clip is None:
            return self.times_s
        sampling_times_s = self.clip.start_s + np.arange(len(self.frames)) / self.clip.sampled_fps
        repeated = np.diff(self.clip.frame_indices, prepend=-1) == 0
        return np.where(repeated, sampling_times_s, np.maximum(self.times_s, self.clip.start_s))


@dataclass(frozen=True, eq=False, repr=False)
class TokenGrid:
    """The positions of one picture's or clip's vision tokens in the sequence, and the box that each covers.

    Attributes:
        grid_thw: steps, rows and columns of patches, from the processor (not merged).
        merge_size: patches per side that are merged into one token (the model's `spatial_merge_size`).
        start: position of the first vision token in the sequence.
        boxes_px: (cells, 4) float32, xyxy in pixels of the upright original, in token order.
        frame_span: (t, 2) int64, first and last source frame of each step.
        times_s: (t, 2) float64, the times of those frames.
    """

    grid_thw: tuple[int, int, int]
    merge_size: int
    start: int
    boxes_px: FloatArray
    frame_span: IntArray
    times_s: NDArray[np.float64]

    def __post_init__(self) -> None:
        t, h, w = self.grid_thw
        m = self.merge_size
        _require(min(t, h, w, m) > 0 and h % m == 0 and w % m == 0, f"grid_thw {self.grid_thw}, merge size {m}")
        _require(self.start >= 0, f"start {self.start}")
        _require_array("boxes_px", self.boxes_px, np.float32, (self.cells, 4))
        _require_array("frame_span", self.frame_span, np.int64, (t, 2))
        _require_array("times_s", self.times_s, np.float64, (t, 2))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Steps, rows and columns of the merged grid: one cell per token."""
        t, h, w = self.grid_thw
        return t, h // self.merge_size, w // self.merge_size

    @property
    def cells(self) -> int:
        """Number of cells, which is the number of vision tokens."""
        t, h, w = self.shape
        return t * h * w

    @property
    def stop(self) -> int:
        """Position after the last vision token."""
        return self.start + self.cells


@dataclass(frozen=True)
class Token:
    """One token of the sequence. `span` is the range of the question that it covers, [start, stop) in characters."""

    position: Count
    text: str
    role: str
    span: tuple[Count, Count] | None = None

    def __post_init__(self) -> None:
        _require(self.role in ROLES, f"role {self.role!r}")


@dataclass(frozen=True)
class Apart:
    """The heads whose attention is stored one by one: all of `heads` in each of `layers`, 0-based, ascending."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]

    def __post_init__(self) -> None:
        for numbers in (self.layers, self.heads):
            _require(
                bool(numbers) and list(numbers) == sorted({*numbers}) and numbers[0] >= 0,
                f"layers or heads: {numbers}: want unique numbers >= 0, ascending",
            )


@dataclass(frozen=True, eq=False, repr=False)
class Capture:
    """The attention rows of one pass through the model.

    Attributes:
        layers: (L,) int64, 0-based layer numbers, ascending.
        queries: (Q,) int64, positions of the query tokens, ascending.
        query_role: (Q,) str: `question`, `last` or `answer`.
        produces: (Q,) int64, the position of the token that a `last` or `answer` query produces; -1 for the others.
        weights: (L, Q, V) float32, softmax attention of each query on each vision token, averaged over the heads; not
            rescaled.
        vision_mass: (L, Q) float32, the share of each row's attention on all vision tokens.
        grids: one for each picture, in prompt order.
        tokens: the whole sequence, prompt and answer.
        weights_by_head: (L, H, Q, V) float32 or float16, the attention of single heads; None if not requested. Only
            the layers and heads of `apart` if that is set.
        apart: the heads in `weights_by_head`; None for all heads of all layers.
        weights_max: (L, Q, V) float32, like `weights` but the maximum over the heads; None if not requested.
    """

    layers: IntArray
    queries: IntArray
    query_role: NDArray[np.str_]
    produces: IntArray
    weights: FloatArray
    vision_mass: FloatArray
    grids: tuple[TokenGrid, ...]
    tokens: tuple[Token, ...]
    weights_by_head: FloatArray | NDArray[np.float16] | None = None
    apart: Apart | None = None
    weights_max: FloatArray | None = None

    def __post_init__(self) -> None:
        L, Q, V = len(self.layers), len(self.queries), sum(grid.cells for grid in self.grids)
        _require(L > 0 and Q > 0 and V > 0, f"empty capture: {L} layers, {Q} queries, {V} vision tokens")
        _require_array("layers", self.layers, np.int64, (L,))
        _require_array("queries", self.queries, np.int64, (Q,))
        _require_array("produces", self.produces, np.int64, (Q,))
        _require(self.query_role.shape == (Q,), f"query_role: {self.query_role.shape}")
        _require(set(self.query_role.tolist()) <= {"question", "last", "answer"}, "query_role: unknown role")
        _require_array("weights", self.weights, np.float32, (L, Q, V))
        _require_array("vision_mass", self.vision_mass, np.float32, (L, Q))
        _require(bool(np.isfinite(self.weights).all() and (self.weights >= 0).all()), "weights: not attention")
        _require(bool((self.weights.sum(axis=-1) <= 1.05).all()), "weights: more than all the attention")
        _require(bool((np.diff(self.layers) > 0).all()) and self.layers[0] >= 0, "layers: not ascending from 0")
        _require(bool((np.diff(self.queries) > 0).all()) and self.queries[0] >= 0, "queries: not ascending from 0")
        _require(bool(((self.vision_mass >= 0) & (self.vision_mass <= 1)).all()), "vision_mass: not a share")
        if self.weights_by_head is not None:
            half = self.weights_by_head.dtype == np.float16
            layers_heads = (L, None) if self.apart is None else (len(self.apart.layers), len(self.apart.heads))
            dtype = np.float16 if half else np.float32
            _require_array("weights_by_head", self.weights_by_head, dtype, (*layers_heads, Q, V))
            by_head = self.weights_by_head
            _require(bool(np.isfinite(by_head).all() and (by_head >= 0).all()), "weights_by_head: not attention")
        _require(self.apart is None or self.weights_by_head is not None, "apart is set, but weights_by_head is None")
        if self.weights_max is not None:
            _require_array("weights_max", self.weights_max, np.float32, (L, Q, V))
            _require(bool((self.weights_max >= self.weights * (1 - 1e-3)).all()), "weights_max: less than the mean")
        last = int(max(self.queries.max(), self.produces.max(), self.vision_tokens.max()))
        _require(last < len(self.tokens), f"tokens: {len(self.tokens)}, but position {last} is used")
        _require(
            [token.position for token in self.tokens] == list(range(len(self.tokens))),
            "tokens: not in sequence",
        )

    @property
    def vision_tokens(self) -> IntArray:
        """(V,) int64: the position of each vision token."""
        return np.concatenate([np.arange(grid.start, grid.stop, dtype=np.int64) for grid in self.grids])

    @property
    def media_index(self) -> IntArray:
        """(V,) int64: which picture each vision token belongs to."""
        return np.repeat(np.arange(len(self.grids), dtype=np.int64), [grid.cells for grid in self.grids])


@dataclass(frozen=True)
class Scale:
    """The value range of the colour map: `low` is its darkest colour, `high` and above its brightest."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _require(
            bool(np.isfinite([self.low, self.high]).all()) and self.high > self.low,
            f"scale {self.low} to {self.high}",
        )


@dataclass(frozen=True, eq=False, repr=False)
class HeatMap:
    """Attention on the cells of one picture.

    Attributes:
        values: (t, h, w) float32, attention weights, never rescaled.
        media_index: index of the picture in the prompt.
        layers: the layers averaged.
        heads: the heads averaged, as text (`all`, `3,5`, `21.9,21.11`).
        query: the query, as text (`question`, `last`, `answer`, `text:cats`).
        queries: positions of the query tokens averaged; empty for maps that are not an average over query tokens.
        uniform: the value of every cell if the same attention were spread evenly over all vision tokens of the prompt.
        vision_mass: the share of the queries' attention on all vision tokens.
        scale: the colour scale.
        method: the method that computed the map.
    """

    values: FloatArray
    media_index: int
    layers: tuple[int, ...]
    heads: str
    query: str
    queries: tuple[int, ...]
    uniform: float
    vision_mass: float
    scale: Scale
    method: str = "mean"

    def __post_init__(self) -> None:
        _require_array("values", self.values, np.float32, (None, None, None))
        _require(bool(np.isfinite(self.values).all()), "values: not finite")
        _require(self.uniform > 0, f"uniform {self.uniform}")

    @property
    def clipped(self) -> int:
        """Number of cells above the scale."""
        return int((self.values > self.scale.high).sum())
