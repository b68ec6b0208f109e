"""`qvl-attn estimate`: what a question will cost, before any weights are loaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import faults, go_offline, hush_libraries, importing
from qvl_attn.cli.options import DEFAULT_MODEL
from qvl_attn.core.runtime import suppress_stderr
from qvl_attn.core.text import plain

if TYPE_CHECKING:
    from qvl_attn.analyzer import Analyzer
    from qvl_attn.vqa.estimate import Estimate

NAMES = {"eager": "eager", "rows": "rows", "usual": "the usual way"}
FITS = {True: "fits", False: "does not fit", None: "not known"}


def estimate(
    media: Annotated[str, typer.Argument(metavar="MEDIA", help="A picture: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF.")],
    image: Annotated[
        list[str] | None, typer.Option("--image", "-i", help="A further picture for the same prompt; repeatable.")
    ] = None,
    question: Annotated[str, typer.Option(help="The question about it.")] = "Describe this image.",
    model: options.Model = DEFAULT_MODEL,
    revision: options.Revision = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    system: options.System = None,
    min_pixels: options.MinPixels = None,
    max_pixels: options.MaxPixels = None,
    max_new_tokens: options.MaxNewTokens = 128,
    profile: options.Profile = None,
    layers: options.Layers = None,
    heads: options.Heads = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    debug: options.Debug = False,
) -> None:
    """Say how many tokens a question is and how much memory each way of answering it takes. Loads no weights.

    The usual way is transformers' own: eager attention that returns all matrices of all layers, which are then stacked.

    qvl-attn estimate cats.png --model demo
    """
    with faults(debug=debug):
        if offline:
            go_offline()
        # Imported here: --help and a mistyped path must not wait for torch.
        from qvl_attn.media.image import load_picture

        with suppress_stderr():
            pictures = [load_picture(path) for path in (media, *(image or []))]
        with importing():
            from qvl_attn.analyzer import Analyzer
            from qvl_attn.model.checkpoint import choose_placement, find_checkpoint, load_config

        hush_libraries(bars=not as_json)
        checkpoint = find_checkpoint(model, revision, offline=offline, weights=False)
        config = load_config(checkpoint)
        analyzer = Analyzer(checkpoint, config, choose_placement(config, device, dtype, must_fit=False))
        found = analyzer.estimate(
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
        report = _report(analyzer, found)
        typer.echo(json.dumps(report, allow_nan=False) if as_json else _table(report))


def _report(analyzer: Analyzer, found: Estimate) -> dict[str, Any]:
    return {
        "model": analyzer.checkpoint.name,
        "revision": analyzer.checkpoint.revision,
        "dtype": analyzer.placement.dtype,
        "device": analyzer.placement.device,
        "weight_bytes": found.weight_bytes,
        "free_bytes": found.free_bytes,
        "pictures": [
            {
                "name": name,
                "size_px": size_px,
                "grid_thw": grid.grid_thw,
                "rows": grid.shape[1],
                "columns": grid.shape[2],
                "vision_tokens": grid.cells,
            }
            for name, size_px, grid in found.pictures
        ],
        "vision_tokens": found.job.cells,
        "prompt_tokens": found.job.tokens,
        "max_new_tokens": found.job.new_tokens,
        "context": found.context,
        "ways": {
            way: {"bytes": needed, "with_weights_bytes": needed + found.weight_bytes, "fits": found.fits(way)}
            for way, needed in found.needed_bytes.items()
        },
        "attention": found.attention,
        "reason": found.reason,
        "faults": found.faults,
        "max_pixels": found.max_pixels,
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
        f"prompt    {report['prompt_tokens']} tokens, {report['max_new_tokens']} may follow; "
        f"the context is {report['context']}",
        f"free      {free} beside the weights",
        "",
        f"{'attention':<16}{'beside the weights':>20}{'with them':>14}",
    ]
    for way, cost in report["ways"].items():
        sizes = f"{_size(cost['bytes']):>20}{_size(cost['with_weights_bytes']):>14}"
        lines.append(f"{NAMES[way]:<16}{sizes}   {FITS[cost['fits']]}")
    lines += ["", f"--attn auto takes {report['attention']}: {report['reason']}"]
    lines += [f"cannot be asked so: {fault}" for fault in report["faults"]]
    if len(report["faults"]) > 1 and report["max_pixels"]:
        lines.append(f"--max-pixels {report['max_pixels']} is small enough for all of it")
    return "\n".join(plain(line) for line in lines)


def _size(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"
