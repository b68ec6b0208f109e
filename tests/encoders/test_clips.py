"""Clips and encoders: the frames that are looked at, what a film shows of them and where, and figures over time."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import no_op
from qvl_attn.core.types import HeatMap, Scale
from qvl_attn.encoders import capture as look_room
from qvl_attn.encoders import inputs as inputs_room
from qvl_attn.encoders.inputs import load_encoder_clip
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.statistics import statistics_of
from qvl_attn.encoders.timeline import asked, draw_steps, export_clip, frame_overlay, lines, visible_part
from qvl_attn.media.image import load_picture
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay, FrameRenderer
from qvl_attn.vqa.clip import load_clip
from tests.conftest import DEMO_PICTURES, numbered_frames
from tests.helpers import tiny_encoders

CLIP = DEMO_PICTURES / "clip.mp4"  # 168 x 140 px, eight frames, four a second
LEFT = (320 - 168) // 2  # of its frames in a film, whose words need room
ALL = ClipSettings()
CELLS = Drawing(interp="cells", alpha=1.0, draw_size_px=0)
COLORS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1].astype(int)


def spec_and_processor(name):
    return tiny_encoders.encoder(name).spec, tiny_encoders.encoder(name).processor


def looked(name, path=CLIP, how=ALL, **settings):
    asked = EncoderSettings(clip=how, **settings)
    encoder = tiny_encoders.encoder(name)
    return encoder.encode(load_encoder_clip(encoder.spec, encoder.processor, path, how, asked), asked)


def heat_of(look, values=None, query=None, layer=1, scale=None):
    """The map of a look, or a planted one."""
    query = query or look.attention.queries[0]
    values = look.attention.map(query, layer) if values is None else values
    tokens = len(look.attention.prefix) + look.attention.grid[1] * look.attention.grid[2]
    return HeatMap(values, 0, (layer,), "all", query, (), 1 / tokens, 1.0, scale or percentile_scale([values]))


def film_of(folder, look, heat, drawing=CELLS, captions=()):
    folder.mkdir()
    return export_clip(folder, look, heat, drawing, captions, no_op)


def frames_of(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24").astype(int)) for frame in container.decode(video=0)]


def numbered_folder(folder, frames):
    folder.mkdir(exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i:05d}.png")
    return folder


@pytest.fixture(scope="module")
def clip_look():
    return looked("clip", how=ClipSettings(fps=4))


# The frames


@pytest.mark.parametrize("limits", [{}, {"max_pixels": 7000}], ids=["square", "oblong"])
@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "registers"])
def test_a_clip_is_looked_at_as_each_of_its_frames_is(name, limits, tmp_path, monkeypatch):
    monkeypatch.setattr(look_room, "TOKENS_AT_ONCE", 60)  # a few steps at a time: 26 to 30 tokens, or more
    monkeypatch.setattr(inputs_room, "FRAMES_AT_ONCE", 3)
    folder = numbered_folder(tmp_path / "frames", tiny_encoders.pixels(96, 130, 5, 7))
    at = ((40.0, 60.0),)
    together = looked(name, folder, ClipSettings(fps=24), at=at, **limits)
    assert together.attention.grid[0] == 7
    assert together.frames.tolist() == [[i, i] for i in range(7)]
    alone = [
        tiny_encoders.encoder(name).encode(load_picture(path), EncoderSettings(at=at, **limits))
        for path in sorted(folder.iterdir())
    ]
    for i, one in enumerate(alone):
        for field in (
            "received",
            "rows",
            "distance_px",
            "entropy_bits",
            *(["cls"] if one.attention.cls is not None else []),
        ):
            step = np.moveaxis(getattr(together.attention, field), 3 if field == "rows" else 2, 0)[i]
            of_one = np.moveaxis(getattr(one.attention, field), 3 if field == "rows" else 2, 0)[0]
            size = 1 if of_one.max() < 1 else float(of_one.max())
            assert np.abs(step - of_one).max() < 1e-6 * size, (field, i)
        assert np.array_equal(together.reconstruction[i], one.reconstruction[0])
    boxes = together.attention.boxes_px.reshape(7, -1, 4)
    assert np.array_equal(boxes, np.broadcast_to(alone[0].attention.boxes_px, boxes.shape))
    differ = [np.abs(a.attention.received - b.attention.received).max() for a, b in pairwise(alone)]
    assert min(differ) > 1e-3, "frames differ, so a wrong order shows"


def test_a_long_clip_is_held_in_parts(monkeypatch):
    """Neither the processor nor the layers are given more of it than of a short one."""
    encoder, given, run = tiny_encoders.encoder("clip"), [], []
    processor, ran = encoder.processor, look_room.run_encoder
    monkeypatch.setattr(encoder, "processor", _Spy(processor, given))
    monkeypatch.setattr(
        look_room,
        "run_encoder",
        lambda model, eye, one: (run.append(len(one.tensors["pixel_values"])), ran(model, eye, one)),
    )
    monkeypatch.setattr(look_room, "TOKENS_AT_ONCE", 8 * 26)
    clip = tiny_encoders.clip(90, 80, 37)
    found = encoder.encode(clip, EncoderSettings())
    assert found.attention.grid == (37, 5, 5)
    assert max(given) <= inputs_room.FRAMES_AT_ONCE
    assert sum(given) - 2 == 37, "and two that are painted"
    assert run == [8, 8, 8, 8, 5]


class _Spy:
    def __init__(self, processor, given):
        self._processor, self._given = processor, given

    def __call__(self, images, **how):
        self._given.append(len(images))
        return self._processor(images=images, **how)

    def __getattr__(self, name):
        return getattr(self._processor, name)


@pytest.mark.parametrize(("fps", "end_s", "steps"), [(4, None, 4), (4, 1.25, 3), (4, 0.25, 1)])
def test_qwens_frames_are_those_of_a_question_two_a_step(demo, fps, end_s, steps):
    how = ClipSettings(fps=fps, end_s=end_s)
    asked = load_clip(demo.processor, open_clip(CLIP), Settings(clip=how, max_pixels=9000))
    found = looked(tiny_encoders.QWEN, how=how, max_pixels=9000)
    assert np.array_equal(found.media.frames, asked.frames)
    assert np.array_equal(found.media.times_s, asked.times_s)
    count = len(asked.frames)
    assert found.frames.tolist() == [[2 * i, min(2 * i + 1, count - 1)] for i in range(steps)]
    assert frame_overlay(found, heat_of(found), ()).steps == [i // 2 for i in range(count)]
    assert found.reconstruction.shape[1:3] == found.media.frames.shape[1:3]
    assert np.abs(found.reconstruction.astype(int) - found.media.frames[::2].astype(int)).max() <= 1


def test_large_frames_are_averaged_down_and_their_patches_lie_in_the_original(tmp_path):
    large = tiny_encoders.pixels(2048, 1100, 3, 2)
    folder = numbered_folder(tmp_path / "large", large)
    found = looked("clip", folder, ClipSettings(fps=24))
    means = large.reshape(2, 550, 2, 1024, 2, 3).mean(axis=(2, 4))
    assert found.media.frames.shape == means.shape
    assert np.abs(found.media.frames - means).max() <= 1
    assert found.media.size_px == (2048, 1100)
    assert [note for note in found.media.notes if "2048 x 1100 px are kept at 1024 x 550 px" in note]
    whole = tiny_encoders.encoder("clip").encode(load_picture(folder / "00000.png"), EncoderSettings())
    assert np.abs(found.attention.boxes_px[:25] - whole.attention.boxes_px).max() < 2, (
        "half an input pixel is seven of these"
    )
    assert np.abs(found.reconstruction[0].astype(int) - whole.reconstruction[0]).mean() < 3


def test_small_frames_stay_as_they_are():
    found = load_encoder_clip(*spec_and_processor("clip"), CLIP, ClipSettings(fps=4))
    decoded = frames_of(CLIP)
    assert found.frames.shape == (8, 140, 168, 3)
    assert np.abs(found.frames.astype(int) - np.array([pixels for _, pixels in decoded])).mean() < 2
    assert found.times_s == pytest.approx([time_s for time_s, _ in decoded])
    assert not found.notes


def test_a_folder_of_frames_and_an_animation_are_clips(tmp_path):
    frames = numbered_frames(6, (90, 60))
    folder = numbered_folder(tmp_path / "frames", frames)
    found = load_encoder_clip(*spec_and_processor("dino"), folder, ClipSettings(fps=10, source_fps=10))
    assert np.array_equal(found.frames, frames)
    assert found.times_s == pytest.approx(np.arange(6) / 10)
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=100, loop=0)
    animated = load_encoder_clip(*spec_and_processor("dino"), tmp_path / "a.gif", ClipSettings(fps=10))
    assert np.array_equal(animated.frames, frames)
    assert animated.times_s == pytest.approx(np.arange(6) / 10)


def test_what_was_asked_for_is_sampled_and_told():
    reported = []
    how = ClipSettings(fps=2, start_s=0.5, end_s=1.5)
    found = load_encoder_clip(*spec_and_processor("clip"), CLIP, how, None, lambda *words: reported.append(words))
    assert found.facts.frame_indices == (2, 4)
    assert reported[-1] == ("decoding", 4, 4)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"mode": "frames"}, "--mode frames"),
        ({"mode": "both"}, "--mode both"),
        ({"window": 4}, "--window 4"),
        ({"start_s": 2.0}, "--start 2"),
    ],
)
def test_what_an_encoder_has_no_use_for_is_refused(how, says):
    with pytest.raises(InputError, match=says):
        load_encoder_clip(*spec_and_processor("clip"), CLIP, ClipSettings(**how))


@pytest.mark.parametrize("name", ["clip", tiny_encoders.QWEN])
def test_broken_clips_give_the_known_errors(name, tmp_path, clip_file):
    encoder, whole = tiny_encoders.encoder(name), clip_file(20).read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 20])
    (tmp_path / "words.mp4").write_text("no clip at all")
    (tmp_path / "nothing").mkdir()
    for path, says in (
        ("missing.mp4", "does not exist"),
        ("empty.mp4", "empty"),
        ("cut.mp4", "broken|cut short"),
        ("words.mp4", "no MP4|not a clip"),
        ("nothing", "no picture|empty|frames"),
    ):
        with pytest.raises(InputError, match=says):
            load_encoder_clip(encoder.spec, encoder.processor, tmp_path / path)
    with pytest.raises(InputError, match="is a picture that does not move"):
        load_encoder_clip(encoder.spec, encoder.processor, DEMO_PICTURES / "cats.png")
    with pytest.raises(InputError, match="max-pixels"):
        encoder.encode(
            load_encoder_clip(encoder.spec, encoder.processor, CLIP, None, EncoderSettings(max_pixels=2)),
            EncoderSettings(max_pixels=2),
        )


# The film


def levels(page, boxes, left=LEFT):
    """What each box shows, in its middle, as a place in the table of colours."""
    middles = [(round((y0 + y1) / 2 - 0.5), round((x0 + x1) / 2 - 0.5)) for x0, y0, x1, y1 in boxes.tolist()]
    return [int(np.abs(COLORS - page[y, left + x].astype(int)).sum(axis=1).argmin()) for y, x in middles]


def planted(look):
    """One cell of each step is lit, another in each, and each step less than the one before."""
    t, h, w = look.attention.grid
    values = np.zeros((t, h * w), np.float32)
    lit = [(7 * step + 3) % (h * w) for step in range(t)]
    values[range(t), lit] = np.linspace(1, 0.5, t)
    return values.reshape(t, h, w), lit


@pytest.mark.parametrize("name", ["clip", "dino", "dinov2", tiny_encoders.QWEN])
def test_the_right_place_of_the_right_frames_is_lit(name, tmp_path):
    look = looked(name, how=ClipSettings(fps=4, end_s=1.75))  # seven frames: of Qwen's steps the last has one
    values, lit = planted(look)
    files, notes = film_of(tmp_path / "film", look, heat_of(look, values, scale=Scale(0, 1)))
    assert notes == []
    boxes, per_step = look.attention.boxes_px[: values[0].size], 2 if name == tiny_encoders.QWEN else 1
    film = frames_of(tmp_path / "film" / "heatmap.mp4")
    assert len(film) == 7
    for i, (time_s, page) in enumerate(film):
        assert time_s == pytest.approx(i / 4, abs=1e-4)
        step = i // per_step
        want = np.zeros(values[0].size)
        want[lit[step]] = 255 * values[step].max()
        assert levels(page, boxes) == pytest.approx(want, abs=12), f"frame {i}, after H.264"
        drawn = np.asarray(Image.open(tmp_path / "film" / "frames" / f"{i:06d}.png"))
        assert levels(drawn, boxes) == pytest.approx(want, abs=1), f"frame {i}"
    assert files == ["heatmap.mp4", *(f"frames/{i:06d}.png" for i in range(7)), "timeline.png"]
    assert sorted(files) == sorted(
        str(path.relative_to(tmp_path / "film")) for path in (tmp_path / "film").rglob("*") if path.is_file()
    )


def test_what_the_encoder_did_not_see_is_faded(clip_look, tmp_path):
    """CLIP's crop of a landscape is the square in its middle: of 168 x 140 px, shortest side to 80, 70 kept."""
    side, seen = 140 * 70 / 80, np.zeros((140, 168), bool)
    left, top = (168 - side) / 2, (140 - side) / 2
    assert np.array(visible_part(clip_look)) == pytest.approx(
        [left / 168, top / 140, (left + side) / 168, (top + side) / 140], abs=0.005
    )
    seen[round(top) : round(top + side), round(left) : round(left + side)] = True
    film_of(tmp_path / "film", clip_look, heat_of(clip_look, planted(clip_look)[0], scale=Scale(0, 1)))
    border = cv2.dilate(seen.astype(np.uint8), np.ones((5, 5))) != cv2.erode(seen.astype(np.uint8), np.ones((5, 5)))
    for i in (0, 5):
        drawn = np.asarray(Image.open(tmp_path / "film" / "frames" / f"{i:06d}.png"))
        drawn = drawn[:140, LEFT : LEFT + 168].astype(int)
        outside = drawn[~seen & ~border]
        assert (np.ptp(outside, axis=1) == 0).all()
        assert outside.min() > 150
        original = clip_look.media.frames[i].astype(float).mean(axis=2)[~seen & ~border]
        assert np.corrcoef(outside[:, 0], original)[0, 1] > 0.9, "the picture still shows"
        inside = drawn[seen & ~border]
        assert set(np.unique(inside, axis=0)[:, 0]) <= {*COLORS[:, 0]}
    reported = frame_overlay(clip_look, heat_of(clip_look), ("as it is",)).captions
    assert reported[1:] == ("as it is", "what the encoder does not see is faded")


