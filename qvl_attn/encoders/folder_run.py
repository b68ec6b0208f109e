"""An encoder's figures over a folder of pictures, since one picture is an anecdote; sub-folders are classes.

A run may be killed at any moment: a picture's row is safe once written, and the same command goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.core.errors import InputError, describe_error
from qvl_attn.core.files import read_json, write_npz
from qvl_attn.core.runtime import Progress, Stages, describe_memory, no_op, suppress_stderr
from qvl_attn.encoders.embedding import check_available, check_points
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.folder_summary import summarize_folder, vectors_file
from qvl_attn.encoders.inputs import check_limits
from qvl_attn.encoders.record import EncoderSettings
from qvl_attn.encoders.statistics import FIGURES, statistics_of
from qvl_attn.media.image import check_local, fingerprint, load_picture
from qvl_attn.results.run_folder import SCHEMA_VERSION, SUMMARY_FILE, Ledger, open_run, read_rows


def encode_folder(
    encoder: EncoderEngine, folder: Path, out: Path, settings: EncoderSettings, progress: Progress = no_op
) -> dict[str, Any]:
    """Look at every picture of a folder, and sum up the figures of the layers.

    A run goes on with new pictures, and with repaired ones that could not be looked at before.

    Args:
        encoder: that looks.
        folder: of pictures; sub-folders are classes.
        out: a folder to make, or that of a run that was stopped.
        settings: their limits of pixels; with `embeddings` the pictures' embeddings are projected, too.
        progress: told what is being done, how much of it is done, and of how much.

    Returns:
        The contents of `summary.json`.

    Raises:
        InputError: a fault in what was given, found before the weights are loaded; or pictures that have been looked at
            are gone, or not what they were.
        StoreError: it cannot be written, or no picture could be looked at.
    """
    _check_alone(settings)
    items = list_pictures(folder, out)
    check_limits(encoder.spec, encoder.processor, settings.min_pixels, settings.max_pixels)
    if settings.embeddings:
        check_available()
    if "tsne" in settings.embeddings:
        check_points(len(items), "pictures")
    others = count_others(folder, out)
    if others:
        files = "other file is" if others == 1 else "other files are"
        encoder.say(f"{folder}: {others:,} {files} left out (clips, texts and the like)")
    run, stages = _run_json(encoder, folder, items, settings, others), Stages()
    with open_run(out, run, grows=True) as ledger:
        if ledger.done:
            finished = "; the run is finished, and nothing is run" if ledger.finished else ""
            encoder.say(f"{out}: {len(ledger.done):,} of {len(items):,} pictures have their row already{finished}")
        if not ledger.finished:
            with stages.stage("looking"):
                _encode_all(encoder, items, settings, ledger, run, progress)
            with stages.stage("summing up"):
                order = {item.id: number for number, item in enumerate(items)}
                rows = sorted(read_rows(out), key=lambda row: order.get(row["id"], len(order)))
                summarize_folder(out, run["facts"], rows, settings, progress)
            largest = max(stages.peak_bytes, key=lambda stage: stages.peak_bytes[stage]["host"])
            encoder.say(describe_memory(largest, stages.peak_bytes[largest]))
        return read_json(out / SUMMARY_FILE)


def _check_alone(settings: EncoderSettings) -> None:
    """Refuse what is asked of single pictures.

    Raises:
        InputError: something is.
    """
    asked = {
        "--at": settings.at,
        "--layer": settings.layer is not None,
        "--over": settings.over != "mean",
        "--saliency": settings.saliency,
        "a clip": settings.clip,
    }
    for name, given in asked.items():
        if given:
            raise InputError(f"{name} is for single pictures, not for --input-dir", "leave it out")


def _run_json(
    encoder: EncoderEngine, folder: Path, items: Sequence[Item], settings: EncoderSettings, others: int
) -> dict[str, Any]:
    prints = {one.id: _print_of(one) for one in items}
    made = asdict(encoder.provenance)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "survey",
        "same": {
            **made,
            "--min-pixels": settings.min_pixels,
            "--max-pixels": settings.max_pixels,
            "--embeddings": ",".join(settings.embeddings) or None,
            "--seed": settings.seed,
        },
        "facts": {
            "input": folder.resolve().name or str(folder.resolve()),
            "model": made,
            "full": list(encoder.spec.full),
            "heads": encoder.spec.heads,
            "settings": asdict(settings),
            "pictures": len(items),
            "other_files": others,
        },
        "samples": prints,
    }


def _print_of(item: Item) -> str:
    """Of its content; of one that cannot be read its name alone: it becomes an error row."""
    try:
        return fingerprint(item.path)[:12]
    except InputError:
        return "unread"


def _encode_all(
    encoder: EncoderEngine,
    items: Sequence[Item],
    settings: EncoderSettings,
    ledger: Ledger,
    run: dict[str, Any],
    progress: Progress,
) -> None:
    alone = replace(settings, embeddings=())
    if len(ledger.done) < len(items):
        _ = encoder.model  # a model that cannot be loaded is no picture's fault
    with ledger.appending(run) as append:
        progress("looking", len(ledger.done), len(items))
        for item in items:
            if item.id in ledger.done:
                continue
            row: dict[str, Any] = {"id": item.id, "label": item.label}
            try:
                found, vectors = _encode_one(encoder, item, alone, bool(settings.embeddings))
            except Exception as fault:  # files hold anything, and one picture must not end the run
                if "CUDA error" in str(fault):
                    raise
                found, vectors = {"status": "error", "error": describe_error(fault)}, None
            if vectors is not None:  # before the row, with which nothing of the picture is left to do
                ledger.begin(run)
                write_npz(ledger.folder / vectors_file(item.id), {"vectors": vectors})
            row |= found
            append(row)
            progress("looking", len(ledger.done), len(items))


def _encode_one(
    encoder: EncoderEngine, item: Item, settings: EncoderSettings, embed: bool
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """A picture's row but for its id, and its vectors where they are wanted."""
    with suppress_stderr():
        media = load_picture(item.path)
    attention, vectors = encoder.capture(media, settings, pooled=embed)
    figures = statistics_of(attention)
    row = {
        "status": "ok",
        "size_px": list(media.size_px),
        "grid": list(attention.grid),
        "tokens": attention.received.shape[-1],
        "figures": {name: _rounded(figures[name].values) for name in FIGURES if name in figures},
        "chance": {name: _rounded(figures[name].chance) for name in FIGURES if name in figures},
    }
    return row, vectors


