"""What a page tells of a check: its figures, plots by layer and head, a row a sample, the samples that were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qvl_attn.core.text import shortened
from qvl_attn.evaluation.examples import Example
from qvl_attn.evaluation.score import CONTROLS, FIGURES, Score, as_json
from qvl_attn.render.html.page import page_html
from qvl_attn.render.html.payload import Payload

# Of the table; what is beyond is in `scores.jsonl`, and said.
MAX_ROWS = 5000
_TOLD = ("headline", "accuracy", "answers_and_grounding", "layers", "heads", "methods", "headline_map")
_COUNTS = ("samples", "pictures", "with_boxes", "errors", "groups")


def check_html(summary: Mapping[str, Any], scores: Sequence[Score], examples: Mapping[str, Example]) -> str:
    """The page of a finished check.

    Args:
        summary: the contents of `summary.json`.
        scores: those that the summary is about.
        examples: by the ids of their samples.

    Raises:
        KeyError: the summary lacks something.
        ValueError: a figure in it is none.
    """
    for name in ("headline", "accuracy", "layers", "heads", "methods", "answers_and_grounding"):
        _check_numbers(name, summary[name])
    payload = Payload()
    known = [one for one in scores if one.id in examples]
    others = [one for one in scores if one.id not in examples]
    shown = sorted([*known, *others[: max(MAX_ROWS - len(known), 0)]], key=lambda one: one.index)
    model, data = summary["model"], summary["data"]
    told = {
        **{name: summary[name] for name in (*_TOLD, *_COUNTS)},
        "headline_of": summary.get("headline_of"),
        "data": data,
        "query": summary["settings"]["query"],
        "model": {name: model.get(name) for name in ("name", "revision", "dtype", "device", "attention", "qvl_attn")},
        "notes": summary["notes"],
        "figures": list(FIGURES),
        "controls": list(CONTROLS),
        "rows": [as_json(_row(one)) for one in shown],
        "left_out": len(scores) - len(shown),
        "cards": [_card(number, examples[one.id], payload) for number, one in enumerate(shown) if one.id in examples],
    }
    return page_html("check", f"{shortened(model['name'])} · {shortened(data)} · qvl-attn", told, payload)


def _check_numbers(name: str, value: Any) -> None:
    """Find what is no number, or null, in a table of figures that was read back."""
    if isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            _check_numbers(name, one)
    elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"{name}: {value!r} is no number")


def _row(one: Score) -> dict[str, Any]:
    return {
        "id": one.id,
        "media": list(one.media),
        "question": one.question,
        "answer": one.answer,
        "references": list(dict.fromkeys(one.references)),
        "right": one.right,
        "grounded": one.grounded,
        "error": one.error,
        "area": one.area,
        "figures": [one.headline.get(name, np.nan) for name in FIGURES],
        "controls": [[one.controls.get(control, {}).get(name, np.nan) for name in FIGURES] for control in CONTROLS],
    }


def _card(row: int, example: Example, payload: Payload) -> dict[str, Any]:
    return {
        "row": row,
        "pictures": [payload.add_jpeg(picture) for picture in example.jpegs],
        "block": payload.add_rows(np.concatenate([values.ravel() for values in example.values])[None]),
        "grids": [list(values.shape) for values in example.values],
        "boxes": [boxes.tolist() for boxes in example.boxes],
        "places": list(example.places),
        "of": example.of,
        "times_s": list(example.times_s),
        "uniform": example.uniform,
        "high": example.high,
    }
