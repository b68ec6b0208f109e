"""The outputs of a finished run: summary, charts, gallery, page and CSV, computed from its rows alone."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qvl_attn.attribution.grounding import GROUNDING
from qvl_attn.attribution.settings import Headline, settings_from
from qvl_attn.core.errors import InputError, StoreError
from qvl_attn.core.files import slug, write_json, write_png, write_text
from qvl_attn.core.text import inert, percent, pluralize, shortened
from qvl_attn.core.typed_json import decoded
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.examples import (
    FOLDER,
    Example,
    chosen_examples,
    example_boxes,
    example_file,
    example_of,
    read_examples,
)
from qvl_attn.evaluation.figures import CONTROLS, FIGURES
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.rows import as_json
from qvl_attn.evaluation.score import Score
from qvl_attn.evaluation.summary import FEW_GROUPS, summarise
from qvl_attn.evaluation.summary_json import Facts, Summary
from qvl_attn.media.resize import Picture
from qvl_attn.render.charts import BY_HEAD, draw_heads, draw_layers, draw_methods
from qvl_attn.render.html.page import REPORT_FILE
from qvl_attn.render.style import Drawing
from qvl_attn.results.run_folder import ROWS_FILE, RUN_FILE, SUMMARY_FILE, Run
from qvl_attn.vqa.figures import draw_result
from qvl_attn.vqa.result import Result

SCHEMA_VERSION = 1
# Draws the best and the worst samples, returns the names of the files, and may add to the notes.
Gallery = Callable[[Sequence[Score], list[str]], list[str]]


def write_outputs(
    folder: Path,
    facts: Facts,
    scores: Sequence[Score],
    gallery: Gallery,
    *,
    csv: bool = False,
    calibration: dict[str, Any] | None = None,
) -> Summary:
    """Write all outputs of a run except its rows; `summary.json` last.

    Args:
        folder: the folder of the run.
        facts: the field `facts` of `run.json`.
        scores: the scores of all its samples, in the order of the data set.
        gallery: draws the best and the worst samples.
        csv: whether to write `scores.csv` as well.
        calibration: how the headline was calibrated; None if it was not.

    Returns:
        The contents of `summary.json`.

    Raises:
        OSError: it cannot be written.
    """
    headline = decoded(facts["headline_of"], Headline, "headline_of")
    attention_modes = sorted({score.attention for score in scores if score.attention})
    summary = {
        "schema_version": SCHEMA_VERSION,
        "kind": "check",
        **{name: value for name, value in facts.items() if name not in ("model", "seed")},
        "model": {**facts["model"], "attention": ", ".join(attention_modes)},
        **summarise(scores, list(range(facts["model"]["layer_count"])), facts["seed"]),
        "calibration": calibration,
    }
    summary["notes"] = _notes(summary)
    clear(folder, scored_example_files(scores))
    files = write_charts(folder, summary, headline, _title(summary))
    files += gallery(scores, summary["notes"])
    if csv:
        write_csv(folder / CSV_FILE, scores)
        files.append(CSV_FILE)
    files += [f"{FOLDER}/{path.name}" for path in (folder / FOLDER).glob("*.npz")]
    summary["files"] = sorted([RUN_FILE, ROWS_FILE, SUMMARY_FILE, REPORT_FILE, *files])
    written = decoded(as_json(summary), Summary, "summary")
    write_text(folder / REPORT_FILE, check_html(written, scores, read_examples(folder)))
    write_json(folder / SUMMARY_FILE, written)
    return written


def facts_from(folder: Path, run: Run, scores: Sequence[Score]) -> Facts:
    """Return the facts of a run that was read back, before its outputs are written anew.

    Raises:
        StoreError: a fact is not what this version writes, or does not fit the scores.
    """
    try:
        facts = decoded(run["facts"], Facts, "facts")
        count = facts["model"]["layer_count"]
        layers = {len(score.layers["pointing"]) for score in scores if score.status == "ok"}
        if not layers <= {count}:
            raise ValueError("facts.model.layer_count: not that of the rows")
        headline = decoded(facts["headline_of"], Headline, "facts.headline_of")
        if not all(0 <= layer < count for layer in (*headline.layers, *(layer for layer, _ in headline.heads or ()))):
            raise ValueError(f"facts.headline_of: the model has layers 0 to {count - 1}")
        settings_from(facts["settings"], count)
        return facts
    except (ValueError, InputError) as error:
        raise StoreError(f"{folder} is damaged: {RUN_FILE}: {error}", "run it again") from None


def _title(summary: Mapping[str, Any]) -> str:
    title = (
        f"{shortened(summary['model']['name'])} on {shortened(summary['data'])}: "
        f"{pluralize(summary['samples'], 'sample')} about {pluralize(summary['pictures'], 'picture or clip')}, "
        f"attention of {summary['settings']['query']}"
    )
    shard = summary["shard"]
    title += f", part {shard['number']} of {shard['of']}" if shard else ""
    return title + (", the half not used to choose the heads" if summary["calibration"] else "")


def _notes(summary: dict[str, Any]) -> list[str]:
    notes = []
    if summary["errors"]:
        notes.append(
            f"{summary['errors']} of {summary['samples']} samples could not be scored: they count as wrong answers, as "
            f"misses for --fail-under pointing, and in no other figure; the first error: {summary['first_error']}"
        )
    if summary["retried"]:
        notes.append(
            f"{pluralize(summary['retried'], 'sample')} tried twice, because of the file or the memory: see retried in "
            f"{ROWS_FILE}"
        )
    if summary["calibration"] and not summary["with_boxes"]:
        notes.append("no sample of the second half could be scored: no profile was written")
    if summary["no_cell_inside"]:
        notes.append(
            f"in {pluralize(summary['no_cell_inside'], 'sample')} no cell has its centre in a box: the pointing game "
            "is always lost there, and the ROC-AUC is not defined (a higher --max-pixels makes smaller cells)"
        )
    if not summary["with_boxes"]:
        notes.append("no sample has boxes: grounding cannot be measured")
    elif summary["groups"] < FEW_GROUPS:
        notes.append(
            f"the intervals are based on only {pluralize(summary['groups'], 'independent picture or clip')}: "
            "do not trust them"
        )
    if summary["unsampled_boxes"]:
        notes.append(
            f"in {pluralize(summary['unsampled_boxes'], 'sample')} boxes are on frames that were not sampled: the "
            "boxes of the nearest frame of the same step are used instead, or none (a higher --fps samples more frames)"
        )
    for name, figures in summary["methods"].items():
        share = figures["empty"]["mean"] if "empty" in figures else 0
        if share:
            notes.append(f"method {name}: {share:.0%} of its maps are empty: they hit no box and rank no cells")
    over_all_layers = summary["headline"].get("pointing", {}).get("over_all_layers")
    if summary["calibration"] and over_all_layers and over_all_layers["high"] < 0:
        notes.append("the calibrated heads point worse than the mean of all layers: see over_all_layers")
    return notes


CSV_FILE = "scores.csv"
CHARTS = ("layers.png", "patterns.png", "heads.png", "methods.png")


def clear(folder: Path, keep: Collection[str]) -> None:
    """Remove outputs that an earlier, interrupted end of the same run wrote.

    Args:
        folder: the folder of the run.
        keep: the names of the examples that belong to the rows.
    """
    gallery = [path for path in (folder / "gallery").glob("*.*") if path.suffix in (".png", ".npz")]
    for path in (folder / CSV_FILE, *(folder / name for name in CHARTS), *gallery):
        if path.relative_to(folder).as_posix() not in keep:
            path.unlink(missing_ok=True)


def write_charts(folder: Path, summary: Mapping[str, Any], headline: Headline, title: str) -> list[str]:
    """Write `layers.png`, `patterns.png` and, if heads or methods were scored, `heads.png` and `methods.png`.

    Returns:
        The names of the files.
    """
    marked = headline.averaged_layers
    charts = {}
    if summary["layers"]:
        charts["layers.png"] = draw_layers(summary["layers"], marked, title)
        charts["patterns.png"] = draw_layers(summary["layers"], marked, title, patterns=True)
    if summary["heads"]:
        layers = [row["layer"] for row in summary["layers"]]
        chance = {name: summary["headline"][name]["chance"] for name in BY_HEAD}
        charts["heads.png"] = draw_heads(summary["heads"], layers, headline.heads or (), chance, title)
    if any(summary["methods"].values()):
        charts["methods.png"] = draw_methods(summary["methods"], title)
    for name, pixels in charts.items():
        write_png(folder / name, pixels)
    return list(charts)


def write_csv(path: Path, scores: Sequence[Score]) -> None:
    """Write one row per sample: texts, the figures of the headline and its controls, the figures of the methods.

    Text that a spreadsheet would run as a formula is quoted.
    """
    methods = dict.fromkeys(
        (name, figure) for score in scores for name, figures in score.methods.items() for figure in figures
    )
    controls = [(control, name) for control in CONTROLS for name in GROUNDING]
    header = ["id", "status", "media", "question", "answer", "references", "error", "accuracy", "right", "grounded"]
    header += ["area", *FIGURES, *(f"{name}_{control}" for control, name in controls)]
    header += [f"{figure}_{name}" for name, figure in methods]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        for score in scores:
            texts = [score.id, score.status, " | ".join(score.media), score.question, score.answer]
            texts += [" | ".join(score.references), score.error]
            values = [score.area, *(score.headline.get(name, np.nan) for name in FIGURES)]
            values += [score.controls.get(control, {}).get(name, np.nan) for control, name in controls]
            values += [score.methods.get(name, {}).get(figure, np.nan) for name, figure in methods]
            judged = ["" if value is None else str(value).lower() for value in (score.right, score.grounded)]
            rows.writerow([*map(inert, texts), _cell(score.accuracy), *judged, *map(_cell, values)])


def _cell(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""


# The drawing of a sample, and its example.
Drawn = tuple[Picture, Example]
GALLERY_SIZE = 6  # best samples, and as many worst ones
DRAWING = Drawing(draw_size_px=960)


def gallery_scores(scores: Sequence[Score]) -> Iterator[tuple[str, Score]]:
    """Yield the scores for the gallery: `best_1` and so on, then `worst_1` and so on.

    No sample is yielded twice, and no picture twice among the best or among the worst. Scores are ranked by the
    pointing game, and then by the mass above chance as a share of the possible mass above chance, `(mass - area) /
    (1 - area)`. The lift is not used, because large boxes limit it.
    """
    boxed = [score for score in scores if score.boxed and score.area < 1]
    ranked = sorted(
        boxed,
        key=lambda score: (-score.headline["pointing"], -(score.headline["mass"] - score.area) / (1 - score.area)),
    )
    used_ids: set[str] = set()
    for name, order in (("best", ranked), ("worst", ranked[::-1])):
        used_media: set[tuple[str, ...]] = set()
        for score in order:
            if len(used_media) < GALLERY_SIZE and score.media not in used_media and score.id not in used_ids:
                used_media.add(score.media)
                used_ids.add(score.id)
                yield f"{name}_{len(used_media)}", score


def file_name(name: str, score: Score) -> str:
    """Return the path of a sample's drawing, relative to the folder of its run."""
    return f"gallery/{name}_{slug(score.id, 48)}.png"


