"""Measures drawing and encoding of a heat-map video, compared with matplotlib, and the memory for a long clip.

`python scripts/benchmarks/video.py` exports the heat-map video (`film`) of a 720p clip (drawn, or named with --clip)
from a result of the embedded model: decoding, drawing and encoding together, each of them alone, and the same frames
with matplotlib's `imshow` of picture and map, drawn but not encoded. `--minutes 10` exports a clip of that length, and
prints the additional memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import measuring
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qvl_attn import Analyzer, Drawing
from qvl_attn.core.runtime import Stages
from qvl_attn.media.mp4 import write_mp4
from qvl_attn.media.video import open_clip
from qvl_attn.render.video_frame import FrameRenderer
from qvl_attn.results.clip_export import PRESET, QUALITY, export_frames
from qvl_attn.vqa.result import Result
from qvl_attn.vqa.timeline import frame_overlay

SIZE_PX, FPS = (1280, 720), 25


def moving_frames(count: int) -> Iterator[tuple[np.ndarray, float]]:
    """Yield frames of a window that moves over noise of all scales, like a camera over a scene."""
    rng = np.random.default_rng(0)
    width, height = SIZE_PX
    large = (width + 400, height + 400)
    octaves = [cv2.resize(rng.normal(0, 2.0**-i, (3 * 2**i, 4 * 2**i, 3)), large) for i in range(9)]
    scene = np.clip(128 + 60 * sum(octaves), 0, 255).astype(np.uint8)
    for i in range(count):
        x, y = int(200 + 199 * np.sin(i / 40)), int(200 + 199 * np.cos(i / 53))
        yield scene[y : y + height, x : x + width], i / FPS


def seconds_of(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def decode(path: Path) -> list[np.ndarray]:
    return [pixels(None) for _, pixels in open_clip(path).frames(0)]


def with_matplotlib(frames: list[np.ndarray], values: np.ndarray) -> None:
    """Draw picture and map in one figure, one canvas per frame, as notebooks do."""
    figure = Figure(figsize=(SIZE_PX[0] / 100, SIZE_PX[1] / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    for frame in frames:
        figure.clear()
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(frame)
        axes.imshow(values, cmap="inferno", alpha=0.5, extent=(0, SIZE_PX[0], SIZE_PX[1], 0), interpolation="bilinear")
        axes.set_axis_off()
        canvas.draw()
        np.asarray(canvas.buffer_rgba())


def draw_frames(result: Result, drawing: Drawing, frames: list[np.ndarray], times_s: np.ndarray) -> list[np.ndarray]:
    renderer = FrameRenderer(frame_overlay(result, result.heatmap(), ("caption",)), result.media[0].size_px, drawing)
    sampled = set(result.media[0].clip.frame_indices)
    return [
        renderer.draw(frame, float(time_s), sampled=i in sampled)
        for i, (frame, time_s) in enumerate(zip(frames, times_s, strict=True))
    ]


def speeds(result: Result, path: Path, repeats: int, smooth: bool) -> dict[str, float]:
    """Return the best speed of each part over `repeats` runs, in frames per second."""
    drawing = Drawing(smooth=smooth)
    frames, times_s = decode(path), open_clip(path).times_s
    drawn_frames = draw_frames(result, drawing, frames, times_s)
    first_frames = frames[:40]
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:

        def export() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                overlay = frame_overlay(result, result.heatmap(), ("caption",))
                export_frames(Path(out), result.media[0], None, overlay, drawing, lambda *values: None)

        def encode() -> None:
            write_mp4(
                Path(folder) / "a.mp4",
                zip(drawn_frames, times_s.tolist(), strict=True),
                float(times_s[-1]) + 1 / FPS,
                rate_fps=FPS,
                quality=QUALITY,
                preset=PRESET,
            )

        parts = {
            "film": (export, len(frames)),
            "decoding alone": (lambda: decode(path), len(frames)),
            "drawing alone": (lambda: draw_frames(result, drawing, frames, times_s), len(frames)),
            "encoding alone": (encode, len(frames)),
            "matplotlib, drawing alone": (
                lambda: with_matplotlib(first_frames, result.heatmap().values[0]),
                len(first_frames),
            ),
        }
        for _ in range(repeats):
            for name, (work, count) in parts.items():
                best[name] = max(best.get(name, 0.0), count / seconds_of(work))
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a 720p clip; drawn if not given")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the drawn clip")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="measure the memory of a clip of this length instead"
    )
    parser.add_argument("--smooth", action="store_true", help="interpolate the maps in time between sampled frames")
    parser.add_argument("--repeats", type=int, default=3)
    measuring.add_write_option(parser, "video")
    options = parser.parse_args(arguments)
    analyzer = Analyzer.load("demo", dtype="float32", device="cpu")
    _ = analyzer.engine.model
    with tempfile.TemporaryDirectory() as folder:
        path = options.clip or Path(folder) / "clip.mp4"
        if options.clip is None:
            count = int((options.minutes * 60 or options.seconds) * FPS)
            write_mp4(path, moving_frames(count), count / FPS, rate_fps=FPS, preset="ultrafast", quality=23)
        stages = Stages()
        with stages.stage("ask"):
            result = analyzer.ask_video(path, "what moves?", max_frames=8, max_pixels=100_000, max_new_tokens=2)
        if options.minutes:
            with stages.stage("film"):
                result.save(Path(folder) / "out")
            frames = result.media[0].clip.decoded_frames
            figures = {
                "frames": frames,
                "film_frames_per_s": round(frames / stages.seconds["film"]),
                **{
                    f"{name}_beyond_MiB": (peak["host"] - peak["before"]) >> 20
                    for name, peak in stages.peak_bytes.items()
                },
            }
        else:
            best = speeds(result, path, options.repeats, options.smooth)
            figures = {name: round(value) for name, value in best.items()}
            figures["drawing over matplotlib's"] = round(best["drawing alone"] / best["matplotlib, drawing alone"])
        print(json.dumps(figures, indent=1))
        measuring.write_figures(options.write, "video", arguments, figures)


if __name__ == "__main__":
    main()
