"""`qvl-attn compare`: compare runs of `check`, sample by sample."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import handle_errors
from qvl_attn.cli.tables import BY_LAYER, NAMES
from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.text import plain, pluralize, shortened

WIDTHS = (10, 10, 12, 20, 9)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders that check wrote. Each is compared with the first."),
    ],
    by: Annotated[
        str,
        typer.Option(
            metavar="FIGURE",
            help=f"Figure that sorts the samples, by how much it changed: accuracy, {', '.join(BY_LAYER)}.",
        ),
    ] = "mass",
    top: Annotated[int, typer.Option(metavar="N", help="Most samples to list.", min=0, max=1_000_000)] = 10,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the intervals.", callback=options.seed_of(63))] = 0,
    as_csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="Write a CSV file: a row for each sample, all runs side by side.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=options.OUTPUT)
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Compare finished checks, sample by sample: other models, prompts or settings. No model is needed.

    qvl-attn compare runs/last runs/question
    """
    with handle_errors(debug=debug, interrupted="interrupted"):
        # Imported here, so that --help need not wait for numpy.
        from qvl_attn.core.files import check_new, path_fault
        from qvl_attn.evaluation import compare as comparing

        if as_csv:
            check_new(as_csv, "csv", empty_folder=False)
            try:
                tempfile.TemporaryFile(dir=as_csv.parent).close()
            except OSError as error:
                fault = f"--csv {as_csv}: cannot be written ({path_fault(error)})"
                raise InputError(fault, "name a file in a folder that exists") from None
        loaded = comparing.read_runs(runs)
        comparison = comparing.compare(loaded, by=by, top=top, seed=seed)
        if as_csv:
            _write_csv(as_csv, comparing.csv_rows(loaded))
        typer.echo(json.dumps(comparison, allow_nan=False) if as_json else compare_table(comparison, top))


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows(rows)
        draft.rename(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StoreError(f"--csv {path}: cannot be written ({error.strerror or error})", "name another file") from None


def compare_table(comparison: dict[str, Any], top: int) -> str:
    """Return a comparison as text for the terminal.

    Args:
        comparison: the dict that `compare_runs` returns.
        top: most flipped answers to list, in each direction.
    """
    lines = []
    for number, run in enumerate(comparison["runs"], 1):
        counts = f"{pluralize(run['samples'], 'sample')}, {pluralize(run['errors'], 'error')}"
        lines.append(f"{number}  {run['folder']}: {run['model']} on {run['data']}, {counts}")
        lines.append(f"   {run['headline_map']}")
    for number, pair in enumerate(comparison["comparisons"], 2):
        lines += ["", *_comparison_lines(pair, comparison["by"], number, top)]
    lines += ["", *(f"note: {note}" for note in comparison["notes"])]
    return "\n".join(plain(line) for line in lines)


def _comparison_lines(pair: dict[str, Any], by: str, number: int, top: int) -> list[str]:
    heading = f"{number} against 1: {pair['other']} against {pair['first']}"
    lines = [heading, "-" * min(len(heading), 80)]
    lines += [f"differs: {line}" for line in pair["differences"]] or ["differs: nothing among the settings"]
    lines.append(
        f"samples: {pair['samples']} in both, {pair['only_first']} only in 1, {pair['only_other']} only in {number}"
    )
    lines += ["", _row(("", "1", str(number), "difference", "95 % interval", "samples"))]
    for name, figure in pair["figures"].items():
        if figure["n"]:
            lines.append(_figure_row(name, figure))
    lines += ["", f"{'':<18}{'both':>9}{'only 1':>9}{f'only {number}':>9}{'neither':>9}"]
    for name, words in (("right", "answers right"), ("grounded", "maps grounded")):
        lines.append(f"{words:<18}" + "".join(f"{count:>9}" for count in pair[name].values()))
    lines += ["", f"samples whose {_title(by)} changed most: {len(pair['changed_most'])}"]
    lines += _sample_lines(pair["changed_most"], by, number)
    for direction, words in (
        ("right_to_wrong", f"right in 1 and wrong in {number}"),
        ("wrong_to_right", f"wrong in 1 and right in {number}"),
    ):
        flipped = pair["flipped"][direction]
        cut = f", the first {top}" if len(flipped) > top else ""
        lines += ["", f"answers {words}: {len(flipped)}{cut}", *_sample_lines(flipped[:top], by, number)]
    return [*lines, "", *(f"note: {note}" for note in pair["notes"])] if pair["notes"] else lines


def _title(figure: str) -> str:
    return NAMES.get(figure, "answer accuracy")


def _row(cells: Sequence[str]) -> str:
    return f"{cells[0]:<21}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells[1:], WIDTHS, strict=True))


def _figure_row(name: str, figure: dict[str, Any]) -> str:
    interval = "-" if figure["low"] is None else f"[{figure['low']:+.3f}, {figure['high']:+.3f}]"
    means = (f"{figure[side]:.3f}" for side in ("first", "other"))
    return _row((_title(name), *means, f"{figure['difference']:+.3f}", interval, str(figure["n"])))


def _sample_lines(changes: Sequence[dict[str, Any]], by: str, number: int) -> list[str]:
    return [line for change in changes for line in _one_sample_lines(change, by, number)]


def _one_sample_lines(change: dict[str, Any], by: str, number: int) -> list[str]:
    """Return the lines of one sample: its change, its question, both answers."""
    sides = {"1": change["first"], str(number): change["other"]}
    values = " to ".join("-" if side["value"] is None else f"{side['value']:.3f}" for side in sides.values())
    changed = "" if change["difference"] is None else f" ({change['difference']:+.3f})"
    questions = {side["question"]: label for label, side in sides.items()}
    question_lines = [f"{f'{label}: ' if len(questions) > 1 else ''}{_text(text)}" for text, label in questions.items()]
    answers = ", ".join(f"{label}: {_answer(side)}" for label, side in sides.items())
    return [
        f"  {_text(change['id'])}: {by} {values}{changed}",
        *(f"      {line}" for line in (*question_lines, answers)),
    ]


def _answer(side: dict[str, Any]) -> str:
    answer = f"error: {_text(side['error'])}" if side["error"] else _text(side["answer"])
    return answer if side["right"] is None else f"{answer} ({'right' if side['right'] else 'wrong'})"


def _text(text: str) -> str:
    return shortened(plain(text))
