"""Pages of results: of one in memory, or of what lies in a folder."""

from __future__ import annotations

from collections.abc import Sequence

from qvl_attn.plain import shortened
from qvl_attn.report.of_result import result_data
from qvl_attn.report.pack import Parcel
from qvl_attn.report.page import page_html
from qvl_attn.result import Result

REPORT_FILE = "report.html"


def result_html(results: Sequence[Result], notes: Sequence[Sequence[str]] = ()) -> str:
    """One page of one or several results.

    Args:
        results: captured, or read back; several stand side by side.
        notes: for each result what its reader should know, a line each.
    """
    parcel = Parcel()
    told = [result_data(one, notes[i] if notes else (), parcel) for i, one in enumerate(results)]
    title = " · ".join(dict.fromkeys(shortened(one["question"]) for one in told))
    first = {map_["coarse"] for one in told for map_ in one["maps"]}
    return page_html("result", f"{title} · qvl-attn", {"results": told}, parcel, first)
