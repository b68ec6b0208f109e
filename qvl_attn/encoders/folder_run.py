"""Run an encoder over a folder of pictures and average its statistics; sub-folders are classes.

A run may be killed at any moment: rows that are written stay valid, and the same command resumes the run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError, describe_error
from qvl_attn.core.files import write_npz
from qvl_attn.core.runtime import Progress, Stages, describe_memory, no_progress
from qvl_attn.core.text import argument
from qvl_attn.core.typed_json import decoded
from qvl_attn.core.types import Media
from qvl_attn.encoders.embedding import check_available, check_points
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.folder_json import FolderFacts, read_folder_rows, read_folder_summary
from qvl_attn.encoders.folder_pictures import Item, count_others, list_pictures
from qvl_attn.encoders.folder_summary import summarize_folder, vectors_file
from qvl_attn.encoders.inputs import check_limits
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.statistics import STATISTICS, statistics_of
from qvl_attn.media.image import fingerprint, first_of_little_range, load_picture
from qvl_attn.results.run_folder import SCHEMA_VERSION, Ledger, Run, open_run

LOG = logging.getLogger(__name__)


def encode_folder(
    encoder: EncoderEngine, folder: Path, out: Path, settings: EncoderSettings, progress: Progress = no_progress
) -> dict[str, Any]:
    """Encode every picture of a folder and summarize the statistics of the layers.

    A resumed run continues with new pictures and with repaired ones that could not be encoded before.

    Args:
        encoder: the encoder.
        folder: a folder of pictures; sub-folders are classes.
        out: the folder of the run: a new one, or that of a stopped run.
        settings: limits of pixels; with `embeddings` the pictures' embeddings are projected, too.
        progress: called with (stage, done, total).

    Returns:
        The contents of `summary.json`.

    Raises:
        InputError: an argument or setting is invalid, raised before the weights are loaded; or pictures that have a row
            are missing or changed.
        StoreError: the run cannot be written, or no picture could be encoded.
    """
    _check_settings(settings)
    items = list_pictures(folder, out)
    check_limits(encoder.spec, encoder.processor, settings.min_pixels, settings.max_pixels)
    if settings.embeddings:
        check_available()
    if "tsne" in settings.embeddings:
        check_points(len(items), "pictures")
    others = count_others(folder, out)
    if others:
        files = "other file is" if others == 1 else "other files are"
        LOG.info(f"{folder}: {others:,} {files} left out (clips, texts and so on)")
    run, stages = _run_json(encoder, folder, items, settings, others), Stages()
    with open_run(out, run, grows=True) as ledger:
        if ledger.done:
            finished = "; the run is finished, nothing is left to do" if ledger.finished else ""
            LOG.info(f"{out}: {len(ledger.done):,} of {len(items):,} pictures are already done{finished}")
        if not ledger.finished:
            with stages.stage("encoding"):
                _encode_all(encoder, items, settings, ledger, run, progress)
            with stages.stage("summary"):
                order = {item.id: number for number, item in enumerate(items)}
                rows = sorted(read_folder_rows(out), key=lambda row: order.get(row["id"], len(order)))
                summarize_folder(out, decoded(run["facts"], FolderFacts, "facts"), rows, settings, progress)
            largest = max(stages.peak_bytes, key=lambda stage: stages.peak_bytes[stage]["host"])
            LOG.info(describe_memory(largest, stages.peak_bytes[largest]))
        return {**read_folder_summary(out)}


def _check_settings(settings: EncoderSettings) -> None:
    """Refuse settings that apply only to single pictures.

    Raises:
        InputError: one of them is given.
    """
    single = {
        argument("at"): settings.at,
        argument("layer"): settings.layer is not None,
        argument("over"): settings.over != "mean",
        argument("saliency"): settings.saliency,
        "a clip": settings.clip,
    }
    for name, given in single.items():
        if given:
            raise InputError(f"{name} is for single pictures, not for {argument('encode_folder')}", "leave it out")


def _run_json(
    encoder: EncoderEngine, folder: Path, items: Sequence[Item], settings: EncoderSettings, others: int
) -> Run:
    fingerprints = {item.id: _fingerprint_of(item) for item in items}
    provenance = asdict(encoder.provenance)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "survey",
        "same": {
            **provenance,
            "--min-pixels": settings.min_pixels,
            "--max-pixels": settings.max_pixels,
            "--stretch": settings.stretch,
            "--embeddings": ",".join(settings.embeddings) or None,
            "--seed": settings.seed,
        },
        "facts": {
            "input": folder.resolve().name or str(folder.resolve()),
            "model": provenance,
            "full": list(encoder.spec.full),
            "heads": encoder.spec.heads,
            "settings": asdict(settings),
            "pictures": len(items),
            "other_files": others,
        },
        "samples": fingerprints,
    }


def _fingerprint_of(item: Item) -> str:
    """Return a digest of the content, or `unread` for a picture that cannot be read: it becomes an error row."""
    try:
        return fingerprint(item.path)[:12]
    except InputError:
        return "unread"


def _encode_all(
    encoder: EncoderEngine,
    items: Sequence[Item],
    settings: EncoderSettings,
    ledger: Ledger,
    run: Run,
    progress: Progress,
) -> None:
    capture_settings, said = replace(settings, embeddings=()), False
    if len(ledger.done) < len(items):
        _ = encoder.model  # outside the loop: a model that cannot be loaded must not become error rows
    with ledger.appending(run) as append:
        progress("encoding", len(ledger.done), len(items))
        for item in items:
            if item.id in ledger.done:
                continue
            row: dict[str, Any] = {"id": item.id, "label": item.label}
            try:
                media = load_picture(item.path, settings.stretch)
                if not said and (note := first_of_little_range([media])):
                    LOG.info(note)
                    said = True
                outcome, vectors = _encode_one(encoder, media, capture_settings, bool(settings.embeddings))
            except Exception as error:  # files may hold anything, and one picture must not end the run
                if "CUDA error" in str(error):
                    raise
                outcome, vectors = {"status": "error", "error": describe_error(error)}, None
            if vectors is not None:  # before the row, which marks the picture as done
                ledger.begin(run)
                write_npz(ledger.folder / vectors_file(item.id), {"vectors": vectors})
            row |= outcome
            append(row)
            progress("encoding", len(ledger.done), len(items))


def _encode_one(
    encoder: EncoderEngine, media: Media, settings: EncoderSettings, embed: bool
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """Return a picture's row without its id, and its vectors if `embed`."""
    attention, vectors = encoder.capture(media, settings, pooled=embed)
    statistics = statistics_of(attention)
    row = {
        "status": "ok",
        "size_px": list(media.size_px),
        "grid": list(attention.grid),
        "tokens": attention.received.shape[-1],
        "figures": {name: _rounded(statistics[name].values) for name in STATISTICS if name in statistics},
        "chance": {name: _rounded(statistics[name].chance) for name in STATISTICS if name in statistics},
    }
    return row, vectors


def _rounded(values: NDArray[np.float64]) -> Any:
    """Return values rounded to six digits, as lists, to keep the rows short."""
    return np.vectorize(lambda value: float(f"{value:.6g}"))(values).tolist()
