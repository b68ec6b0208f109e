"""Questions about clips: inputs of the model card's recipe, numbers of plain eager, times, windows, single frames."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from qwen_vl_utils import process_vision_info, vision_process

from qvl_attn import Drawing, Result
from qvl_attn.attribution.settings import Settings
from qvl_attn.core.errors import CaptureError, InputError, ModelError
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.media.video import open_clip
from qvl_attn.model.preprocess import load_clip
from qvl_attn.model.prompt import build_prompt, chat_messages
from qvl_attn.vqa.clip import answer_clip, prepare_clip
from qvl_attn.vqa.merge_passes import merge_captures
from tests.conftest import CLIP_FPS

QUESTION = "what moves?"
SMALL = Drawing(draw_size_px=256)


def loaded(engine, path, *, min_pixels=None, max_pixels=None, **how):
    settings = Settings(min_pixels=min_pixels, max_pixels=max_pixels, clip=ClipSettings(**how))
    return load_clip(engine.processor, open_clip(path), settings), settings


def recipe(processor, frames, indices, total, question, arguments, monkeypatch):
    """The model card's recipe with these arguments of a clip, and a video reader that returns these frames."""

    def reader(element):
        tensor = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        metadata = {"fps": CLIP_FPS, "frames_indices": list(indices), "total_num_frames": total}
        return tensor, metadata, len(indices) / total * CLIP_FPS

    monkeypatch.setitem(vision_process.VIDEO_READER_BACKENDS, vision_process.get_video_reader_backend(), reader)
    content = [{"type": "video", "video": "clip.mp4", **arguments}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    _, videos, how = process_vision_info(messages, return_video_kwargs=True, return_video_metadata=True)
    pixels, metadata = zip(*videos, strict=True)
    return processor(
        text=[text], videos=list(pixels), video_metadata=list(metadata), padding=True, return_tensors="pt", **how
    )


# The first example of the model card has these arguments and no others.
CARD = {"max_pixels": 360 * 420, "fps": 1.0}


@pytest.mark.parametrize(
    "size_px", [(176, 144), (320, 240), (64, 48), (64, 300), (40, 800), (420, 360), (640, 480), (854, 480)], ids=str
)
@pytest.mark.parametrize(
    ("typed", "arguments"),
    [
        ({}, CARD),
        ({"max_pixels": vision_process.VIDEO_MAX_TOKEN_NUM * 28**2}, {"fps": 1.0}),
        ({"min_pixels": 20_000, "max_pixels": 40_000}, {"min_pixels": 20_000, "max_pixels": 40_000}),
    ],
    ids=["card", "without max_pixels", "both limits"],
)
def test_inputs_are_those_of_the_model_cards_recipe(genuine, monkeypatch, clip_file, size_px, typed, arguments):
    path = clip_file(5, size_px=size_px)
    media, settings = loaded(genuine.engine, path, fps=CLIP_FPS / 2, **typed)
    ours = genuine.engine.prepare([(media, QUESTION)], settings)[0].prompt.inputs

    whole = [pixels(None) for _, pixels in open_clip(path).frames(0)]
    theirs = recipe(genuine.engine.processor, whole[::2], range(0, 5, 2), 5, QUESTION, arguments, monkeypatch)
    assert set(theirs) == set(ours)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids", "video_grid_thw", "pixel_values_videos"):
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize(("size_px", "cells"), [((176, 144), 143), ((320, 240), 140)], ids=str)
def test_small_frames_are_enlarged(genuine, clip_file, size_px, cells):
    media, settings = loaded(genuine.engine, clip_file(4, size_px=size_px))
    (prompt,) = genuine.engine.prepare([(media, QUESTION)], settings)
    assert prompt.prompt.grids[0].shape[1] * prompt.prompt.grids[0].shape[2] == cells


@pytest.mark.parametrize("size_px", [(64, 48), (200, 120), (420, 360)], ids=str)
@pytest.mark.parametrize(
    ("typed", "low"), [({}, 3136), ({"min_pixels": 20_000, "max_pixels": 40_000}, 20_000)], ids=["own", "typed"]
)
def test_a_checkpoint_may_have_a_minimum_of_its_own(demo, monkeypatch, clip_file, size_px, typed, low):
    """The embedded model has one: `clip_min_pixels` in its `video_preprocessor_config.json`."""
    path = clip_file(20, size_px=size_px)
    media, settings = loaded(demo.engine, path, fps=CLIP_FPS / 2, **typed)
    ours = demo.engine.prepare([(media, QUESTION)], settings)[0].prompt.inputs
    whole = [pixels(None) for _, pixels in open_clip(path).frames(0)]
    arguments = {**CARD, **typed, "min_pixels": low}
    theirs = recipe(demo.engine.processor, whole[::2], range(0, 20, 2), 20, QUESTION, arguments, monkeypatch)
    for name in ("input_ids", "video_grid_thw", "pixel_values_videos"):
        assert torch.equal(ours[name], theirs[name]), name
    assert float(ours["second_per_grid_ts"][0]) == pytest.approx(float(theirs["second_per_grid_ts"][0]))


@pytest.mark.parametrize("value", ["3136", 3000, 602_113, None, True])
def test_a_minimum_that_a_checkpoint_cannot_have(genuine, clip_file, monkeypatch, value):
    monkeypatch.setattr(genuine.engine.processor.video_processor, "clip_min_pixels", value, raising=False)
    with pytest.raises(ModelError, match=f"clip_min_pixels {value!r}: want 3136 to 602112"):
        loaded(genuine.engine, clip_file(4))


@pytest.mark.parametrize("fps", [0.7, 2.0, 3.0, 10.0])
@pytest.mark.parametrize("count", [7, 20])
def test_the_processor_learns_the_seconds_of_a_step(demo, clip_file, fps, count):
    media, settings = loaded(demo.engine, clip_file(count), fps=fps)
    (prompt,) = demo.engine.prepare([(media, QUESTION)], settings)
    assert float(prompt.prompt.inputs["second_per_grid_ts"][0]) == pytest.approx(2 / fps)


def test_wrong_times_are_an_error_and_not_other_positions(demo, clip_file, monkeypatch):
    media, _ = loaded(demo.engine, clip_file(20), fps=5)
    real = demo.engine.processor.__class__.__call__

    def forgetful(self, *args, **kwargs):
        kwargs["video_metadata"] = [{**metadata, "fps": 24.0} for metadata in kwargs["video_metadata"]]
        return real(self, *args, **kwargs)

    monkeypatch.setattr(demo.engine.processor.__class__, "__call__", forgetful)
    with pytest.raises(CaptureError, match="a step lasts"):
        build_prompt(demo.engine.processor, chat_messages([media], QUESTION), [media], 2)


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_steps_are_mapped_to_the_frames_that_fed_them(demo, clip_file, count):
    path = clip_file(2 * count)
    result = demo.ask_video(path, QUESTION, fps=CLIP_FPS / 2)
    grid = result.capture.grids[0]
    frames = list(range(0, 2 * count, 2))
    pairs = [(frames[i], frames[min(i + 1, count - 1)]) for i in range(0, count, 2)]
    assert grid.frame_span.tolist() == [list(pair) for pair in pairs]
    assert grid.times_s == pytest.approx(np.array(pairs) / CLIP_FPS)
    assert result.heatmap().values.shape == grid.shape == (len(pairs), *grid.shape[1:])
    assert len(grid.boxes_px) == grid.cells
    assert grid.boxes_px[-1].tolist() == pytest.approx([64 - 64 / grid.shape[2], 48 - 48 / grid.shape[1], 64, 48])


@pytest.mark.parametrize("attention", ["eager", "rows"])
@pytest.mark.parametrize("which", ["demo", "genuine"])
@pytest.mark.parametrize("count", [8, 7])
def test_rows_equal_output_attentions(request, clip_file, monkeypatch, which, attention, count):
    analyzer = request.getfixturevalue(which)
    monkeypatch.setattr(analyzer.engine, "attn", attention)
    path = clip_file(count, size_px=(112, 84))
    heads = f"0-{analyzer.engine.config.text_config.num_attention_heads - 1}"
    result = analyzer.ask_video(path, QUESTION, fps=CLIP_FPS, heads=heads, max_new_tokens=6)
    media, settings = loaded(analyzer.engine, path, fps=CLIP_FPS)
    inputs = analyzer.engine.prepare([(media, QUESTION)], settings)[0].prompt.inputs
    model = analyzer.engine.model
    model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.inference_mode():
            out = model.generate(
                **inputs, max_new_tokens=6, do_sample=False, output_attentions=True, return_dict_in_generate=True
            )
    finally:
        model.set_attn_implementation("sdpa")
    capture, length = result.capture, inputs["input_ids"].shape[1]
    for row, query in enumerate(capture.queries.tolist()):
        step = max(0, query - length + 1)
        want = torch.stack([layer[0, :, query if step == 0 else 0] for layer in out.attentions[step]])
        want = want[..., torch.from_numpy(capture.vision_tokens)].numpy()
        assert np.abs(capture.weights_by_head[:, :, row] - want).max() <= (1e-6 if attention == "eager" else 1e-5)
    assert result.answer == analyzer.engine.processor.decode(out.sequences[0, length:], skip_special_tokens=True)


@pytest.mark.parametrize("interval_s", [0.25, 2.0])
def test_several_questions_get_what_each_gets_alone(demo, clip_file, interval_s):
    """With steps far apart, the last step's position is beyond that of the question's first token."""
    times = [interval_s * i for i in range(8)]
    path = clip_file(8, size_px=(140, 112), times_s=times, end_s=times[-1] + interval_s)
    media, settings = loaded(demo.engine, path, fps=1 / interval_s)
    questions = [QUESTION, "what color is the star?", "有几只猫？"]
    results = dict(answer_clip(demo.engine, prepare_clip(demo.engine, media, questions, settings)))
    for i, question in enumerate(questions):
        alone = demo.ask_video(path, question, fps=1 / interval_s)
        assert results[i].answer == alone.answer
        assert np.abs(results[i].capture.weights - alone.capture.weights).max() <= 1e-5


# Several passes


def test_frames_alone_are_the_answers_and_maps_of_pictures(demo, clip_file):
    path = clip_file(8, size_px=(140, 112))
    result = demo.ask_video(path, QUESTION, fps=CLIP_FPS, mode="frames", max_frames=8)
    media, _ = loaded(demo.engine, path, fps=CLIP_FPS)
    assert len(result.passes) == 8
    assert result.heatmap().values.shape[0] == 8
    for i, part in enumerate(result.passes):
        from qvl_attn.vqa.clip import _frame

        alone = demo.ask(_frame(media, i), QUESTION)
        assert part.answer == alone.answer
        assert np.abs(part.capture.weights - alone.capture.weights).max() <= 1e-5
        assert result.heatmap().values[i] == pytest.approx(part.heatmap().values[0] / 8, abs=1e-7)
    assert result.answer == " | ".join(dict.fromkeys(part.answer.strip() for part in result.passes))


def test_windows_are_prompts_of_their_own_and_overlaps_their_mean(demo, clip_file):
    path = clip_file(12, size_px=(140, 112))
    result = demo.ask_video(path, QUESTION, fps=CLIP_FPS, window=8, stride=4)
    assert [part.media[0].clip.frame_indices for part in result.passes] == [tuple(range(8)), tuple(range(4, 12))]
    assert [part.heatmap().values.shape[0] for part in result.passes] == [4, 4]
    whole = result.heatmap().values
    capture, rows = result.capture, result.capture.query_role == "question"
    passes = [
        part.capture.weights[2, part.capture.query_role == "question"].astype(np.float64) for part in result.passes
    ]
    cells = capture.grids[0].cells // 6
    joined = np.concatenate(
        [
            passes[0][:, : 2 * cells],
            (passes[0][:, 2 * cells :] + passes[1][:, : 2 * cells]) / 2,
            passes[1][:, 2 * cells :],
        ],
        axis=1,
    )
    mass = (passes[0].sum(axis=1) + passes[1].sum(axis=1)) / 2
    joined *= (mass / joined.sum(axis=1))[:, None]
    assert capture.weights[2, rows] == pytest.approx(joined, rel=1e-5)
    assert whole.ravel() == pytest.approx(joined.mean(axis=0), rel=1e-5)
    assert result.capture.grids[0].frame_span.tolist() == [[2 * i, 2 * i + 1] for i in range(6)]


def test_the_share_on_vision_is_the_mean_of_the_passes(demo, clip_file):
    for how in ({"window": 8, "stride": 4}, {"mode": "frames"}):
        result = demo.ask_video(clip_file(14, size_px=(140, 112)), QUESTION, fps=CLIP_FPS, heads="0-3", **how)
        each = [part.capture.vision_mass[:, part.capture.query_role != "answer"] for part in result.passes]
        assert result.capture.vision_mass == pytest.approx(np.mean(each, axis=0), rel=1e-4)
        assert result.capture.weights_by_head.mean(axis=1).sum(axis=-1) == pytest.approx(
            np.mean(each, axis=0), rel=1e-3
        )


def test_a_window_is_what_its_frames_get_alone(demo, clip_file):
    path = clip_file(12, size_px=(140, 112))
    result = demo.ask_video(path, QUESTION, fps=CLIP_FPS, window=8, stride=4)
    for part, start_s in zip(result.passes, (0.0, 0.4), strict=True):
        alone = demo.ask_video(path, QUESTION, fps=CLIP_FPS, start_s=start_s, end_s=start_s + 0.8)
        assert part.media[0].clip.frame_indices == alone.media[0].clip.frame_indices
        assert part.answer == alone.answer
        assert np.abs(part.capture.weights - alone.capture.weights).max() <= 1e-5


def test_a_uniform_map_in_every_pass_is_one_in_the_whole(demo, clip_file):
    result = demo.ask_video(clip_file(14, size_px=(140, 112)), QUESTION, fps=CLIP_FPS, window=8, stride=4)
    captures = []
    for part in result.passes:
        weights = np.full_like(part.capture.weights, 0.6 / part.capture.weights.shape[-1])
        captures.append(replace(part.capture, weights=weights))
    merged = merge_captures(captures, (0, 2, 4)[: len(captures)], result.media[0])
    assert merged.weights == pytest.approx(0.6 / merged.weights.shape[-1])
    assert merged.vision_mass == pytest.approx(0.6)


def test_merged_tokens_are_laid_out_as_one_prompt(demo, clip_file):
    path = clip_file(12, size_px=(140, 112))
    merged = demo.ask_video(path, QUESTION, fps=CLIP_FPS, window=8, stride=4).capture
    whole = demo.ask_video(path, QUESTION, fps=CLIP_FPS).capture
    prompt = [token for token in whole.tokens if token.position <= whole.queries[whole.query_role == "last"][0]]
    assert [(token.text, token.role, token.span) for token in merged.tokens] == [
        (token.text, token.role, token.span) for token in prompt
    ]
    assert merged.queries.tolist() == whole.queries[whole.query_role != "answer"].tolist()
    assert merged.vision_tokens.tolist() == whole.vision_tokens.tolist()


def test_both_ways_on_one_timeline(demo, clip_file):
    from qvl_attn.vqa.timeline import lines

    result = demo.ask_video(clip_file(8, size_px=(140, 112)), QUESTION, fps=CLIP_FPS, mode="both")
    alone = demo.ask_video(clip_file(8, size_px=(140, 112)), QUESTION, fps=CLIP_FPS)
    assert np.array_equal(result.capture.weights, alone.capture.weights)
    assert len(result.passes) == 8
    drawn = lines(result)
    masses = [part.heatmap().vision_mass for part in result.passes]
    assert drawn[-1].values == pytest.approx(np.array(masses) / np.mean(masses))
    steps = result.heatmap().values.sum(axis=(1, 2))
    assert drawn[-2].values == pytest.approx(steps / steps.mean(), rel=1e-5)


@pytest.mark.parametrize("how", [{"mode": "frames"}, {"window": 4}])
def test_each_pass_has_an_answer_of_its_own(demo, clip_file, how):
    with pytest.raises(InputError, match="has an answer of its own"):
        demo.ask_video(clip_file(8), QUESTION, fps=CLIP_FPS, query="answer", **how)


# Limits


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"max_pixels": 602_113}, "want 3136 to 602112"),
        ({"min_pixels": 100}, "`min_pixels=100`"),
        ({"min_pixels": 50_000, "max_pixels": 40_000}, "above `max_pixels=40000`"),
    ],
)
def test_pixel_limits(demo, clip_file, limits, says):
    with pytest.raises(InputError, match=says):
        demo.ask_video(clip_file(4), QUESTION, **limits)


