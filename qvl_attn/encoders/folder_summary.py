"""The summary of a run over a folder of pictures: mean and spread of the statistics by layer, charts, embeddings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import StoreError
from qvl_attn.core.files import read_npz, write_json, write_npz, write_png
from qvl_attn.core.runtime import Progress
from qvl_attn.core.text import percent, pluralize
from qvl_attn.core.typed_json import decoded
from qvl_attn.core.types import FloatArray
from qvl_attn.encoders.captions import describe_layer_output
from qvl_attn.encoders.charts import draw_folder_statistics
from qvl_attn.encoders.embedding import LEAST_POINTS, FolderEmbedding, embed_folder
from qvl_attn.encoders.embedding_charts import folder_images
from qvl_attn.encoders.folder_json import REMEDY, ErrorRow, FolderFacts, FolderSummary, PictureRow
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.statistics import STATISTICS, Statistic, describe_statistics
from qvl_attn.results.run_folder import ROWS_FILE, RUN_FILE, SUMMARY_FILE
from qvl_attn.results.store import damage

SCHEMA_VERSION = 1
VECTORS_FILE = "embeddings.npz"
TOO_FEW = f"no t-SNE: fewer than {LEAST_POINTS} pictures could be encoded"
Floats = NDArray[np.float64]


def vectors_file(name: str) -> str:
    """Return the file that holds a picture's pooled embeddings until the run ends."""
    return f"vectors/{sha256(name.encode(errors='backslashreplace')).hexdigest()[:16]}.npz"


def summarize_folder(
    folder: Path,
    facts: FolderFacts,
    rows: Sequence[PictureRow | ErrorRow],
    settings: EncoderSettings,
    progress: Progress,
) -> None:
    """Write the charts, the embeddings and, last, `summary.json`.

    `embeddings.npz` has `vectors` (E, N, D) float32, `layers` (E,), `names` and `classes` (N,).

    Raises:
        StoreError: no picture could be encoded, or the rows or vectors are damaged.
    """
    full = np.array(facts["full"], dtype=np.bool_)
    good = [row for row in rows if row["status"] == "ok"]
    failed = [row for row in rows if row["status"] == "error"]
    if not good:
        raise StoreError(f"none of {len(rows)} pictures could be encoded: {failed[0]['error']}", "see scores.jsonl")
    with damage(folder / ROWS_FILE, REMEDY):
        names = [name for name in STATISTICS if name in good[0]["figures"]]
        shapes = {"figures": (len(full), facts["heads"]), "chance": (len(full),)}
        values, chance = ({name: _array(good, kind, name, shape) for name in names} for kind, shape in shapes.items())
    errors = len(rows) - len(good)
    title = f"{facts['model']['model']} · {pluralize(len(good), 'picture')} of {facts['input']}"
    title += f" · {errors:,} could not be encoded" if errors else ""
    write_png(folder / "figures.png", draw_folder_statistics(values, chance, full, title))
    files: list[str] = ["figures.png"]
    embedding: FolderEmbedding | None = None
    enough = len(good) >= LEAST_POINTS
    if settings.embeddings:
        with damage(folder / vectors_file("").split("/")[0], REMEDY):
            ids, classes = [row["id"] for row in good], [row["label"] for row in good]
            vectors = _read_vectors(folder, ids)
        seed = settings.seed if "tsne" in settings.embeddings and enough else None
        embedding = embed_folder(ids, classes, vectors, seed)
        arrays: dict[str, NDArray[Any]] = {
            "vectors": vectors,
            "layers": embedding.layers,
            "names": np.array(ids),
            "classes": np.array(classes),
        }
        write_npz(folder / VECTORS_FILE, arrays)
        images = dict(folder_images(embedding, title, settings.embeddings))
        for done, (name, draw) in enumerate(images.items()):
            progress("drawing", done, len(images))
            write_png(folder / name, draw())
        files += [VECTORS_FILE, *images]
    means = {name: Statistic(values[name].mean(axis=0), chance[name].mean(axis=0)) for name in names}
    summary = {
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
        "said": [
            *describe_statistics(means),
            *_describe_separation(embedding),
            *([TOO_FEW] if "tsne" in settings.embeddings and not enough else ()),
        ],
        "separation": _separation_json(embedding),
        "tsne": None
        if embedding is None or embedding.tsne is None
        else {"pictures": len(embedding.tsne), "of": len(good)},
        "files": sorted([RUN_FILE, ROWS_FILE, SUMMARY_FILE, *files]),
    }
    write_json(folder / SUMMARY_FILE, decoded(summary, FolderSummary, "summary"))
    shutil.rmtree((folder / vectors_file("")).parent, ignore_errors=True)  # all vectors are in one file now


