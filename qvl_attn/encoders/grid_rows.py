"""What single patches look at, of an even subset of them, so that a page can show where any patch looks."""

from __future__ import annotations

import numpy as np
import torch

from qvl_attn.core.types import FloatArray, IntArray
from qvl_attn.encoders.inputs import Inputs
from qvl_attn.encoders.spec import Eye

# How many values are kept: some 3 MB of a page.
GRID_VALUES = 1_400_000


def even_places(grid: tuple[int, int, int], most: int) -> IntArray:
    """(K,) places in a step, at most `most`, that lie evenly over it: every patch, or one of 1 x 2, of 2 x 2, of 2 x 3.

    None where there is no room for four.
    """
    _, h, w = grid
    for sides in range(2, h + w + 1):
        every = sides // 2, sides - sides // 2
        rows, columns = (np.arange((size - 1) % n // 2, size, n) for size, n in zip((h, w), every, strict=True))
        if len(rows) * len(columns) <= most and most >= 4:
            return np.asarray((rows[:, None] * w + columns).reshape(-1), dtype=np.int64)
    return np.zeros(0, dtype=np.int64)


class GridRows:
    """The rows of patches that lie evenly over a step, the mean over the heads, as the layers come by.

    Args:
        eye: of the encoder.
        inputs: what is looked at.
    """

    def __init__(self, eye: Eye, inputs: Inputs) -> None:
        t, h, w = self._grid = inputs.grid
        self._prefix = len(eye.prefix)
        self.places = even_places(inputs.grid, GRID_VALUES // (eye.layers * t * h * w))
        self._number = torch.full((self._prefix + h * w,), -1)
        self._number[self._prefix + torch.from_numpy(self.places)] = torch.arange(len(self.places))
        self._rows = torch.zeros(eye.layers, len(self.places), t, h * w)

    def add(self, layer: int, step: int, asking: torch.Tensor, seen: torch.Tensor, weights: torch.Tensor) -> None:
        """Take what is meant of a block of rows: as `Tally._add` has it."""
        number = self._number[asking.cpu()]
        meant, patches = number >= 0, seen.cpu() - self._prefix
        if meant.any():
            mean = weights[:, meant.to(weights.device)].mean(dim=0).cpu()
            self._rows[layer, number[meant][:, None], step, patches[patches >= 0]] = mean[:, patches >= 0]

    def values(self) -> FloatArray:
        """(L, K, t, h, w) float32: what the patches at `places` give every patch of their step."""
        return self._rows.numpy().reshape(*self._rows.shape[:2], *self._grid)
