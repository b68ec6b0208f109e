"""What is printed of looks and of runs over folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qvl_attn.cli.console import say
from qvl_attn.core.errors import StoreError
from qvl_attn.core.runtime import memory_words
from qvl_attn.core.text import plain, shortened

if TYPE_CHECKING:
    from qvl_attn.encoders.record import Look

# Of a survey's layers, which figures are printed: the others are in summary.json.
PRINTED = ("distance_px", "entropy_bits", "top10_share", "tokens_50", "tokens_90")
SHOWN_ERRORS = 3


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
    from qvl_attn.core.files import read_json

    kept = read_json(folder / "result.json")
    try:
        _tell_look(look, folder, kept, reused, as_json=as_json, quiet=quiet)
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise StoreError(
            f"{folder / 'result.json'} is damaged: {type(fault).__name__}: {fault}", "look again with --overwrite"
        ) from None


def _tell_look(look: Look, folder: Path, kept: Mapping[str, Any], reused: bool, *, as_json: bool, quiet: bool) -> None:
    from qvl_attn.encoders.said import said
    from qvl_attn.encoders.statistics import figures_of

    if not quiet:
        if reused:
            say(f"found complete in {folder}, nothing was computed (--overwrite does it again)")
        for note in kept["notes"]:
            say(f"note: {note}")
        for stage, peak in kept["peak_memory_bytes"].items():
            say(memory_words(stage, peak))
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
    if summary["errors"] and not quiet:
        for line in _errors(summary["errors"], out):
            say(line)
    if as_json:
        typer.echo(json.dumps({**summary, "folder": str(out)}, allow_nan=False))
        return
    if quiet:
        typer.echo(str(out))
        return
    errors = f", {summary['errors']:,} could not be looked at" if summary["errors"] else ""
    spread = " ± deviation over pictures" if summary["looked_at"] > 1 else ""
    typer.echo(f"{summary['looked_at']:,} pictures{errors}; mean{spread} (by chance)")
    for line in _table(summary["layers"]):
        typer.echo(line)
    for line in summary["said"]:
        typer.echo(line)
    for name in summary["files"]:
        if name.endswith(".png"):
            typer.echo(f"{name.removesuffix('.png')}: {out / name}")
    typer.echo(f"summary: {out / 'summary.json'}")


def _errors(count: int, out: Path) -> Iterator[str]:
    """The first pictures that could not be looked at, with the reasons, and where all are."""
    from qvl_attn.results.run_folder import ROWS_FILE, read_rows

    bad = (row for row in read_rows(out) if row["status"] == "error")
    for row in islice(bad, SHOWN_ERRORS):
        yield f"could not be looked at: {shortened(row['id'])}: {row['error']}"
    yield f"all {count:,} in {out / ROWS_FILE}" if count > SHOWN_ERRORS else f"all in {out / ROWS_FILE}"


def _table(layers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the columns mean, a line each; then a line a layer."""
    from qvl_attn.encoders.statistics import TITLES

    names = [name for name in PRINTED if name in layers[0]]
    for name in names:
        yield f"{name}: {TITLES[name]}"
    columns = [["layer", *(str(row["layer"]) for row in layers)]]
    columns += [[name, *_cells([row[name] for row in layers])] for name in names]
    widths = [max(len(cell) for cell in column) for column in columns]
    for cells in zip(*columns, strict=True):
        yield "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _cells(figures: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """A column's cells, all with as many decimals: of its largest number four digits are shown."""
    largest = max(max(abs(one["mean"]), abs(one["chance"])) for one in figures)
    decimals = 0 if largest == 0 else min(6, max(0, 3 - math.floor(math.log10(largest))))
    for one in figures:
        apart = "" if one["deviation"] is None else f" ± {one['deviation']:.{decimals}f}"
        yield f"{one['mean']:.{decimals}f}{apart} ({one['chance']:.{decimals}f})"
