"""`qvl-attn methods`: the ways from what was captured to a map."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import faults


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a method on stdout.")] = False,
    debug: options.Debug = False,
) -> None:
    """List the methods: what they need and cost, when to use them, what is known to be wrong with them."""
    with faults(debug=debug):
        from qvl_attn.attribution.methods import METHODS

        for method in METHODS.values():
            told = {
                "shows": method.shows,
                "needs": method.told_needs,
                "cost": method.cost,
                "when": method.when,
                "wrong": method.wrong,
                "source": method.source,
            }
            if as_json:
                typer.echo(json.dumps({"name": method.name, **told}, ensure_ascii=False))
            else:
                typer.echo("\n".join([method.name, *(f"  {name + ':':7} {text}" for name, text in told.items()), ""]))
