"""`qvl-attn encoder`: how the eye itself looks, before a question is asked."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import faults, find_encoder, go_offline, no_op, say
from qvl_attn.cli.options import DEFAULT_MODEL, DRAWING, MAPS, MODEL, OUTPUT, Cells, Colors, drawing_of
from qvl_attn.cli.output import print_encoder_result, print_folder_run
from qvl_attn.cli.progress import progress_bars
from qvl_attn.cli.video import ScaleChoice
from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import suppress_stderr

if TYPE_CHECKING:
    from qvl_attn.core.runtime import Progress
    from qvl_attn.core.types import Media
    from qvl_attn.encoder import Encoder
    from qvl_attn.encoders.record import EncoderSettings
    from qvl_attn.encoders.result import EncoderResult
    from qvl_attn.media.sampling import ClipSettings
    from qvl_attn.render.style import Drawing


class OverHeads(StrEnum):
    """How heads are joined."""

    mean = "mean"
    max = "max"
    min = "min"


# What a folder of pictures has no use for, and what pictures have none for.
OF_ONE = ("colormap", "alpha", "interp", "blur", "top_percent", "draw_size")
OF_CLIPS = ("scale", "smooth", "side_by_side", "fps", "max_frames", "start", "end", "source_fps")


def encoder(
    ctx: typer.Context,
    media: Annotated[
        list[str] | None,
        typer.Argument(metavar="MEDIA...", help="Pictures, clips, or folders of numbered frames (a clip each)."),
    ] = None,
    input_dir: Annotated[
        Path | None,
        typer.Option(help="A folder of pictures instead: figures with mean and spread. Its sub-folders are classes."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Id or folder of a Qwen2.5-VL, CLIP, SigLIP, ViT, DINO or DINOv2; 'demo' is embedded.",
            rich_help_panel=MODEL,
        ),
    ] = DEFAULT_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    min_pixels: options.MinPixels = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(
            help="Largest size a picture is resized to, in pixels. An encoder of squares then gets it whole and "
            "oblong, its positions interpolated.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y",
            help="Where the patch at this pixel looks, and what is like it; repeatable.",
            rich_help_panel=MAPS,
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="The layer whose heads are shown one by one. Default: the last.", rich_help_panel=MAPS),
    ] = None,
    over: Annotated[
        OverHeads, typer.Option(help="How heads are joined in the maps of layers.", rich_help_panel=MAPS)
    ] = OverHeads.mean,
    embeddings: Annotated[
        str | None,
        typer.Option(
            help="pca, tsne or pca,tsne of the patches (pip install 'qvl-attn\\[embeddings]').", rich_help_panel=MAPS
        ),
    ] = None,
    saliency: Annotated[
        bool,
        typer.Option(
            "--saliency", help="Grad-CAM and attention x gradient: for a class, or for --text.", rich_help_panel=MAPS
        ),
    ] = False,
    text: Annotated[
        list[str] | None,
        typer.Option(help='With --saliency, of CLIP and SigLIP: "a photo of a cat"; repeatable.', rich_help_panel=MAPS),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="With --saliency: a class, by name or number. Default: the likeliest.", rich_help_panel=MAPS),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of t-SNE.", min=0, max=2**31 - 1, rich_help_panel=MAPS)] = 0,
    fps: options.Fps = 2.0,
    max_frames: options.MaxFrames = 64,
    start: options.Start = 0.0,
    end: options.End = None,
    source_fps: options.SourceFps = 24.0,
    scale: Annotated[
        ScaleChoice, typer.Option(help="Of a clip: one scale, or one for each frame.", rich_help_panel=DRAWING)
    ] = ScaleChoice.clip,
    smooth: options.Smooth = False,
    side_by_side: options.SideBySide = False,
    colormap: options.Colormap = Colors.inferno,
    alpha: options.Alpha = 0.5,
    interp: options.Interp = Cells.linear,
    blur: options.Blur = 0.0,
    top_percent: options.TopPercent = 100.0,
    draw_size: options.DrawSize = "1280",
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the results; with --input-dir, of the run.", rich_help_panel=OUTPUT
        ),
    ] = Path("qvl-attn-out"),
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only the folders, or the JSON.", rich_help_panel=OUTPUT)
    ] = False,
    debug: options.Debug = False,
) -> None:
    """See how a vision encoder looks at a picture: each layer, each head, each patch. No question is asked.

    qvl-attn encoder cats.png --model openai/clip-vit-large-patch14-336
    """
    with faults(debug=debug), progress_bars(shown=not quiet) as progress:
        if offline:
            go_offline()
        if bool(media) == (input_dir is not None):
            raise InputError(
                "want pictures or --input-dir, and not both" if media else "no picture",
                "qvl-attn encoder cats.png, or --input-dir photos/",
            )
        points = tuple(_point(one) for one in at or [])
        # Imported here: --help and a mistyped word must not wait for torch.
        from qvl_attn.core.files import check_writable
        from qvl_attn.encoders.embedding import check_available
        from qvl_attn.encoders.folder_run import list_pictures
        from qvl_attn.encoders.record import EncoderSettings
        from qvl_attn.media.image import moves
        from qvl_attn.media.sampling import ClipSettings

        settings = EncoderSettings(
            at=points,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            layer=layer,
            over=over.value,
            embeddings=tuple(one.strip() for one in embeddings.split(",")) if embeddings else (),
            saliency=saliency,
            texts=tuple(text or ()),
            label=label,
            seed=seed,
        )
        how = ClipSettings(fps, max_frames, start, end, source_fps)
        drawing = drawing_of(
            colormap,
            interp,
            draw_size,
            alpha=alpha,
            blur_cells=blur,
            top_percent=top_percent,
            clip_scale=scale.value,
            smooth=smooth,
            side_by_side=side_by_side,
        )
        if embeddings:
            check_available()
        if input_dir is not None:
            _refuse(ctx, (*OF_ONE, *OF_CLIPS), "is for single pictures and clips, not for --input-dir")
            if overwrite:
                raise InputError("--overwrite: a run over a folder is gone on with, not replaced", "name another --out")
            list_pictures(input_dir, out)
        for one in media or []:
            _check_opens(one, how)
        if media and not any(moves(one) for one in media):
            _refuse(ctx, ("smooth", "side_by_side", "start", "end"), "is for clips, and there is none")
        check_writable(out)
        encoder = find_encoder(
            model,
            offline=offline,
            bars=not quiet,
            tell=no_op if quiet else say,
            revision=revision,
            device=device,
            dtype=dtype,
        )
        if input_dir is not None:
            from qvl_attn.encoders.folder_run import encode_folder

            summary = encode_folder(encoder, input_dir, out, settings, progress)
            print_folder_run(summary, out, as_json=as_json, quiet=quiet)
            return
        # Every fault of a picture that can be known before the weights are loaded. Pictures are large: none is kept.
        for one in media or []:
            if not moves(one):
                encoder.read(_picture(one), settings)
        for one in media or []:
            print_encoder_result(
                *_look(encoder, one, settings, how, drawing, out, progress, overwrite), as_json=as_json, quiet=quiet
            )


def _refuse(ctx: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Refuse options that would have no effect.

    Raises:
        InputError: one of them was given.
    """
    for name in names:
        source = ctx.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise InputError(f"--{name.replace('_', '-')} {why}", "leave it out")