def test_a_picture_that_is_seen_whole_is_not_faded():
    for name, settings in (("dino", {}), (tiny_encoders.QWEN, {})):
        look = looked(name, **settings)
        assert visible_part(look) is None
        assert frame_overlay(look, heat_of(look), ("as it is",)).captions[1:] == ("as it is",)


VALUES = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.5]]], dtype=np.float32)


def parted(part, drawing=CELLS, size_px=(640, 400), values=VALUES, answers=()):
    heat = HeatMap(values, 0, (1,), "all", "cls", (), 0.1, 1.0, Scale(0, 1))
    overlay_text = FrameOverlay(heat, (0.0, 1.0), (0, 1), "who asks", answers, ("layer 1",), part)
    return FrameRenderer(overlay_text, size_px, drawing)


def page_of(film, time_s=0.0, *, sampled=True):
    return film.draw(np.full((film.picture_px[1], film.picture_px[0], 3), 90, np.uint8), time_s, sampled=sampled)


def test_a_part_that_reaches_beyond_the_frame_is_cut():
    page = page_of(parted((-0.5, 0.0, 1.0, 2.0)))  # cells are 480 x 400 px, from -320,0
    assert (page[:400, :160] == COLORS[255]).all()
    assert (page[:400, 160:640] == COLORS[0]).all()
    page = page_of(parted((0.25, -1.0, 1.5, 1.0)), 1.0)  # 400 x 400 px, from 160,-400
    assert np.ptp(page[:400, :160]) == 0
    assert page[0, 0, 0] > 150
    assert (page[:400, 160:560] == COLORS[0]).all()
    assert (page[:400, 560:640] == COLORS[128]).all()


