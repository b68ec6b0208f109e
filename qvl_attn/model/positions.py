"""Check that a model gives vision tokens the positions that their grid and times imply.

Wrong positions raise no error: they only change answers and maps. transformers 5.6 to 5.17, for example, truncate the
seconds of a step, and every step of a clip above two sampled frames a second gets temporal position 0.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
import transformers

from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import ClipFacts, IntArray, Media, TokenGrid
from qvl_attn.model.prompt import Prompt

# Sampled frames per second of the clip that is checked: a step lasts a fraction of a second and no whole number of
# position units, so that neither truncation nor rounding of the interval goes unnoticed.
CHECKED_FPS = 2.8


def implied_positions(grid: TokenGrid, start: int, units_per_step: float) -> IntArray:
    """Return the temporal, row and column position of each vision token: (3, cells).

    M-RoPE of Qwen2.5-VL (arXiv 2502.13923, section 2.1.3): rows and columns count cells of the merged grid, steps count
    absolute time, rounded down; all are added to the first free position.

    Args:
        grid: of one picture or clip.
        start: the first free position.
        units_per_step: seconds per step times the configuration's `tokens_per_second`.
    """
    t, h, w = grid.shape
    steps = np.floor(np.arange(t) * units_per_step).astype(np.int64)
    axes = np.meshgrid(steps, np.arange(h), np.arange(w), indexing="ij")
    return start + np.stack(axes).reshape(3, -1)


def checked_media() -> list[list[Media]]:
    """Return the media of the prompts to check: one picture, two pictures, a clip with a fractional step."""
    frames = 8
    facts = ClipFacts(
        start_s=0.0,
        end_s=frames / CHECKED_FPS,
        rate_fps=CHECKED_FPS,
        sampled_fps=CHECKED_FPS,
        frame_indices=tuple(range(frames)),
        declared_frames=frames,
        decoded_frames=frames,
    )
    pixels = np.full((frames, 56, 84, 3), 127, dtype=np.uint8)
    clip = Media("clip", pixels, np.arange(frames) / CHECKED_FPS, (84, 56), "self-check", "", clip=facts)
    return [[grey_picture(84, 56)], [grey_picture(56, 112), grey_picture(84, 56)], [clip]]


def grey_picture(width: int, height: int) -> Media:
    """Return a grey picture of a size in pixels, for checks of the model."""
    frames = np.full((1, height, width, 3), 127, dtype=np.uint8)
    return Media("picture", frames, np.zeros(1), (width, height), "self-check", "")


def prove_positions(model: Any, prompt: Prompt) -> None:
    """Compare the positions that the model computes for vision tokens with those that the prompt implies.

    Where the text goes on after a clip differs between versions of transformers, and from 5.18 on it may lie among the
    clip's temporal positions: it must only lie beyond the rows and columns.

    Args:
        model: loaded.
        prompt: with its grids, and with the seconds per step of its clips.

    Raises:
        CaptureError: they differ.
    """
    positions = _model_positions(model, prompt)
    seconds = iter(float(value) for value in prompt.inputs.get("second_per_grid_ts", ()))
    per_second = model.config.vision_config.tokens_per_second
    video_token = model.config.video_token_id
    ids = prompt.inputs["input_ids"][0].tolist()
    for grid in prompt.grids:
        end = grid.start + grid.cells
        units_per_step = per_second * next(seconds) if ids[grid.start] == video_token else 0.0
        start = int(positions[0, grid.start - 1]) + 1
        implied = implied_positions(grid, start, units_per_step)
        if not np.array_equal(positions[:, grid.start : end], implied):
            raise CaptureError(
                "self-check: the positions of vision tokens are not those that their grid and times imply, with "
                f"transformers {transformers.__version__}",
                "install transformers 5.18 or later",
            )
        if positions[:, end].min() <= implied[1:].max():
            raise CaptureError("self-check: the text after a picture has a position among its rows and columns")


def _model_positions(model: Any, prompt: Prompt) -> IntArray:
    """Return the model's own positions: (3, S)."""
    compute = getattr(model.model, "get_rope_index", None)
    if compute is None:
        raise CaptureError("self-check: the model has no get_rope_index, so the positions of its tokens are unknown")
    inputs = {name: prompt.inputs[name] for name in signature(compute).parameters if name in prompt.inputs}
    return np.asarray(compute(**inputs)[0][:, 0].numpy(), dtype=np.int64)