def _rounded(values: NDArray[np.float64]) -> Any:
    """To six digits, as lists: rows are many."""
    return np.vectorize(lambda value: float(f"{value:.6g}"))(values).tolist()


SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
MAX_PICTURES = 1_000_000


@dataclass(frozen=True)
class Item:
    """A picture of a folder.

    Attributes:
        id: its path within the folder, with `/`.
        label: the sub-folder that it lies in, at any depth; empty for those in the folder itself.
        path: where it is.
    """

    id: str
    label: str
    path: Path


def list_pictures(folder: Path, out: Path | None = None) -> list[Item]:
    """The pictures of a folder and its sub-folders, in the order of their names; hidden ones are left out.

    Args:
        folder: that is looked through.
        out: where results go: what lies there is left out, if it is within the folder.

    Raises:
        InputError: no such folder, none in it, or too many.
    """
    name = check_local(str(folder))
    if not folder.is_dir():
        raise InputError(f"--input-dir {name}: is no folder", "name a folder of pictures")
    try:
        files = sorted(path for path in _files(folder, out) if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise InputError(f"--input-dir {name}: cannot be read ({error.strerror})") from None
    if not 0 < len(files) <= MAX_PICTURES:
        raise InputError(f"--input-dir {name}: {len(files):,} pictures in it", f"want 1 to {MAX_PICTURES:,}")
    items = []
    for path in files:
        within = path.relative_to(folder)
        items.append(Item(within.as_posix(), within.parts[0] if len(within.parts) > 1 else "", path))
    return items


def count_others(folder: Path, out: Path | None = None) -> int:
    """How many files there are beside the pictures, in the same folders."""
    return sum(path.suffix.lower() not in SUFFIXES for path in _files(folder, out))


def _files(folder: Path, out: Path | None) -> Iterator[Path]:
    results = _within(folder, out)
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if results not in path.parents and not hidden and path.is_file():
            yield path


def _within(folder: Path, out: Path | None) -> Path | None:
    """A folder within another, as `rglob` gives it; None where it is elsewhere."""
    if out is None:
        return None
    inner, outer = out.resolve(), folder.resolve()
    return folder / inner.relative_to(outer) if outer in inner.parents else None
