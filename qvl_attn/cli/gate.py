"""For the commands that end in a summary: print it, and exit with 1 if it fails `--fail-under`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import print_line
from qvl_attn.cli.tables import check_table
from qvl_attn.core.errors import InputError
from qvl_attn.core.text import quoted, shortened

if TYPE_CHECKING:
    from qvl_attn.evaluation.data.samples import Sample

CHECK = "Figures"
# A run with a larger share of errors fails, whatever its figures.
MAX_ERROR_SHARE = 0.1
# The figures of `--fail-under`: answer accuracy, and figures of the headline map.
GATED_FIGURES = ("accuracy", "pointing", "mass", "lift", "auc", "iou", "vision_mass")
# The attention in the box over its share of the area; all other figures are from 0 to 1.
UNBOUNDED = ("lift",)

FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FIGURE=X",
        help=f"Exit with code 1 if this figure is below X. Can be repeated. Figures: {', '.join(GATED_FIGURES)}.",
        rich_help_panel=CHECK,
    ),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Also write scores.csv.", rich_help_panel=options.OUTPUT)]
AsJson = Annotated[bool, typer.Option("--json", help="Print summary.json.", rich_help_panel=options.OUTPUT)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only the path of summary.json.", rich_help_panel=options.OUTPUT)
]


def print_summary(summary: dict[str, Any], out: Path, profile: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Print a summary on stdout: as a table, as JSON, or only the path of its file."""
    if as_json:
        print(json.dumps(summary, allow_nan=False))
    elif quiet:
        print(out / "summary.json")
    else:
        print(check_table(summary, out, profile))


def parse_thresholds(typed: list[str] | None) -> dict[str, float]:
    """Parse the values of `--fail-under` into thresholds by figure.

    Raises:
        InputError: an unknown figure, no number, or one that the figure cannot have.
    """
    thresholds = {}
    for item in typed or []:
        name, equals, number = item.partition("=")
        typed_item, figures = f"--fail-under {shortened(item)}", f"figures: {', '.join(GATED_FIGURES)}"
        if equals and name not in GATED_FIGURES:
            close = get_close_matches(name.lower()[:40], GATED_FIGURES, n=1)
            hint = f"did you mean {close[0]}?" if close else figures
            raise InputError(f"{typed_item}: no figure {quoted(name)}", hint)
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not equals or not math.isfinite(value):
            raise InputError(f"{typed_item}: want FIGURE=NUMBER", figures)
        if name not in UNBOUNDED and not 0 <= value <= 1:
            raise InputError(f"{typed_item}: {name} is between 0 and 1", f"such as {name}=0.5")
        thresholds[name] = value
    return thresholds


def check_thresholds(thresholds: dict[str, float], samples: Sequence[Sample], *, boxes_only: bool) -> None:
    """Check that a run will have the figures of `--fail-under`.

    Args:
        thresholds: thresholds by figure.
        samples: the samples of the run; none if its part of the data set is empty.
        boxes_only: whether the run leaves out samples without boxes.

    Raises:
        InputError: it cannot have one of them.
    """
    if thresholds and not samples:
        raise InputError(
            f"--fail-under {', '.join(thresholds)}: this part of the data set is empty",
            "give --fail-under to qvl-attn merge, which has all parts",
        )
    if boxes_only:
        samples = [sample for sample in samples if len(sample.boxes_px)]
    answers = any(sample.answers for sample in samples)
    boxes = any(len(sample.boxes_px) for sample in samples)
    will_have = [name for name in GATED_FIGURES if {"accuracy": answers, "vision_mass": True}.get(name, boxes)]
    lacking = [name for name in thresholds if name not in will_have]
    if lacking:
        reasons = ["an answer"] * ("accuracy" in lacking) + ["boxes"] * (lacking != ["accuracy"])
        raise InputError(
            f"--fail-under {', '.join(lacking)}: this run will not have it, because no row has {' or '.join(reasons)}",
            f"figures that it will have: {', '.join(will_have)}",
        )


def apply_gate(summary: dict[str, Any], thresholds: dict[str, float]) -> None:
    """Exit with 1 if too many samples have no score or a threshold is missed; print each reason."""
    failed = summary["errors"] > MAX_ERROR_SHARE * summary["samples"]
    if failed:
        print_line(
            f"{summary['errors']} of {summary['samples']} samples have no score: see status and error in scores.jsonl"
        )
    figures = {**summary["headline"], "accuracy": summary["accuracy"] or {}}
    for name, threshold in thresholds.items():
        value = figures.get(name, {}).get("mean")
        if name == "pointing" and value is not None:  # samples without a score count as misses
            value *= figures[name]["n"] / max(figures[name]["n"] + summary["errors_with_boxes"], 1)
        if value is None or value < threshold:
            failed = True
            reason = "there is no such figure" if value is None else f"it is {value:.4g}"
            print_line(f"--fail-under {name}={threshold:g}: {reason}")
    if failed:
        raise typer.Exit(1)
