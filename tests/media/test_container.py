"""Faulty containers: inaccurate seeking, wrong timestamps, packets without frames, frames above the header's size."""

from __future__ import annotations

import errno
from fractions import Fraction
from io import BytesIO, FileIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from qvl_attn.core.errors import InputError
from qvl_attn.media import container
from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import open_clip, sample_clip
from tests.conftest import CLIP_FPS, numbered_frames

COUNT = 40


def write(
    path: Path, codec: str, *, options=None, size_px=(160, 120), pix_fmt="yuv420p", fps=CLIP_FPS, count=COUNT, aspect=0
):
    with av.open(str(path), "w") as target:
        stream = target.add_stream(codec, rate=fps)
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        stream.width, stream.height, stream.pix_fmt, stream.options = *size_px, pix_fmt, options or {}
        for i, pixels in enumerate(numbered_frames(count, size_px)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = i, Fraction(1, fps)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return path


def sample(path, **settings):
    video = open_clip(path)
    return sample_clip(video, plan_frames(video, ClipSettings(**settings)), lambda frame: frame)


OPEN_GOP = {"bf": "2", "g": "10", "x264-params": "open-gop=1:scenecut=0"}
HEVC = {"x265-params": "log-level=none:keyint=10:bframes=3:open-gop=1"}


@pytest.mark.parametrize(
    ("name", "codec", "options", "fps"),
    [
        ("a.mp4", "libx264", OPEN_GOP, 10),
        ("a.ts", "libx264", {"bf": "2", "g": "10"}, 10),
        ("a.flv", "libx264", {"bf": "2", "g": "10"}, 10),
        ("a.mkv", "libx264", OPEN_GOP, 10),
        ("h.mp4", "libx265", HEVC, 10),
        ("h.ts", "libx265", HEVC, 10),
        ("a.mpg", "mpeg2video", {"bf": "2", "g": "10"}, 25),
        ("a.avi", "mpeg4", {"bf": "2", "g": "10"}, 10),
        ("a.wmv", "wmv2", {"g": "10"}, 10),
        ("a.webm", "libvpx", {"g": "10"}, 10),
    ],
)
def test_beginning_anywhere_gives_the_same_frames(tmp_path, name, codec, options, fps):
    video = open_clip(write(tmp_path / name, codec, options=options, fps=fps))
    whole = {number: pixels(None) for number, pixels in video.frames(0) if pixels}
    assert list(whole) == list(range(COUNT))
    for first in range(1, COUNT, 3):
        number, pixels = next((number, pixels) for number, pixels in video.frames(first) if pixels)
        assert number == first
        assert np.array_equal(pixels(None), whole[first])


def test_avi_with_decoding_timestamps(tmp_path):
    path = write(tmp_path / "b.avi", "libx264", options={"bf": "3"})
    media = sample(path, fps=CLIP_FPS)
    assert media.clip.frame_indices == tuple(range(COUNT))
    assert media.clip.skipped_s == ()
    for i, pixels in enumerate(numbered_frames(COUNT, (160, 120))):
        assert np.abs(media.frames[i].astype(int) - pixels.astype(int)).mean() < 8


def test_packets_that_only_prepare_others_are_not_missing_frames(tmp_path):
    """VP8 has frames that are not shown: here the header of one frame in eight says so."""
    path = write(tmp_path / "a.webm", "libvpx", options={"auto-alt-ref": "0"})
    with av.open(str(path)) as source:
        packets = [(bytes(packet)[:8], packet.size) for packet in source.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for head, _ in packets[5::8]:
        data[data.index(head)] &= ~0x10
    path.write_bytes(data)
    media = sample(path, fps=CLIP_FPS)
    assert media.clip.decoded_frames == COUNT - len(packets[5::8])
    assert media.clip.skipped_s == ()


def test_an_unknown_codec(clip_file):
    path = clip_file(5)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xyz1"))
    with pytest.raises(InputError, match="has a codec that cannot be decoded here"):
        open_clip(path)


def test_frames_that_are_larger_than_the_header_says_are_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 100_000)
    with av.open(str(tmp_path / "bomb.mkv"), "w") as target:
        stream = target.add_stream("mjpeg", rate=CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for packet in stream.encode(av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24")):
            target.mux(packet)
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height, encoder.pix_fmt = 1000, 800, "yuvj420p"
        encoder.time_base = Fraction(1, CLIP_FPS)
        for i, pixels in enumerate(numbered_frames(9, (1000, 800)), 1):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = i, Fraction(1, CLIP_FPS)
            for packet in encoder.encode(frame):
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(InputError, match="9 of 10 frames cannot be decoded"):
        sample(tmp_path / "bomb.mkv")
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(InputError, match="the limit is 1,000"):
        open_clip(tmp_path / "bomb.mkv")


def test_a_size_that_changes_is_an_error(tmp_path):
    first = write(tmp_path / "1.ts", "mpeg2video", fps=25).read_bytes()
    second = write(tmp_path / "2.ts", "mpeg2video", size_px=(64, 160), fps=25).read_bytes()
    (tmp_path / "both.ts").write_bytes(first + second)
    with pytest.raises(InputError, match="has 64x160 pixels, those before it 160x120"):
        sample(tmp_path / "both.ts")


@pytest.mark.parametrize(
    ("name", "codec", "size_px", "aspect", "shown_px"),
    [
        ("pal.ts", "mpeg2video", (720, 576), "16/15", (768, 576)),
        ("anamorphic.mp4", "libx264", (1440, 1080), "4/3", (1920, 1080)),
        ("a.mkv", "libx264", (160, 120), "4/3", (213, 120)),
        ("a.avi", "mpeg4", (160, 120), "3/4", (160, 160)),
        ("a.mp4", "mpeg4", (160, 120), "1/2", (160, 240)),
    ],
)
def test_pixels_that_are_not_square_are_shown_as_players_show_them(tmp_path, name, codec, size_px, aspect, shown_px):
    path = write(tmp_path / name, codec, size_px=size_px, aspect=aspect, fps=25, count=4)
    media = sample(path, fps=25)
    with av.open(str(path)) as source:  # FFmpeg's own arithmetic, rounded to a pixel
        display_aspect = float(source.streams.video[0].display_aspect_ratio)
    assert media.size_px == shown_px
    assert abs(media.size_px[0] / media.size_px[1] / display_aspect - 1) <= 1 / min(shown_px)
    assert media.frames.shape[1:3] == shown_px[::-1]
    # A bar that covers three quarters of the stored frame covers three quarters of what is shown.
    edge = np.flatnonzero(media.frames[2, shown_px[1] // 2, :, 0] > 120).max() + 1
    assert abs(edge - 0.75 * shown_px[0]) <= 3
    assert media.notes == (
        f"its pixels are not square ({aspect.replace('/', ':')}): {size_px[0]}x{size_px[1]} are shown as "
        f"{shown_px[0]}x{shown_px[1]}, as players do",
    )


def test_pixels_that_are_not_square_are_turned_with_the_frame(tmp_path):
    path = write(tmp_path / "a.mp4", "libx264", aspect="4/3", count=4)
    plain = sample(path, fps=CLIP_FPS)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    one, zero = (65536).to_bytes(4, "big", signed=True), bytes(4)
    data[place : place + 20] = zero + one + zero + (-65536).to_bytes(4, "big", signed=True) + zero
    path.write_bytes(data)
    turned = sample(path, fps=CLIP_FPS)
    assert (plain.size_px, turned.size_px) == ((213, 120), (120, 213))
    assert np.array_equal(turned.frames[1], np.rot90(plain.frames[1], -1))


def test_maps_and_boxes_lie_on_what_is_shown(demo, tmp_path):
    path = write(tmp_path / "a.mp4", "libx264", size_px=(140, 168), aspect="8/5", count=6)
    result = demo.ask_video(path, "what moves?", fps=CLIP_FPS)
    grid = result.capture.grids[0]
    assert result.media[0].size_px == (224, 168)
    assert grid.shape[1:] == (6, 8)
    assert grid.boxes_px[0].tolist() == [0, 0, 28, 28]
    assert grid.boxes_px[-1].tolist() == [196, 140, 224, 168]


def test_a_shape_of_pixels_that_changes_is_an_error(tmp_path):
    parts = [write(tmp_path / f"{i}.ts", "mpeg2video", aspect=aspect, fps=25) for i, aspect in enumerate(("1", "4/3"))]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(InputError, match=r"from about 1\.[56] s on its pixels have another shape \(4/3, before 1\)"):
        sample(tmp_path / "both.ts")
    assert sample(tmp_path / "both.ts", end_s=1.2).size_px == (160, 120)


@pytest.mark.parametrize("aspect", ["1/1", "0", "1000/1001"])
def test_pixels_that_are_square_or_nearly(tmp_path, aspect):
    media = sample(write(tmp_path / "a.mp4", "libx264", aspect=aspect, count=2))
    assert (media.size_px, media.notes) == ((160, 120), ())


def test_joined_clips_are_counted_and_noted(tmp_path):
    data = write(tmp_path / "1.ts", "libx264").read_bytes()
    (tmp_path / "twice.ts").write_bytes(data + data)
    media = sample(tmp_path / "twice.ts", fps=CLIP_FPS, max_frames=2 * COUNT)
    assert media.clip.decoded_frames == 2 * COUNT
    assert any("times start again" in note for note in media.notes)


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
        ((1, 0, 0, -1), lambda frame: frame[::-1]),
        ((-1, 0, 0, -1), lambda frame: frame[::-1, ::-1]),
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
        ((0, -1, 1, 0), lambda frame: np.rot90(frame)),
        ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
    ],
)
def test_every_display_matrix_is_applied(clip_file, matrix, turned):
    """The display matrix of the track header is overwritten."""
    path = clip_file(5)
    plain = sample(path, fps=CLIP_FPS).frames[2]
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = (int(value * 65536).to_bytes(4, "big", signed=True) for value in matrix)
    zero, w = bytes(4), (1 << 30).to_bytes(4, "big")
    data[place : place + 36] = a + b + zero + c + d + zero + zero + zero + w
    path.write_bytes(data)
    media = sample(path, fps=CLIP_FPS)
    expected = turned(plain)
    assert media.size_px == expected.shape[1::-1]
    assert np.array_equal(media.frames[2], expected)
    assert "turned upright" in media.notes[0]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_jpeg_frames_with_exif_as_cameras_write_them(tmp_path, orientation):
    """PyAV does not know EXIF among the side data of a frame. Pillow's turned picture is the reference."""
    exif, streams = Image.Exif(), []
    exif[ExifTags.Base.Orientation] = orientation
    with av.open(str(tmp_path / "a.mkv"), "w") as target:
        stream = target.add_stream("mjpeg", rate=CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for i, pixels in enumerate(numbered_frames(4)):
            streams.append(BytesIO())
            Image.fromarray(pixels).save(streams[-1], format="JPEG", exif=exif, quality=95)
            packet = av.Packet(streams[-1].getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, CLIP_FPS)
            target.mux(packet)
    media = sample(tmp_path / "a.mkv", fps=CLIP_FPS)
    expected = ImageOps.exif_transpose(Image.open(streams[2]))
    assert media.size_px == expected.size
    assert np.abs(media.frames[2].astype(int) - np.asarray(expected)).mean() < 4


def test_longer_sound_is_not_an_error(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as target:
        stream = target.add_stream("libx264", rate=CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = target.add_stream("aac", rate=44100)
        for pixels in numbered_frames(10):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        target.mux(stream.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100 * 8), np.float32), format="fltp", layout="mono")
        silence.rate = 44100
        target.mux(sound.encode(silence))
        target.mux(sound.encode())
    assert sample(tmp_path / "a.mkv").notes == ()


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv"])
def test_metadata_in_another_encoding(tmp_path, name):
    """The title and the name of the stream are Latin-1."""
    with av.open(str(tmp_path / name), "w") as target:
        target.metadata["title"] = "Ete a la mer"
        stream = target.add_stream("mpeg4", rate=CLIP_FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["title"] = "Ete a la mer"
        for pixels in numbered_frames(4):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        target.mux(stream.encode())
    data = (tmp_path / name).read_bytes()
    assert b"Ete a la mer" in data
    (tmp_path / name).write_bytes(data.replace(b"Ete a la mer", "Été à la mer".encode("latin-1")))
    assert sample(tmp_path / name).clip.decoded_frames == 4


@pytest.mark.parametrize("size", [2**63 - 50, 2**63 - 1, 2**64 - 1])
def test_a_place_that_no_file_has_prints_nothing(tmp_path, capfd, size):
    """Each object of an ASF header in turn says that it ends beyond all files, and FFmpeg seeks there."""
    data, place, errors = write(tmp_path / "a.wmv", "wmv2", count=4).read_bytes(), 30, 0
    while data[place : place + 4] != b"6&\xb2u":  # the data follow the header
        broken = bytearray(data)
        broken[place + 16 : place + 24] = size.to_bytes(8, "little")
        (tmp_path / "broken.wmv").write_bytes(broken)
        try:
            sample(tmp_path / "broken.wmv")
        except InputError:
            errors += 1
        place += int.from_bytes(data[place + 16 : place + 24], "little")
    assert errors
    assert capfd.readouterr() == ("", "")


def test_a_disk_that_stops_answering_is_one_line(clip_file, monkeypatch, capfd):
    class Failing(FileIO):
        def readinto(self, buffer):
            if self.tell() >= 1024:
                raise OSError(errno.EIO, "Input/output error")
            return super().readinto(buffer[:512])

    path = clip_file(20)
    monkeypatch.setattr(container, "FileIO", Failing)
    with pytest.raises(InputError, match=r"clip.mp4( cannot be opened|: \d+ of \d+)"):
        sample(path)
    assert capfd.readouterr() == ("", "")


def test_the_decoder_gets_a_file_handle_and_the_whitelists(clip_file, monkeypatch):
    """PyAV gets an open file, the allowed demuxers, and no protocol."""
    calls, path = [], clip_file(4)
    real = av.open

    def record(file, mode, **options):
        calls.append((file, options))
        return real(file, mode, **options)

    monkeypatch.setattr(container.av, "open", record)
    sample(path)
    assert len(calls) >= 3
    for file, options in calls:
        assert not isinstance(file, (str, Path))
        assert options["options"] == {"format_whitelist": container.DEMUXERS, "protocol_whitelist": ""}
    assert not {"hls", "dash", "concat", "image2", "sdp", "applehttp"} & set(container.DEMUXERS.split(","))
