"""What a finished run leaves: its summary, computed from its rows alone, charts, a gallery, a CSV."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qvl_attn.attribution.settings import Headline
from qvl_attn.core.files import write_json, write_text
from qvl_attn.core.text import shortened
from qvl_attn.evaluation.examples import FOLDER, read_exhibits
from qvl_attn.evaluation.gallery import scored_exhibits
from qvl_attn.evaluation.output_files import CSV_FILE, clear, write_charts, write_csv
from qvl_attn.evaluation.page import check_html
from qvl_attn.evaluation.score import Score
from qvl_attn.evaluation.scores import as_json
from qvl_attn.evaluation.summary import FEW_GROUPS, summarise
from qvl_attn.render.html.page import REPORT_FILE
from qvl_attn.results.run_folder import ROWS_FILE, RUN_FILE, SUMMARY_FILE

SCHEMA_VERSION = 1
# Draws the best and the worst; gives the names of its files, and adds to the notes.
Gallery = Callable[[Sequence[Score], list[str]], list[str]]


def conclude(
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
    write_text(folder / REPORT_FILE, check_html(written, scores, read_exhibits(folder)))
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