def test_a_frame_is_kept_within_its_budget(demo, clip_file):
    media, _ = loaded(demo.engine, clip_file(4, size_px=(1280, 720)), fps=2)
    height, width = media.frames.shape[1:3]
    assert height * width <= 151_200
    assert height % 28 == width % 28 == 0


# Saving and loading


@pytest.mark.parametrize("how", [{}, {"mode": "frames"}, {"mode": "both"}, {"window": 4, "stride": 2}])
def test_it_comes_back_as_it_went(demo, clip_file, tmp_path, how):
    result = demo.ask_video(clip_file(9, size_px=(112, 84)), QUESTION, fps=CLIP_FPS, **how)
    folder = result.save(tmp_path / "out", SMALL)
    back = Result.load(folder)
    assert (back.question, back.answer, back.settings) == (result.question, result.answer, result.settings)
    for name in ("layers", "queries", "query_role", "produces", "weights", "vision_mass"):
        assert np.array_equal(getattr(back.capture, name), getattr(result.capture, name)), name
    assert back.capture.grids[0].frame_span.tolist() == result.capture.grids[0].frame_span.tolist()
    assert np.array_equal(back.media[0].frames, result.media[0].frames)
    assert back.media[0].clip == result.media[0].clip
    assert [part.answer for part in back.passes] == [part.answer for part in result.passes]
    for ours, theirs in zip(result.passes, back.passes, strict=True):
        assert np.array_equal(ours.capture.weights, theirs.capture.weights)