@pytest.mark.parametrize("part", [(1.2, 0.0, 1.5, 1.0), (-2.0, -2.0, -1.0, -1.0), (0.5, 0.5, 0.5, 0.5), (0, 0, 1, 1)])
def test_no_part_is_too_far_out_or_too_small_to_be_drawn(part):
    assert page_of(parted(part)).shape == page_of(parted(None)).shape


def test_a_part_is_drawn_as_it_would_be_alone():
    """Linear, smooth, side by side and of the strongest: the same pixels as of a clip that is that part."""
    for changed in ({}, {"smooth": True}, {"side_by_side": True}, {"top_percent": 30.0}, {"clip_scale": "frame"}):
        drawing = Drawing(draw_size_px=0, **changed)
        whole, alone = parted((0.25, 0.25, 0.75, 1.0), drawing), parted(None, drawing, (320, 300))
        for time_s, sampled in ((0.0, True), (0.5, False), (1.0, True)):
            page, other = page_of(whole, time_s, sampled=sampled), page_of(alone, time_s, sampled=sampled)
            left = 648 if drawing.side_by_side else 0
            other_left = 328 if drawing.side_by_side else 0
            got = page[100:400, left + 160 : left + 480]
            assert np.array_equal(got, other[:300, other_left : other_left + 320]), (changed, time_s)
            if drawing.side_by_side:
                assert (page[:400, :640] == 90).all()


