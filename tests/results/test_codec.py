"""Result folders of strangers: each field is refused by its name, and nothing is made room for before it is checked."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc

import numpy as np
import pytest

from qvl_attn.core.errors import StoreError
from qvl_attn.kinds import read_saved
from qvl_attn.render.style import Drawing
from qvl_attn.results import codec
from tests.helpers.kept import kept_files, write_kept


def json_with(kind, path, value, file="result.json"):
    """Return a kept result's JSON with another value at a path such as `media.0.size_px`."""
    result = part = json.loads(kept_files(kind)[file])
    *parents, last = path.split(".")
    for name in parents:
        part = part[int(name) if name.isdigit() else name]
    part[int(last) if last.isdigit() else last] = value
    return {file: json.dumps(result).encode()}


def arrays_with(kind, **changed):
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **dict(np.load(io.BytesIO(kept_files(kind)["attention.npz"]))) | changed)
    return {"attention.npz": stream.getvalue()}


def refusal(kind, tmp_path, **changed):
    with pytest.raises(StoreError) as error:
        read_saved(write_kept(kind, tmp_path / "result", **changed))
    text = error.value.in_one_line()
    assert "\n" not in text
    assert f"{tmp_path / 'result'}" in text
    return text


CLIP = {"fps": 2.0, "max_frames": 8, "start_s": 0.0, "end_s": None, "source_fps": 24.0, "mode": "clip"}
FIELDS = [
    ("ask", "settings.clip", CLIP, "settings.clip: does not fit the media"),
    ("ask", "kind", "video", "kind: video of pictures"),
    ("video", "settings.clip", None, "settings.clip: does not fit the media"),
    ("video", "kind", "ask", "kind: ask of clips"),
    ("encoder", "layers.0.full", 2, "result.layers[0].full: expected bool, got int"),
    ("encoder", "layers.0.entropy_bits", None, "result.layers[0].entropy_bits: expected object, got null"),
    ("encoder", "headline.over", "x" * 5000, "result.headline.over: invalid enum value 'xxx"),
    ("video", "media.0.clip.frame_indices.3", "x", "result.media[0].clip.frame_indices[3]: expected int, got str"),
    ("video", "media.0.clip.frame_indices.1", -1, "result.media[0].clip.frame_indices[1]: expected int >= 0"),
    ("video", "media.0.clip.frame_indices.1", 2**60, "result.media[0].clip.frame_indices[1]: expected int <= "),
    ("video", "media.0.clip.frame_indices", [0, 2], "result.media[0]: clip.frame_indices: not one for each time"),
    ("video", "media.0.clip.end_s", 0, "result.media[0].clip: start 0.0 s, end 0.0 s"),
    ("video", "media.0.times_s", [0.0] * 10**5, "result.media[0].times_s: expected array of length <= 768"),
    ("video", "media.0.times_s", [], "result.media[0].times_s: expected array of length >= 1"),
    ("video", "passes.results", [{}] * 10**4, "result.passes.results: expected array of length <= 768"),
    (
        "video",
        "passes.results.1.answer_logprob",
        "x",
        "result.passes.results[1].answer_logprob: expected float, got str",
    ),
    ("video", "settings.clip.fps", 0, "settings: `fps=0.0`: want frames per second"),
    ("ask", "media", [], "result.media: expected array of length >= 1"),
    ("ask", "media.1.size_px", [0, 5], "result.media[1].size_px[0]: expected int >= 1"),
    ("ask", "media.1.size_px", [2**31 - 1, 2**31 - 1], "fish.png has 2,147,483,647 x 2,147,483,647 = "),
    ("ask", "tokens.2.role", "x", "result.tokens[2]: role 'x'"),
    ("ask", "tokens.2.span", [0], "result.tokens[2].span: expected array of length 2"),
    ("ask", "seconds.load", None, "result.seconds[...]: expected float, got null"),
    ("ask", "provenance.head_count", 10**9, "result.provenance.head_count: expected int <= 4096"),
    ("ask", "settings.seed", 1.5, "settings.seed: expected int, got float"),
    ("ask", "settings.colour", "red", "settings.colour: unknown"),
    ("encoder", "settings.seed", 1.5, "settings.seed: expected int, got float"),
    ("encoder", "settings.colour", "red", "settings.colour: unknown"),
    ("encoder", "settings.at.0", [1], "settings.at[0]: expected array of length 2"),
    ("encoder", "queries.1.at_px", "x", "result.queries[1].at_px: expected array | null, got str"),
    ("encoder", "layers.1.distance_px.mean", "x", "result.layers[1].distance_px.mean: expected float, got str"),
    ("encoder", "said", "x", "result.said: expected array, got str"),
    ("encoder", "provenance.family", 3, "result.provenance.family: expected str, got int"),
]


