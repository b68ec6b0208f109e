"""Read the questions, and print the results."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_attn.cli.console import print_line
from qvl_attn.core.errors import InputError, numbered
from qvl_attn.core.runtime import describe_memory
from qvl_attn.core.text import check_written, plain, pluralize, shortened

if TYPE_CHECKING:
    from qvl_attn.encoders.codec import EncoderJson
    from qvl_attn.encoders.result import EncoderResult
    from qvl_attn.results.codec import ResultJson
    from qvl_attn.results.result import StoredResult
    from qvl_attn.results.session import Saved
    from qvl_attn.vqa.codec import QuestionJson
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


def print_results(results: Iterable[Saved[Any]], *, as_json: bool, quiet: bool, done: str = "computed") -> None:
    """Print each result as soon as it is there, and at the end the command that makes one page of several.

    Notes go to stderr; the result and its files, or a JSON object, to stdout.

    Args:
        results: the results, of any kind.
        as_json: print a JSON object for each.
        quiet: print only the answers or folders, or the JSON.
        done: what was skipped for a reused result: `computed` or `drawn`.

    Raises:
        StoreError: the `result.json` of one is damaged.
    """
    folders = []
    for saved in results:
        _print_result(saved, as_json=as_json, quiet=quiet, done=done)
        folders.append(saved.folder)
        del saved  # one picture is in memory at a time
    folders = list(dict.fromkeys(folders))
    if len(folders) > 1 and not quiet:
        print_line(f"side by side: qvl-attn report {shlex.join(map(str, folders))} --out page.html")


def _print_result(saved: Saved[Any], *, as_json: bool, quiet: bool, done: str) -> None:
    result, folder = saved.result, saved.folder
    stored = result.saved_json(folder)
    kind = KINDS.get(result.kinds[0], Printed())
    if not quiet:
        if saved.reused:
            print_line(f"found complete in {folder}, nothing was {done} (--overwrite does it again)")
        for note in stored.notes:
            print_line(f"note: {note}")
        if kind.memory and not saved.reused:
            for stage, peak in stored.peak_memory_bytes.items():
                print_line(describe_memory(stage, peak))
    if as_json:
        print(json.dumps({**kind.summary(result, stored, folder), "reused": saved.reused}, allow_nan=False))
        return
    for line in [kind.shortest(result, folder)] if quiet else kind.lines(result, stored, folder):
        print(line)


def _listed_lines(stored: ResultJson, folder: Path) -> Iterator[str]:
    """Yield the page and the drawings of a result, except those of single layers, steps and frames."""
    single = ("layers/", "input/", "frames/", "seen/", "pca/")
    drawings = (file for file in stored.files if file.endswith((".png", ".mp4")))
    for name in ("report.html", *(file for file in drawings if not any(part in file for part in single))):
        label = name.removesuffix(".png").removesuffix(".html").removesuffix(".mp4")
        yield plain(f"{label}: {folder / name}")


def _any_lines(result: StoredResult, stored: ResultJson, folder: Path) -> Iterator[str]:
    yield f"folder: {folder}"
    yield from _listed_lines(stored, folder)


def _any_summary(result: StoredResult, stored: ResultJson, folder: Path) -> dict[str, Any]:
    return {"folder": str(folder), "files": stored.files, "notes": stored.notes}


def _question_lines(result: Result, stored: QuestionJson, folder: Path) -> Iterator[str]:
    yield f"question: {plain(result.question)}"
    merged = ""
    if result.pass_mode in ("windows", "frames"):
        answers = len({single.answer.strip() for single in result.passes})
        merged = f"   ({f'{answers} different answers of' if answers > 1 else 'the answer of all'} "
        merged += f"{pluralize(len(result.passes), 'prompt')})"
    yield f"answer: {plain(result.answer) or '(no answer)'}{merged}"
    for single in result.passes:
        yield f"  {single.media[0].time_label}: {shortened(plain(single.answer)) or '(no answer)'}"
    if result.supplied_answer is not None:
        yield f"answer log-probability: {result.answer_logprob:.3f}"
        yield f"supplied answer: {plain(result.supplied_answer)}"
        yield f"supplied log-probability: {result.supplied_logprob:.3f}"
    if result.settings.faithfulness:
        from qvl_attn.cli.tables import faithfulness_lines

        yield from faithfulness_lines(result.curves, result.sanity or {})
    files = (
        "report.html",
        *(("heatmap.mp4", "frames/", "timeline.png") if result.is_clip else ()),
        "overlay.png",
        *(("faithfulness.png",) if result.settings.faithfulness else ()),
        *("layers.png", "layers_shared.png", "layers/", "tokens.png", "attention.npz", "result.json"),
    )
    for name in files:
        yield f"{name.removesuffix('.png').removesuffix('.html')}: {folder / name}"


def _question_summary(result: Result, stored: QuestionJson, folder: Path) -> dict[str, Any]:
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
        **(_clip_summary(result, folder) if result.is_clip else {}),
    }


def _clip_summary(result: Result, folder: Path) -> dict[str, Any]:
    return {
        "heatmap": str(folder / "heatmap.mp4"),
        "timeline": str(folder / "timeline.png"),
        "passes": [{"times_s": single.media[0].times_s.tolist(), "answer": single.answer} for single in result.passes],
    }


def _encoder_lines(result: EncoderResult, stored: EncoderJson, folder: Path) -> Iterator[str]:
    from qvl_attn.encoders.statistics import describe_statistics, statistics_of

    attention, provenance = result.attention, result.provenance
    t, h, w = attention.grid
    steps = f"{t} steps of " if t > 1 else ""
    yield f"{plain(result.media[0].source)}: {plain(provenance.family)} ({plain(provenance.model)})"
    yield (
        f"{steps}{w} x {h} patches of {attention.patch_px} px, "
        f"{pluralize(attention.layer_count, 'layer')}, {pluralize(attention.head_count, 'head')}"
    )
    yield from describe_statistics(statistics_of(attention))
    for saliency in result.saliency:
        yield f"{saliency.method}: {saliency.score:.3f} {plain(saliency.target)}"
    yield from _listed_lines(stored, folder)


def _encoder_summary(result: EncoderResult, stored: EncoderJson, folder: Path) -> dict[str, Any]:
    record = asdict(stored)
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
        **({"heatmap": str(folder / "heatmap.mp4")} if result.is_clip else {}),
    }


@dataclass(frozen=True)
class Printed:
    """How the results of a kind are printed; the defaults serve any kind.

    Attributes:
        lines: the lines about a result, from the result, its `result.json` and its folder.
        summary: its JSON object, from the same.
        shortest: what `--quiet` prints.
        memory: whether the largest memory of each stage is printed, on stderr.
    """

    lines: Callable[[Any, Any, Path], Iterable[str]] = _any_lines
    summary: Callable[[Any, Any, Path], dict[str, Any]] = _any_summary
    shortest: Callable[[Any, Path], str] = lambda result, folder: str(folder)
    memory: bool = False


# By the first of the kinds' names in `result.json`: the classes themselves need not be loaded.
KINDS = {
    "ask": Printed(_question_lines, _question_summary, lambda result, folder: plain(result.answer)),
    "encoder": Printed(_encoder_lines, _encoder_summary, memory=True),
}
# Figures that are printed for each layer of a folder run; all of them are in summary.json.
PRINTED_FIGURES = ("distance_px", "entropy_bits", "top10_share", "tokens_50", "tokens_90")
MAX_PRINTED_ERRORS = 3


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
