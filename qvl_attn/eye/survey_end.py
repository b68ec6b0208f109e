"""What a run over a folder of pictures ends with: means and spread of the figures by layer, a chart, embeddings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.errors import StoreError
from qvl_attn.eye.chart import draw_survey
from qvl_attn.eye.figures import FIGURES, Figure
from qvl_attn.eye.result import LookSettings
from qvl_attn.eye.said import said
from qvl_attn.eye.space import FolderSpace, folder_space
from qvl_attn.eye.space_charts import folder_images
from qvl_attn.ledger import ROWS_FILE, RUN_FILE, SUMMARY_FILE
from qvl_attn.progress import Progress
from qvl_attn.store import read_npz, write_json, write_npz, write_png

SCHEMA_VERSION = 1
VECTORS_FILE = "embeddings.npz"
Floats = NDArray[np.float64]


def vectors_file(name: str) -> str:
    """Where a picture's pooled embeddings are kept until the run ends."""
    return f"vectors/{sha256(name.encode()).hexdigest()[:16]}.npz"


def conclude(
    folder: Path,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    settings: LookSettings,
    progress: Progress,
) -> None:
    """Write what the rows add up to; `summary.json` last.

    With embeddings `embeddings.npz`: `vectors` (E, N, D) float32, `layers` (E,), `names` and `classes` (N,).

    Raises:
        StoreError: no picture could be looked at.
    """
    good = [row for row in rows if row["status"] == "ok"]
    if not good:
        raise StoreError(f"none of {len(rows)} pictures could be looked at: {rows[0]['error']}", "see scores.jsonl")
    names = [name for name in FIGURES if name in good[0]["figures"]]
    values = {name: np.array([row["figures"][name] for row in good], dtype=np.float64) for name in names}
    chance = {name: np.array([row["chance"][name] for row in good], dtype=np.float64) for name in names}
    full = np.array(facts["full"], dtype=np.bool_)
    errors = len(rows) - len(good)
    title = f"{facts['model']['model']} · {len(good):,} pictures of {facts['input']}"
    title += f" · {errors:,} could not be looked at" if errors else ""
    write_png(folder / "figures.png", draw_survey(values, chance, full, title))
    files: list[str] = ["figures.png"]
    space: FolderSpace | None = None
    if settings.embeddings:
        vectors = np.stack([read_npz(folder / vectors_file(row["id"]))["vectors"] for row in good], axis=1)
        names_of, classes = [row["id"] for row in good], [row["label"] for row in good]
        space = folder_space(names_of, classes, vectors, settings.seed if "tsne" in settings.embeddings else None)
        kept = {"vectors": vectors, "layers": space.layers, "names": np.array(names_of), "classes": np.array(classes)}
        write_npz(folder / VECTORS_FILE, kept)
        images = dict(folder_images(space, title))
        for done, (name, image) in enumerate(images.items()):
            progress("drawing", done, len(images))
            write_png(folder / name, image())
        files += [VECTORS_FILE, *images]
    means = {name: Figure(values[name].mean(axis=0), chance[name].mean(axis=0)) for name in names}
    write_json(
        folder / SUMMARY_FILE,
        {
            "schema_version": SCHEMA_VERSION,
            "kind": "survey",
            **facts,
            "looked_at": len(good),
            "errors": errors,
            "layers": [
                {
                    "layer": layer,
                    "full": bool(full[layer]),
                    **{name: _spread(values[name][:, layer].mean(axis=1), chance[name][:, layer]) for name in names},
                }
                for layer in range(len(full))
            ],
            "said": said(means),
            "separation": _separation_json(space),
            "files": sorted([RUN_FILE, ROWS_FILE, SUMMARY_FILE, *files]),
        },
    )
    shutil.rmtree((folder / vectors_file("")).parent, ignore_errors=True)  # they are all in one file now


def _spread(values: Floats, chance: Floats) -> dict[str, float]:
    """Of a figure's mean over the heads: mean and spread over the pictures, beside what chance gives."""
    low, high = np.percentile(values, (5, 95))
    return {
        "mean": float(values.mean()),
        "deviation": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "low": float(low),
        "high": float(high),
        "chance": float(chance.mean()),
    }


def _separation_json(space: FolderSpace | None) -> list[dict[str, Any]] | None:
    """How far apart the classes are, by layer; None where there are none."""
    if space is None or space.separation is None:
        return None
    one = space.separation
    return [
        {
            "layer": layer,
            "silhouette": _known(silhouette),
            "nearest_neighbour": _known(neighbour),
            "nearest_neighbour_shuffled": _known(shuffled),
            "largest_class": one.largest_class,
        }
        for layer, silhouette, neighbour, shuffled in zip(
            space.layers.tolist(), one.silhouette, one.neighbour, one.shuffled[:, 0], strict=True
        )
    ]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