def test_what_is_written_about_a_clip(demo, clip_file, tmp_path):
    path = clip_file(9, size_px=(112, 84))
    folder = demo.ask_video(path, QUESTION, fps=5).save(tmp_path / "out", SMALL)
    value = json.loads((folder / "result.json").read_text())
    assert value["kind"] == "video"
    clip = value["media"][0]["clip"]
    assert (clip["declared_frames"], clip["decoded_frames"], clip["sampled_frames"]) == (9, 9, 5)
    assert clip["skipped_s"] == []
    assert clip["frame_indices"] == [0, 2, 4, 6, 8]
    assert sum(step["share"] for step in value["steps"]) == pytest.approx(1)
    assert np.mean([step["over_chance"] for step in value["steps"]]) == pytest.approx(1)
    with np.load(folder / "attention.npz", allow_pickle=False) as arrays:
        cells = value["media"][0]["grid_thw"]
        per_step = cells[1] * cells[2] // 4
        assert arrays["frame_span"].tolist() == np.repeat([[0, 2], [4, 6], [8, 8]], per_step, axis=0).tolist()
        assert arrays["times_s"] == pytest.approx(arrays["frame_span"] / CLIP_FPS)
    for file in value["files"]:
        assert (folder / file).is_file(), file


def test_a_result_is_drawn_from_its_samples_where_the_clip_is_gone(demo, clip_file, tmp_path):
    path = clip_file(9, size_px=(112, 84))
    result = demo.ask_video(path, QUESTION, fps=CLIP_FPS)
    path.unlink()
    folder = result.save(tmp_path / "out", SMALL)
    assert not Result.load(folder).media[0].path
    value = json.loads((folder / "result.json").read_text())
    assert any("drawn from the sampled frames alone" in note for note in value["notes"])
    assert len(list((folder / "frames").iterdir())) == 9


