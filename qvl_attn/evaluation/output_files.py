"""What a checked data set leaves beside its rows and summary: charts, a gallery, a CSV."""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qvl_attn.attribution.grounding import GROUNDING
from qvl_attn.attribution.settings import Headline
from qvl_attn.core.files import write_png
from qvl_attn.core.text import inert
from qvl_attn.evaluation.score import CONTROLS, FIGURES, Score
from qvl_attn.render.charts import BY_HEAD, draw_heads, draw_layers
from qvl_attn.render.method_chart import draw_methods

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
