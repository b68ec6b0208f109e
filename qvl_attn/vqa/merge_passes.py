"""Merging of several passes over parts of a clip into one capture of the whole clip. Pure functions.

The rule: a pass's weights are multiplied by its share of the clip's vision tokens, a step in several passes gets their
mean, and each row is then scaled so that its attention on vision is the mean of the passes'. If the map of every pass
is uniform, so is the merged map; and of two cells, the one with the higher ratio to a uniform map of its pass stays
higher. Steps keep their temporal order; the passes' answers are not merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import Capture, Media, Token, TokenGrid
from qvl_attn.model.token_grid import clip_grid

RULE = (
    "each pass's weights count by the share of the clip's vision tokens that it saw, a step that several passes saw "
    "gets their mean, and each row is scaled so that its attention on vision is the mean of the passes'"
)


def merge_captures(captures: Sequence[Capture], first_steps: Sequence[int], clip: Media) -> Capture:
    """Merge the captures of passes over parts of a clip.

    The tokens are those of a prompt with all steps at once. The rows are those that every pass has: the question's and
    the last prompt token's.

    Args:
        captures: the capture of each pass, each of one clip or picture, in temporal order.
        first_steps: for each pass, the index of its first step in the whole clip.
        clip: the whole clip.

    Raises:
        CaptureError: the passes have different rows or layers, or frames of different sizes.
    """
    grid = _whole_grid(captures, first_steps, clip)
    steps, cells = grid.shape[0], grid.cells // grid.shape[0]
    first_pass = captures[0]
    common_rows = [np.flatnonzero(capture.query_role != "answer") for capture in captures]
    if len({len(rows) for rows in common_rows}) > 1 or any(
        (capture.layers != first_pass.layers).any() for capture in captures
    ):
        raise CaptureError("the passes over the clip do not have the same rows")

    def joined(name: str, heads: tuple[int, ...] = ()) -> np.ndarray:
        shape = (*(heads or (len(first_pass.layers),)), len(common_rows[0]), steps, cells)
        total, pass_counts, mass = np.zeros(shape, np.float64), np.zeros(steps), np.zeros(shape[:-2])
        for capture, first_step, rows in zip(captures, first_steps, common_rows, strict=True):
            count = capture.grids[0].shape[0]
            weights = np.asarray(getattr(capture, name)[..., rows, :], dtype=np.float64)
            total[..., first_step : first_step + count, :] += weights.reshape(*shape[:-2], count, cells) * count / steps
            pass_counts[first_step : first_step + count] += 1
            mass += weights.sum(axis=-1) / len(captures)
        total /= pass_counts[:, None]
        flat = total.reshape(*shape[:-2], steps * cells)
        sums = flat.sum(axis=-1)
        scaled = flat * (mass / np.where(sums > 0, sums, 1.0))[..., None]
        return np.asarray(scaled, dtype=getattr(first_pass, name).dtype)

    offset = grid.cells - first_pass.grids[0].cells
    queries = first_pass.queries[common_rows[0]]
    weights = joined("weights")
    by_head = first_pass.weights_by_head
    return Capture(
        layers=first_pass.layers,
        queries=np.where(queries >= first_pass.grids[0].stop, queries + offset, queries),
        query_role=first_pass.query_role[common_rows[0]],
        produces=np.full(len(queries), -1, dtype=np.int64),
        weights=weights,
        vision_mass=np.minimum(weights.sum(axis=-1, dtype=np.float32), np.float32(1)),
        grids=(grid,),
        tokens=_whole_prompt(first_pass, grid),
        weights_by_head=None if by_head is None else joined("weights_by_head", by_head.shape[:2]),
        apart=first_pass.apart,
    )


def _whole_grid(captures: Sequence[Capture], first_steps: Sequence[int], clip: Media) -> TokenGrid:
    grids = [capture.grids[0] for capture in captures]
    first_grid = grids[0]
    steps = max(first_step + grid.shape[0] for first_step, grid in zip(first_steps, grids, strict=True))
    if any((grid.grid_thw[1:], grid.merge_size) != (first_grid.grid_thw[1:], first_grid.merge_size) for grid in grids):
        raise CaptureError("the passes over the clip have frames of different sizes")
    return clip_grid((steps, *first_grid.grid_thw[1:]), first_grid.merge_size, first_grid.start, clip)


def _whole_prompt(capture: Capture, grid: TokenGrid) -> tuple[Token, ...]:
    """Return the tokens of a pass's prompt with the vision tokens of the whole clip, without an answer."""
    pass_grid = capture.grids[0]
    last = next(token.position for token in capture.tokens if token.role == "last")
    vision = (capture.tokens[pass_grid.start],) * grid.cells
    tokens = (*capture.tokens[: pass_grid.start], *vision, *capture.tokens[pass_grid.stop : last + 1])
    return tuple(replace(token, position=position) for position, token in enumerate(tokens))
