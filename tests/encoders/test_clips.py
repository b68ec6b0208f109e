"""Clips and encoders: the sampled frames, the export clip with its heat maps, and statistics over time."""

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
from qvl_attn.core.runtime import no_progress
from qvl_attn.core.types import HeatMap, Scale
from qvl_attn.encoders import capture as capture_module
from qvl_attn.encoders import inputs as inputs_module
from qvl_attn.encoders.figures import draw_encoder_result
from qvl_attn.encoders.inputs import load_encoder_clip
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.statistics import statistics_of
from qvl_attn.encoders.timeline import draw_timeline, frame_overlay, heat_map_title, step_statistics, visible_region
from qvl_attn.media.image import load_picture
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.model.preprocess import load_clip
from qvl_attn.render.style import Drawing
from qvl_attn.render.video_frame import FrameOverlay, FrameRenderer
from qvl_attn.results.clip_export import export_frames
from tests.conftest import DEMO_PICTURES, numbered_frames
from tests.helpers import tiny_encoders

CLIP = DEMO_PICTURES / "clip.mp4"  # 168 x 140 px, eight frames, four a second
LEFT = (320 - 168) // 2  # x of its frames in the export clip, which has a minimum width for its captions
ALL = ClipSettings()
CELLS = Drawing(interp="cells", alpha=1.0, draw_size_px=0)
COLORS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1].astype(int)


def spec_and_processor(name):
    return tiny_encoders.encoder(name).spec, tiny_encoders.encoder(name).processor


def encode_clip(name, path=CLIP, clip_settings=ALL, **options):
    settings = EncoderSettings(clip=clip_settings, **options)
    encoder = tiny_encoders.encoder(name)
    return encoder.encode(load_encoder_clip(encoder.spec, encoder.processor, path, settings), settings)


def heat_of(result, values=None, query=None, layer=1, scale=None):
    """Return the map of a result, or one of given values."""
    query = query or result.attention.queries[0]
    values = result.attention.map(query, layer) if values is None else values
    tokens = len(result.attention.prefix) + result.attention.grid[1] * result.attention.grid[2]
    return HeatMap(values, 0, (layer,), "all", query, (), 1 / tokens, 1.0, scale or percentile_scale([values]))


def export(folder, result, heat, drawing=CELLS, captions=()):
    folder.mkdir()
    settings, overlay = result.settings.clip, frame_overlay(result, heat, captions)
    return export_frames(folder, result.media[0], settings.source_fps, overlay, drawing, no_progress)


