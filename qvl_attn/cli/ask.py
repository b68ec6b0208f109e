"""`qvl-attn ask`: questions about a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qvl_attn.cli.console import faults, go_offline, hush_libraries, importing, libraries_in_c_hushed, say
from qvl_attn.errors import InputError, ResultExistsError
from qvl_attn.plain import plain

if TYPE_CHECKING:
    from qvl_attn.analyzer import Analyzer
    from qvl_attn.question import Question
    from qvl_attn.result import Result
    from qvl_attn.types import Drawing


class Attn(StrEnum):
    """Attention modes."""

    auto = "auto"
    eager = "eager"
    rows = "rows"


class HeadDtype(StrEnum):
    """Precisions of heads that are kept apart."""

    float32 = "float32"
    float16 = "float16"


class Colormap(StrEnum):
    """Colour maps."""

    inferno = "inferno"
    viridis = "viridis"
    jet = "jet"


class Interp(StrEnum):
    """How cells become pixels."""

    linear = "linear"
    cells = "cells"


class ScaleMode(StrEnum):
    """Whether layers share a scale."""

    layer = "layer"
    shared = "shared"


FILES = ("overlay.png", "layers.png", "layers_shared.png", "layers/", "tokens.png", "attention.npz", "result.json")
MODEL, MAPS, OUTPUT, DRAWING = "Model", "Attention", "Output", "Drawing"


def ask(
    media: Annotated[str, typer.Argument(metavar="MEDIA", help="A picture: JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF.")],
    questions: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION...", help="One or several questions about it.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", "-i", help="A further picture for the same prompt; repeatable.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="A set of questions: a JSONL file, or the name of a set that ships.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Hugging Face id or folder; 'demo' is embedded.", rich_help_panel=MODEL)
    ] = "Qwen/Qwen2.5-VL-3B-Instruct",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a hub model.", rich_help_panel=MODEL)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.", rich_help_panel=MODEL)] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="auto: spread the model over several GPUs.", rich_help_panel=MODEL)
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.", rich_help_panel=MODEL)] = "auto",
    attn: Annotated[
        Attn,
        typer.Option(
            help="eager: the reference; rows: what is shown, beside SDPA; auto: eager in float32 where it fits.",
            rich_help_panel=MODEL,
        ),
    ] = Attn.auto,
    offline: Annotated[bool, typer.Option("--offline", help="Never reach for the hub.", rich_help_panel=MODEL)] = False,
    system: Annotated[str | None, typer.Option(help="System prompt.", rich_help_panel=MODEL)] = None,
    min_pixels: Annotated[
        int | None, typer.Option(help="Smallest size a picture is resized to, in pixels.", rich_help_panel=MODEL)
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Largest size a picture is resized to, in pixels.", rich_help_panel=MODEL)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Where an answer is cut.", rich_help_panel=MODEL)] = 128,
    seed: Annotated[int, typer.Option(help="For torch; answers are greedy.", rich_help_panel=MODEL)] = 0,
    query: Annotated[
        str, typer.Option(help="Whose attention: question, last, answer, text:WORDS.", rich_help_panel=MAPS)
    ] = "question",
    layers: Annotated[
        str | None,
        typer.Option(
            help="all, 18, 14-20 or 4,8,12: captured and averaged. Default: all, headline 50-85 % of the depth.",
            rich_help_panel=MAPS,
        ),
    ] = None,
    heads: Annotated[str | None, typer.Option(help="3,5 or 21.9,21.11 (layer.head).", rich_help_panel=MAPS)] = None,
    store_heads: Annotated[
        HeadDtype, typer.Option(help="Of heads kept apart; float16 rounds by 2^-11 at most.", rich_help_panel=MAPS)
    ] = HeadDtype.float32,
    answer: Annotated[
        str | None, typer.Option(help="Maps and log-probability of this answer, teacher-forced.", rich_help_panel=MAPS)
    ] = None,
    colormap: Annotated[Colormap, typer.Option(help="Colours.", rich_help_panel=DRAWING)] = Colormap.inferno,
    alpha: Annotated[float, typer.Option(help="Weight of the colours, 0 to 1.", rich_help_panel=DRAWING)] = 0.5,
    interp: Annotated[
        Interp, typer.Option(help="Interpolated, or each cell as its box.", rich_help_panel=DRAWING)
    ] = Interp.linear,
    blur: Annotated[float, typer.Option(help="Gaussian sigma, in cells.", rich_help_panel=DRAWING)] = 0.0,
    scale: Annotated[
        ScaleMode, typer.Option(help="A scale for each layer, or one shared by all.", rich_help_panel=DRAWING)
    ] = ScaleMode.layer,
    top_percent: Annotated[
        float, typer.Option(help="Colour only this share of the cells, the strongest.", rich_help_panel=DRAWING)
    ] = 100.0,
    draw_size: Annotated[
        str, typer.Option(help="Longest side of a drawn picture in pixels, or 'full'.", rich_help_panel=DRAWING)
    ] = "1280",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", rich_help_panel=OUTPUT)] = Path(
        "qvl-attn-out"
    ),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an identical result.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a question on stdout.", rich_help_panel=OUTPUT)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only the answers, or the JSON.", rich_help_panel=OUTPUT)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """Ask questions about a picture and draw where each layer looked.

    qvl-attn ask cats.png "how many cats?" --model demo
    """
    with faults(debug=debug):
        if offline:
            go_offline()
        asked = _questions(questions or [], prompts)
        # Imported here: --help and a mistyped path must not wait for torch.
        from qvl_attn.media import load_picture
        from qvl_attn.store import check_writable, read_json

        with libraries_in_c_hushed():
            pictures = [load_picture(path) for path in (media, *(image or []))]
        drawing = _drawing(colormap, alpha, interp, blur, scale, top_percent, draw_size)
        check_writable(out)

        with importing():
            from qvl_attn.analyzer import Analyzer
            from qvl_attn.result import Settings

        hush_libraries(bars=not quiet)
        tell = (lambda message: None) if quiet else say
        settings = Settings(
            query, layers, heads, system, answer, min_pixels, max_pixels, max_new_tokens, seed, store_heads.value
        )
        analyzer = Analyzer.load(
            model,
            revision=revision,
            device=device,
            dtype=dtype,
            device_map=device_map,
            attn=attn.value,
            offline=offline,
            say=tell,
        )
        prepared = analyzer.prepare([(pictures, question) for question in asked], settings)
        for result, folder, reused in _results(analyzer, prepared, drawing, out, overwrite):
            if reused:
                tell(f"found complete in {folder}, nothing was computed (--overwrite does it again)")
            for note in read_json(folder / "result.json")["notes"]:
                tell(f"note: {note}")
            _print(result, folder, reused=reused, as_json=as_json, quiet=quiet)


def _questions(questions: list[str], prompts: str | None) -> list[str]:
    for question in questions:
        if os.path.isfile(question):  # pathlib raises on names that are too long  # noqa: PTH113
            raise InputError(f"{question!r} is a file, and stands where a question belongs", f"--image {question}")
    asked = list(questions)
    if prompts is not None:
        from qvl_attn.prompts import load_prompts

        asked += [item.question for item in load_prompts(prompts)]
    if not asked:
        raise InputError("no question", 'qvl-attn ask MEDIA "how many cats?", or --prompts FILE')
    once = list(dict.fromkeys(asked))
    if len(once) < len(asked):
        say(f"{len(asked)} questions, {len(once)} different ones: each is answered once")
    return once


def _drawing(
    colormap: Colormap,
    alpha: float,
    interp: Interp,
    blur: float,
    scale: ScaleMode,
    top_percent: float,
    draw_size: str,
) -> Drawing:
    from qvl_attn.types import Drawing

    if draw_size != "full" and not (draw_size.isdecimal() and int(draw_size) > 0):
        raise InputError(f"--draw-size {draw_size}: want a number of pixels, or full")
    return Drawing(
        colormap=colormap.value,
        alpha=alpha,
        interp=interp.value,
        blur_cells=blur,
        scale=scale.value,
        top_percent=top_percent,
        draw_size_px=0 if draw_size == "full" else int(draw_size),
    )


def _results(
    analyzer: Analyzer, questions: list[Question], drawing: Drawing, out: Path, overwrite: bool
) -> Iterator[tuple[Result, Path, bool]]:
    """Each question's result in the order in which they were asked, its folder, and whether it was there already."""
    from qvl_attn.folder import is_complete
    from qvl_attn.result import Result

    folders = [_folder(analyzer, one, drawing, out, overwrite) for one in questions]
    there = [is_complete(folder) and not overwrite for folder in folders]
    missing = [i for i, done in enumerate(there) if not done]
    answers = analyzer.answer([questions[i] for i in missing])
    saved: dict[int, Result] = {}
    for i, folder in enumerate(folders):
        while not there[i] and i not in saved:
            at, result = next(answers)
            try:
                result.save(out, drawing, overwrite=overwrite)
                saved[missing[at]] = result
            except ResultExistsError:  # another run finished the same one meanwhile
                there[missing[at]] = True
        yield (Result.load(folder), folder, True) if there[i] else (saved.pop(i), folder, False)


