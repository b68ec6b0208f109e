"""The exported heat-map video: the right map on each frame, correct times, and playback in a browser."""

from __future__ import annotations

import http.server
import resource
import shutil
import signal
import threading
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from qvl_attn import Drawing, Result
from qvl_attn.attribution.heatmap import percentile_scale
from qvl_attn.core.errors import StoreError
from qvl_attn.core.types import HeatMap, Scale
from qvl_attn.media.mp4 import write_mp4
from qvl_attn.render import lettering
from qvl_attn.render.video_frame import FrameOverlay, FrameRenderer
from qvl_attn.results.timeline import HEADLINE_COLOR
from qvl_attn.vqa.timeline import GROUP_COLORS, draw_timeline, lines
from tests.helpers.processes import PATIENCE_S, signal_at_call, start_command

QUESTION = "what moves?"
# Two steps with one non-zero cell each.
VALUES = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.5]]], dtype=np.float32)


def heat(values=VALUES, scale=None) -> HeatMap:
    return HeatMap(
        values=values,
        media_index=0,
        layers=(1,),
        heads="all",
        query="question",
        queries=(5,),
        uniform=0.1,
        vision_mass=0.8,
        scale=scale or Scale(0.0, 1.0),
    )


def make_renderer(drawing, size_px=(640, 400), **changed) -> FrameRenderer:
    """Return a renderer with four sampled frames, one per second, two per step."""
    overlay_text = {
        "heat": heat(),
        "times_s": (0.0, 1.0, 2.0, 3.0),
        "steps": (0, 0, 1, 1),
        "question": QUESTION,
        "answers": ("a star",) * 4,
        "captions": ("layer 1",),
    }
    return FrameRenderer(FrameOverlay(**(overlay_text | changed)), size_px, drawing)


CELLS = Drawing(interp="cells", alpha=1.0, draw_size_px=0)
TABLE = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)[:, 0, ::-1]


