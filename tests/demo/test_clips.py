"""Clips: the pixels change from frame to frame as the tracks and the event say."""

from __future__ import annotations

import numpy as np
import pytest

from qvl_attn.demo import clips
from qvl_attn.demo.clips import Clip, draw_clip


def clips_with(event: str, count: int = 12) -> list[Clip]:
    matches, seed = [], 0
    while len(matches) < count:
        clip = draw_clip(np.random.default_rng([5, seed]))
        seed += 1
        if clip.event == event:
            matches.append(clip)
    return matches


def changed_box(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int, int] | None:
    rows, columns = np.nonzero((a != b).any(axis=2))
    if not len(rows):
        return None
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def test_a_seed_draws_the_same_clip_twice() -> None:
    first, repeated, different = (draw_clip(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first.tracks == repeated.tracks
    assert np.array_equal(first.frames, repeated.frames)
    assert first.tracks != different.tracks


def test_clips_stay_within_the_trained_ranges() -> None:
    for seed in range(40):
        clip = draw_clip(np.random.default_rng(seed))
        frames, height, width, _ = clip.frames.shape
        assert frames in clips.FRAME_COUNTS
        assert clip.fps in clips.FRAME_RATES
        assert {height, width} <= set(clips.CLIP_SIDES_PX)
        assert len({track.shape for track in clip.tracks}) == len(clip.tracks) in (2, 3)
        used = [color for track in clip.tracks for color in {*track.colors} - {None}]
        assert len(set(used)) == len(used), "all colours of a clip are different, also the one after a change"
        for track in clip.tracks:
            assert len(track.colors) == len(track.boxes_xyxy_px) == frames
            for x0, y0, x1, y1 in filter(None, track.boxes_xyxy_px):
                assert 0 <= x0 < x1 <= width
                assert 0 <= y0 < y1 <= height


@pytest.mark.parametrize("event", ["appear", "vanish", "recolor"])
def test_all_that_changes_is_the_event_at_its_frame(event: str) -> None:
    for clip in clips_with(event):
        actor = clip.tracks[0]
        for k in range(1, len(clip.frames)):
            change = changed_box(clip.frames[k - 1], clip.frames[k])
            if k != clip.event_frame:
                assert change is None
            else:
                expected = actor.boxes_xyxy_px[k - 1 if event == "vanish" else k]
                if event == "recolor":  # the dark and white parts of a face keep their colour
                    assert change is not None
                    assert expected is not None
                    assert min(c - e for c, e in zip(change[:2], expected[:2], strict=True)) >= 0
                    assert min(e - c for c, e in zip(change[2:], expected[2:], strict=True)) >= 0
                else:
                    assert change == expected


def test_a_move_goes_on_through_all_frames_at_constant_speed() -> None:
    for clip in clips_with("move"):
        boxes = np.array(clip.tracks[0].boxes_xyxy_px, float)
        strides = np.diff((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0)
        assert np.abs(strides - strides.mean(axis=0)).max() <= 1.5, "boxes are in whole pixels"
        length = np.hypot(*strides.mean(axis=0))
        assert clips.STRIDES_PX[0] - 1 <= length <= clips.STRIDES_PX[1] + 1
        for k in range(1, len(clip.frames)):
            change = changed_box(clip.frames[k - 1], clip.frames[k])
            assert change is not None
            union = [*boxes[k - 1 : k + 1, :2].min(axis=0), *boxes[k - 1 : k + 1, 2:].max(axis=0)]
            assert list(change) == union


def test_nothing_is_ever_covered() -> None:
    for seed in range(40):
        clip = draw_clip(np.random.default_rng([6, seed]))
        for k in range(len(clip.frames)):
            covered = np.zeros(clip.frames.shape[1:3], int)
            for track in clip.tracks:
                if (box := track.boxes_xyxy_px[k]) is not None:
                    covered[box[1] : box[3], box[0] : box[2]] += 1
            assert covered.max() == 1


def test_events_mostly_begin_with_a_temporal_step_and_never_in_the_first() -> None:
    starts = [clip.event_frame for event in ("appear", "vanish", "recolor") for clip in clips_with(event, 40)]
    assert min(starts) >= 2
    assert 0.75 < np.mean([start % 2 == 0 for start in starts]) < 0.95
