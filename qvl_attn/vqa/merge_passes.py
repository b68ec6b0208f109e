"""Several passes over parts of a clip as one capture of the whole. Pure.

The rule: a pass's weights count by the share of the clip's vision tokens that it saw, a step that several passes saw
gets their mean, and each row is then scaled so that its attention on vision is the mean of the passes'. So a uniform
map in every pass is one in the whole, and of two cells the one that had more, over a uniform map of its pass, has more.
The order of time is kept, the passes' answers are not merged.
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
    """Join passes over parts of a clip.

    The tokens are laid out as the prompt that has all steps at once. Of the rows, those of the question and the last
    prompt token are kept, which every pass has.

    Args:
        captures: one a pass, each of one clip or picture, in the order of time.
        first_steps: where each pass's first step stands among those of the whole.
        clip: the whole.

    Raises:
        CaptureError: the passes are not of one question, or their grids differ in more than their steps.
    """
    grid = _whole_grid(captures, first_steps, clip)
    steps, cells = grid.shape[0], grid.cells // grid.shape[0]
    one = captures[0]
    kept = [np.flatnonzero(capture.query_role != "answer") for capture in captures]
    if len({len(rows) for rows in kept}) > 1 or any((c.layers != one.layers).any() for c in captures):
        raise CaptureError("the passes over the clip do not have the same rows")

    def joined(name: str, heads: tuple[int, ...] = ()) -> np.ndarray:
        shape = (*(heads or (len(one.layers),)), len(kept[0]), steps, cells)
        total, seen, mass = np.zeros(shape, np.float64), np.zeros(steps), np.zeros(shape[:-2])
        for capture, first, rows in zip(captures, first_steps, kept, strict=True):
            count = capture.grids[0].shape[0]
            weights = np.asarray(getattr(capture, name)[..., rows, :], dtype=np.float64)
            total[..., first : first + count, :] += weights.reshape(*shape[:-2], count, cells) * count / steps
            seen[first : first + count] += 1
            mass += weights.sum(axis=-1) / len(captures)
        total /= seen[:, None]
        flat = total.reshape(*shape[:-2], steps * cells)
        sums = flat.sum(axis=-1)
        scaled = flat * (mass / np.where(sums > 0, sums, 1.0))[..., None]
        return np.asarray(scaled, dtype=getattr(one, name).dtype)

    moved = grid.cells - one.grids[0].cells
    queries = one.queries[kept[0]]
    weights = joined("weights")
    by_head = one.weights_by_head
    return Capture(
        layers=one.layers,
        queries=np.where(queries >= one.grids[0].stop, queries + moved, queries),
        query_role=one.query_role[kept[0]],
        produces=np.full(len(queries), -1, dtype=np.int64),
        weights=weights,
        vision_mass=np.minimum(weights.sum(axis=-1, dtype=np.float32), np.float32(1)),
        grids=(grid,),
        tokens=_whole_prompt(one, grid),
        weights_by_head=None if by_head is None else joined("weights_by_head", by_head.shape[:2]),
        apart=one.apart,
    )


def _whole_grid(captures: Sequence[Capture], first_steps: Sequence[int], clip: Media) -> TokenGrid:
    grids = [capture.grids[0] for capture in captures]
    one = grids[0]
    steps = max(first + grid.shape[0] for first, grid in zip(first_steps, grids, strict=True))
    if any((grid.grid_thw[1:], grid.merge_size) != (one.grid_thw[1:], one.merge_size) for grid in grids):
        raise CaptureError("the passes over the clip have frames of different sizes")
    return clip_grid((steps, *one.grid_thw[1:]), one.merge_size, one.start, clip)


def _whole_prompt(one: Capture, grid: TokenGrid) -> tuple[Token, ...]:
    """The prompt of one pass with the whole clip's vision tokens in the place of its own, and without an answer."""
    own = one.grids[0]
    last = next(token.position for token in one.tokens if token.role == "last")
    vision = (one.tokens[own.start],) * grid.cells
    tokens = (*one.tokens[: own.start], *vision, *one.tokens[own.stop : last + 1])
    return tuple(replace(token, position=position) for position, token in enumerate(tokens))