def test_a_path_inside_a_result_is_not_followed(demo, clip_file, tmp_path, monkeypatch):
    folder = demo.ask_video(clip_file(4), QUESTION, fps=CLIP_FPS).save(tmp_path / "out", SMALL)
    value = json.loads((folder / "result.json").read_text())
    value["media"][0]["name"] = str(clip_file(4))
    (folder / "result.json").write_text(json.dumps(value))
    back = Result.load(folder)
    monkeypatch.setattr("qvl_attn.results.clip_export.open_clip", None)
    assert back.media[0].source == "clip.mp4"
    assert (back.save(tmp_path / "again", SMALL) / "heatmap.mp4").is_file()


def test_a_frame_that_stays_on_screen_shows_each_of_its_steps(demo, clip_file, tmp_path):
    """A slide show: one frame is sampled many times, with a map for each."""
    import av

    path = clip_file(4, times_s=[0.0, 0.1, 2.0, 4.0], end_s=6.0)
    result = demo.ask_video(path, QUESTION, fps=2)
    assert result.media[0].clip.frame_indices == (0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
    sample_times_s = [0.0, 0.1, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5]
    assert result.media[0].sampled_s == pytest.approx(sample_times_s)
    folder = result.save(tmp_path / "out", SMALL)
    with av.open(str(folder / "heatmap.mp4")) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx(sample_times_s, abs=1e-4)
    from qvl_attn.results.clip_export import step_edges_s
    from qvl_attn.vqa.timeline import frame_overlay

    overlay_text = frame_overlay(result, result.heatmap(), ())
    assert list(zip(overlay_text.times_s, overlay_text.steps, strict=True)) == list(
        zip(sample_times_s, np.repeat(range(6), 2), strict=True)
    )
    assert step_edges_s(result.media[0], 6) == pytest.approx([0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
