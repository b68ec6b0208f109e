"""Choices that the figures of all kinds of results share: which steps of a clip are drawn, and at which size."""

from __future__ import annotations

import numpy as np

from qvl_attn.core.types import FloatArray

# The most steps of a clip in one row, the scale of that row over one picture, and its limits in pixels.
MAX_STEPS, ROW_SCALE, LEAST_STEP_PX, MAX_ROW_PX = 6, 2, 240, 16384


def shown_steps(values: FloatArray) -> tuple[int, ...]:
    """Return the steps of a clip's (t, h, w) map to draw: evenly spaced, with the step of the strongest cell."""
    chosen = np.linspace(0, len(values) - 1, min(len(values), MAX_STEPS)).round().astype(int)
    strongest = int(values.max(axis=(1, 2)).argmax())
    chosen[np.abs(chosen - strongest).argmin()] = strongest
    return tuple(np.unique(chosen).tolist())
