"""What a summary is told as, and whether it is good enough: for the commands that end in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import say
from qvl_attn.cli.tables import check_table
from qvl_attn.core.errors import InputError

CHECK = "Figures"
# Beyond it a run has failed, whatever the figures of the others.
MOST_ERRORS = 0.1
# Of `--fail-under`: the answers, or a figure of the headline.
GATED_FIGURES = ("accuracy", "pointing", "mass", "lift", "auc", "iou", "vision_mass")

FailUnder = Annotated[
    list[str] | None,
    typer.Option(metavar="FIGURE=X", help=f"Exit 1 below it: {', '.join(GATED_FIGURES)}.", rich_help_panel=CHECK),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="scores.csv as well.", rich_help_panel=options.OUTPUT)]
AsJson = Annotated[bool, typer.Option("--json", help="summary.json on stdout.", rich_help_panel=options.OUTPUT)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only the path of summary.json.", rich_help_panel=options.OUTPUT)
]


def tell_summary(summary: dict[str, Any], out: Path, profile: Path | None, *, as_json: bool, quiet: bool) -> None:
    """On stdout."""
    if as_json:
        typer.echo(json.dumps(summary, allow_nan=False))
    elif quiet:
        typer.echo(out / "summary.json")
    else:
        typer.echo(check_table(summary, out, profile))


def parse_thresholds(typed: list[str] | None) -> dict[str, float]:
    """What `--fail-under` was given.

    Raises:
        InputError: no figure, or no number.
    """
    thresholds = {}
    for one in typed or []:
        name, _, value = one.partition("=")
        try:
            thresholds[name] = float(value)
        except ValueError:
            thresholds[name] = float("nan")
        if name not in GATED_FIGURES or not -1e9 < thresholds[name] < 1e9:
            raise InputError(f"--fail-under {one}: want FIGURE=NUMBER", f"figures: {', '.join(GATED_FIGURES)}")
    return thresholds


def apply_gate(summary: dict[str, Any], thresholds: dict[str, float]) -> None:
    """Leave with exit code 1 where too many samples have no score, or a bar is missed; each is said."""
    missed = summary["errors"] > MOST_ERRORS * summary["samples"]
    if missed:
        say(f"{summary['errors']} of {summary['samples']} samples have no score: see status and error in scores.jsonl")
    found = {**summary["headline"], "accuracy": summary["accuracy"] or {}}
    for name, least in thresholds.items():
        value = found.get(name, {}).get("mean")
        if name == "pointing" and value is not None:  # what could not be scored was not hit
            value *= found[name]["n"] / (found[name]["n"] + summary["errors_with_boxes"])
        if value is None or value < least:
            missed = True
            is_so = "there is no such figure" if value is None else f"it is {value:.4g}"
            say(f"--fail-under {name}={least:g}: {is_so}")
    if missed:
        raise typer.Exit(1)
