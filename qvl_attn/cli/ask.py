"""`qvl-attn ask`: questions about a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import find_model, go_offline, handle_errors, printed_log
from qvl_attn.cli.options import DEFAULT_MODEL, AttnMode, Cells, Colors, DtypeName, HeadDtype, drawing_of
from qvl_attn.cli.output import print_results, read_questions
from qvl_attn.cli.progress import progress_bars


def ask(
    ctx: typer.Context,
    media: Annotated[
        str, typer.Argument(metavar="MEDIA", help="A picture: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC.")
    ],
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION", help="One or more questions about the picture.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", metavar="FILE", help="Another picture for the same questions. Can be repeated."),
    ] = None,
    prompts: options.Prompts = None,
    model: options.Model = DEFAULT_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    device_map: options.DeviceMap = None,
    dtype: options.Dtype = DtypeName.auto,
    attn: options.Attn = AttnMode.auto,
    offline: options.Offline = False,
    system: options.System = None,
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    stretch: options.Stretch = False,
    max_new_tokens: options.MaxNewTokens = 128,
    seed: options.Seed = 0,
    query: options.Query = None,
    profile: options.Profile = None,
    method: options.Method = None,
    faithfulness: options.Faithfulness = False,
    layers: options.Layers = None,
    heads: options.Heads = None,
    store_heads: options.StoreHeads = HeadDtype.float32,
    answer: options.Answer = None,
    colormap: options.Colormap = Colors.inferno,
    alpha: options.Alpha = 0.5,
    interp: options.Interp = Cells.linear,
    denoise: options.Denoise = None,
    blur_cells: options.Blur = 0.0,
    scale: options.PictureScale = None,
    top_percent: options.TopPercent = 100.0,
    draw_size: options.DrawSize = "1280",
    out: options.Out = Path("qvl-attn-out"),
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Ask questions about a picture and draw where each layer looked.

    qvl-attn ask cats.png "how many cats?" --model demo
    """
    with handle_errors(debug=debug), progress_bars(enabled=not quiet) as progress, printed_log(quiet=quiet):
        if offline:
            go_offline()
        texts = read_questions(
            questions or [], prompts, 'qvl-attn ask MEDIA "how many cats?"', "add a picture with --image {}"
        )
        # Imported here, so that --help and a mistyped path need not wait for numpy.
        from qvl_attn.attribution.settings import QuestionOptions
        from qvl_attn.media.image import load_picture
        from qvl_attn.model.placement import LoadOptions
        from qvl_attn.results.session import Saving
        from qvl_attn.vqa.session import answered, find_saved

        pictures = [load_picture(path, stretch) for path in (media, *(image or []))]
        saving = Saving(out, drawing_of(ctx, pictures=True, clips=False), overwrite)
        load_options, typed = options.typed(ctx, LoadOptions), options.typed(ctx, QuestionOptions)
        results = find_saved(pictures, texts, saving, typed, model, **load_options)
        if results is None:
            engine = find_model(model, bars=not quiet, **load_options).engine
            pairs = [(pictures, text) for text in texts]
            results = answered(engine, pairs, engine.settings(**typed), saving, progress=progress)
        print_results(results, as_json=as_json, quiet=quiet)