def test_a_film_without_a_question_has_no_answer():
    silent, asked = parted(None), parted(None, answers=("", ""))
    assert silent.size_px[1] < asked.size_px[1]
    reported = np.asarray(page_of(asked))[400:]
    shown = np.asarray(page_of(silent))[400:]
    height = shown.shape[0]
    lines_px = asked.size_px[1] - silent.size_px[1]
    first = 2 * lines_px - 8
    assert np.array_equal(shown[:lines_px], reported[:lines_px]), "who asks"
    assert np.array_equal(shown[first - lines_px + 12 : height - 8], reported[first + 12 : height - 8 + lines_px])
    with pytest.raises(ValueError, match="an answer for each"):
        parted(None, answers=("one",))


def test_one_scale_for_the_clip_or_one_a_frame(clip_look, tmp_path):
    values, lit = planted(clip_look)
    heat, boxes = heat_of(clip_look, values, scale=Scale(0, 1)), clip_look.attention.boxes_px[:25]
    for scale, want in (("clip", 128), ("frame", 255)):
        film_of(tmp_path / scale, clip_look, heat, replace(CELLS, clip_scale=scale))
        last = np.asarray(Image.open(tmp_path / scale / "frames" / "000007.png"))
        assert levels(last, boxes)[lit[7]] == pytest.approx(want, abs=1)


