"""Clips of every container, with sound and titles: their index, and frames from the beginning or the middle."""

from __future__ import annotations

import random
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path

import av
import numpy as np

from qvl_attn.media.sampling import ClipSettings, plan_frames
from qvl_attn.media.video import open_clip, sample_clip
from tests.helpers.mutations import mutate_bytes, mutate_numbers
from tests.helpers.silence import silent

NAME = "clips"
QUICK_INPUTS = 150
FPS, FRAMES, SIZE_PX = 25, 12, (48, 32)
# name: (container, codec, options, width over height of a pixel)
KINDS = {
    "a.mp4": ("mp4", "libx264", {"bf": "2", "g": "5"}, 1),
    "faststart.mp4": ("mp4", "mpeg4", {"bf": "1", "g": "4"}, Fraction(4, 3)),
    "a.mov": ("mov", "mjpeg", {}, 1),
    "a.mkv": ("matroska", "libx264", {"bf": "2", "g": "5"}, Fraction(3, 4)),
    "a.webm": ("webm", "libvpx", {"g": "5"}, 1),
    "vp9.webm": ("webm", "libvpx-vp9", {"g": "5", "deadline": "realtime"}, 1),
    "a.avi": ("avi", "mpeg4", {"bf": "2", "g": "5"}, 1),
    "jpeg.avi": ("avi", "mjpeg", {}, 1),
    "a.flv": ("flv", "flv1", {"g": "5"}, 1),
    "a.ts": ("mpegts", "mpeg2video", {"bf": "2", "g": "5"}, 1),
    "h264.ts": ("mpegts", "libx264", {"bf": "2", "g": "5"}, 1),
    "a.mpg": ("mpeg", "mpeg1video", {"g": "5"}, 1),
    "a.wmv": ("asf", "wmv2", {"g": "5"}, 1),
}
SOUND = {"mp4": "aac", "matroska": "aac", "mpegts": "mp2", "mpeg": "mp2"}


@cache
def seed(name: str) -> bytes:
    """Return a small valid clip."""
    container, codec, options, aspect = KINDS[name]
    stream = BytesIO()
    with av.open(stream, "w", format=container) as target:
        target.metadata["title"] = "cats"
        video = target.add_stream(codec, rate=FPS)
        video.width, video.height = SIZE_PX
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.options = options
        video.codec_context.sample_aspect_ratio = Fraction(aspect)
        sound = target.add_stream(SOUND[container], rate=44100) if container in SOUND else None
        for i in range(FRAMES):
            pixels = np.full((SIZE_PX[1], SIZE_PX[0], 3), 20 * i, np.uint8)
            pixels[:, : 4 * i] = (200, 30, 90)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=video.pix_fmt)
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            target.mux(video.encode(frame))
        target.mux(video.encode())
        if sound is not None:
            silence = np.zeros((1, 2 * 4608), np.int16)
            samples = av.AudioFrame.from_ndarray(silence, format="s16", layout="stereo")
            samples.rate, samples.pts = 44100, 0
            target.mux(sound.encode(samples))
            target.mux(sound.encode())
    return stream.getvalue()


def try_one(rng: random.Random, folder: Path) -> None:
    name = rng.choice(list(KINDS))
    path = folder / (name if rng.random() < 0.9 else rng.choice(list(KINDS)))
    path.write_bytes(rng.choice((mutate_bytes, mutate_numbers))(rng, seed(name)))
    settings = ClipSettings(
        fps=rng.choice((2, 12.5, 25)), max_frames=rng.choice((2, 8, 64)), start_s=rng.choice((0, 0, 0.2))
    )
    with silent():
        video = open_clip(path)
        media = sample_clip(video, plan_frames(video, settings), lambda frame: frame)
    assert media.frames.dtype == np.uint8
    assert media.frames.shape[1:3] == media.size_px[::-1]
    assert len(media.frames) == len(media.times_s) <= settings.max_frames
    assert np.all(np.isfinite(media.times_s))
    assert np.all(np.diff(media.times_s) >= 0)
    assert all(note.isprintable() for note in media.notes), media.notes
