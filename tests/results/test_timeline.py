"""The timeline and the frames of a clip from nothing but a map source, as a kind of result without its own has them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from qvl_attn.core.types import HeatMap, Scale
from qvl_attn.results.clip_export import map_overlay
from qvl_attn.results.record import Description
from qvl_attn.results.timeline import HEADLINE_COLOR, draw_timeline
from tests.helpers.encoder_records import made_clip

CLIP = made_clip((80, 60), 4)  # four seconds, two steps
VALUES = np.array([[[3.0, 0.0]], [[1.0, 0.0]]], np.float32)
HEAT = HeatMap(VALUES, 0, (1,), "all", "cls", (), 0.1, 1.0, Scale(0, 1))


def maps(answer="it moves"):
    described = Description("layer 1", "where it looks", answer, ("of a made-up kind",))
    return SimpleNamespace(headline=None, heat_map=lambda selection: (HEAT,), describe=lambda selection: described)


def test_the_timeline_is_the_attention_on_each_step_over_uniform():
    page = draw_timeline(maps(), CLIP).astype(int)[-688:, 93:1023]  # the chart alone
    line = (page == [int(HEADLINE_COLOR[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2)
    rows = np.flatnonzero(line.sum(axis=1) > 300)  # each step is half of the chart wide
    high, low = rows[rows < rows.mean()], rows[rows > rows.mean()]
    assert abs(line[high].nonzero()[1].max() - 465) < 5, "the first step ends in the middle"
    assert abs(line[low].nonzero()[1].min() - 465) < 5, "where the second begins"
    zero = 640 * (1 - 0.115)
    dotted = (np.ptp(page, axis=2) < 30) & (page.mean(axis=2) < 230)
    level = dotted[: round(zero) - 20].sum(axis=1).argmax()
    assert np.array([zero - high.mean(), zero - low.mean()]) / (zero - level) == pytest.approx([1.5, 0.5], abs=0.02)


def test_each_sampled_frame_has_its_step_and_the_answer():
    overlay = map_overlay(maps(), CLIP, HEAT)
    assert list(overlay.steps) == [0, 0, 1, 1]
    assert list(overlay.times_s) == [0, 1, 2, 3]
    assert list(overlay.answers) == ["it moves"] * 4
    assert (overlay.question, overlay.captions) == ("where it looks", ("of a made-up kind",))
    assert list(map_overlay(maps(answer=""), CLIP, HEAT).answers) == []
