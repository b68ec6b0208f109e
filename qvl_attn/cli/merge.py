"""`qvl-attn merge`: merge the parts of a check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import handle_errors
from qvl_attn.cli.gate import AsCsv, AsJson, FailUnder, Quiet, apply_gate, parse_thresholds, print_summary


def merge(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="The folders of all parts of a check, in any order.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="New folder for the merged run.", rich_help_panel=options.OUTPUT
        ),
    ],
    fail_under: FailUnder = None,
    as_csv: AsCsv = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Join the parts that check --shard wrote to one run, as if one process had made it. No model is needed.

    qvl-attn merge runs/part-* --out runs/all
    """
    with handle_errors(debug=debug, interrupted="interrupted; nothing was written"):
        thresholds = parse_thresholds(fail_under)
        from qvl_attn.evaluation.sharding import merge_runs

        summary = merge_runs(runs, out, csv=as_csv)
        print_summary(summary, out, None, as_json=as_json, quiet=quiet)
        apply_gate(summary, thresholds)
