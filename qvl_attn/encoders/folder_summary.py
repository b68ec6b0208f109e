"""What a run over a folder of pictures ends with: means and spread of the figures by layer, a chart, embeddings."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import StoreError
from qvl_attn.core.files import read_npz, write_json, write_npz, write_png
from qvl_attn.core.runtime import Progress
from qvl_attn.core.text import percent
from qvl_attn.core.types import FloatArray
from qvl_attn.encoders.captions import describe_layer_output
from qvl_attn.encoders.charts import draw_folder_statistics
from qvl_attn.encoders.embedding import LEAST_POINTS, FolderEmbedding, folder_space
from qvl_attn.encoders.embedding_charts import folder_images
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.statistics import FIGURES, Figure, said
from qvl_attn.results.run_folder import ROWS_FILE, RUN_FILE, SUMMARY_FILE

SCHEMA_VERSION = 1
VECTORS_FILE = "embeddings.npz"
TOO_FEW = f"no t-SNE: fewer than {LEAST_POINTS} pictures could be looked at"
Floats = NDArray[np.float64]


def vectors_file(name: str) -> str:
    """Where a picture's pooled embeddings are kept until the run ends."""
    return f"vectors/{sha256(name.encode(errors='backslashreplace')).hexdigest()[:16]}.npz"


def summarize_folder(
    folder: Path,
    facts: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    settings: EncoderSettings,
    progress: Progress,
) -> None:
    """Write what the rows add up to; `summary.json` last.

    With embeddings `embeddings.npz`: `vectors` (E, N, D) float32, `layers` (E,), `names` and `classes` (N,).

    Raises:
        StoreError: no picture could be looked at, or what was kept of them is damaged.
    """
    full = np.array(facts["full"], dtype=np.bool_)
    with _damaged(folder / ROWS_FILE):
        good = [row for row in rows if row["status"] == "ok"]
        if not good:
            raise StoreError(f"none of {len(rows)} pictures could be looked at: {rows[0]['error']}", "see scores.jsonl")
        names = [name for name in FIGURES if name in good[0]["figures"]]
        shapes = {"figures": (len(full), facts["heads"]), "chance": (len(full),)}
        values, chance = ({name: _array(good, kind, name, shape) for name in names} for kind, shape in shapes.items())
    errors = len(rows) - len(good)
    title = f"{facts['model']['model']} · {len(good):,} pictures of {facts['input']}"
    title += f" · {errors:,} could not be looked at" if errors else ""
    write_png(folder / "figures.png", draw_folder_statistics(values, chance, full, title))
    files: list[str] = ["figures.png"]
    embedding: FolderEmbedding | None = None
    enough = len(good) >= LEAST_POINTS
    if settings.embeddings:
        with _damaged(folder / vectors_file("").split("/")[0]):
            names_of, classes = [str(row["id"]) for row in good], [str(row["label"]) for row in good]
            vectors = _vectors(folder, names_of)
        seed = settings.seed if "tsne" in settings.embeddings and enough else None
        embedding = folder_space(names_of, classes, vectors, seed)
        kept: dict[str, NDArray[Any]] = {
            "vectors": vectors,
            "layers": embedding.layers,
            "names": np.array(names_of),
            "classes": np.array(classes),
        }
        write_npz(folder / VECTORS_FILE, kept)
        images = dict(folder_images(embedding, title, settings.embeddings))
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
            "said": [
                *said(means),
                *_apart_words(embedding),
                *([TOO_FEW] if "tsne" in settings.embeddings and not enough else ()),
            ],
            "separation": _separation_json(embedding),
            "tsne": None
            if embedding is None or embedding.tsne is None
            else {"pictures": len(embedding.tsne), "of": len(good)},
            "files": sorted([RUN_FILE, ROWS_FILE, SUMMARY_FILE, *files]),
        },
    )
    shutil.rmtree((folder / vectors_file("")).parent, ignore_errors=True)  # they are all in one file now


def _array(rows: Sequence[Mapping[str, Any]], kind: str, name: str, shape: tuple[int, ...]) -> Floats:
    """One figure of all rows."""
    values = np.array([row[kind][name] for row in rows], dtype=np.float64)
    if values.shape != (len(rows), *shape) or not np.isfinite(values).all():
        raise ValueError(f"{name}: {values.shape}")
    return values


def _vectors(folder: Path, names: Sequence[str]) -> FloatArray:
    """What was kept of each picture, in one array (E, N, D): read one by one, for they are large.

    Of a run that has grown since it was finished, most are in the file that it ended with.
    """
    before = read_npz(folder / VECTORS_FILE) if (folder / VECTORS_FILE).exists() else {"names": np.array([], dtype=str)}
    places = {name: i for i, name in enumerate(before["names"].tolist())}

    def own(name: str) -> FloatArray:
        kept = folder / vectors_file(name)
        found = read_npz(kept)["vectors"] if kept.exists() or name not in places else before["vectors"][:, places[name]]
        return np.asarray(found, dtype=np.float32)

    first = own(names[0])
    layers, dimensions = first.shape
    vectors = np.empty((layers, len(names), dimensions), dtype=np.float32)
    for i, name in enumerate(names):
        if (one := own(name)).shape != first.shape:
            raise ValueError(f"{name}: {one.shape}")
        vectors[:, i] = one
    return vectors


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """What was read is not what was written."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise StoreError(f"{path} is damaged: {type(fault).__name__}: {fault}", "name another --out") from None


def _spread(values: Floats, chance: Floats) -> dict[str, float | None]:
    """Of a figure's mean over the heads: mean and spread over the pictures, beside what chance gives.

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


def _apart_words(embedding: FolderEmbedding | None) -> list[str]:
    """A sentence on how far apart the classes are in the layer where they are furthest apart."""
    if embedding is None or embedding.separation is None or np.isnan(embedding.separation.neighbour).all():
        return []
    one = embedding.separation
    best = max(np.flatnonzero(~np.isnan(one.neighbour)).tolist(), key=lambda i: (one.neighbour[i], one.silhouette[i]))
    own, (chance, low, high) = percent(float(one.neighbour[best])), map(percent, one.shuffled[best].tolist())
    words = f"classes lie furthest apart {describe_layer_output(int(embedding.layers[best]))}: the nearest other "
    words += (
        f"picture is of the same class for {own} of the pictures, with labels shuffled for {chance} ({low} to {high})"
    )
    return [f"{words}; silhouette {one.silhouette[best]:.2f}"]


def _separation_json(embedding: FolderEmbedding | None) -> list[dict[str, Any]] | None:
    """How far apart the classes are, by layer; None where there are none."""
    if embedding is None or embedding.separation is None:
        return None
    one = embedding.separation
    return [
        {
            "layer": layer,
            "silhouette": _known(silhouette),
            "nearest_neighbour": _known(neighbour),
            "nearest_neighbour_shuffled": _known(shuffled),
            "largest_class": one.largest_class,
            "pictures": len(one.pictures),
            "of": one.named,
        }
        for layer, silhouette, neighbour, shuffled in zip(
            embedding.layers.tolist(), one.silhouette, one.neighbour, one.shuffled[:, 0], strict=True
        )
    ]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
