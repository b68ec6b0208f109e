"""`qvl-attn estimate`: tokens and memory of a question. Loads no weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import check_model, go_offline, handle_errors, importing, silence_libraries
from qvl_attn.cli.options import DEFAULT_MODEL, OUTPUT, DtypeName
from qvl_attn.cli.spelling import spelled
from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import describe_size
from qvl_attn.core.text import plain, pluralize

if TYPE_CHECKING:
    from qvl_attn.vqa.engine import Engine
    from qvl_attn.vqa.estimate import Estimate

DEFAULT_MAX_PIXELS = 12_845_056  # 16,384 tokens: the limit of the released processors
# Options of a question, which have no effect without a picture.
OF_A_QUESTION = (
    *("question", "system", "min_pixels", "max_pixels", "fps", "max_frames", "start_s", "end_s"),
    *("profile", "layers", "heads"),
)
NAMES = {"eager": "eager", "rows": "rows", "usual": "the usual way"}
FITS = {True: "fits", False: "does not fit", None: "not known"}


def estimate(
    ctx: typer.Context,
    media: Annotated[
        str | None,
        typer.Argument(
            metavar="MEDIA", help="A picture, a clip or a folder of frames. Without it: what fits a memory."
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", metavar="FILE", help="Another picture for the same question. Can be repeated."),
    ] = None,
    question: Annotated[str, typer.Option(metavar="TEXT", help="Question about the picture.")] = "Describe this image.",
    model: options.Model = DEFAULT_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = DtypeName.auto,
    offline: options.Offline = False,
    system: options.System = None,
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    max_new_tokens: options.MaxNewTokens = 128,
    fps: options.Fps = 2.0,
    max_frames: options.MaxFrames = 64,
    start_s: options.Start = 0.0,
    end_s: options.End = None,
    profile: options.Profile = None,
    layers: options.Layers = None,
    heads: options.Heads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)] = False,
    debug: options.Debug = False,
) -> None:
    """Estimate how many tokens a question has, and how much memory each kind of attention needs. Loads no weights.

    "The usual way" is that of transformers: eager attention that returns the matrices of all layers.

    Without MEDIA it prints the largest --max-pixels that fits into 8 to 80 GB in each precision: on a GPU, or with
    --device cpu on the CPU; for the 3B and the 7B, of which nothing is downloaded, or for the --model that you name.

    qvl-attn estimate cats.png --model demo
    """
    with handle_errors(debug=debug):
        if offline:
            go_offline()
        if media is None:
            if image:
                raise InputError(
                    f"--image {image[0]}: name the first picture before it", "qvl-attn estimate FILE --image ..."
                )
            options.refuse(ctx, OF_A_QUESTION, "needs a picture", "name the picture first, or leave it out")
            _estimate_sizes(model, revision, device, dtype.value, max_new_tokens, offline=offline, as_json=as_json)
            return
        # Imported here, so that --help and a mistyped path need not wait for torch.
        from qvl_attn.attribution.settings import VideoOptions
        from qvl_attn.media.image import load_picture, moves
        from qvl_attn.media.sampling import ClipOptions, ClipSettings
        from qvl_attn.model.placement import EncoderLoadOptions

        ClipSettings(**options.typed(ctx, ClipOptions))
        if moves(media) and image:
            raise InputError(f"{media} is a clip, which is asked about alone", "drop --image")
        pictures = media if moves(media) else [load_picture(path) for path in (media, *(image or []))]
        load_options = options.typed(ctx, EncoderLoadOptions)
        check_model(model, weights=False, **load_options)
        with importing():
            from qvl_attn.analyzer import Analyzer

        silence_libraries(bars=not as_json)
        analyzer = Analyzer.load(model, weights=False, **load_options)
        result = analyzer.estimate(pictures, question, **options.typed(ctx, VideoOptions))
        report = _report(analyzer.engine, result, clip=moves(media))
        typer.echo(json.dumps(report, allow_nan=False) if as_json else _table(report))


def _report(engine: Engine, result: Estimate, *, clip: bool) -> dict[str, Any]:
    return {
        "model": engine.checkpoint.name,
        "revision": engine.checkpoint.revision,
        "dtype": engine.placement.dtype,
        "device": engine.placement.device,
        "weight_bytes": result.weight_bytes,
        "free_bytes": result.free_bytes,
        "pictures": [
            {
                "name": name,
                "size_px": size_px,
                "grid_thw": grid.grid_thw,
                "rows": grid.shape[1],
                "columns": grid.shape[2],
                "vision_tokens": grid.cells,
                "clip": clip,
            }
            for name, size_px, grid in result.pictures
        ],
        "vision_tokens": result.job.cells,
        "prompt_tokens": result.job.tokens,
        "max_new_tokens": result.job.new_tokens,
        "context": result.context,
        "ways": {
            mode: {
                "bytes": needed,
                "with_weights_bytes": needed + result.weight_bytes,
                "peak_bytes": result.peak_bytes(mode) if engine.placement.device == "cpu" else None,
                "fits": result.fits(mode),
            }
            for mode, needed in result.needed_bytes.items()
        },
        "process_bytes": result.process_bytes,
        "loading_bytes": result.loading_bytes if engine.placement.device == "cpu" else None,
        "mapped_bytes": result.mapped_bytes,
        "attention": result.attention,
        "reason": result.reason,
        "faults": [spelled(fault) for fault in result.faults],
        "max_pixels": result.max_pixels,
    }


def _table(report: dict[str, Any]) -> str:
    free = "not known" if report["free_bytes"] is None else describe_size(max(report["free_bytes"], 0))
    lines = [
        f"model     {report['model']} ({report['revision'][:12]}): {report['dtype']} on {report['device']}",
        f"weights   {describe_size(report['weight_bytes'])}",
        f"process   {describe_size(report['process_bytes'])} before the weights: Python, libraries and pictures, "
        "measured",
    ]
    for picture in report["pictures"]:
        width, height = picture["size_px"]
        kind, steps = ("clip", f"{picture['grid_thw'][0]} steps x ") if picture["clip"] else ("picture", "")
        lines.append(
            f"{kind:<10}{picture['name']}: {width}x{height} px, grid_thw {'x'.join(map(str, picture['grid_thw']))}, "
            f"{steps}{picture['rows']} rows x {picture['columns']} columns = {picture['vision_tokens']} vision tokens"
        )
    lines += [
        f"prompt    {report['prompt_tokens']} tokens + up to {report['max_new_tokens']} new; "
        f"context limit {report['context']}",
        f"free      {free} after loading the weights",
    ]
    if report["loading_bytes"] and report["mapped_bytes"]:
        lines.append(
            f"loading   up to {describe_size(report['loading_bytes'])}, of which "
            f"{describe_size(report['mapped_bytes'])} are pages of the files, which the system takes back "
            "when it needs them"
        )
    total = "with weights" if report["loading_bytes"] is None else "whole process"
    lines += ["", f"{'attention':<16}{'without weights':>20}{total:>15}"]
    for mode, cost in report["ways"].items():
        whole = cost["with_weights_bytes"] if cost["peak_bytes"] is None else cost["peak_bytes"]
        lines.append(
            f"{NAMES[mode]:<16}{describe_size(cost['bytes']):>20}{describe_size(whole):>15}   {FITS[cost['fits']]}"
        )
    lines += ["", f"--attn auto takes {report['attention']}: {report['reason']}"]
    lines += [f"does not fit: {fault}" for fault in report["faults"]]
    if len(report["faults"]) > 1 and report["max_pixels"]:
        lines.append(f"--max-pixels {report['max_pixels']} makes all of it fit")
    return "\n".join(plain(line) for line in lines)


def _estimate_sizes(
    model: str, revision: str | None, device: str, dtype: str, new_tokens: int, *, offline: bool, as_json: bool
) -> None:
    from qvl_attn.attribution.settings import check_new_tokens
    from qvl_attn.model.placement import PRECISIONS, check_options

    check_new_tokens(new_tokens)
    check_options(device, dtype, None)
    with importing():
        from qvl_attn.model.checkpoint import find_checkpoint
        from qvl_attn.model.loading import choose_placement, load_config
        from qvl_attn.model.memory import process_bytes
        from qvl_attn.model.released import RELEASED, released_config
        from qvl_attn.vqa.fitting import MEMORY_GB, fit_of

    silence_libraries(bars=not as_json)
    if model == DEFAULT_MODEL and revision is None:
        configs = {name: released_config(name) for name in RELEASED}
    else:
        configs = {model: load_config(find_checkpoint(model, revision, offline=offline, weights=False))}
    place = "cpu" if device == "cpu" else "cuda"
    precisions = PRECISIONS if dtype == "auto" else [dtype]
    fits = []
    for name, config in configs.items():
        weights = choose_placement(config, "cpu", "float32", must_fit=False).weight_bytes // 4
        fits += [fit_of(name, config, one, weights, place, process_bytes(), new_tokens) for one in precisions]
    if as_json:
        typer.echo(
            json.dumps(
                {"device": place, "max_new_tokens": new_tokens, "models": [asdict(fit) for fit in fits]},
                allow_nan=False,
            )
        )
        return
    memory = "of the machine, with nothing else in it" if place == "cpu" else "of one GPU"
    run = f"--attn rows, answers of up to {pluralize(new_tokens, 'token')}"
    typer.echo(f"largest --max-pixels of one picture that fits the memory {memory} ({run})\n")
    width = max(len(fit.model) for fit in fits) + 2
    typer.echo(f"{'model':<{width}}{'precision':<12}{'weights':>10}" + "".join(f"{f'{gb} GB':>13}" for gb in MEMORY_GB))
    for fit in fits:
        cells = "".join(f"{_pixels(fit.max_pixels[gb]):>13}" for gb in MEMORY_GB)
        typer.echo(f"{plain(fit.model):<{width}}{fit.dtype:<12}{describe_size(fit.weight_bytes):>10}{cells}")
    typer.echo("\n-: the model does not fit; any: every size that the processor lets through by default")


def _pixels(count: int) -> str:
    return "-" if not count else "any" if count >= DEFAULT_MAX_PIXELS else f"{count:,}"