def frames_of(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24").astype(int)) for frame in container.decode(video=0)]


def numbered_folder(folder, frames):
    folder.mkdir(exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i:05d}.png")
    return folder


@pytest.fixture(scope="module")
def clip_result():
    return encode_clip("clip", clip_settings=ClipSettings(fps=4))


# The frames


@pytest.mark.parametrize("limits", [{}, {"max_pixels": 7000}], ids=["square", "oblong"])
@pytest.mark.parametrize("name", ["clip", "siglip", "dino", "registers"])
def test_a_clip_is_encoded_like_each_of_its_frames(name, limits, tmp_path, monkeypatch):
    monkeypatch.setattr(capture_module, "TOKENS_AT_ONCE", 60)  # a few steps at a time: 26 to 30 tokens, or more
    monkeypatch.setattr(inputs_module, "FRAMES_AT_ONCE", 3)
    folder = numbered_folder(tmp_path / "frames", tiny_encoders.pixels(96, 130, 5, 7))
    at = ((40.0, 60.0),)
    together = encode_clip(name, folder, ClipSettings(fps=24), at=at, **limits)
    assert together.attention.grid[0] == 7
    assert together.frames.tolist() == [[i, i] for i in range(7)]
    alone = [
        tiny_encoders.encoder(name).encode(load_picture(path), EncoderSettings(at=at, **limits))
        for path in sorted(folder.iterdir())
    ]
    for i, single in enumerate(alone):
        for field in (
            "received",
            "rows",
            "distance_px",
            "entropy_bits",
            *(["cls"] if single.attention.cls is not None else []),
        ):
            step = np.moveaxis(getattr(together.attention, field), 3 if field == "rows" else 2, 0)[i]
            expected = np.moveaxis(getattr(single.attention, field), 3 if field == "rows" else 2, 0)[0]
            size = 1 if expected.max() < 1 else float(expected.max())
            assert np.abs(step - expected).max() < 1e-6 * size, (field, i)
        assert np.array_equal(together.reconstruction[i], single.reconstruction[0])
    boxes = together.attention.boxes_px.reshape(7, -1, 4)
    assert np.array_equal(boxes, np.broadcast_to(alone[0].attention.boxes_px, boxes.shape))
    differ = [np.abs(a.attention.received - b.attention.received).max() for a, b in pairwise(alone)]
    assert min(differ) > 1e-3, "frames differ, so a wrong order is detected"


def test_a_long_clip_is_processed_in_chunks(monkeypatch):
    """Neither the processor nor the layers get more frames at a time than of a short clip."""
    encoder, batches, chunks = tiny_encoders.encoder("clip"), [], []
    processor, run_encoder = encoder.processor, capture_module.run_encoder
    monkeypatch.setattr(encoder, "processor", _CountingProcessor(processor, batches))
    monkeypatch.setattr(
        capture_module,
        "run_encoder",
        lambda model, spec, chunk: (
            chunks.append(len(chunk.tensors["pixel_values"])),
            run_encoder(model, spec, chunk),
        ),
    )
    monkeypatch.setattr(capture_module, "TOKENS_AT_ONCE", 8 * 26)
    clip = tiny_encoders.clip(90, 80, 37)
    result = encoder.encode(clip, EncoderSettings())
    assert result.attention.grid == (37, 5, 5)
    assert max(batches) <= inputs_module.FRAMES_AT_ONCE
    assert sum(batches) - 2 == 37, "and two ramps that locate the crop"
    assert chunks == [8, 8, 8, 8, 5]


class _CountingProcessor:
    def __init__(self, processor, batches):
        self._processor, self._batches = processor, batches

    def __call__(self, images, **kwargs):
        self._batches.append(len(images))
        return self._processor(images=images, **kwargs)

    def __getattr__(self, name):
        return getattr(self._processor, name)


@pytest.mark.parametrize(("fps", "end_s", "steps"), [(4, None, 4), (4, 1.25, 3), (4, 0.25, 1)])
def test_qwens_frames_are_those_of_a_question_two_a_step(demo, fps, end_s, steps):
    clip_settings = ClipSettings(fps=fps, end_s=end_s)
    media = load_clip(demo.engine.processor, open_clip(CLIP), Settings(clip=clip_settings, max_pixels=9000))
    result = encode_clip(tiny_encoders.QWEN, clip_settings=clip_settings, max_pixels=9000)
    assert np.array_equal(result.media[0].frames, media.frames)
    assert np.array_equal(result.media[0].times_s, media.times_s)
    count = len(media.frames)
    assert result.frames.tolist() == [[2 * i, min(2 * i + 1, count - 1)] for i in range(steps)]
    assert frame_overlay(result, heat_of(result), ()).steps == [i // 2 for i in range(count)]
    assert result.reconstruction.shape[1:3] == result.media[0].frames.shape[1:3]
    assert np.abs(result.reconstruction.astype(int) - result.media[0].frames[::2].astype(int)).max() <= 1


def test_large_frames_are_reduced_and_their_patches_lie_in_the_original(tmp_path):
    large = tiny_encoders.pixels(2048, 1100, 3, 2)
    folder = numbered_folder(tmp_path / "large", large)
    result = encode_clip("clip", folder, ClipSettings(fps=24))
    means = large.reshape(2, 550, 2, 1024, 2, 3).mean(axis=(2, 4))
    assert result.media[0].frames.shape == means.shape
    assert np.abs(result.media[0].frames - means).max() <= 1
    assert result.media[0].size_px == (2048, 1100)
    assert [note for note in result.media[0].notes if "2048 x 1100 px are reduced to 1024 x 550 px" in note]
    whole = tiny_encoders.encoder("clip").encode(load_picture(folder / "00000.png"), EncoderSettings())
    assert np.abs(result.attention.boxes_px[:25] - whole.attention.boxes_px).max() < 2, (
        "half an input pixel is seven pixels of the original"
    )
    assert np.abs(result.reconstruction[0].astype(int) - whole.reconstruction[0]).mean() < 3


def test_small_frames_stay_as_they_are():
    media = load_encoder_clip(*spec_and_processor("clip"), CLIP, EncoderSettings(clip=ClipSettings(fps=4)))
    decoded = frames_of(CLIP)
    assert media.frames.shape == (8, 140, 168, 3)
    assert np.abs(media.frames.astype(int) - np.array([pixels for _, pixels in decoded])).mean() < 2
    assert media.times_s == pytest.approx([time_s for time_s, _ in decoded])
    assert not media.notes


def test_a_folder_of_frames_and_an_animation_are_clips(tmp_path):
    frames = numbered_frames(6, (90, 60))
    folder = numbered_folder(tmp_path / "frames", frames)
    settings = EncoderSettings(clip=ClipSettings(fps=10, source_fps=10))
    media = load_encoder_clip(*spec_and_processor("dino"), folder, settings)
    assert np.array_equal(media.frames, frames)
    assert media.times_s == pytest.approx(np.arange(6) / 10)
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=100, loop=0)
    animated = load_encoder_clip(
        *spec_and_processor("dino"), tmp_path / "a.gif", EncoderSettings(clip=ClipSettings(fps=10))
    )
    assert np.array_equal(animated.frames, frames)
    assert animated.times_s == pytest.approx(np.arange(6) / 10)


def test_the_requested_frames_are_sampled_with_progress():
    calls = []
    settings = EncoderSettings(clip=ClipSettings(fps=2, start_s=0.5, end_s=1.5))
    media = load_encoder_clip(*spec_and_processor("clip"), CLIP, settings, lambda *call: calls.append(call))
    assert media.facts.frame_indices == (2, 4)
    assert calls[-1] == ("decoding", 4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "frames"}, "`mode='frames'`"),
        ({"mode": "both"}, "`mode='both'`"),
        ({"window": 4}, "`window=4`"),
        ({"start_s": 2.0}, "`start_s=2.0`"),
    ],
)
def test_settings_that_do_not_apply_to_encoders_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        load_encoder_clip(*spec_and_processor("clip"), CLIP, EncoderSettings(clip=ClipSettings(**options)))


