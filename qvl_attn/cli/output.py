"""From questions as they were typed to results in their folders, and what is printed of them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from qvl_attn.cli.console import say
from qvl_attn.core.errors import InputError, ResultExistsError
from qvl_attn.core.text import plain, shortened

if TYPE_CHECKING:
    from qvl_attn.analyzer import Analyzer
    from qvl_attn.core.types import Media
    from qvl_attn.render.style import Drawing
    from qvl_attn.vqa.question import Question
    from qvl_attn.vqa.record import Result


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
    from qvl_attn.vqa.folder import folder_name, is_complete

    ways = [prompt.attention]
    if analyzer.attn == "auto" and analyzer.placement.dtype == "float32" and not overwrite:
        ways += ["rows" if prompt.attention == "eager" else "eager"]
    folders = []
    for way in ways:
        made_by = analyzer.made_by(prompt) | {"attention": way}
        folders.append(out / folder_name(media, prompt.prompt.question, prompt.settings, drawing, made_by))
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
    from qvl_attn.vqa.folder import is_complete
    from qvl_attn.vqa.record import Result

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
        f"   (the different answers of {len(result.passes)} prompts)" if result.way in ("windows", "frames") else ""
    )
    typer.echo(f"answer: {plain(result.answer) or '(no answer)'}{merged}")
    for one in result.passes:
        typer.echo(f"  {one.media[0].shown_when}: {shortened(plain(one.answer)) or '(no answer)'}")
    if result.supplied_answer is not None:
        typer.echo(f"answer log-probability: {result.answer_logprob:.3f}")
        typer.echo(f"supplied answer: {plain(result.supplied_answer)}")
        typer.echo(f"supplied log-probability: {result.supplied_logprob:.3f}")
    if result.settings.faithfulness:
        from qvl_attn.render.method_chart import faithfulness_lines

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
