"""What a page tells of a check: its figures, plots by layer and head, a row a sample, the samples that were kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qvl_attn.core.text import shortened
from qvl_attn.evaluation.examples import Exhibit
from qvl_attn.evaluation.score import CONTROLS, FIGURES, Score, as_json
from qvl_attn.render.html.page import page_html
from qvl_attn.render.html.payload import Parcel

# Of the table; what is beyond is in `scores.jsonl`, and said.
MAX_ROWS = 5000
_TOLD = ("headline", "accuracy", "answers_and_grounding", "layers", "heads", "methods", "headline_map")
_COUNTS = ("samples", "pictures", "with_boxes", "errors", "groups")


def check_html(summary: Mapping[str, Any], scores: Sequence[Score], exhibits: Mapping[str, Exhibit]) -> str:
    """The page of a finished check.

    Args:
        summary: the contents of `summary.json`.
        scores: those that the summary is about.
        exhibits: by the ids of their samples.

    Raises:
        KeyError: the summary lacks something.
        ValueError: a figure in it is none.
    """
    for name in ("headline", "accuracy", "layers", "heads", "methods", "answers_and_grounding"):
        _check_numbers(name, summary[name])
    parcel = Parcel()
    known = [one for one in scores if one.id in exhibits]
    others = [one for one in scores if one.id not in exhibits]
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
        "cards": [_card(number, exhibits[one.id], parcel) for number, one in enumerate(shown) if one.id in exhibits],
    }
    return page_html("check", f"{shortened(model['name'])} · {shortened(data)} · qvl-attn", told, parcel)


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


def _card(row: int, exhibit: Exhibit, parcel: Parcel) -> dict[str, Any]:
    return {
        "row": row,
        "pictures": [parcel.add_jpeg(picture) for picture in exhibit.jpegs],
        "block": parcel.add_rows(np.concatenate([values.ravel() for values in exhibit.values])[None]),
        "grids": [list(values.shape) for values in exhibit.values],
        "boxes": [boxes.tolist() for boxes in exhibit.boxes],
        "places": list(exhibit.places),
        "of": exhibit.of,
        "times_s": list(exhibit.times_s),
        "uniform": exhibit.uniform,
        "high": exhibit.high,
    }