@pytest.mark.parametrize("name", ["clip", tiny_encoders.QWEN])
def test_broken_clips_give_the_known_errors(name, tmp_path, clip_file):
    encoder, whole = tiny_encoders.encoder(name), clip_file(20).read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 20])
    (tmp_path / "words.mp4").write_text("no clip at all")
    (tmp_path / "nothing").mkdir()
    for path, message in (
        ("missing.mp4", "does not exist"),
        ("empty.mp4", "empty"),
        ("cut.mp4", "broken|cut short"),
        ("words.mp4", "not an MP4|not a clip"),
        ("nothing", "no picture|empty|frames"),
    ):
        with pytest.raises(InputError, match=message):
            load_encoder_clip(encoder.spec, encoder.processor, tmp_path / path)
    with pytest.raises(InputError, match="is a picture that does not move"):
        load_encoder_clip(encoder.spec, encoder.processor, DEMO_PICTURES / "cats.png")
    with pytest.raises(InputError, match="`max_pixels=2`"):
        encoder.encode(
            load_encoder_clip(encoder.spec, encoder.processor, CLIP, EncoderSettings(max_pixels=2)),
            EncoderSettings(max_pixels=2),
        )


# The export clip


def levels(page, boxes, left=LEFT):
    """Return the index in the colour table of the pixel in the middle of each box."""
    middles = [(round((y0 + y1) / 2 - 0.5), round((x0 + x1) / 2 - 0.5)) for x0, y0, x1, y1 in boxes.tolist()]
    return [int(np.abs(COLORS - page[y, left + x].astype(int)).sum(axis=1).argmin()) for y, x in middles]


def planted(result):
    """Return a map with one lit cell in each step, each at another place and weaker than the one before."""
    t, h, w = result.attention.grid
    values = np.zeros((t, h * w), np.float32)
    lit = [(7 * step + 3) % (h * w) for step in range(t)]
    values[range(t), lit] = np.linspace(1, 0.5, t)
    return values.reshape(t, h, w), lit