def draw_sample(sample: Sample, score: Score, result: Result) -> Picture:
    """Draw the headline map with the sample's boxes outlined and its figures below: (H, W, 3) uint8 RGB."""
    drawn = draw_result(result, DRAWING)
    places = drawn.steps if sample.is_clip else range(len(sample.media_refs))
    return drawn.overlay(example_boxes(sample, result, places), _caption(score, clip=sample.is_clip))


def draw_both(sample: Sample, score: Score, result: Result) -> Drawn:
    """Return `draw_sample`'s picture and the sample's example."""
    return draw_sample(sample, score, result), example_of(sample, result)


def scored_example_files(scores: Sequence[Score]) -> set[str]:
    """Return the paths of the examples that were written when their samples were scored; errors have none."""
    ids = chosen_examples(score.id for score in scores)
    return {example_file(score.id) for score in scores if score.status == "ok" and score.id in ids}


def _caption(score: Score, *, clip: bool) -> list[str]:
    figures, right = score.headline, score.right
    judged = "" if right is None else f" · the answer is {'right' if right else 'wrong'}"
    accepted = f" (accepted: {' | '.join(dict.fromkeys(score.references))})" if right is False else ""
    grounded = "grounded" if score.grounded else "not grounded"
    grounded += "" if score.inside else " (no cell has its centre in the box)"
    mean = ", mean of the steps with boxes" if clip else ""
    return [
        f"outlined: the evidence · {grounded} · lift {figures['lift']:.2f} (chance 1) · "
        f"mass in the box {percent(figures['mass'])} (area {percent(score.area)}{mean}){judged}{accepted}"
    ]
