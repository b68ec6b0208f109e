"""`qvl-attn prompts`: the sets of questions that ship, and what is in a set."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import faults
from qvl_attn.core.text import plain
from qvl_attn.evaluation.data.question_sets import load_prompts, shipped_sets


def prompts(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME_OR_FILE", help="A set that ships, or a JSONL file. Default: list all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a set, or a question.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """List the sets of questions that ship, or print the questions of one.

    qvl-attn prompts counting
    """
    with faults(debug=debug):
        if name is None:
            sets = _sets()
            typer.echo("\n".join(json.dumps(one) for one in sets) if as_json else _table(sets))
            return
        for item in load_prompts(name):
            fields = {field: value for field, value in dataclasses.asdict(item).items() if value is not None}
            typer.echo(json.dumps(fields) if as_json else f"{plain(item.id)}\t{plain(item.question)}")


def _sets() -> list[dict[str, Any]]:
    found = []
    for name, path in sorted(shipped_sets().items()):
        items = load_prompts(str(path))
        first = items[0]
        found.append({"name": name, "questions": len(items), "language": first.language, "first": first.question})
    return found


def _table(sets: list[dict[str, Any]]) -> str:
    lines = [f"{'set':<14}{'questions':<11}{'language':<10}first question"]
    for one in sets:
        lines.append(f"{one['name']:<14}{one['questions']:<11}{one['language'] or '':<10}{one['first']}")
    return "\n".join(plain(line) for line in lines)


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
