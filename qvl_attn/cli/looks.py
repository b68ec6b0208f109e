"""What is printed of looks and of runs over folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qvl_attn.cli.console import say
from qvl_attn.errors import StoreError
from qvl_attn.plain import plain

if TYPE_CHECKING:
    from qvl_attn.eye.result import Look

# Of a survey's layers, which figures are printed: the others are in summary.json.
PRINTED = ("distance_px", "entropy_bits", "top10_share", "tokens_50", "tokens_90")


def tell_look(look: Look, folder: Path, reused: bool, *, as_json: bool, quiet: bool) -> None:
    """Print a look: notes and memory on stderr, what was found and its files, or JSON, on stdout.

    Args:
        look: to print.
        folder: where it is.
        reused: whether it was there already.
        as_json: print one JSON object.
        quiet: print nothing but the folder or the JSON.

    Raises:
        StoreError: it was changed since it was written.
    """
    from qvl_attn.store import read_json

    kept = read_json(folder / "result.json")
    try:
        _tell_look(look, folder, kept, reused, as_json=as_json, quiet=quiet)
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise StoreError(
            f"{folder / 'result.json'} is damaged: {type(fault).__name__}: {fault}", "look again with --overwrite"
        ) from None


def _tell_look(look: Look, folder: Path, kept: Mapping[str, Any], reused: bool, *, as_json: bool, quiet: bool) -> None:
    from qvl_attn.eye.figures import figures_of
    from qvl_attn.eye.said import said

    if not quiet:
        if reused:
            say(f"found complete in {folder}, nothing was computed (--overwrite does it again)")
        for note in kept["notes"]:
            say(f"note: {note}")
        for stage, peak in kept["peak_memory_bytes"].items():
            say(_memory(stage, peak))
    if as_json:
        typer.echo(json.dumps(_summary(look, folder, kept, reused), allow_nan=False))
        return
    if quiet:
        typer.echo(str(folder))
        return
    sight, maker = look.sight, look.maker
    t, h, w = sight.grid
    steps = f"{t} steps of " if t > 1 else ""
    typer.echo(f"{plain(look.media.source)}: {plain(maker.family)} ({plain(maker.model)})")
    typer.echo(f"{steps}{w} x {h} patches of {sight.patch_px} px, {sight.layer_count} layers, {sight.head_count} heads")
    for line in said(figures_of(sight)):
        typer.echo(line)
    for one in look.saliency:
        typer.echo(f"{one.method}: {one.score:.3f} {plain(one.target)}")
    for name in ("report.html", *(one for one in kept["files"] if _is_named(one))):
        short = name.removesuffix(".png").removesuffix(".html").removesuffix(".mp4")
        typer.echo(plain(f"{short}: {folder / name}"))


def _is_named(file: str) -> bool:
    """Whether a file is printed: not those of single layers, steps and frames, nor what is not to be looked at."""
    single = ("layers/", "input/", "frames/", "seen/", "pca/")
    return file.endswith((".png", ".mp4")) and not any(part in file for part in single)


def _memory(stage: str, peak: Mapping[str, int]) -> str:
    above = (peak["host"] - peak["before"]) / 2**20
    device = f", {peak['device'] / 2**20:,.0f} MiB on the GPU" if "device" in peak else ""
    return f"peak memory, {stage}: {peak['host'] / 2**20:,.0f} MiB, {above:,.0f} of them since it began{device}"


def _summary(look: Look, folder: Path, kept: Mapping[str, Any], reused: bool) -> dict[str, Any]:
    names = ("family", "input_px", "patch_px", "queries", "headline", "said", "layers", "saliency", "notes")
    named = {name: kept[name] for name in names}
    return {
        "media": look.media.source,
        "model": look.maker.model,
        **named,
        "grid": list(look.sight.grid),
        "seconds": kept["seconds"],
        "peak_memory_bytes": kept["peak_memory_bytes"],
        "folder": str(folder),
        "files": kept["files"],
        "attention": str(folder / "attention.npz"),
        "overlay": str(folder / "overlay.png"),
        "report": str(folder / "report.html"),
        **({} if look.media.clip is None else {"heatmap": str(folder / "heatmap.mp4")}),
        "reused": reused,
    }


def tell_survey(summary: Mapping[str, Any], out: Path, *, as_json: bool, quiet: bool) -> None:
    """Print what a folder of pictures came to.

    Raises:
        StoreError: it was changed since it was written.
    """
    try:
        _tell_survey(summary, out, as_json=as_json, quiet=quiet)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as fault:
        raise StoreError(
            f"{out / 'summary.json'} is damaged: {type(fault).__name__}: {fault}", "name another --out"
        ) from None


def _tell_survey(summary: Mapping[str, Any], out: Path, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**summary, "folder": str(out)}, allow_nan=False))
        return
    if quiet:
        typer.echo(str(out))
        return
    errors = f", {summary['errors']:,} could not be looked at" if summary["errors"] else ""
    typer.echo(f"{summary['looked_at']:,} pictures{errors}; mean ± deviation over pictures (by chance)")
    names = [name for name in PRINTED if name in summary["layers"][0]]
    typer.echo("layer" + "".join(f"{name:>27}" for name in names))
    for row in summary["layers"]:
        figures = (row[name] for name in names)
        cells = (f"{one['mean']:.4g}{_spread(one['deviation'])} ({one['chance']:.4g})" for one in figures)
        typer.echo(f"{row['layer']:>5}" + "".join(f"{cell:>27}" for cell in cells))
    for line in summary["said"]:
        typer.echo(line)
    for name in summary["files"]:
        if name.endswith(".png"):
            typer.echo(f"{name.removesuffix('.png')}: {out / name}")
    typer.echo(f"summary: {out / 'summary.json'}")


def _spread(deviation: float | None) -> str:
    return "" if deviation is None else f" ± {deviation:.2g}"