def _point(typed: str) -> tuple[float, float]:
    """A place as it was typed.

    Raises:
        InputError: not two numbers.
    """
    try:
        x, y = (float(one) for one in typed.split(","))
    except ValueError:
        raise InputError(f"--at {typed}: want x,y in pixels of the picture", "such as --at 320,240") from None
    return x, y


def _picture(name: str) -> Media:
    from qvl_attn.media.image import load_picture

    with suppress_stderr():
        return load_picture(name)


def _check_opens(name: str, how: ClipSettings) -> None:
    """Find out whether a picture can be read, and whether a clip can be opened and has the frames that are wanted.

    Raises:
        InputError: not so.
    """
    from qvl_attn.media.image import moves
    from qvl_attn.media.sampling import plan_frames
    from qvl_attn.media.video import open_clip

    if not moves(name):
        _picture(name)
        return
    with suppress_stderr():
        plan_frames(open_clip(name, how.source_fps), how)


def _look(
    encoder: Encoder,
    name: str,
    settings: EncoderSettings,
    how: ClipSettings,
    drawing: Drawing,
    out: Path,
    progress: Progress,
    overwrite: bool,
) -> tuple[EncoderResult, Path, bool]:
    """A look, its folder, and whether it was there already."""
    from qvl_attn.core.errors import ResultExistsError
    from qvl_attn.encoders.inputs import load_encoder_clip
    from qvl_attn.encoders.result import EncoderResult, request_folder
    from qvl_attn.media.image import moves
    from qvl_attn.results.store import is_complete

    if moves(name):
        settings = replace(settings, clip=how)
        media = load_encoder_clip(encoder.spec, encoder.processor, name, how, settings, progress)
    else:
        media = _picture(name)
    folder = request_folder(out, media, settings, drawing, encoder.provenance)
    if overwrite or not is_complete(folder):
        result = encoder.encode(media, settings, progress)
        try:
            result.save(out, drawing, overwrite=overwrite, progress=progress)
            return result, folder, False
        except ResultExistsError:  # another run finished the same one meanwhile
            pass
    kept = EncoderResult.load(folder)
    return replace(kept, media=replace(kept.media, source=media.source)), folder, True