def cells_of(page, size_px=(640, 400), left=0) -> list[list[int]]:
    """Return the colour of each cell as an index into the colour map."""
    width, height = size_px
    centres = [(height // 4, width // 4), (height // 4, 3 * width // 4), (3 * height // 4, width // 4)]
    centres.append((3 * height // 4, 3 * width // 4))
    return [int(np.abs(TABLE.astype(int) - page[y, left + x].astype(int)).sum(axis=1).argmin()) for y, x in centres]


def draw_grey(renderer, time_s, *, sampled, size_px=(640, 400)):
    grey = np.full((size_px[1], size_px[0], 3), 128, np.uint8)
    return renderer.draw(grey, time_s, sampled=sampled)


@pytest.mark.parametrize("smooth", [False, True])
def test_a_sampled_frame_shows_the_map_of_its_step(smooth):
    renderer = make_renderer(Drawing(interp="cells", alpha=1.0, draw_size_px=0, smooth=smooth))
    for time_s, want in ((0.0, [255, 0, 0, 0]), (1.0, [255, 0, 0, 0]), (2.0, [0, 0, 0, 128]), (3.0, [0, 0, 0, 128])):
        assert cells_of(draw_grey(renderer, time_s, sampled=True)) == pytest.approx(want, abs=1)


def test_between_samples_the_map_of_the_interval_stays():
    renderer = make_renderer(CELLS)
    for time_s, want in ((0.9, [255, 0, 0, 0]), (1.9, [255, 0, 0, 0]), (2.1, [0, 0, 0, 128]), (9.0, [0, 0, 0, 128])):
        assert cells_of(draw_grey(renderer, time_s, sampled=False)) == pytest.approx(want, abs=1)


def test_smooth_mixes_by_time():
    renderer = make_renderer(Drawing(interp="cells", alpha=1.0, draw_size_px=0, smooth=True))
    for share in (0.25, 0.5, 0.75):
        want = [255 * (1 - share), 0, 0, 127.5 * share]
        assert cells_of(draw_grey(renderer, 1 + share, sampled=False)) == pytest.approx(want, abs=1)
    assert cells_of(draw_grey(renderer, 0.5, sampled=False)) == pytest.approx([255, 0, 0, 0], abs=1)


def test_the_picture_says_which_map_it_shows():
    plain, smooth = make_renderer(CELLS), make_renderer(Drawing(interp="cells", alpha=1.0, draw_size_px=0, smooth=True))
    assert plain._moment(1.0, True).caption == "sampled frame 2 of 4: the map of step 1 of 2"
    assert plain._moment(1.5, False).caption == "after sampled frame 2 of 4: still the map of step 1 of 2"
    assert (
        smooth._moment(0.5, False).caption
        == "between sampled frames 1 and 2: the map of step 1 of 2, computed from both frames"
    )
    assert (
        smooth._moment(1.5, False).caption == "between sampled frames 2 and 3: the maps of steps 1 and 2 mixed by time"
    )
    sampled, between = draw_grey(plain, 1.0, sampled=True), draw_grey(plain, 1.0, sampled=False)
    assert not np.array_equal(sampled[400:], between[400:]), "the text below differs"
    assert np.array_equal(sampled[:400], between[:400])


def test_filters_are_named_beneath_the_frame(monkeypatch):
    texts = []
    wrap = lettering.wrap
    monkeypatch.setattr(
        lettering, "wrap", lambda text, *args, **kwargs: texts.append(text) or wrap(text, *args, **kwargs)
    )
    draw_grey(make_renderer(Drawing(draw_size_px=0)), 0.0, sampled=True)
    assert not any("filter" in text for text in texts)
    named = make_renderer(Drawing(draw_size_px=0, denoise="median", blur_cells=1.5))
    draw_grey(named, 0.0, sampled=True)
    assert (
        texts.count("after the filter median (3x3 cells) · after a blur (sigma 1.5 in cells)") == 2
    )  # measured, drawn
    assert named.size_px[1] > make_renderer(Drawing(draw_size_px=0)).size_px[1], "a line more"


def test_the_time_is_written(monkeypatch):
    renderer = make_renderer(CELLS)
    early, late = draw_grey(renderer, 0.25, sampled=False), draw_grey(renderer, 0.75, sampled=False)
    changed = np.argwhere((early != late).any(axis=2))
    assert len(changed) > 10
    assert changed[:, 0].min() >= 400
    assert changed[:, 1].min() > 500, "the time is at the right of the first line"


def test_one_scale_for_the_clip_or_one_a_frame():
    clip_scaled = make_renderer(CELLS)
    frame_scaled = make_renderer(Drawing(interp="cells", alpha=1.0, draw_size_px=0, clip_scale="frame"))
    assert cells_of(draw_grey(clip_scaled, 2.0, sampled=True))[3] == pytest.approx(128, abs=1)
    assert cells_of(draw_grey(frame_scaled, 2.0, sampled=True))[3] == 255
    assert percentile_scale([VALUES[1]]).high < 0.5 + 1e-6


def test_side_by_side_leaves_the_frame_as_it_is():
    renderer = make_renderer(Drawing(interp="cells", alpha=1.0, draw_size_px=0, side_by_side=True))
    page = draw_grey(renderer, 0.0, sampled=True)
    assert (page[:400, :640] == 128).all()
    assert cells_of(page, left=648) == pytest.approx([255, 0, 0, 0], abs=1)


def test_only_the_strongest_are_coloured():
    renderer = make_renderer(Drawing(interp="cells", alpha=1.0, draw_size_px=0, top_percent=13))
    page = draw_grey(renderer, 0.0, sampled=True)
    assert cells_of(page)[0] == 255
    assert (page[300, 500] == 128).all()
    assert (draw_grey(renderer, 2.0, sampled=True)[:400] == 128).all(), (
        "none of the clip's strongest is in the second step"
    )


@pytest.mark.parametrize("draw_size_px", [1280, 0, 64])
@pytest.mark.parametrize("size_px", [(640, 400), (641, 401), (101, 333), (16, 16), (1, 1), (20, 400), (1920, 1080)])
def test_sides_are_even(size_px, draw_size_px):
    renderer = make_renderer(Drawing(draw_size_px=draw_size_px, side_by_side=size_px[0] % 2 == 0), size_px)
    width, height = renderer.picture_px
    page = renderer.draw(np.zeros((height, width, 3), np.uint8), 12_345.0, sampled=True)
    assert page.shape[0] % 2 == page.shape[1] % 2 == 0
    assert page.shape[:2] == renderer.size_px[::-1]


# The file


@pytest.fixture(scope="module")
def result(demo, tmp_path_factory):
    """A result of a clip with a variable frame rate and an odd size, which H.264 does not allow: VP9 in WebM."""
    from tests.conftest import numbered_frames

    path = tmp_path_factory.mktemp("clip") / "odd.webm"
    times = [0.0, 0.1, 0.2, 0.5, 0.6, 0.7, 1.4, 1.5]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=10)
        stream.width, stream.height, stream.pix_fmt = 113, 85, "yuv444p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time_s in zip(numbered_frames(8, (113, 85)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return demo.ask_video(path, QUESTION, fps=5, layers="all")


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    return result.save(tmp_path_factory.mktemp("out"), Drawing(draw_size_px=0))


def frames_of(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_the_video_has_the_clips_own_frames_times_and_length(result, saved):
    exported, clip = frames_of(saved / "heatmap.mp4"), frames_of(result.media[0].source)
    facts, times_s = result.media[0].clip, result.media[0].sampled_s
    repeated_s = [times_s[i] for i in range(1, len(times_s)) if facts.frame_indices[i] == facts.frame_indices[i - 1]]
    assert len(repeated_s) == 3, "a frame that stays on the screen is repeated for each of its samples"
    assert [time_s for time_s, _ in exported] == pytest.approx(
        sorted([*(time_s for time_s, _ in clip), *repeated_s]), abs=1e-4
    )
    with av.open(str(saved / "heatmap.mp4")) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(result.media[0].clip.end_s, abs=1e-3)
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.width % 2 == stream.height % 2 == 0


def test_the_index_stands_at_the_front(saved):
    data = (saved / "heatmap.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_frames_are_pictures_of_the_video(result, saved):
    exported = {round(time_s, 3): pixels for time_s, pixels in frames_of(saved / "heatmap.mp4")}
    names = sorted(path.name for path in (saved / "frames").iterdir())
    facts = result.media[0].clip
    assert names == [f"{number:06d}.png" for number in sorted(set(facts.frame_indices))]
    for number, time_s in zip(facts.frame_indices, result.media[0].times_s, strict=True):
        picture = np.asarray(Image.open(saved / "frames" / f"{number:06d}.png"))
        assert np.abs(picture.astype(int) - exported[round(float(time_s), 3)].astype(int)).mean() < 4


@pytest.mark.skipif(cv2.__version__.startswith("4."), reason="OpenCV 4.11 takes every clip's colours for BT.601")
def test_colours_survive_the_encoding(tmp_path):
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 40)]
    frames = [(np.full((720, 1280, 3), color, np.uint8), i / 2) for i, color in enumerate(colors)]
    write_mp4(tmp_path / "a.mp4", iter(frames), 2.0, rate_fps=2)
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    for color in colors:
        _, bgr = capture.read()
        assert bgr[300, 300, ::-1].tolist() == pytest.approx(color, abs=5)


def test_times_must_ascend(tmp_path):
    frame = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="not after"):
        write_mp4(tmp_path / "a.mp4", iter([(frame, 0.5), (frame, 0.5)]), 1.0, rate_fps=2)


# The timeline


def test_a_line_is_the_attention_on_each_step_over_chance(result):
    drawn_lines = lines(result)
    capture = result.capture
    rows = capture.query_role == "question"
    cells = capture.grids[0].cells // capture.grids[0].shape[0]
    for layer, line in zip(capture.layers.tolist(), drawn_lines, strict=False):
        row = capture.weights[layer][rows].mean(axis=0)
        steps = [row[i : i + cells].sum() for i in range(0, len(row), cells)]
        assert line.values == pytest.approx(np.array(steps) / np.mean(steps), rel=1e-4)
        assert line.label == f"layer {layer}"
    assert drawn_lines[-1].label == "headline: layers 0-3"


def test_many_layers_are_four_groups(result):
    capture = result.capture
    more = replace(
        capture,
        layers=np.arange(10),
        weights=np.concatenate([capture.weights] * 3)[:10],
        vision_mass=np.concatenate([capture.vision_mass] * 3)[:10],
    )
    drawn_lines = lines(replace(result, capture=more, provenance=replace(result.provenance, layer_count=10)))
    labels = ["layers 0-2", "layers 3-5", "layers 6-7", "layers 8-9", "headline: layers 0-9"]
    assert [line.label for line in drawn_lines] == labels


def test_the_timeline_is_drawn(result):
    page = draw_timeline(result)
    assert page.dtype == np.uint8
    assert page.shape[1] == 1500
    chart = page[220:, 100:1000].astype(int)

    def inked(color: str, within: int) -> np.ndarray:
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        return (np.abs(chart - rgb) <= within).all(axis=2)

    for color in (HEADLINE_COLOR, *GROUP_COLORS):
        assert inked(color, 0).sum() > 50, color
    changes = (np.abs(np.diff(chart.sum(axis=2), axis=1)) > 60).sum(axis=1)
    assert 1 <= (changes > 200).sum() <= 4, "the uniform level is a dotted horizontal line"


# No incomplete file


def test_an_interrupted_video_leaves_nothing(result, tmp_path, monkeypatch):
    def stop(what, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        result.save(tmp_path / "out", progress=stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_the_old_result_whole(result, tmp_path):
    folder = result.save(tmp_path / "out", Drawing(draw_size_px=320))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StoreError):
            result.save(tmp_path / "out", Drawing(draw_size_px=320), overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder.name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_half_result(tmp_path, clip_file, number):
    clip = clip_file(40)
    out = tmp_path / "out"
    words = ["video", clip, QUESTION, "--model", "demo", "--max-frames", 4, "--max-new-tokens", 2, "--out", out]
    drawing = "qvl_attn.results.clip_export:FrameRenderer.draw"
    done = start_command(words, tmp_path, signal_at_call(drawing, 20, number)).completed()
    assert done.returncode == (143 if number == signal.SIGTERM else -number), done.stderr
    left = [path.relative_to(out).as_posix() for path in out.rglob("*.mp4")]
    if number == signal.SIGKILL:
        (file,) = left
        assert file.startswith(".draft-")
    else:
        assert list(out.iterdir()) == []


# The browser

PAGE = """<!doctype html><video id=v src=heatmap.mp4 muted></video><script>
const v = document.getElementById('v'), playback = {times: []};
v.onerror = () => { playback.error = v.error.message; done(); };
v.onloadedmetadata = () => {
  playback.size = [v.videoWidth, v.videoHeight]; playback.duration = v.duration; v.playbackRate = 8; v.play();
};
v.ontimeupdate = () => playback.times.push(v.currentTime);
v.onended = () => {
  const c = document.createElement('canvas'); c.width = v.videoWidth; c.height = v.videoHeight;
  const x = c.getContext('2d'); x.drawImage(v, 0, 0);
  playback.last = Array.from(x.getImageData(0, 0, c.width, c.height).data);
  done();
};
function done() { document.title = 'done'; window.playback = playback; }
</script>"""


@pytest.mark.browser
def test_it_plays_in_a_real_browser(result, saved, tmp_path, chromium):
    shutil.copy(saved / "heatmap.mp4", tmp_path)
    (tmp_path / "index.html").write_text(PAGE)
    handler = partial(_Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        page.wait_for_function("document.title === 'done'", timeout=PATIENCE_S * 1000)
        playback = page.evaluate("window.playback")
    finally:
        server.shutdown()
        server.server_close()
    exported = frames_of(saved / "heatmap.mp4")
    assert "error" not in playback
    assert playback["duration"] == pytest.approx(result.media[0].clip.end_s, abs=0.02)
    height, width, _ = exported[-1][1].shape
    assert playback["size"] == [width, height]
    assert all(a <= b for a, b in pairwise(playback["times"]))
    last_frame = np.array(playback["last"], dtype=np.uint8).reshape(height, width, 4)[..., :3]
    assert np.abs(last_frame.astype(int) - exported[-1][1].astype(int)).mean() < 4, "the browser shows the same colours"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_the_command_reads_its_result_back(saved, result):
    assert Result.load(saved).answer == result.answer


def test_a_group_that_is_the_headline_is_drawn_once(demo, clip_file):
    answered = demo.ask_video(clip_file(4), QUESTION)
    assert [line.label for line in lines(answered)] == ["layer 0", "layer 1", "layer 3", "headline: layer 2"]
