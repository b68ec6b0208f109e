"""The attention of a vision encoder on one picture or clip, layer by layer.

Pure: uses no model and no file. Axes: L layers, H heads, t steps of a clip (1 for a picture), h and w rows and columns
of patches, P = t * h * w patches in the order of the picture (step, row, column), R prefix tokens, which precede the
patches ([CLS], registers), T = R + h * w tokens of a step, A query patches. In every supported family a step attends
only to itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import FloatArray, IntArray, _require, _require_array
from qvl_attn.results.record import Over

PREFIX_ROLES = ("cls", "register")


@dataclass(frozen=True, eq=False, repr=False)
class EncoderAttention:
    """The attention of an encoder on one picture or clip.

    Attributes:
        family: the family of the encoder, as text.
        grid: (t, h, w) steps, rows and columns of patches.
        prefix: the roles of the R prefix tokens: `cls` first if the family has it, then `register`.
        boxes_px: (P, 4) float32 xyxy, the region of the upright original that each patch covers.
        patch_px: side of a patch in pixels of the encoder's input.
        full: (L,) bool, whether the patches of a layer attend to their whole step; if not, to their own window.
        window: (h * w,) int64, the index of each patch's window in its step; None if the family has no windows.
        received: (L, H, t, T) float32, the attention that each token receives, averaged over the step's patches.
        cls: (L, H, t, T) float32, the attention row of the step's [CLS] token; None if there is none.
        query_patches: (A,) int64, the places in a step (row * w + column) of the patches whose own rows are kept.
        rows: (L, H, A, t, T) float32, the attention rows of these patches, one for each step.
        distance_px: (L, H, t) float32, the mean distance between the centre of a patch and the centres of the patches
            it attends to, weighted by the attention on patches, averaged over the patches, in pixels of the encoder's
            input (Dosovitskiy et al. 2021, arXiv 2010.11929, figure 7 and appendix D.7).
        entropy_bits: (L, H, t) float32, the entropy of a patch's attention on the tokens of its step, averaged over the
            patches.
        window_share: (L, H, t) float32, the share of a patch's attention on patches that stays within its own window,
            averaged over the patches; None if the family has no windows.
    """

    family: str
    grid: tuple[int, int, int]
    prefix: tuple[str, ...]
    boxes_px: FloatArray
    patch_px: int
    full: NDArray[np.bool_]
    window: IntArray | None
    received: FloatArray
    cls: FloatArray | None
    query_patches: IntArray
    rows: FloatArray
    distance_px: FloatArray
    entropy_bits: FloatArray
    window_share: FloatArray | None

    def __post_init__(self) -> None:
        t, h, w = self.grid
        _require(min(t, h, w, self.patch_px) > 0, f"grid {self.grid}, patches of {self.patch_px} px")
        _require({*self.prefix} <= {*PREFIX_ROLES}, f"prefix {self.prefix}")
        L, H = self.received.shape[:2]
        A, T = len(self.query_patches), len(self.prefix) + h * w
        _require(L > 0 and H > 0, "no layers, or no heads")
        _require_array("boxes_px", self.boxes_px, np.float32, (t * h * w, 4))
        _require(bool(np.isfinite(self.boxes_px).all()), "boxes_px: not finite")
        _require_array("full", self.full, np.bool_, (L,))
        _require_array("received", self.received, np.float32, (L, H, t, T))
        _require(
            (self.cls is None) == ("cls" not in self.prefix),
            "cls and the prefix disagree about a [CLS] token",
        )
        _require_array("query_patches", self.query_patches, np.int64, (A,))
        _require(
            not A or 0 <= self.query_patches.min() <= self.query_patches.max() < h * w,
            "query_patches: outside the grid of patches",
        )
        _require_array("rows", self.rows, np.float32, (L, H, A, t, T))
        for name in ("distance_px", "entropy_bits", "window_share"):
            if getattr(self, name) is not None:
                _require_array(name, getattr(self, name), np.float32, (L, H, t))
                _require(bool(np.isfinite(getattr(self, name)).all()), f"{name}: not finite")
        _require(
            (self.window is None) == (self.window_share is None), "window and window_share: one given without the other"
        )
        if self.window is None:
            _require(bool(self.full.all()), "full: a layer attends to windows, but window is None")
        else:
            _require_array("window", self.window, np.int64, (h * w,))
        for name in ("received", "cls", "rows"):
            values = getattr(self, name)
            if values is not None and values.size:
                _require(bool(np.isfinite(values).all() and (values >= 0).all()), f"{name}: negative or not finite")
                _require(bool((np.abs(values.sum(axis=-1) - 1) < 0.05).all()), f"{name}: a row does not sum to one")

    @property
    def layer_count(self) -> int:
        """L."""
        return int(self.received.shape[0])

    @property
    def head_count(self) -> int:
        """H."""
        return int(self.received.shape[1])

    @property
    def input_px(self) -> tuple[int, int]:
        """(width, height) of the encoder's input that its patches cover."""
        return self.grid[2] * self.patch_px, self.grid[1] * self.patch_px

    @property
    def queries(self) -> tuple[str, ...]:
        """The names of the queries in the order of drawing: `cls` if there is a [CLS] token, `patch`, `at_1`, `at_2`...

        `patch` is the mean over all patches of a step, `at_1` the first of the query patches.
        """
        return (
            *(("cls",) if self.cls is not None else ()),
            "patch",
            *(f"at_{i + 1}" for i in range(len(self.query_patches))),
        )

    def tokens(self, query: str) -> FloatArray:
        """Return the attention of a query on every token of its step, prefix included: (L, H, t, T) float32.

        Args:
            query: one of `queries`.

        Raises:
            InputError: an unknown query.
        """
        if query not in self.queries:
            raise InputError(f"query {query}: unknown", f"choose one of {', '.join(self.queries)}")
        if query == "patch":
            return self.received
        return self.rows[:, :, _patch_index(query)] if self.cls is None or query != "cls" else self.cls

    def uniform(self, query: str, layer: int) -> float:
        """Return the weight of each token if a query attended uniformly: 1 / the number of tokens it can attend to.

        These are all tokens of a step; for a single patch in a windowed layer, those of its window. The mean over all
        patches (`patch`) is uniform over the step in windowed layers, too, since each patch is in exactly one window.

        Args:
            query: one of `queries`.
            layer: 0-based.
        """
        if not query.startswith("at_"):
            return self._uniform
        return self.uniform_at(int(self.query_patches[_patch_index(query)]), layer)

    def uniform_at(self, place: int, layer: int) -> float:
        """As `uniform`, for the patch at a place of a step, row * w + column."""
        if self.full[layer] or self.window is None:
            return self._uniform
        return 1 / int((self.window == self.window[place]).sum())

    @property
    def _uniform(self) -> float:
        return 1 / int(self.received.shape[-1])

    def maps(self, query: str) -> FloatArray:
        """Return the attention of a query on every patch: (L, H, t, h, w) float32. The rest is on the prefix tokens."""
        values = self.tokens(query)[..., len(self.prefix) :]
        return values.reshape(*values.shape[:2], *self.grid)

    def map(self, query: str, layer: int, over: Over = "mean") -> FloatArray:
        """Return the map of one layer, joined over its heads: (t, h, w) float32.

        Args:
            query: one of `queries`.
            layer: 0-based.
            over: mean, maximum or minimum over the heads, patch by patch.

        Raises:
            InputError: no such query or layer.
        """
        if not 0 <= layer < self.layer_count:
            raise InputError(f"layer {layer}: no such layer", f"the encoder has layers 0 to {self.layer_count - 1}")
        return join_heads(self.maps(query)[layer], over)

    def patch_share(self, query: str) -> FloatArray:
        """Return the share of a query's attention that is on patches, not on the prefix: (L, H) float32."""
        return np.asarray(self.maps(query).sum(axis=(-1, -2)).mean(axis=-1), dtype=np.float32)


def join_heads(values: FloatArray, over: Over) -> FloatArray:
    """Return the mean, maximum or minimum over the heads of (H, ...) values: (...) float32."""
    return np.asarray(getattr(values, over)(axis=0), dtype=np.float32)


def _patch_index(query: str) -> int:
    """Return the index into `query_patches` of a query `at_1`, `at_2` and so on."""
    return int(query.removeprefix("at_")) - 1
