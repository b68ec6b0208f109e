"""`qvl-attn compare`: runs of `check` side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from qvl_attn.cli import options
from qvl_attn.cli.console import faults
from qvl_attn.cli.tables import BY_LAYER, NAMES
from qvl_attn.core.errors import StoreError
from qvl_attn.core.text import plain, shortened

WIDTHS = (10, 10, 12, 20, 9)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Folders that `check` wrote; the first is what others are set against."),
    ],
    by: Annotated[
        str,
        typer.Option(metavar="FIGURE", help=f"By whose change samples are listed: accuracy, {', '.join(BY_LAYER)}."),
    ] = "mass",
    top: Annotated[int, typer.Option(help="How many samples are listed.", min=0, max=1_000_000)] = 10,
    seed: Annotated[int, typer.Option(help="Of the intervals.", min=0, max=2**63 - 1)] = 0,
    as_csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="A row a sample, all runs side by side.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Everything as one JSON object.", rich_help_panel=options.OUTPUT)
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Set finished runs side by side, sample by sample: models, prompts, settings.

    qvl-attn compare runs/last runs/question
    """
    with faults(debug=debug, interrupted="interrupted"):
        # Imported here: --help must not wait for numpy.
        from qvl_attn.core.files import check_new
        from qvl_attn.evaluation import compare as comparing

        if as_csv:
            check_new(as_csv, "--csv", empty_folder=False)
        read = comparing.read_runs(runs)
        found = comparing.compare(read, by=by, top=top, seed=seed)
        if as_csv:
            _write_csv(as_csv, comparing.csv_rows(read))
        typer.echo(json.dumps(found, allow_nan=False) if as_json else compare_table(found, top))


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file).writerows(rows)
        draft.rename(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StoreError(f"--csv {path}: cannot be written ({error.strerror or error})") from None


def compare_table(found: dict[str, Any], top: int) -> str:
    """All of it, ready to print.

    Args:
        found: as `compare_runs` gives it.
        top: how many answers that flipped each way are shown.
    """
    lines = []
    for number, run in enumerate(found["runs"], 1):
        counted = f"{run['samples']} samples, {run['errors']} errors"
        lines.append(f"{number}  {run['folder']}: {run['model']} on {run['data']}, {counted}")
        lines.append(f"   {run['headline_map']}")
    for number, one in enumerate(found["comparisons"], 2):
        lines += ["", *_comparison(one, found["by"], number, top)]
    lines += ["", *(f"note: {note}" for note in found["notes"])]
    return "\n".join(plain(line) for line in lines)


def _comparison(one: dict[str, Any], by: str, number: int, top: int) -> list[str]:
    heading = f"{number} against 1: {one['other']} against {one['first']}"
    lines = [heading, "-" * min(len(heading), 80)]
    lines += [f"differs: {line}" for line in one["differences"]] or ["differs: nothing that the runs were asked"]
    lines.append(
        f"samples: {one['samples']} in both, {one['only_first']} only in 1, {one['only_other']} only in {number}"
    )
    lines += ["", _row(("", "1", str(number), "difference", "95 % interval", "samples"))]
    for name, figure in one["figures"].items():
        if figure["n"]:
            lines.append(_figure(name, figure))
    lines += ["", f"{'':<18}{'both':>9}{'only 1':>9}{f'only {number}':>9}{'neither':>9}"]
    for name, words in (("right", "answers right"), ("grounded", "maps grounded")):
        lines.append(f"{words:<18}" + "".join(f"{count:>9}" for count in one[name].values()))
    lines += ["", f"samples whose {_name(by)} changed most: {len(one['changed_most'])}"]
    lines += _samples(one["changed_most"], by, number)
    for way, words in (
        ("right_to_wrong", f"right in 1 and wrong in {number}"),
        ("wrong_to_right", f"wrong in 1 and right in {number}"),
    ):
        flipped = one["flipped"][way]
        shown = f", the first {top}" if len(flipped) > top else ""
        lines += ["", f"answers {words}: {len(flipped)}{shown}", *_samples(flipped[:top], by, number)]
    return [*lines, "", *(f"note: {note}" for note in one["notes"])] if one["notes"] else lines


def _name(figure: str) -> str:
    return NAMES.get(figure, "answer accuracy")


def _row(cells: Sequence[str]) -> str:
    return f"{cells[0]:<21}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells[1:], WIDTHS, strict=True))


def _figure(name: str, one: dict[str, Any]) -> str:
    interval = "-" if one["low"] is None else f"[{one['low']:+.3f}, {one['high']:+.3f}]"
    means = (f"{one[side]:.3f}" for side in ("first", "other"))
    return _row((_name(name), *means, f"{one['difference']:+.3f}", interval, str(one["n"])))


def _samples(changes: Sequence[dict[str, Any]], by: str, number: int) -> list[str]:
    return [line for change in changes for line in _sample(change, by, number)]


def _sample(change: dict[str, Any], by: str, number: int) -> list[str]:
    """How much it changed, what was asked, what was answered."""
    sides = {"1": change["first"], str(number): change["other"]}
    values = " to ".join("-" if side["value"] is None else f"{side['value']:.3f}" for side in sides.values())
    changed = "" if change["difference"] is None else f" ({change['difference']:+.3f})"
    questions = {side["question"]: label for label, side in sides.items()}
    asked = [f"{f'{label}: ' if len(questions) > 1 else ''}{_text(text)}" for text, label in questions.items()]
    answers = ", ".join(f"{label}: {_answer(side)}" for label, side in sides.items())
    return [f"  {_text(change['id'])}: {by} {values}{changed}", *(f"      {line}" for line in (*asked, answers))]


def _answer(side: dict[str, Any]) -> str:
    said = f"error: {_text(side['error'])}" if side["error"] else _text(side["answer"])
    return said if side["right"] is None else f"{said} ({'right' if side['right'] else 'wrong'})"


def _text(text: str) -> str:
    return shortened(plain(text))