def test_between_sampled_frames_the_map_stays_or_is_mixed(tmp_path):
    look = looked("dino", how=ClipSettings(fps=1))
    assert look.attention.grid[0] == 2
    values, lit = planted(look)
    boxes = look.attention.boxes_px[: values[0].size]
    for smooth in (False, True):
        film_of(tmp_path / str(smooth), look, heat_of(look, values, scale=Scale(0, 1)), replace(CELLS, smooth=smooth))
        film = frames_of(tmp_path / str(smooth) / "heatmap.mp4")
        assert len(film) == 8, "all frames, not the sampled ones alone"
        for i, (_, page) in enumerate(film):
            share = (i % 4) / 4 * smooth if i < 4 else float(i >= 4)
            want = np.zeros(values[0].size)
            want[lit[0]] += 255 * (1 - share) * values[0].max()
            want[lit[1]] += 255 * share * values[1].max()
            assert levels(page, boxes) == pytest.approx(want, abs=14), i
        assert sorted(path.name for path in (tmp_path / str(smooth) / "frames").iterdir()) == [
            "000000.png",
            "000004.png",
        ]


def test_the_clip_is_opened_once_more_as_it_was(tmp_path):
    """A folder's frames come at the rate that was named; a clip that has gone is drawn from what was sampled."""
    frames = numbered_frames(6, (90, 60))
    folder = numbered_folder(tmp_path / "frames", frames)
    look = looked("dino", folder, ClipSettings(fps=5, source_fps=10))
    film_of(tmp_path / "whole", look, heat_of(look))
    assert [time_s for time_s, _ in frames_of(tmp_path / "whole" / "heatmap.mp4")] == pytest.approx(np.arange(6) / 10)
    shutil.rmtree(folder)
    _, notes = film_of(tmp_path / "left", look, heat_of(look))
    assert [time_s for time_s, _ in frames_of(tmp_path / "left" / "heatmap.mp4")] == pytest.approx([0, 0.2, 0.4])
    assert len(notes) == 1
    assert "drawn from the sampled frames alone" in notes[0]


