"""The figures of methods as tables on the terminal."""

from __future__ import annotations

from statistics import median
from typing import Any

GROUNDING = {"pointing": "pointing", "lift": "lift", "auc": "ROC-AUC", "iou": "IoU"}
FAITHFUL = {
    "deletion_blur": "deletion, blur",
    "deletion_mean": "deletion, mean",
    "insertion_blur": "insertion, blur",
    "insertion_mean": "insertion, mean",
}
SANITY = {"weights": "scrambled weights", "question": "another question", "picture": "another picture"}
NAME_WIDTH, WIDTH = 20, 24


def method_lines(summary: dict[str, Any]) -> list[str]:
    """Grounding, deletion and insertion, and sanity of each method, as far as they were measured."""
    table = summary["methods"]
    lines = _table("method", table, GROUNDING)
    if lines:
        chances = [_chance(table, name) for name in GROUNDING]
        lines.append(f"{'chance':<{NAME_WIDTH}}" + "".join(f"{chance:>{WIDTH}}" for chance in chances))
    lines += _table("area, nats", table, FAITHFUL)
    paired = {
        name: {figure: one["over_random"] for figure, one in own.items() if "over_random" in one}
        for name, own in table.items()
    }
    lines += _table("less random orders", paired, FAITHFUL)
    ranks = {f"{name}_rank": words for name, words in SANITY.items()}
    return lines + _table("rank correlation", table, ranks)


def _table(title: str, table: dict[str, Any], columns: dict[str, str]) -> list[str]:
    rows = [(name, own) for name, own in table.items() if any(column in own for column in columns)]
    if not rows:
        return []
    lines = ["", f"{title:<{NAME_WIDTH}}" + "".join(f"{words:>{WIDTH}}" for words in columns.values())]
    for name, own in rows:
        cells = (_cell(own.get(column)) for column in columns)
        lines.append(f"{name:<{NAME_WIDTH}}" + "".join(f"{cell:>{WIDTH}}" for cell in cells))
    return lines


def _cell(one: dict[str, Any] | None) -> str:
    if one is None or one["mean"] is None:
        return "-"
    ends = [] if one["low"] is None else [f"[{one['low']:.2f}, {one['high']:.2f}]"]
    return " ".join([f"{one['mean']:.3f}", *ends])


def _chance(table: dict[str, Any], name: str) -> str:
    known = [own[name]["chance"] for own in table.values() if own.get(name, {}).get("chance") is not None]
    return f"{median(known):.3f}" if known else "-"  # of empty maps chance is nothing