def _array(rows: Sequence[Mapping[str, Any]], kind: str, name: str, shape: tuple[int, ...]) -> Floats:
    """Return one statistic of all rows."""
    values = np.array([row[kind][name] for row in rows], dtype=np.float64)
    if values.shape != (len(rows), *shape):
        raise ValueError(f"{name}: {values.shape}")
    return values


def _read_vectors(folder: Path, names: Sequence[str]) -> FloatArray:
    """Return the vectors of all pictures, (E, N, D), read file by file, because they are large.

    If pictures were added to a finished run, the vectors of the others are in its `embeddings.npz`.
    """
    previous = (
        read_npz(folder / VECTORS_FILE) if (folder / VECTORS_FILE).exists() else {"names": np.array([], dtype=str)}
    )
    indices = {name: i for i, name in enumerate(previous["names"].tolist())}

    def read_one(name: str) -> FloatArray:
        path = folder / vectors_file(name)
        is_new = path.exists() or name not in indices
        vectors = read_npz(path)["vectors"] if is_new else previous["vectors"][:, indices[name]]
        return np.asarray(vectors, dtype=np.float32)

    first = read_one(names[0])
    layers, dimensions = first.shape
    vectors = np.empty((layers, len(names), dimensions), dtype=np.float32)
    for i, name in enumerate(names):
        if (own := read_one(name)).shape != first.shape:
            raise ValueError(f"{name}: {own.shape}")
        vectors[:, i] = own
    return vectors


def _spread(values: Floats, chance: Floats) -> dict[str, float | None]:
    """Return mean and spread over the pictures of a statistic's mean over the heads, and its chance value.

    One picture has no deviation.
    """
    low, high = np.percentile(values, (5, 95))
    return {
        "mean": float(values.mean()),
        "deviation": float(values.std(ddof=1)) if len(values) > 1 else None,
        "low": float(low),
        "high": float(high),
        "chance": float(chance.mean()),
    }


def _describe_separation(embedding: FolderEmbedding | None) -> list[str]:
    """Return a line on the layer where the classes are separated best."""
    if embedding is None or embedding.separation is None or np.isnan(embedding.separation.neighbour).all():
        return []
    separation, neighbour = embedding.separation, embedding.separation.neighbour
    valid = np.flatnonzero(~np.isnan(neighbour)).tolist()
    best = max(valid, key=lambda i: (neighbour[i], separation.silhouette[i]))
    share, (chance, low, high) = percent(float(neighbour[best])), map(percent, separation.shuffled[best].tolist())
    where = describe_layer_output(int(embedding.layers[best]))
    line = f"classes are separated best {where}: the nearest other picture is of the same class for {share} of the "
    line += f"pictures, with labels shuffled for {chance} ({low} to {high})"
    return [f"{line}; silhouette {separation.silhouette[best]:.2f}"]


def _separation_json(embedding: FolderEmbedding | None) -> list[dict[str, Any]] | None:
    """Return the separation of the classes by layer as JSON; None without classes."""
    if embedding is None or embedding.separation is None:
        return None
    separation = embedding.separation
    return [
        {
            "layer": layer,
            "silhouette": _finite_or_none(silhouette),
            "nearest_neighbour": _finite_or_none(neighbour),
            "nearest_neighbour_shuffled": _finite_or_none(shuffled),
            "largest_class": separation.largest_class,
            "pictures": len(separation.pictures),
            "of": separation.named,
        }
        for layer, silhouette, neighbour, shuffled in zip(
            embedding.layers.tolist(),
            separation.silhouette,
            separation.neighbour,
            separation.shuffled[:, 0],
            strict=True,
        )
    ]


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
