"""From questions as they were typed to results in their folders, and what is printed of them."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qvl_attn.cli.console import say
from qvl_attn.core.errors import InputError, ResultExistsError, StoreError
from qvl_attn.core.runtime import describe_memory
from qvl_attn.core.text import plain, shortened

if TYPE_CHECKING:
    from qvl_attn.analyzer import Analyzer
    from qvl_attn.core.types import Media
    from qvl_attn.render.style import Drawing
    from qvl_attn.vqa.question import Question
    from qvl_attn.vqa.result import Result

if TYPE_CHECKING:
    from qvl_attn.encoders.result import EncoderResult


def read_questions(questions: Sequence[str], prompts: str | None, example: str, instead: str) -> list[str]:
    """The questions that were typed and those of a set, each once.

    Args:
        questions: as they were typed.
        prompts: a set of questions.
        example: what to type where there is no question.
        instead: what to do with a file that stands where a question belongs; `{}` is its name.

    Raises:
        InputError: none at all, or a file where a question belongs.
    """
    for question in questions:
        if os.path.isfile(question):  # pathlib raises on names that are too long  # noqa: PTH113
            raise InputError(f"{question!r} is a file, and stands where a question belongs", instead.format(question))
    asked = list(questions)
    if prompts is not None:
        from qvl_attn.evaluation.data.question_sets import load_prompts

        asked += [item.question for item in load_prompts(prompts)]
    if not asked:
        raise InputError("no question", f"{example}, or --prompts FILE")
    once = list(dict.fromkeys(asked))
    if len(once) < len(asked):
        say(f"{len(asked)} questions, {len(once)} different ones: each is answered once")
    return once


def folder_of(
    analyzer: Analyzer,
    prompt: Question,
    media: Sequence[Media],
    drawing: Drawing,
    out: Path,
    overwrite: bool,
) -> Path:
    """Where a question's result goes, or is: with `auto` one that was made the other way serves as well.

    Args:
        analyzer: that answers it.
        prompt: of the question, or one of its prompts.
        media: what the question is about.
        drawing: how the result is drawn.
        out: the folder that holds results.
        overwrite: whether it is to be made again.
    """
    from qvl_attn.results.store import is_complete
    from qvl_attn.vqa.result import request_folder

    ways = [prompt.attention]
    if analyzer.attn == "auto" and analyzer.placement.dtype == "float32" and not overwrite:
        ways += ["rows" if prompt.attention == "eager" else "eager"]
    folders = []
    for way in ways:
        made_by = analyzer.made_by(prompt) | {"attention": way}
        folders.append(request_folder(out, media, prompt.prompt.question, prompt.settings, drawing, made_by))
    return next((folder for folder in folders if is_complete(folder)), folders[0])


def results(
    folders: Sequence[Path],
    answer: Callable[[list[int]], Iterator[tuple[int, Result]]],
    save: Callable[[Result], Path],
    overwrite: bool,
) -> Iterator[tuple[Result, Path, bool]]:
    """Each question's result in the order in which they were asked, its folder, and whether it was there already.

    Args:
        folders: one a question.
        answer: answers the questions of these numbers, each with its place among them.
        save: writes a result.
        overwrite: whether those that are there are made again.
    """
    from qvl_attn.results.store import is_complete
    from qvl_attn.vqa.result import Result

    there = [is_complete(folder) and not overwrite for folder in folders]
    missing = [i for i, done in enumerate(there) if not done]
    answers = answer(missing)
    saved: dict[int, Result] = {}
    for i, folder in enumerate(folders):
        while not there[i] and i not in saved:
            at, result = next(answers)
            try:
                save(result)
                saved[missing[at]] = result
            except ResultExistsError:  # another run finished the same one meanwhile
                there[missing[at]] = True
        yield (Result.load(folder), folder, True) if there[i] else (saved.pop(i), folder, False)


def tell_of_all(folders: Sequence[Path], *, quiet: bool) -> None:
    """How several results become one page."""
    if len(folders) > 1 and not quiet:
        say(f"side by side: qvl-attn report {shlex.join(map(str, folders))} --out page.html")


def tell(
    result: Result,
    folder: Path,
    reused: bool,
    files: Sequence[str],
    *,
    as_json: bool,
    quiet: bool,
    done: str = "computed",
) -> None:
    """Print a result: notes on stderr, answer and files, or JSON, on stdout.

    Args:
        result: to print.
        folder: where it is.
        reused: whether it was there already.
        files: which of its files are named.
        as_json: print one JSON object.
        quiet: print nothing but the answer or the JSON.
        done: what was not done to a result that was there.
    """
    from qvl_attn.core.files import read_json

    if not quiet:
        if reused:
            say(f"found complete in {folder}, nothing was {done} (--overwrite does it again)")
        for note in read_json(folder / "result.json")["notes"]:
            say(f"note: {note}")
    if as_json:
        typer.echo(json.dumps(_summary(result, folder, reused), allow_nan=False))
        return
    if quiet:
        typer.echo(plain(result.answer))
        return
    typer.echo(f"question: {plain(result.question)}")
    merged = (
        f"   (the different answers of {len(result.passes)} prompts)"
        if result.pass_mode in ("windows", "frames")
        else ""
    )
    typer.echo(f"answer: {plain(result.answer) or '(no answer)'}{merged}")
    for one in result.passes:
        typer.echo(f"  {one.media[0].shown_when}: {shortened(plain(one.answer)) or '(no answer)'}")
    if result.supplied_answer is not None:
        typer.echo(f"answer log-probability: {result.answer_logprob:.3f}")
        typer.echo(f"supplied answer: {plain(result.supplied_answer)}")
        typer.echo(f"supplied log-probability: {result.supplied_logprob:.3f}")
    if result.settings.faithfulness:
        from qvl_attn.render.charts import faithfulness_lines

        for line in faithfulness_lines(result.curves, result.sanity or {}):
            typer.echo(line)
        files = (*files[:2], "faithfulness.png", *files[2:])
    for name in files:
        typer.echo(f"{name.removesuffix('.png').removesuffix('.html')}: {folder / name}")


def _summary(result: Result, folder: Path, reused: bool) -> dict[str, Any]:
    from qvl_attn.render.html.page import REPORT_FILE

    return {
        "question": result.question,
        "answer": result.answer,
        "answer_logprob": result.answer_logprob,
        "supplied_answer": result.supplied_answer,
        "supplied_logprob": result.supplied_logprob,
        "vision_mass": result.heatmap().vision_mass,
        "method": result.methods[0].method if result.methods else None,
        "attention": result.provenance.attention,
        "attention_reason": result.provenance.attention_reason,
        "faithfulness": result.curves.figures() if result.curves else None,
        "folder": str(folder),
        "overlay": str(folder / "overlay.png"),
        "report": str(folder / REPORT_FILE),
        **({} if result.media[0].clip is None else _clip_summary(result, folder)),
        "reused": reused,
    }


def _clip_summary(result: Result, folder: Path) -> dict[str, Any]:
    return {
        "heatmap": str(folder / "heatmap.mp4"),
        "timeline": str(folder / "timeline.png"),
        "passes": [{"times_s": one.media[0].times_s.tolist(), "answer": one.answer} for one in result.passes],
    }


# Of a survey's layers, which figures are printed: the others are in summary.json.
PRINTED = ("distance_px", "entropy_bits", "top10_share", "tokens_50", "tokens_90")
SHOWN_ERRORS = 3


def print_encoder_result(result: EncoderResult, folder: Path, reused: bool, *, as_json: bool, quiet: bool) -> None:
    """Print a look: notes and memory on stderr, what was found and its files, or JSON, on stdout.

    Args:
        result: to print.
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
        _print_encoder_result(result, folder, kept, reused, as_json=as_json, quiet=quiet)
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise StoreError(
            f"{folder / 'result.json'} is damaged: {type(fault).__name__}: {fault}", "look again with --overwrite"
        ) from None