@pytest.mark.parametrize("name", ["clip", "dino", "dinov2", tiny_encoders.QWEN])
def test_the_right_cells_of_the_right_frames_are_lit(name, tmp_path):
    result = encode_clip(
        name, clip_settings=ClipSettings(fps=4, end_s=1.75)
    )  # seven frames: the last step of Qwen has only one
    values, lit = planted(result)
    files, notes = export(tmp_path / "exported", result, heat_of(result, values, scale=Scale(0, 1)))
    assert notes == []
    boxes, per_step = result.attention.boxes_px[: values[0].size], 2 if name == tiny_encoders.QWEN else 1
    exported = frames_of(tmp_path / "exported" / "heatmap.mp4")
    assert len(exported) == 7
    for i, (time_s, page) in enumerate(exported):
        assert time_s == pytest.approx(i / 4, abs=1e-4)
        step = i // per_step
        want = np.zeros(values[0].size)
        want[lit[step]] = 255 * values[step].max()
        assert levels(page, boxes) == pytest.approx(want, abs=12), f"frame {i}, after H.264"
        drawn = np.asarray(Image.open(tmp_path / "exported" / "frames" / f"{i:06d}.png"))
        assert levels(drawn, boxes) == pytest.approx(want, abs=1), f"frame {i}"
    assert files == ["heatmap.mp4", *(f"frames/{i:06d}.png" for i in range(7))]
    assert sorted(files) == sorted(
        str(path.relative_to(tmp_path / "exported")) for path in (tmp_path / "exported").rglob("*") if path.is_file()
    )


def test_what_the_encoder_did_not_see_is_faded(clip_result, tmp_path):
    """CLIP crops the middle square: 168 x 140 px are resized to a shortest side of 80, then cropped to 70."""
    side, visible = 140 * 70 / 80, np.zeros((140, 168), bool)
    left, top = (168 - side) / 2, (140 - side) / 2
    assert np.array(visible_region(clip_result)) == pytest.approx(
        [left / 168, top / 140, (left + side) / 168, (top + side) / 140], abs=0.005
    )
    visible[round(top) : round(top + side), round(left) : round(left + side)] = True
    export(tmp_path / "exported", clip_result, heat_of(clip_result, planted(clip_result)[0], scale=Scale(0, 1)))
    border = cv2.dilate(visible.astype(np.uint8), np.ones((5, 5))) != cv2.erode(
        visible.astype(np.uint8), np.ones((5, 5))
    )
    for i in (0, 5):
        drawn = np.asarray(Image.open(tmp_path / "exported" / "frames" / f"{i:06d}.png"))
        drawn = drawn[:140, LEFT : LEFT + 168].astype(int)
        outside = drawn[~visible & ~border]
        assert (np.ptp(outside, axis=1) == 0).all()
        assert outside.min() > 150
        original = clip_result.media[0].frames[i].astype(float).mean(axis=2)[~visible & ~border]
        assert np.corrcoef(outside[:, 0], original)[0, 1] > 0.9, "the picture still shows"
        inside = drawn[visible & ~border]
        assert set(np.unique(inside, axis=0)[:, 0]) <= {*COLORS[:, 0]}
    captions = frame_overlay(clip_result, heat_of(clip_result), ("as it is",)).captions
    assert captions[1:] == ("as it is", "what the encoder does not see is faded")


def test_a_picture_that_is_wholly_visible_is_not_faded():
    for name, settings in (("dino", {}), (tiny_encoders.QWEN, {})):
        result = encode_clip(name, **settings)
        assert visible_region(result) is None
        assert frame_overlay(result, heat_of(result), ("as it is",)).captions[1:] == ("as it is",)


VALUES = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.5]]], dtype=np.float32)


def renderer_of(region, drawing=CELLS, size_px=(640, 400), values=VALUES, answers=()):
    heat = HeatMap(values, 0, (1,), "all", "cls", (), 0.1, 1.0, Scale(0, 1))
    overlay_text = FrameOverlay(heat, (0.0, 1.0), (0, 1), "a query", answers, ("layer 1",), region)
    return FrameRenderer(overlay_text, size_px, drawing)


