"""`qvl-attn video`: questions about a clip."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import find_model, go_offline, handle_errors, printed_log
from qvl_attn.cli.options import (
    CLIP,
    DEFAULT_MODEL,
    MODEL,
    AttnMode,
    Cells,
    Colors,
    DtypeName,
    HeadDtype,
    drawing_of,
)
from qvl_attn.cli.output import print_results, read_questions
from qvl_attn.cli.progress import progress_bars


class Mode(StrEnum):
    """How a clip is put into prompts."""

    clip = "clip"
    frames = "frames"
    both = "both"


def video(
    ctx: typer.Context,
    media: Annotated[
        str,
        typer.Argument(
            metavar="MEDIA", help="A clip: MP4, MOV, MKV, WebM, AVI, GIF, WebP, or a folder of numbered frames."
        ),
    ],
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION", help="One or more questions about the clip.")
    ] = None,
    prompts: options.Prompts = None,
    fps: options.Fps = 2.0,
    max_frames: options.MaxFrames = 64,
    start_s: options.Start = 0.0,
    end_s: options.End = None,
    source_fps: options.SourceFps = 24.0,
    mode: Annotated[
        Mode,
        typer.Option(
            help="clip: all frames in one prompt. frames: a prompt for each frame. both: both.", rich_help_panel=CLIP
        ),
    ] = Mode.clip,
    window: Annotated[
        int,
        typer.Option(metavar="N", help="Sampled frames in each prompt. 0: all in one prompt.", rich_help_panel=CLIP),
    ] = 0,
    stride: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Sampled frames from the start of one window to the start of the next. 0: half a window.",
            rich_help_panel=CLIP,
        ),
    ] = 0,
    model: options.Model = DEFAULT_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = DtypeName.auto,
    attn: options.Attn = AttnMode.auto,
    offline: options.Offline = False,
    system: options.System = None,
    min_pixels: options.MinPixels = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Frames are resized to at most this many pixels, at most 602112. Default: 151200.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    max_new_tokens: options.MaxNewTokens = 128,
    seed: options.Seed = 0,
    query: options.Query = None,
    profile: options.Profile = None,
    method: options.Method = None,
    layers: options.Layers = None,
    heads: options.Heads = None,
    store_heads: options.StoreHeads = HeadDtype.float32,
    answer: options.Answer = None,
    scale: options.ClipScale = None,
    smooth: options.Smooth = False,
    side_by_side: options.SideBySide = False,
    colormap: options.Colormap = Colors.inferno,
    alpha: options.Alpha = 0.5,
    interp: options.Interp = Cells.linear,
    denoise: options.Denoise = None,
    blur_cells: options.Blur = 0.0,
    top_percent: options.TopPercent = 100.0,
    draw_size: options.DrawSize = "1280",
    out: options.Out = Path("qvl-attn-out"),
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Ask questions about a clip and draw where and when each layer looked.

    qvl-attn video clip.mp4 "what is the man holding?" --fps 2
    """
    with handle_errors(debug=debug), progress_bars(enabled=not quiet) as progress, printed_log(quiet=quiet):
        if offline:
            go_offline()
        example, instead = 'qvl-attn video MEDIA "what is the man holding?"', "one clip at a time: run it again for {}"
        texts = read_questions(questions or [], prompts, example, instead)
        # Imported here, so that --help and a mistyped path need not wait for numpy.
        from qvl_attn.attribution.settings import QuestionOptions
        from qvl_attn.media.sampling import ClipOptions, ClipSettings, plan_frames
        from qvl_attn.media.video import open_clip
        from qvl_attn.model.placement import LoadOptions
        from qvl_attn.results.session import Saving
        from qvl_attn.vqa.session import answered_clip, find_saved

        clip_settings = ClipSettings(**options.typed(ctx, ClipOptions))
        video = open_clip(media, source_fps)
        if not os.path.isdir(media):  # noqa: PTH112
            options.refuse(ctx, ("source_fps",), "is for a folder of frames, and this clip is a file")
        plan_frames(video, clip_settings)
        saving = Saving(out, drawing_of(ctx, pictures=False, clips=True), overwrite)
        load_options, typed = options.typed(ctx, LoadOptions), options.typed(ctx, QuestionOptions)
        results = find_saved([video], texts, saving, {**typed, "clip": clip_settings}, model, **load_options)
        if results is None:
            engine = find_model(model, bars=not quiet, **load_options).engine
            settings = engine.settings(**typed, clip=clip_settings)
            results = answered_clip(engine, video, texts, settings, saving, progress=progress)
        print_results(results, as_json=as_json, quiet=quiet)
