"""`qvl-attn estimate`: tokens and memory of a question. Loads no weights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import go_offline, handle_errors, importing, silence_libraries
from qvl_attn.cli.options import DEFAULT_MODEL, OUTPUT, DtypeName
from qvl_attn.core.text import plain

if TYPE_CHECKING:
    from qvl_attn.analyzer import Analyzer
    from qvl_attn.vqa.estimate import Estimate

NAMES = {"eager": "eager", "rows": "rows", "usual": "the usual way"}
FITS = {True: "fits", False: "does not fit", None: "not known"}


def estimate(
    media: Annotated[
        str, typer.Argument(metavar="MEDIA", help="A picture: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC.")
    ],
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
    profile: options.Profile = None,
    layers: options.Layers = None,
    heads: options.Heads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)] = False,
    debug: options.Debug = False,
) -> None:
    """Estimate how many tokens a question has, and how much memory each kind of attention needs. Loads no weights.

    "The usual way" is that of transformers: eager attention that returns the matrices of all layers.

    qvl-attn estimate cats.png --model demo
    """
    with handle_errors(debug=debug):
        if offline:
            go_offline()
        # Imported here, so that --help and a mistyped path need not wait for torch.
        from qvl_attn.media.image import load_picture

        pictures = [load_picture(path) for path in (media, *(image or []))]
        with importing():
            from qvl_attn.analyzer import Analyzer
            from qvl_attn.model.checkpoint import find_checkpoint
            from qvl_attn.model.loading import choose_placement, load_config

        silence_libraries(bars=not as_json)
        checkpoint = find_checkpoint(model, revision, offline=offline, weights=False)
        config = load_config(checkpoint)
        analyzer = Analyzer(checkpoint, config, choose_placement(config, device, dtype.value, must_fit=False))
        result = analyzer.estimate(
            pictures,
            question,
            profile=profile,
            layers=layers,
            heads=heads,
            system=system,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            max_new_tokens=max_new_tokens,
        )
        report = _report(analyzer, result)
        typer.echo(json.dumps(report, allow_nan=False) if as_json else _table(report))


def _report(analyzer: Analyzer, result: Estimate) -> dict[str, Any]:
    return {
        "model": analyzer.checkpoint.name,
        "revision": analyzer.checkpoint.revision,
        "dtype": analyzer.placement.dtype,
        "device": analyzer.placement.device,
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
            }
            for name, size_px, grid in result.pictures
        ],
        "vision_tokens": result.job.cells,
        "prompt_tokens": result.job.tokens,
        "max_new_tokens": result.job.new_tokens,
        "context": result.context,
        "ways": {
            mode: {"bytes": needed, "with_weights_bytes": needed + result.weight_bytes, "fits": result.fits(mode)}
            for mode, needed in result.needed_bytes.items()
        },
        "attention": result.attention,
        "reason": result.reason,
        "faults": result.faults,
        "max_pixels": result.max_pixels,
    }


def _table(report: dict[str, Any]) -> str:
    free = "not known" if report["free_bytes"] is None else _size(max(report["free_bytes"], 0))
    lines = [
        f"model     {report['model']} ({report['revision'][:12]}): {report['dtype']} on {report['device']}",
        f"weights   {_size(report['weight_bytes'])}",
    ]
    for picture in report["pictures"]:
        width, height = picture["size_px"]
        lines.append(
            f"picture   {picture['name']}: {width}x{height} px, grid_thw {'x'.join(map(str, picture['grid_thw']))}, "
            f"{picture['rows']} rows x {picture['columns']} columns = {picture['vision_tokens']} vision tokens"
        )
    lines += [
        f"prompt    {report['prompt_tokens']} tokens + up to {report['max_new_tokens']} new; "
        f"context limit {report['context']}",
        f"free      {free} after loading the weights",
        "",
        f"{'attention':<16}{'without weights':>20}{'with weights':>14}",
    ]
    for mode, cost in report["ways"].items():
        sizes = f"{_size(cost['bytes']):>20}{_size(cost['with_weights_bytes']):>14}"
        lines.append(f"{NAMES[mode]:<16}{sizes}   {FITS[cost['fits']]}")
    lines += ["", f"--attn auto takes {report['attention']}: {report['reason']}"]
    lines += [f"does not fit: {fault}" for fault in report["faults"]]
    if len(report["faults"]) > 1 and report["max_pixels"]:
        lines.append(f"--max-pixels {report['max_pixels']} makes all of it fit")
    return "\n".join(plain(line) for line in lines)


def _size(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"