def page_of(renderer, time_s=0.0, *, sampled=True):
    return renderer.draw(
        np.full((renderer.picture_px[1], renderer.picture_px[0], 3), 90, np.uint8), time_s, sampled=sampled
    )


def test_a_region_that_extends_beyond_the_frame_is_cut():
    page = page_of(renderer_of((-0.5, 0.0, 1.0, 2.0)))  # cells are 480 x 400 px, from -320,0
    assert (page[:400, :160] == COLORS[255]).all()
    assert (page[:400, 160:640] == COLORS[0]).all()
    page = page_of(renderer_of((0.25, -1.0, 1.5, 1.0)), 1.0)  # 400 x 400 px, from 160,-400
    assert np.ptp(page[:400, :160]) == 0
    assert page[0, 0, 0] > 150
    assert (page[:400, 160:560] == COLORS[0]).all()
    assert (page[:400, 560:640] == COLORS[128]).all()


@pytest.mark.parametrize("region", [(1.2, 0.0, 1.5, 1.0), (-2.0, -2.0, -1.0, -1.0), (0.5, 0.5, 0.5, 0.5), (0, 0, 1, 1)])
def test_any_region_can_be_drawn(region):
    assert page_of(renderer_of(region)).shape == page_of(renderer_of(None)).shape


def test_a_region_is_drawn_like_a_clip_of_its_own():
    """Linear, smooth, side by side and with a top percentage: the same pixels as a clip of only that region."""
    for changed in ({}, {"smooth": True}, {"side_by_side": True}, {"top_percent": 30.0}, {"clip_scale": "frame"}):
        drawing = Drawing(draw_size_px=0, **changed)
        whole, alone = renderer_of((0.25, 0.25, 0.75, 1.0), drawing), renderer_of(None, drawing, (320, 300))
        for time_s, sampled in ((0.0, True), (0.5, False), (1.0, True)):
            page, alone_page = (page_of(renderer, time_s, sampled=sampled) for renderer in (whole, alone))
            left = 648 if drawing.side_by_side else 0
            alone_left = 328 if drawing.side_by_side else 0
            region = page[100:400, left + 160 : left + 480]
            assert np.array_equal(region, alone_page[:300, alone_left : alone_left + 320]), (changed, time_s)
            if drawing.side_by_side:
                assert (page[:400, :640] == 90).all()


def test_a_clip_without_a_question_has_no_answer():
    without, with_answers = renderer_of(None), renderer_of(None, answers=("", ""))
    assert without.size_px[1] < with_answers.size_px[1]
    long = np.asarray(page_of(with_answers))[400:]
    short = np.asarray(page_of(without))[400:]
    height = short.shape[0]
    lines_px = with_answers.size_px[1] - without.size_px[1]
    first = 2 * lines_px - 8
    assert np.array_equal(short[:lines_px], long[:lines_px]), "the title"
    assert np.array_equal(short[first - lines_px + 12 : height - 8], long[first + 12 : height - 8 + lines_px])
    with pytest.raises(ValueError, match="an answer for each"):
        renderer_of(None, answers=("one",))


def test_one_scale_for_the_clip_or_one_for_each_frame(clip_result, tmp_path):
    values, lit = planted(clip_result)
    heat, boxes = heat_of(clip_result, values, scale=Scale(0, 1)), clip_result.attention.boxes_px[:25]
    for scale, want in (("clip", 128), ("frame", 255)):
        export(tmp_path / scale, clip_result, heat, replace(CELLS, clip_scale=scale))
        last = np.asarray(Image.open(tmp_path / scale / "frames" / "000007.png"))
        assert levels(last, boxes)[lit[7]] == pytest.approx(want, abs=1)


def test_between_sampled_frames_the_map_stays_or_is_mixed(tmp_path):
    result = encode_clip("dino", clip_settings=ClipSettings(fps=1))
    assert result.attention.grid[0] == 2
    values, lit = planted(result)
    boxes = result.attention.boxes_px[: values[0].size]
    for smooth in (False, True):
        export(
            tmp_path / str(smooth), result, heat_of(result, values, scale=Scale(0, 1)), replace(CELLS, smooth=smooth)
        )
        exported = frames_of(tmp_path / str(smooth) / "heatmap.mp4")
        assert len(exported) == 8, "all frames, not only the sampled ones"
        for i, (_, page) in enumerate(exported):
            share = (i % 4) / 4 * smooth if i < 4 else float(i >= 4)
            want = np.zeros(values[0].size)
            want[lit[0]] += 255 * (1 - share) * values[0].max()
            want[lit[1]] += 255 * share * values[1].max()
            assert levels(page, boxes) == pytest.approx(want, abs=14), i
        assert sorted(path.name for path in (tmp_path / str(smooth) / "frames").iterdir()) == [
            "000000.png",
            "000004.png",
        ]