def test_a_frame_that_stays_on_the_screen_is_shown_with_the_map_of_each_of_its_steps(tmp_path):
    folder = numbered_folder(tmp_path / "frames", tiny_encoders.pixels(98, 70, 8, 6))
    for number in (2, 3, 4):
        (folder / f"{number:05d}.png").unlink()
    look = looked("dino", folder, ClipSettings(fps=5, end_s=1.2, source_fps=5))
    assert look.media.facts.frame_indices == (0, 1, 1, 1, 1, 2)
    values, lit = planted(look)
    film_of(tmp_path / "film", look, heat_of(look, values, scale=Scale(0, 1)))
    film = frames_of(tmp_path / "film" / "heatmap.mp4")
    assert [time_s for time_s, _ in film] == pytest.approx(np.arange(6) / 5, abs=1e-4)
    boxes, left = look.attention.boxes_px[: values[0].size], (320 - 98) // 2
    assert [int(np.argmax(levels(page, boxes, left))) for _, page in film] == lit


def test_its_size_is_what_was_asked_for(clip_look, tmp_path):
    film_of(tmp_path / "film", clip_look, heat_of(clip_look), Drawing(draw_size_px=640, side_by_side=True))
    _, page = frames_of(tmp_path / "film" / "heatmap.mp4")[0]
    height, width, _ = page.shape
    assert width == 2 * 640 + 8
    assert height > round(640 * 140 / 168)
    assert height % 2 == 0


def test_who_asks_is_said(clip_look):
    overlay_text = frame_overlay(clip_look, heat_of(clip_look), ("beneath",))
    assert overlay_text.question == "[CLS] · layer 1 of 0-2 · mean of 2 heads"
    assert overlay_text.answers == ()
    on_patches = clip_look.attention.cls[1, :, :, 1:].sum(axis=2).mean()
    assert overlay_text.captions[0].startswith(f"attention: {100 * on_patches:.0f} % on patches")
    rows = np.repeat(clip_look.attention.received[:, :, None], 2, axis=2)
    attention = replace(clip_look.attention, query_patches=np.array([0, 1]), rows=rows)
    at = replace(clip_look, attention=attention, settings=EncoderSettings(at=((3, 4), (80.5, 70)), over="max"))
    assert (
        asked(at, replace(heat_of(clip_look), query="at_2"))
        == "patch at 80.5,70 · layer 1 of 0-2 · maximum over 2 heads"
    )


