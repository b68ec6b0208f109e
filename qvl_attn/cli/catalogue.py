"""`qvl-attn prompts` and `qvl-attn methods`: list the built-in question sets and the methods."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer

from qvl_attn.cli import completion, options
from qvl_attn.cli.console import handle_errors
from qvl_attn.cli.options import OUTPUT
from qvl_attn.core.text import plain
from qvl_attn.evaluation.data.question_sets import load_prompts, shipped_sets


def prompts(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="SET",
            help="A built-in set of questions, or a JSONL file. Default: list the built-in sets.",
            autocompletion=completion.prompt_sets,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print each set, or each question, as a JSON object.", rich_help_panel=OUTPUT),
    ] = False,
    debug: options.Debug = False,
) -> None:
    """List the built-in sets of questions, or print the questions of one set.

    qvl-attn prompts counting
    """
    with handle_errors(debug=debug):
        if name is None:
            sets = _question_sets()
            typer.echo("\n".join(json.dumps(row) for row in sets) if as_json else _table(sets))
            return
        for item in load_prompts(name, name):
            fields = {field: value for field, value in dataclasses.asdict(item).items() if value is not None}
            typer.echo(json.dumps(fields) if as_json else f"{plain(item.id)}\t{plain(item.question)}")


def _question_sets() -> list[dict[str, Any]]:
    rows = []
    for name, path in sorted(shipped_sets().items()):
        items = load_prompts(str(path))
        first = items[0]
        rows.append({"name": name, "questions": len(items), "language": first.language, "first": first.question})
    return rows


def _table(sets: list[dict[str, Any]]) -> str:
    lines = [f"{'set':<14}{'questions':<11}{'language':<10}first question"]
    for row in sets:
        lines.append(f"{row['name']:<14}{row['questions']:<11}{row['language'] or '':<10}{row['first']}")
    return "\n".join(plain(line) for line in lines)


def methods(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each method as a JSON object.", rich_help_panel=OUTPUT)
    ] = False,
    debug: options.Debug = False,
) -> None:
    """List the methods that compute maps: needs, costs, when to use each, known faults, departures from the source."""
    with handle_errors(debug=debug):
        from qvl_attn.attribution.methods.registry import METHODS

        for method in METHODS.values():
            fields = {
                "shows": method.shows,
                "needs": method.needs_description,
                "cost": method.cost,
                "when": method.when,
                "wrong": method.wrong,
                "differs": method.differs,
                "source": method.source,
            }
            if as_json:
                typer.echo(json.dumps({"name": method.name, **fields}, ensure_ascii=False))
            else:
                lines = [f"  {name + ':':8} {text}" for name, text in fields.items() if text]
                typer.echo("\n".join([method.name, *lines, ""]))
