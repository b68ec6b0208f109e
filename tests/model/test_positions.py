"""The self-check of positions: what transformers computes passes, what a broken version computes does not."""

from __future__ import annotations

from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import CaptureError
from qvl_attn.core.types import TokenGrid
from qvl_attn.model.positions import checked_media, implied_positions, prove_positions
from qvl_attn.vqa.question import read_question

KINDS = ("picture", "two pictures", "clip")


@pytest.fixture(scope="module")
def prompts(engine):
    media = zip(KINDS, checked_media(), strict=True)
    return {
        kind: read_question(engine.processor, engine.config, shown, "?", Settings()).prompt for kind, shown in media
    }


def model_with(engine, change):
    """The embedded model's positions with a change: (3, 1, S) int64 in, the same out."""

    def get_rope_index(input_ids, **kwargs):
        positions, deltas = engine.model.model.get_rope_index(input_ids=input_ids, **kwargs)
        return change(positions.clone()), deltas

    get_rope_index.__signature__ = signature(engine.model.model.get_rope_index)
    return SimpleNamespace(config=engine.model.config, model=SimpleNamespace(get_rope_index=get_rope_index))


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_own_positions_pass(engine, prompts, kind):
    prove_positions(engine.model, prompts[kind])
    prove_positions(model_with(engine, lambda positions: positions), prompts[kind])


def test_positions_are_the_formula_written_out(prompts):
    (grid,) = prompts["clip"].grids
    t, h, w = grid.shape
    assert (t, h, w) == (4, 2, 3)
    written = [
        (5 + int(step * 1.4), 5 + row, 5 + column) for step in range(t) for row in range(h) for column in range(w)
    ]
    np.testing.assert_array_equal(implied_positions(grid, 5, 1.4).T, written)


def test_seconds_that_are_truncated_are_found(engine, prompts):
    """As transformers 5.6 to 5.17 compute: a step of 0.71 s becomes one of 0 s."""
    (grid,) = prompts["clip"].grids
    vision = slice(grid.start, grid.start + grid.cells)

    def truncated(positions):
        positions[0, :, vision] = positions[0, 0, grid.start]
        return positions

    with pytest.raises(CaptureError, match="positions of vision tokens") as fault:
        prove_positions(model_with(engine, truncated), prompts["clip"])
    assert "5.18" in fault.value.hint


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axes", [(1, 2), (0, 1)], ids=["rows as columns", "steps as rows"])
def test_axes_in_another_order_are_found(engine, prompts, kind, axes):
    def swapped(positions):
        first, second = axes
        positions[[first, second]] = positions[[second, first]]
        return positions

    with pytest.raises(CaptureError, match="positions of vision tokens"):
        prove_positions(model_with(engine, swapped), prompts[kind])


@pytest.mark.parametrize("which", [0, 1])
def test_each_of_several_pictures_is_checked(engine, prompts, which):
    grid: TokenGrid = prompts["two pictures"].grids[which]

    def shifted(positions):
        positions[2, :, grid.start + 1] += 1
        return positions

    with pytest.raises(CaptureError, match="positions of vision tokens"):
        prove_positions(model_with(engine, shifted), prompts["two pictures"])


def test_text_among_a_pictures_rows_is_found(engine, prompts):
    (grid,) = prompts["picture"].grids

    def overlapping(positions):
        positions[:, :, grid.start + grid.cells :] = positions[0, 0, grid.start] + 1
        return positions

    with pytest.raises(CaptureError, match="among its rows and columns"):
        prove_positions(model_with(engine, overlapping), prompts["picture"])


def test_a_model_without_positions_is_refused(engine, prompts):
    nothing = SimpleNamespace(config=engine.model.config, model=torch.nn.Identity())
    with pytest.raises(CaptureError, match="get_rope_index"):
        prove_positions(nothing, prompts["picture"])


def test_the_check_runs_when_a_model_is_loaded(engine, monkeypatch):
    from qvl_attn.analyzer import Analyzer

    def refuse(model, prompt):
        raise CaptureError("self-check: positions")

    monkeypatch.setattr("qvl_attn.vqa.engine.prove_positions", refuse)
    with pytest.raises(CaptureError, match="positions"):
        _ = Analyzer.load("demo").engine.model
