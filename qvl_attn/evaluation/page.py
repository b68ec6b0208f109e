"""The page of a check: its figures, plots by layer and head, a table row per sample, a card per example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qvl_attn.core.text import shortened
from qvl_attn.evaluation.examples import Example, jpeg_size_px
from qvl_attn.evaluation.score import CONTROLS, FIGURES, Score, as_json
from qvl_attn.render.html.page import page_html
from qvl_attn.render.html.payload import Payload

# The table's limit; the page states how many rows it leaves out, which are in `scores.jsonl`.
MAX_ROWS = 5000
# The limit of a text in it.
MAX_TEXT = 2000
_COPIED = ("headline", "accuracy", "answers_and_grounding", "layers", "heads", "methods", "headline_map")
_COUNTS = ("samples", "pictures", "with_boxes", "errors", "groups")


def check_html(summary: Mapping[str, Any], scores: Sequence[Score], examples: Mapping[str, Example]) -> str:
    """Return the page of a finished check.

    Args:
        summary: the contents of `summary.json`.
        scores: the scores that the summary is about.
        examples: the examples by the id of their sample.

    Raises:
        KeyError: the summary lacks a field.
        ValueError: a figure in the summary is not a number.
    """
    for name in ("headline", "accuracy", "layers", "heads", "methods", "answers_and_grounding"):
        _check_numbers(name, summary[name])
    payload = Payload()
    with_example = [score for score in scores if score.id in examples]
    without_example = [score for score in scores if score.id not in examples]
    listed = [*with_example, *without_example[: max(MAX_ROWS - len(with_example), 0)]]
    listed.sort(key=lambda score: score.index)
    model, data = summary["model"], summary["data"]
    page_data = {
        **{name: summary[name] for name in (*_COPIED, *_COUNTS)},
        "headline_of": summary.get("headline_of"),
        "data": data,
        "query": summary["settings"]["query"],
        "model": {name: model.get(name) for name in ("name", "revision", "dtype", "device", "attention", "qvl_attn")},
        "notes": summary["notes"],
        "figures": list(FIGURES),
        "controls": list(CONTROLS),
        "rows": [as_json(_row(score)) for score in listed],
        "left_out": len(scores) - len(listed),
        "cards": [_card(row, examples[score.id], payload) for row, score in enumerate(listed) if score.id in examples],
    }
    return page_html("check", f"{shortened(model['name'])} · {shortened(data)} · qvl-attn", page_data, payload)


def _check_numbers(name: str, value: Any) -> None:
    """Check that a table of figures that was read back contains only numbers and null."""
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_numbers(name, item)
    elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{name}: {value!r} is not a number")


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
