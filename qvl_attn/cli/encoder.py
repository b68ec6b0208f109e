"""`qvl-attn encoder`: attention of a vision encoder, without a question."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import typer

from qvl_attn.cli import completion, options
from qvl_attn.cli.console import find_encoder, go_offline, handle_errors, printed_log
from qvl_attn.cli.options import DEFAULT_MODEL, MAPS, MODEL, OUTPUT, Cells, Colors, DtypeName, OverHeads, drawing_of
from qvl_attn.cli.output import print_folder_run, print_results
from qvl_attn.cli.progress import progress_bars
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import shortened

MAX_COORDINATE_PX = 1e6
# Options without effect on a run over a folder of pictures, of which none is drawn.
DRAWN_OPTIONS = (
    *("colormap", "alpha", "interp", "denoise", "blur_cells", "scale", "top_percent", "draw_size"),
    *("smooth", "side_by_side", "fps", "max_frames", "start_s", "end_s", "source_fps"),
)


def encoder(
    ctx: typer.Context,
    media: Annotated[
        list[str] | None,
        typer.Argument(metavar="MEDIA", help="Pictures, clips, or folders of numbered frames (each one a clip)."),
    ] = None,
    input_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="In place of MEDIA: a folder of pictures. Gives the mean and spread of each figure. Sub-folders are "
            "classes. Name a folder for the run with --out.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Hugging Face id or local folder of a Qwen2.5-VL, CLIP, SigLIP, ViT, DINO or DINOv2. 'demo' is the "
            "embedded model.",
            autocompletion=completion.models,
            rich_help_panel=MODEL,
        ),
    ] = DEFAULT_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = DtypeName.auto,
    offline: options.Offline = False,
    min_pixels: options.MinPixels = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Shrink larger pictures to at most this many pixels. An encoder of square inputs then gets the whole "
            "picture in its own proportions, with interpolated positions.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    stretch: options.Stretch = False,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y",
            help="Show where the patch at this pixel of the picture looks, and which patches are similar to it. Can be "
            "repeated.",
            rich_help_panel=MAPS,
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Draw the heads of this layer one by one. Default: the last.", rich_help_panel=MAPS
        ),
    ] = None,
    over: Annotated[
        OverHeads, typer.Option(help="How the map of a layer combines its heads.", rich_help_panel=MAPS)
    ] = OverHeads.mean,
    embeddings: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Project the patches: pca, tsne or pca,tsne (pip install 'qvl-attn\\[embeddings]').",
            rich_help_panel=MAPS,
        ),
    ] = None,
    saliency: Annotated[
        bool,
        typer.Option(
            "--saliency",
            help="Grad-CAM and attention x gradient, for a class (--label) or a text (--text).",
            rich_help_panel=MAPS,
        ),
    ] = False,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help='With --saliency, for CLIP and SigLIP: a text such as "a photo of a cat". Can be repeated.',
            rich_help_panel=MAPS,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="With --saliency: a class, by name or number. Default: the most likely class.",
            rich_help_panel=MAPS,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of t-SNE.", callback=options.seed_of(32), rich_help_panel=MAPS)
    ] = 0,
    fps: options.Fps = 2.0,
    max_frames: options.MaxFrames = 64,
    start_s: options.Start = 0.0,
    end_s: options.End = None,
    source_fps: options.SourceFps = 24.0,
    scale: options.Scale = None,
    smooth: options.Smooth = False,
    side_by_side: options.SideBySide = False,
    colormap: options.Colormap = Colors.inferno,
    alpha: options.Alpha = 0.5,
    interp: options.Interp = Cells.linear,
    denoise: options.Denoise = None,
    blur_cells: options.Blur = 0.0,
    top_percent: options.TopPercent = 100.0,
    draw_size: options.DrawSize = "1280",
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Folder for the results. With --input-dir: the folder of the run.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("qvl-attn-out"),
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only the folders, or only the JSON.", rich_help_panel=OUTPUT)
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Show where a vision encoder looks in a picture: each layer, each head, each patch. No question is asked.

    qvl-attn encoder cats.png --model openai/clip-vit-large-patch14-336
    """
    with handle_errors(debug=debug), progress_bars(enabled=not quiet) as progress, printed_log(quiet=quiet):
        if offline:
            go_offline()
        if bool(media) == (input_dir is not None):
            raise InputError(
                "pictures and --input-dir: give one, not both" if media else "no picture",
                "qvl-attn encoder cats.png, or --input-dir photos/",
            )
        points = tuple(_parse_point(value) for value in at or [])
        # Imported here, so that --help need not wait for numpy.
        from qvl_attn.encoders.embedding import check_available
        from qvl_attn.encoders.folder_pictures import list_pictures
        from qvl_attn.encoders.record import EncoderOptions, with_options
        from qvl_attn.encoders.session import encoded, find_saved, request
        from qvl_attn.media.image import moves
        from qvl_attn.media.sampling import ClipOptions, ClipSettings
        from qvl_attn.model.placement import EncoderLoadOptions
        from qvl_attn.results.session import Saving

        projections = [name.strip() for name in embeddings.split(",")] if embeddings else []
        parsed = {"at": points, "embeddings": projections, "texts": text or ()}
        settings = with_options(None, {**options.typed(ctx, EncoderOptions), **parsed})
        clip_settings = ClipSettings(**options.typed(ctx, ClipOptions))
        moving = [moves(path) for path in media or []]
        drawing = drawing_of(ctx, pictures=not all(moving) or not moving, clips=any(moving) or not moving)
        if embeddings:
            check_available()
        if input_dir is not None:
            options.refuse(ctx, DRAWN_OPTIONS, "is for single pictures and clips, not for --input-dir")
            if overwrite:
                raise InputError("--overwrite: a run over a folder is continued, not replaced", "name another --out")
            list_pictures(input_dir, out)
        alone = len(moving) == 1
        requests = [request(path, settings, clip_settings, keep=alone) for path in media or []]
        if moving and not any(moving):
            options.refuse(ctx, ("start_s", "end_s"), "is for clips, and no clip is given")
        if media and not any(os.path.isdir(path) for path in media):  # noqa: PTH112
            options.refuse(ctx, ("source_fps",), "is for a folder of frames, and none is given")
        if moving and all(moving):
            options.refuse(ctx, ("stretch",), "is for pictures, and no picture is given")
        saving = Saving(out, drawing, overwrite)
        if input_dir is not None:
            _check_run_folder(ctx, out)
        load_options = options.typed(ctx, EncoderLoadOptions)
        results = find_saved(requests, saving, model, **load_options)
        if results is None or input_dir is not None:
            engine = find_encoder(model, bars=not quiet, **load_options).engine
            if input_dir is not None:
                from qvl_attn.encoders.folder_run import encode_folder

                summary = encode_folder(engine, input_dir, out, settings, progress)
                print_folder_run(summary, out, as_json=as_json, quiet=quiet)
                return
            results = encoded(engine, requests, saving, progress=progress)
        print_results(results, as_json=as_json, quiet=quiet)


def _check_run_folder(ctx: typer.Context, out: Path) -> None:
    """Check that a run can begin or continue in `--out`.

    Raises:
        InputError: the folder holds something else.
    """
    from qvl_attn.results.run_folder import check_begun

    try:
        check_begun(out)
    except InputError:
        source = ctx.get_parameter_source("out")
        default = ", where results go without --out," if source is not None and source.name == "DEFAULT" else ""
        raise InputError(
            f"--out {out}{default} holds something other than a run over a folder",
            "name a new folder for the run: --out runs/photos",
        ) from None


def _parse_point(typed: str) -> tuple[float, float]:
    """Parse `x,y`.

    Raises:
        InputError: not two numbers, or numbers that no picture has.
    """
    try:
        x, y = (float(value) for value in typed.split(","))
    except ValueError:
        x = y = math.nan
    if not (abs(x) < MAX_COORDINATE_PX and abs(y) < MAX_COORDINATE_PX):
        raise InputError(f"--at {shortened(typed)}: want x,y in pixels of the picture", "such as --at 320,240")
    return x, y
