"""Read the questions, and print the results."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_attn.cli.console import print_line
from qvl_attn.core.errors import InputError, numbered
from qvl_attn.core.runtime import describe_memory
from qvl_attn.core.text import check_written, plain, pluralize, shortened

if TYPE_CHECKING:
    from qvl_attn.encoders.result import EncoderResult
    from qvl_attn.results.session import Saved
    from qvl_attn.vqa.result import Result


def read_questions(questions: Sequence[str], prompts: str | None, example: str, instead: str) -> list[str]:
    """Return the typed questions and those of a set, without duplicates.

    Args:
        questions: the typed questions.
        prompts: a set of questions.
        example: hint if there is no question: a command to type.
        instead: hint if a question is the name of a picture or clip; `{}` is replaced by the name.

    Raises:
        InputError: there is no question, an empty one, or a picture or clip in place of one.
    """
    for i, question in enumerate(questions):
        if os.path.isfile(question) and _is_media(question):  # pathlib raises on long names  # noqa: PTH113
            raise InputError(f"{question!r} is a file, and a question belongs here", instead.format(question))
        with numbered(i, len(questions), "question"):
            check_written("question", question)
    texts = list(questions)
    if prompts is not None:
        from qvl_attn.evaluation.data.question_sets import load_prompts

        texts += [item.question for item in load_prompts(prompts)]
    if not texts:
        raise InputError("no question", f"{example}, or --prompts FILE")
    unique = list(dict.fromkeys(texts))
    if len(unique) < len(texts):
        print_line(f"{len(texts)} questions, {len(unique)} of them different: each is answered once")
    return unique


def _is_media(name: str) -> bool:
    from qvl_attn.media.image import is_media

    return is_media(name)


def print_results(results: Iterable[Saved[Result]], files: Sequence[str], *, as_json: bool, quiet: bool) -> None:
    """Print each result as soon as it is there, and at the end the command that makes one page of several.

    Args:
        results: the results.
        files: names of the files to list.
        as_json: print a JSON object for each.
        quiet: print only the answers or the JSON.
    """
    folders = []
    for saved in results:
        print_result(saved, files, as_json=as_json, quiet=quiet)
        folders.append(saved.folder)
    if len(folders) > 1 and not quiet:
        print_line(f"side by side: qvl-attn report {shlex.join(map(str, folders))} --out page.html")


def print_result(
    saved: Saved[Result], files: Sequence[str], *, as_json: bool, quiet: bool, done: str = "computed"
) -> None:
    """Print a result: notes on stderr, answer and files, or JSON, on stdout.

    Args:
        saved: the result to print.
        files: names of the files to list.
        as_json: print one JSON object.
        quiet: print only the answer or the JSON.
        done: what was skipped for a reused result: `computed` or `drawn`.
    """
    result, folder, reused = saved.result, saved.folder, saved.reused
    if not quiet:
        _print_notes(saved, result.saved_json(folder).notes, done)
    if as_json:
        print(json.dumps(_summary(result, folder, reused), allow_nan=False))
        return
    if quiet:
        print(plain(result.answer))
        return
    print(f"question: {plain(result.question)}")
    merged = ""
    if result.pass_mode in ("windows", "frames"):
        answers = len({single.answer.strip() for single in result.passes})
        merged = f"   ({f'{answers} different answers of' if answers > 1 else 'the answer of all'} "
        merged += f"{pluralize(len(result.passes), 'prompt')})"
    print(f"answer: {plain(result.answer) or '(no answer)'}{merged}")
    for single in result.passes:
        print(f"  {single.media[0].time_label}: {shortened(plain(single.answer)) or '(no answer)'}")
    if result.supplied_answer is not None:
        print(f"answer log-probability: {result.answer_logprob:.3f}")
        print(f"supplied answer: {plain(result.supplied_answer)}")
        print(f"supplied log-probability: {result.supplied_logprob:.3f}")
    if result.settings.faithfulness:
        from qvl_attn.cli.tables import faithfulness_lines

        for line in faithfulness_lines(result.curves, result.sanity or {}):
            print(line)
        files = (*files[:2], "faithfulness.png", *files[2:])
    for name in files:
        print(f"{name.removesuffix('.png').removesuffix('.html')}: {folder / name}")


def _print_notes(saved: Saved[Any], notes: Iterable[str], done: str) -> None:
    """Print whether a result was found, and its notes."""
    if saved.reused:
        print_line(f"found complete in {saved.folder}, nothing was {done} (--overwrite does it again)")
    for note in notes:
        print_line(f"note: {note}")


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
        "passes": [{"times_s": single.media[0].times_s.tolist(), "answer": single.answer} for single in result.passes],
    }


# Figures that are printed for each layer of a folder run; all of them are in summary.json.
PRINTED_FIGURES = ("distance_px", "entropy_bits", "top10_share", "tokens_50", "tokens_90")
MAX_PRINTED_ERRORS = 3


def print_encoder_result(saved: Saved[EncoderResult], *, as_json: bool, quiet: bool, done: str = "computed") -> None:
    """Print an encoder result: notes and memory on stderr, figures and files, or JSON, on stdout.

    Args:
        saved: the encoder result to print.
        as_json: print one JSON object.
        quiet: print only the folder or the JSON.
        done: what was skipped for a reused result: `computed` or `drawn`.

    Raises:
        StoreError: its `result.json` is damaged.
    """
    from qvl_attn.encoders.statistics import describe_statistics, statistics_of

    record = asdict(saved.result.saved_json(saved.folder))
    result, folder, reused = saved.result, saved.folder, saved.reused
    if not quiet:
        _print_notes(saved, record["notes"], done)
        for stage, peak in ({} if reused else record["peak_memory_bytes"]).items():
            print_line(describe_memory(stage, peak))
    if as_json:
        print(json.dumps(_encoder_summary(result, folder, record, reused), allow_nan=False))
        return
    if quiet:
        print(str(folder))
        return
    attention, provenance = result.attention, result.provenance
    t, h, w = attention.grid
    steps = f"{t} steps of " if t > 1 else ""
    print(f"{plain(result.media[0].source)}: {plain(provenance.family)} ({plain(provenance.model)})")
    print(
        f"{steps}{w} x {h} patches of {attention.patch_px} px, "
        f"{pluralize(attention.layer_count, 'layer')}, {pluralize(attention.head_count, 'head')}"
    )
    for line in describe_statistics(statistics_of(attention)):
        print(line)
    for saliency in result.saliency:
        print(f"{saliency.method}: {saliency.score:.3f} {plain(saliency.target)}")
    for name in ("report.html", *(file for file in record["files"] if _is_listed(file))):
        label = name.removesuffix(".png").removesuffix(".html").removesuffix(".mp4")
        print(plain(f"{label}: {folder / name}"))


def _is_listed(file: str) -> bool:
    """Whether a file is printed: drawings, except those of single layers, steps and frames."""
    single = ("layers/", "input/", "frames/", "seen/", "pca/")
    return file.endswith((".png", ".mp4")) and not any(part in file for part in single)


def _encoder_summary(result: EncoderResult, folder: Path, record: Mapping[str, Any], reused: bool) -> dict[str, Any]:
    names = ("family", "input_px", "patch_px", "queries", "headline", "said", "layers", "saliency", "notes")
    copied = {name: record[name] for name in names}
    return {
        "media": result.media[0].source,
        "model": result.provenance.model,
        **copied,
        "grid": list(result.attention.grid),
        "seconds": record["seconds"],
        "peak_memory_bytes": record["peak_memory_bytes"],
        "folder": str(folder),
        "files": record["files"],
        "attention": str(folder / "attention.npz"),
        "overlay": str(folder / "overlay.png"),
        "report": str(folder / "report.html"),
        **({} if result.media[0].clip is None else {"heatmap": str(folder / "heatmap.mp4")}),
        "reused": reused,
    }


def print_folder_run(summary: Mapping[str, Any], out: Path, *, as_json: bool, quiet: bool) -> None:
    """Print the summary of a run over a folder of pictures."""
    if summary["errors"] and not quiet:
        for line in _error_lines(summary["errors"], out):
            print_line(line)
    if as_json:
        print(json.dumps({**summary, "folder": str(out)}, allow_nan=False))
        return
    if quiet:
        print(str(out))
        return
    errors = f", {summary['errors']:,} could not be encoded" if summary["errors"] else ""
    spread = " ± standard deviation over the pictures" if summary["looked_at"] > 1 else ""
    print(f"{pluralize(summary['looked_at'], 'picture')}{errors}; mean{spread} (by chance)")
    for line in _table(summary["layers"]):
        print(line)
    for line in summary["said"]:
        print(line)
    for name in summary["files"]:
        if name.endswith(".png"):
            print(f"{name.removesuffix('.png')}: {out / name}")
    print(f"summary: {out / 'summary.json'}")


def _error_lines(count: int, out: Path) -> Iterator[str]:
    """Yield the first pictures that could not be encoded, with the reasons, and the file that lists all."""
    from qvl_attn.encoders.folder_json import read_folder_rows
    from qvl_attn.results.run_folder import ROWS_FILE

    failed = (row for row in read_folder_rows(out) if row["status"] == "error")
    for row in islice(failed, MAX_PRINTED_ERRORS):
        yield f"could not be encoded: {shortened(row['id'])}: {row['error']}"
    yield f"all {count:,} in {out / ROWS_FILE}" if count > MAX_PRINTED_ERRORS else f"all in {out / ROWS_FILE}"


def _table(layers: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line per column with its meaning, then a line per layer."""
    from qvl_attn.encoders.statistics import TITLES

    names = [name for name in PRINTED_FIGURES if layers and name in layers[0]]
    for name in names:
        yield f"{name}: {TITLES[name]}"
    columns = [["layer", *(str(row["layer"]) for row in layers)]]
    columns += [[name, *_cells([row[name] for row in layers])] for name in names]
    widths = [max(len(cell) for cell in column) for column in columns]
    for cells in zip(*columns, strict=True):
        yield "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _cells(figures: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """Yield the cells of a column, with the decimals that give its largest number four digits."""
    largest = max(max(abs(figure["mean"]), abs(figure["chance"])) for figure in figures)
    decimals = 0 if largest == 0 else min(6, max(0, 3 - math.floor(math.log10(largest))))
    for figure in figures:
        spread = "" if figure["deviation"] is None else f" ± {figure['deviation']:.{decimals}f}"
        yield f"{figure['mean']:.{decimals}f}{spread} ({figure['chance']:.{decimals}f})"
