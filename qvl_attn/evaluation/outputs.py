"""What a finished run leaves: its summary, computed from its rows alone, charts, a gallery, a CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qvl_attn.attribution.grounding import GROUNDING
from qvl_attn.attribution.settings import Headline
from qvl_attn.core.files import slug, write_json, write_png, write_text
from qvl_attn.core.text import inert, percent, shortened
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.examples import (
    FOLDER,
    Example,
    chosen_examples,
    example_file,
    example_of,
    read_examples,
    shown_boxes,
)
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.score import CONTROLS, FIGURES, Score, as_json
from qvl_attn.evaluation.summary import FEW_GROUPS, summarise
from qvl_attn.media.resize import Picture
from qvl_attn.render.charts import BY_HEAD, draw_heads, draw_layers, draw_methods
from qvl_attn.render.html.page import REPORT_FILE
from qvl_attn.render.style import Drawing
from qvl_attn.results.run_folder import ROWS_FILE, RUN_FILE, SUMMARY_FILE
from qvl_attn.vqa.figures import draw_result
from qvl_attn.vqa.result import Result

SCHEMA_VERSION = 1
# Draws the best and the worst; gives the names of its files, and adds to the notes.
Gallery = Callable[[Sequence[Score], list[str]], list[str]]


def write_outputs(
    folder: Path,
    facts: Mapping[str, Any],
    scores: Sequence[Score],
    gallery: Gallery,
    *,
    csv: bool = False,
    calibration: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write everything that a run leaves beside its rows; `summary.json` last.

    Args:
        folder: of the run.
        facts: of `run.json`.
        scores: of all its samples, in the order of the data set.
        gallery: draws the best and the worst.
        csv: write `scores.csv` as well.
        calibration: how the headline was found.

    Returns:
        The contents of `summary.json`.

    Raises:
        OSError: it cannot be written.
    """
    headline = Headline(
        tuple(facts["headline_of"]["layers"]),
        facts["headline_of"]["heads"] and tuple((layer, head) for layer, head in facts["headline_of"]["heads"]),
    )
    ways = sorted({one.attention for one in scores if one.attention})
    summary = {
        "schema_version": SCHEMA_VERSION,
        "kind": "check",
        **{name: facts[name] for name in ("data", "headline_map", "headline_of", "settings", "shard")},
        "model": {**facts["model"], "attention": ", ".join(ways)},
        **summarise(scores, list(range(facts["model"]["layer_count"])), facts["seed"]),
        "calibration": calibration,
    }
    summary["notes"] = _notes(summary)
    clear(folder, scored_exhibits(scores))
    files = write_charts(folder, summary, headline, _title(summary))
    files += gallery(scores, summary["notes"])
    if csv:
        write_csv(folder / CSV_FILE, scores)
        files.append(CSV_FILE)
    files += [f"{FOLDER}/{path.name}" for path in (folder / FOLDER).glob("*.npz")]
    summary["files"] = sorted([RUN_FILE, ROWS_FILE, SUMMARY_FILE, REPORT_FILE, *files])
    written: dict[str, Any] = as_json(summary)
    write_text(folder / REPORT_FILE, check_html(written, scores, read_examples(folder)))
    write_json(folder / SUMMARY_FILE, written)
    return written


def _title(summary: Mapping[str, Any]) -> str:
    title = (
        f"{shortened(summary['model']['name'])} on {shortened(summary['data'])}: {summary['samples']} samples about "
    )
    title += f"{summary['pictures']} pictures, attention of {summary['settings']['query']}"
    shard = summary["shard"]
    title += f", part {shard['number']} of {shard['of']}" if shard else ""
    return title + (", the half that had no part in the choice" if summary["calibration"] else "")


def _notes(summary: dict[str, Any]) -> list[str]:
    notes = []
    if summary["errors"]:
        notes.append(
            f"{summary['errors']} of {summary['samples']} samples could not be scored: they count as wrong answers, "
            f"for --fail-under pointing as misses too, and are in no other figure; the first: {summary['first_error']}"
        )
    if summary["retried"]:
        notes.append(
            f"{summary['retried']} samples were tried once more, the file or the memory: see retried in {ROWS_FILE}"
        )
    if summary["calibration"] and not summary["with_boxes"]:
        notes.append("no sample of the second half could be scored: no profile was written")
    if summary["no_cell_inside"]:
        notes.append(
            f"in {summary['no_cell_inside']} samples no cell has its centre in a box: the pointing game cannot be won "
            "there, and the ROC-AUC is not defined (a higher --max-pixels makes smaller cells)"
        )
    if not summary["with_boxes"]:
        notes.append("no sample has boxes: nothing says where the evidence is")
    elif summary["groups"] < FEW_GROUPS:
        notes.append(f"the intervals rest on {summary['groups']} independent pictures or clips: too few to trust them")
    if summary["unsampled_boxes"]:
        notes.append(
            f"in {summary['unsampled_boxes']} samples boxes are on frames that were not sampled: those of the nearest "
            "frame of the same step stand in, or none (a higher --fps samples more)"
        )
    for name, own in summary["methods"].items():
        share = own["empty"]["mean"] if "empty" in own else 0
        if share:
            notes.append(f"method {name}: {share:.0%} of its maps are empty: they hit nothing, and have no order")
    over = summary["headline"].get("pointing", {}).get("over_all_layers")
    if summary["calibration"] and over and over["high"] < 0:
        notes.append("the calibrated heads point worse than the mean of all layers: see over_all_layers")
    return notes


CSV_FILE = "scores.csv"
CHARTS = ("layers.png", "patterns.png", "heads.png", "methods.png")