def test_the_clip_is_opened_again_with_the_same_settings(tmp_path):
    """The frames of a folder have the requested rate; a clip that no longer exists is drawn from the sampled frames."""
    frames = numbered_frames(6, (90, 60))
    folder = numbered_folder(tmp_path / "frames", frames)
    result = encode_clip("dino", folder, ClipSettings(fps=5, source_fps=10))
    export(tmp_path / "whole", result, heat_of(result))
    assert [time_s for time_s, _ in frames_of(tmp_path / "whole" / "heatmap.mp4")] == pytest.approx(np.arange(6) / 10)
    shutil.rmtree(folder)
    _, notes = export(tmp_path / "left", result, heat_of(result))
    assert [time_s for time_s, _ in frames_of(tmp_path / "left" / "heatmap.mp4")] == pytest.approx([0, 0.2, 0.4])
    assert len(notes) == 1
    assert "drawn from the sampled frames alone" in notes[0]


def test_a_frame_that_lasts_several_steps_is_drawn_with_the_map_of_each(tmp_path):
    folder = numbered_folder(tmp_path / "frames", tiny_encoders.pixels(98, 70, 8, 6))
    for number in (2, 3, 4):
        (folder / f"{number:05d}.png").unlink()
    result = encode_clip("dino", folder, ClipSettings(fps=5, end_s=1.2, source_fps=5))
    assert result.media[0].facts.frame_indices == (0, 1, 1, 1, 1, 2)
    values, lit = planted(result)
    export(tmp_path / "exported", result, heat_of(result, values, scale=Scale(0, 1)))
    exported = frames_of(tmp_path / "exported" / "heatmap.mp4")
    assert [time_s for time_s, _ in exported] == pytest.approx(np.arange(6) / 5, abs=1e-4)
    boxes, left = result.attention.boxes_px[: values[0].size], (320 - 98) // 2
    assert [int(np.argmax(levels(page, boxes, left))) for _, page in exported] == lit


def test_the_exported_clip_has_the_requested_size(clip_result, tmp_path):
    export(tmp_path / "exported", clip_result, heat_of(clip_result), Drawing(draw_size_px=640, side_by_side=True))
    _, page = frames_of(tmp_path / "exported" / "heatmap.mp4")[0]
    height, width, _ = page.shape
    assert width == 2 * 640 + 8
    assert height > round(640 * 140 / 168)
    assert height % 2 == 0


def test_the_title_names_the_query(clip_result):
    overlay_text = frame_overlay(clip_result, heat_of(clip_result), ("beneath",))
    assert overlay_text.question == "[CLS] · layer 1 of 0-2 · mean of 2 heads"
    assert overlay_text.answers == ()
    on_patches = clip_result.attention.cls[1, :, :, 1:].sum(axis=2).mean()
    assert overlay_text.captions[0].startswith(f"attention: {100 * on_patches:.0f} % on patches")
    rows = np.repeat(clip_result.attention.received[:, :, None], 2, axis=2)
    attention = replace(clip_result.attention, query_patches=np.array([0, 1]), rows=rows)
    at = replace(clip_result, attention=attention, settings=EncoderSettings(at=((3, 4), (80.5, 70)), over="max"))
    assert (
        heat_map_title(at, replace(heat_of(clip_result), query="at_2"))
        == "patch at 80.5,70 · layer 1 of 0-2 · maximum over 2 heads"
    )