@pytest.mark.parametrize(
    ("kind", "path", "value", "message"), FIELDS, ids=[f"{kind} {path}" for kind, path, *_ in FIELDS]
)
def test_a_field_is_refused_by_its_name(tmp_path, kind, path, value, message):
    refused = refusal(kind, tmp_path, **json_with(kind, path, value))
    assert message in refused
    assert len(refused) < 600


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("ask", {"grid_thw": np.array([[1, 2**31, 2**31]] * 2)}, "grid_thw does not fit the vision tokens"),
        ("ask", {"grid_thw": np.array([[1, 8, 8]])}, "grid_thw: want int64 (2, 3), got int64 (1, 3)"),
        ("encoder", {"weights_by_head": np.full((4, 4, 2, 120), np.nan, np.float32)}, "damaged: weights_by_head: "),
        ("encoder", {"patch_px": np.array(14.5)}, "patch_px: want int64 (), got float64 ()"),
        ("ask", {"merge_size": np.array(2**40)}, "grid_thw does not fit the vision tokens"),
        ("ask", {"merge_size": np.array([2])}, "merge_size: want int64 (), got int64 (1,)"),
        ("ask", {"vision_tokens": np.zeros(0, np.int64)}, "grid_thw does not fit the vision tokens"),
        ("encoder", {"grid_thw": np.array([[1, 2**31, 2**31]])}, "grid_thw does not fit the vision tokens"),
        ("encoder", {"grid_thw": np.array([[-1, -10, 12]])}, "grid_thw does not fit the vision tokens"),
        ("encoder", {"patch_px": np.array(5000)}, "reconstruction: want uint8 (1, 50000, 60000, 3)"),
        ("encoder", {"step_frames": np.zeros((10**6, 2), np.int64)}, "frames: want int64 (1, 2), got "),
    ],
)
def test_sizes_are_checked_before_room_is_made_for_them(tmp_path, kind, changed, message):
    folder_of = arrays_with(kind, **changed)
    tracemalloc.start()
    try:
        assert message in refusal(kind, tmp_path, **folder_of)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_pictures_that_are_too_large_together_are_refused(tmp_path, monkeypatch):
    read = []
    real = codec.read_png
    monkeypatch.setattr(codec, "read_png", lambda path, *size: read.append(path.name) or real(path, *size))
    monkeypatch.setattr(codec, "MAX_NPZ_BYTES", 100_000)
    assert "pictures of 0.0 GiB; the limit is " in refusal("video", tmp_path / "clip")
    assert read == ["000000.png"], "the others are not read"
    assert "pictures of 0.0 GiB; the limit is " in refusal("ask", tmp_path / "pictures")


def test_a_frame_of_another_size_is_refused(tmp_path):
    frame = kept_files("ask")["picture_1.png"]
    assert "seen/000002.png has " in refusal("video", tmp_path, **{"seen/000002.png": frame})


def test_a_pass_has_no_passes_of_its_own(tmp_path):
    """A pass that leads back to the whole result had no end."""
    changed = json_with("video", "passes", {"mode": "frames", "merged": None, "results": []}, "passes/001/result.json")
    assert "passes/001 is damaged: passes: a pass has none of its own" in refusal("video", tmp_path, **changed)


def test_arrays_that_nobody_asks_for_are_not_unpacked(tmp_path):
    """Those that an encoder's result only has for others to read."""
    unread = ("weights", "vision_mass", "media_index", "frame_span", "times_s", "layers")
    changed = arrays_with("encoder", **dict.fromkeys(unread, np.zeros(3, "M8[s]")))
    read_saved(write_kept("encoder", tmp_path / "result", **changed))


def test_a_word_without_rows_is_not_drawn(tmp_path):
    arrays = dict(np.load(io.BytesIO(kept_files("ask")["attention.npz"])))
    first = int(np.flatnonzero(arrays["query_role"] == "question")[0])
    kept = [i for i in range(len(arrays["queries"])) if i != first]
    by_query = {name: arrays[name][kept] for name in ("queries", "query_role", "produces")}
    by_layer = {name: arrays[name][:, kept] for name in ("weights", "vision_mass")}
    by_head = {"weights_by_head": arrays["weights_by_head"][:, :, kept]}
    folder = write_kept("ask", tmp_path / "result", **arrays_with("ask", **by_query, **by_layer, **by_head))
    dict(read_saved(folder)._figures(Drawing(draw_size_px=64)).images())["tokens.png"]()


def test_an_encoder_has_one_picture(tmp_path):
    folder = write_kept("encoder", tmp_path / "result")
    value = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    shutil.copy(folder / "picture_1.png", folder / "picture_2.png")
    (folder / "result.json").write_text(json.dumps({**value, "media": value["media"] * 2}), encoding="utf-8")
    with pytest.raises(StoreError, match="media: an encoder has one picture or clip, not 2"):
        read_saved(folder)


def test_a_kind_that_nobody_knows_is_named_in_one_line(tmp_path):
    for kind in ("x" * 5000, ["ask"] * 5000):
        folder = write_kept("ask", tmp_path / str(len(kind[0])), **json_with("ask", "kind", kind))
        with pytest.raises(StoreError, match="is damaged: kind: ") as caught:
            read_saved(folder)
        assert len(caught.value.message) < 600