def clear(folder: Path, kept: Collection[str]) -> None:
    """Take away what an earlier end of the same run left there.

    Args:
        folder: of the run.
        kept: names of exhibits that belong to the rows.
    """
    gallery = [path for path in (folder / "gallery").glob("*.*") if path.suffix in (".png", ".npz")]
    for path in (folder / CSV_FILE, *(folder / name for name in CHARTS), *gallery):
        if path.relative_to(folder).as_posix() not in kept:
            path.unlink(missing_ok=True)


def write_charts(folder: Path, summary: Mapping[str, Any], headline: Headline, title: str) -> list[str]:
    """`layers.png`, `patterns.png` and, where heads or methods were scored, `heads.png`, `methods.png`; their names."""
    marked = tuple(sorted({layer for layer, _ in headline.heads})) if headline.heads else headline.layers
    drawn = {}
    if summary["layers"]:
        drawn["layers.png"] = draw_layers(summary["layers"], marked, title)
        drawn["patterns.png"] = draw_layers(summary["layers"], marked, title, patterns=True)
    if summary["heads"]:
        layers = [row["layer"] for row in summary["layers"]]
        chance = {name: summary["headline"][name]["chance"] for name in BY_HEAD}
        drawn["heads.png"] = draw_heads(summary["heads"], layers, headline.heads or (), chance, title)
    if any(summary["methods"].values()):
        drawn["methods.png"] = draw_methods(summary["methods"], title)
    for name, pixels in drawn.items():
        write_png(folder / name, pixels)
    return list(drawn)


def write_csv(path: Path, scores: Sequence[Score]) -> None:
    """One row a sample: texts, the headline's figures with its controls, those of the methods.

    What a spreadsheet would run is quoted.
    """
    methods = dict.fromkeys((name, figure) for one in scores for name, own in one.methods.items() for figure in own)
    controls = [(control, name) for control in CONTROLS for name in GROUNDING]
    header = ["id", "status", "media", "question", "answer", "references", "error", "accuracy", "right", "grounded"]
    header += ["area", *FIGURES, *(f"{name}_{control}" for control, name in controls)]
    header += [f"{figure}_{name}" for name, figure in methods]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        for one in scores:
            texts = [one.id, one.status, " | ".join(one.media), one.question, one.answer, " | ".join(one.references)]
            figures = [one.area, *(one.headline.get(name, np.nan) for name in FIGURES)]
            figures += [one.controls.get(control, {}).get(name, np.nan) for control, name in controls]
            figures += [one.methods.get(name, {}).get(figure, np.nan) for name, figure in methods]
            judged = ["" if known is None else str(known).lower() for known in (one.right, one.grounded)]
            rows.writerow([*map(inert, [*texts, one.error]), _cell(one.accuracy), *judged, *map(_cell, figures)])


def _cell(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""


# A page, and what is kept to show the sample in another way.
Drawn = tuple[Picture, Example]
EACH = 6
DRAWING = Drawing(draw_size_px=960)


def chosen(scores: Sequence[Score]) -> Iterator[tuple[str, Score]]:
    """`best_1` and on, and `worst_1` and on; none twice, and no picture twice in either.

    What points into a box comes before what does not, and then what has more in the boxes than chance gives, over the
    most that it could have: `(mass - area) / (1 - area)`. The lift would not do, of which large boxes allow little.
    """
    boxed = [one for one in scores if one.boxed and one.area < 1]
    ranked = sorted(
        boxed, key=lambda one: (-one.headline["pointing"], -(one.headline["mass"] - one.area) / (1 - one.area))
    )
    taken: set[str] = set()
    for name, order in (("best", ranked), ("worst", ranked[::-1])):
        seen: set[tuple[str, ...]] = set()
        for one in order:
            if len(seen) < EACH and one.media not in seen and one.id not in taken:
                seen.add(one.media)
                taken.add(one.id)
                yield f"{name}_{len(seen)}", one


def file_name(name: str, score: Score) -> str:
    """Where a sample is drawn, from the folder of its run."""
    return f"gallery/{name}_{slug(score.id, 48)}.png"


def draw_sample(sample: Sample, score: Score, result: Result) -> Picture:
    """The headline map with the sample's boxes outlined and its figures beneath: (H, W, 3) uint8 RGB."""
    drawn = draw_result(result, DRAWING)
    places = drawn.steps if sample.is_clip else range(len(sample.media_refs))
    return drawn.overlay(shown_boxes(sample, result, places), _lines(score, clip=sample.is_clip))


def draw_both(sample: Sample, score: Score, result: Result) -> Drawn:
    """A sample's page as `draw_sample` draws it, and its exhibit."""
    return draw_sample(sample, score, result), example_of(sample, result)


def scored_exhibits(scores: Sequence[Score]) -> set[str]:
    """Where the exhibits lie that were made when the samples were scored; those of errors were not."""
    ids = chosen_examples(one.id for one in scores)
    return {example_file(one.id) for one in scores if one.status == "ok" and one.id in ids}


def _lines(score: Score, *, clip: bool) -> list[str]:
    one, right = score.headline, score.right
    judged = "" if right is None else f" · the answer is {'right' if right else 'wrong'}"
    wanted = f" (accepted: {' | '.join(dict.fromkeys(score.references))})" if right is False else ""
    where = "points into the box" if score.grounded else "points elsewhere"
    where = where if score.inside else "no cell has its centre in the box"
    within = "of the attention on the steps with boxes, one by one," if clip else "of the attention on vision"
    return [
        f"outlined: the evidence · {where} · lift {one['lift']:.2f} (chance 1) · "
        f"{percent(one['mass'])} {within} in the box (area {percent(score.area)}){judged}{wanted}"
    ]