def _print_encoder_result(
    result: EncoderResult, folder: Path, kept: Mapping[str, Any], reused: bool, *, as_json: bool, quiet: bool
) -> None:
    from qvl_attn.encoders.statistics import said, statistics_of

    if not quiet:
        if reused:
            say(f"found complete in {folder}, nothing was computed (--overwrite does it again)")
        for note in kept["notes"]:
            say(f"note: {note}")
        for stage, peak in kept["peak_memory_bytes"].items():
            say(describe_memory(stage, peak))
    if as_json:
        typer.echo(json.dumps(_encoder_summary(result, folder, kept, reused), allow_nan=False))
        return
    if quiet:
        typer.echo(str(folder))
        return
    attention, maker = result.attention, result.provenance
    t, h, w = attention.grid
    steps = f"{t} steps of " if t > 1 else ""
    typer.echo(f"{plain(result.media.source)}: {plain(maker.family)} ({plain(maker.model)})")
    typer.echo(
        f"{steps}{w} x {h} patches of {attention.patch_px} px, "
        f"{attention.layer_count} layers, {attention.head_count} heads"
    )
    for line in said(statistics_of(attention)):
        typer.echo(line)
    for one in result.saliency:
        typer.echo(f"{one.method}: {one.score:.3f} {plain(one.target)}")
    for name in ("report.html", *(one for one in kept["files"] if _is_named(one))):
        short = name.removesuffix(".png").removesuffix(".html").removesuffix(".mp4")
        typer.echo(plain(f"{short}: {folder / name}"))


def _is_named(file: str) -> bool:
    """Whether a file is printed: not those of single layers, steps and frames, nor what is not to be looked at."""
    single = ("layers/", "input/", "frames/", "seen/", "pca/")
    return file.endswith((".png", ".mp4")) and not any(part in file for part in single)


def _encoder_summary(result: EncoderResult, folder: Path, kept: Mapping[str, Any], reused: bool) -> dict[str, Any]:
    names = ("family", "input_px", "patch_px", "queries", "headline", "said", "layers", "saliency", "notes")
    named = {name: kept[name] for name in names}
    return {
        "media": result.media.source,
        "model": result.provenance.model,
        **named,
        "grid": list(result.attention.grid),
        "seconds": kept["seconds"],
        "peak_memory_bytes": kept["peak_memory_bytes"],
        "folder": str(folder),
        "files": kept["files"],
        "attention": str(folder / "attention.npz"),
        "overlay": str(folder / "overlay.png"),
        "report": str(folder / "report.html"),
        **({} if result.media.clip is None else {"heatmap": str(folder / "heatmap.mp4")}),
        "reused": reused,
    }


def print_folder_run(summary: Mapping[str, Any], out: Path, *, as_json: bool, quiet: bool) -> None:
    """Print what a folder of pictures came to.

    Raises:
        StoreError: it was changed since it was written.
    """
    try:
        _print_folder_run(summary, out, as_json=as_json, quiet=quiet)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as fault:
        raise StoreError(
            f"{out / 'summary.json'} is damaged: {type(fault).__name__}: {fault}", "name another --out"
        ) from None


def _print_folder_run(summary: Mapping[str, Any], out: Path, *, as_json: bool, quiet: bool) -> None:
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