def test_a_small_frame_in_a_large_crop(tmp_path, monkeypatch):
    """A processor that only crops to 70 x 70 px pads a frame of 100 x 42 with black: the padding is not drawn."""
    monkeypatch.setattr(tiny_encoders.encoder("clip").processor, "do_resize", False)
    folder = numbered_folder(tmp_path / "frames", tiny_encoders.pixels(100, 42, 3, 2))
    result = encode_clip("clip", folder, ClipSettings(fps=24))
    assert np.array(visible_region(result)) == pytest.approx([0.15, -14 / 42, 0.85, 56 / 42], abs=0.01)
    values = np.zeros((2, 5, 5), np.float32)
    values[0, 2, 4] = values[1, 1, 0] = 1  # rows 1 to 3 of 14 px lie in the frame
    heat = heat_of(result, values, scale=Scale(0, 1))
    export(tmp_path / "exported", result, heat)
    left = (320 - 100) // 2
    for i, (row, column) in enumerate([(1, 4), (0, 0)]):
        drawn = np.asarray(Image.open(tmp_path / "exported" / "frames" / f"{i:06d}.png"))[:42, left : left + 100]
        lit = (drawn == COLORS[255]).all(axis=2)
        want = np.zeros((42, 100), bool)
        want[14 * row : 14 * row + 14, 15 + 14 * column : 29 + 14 * column] = True
        assert np.array_equal(lit, want)
        assert (np.ptp(drawn[:, :15], axis=2) == 0).all()
    assert frame_overlay(result, heat, ()).captions[-1] == (
        "what the encoder does not see is faded; what it sees beyond the frame is not drawn"
    )


# Over time


@pytest.mark.parametrize("name", ["clip", tiny_encoders.QWEN])
def test_the_statistics_of_each_step(name):
    result = encode_clip(name, clip_settings=ClipSettings(fps=4, end_s=1.25))
    attention, heat = result.attention, heat_of(result, layer=2)
    strongest, distance, entropy = step_statistics(result, heat)
    for step in range(attention.grid[0]):
        assert strongest.values[step] == pytest.approx(heat.values[step].max() * attention.received.shape[-1])
        assert distance.values[step] == pytest.approx(attention.distance_px[2, :, step].mean())
        assert entropy.values[step] == pytest.approx(attention.entropy_bits[2, :, step].mean())
    assert entropy.chance == pytest.approx(np.log2(attention.received.shape[-1]))
    assert distance.chance == pytest.approx(statistics_of(attention)["distance_px"].chance[2])
    assert strongest.chance == 1


def test_the_chart_of_the_statistics(clip_result):
    def pixel_count(page, color):
        return int((page == color).all(axis=2).sum())

    page = draw_timeline(clip_result, heat_of(clip_result))
    assert page.dtype == np.uint8
    assert pixel_count(page, (0x2F, 0x66, 0x90)) > 3 * 800, "three lines from end to end"
    assert page[-1].min() == page[:, -1].min() == 255, "nothing is cut off"
    steps = draw_timeline(clip_result, heat_of(clip_result, np.ones((8, 5, 5), np.float32)))
    assert not np.array_equal(page, steps)


def test_the_chart_shows_what_was_measured_whatever_filter_is_drawn(clip_result):
    plain, filtered = (draw_encoder_result(clip_result, drawing) for drawing in (Drawing(), Drawing(denoise="median")))
    assert not np.array_equal(plain.headline[0].values, filtered.headline[0].values)
    assert np.array_equal(plain.timeline(), filtered.timeline())


@pytest.mark.parametrize("clip", ["imageio_newtonscradle.gif", "tennis_frames", "derived_bikes_vfr.mp4"])
def test_real_clips(shared_data, clip, tmp_path):
    path = shared_data / "videos" / clip
    if not Path(path).exists():
        pytest.skip("not among the shared data")
    result = encode_clip("clip", path, ClipSettings(fps=2, end_s=1))
    values, lit = planted(result)
    export(tmp_path / "exported", result, heat_of(result, values, scale=Scale(0, 1)))
    left = max(0, (320 - result.media[0].size_px[0]) // 2)
    exported, boxes = frames_of(tmp_path / "exported" / "heatmap.mp4"), result.attention.boxes_px[:25]
    assert exported[0][0] == 0
    for sample, number in enumerate(result.media[0].facts.frame_indices):
        drawn = np.asarray(Image.open(tmp_path / "exported" / "frames" / f"{number:06d}.png"))
        assert int(np.argmax(levels(drawn, boxes, left))) == lit[sample]