def _folder(analyzer: Analyzer, question: Question, drawing: Drawing, out: Path, overwrite: bool) -> Path:
    """Where a question's result goes, or is: with `auto` one that was made the other way serves as well."""
    from qvl_attn.folder import folder_name, is_complete

    ways = [question.attention]
    if analyzer.attn == "auto" and analyzer.placement.dtype == "float32" and not overwrite:
        ways += ["rows" if question.attention == "eager" else "eager"]
    folders = []
    for way in ways:
        made_by = analyzer.made_by(question) | {"attention": way}
        folders.append(out / folder_name(question.media, question.prompt.question, question.settings, drawing, made_by))
    return next((folder for folder in folders if is_complete(folder)), folders[0])


def _print(result: Result, folder: Path, *, reused: bool, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_summary(result, folder, reused), allow_nan=False))
        return
    if quiet:
        typer.echo(plain(result.answer))
        return
    typer.echo(f"question: {plain(result.question)}")
    typer.echo(f"answer: {plain(result.answer) or '(no answer)'}")
    if result.supplied_answer is not None:
        typer.echo(f"answer log-probability: {result.answer_logprob:.3f}")
        typer.echo(f"supplied answer: {plain(result.supplied_answer)}")
        typer.echo(f"supplied log-probability: {result.supplied_logprob:.3f}")
    for name in FILES:
        typer.echo(f"{name.removesuffix('.png')}: {folder / name}")


def _summary(result: Result, folder: Path, reused: bool) -> dict[str, Any]:
    return {
        "question": result.question,
        "answer": result.answer,
        "answer_logprob": result.answer_logprob,
        "supplied_answer": result.supplied_answer,
        "supplied_logprob": result.supplied_logprob,
        "vision_mass": result.heatmap().vision_mass,
        "attention": result.provenance.attention,
        "attention_reason": result.provenance.attention_reason,
        "folder": str(folder),
        "overlay": str(folder / "overlay.png"),
        "reused": reused,
    }