def test_a_small_frame_in_a_large_crop(tmp_path, monkeypatch):
    """A processor that only crops, to 70 x 70 px, paints black around a frame of 100 x 42: that is not drawn."""
    monkeypatch.setattr(tiny_encoders.encoder("clip").processor, "do_resize", False)
    folder = numbered_folder(tmp_path / "frames", tiny_encoders.pixels(100, 42, 3, 2))
    look = looked("clip", folder, ClipSettings(fps=24))
    assert np.array(visible_part(look)) == pytest.approx([0.15, -14 / 42, 0.85, 56 / 42], abs=0.01)
    values = np.zeros((2, 5, 5), np.float32)
    values[0, 2, 4] = values[1, 1, 0] = 1  # rows 1 to 3 of 14 px are the frame's
    heat = heat_of(look, values, scale=Scale(0, 1))
    film_of(tmp_path / "film", look, heat)
    left = (320 - 100) // 2
    for i, (row, column) in enumerate([(1, 4), (0, 0)]):
        drawn = np.asarray(Image.open(tmp_path / "film" / "frames" / f"{i:06d}.png"))[:42, left : left + 100]
        lit = (drawn == COLORS[255]).all(axis=2)
        want = np.zeros((42, 100), bool)
        want[14 * row : 14 * row + 14, 15 + 14 * column : 29 + 14 * column] = True
        assert np.array_equal(lit, want)
        assert (np.ptp(drawn[:, :15], axis=2) == 0).all()
    assert frame_overlay(look, heat, ()).captions[-1] == (
        "what the encoder does not see is faded; what it sees beyond the frame is not drawn"
    )


# Over time


@pytest.mark.parametrize("name", ["clip", tiny_encoders.QWEN])
def test_the_figures_of_each_step(name):
    look = looked(name, how=ClipSettings(fps=4, end_s=1.25))
    attention, heat = look.attention, heat_of(look, layer=2)
    strongest, distance, entropy = lines(look, heat)
    for step in range(attention.grid[0]):
        assert strongest.values[step] == pytest.approx(heat.values[step].max() * attention.received.shape[-1])
        assert distance.values[step] == pytest.approx(attention.distance_px[2, :, step].mean())
        assert entropy.values[step] == pytest.approx(attention.entropy_bits[2, :, step].mean())
    assert entropy.chance == pytest.approx(np.log2(attention.received.shape[-1]))
    assert distance.chance == pytest.approx(statistics_of(attention)["distance_px"].chance[2])
    assert strongest.chance == 1


def test_their_picture(clip_look):
    def inked(page, color):
        return int((page == color).all(axis=2).sum())

    page = draw_steps(clip_look, heat_of(clip_look), "who asks")
    assert page.dtype == np.uint8
    assert inked(page, (0x2F, 0x66, 0x90)) > 3 * 800, "three lines from end to end"
    assert page[-1].min() == page[:, -1].min() == 255, "nothing is cut"
    steps = draw_steps(clip_look, heat_of(clip_look, np.ones((8, 5, 5), np.float32)), "who asks")
    assert not np.array_equal(page, steps)


@pytest.mark.parametrize("clip", ["imageio_newtonscradle.gif", "tennis_frames", "derived_bikes_vfr.mp4"])
def test_real_clips(shared_data, clip, tmp_path):
    path = shared_data / "videos" / clip
    if not Path(path).exists():
        pytest.skip("not among the shared data")
    look = looked("clip", path, ClipSettings(fps=2, end_s=1))
    values, lit = planted(look)
    film_of(tmp_path / "film", look, heat_of(look, values, scale=Scale(0, 1)))
    left = max(0, (320 - look.media.size_px[0]) // 2)
    film, boxes = frames_of(tmp_path / "film" / "heatmap.mp4"), look.attention.boxes_px[:25]
    assert film[0][0] == 0
    for sample, number in enumerate(look.media.facts.frame_indices):
        drawn = np.asarray(Image.open(tmp_path / "film" / "frames" / f"{number:06d}.png"))
        assert int(np.argmax(levels(drawn, boxes, left))) == lit[sample]
