"""The page of a check: its figures, plots by layer and head, a table row per sample, a card per example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qvl_attn.core.text import shortened
from qvl_attn.evaluation.examples import Example, jpeg_size_px
from qvl_attn.evaluation.figures import CONTROLS, FIGURES
from qvl_attn.evaluation.rows import as_json
from qvl_attn.evaluation.score import Score
from qvl_attn.evaluation.summary_json import Summary
from qvl_attn.render.html.page import page_html
from qvl_attn.render.html.payload import Payload

# The table's limit; the page states how many rows it leaves out, which are in `scores.jsonl`.
MAX_ROWS = 5000
# The limit of a text in it.
MAX_TEXT = 2000
_COPIED = {"headline", "accuracy", "answers_and_grounding", "layers", "heads", "methods", "headline_map", "notes"}
_COPIED |= {"headline_of", "data", "samples", "pictures", "with_boxes", "errors", "groups"}
_MODEL = {"name", "revision", "dtype", "device", "attention", "qvl_attn"}


def check_html(summary: Summary, scores: Sequence[Score], examples: Mapping[str, Example]) -> str:
    """Return the page of a finished check.

    Args:
        summary: the contents of `summary.json`.
        scores: the scores that the summary is about.
        examples: the examples by the id of their sample.
    """
    payload = Payload()
    with_example = [score for score in scores if score.id in examples]
    without_example = [score for score in scores if score.id not in examples]
    listed = [*with_example, *without_example[: max(MAX_ROWS - len(with_example), 0)]]
    listed.sort(key=lambda score: score.index)
    model, data = summary["model"], summary["data"]
    page_data = {
        **{name: value for name, value in summary.items() if name in _COPIED},
        "query": summary["settings"]["query"],
        "model": {name: text for name, text in model.items() if name in _MODEL},
        "figures": list(FIGURES),
        "controls": list(CONTROLS),
        "rows": [as_json(_row(score)) for score in listed],
        "left_out": len(scores) - len(listed),
        "cards": [_card(row, examples[score.id], payload) for row, score in enumerate(listed) if score.id in examples],
    }
    return page_html("check", f"{shortened(model['name'])} · {shortened(data)} · qvl-attn", page_data, payload)


def _row(score: Score) -> dict[str, Any]:
    return {
        "id": score.id,
        "media": list(score.media),
        "question": shortened(score.question, MAX_TEXT),
        "answer": shortened(score.answer, MAX_TEXT),
        "references": [shortened(text, MAX_TEXT) for text in dict.fromkeys(score.references)],
        "right": score.right,
        "grounded": score.grounded,
        "error": score.error,
        "area": score.area,
        "figures": [score.headline.get(name, np.nan) for name in FIGURES],
        "controls": [[score.controls.get(control, {}).get(name, np.nan) for name in FIGURES] for control in CONTROLS],
    }


def _card(row: int, example: Example, payload: Payload) -> dict[str, Any]:
    return {
        "row": row,
        "pictures": [payload.add_jpeg(picture) for picture in example.jpegs],
        "sizes_px": [jpeg_size_px(picture) for picture in example.jpegs],
        "block": payload.add_rows(np.concatenate([values.ravel() for values in example.values])[None]),
        "grids": [list(values.shape) for values in example.values],
        "boxes": [boxes.tolist() for boxes in example.boxes],
        "places": list(example.places),
        "of": example.of,
        "times_s": list(example.times_s),
        "uniform": example.uniform,
        "high": example.high,
    }
