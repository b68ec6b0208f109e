"""Where the patches of a picture looked, layer by layer, in a vision encoder: values, figures, and what chance gives.

Pure: knows no model and no file. Axes: L layers, H heads, t steps of a clip (1 for a picture), h and w rows and columns
of patches, P = t * h * w patches in the order of the picture (step, row, column), R tokens that stand before the
patches ([CLS], registers), T = R + h * w tokens of a step, A places that were asked about. A step attends to itself
alone in every family that is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError
from qvl_attn.core.types import FloatArray, IntArray, _require, _require_array

Over = Literal["mean", "max", "min"]
PREFIX_ROLES = ("cls", "register")


@dataclass(frozen=True, eq=False, repr=False)
class EncoderAttention:
    """The attention of an encoder on one picture or clip.

    Attributes:
        family: of the encoder, to be read.
        grid: (t, h, w) steps, rows and columns of patches.
        prefix: the role of each of the R tokens before the patches: `cls` first where there is one, then `register`.
        boxes_px: (P, 4) float32 xyxy, the part of the upright original that each patch shows.
        patch_px: side of a patch in pixels of the encoder's input.
        full: (L,) bool, whether a layer's patches see their whole step; elsewhere they see their own window.
        window: (h * w,) int64, the number of each patch's window in its step; None where the family has no windows.
        received: (L, H, t, T) float32, the attention that each token gets from the step's patches, averaged over them.
        cls: (L, H, t, T) float32, what the step's [CLS] token gives each token; None where there is none.
        asked: (A,) int64, places in a step (row * w + column) whose own rows were kept.
        rows: (L, H, A, t, T) float32, what the patches there give the tokens of their step.
        distance_px: (L, H, t) float32, the mean distance between the centre of a patch and those of the patches that it
            attends to, weighted by the attention on patches, averaged over the patches, in pixels of the encoder's
            input (Dosovitskiy et al. 2021, arXiv 2010.11929, figure 7 and appendix D.7).
        entropy_bits: (L, H, t) float32, of a patch's attention on the tokens of its step, averaged over the patches.
        window_share: (L, H, t) float32, the share of a patch's attention on patches that stays within its own window,
            averaged over the patches; None where the family has no windows.
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
        _require((self.cls is None) == ("cls" not in self.prefix), "cls: there, or among the prefix, and not both")
        _require_array("query_patches", self.query_patches, np.int64, (A,))
        _require(
            not A or 0 <= self.query_patches.min() <= self.query_patches.max() < h * w,
            "query_patches: not among the patches",
        )
        _require_array("rows", self.rows, np.float32, (L, H, A, t, T))
        for name in ("distance_px", "entropy_bits", "window_share"):
            if getattr(self, name) is not None:
                _require_array(name, getattr(self, name), np.float32, (L, H, t))
                _require(bool(np.isfinite(getattr(self, name)).all()), f"{name}: not finite")
        _require((self.window is None) == (self.window_share is None), "windows without a share, or a share without")
        if self.window is None:
            _require(bool(self.full.all()), "a layer sees windows, and there are none")
        else:
            _require_array("window", self.window, np.int64, (h * w,))
        for name in ("received", "cls", "rows"):
            values = getattr(self, name)
            if values is not None and values.size:
                _require(bool(np.isfinite(values).all() and (values >= 0).all()), f"{name}: not attention")
                _require(bool((np.abs(values.sum(axis=-1) - 1) < 0.05).all()), f"{name}: does not sum to one")

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
        """(width, height) of what the encoder saw."""
        return self.grid[2] * self.patch_px, self.grid[1] * self.patch_px

    @property
    def queries(self) -> tuple[str, ...]:
        """Who asks, in the order in which they are shown: `cls` where there is one, `patch`, and `at_1` and so on.

        `patch` is the mean over all patches of a step, `at_1` the first place that was asked about.
        """
        return (
            *(("cls",) if self.cls is not None else ()),
            "patch",
            *(f"at_{i + 1}" for i in range(len(self.query_patches))),
        )

    def tokens(self, query: str) -> FloatArray:
        """(L, H, t, T) float32: what a query gives every token of its step, prefix included.

        Args:
            query: one of `queries`.

        Raises:
            InputError: none of them.
        """
        if query not in self.queries:
            raise InputError(f"query {query}: not asked of this encoder", f"it has {', '.join(self.queries)}")
        if query == "patch":
            return self.received
        return self.rows[:, :, _number(query)] if self.cls is None or query != "cls" else self.cls

    def even(self, query: str, layer: int) -> float:
        """What every token would get if a query spread its attention evenly over the tokens that it sees.

        All tokens of a step; of a single patch in a layer of windows, those of its window. The mean over all patches
        (`patch`) is even over the step in such layers, too, since every patch is seen by its own window.

        Args:
            query: one of `queries`.
            layer: 0-based.
        """
        return self.even_at(int(self.query_patches[_number(query)]), layer) if query.startswith("at_") else self._even

    def even_at(self, place: int, layer: int) -> float:
        """As `even`, of the patch at a place of a step."""
        if self.full[layer] or self.window is None:
            return self._even
        return 1 / int((self.window == self.window[place]).sum())

    @property
    def _even(self) -> float:
        return 1 / int(self.received.shape[-1])

    def maps(self, query: str) -> FloatArray:
        """(L, H, t, h, w) float32: what a query gives every patch. Not rescaled: the rest went to the prefix."""
        values = self.tokens(query)[..., len(self.prefix) :]
        return values.reshape(*values.shape[:2], *self.grid)

    def map(self, query: str, layer: int, over: Over = "mean") -> FloatArray:
        """(t, h, w) float32: one layer's map, joined over its heads.

        Args:
            query: one of `queries`.
            layer: 0-based.
            over: mean, maximum or minimum over the heads, patch by patch.

        Raises:
            InputError: no such query or layer.
        """
        if not 0 <= layer < self.layer_count:
            raise InputError(f"layer {layer}: not there", f"the encoder has layers 0 to {self.layer_count - 1}")
        return over_heads(self.maps(query)[layer], over)

    def patch_share(self, query: str) -> FloatArray:
        """(L, H) float32: the share of a query's attention that goes to patches; the prefix has the rest."""
        return np.asarray(self.maps(query).sum(axis=(-1, -2)).mean(axis=-1), dtype=np.float32)


def over_heads(values: FloatArray, over: Over) -> FloatArray:
    """Join (H, ...) over the heads: (...) float32."""
    return np.asarray(getattr(values, over)(axis=0), dtype=np.float32)


def _number(query: str) -> int:
    """Which of the places that were asked about `at_1` and its like name, from 0."""
    return int(query.removeprefix("at_")) - 1
