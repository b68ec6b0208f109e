"""An encoder's figures over a folder of pictures, since one picture is an anecdote; sub-folders are classes.

A run may be killed at any moment: a picture's row is safe once written, and the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvl_attn.errors import InputError
from qvl_attn.eye.encoder import Encoder
from qvl_attn.eye.figures import FIGURES, figures_of
from qvl_attn.eye.listing import Item, list_pictures
from qvl_attn.eye.result import LookSettings
from qvl_attn.eye.survey_end import conclude, vectors_file
from qvl_attn.hushed import libraries_in_c_hushed
from qvl_attn.ledger import SCHEMA_VERSION, SUMMARY_FILE, Ledger, open_run, read_rows
from qvl_attn.media import load_picture
from qvl_attn.portion import told
from qvl_attn.progress import Progress, untold
from qvl_attn.shown import fingerprint
from qvl_attn.store import read_json, write_npz


def survey(
    encoder: Encoder, folder: Path, out: Path, settings: LookSettings, progress: Progress = untold
) -> dict[str, Any]:
    """Look at every picture of a folder, and sum up the figures of the layers.

    Args:
        encoder: that looks.
        folder: of pictures; sub-folders are classes.
        out: a folder to make, or that of a run that was stopped.
        settings: their limits of pixels; with `embeddings` the pictures' embeddings are projected, too.
        progress: told what is being done, how much of it is done, and of how much.

    Returns:
        The contents of `summary.json`.

    Raises:
        InputError: a fault in what was given, found before the weights are loaded.
        StoreError: it cannot be written, or no picture could be looked at.
    """
    if settings.at or settings.saliency or settings.clip:
        raise InputError("--input-dir: --at, --saliency and clips are for single pictures", "leave them out")
    items = list_pictures(folder)
    run = _run_json(encoder, folder, items, settings)
    with open_run(out, run) as ledger:
        if ledger.done:
            finished = "; the run is finished, and nothing is run" if ledger.finished else ""
            encoder.say(f"{out}: {len(ledger.done):,} of {len(items):,} pictures have their row already{finished}")
        if not ledger.finished:
            _look_at_all(encoder, items, settings, ledger, run, progress)
            conclude(out, run["facts"], list(read_rows(out)), settings, progress)
        return read_json(out / SUMMARY_FILE)


def _run_json(encoder: Encoder, folder: Path, items: Sequence[Item], settings: LookSettings) -> dict[str, Any]:
    prints = {one.id: _print_of(one) for one in items}
    made = asdict(encoder.maker)
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "survey",
        "same": {
            **made,
            "--min-pixels": settings.min_pixels,
            "--max-pixels": settings.max_pixels,
            "--embeddings": ",".join(settings.embeddings) or None,
            "--seed": settings.seed,
            "the pictures": sha256(repr(sorted(prints.items())).encode()).hexdigest()[:12],
        },
        "facts": {
            "input": folder.name,
            "model": made,
            "full": list(encoder.eye.full),
            "heads": encoder.eye.heads,
            "settings": asdict(settings),
            "pictures": len(items),
        },
        "samples": prints,
    }


def _print_of(item: Item) -> str:
    """Of its content; of one that cannot be read its name alone: it becomes an error row."""
    try:
        return fingerprint(item.path)[:12]
    except InputError:
        return "unread"


def _look_at_all(
    encoder: Encoder,
    items: Sequence[Item],
    settings: LookSettings,
    ledger: Ledger,
    run: dict[str, Any],
    progress: Progress,
) -> None:
    alone = replace(settings, embeddings=())
    with ledger.appending(run) as append:
        progress("looking", len(ledger.done), len(items))
        for item in items:
            if item.id in ledger.done:
                continue
            row: dict[str, Any] = {"id": item.id, "label": item.label}
            try:
                found, vectors = _look_at(encoder, item, alone, bool(settings.embeddings))
            except Exception as fault:  # files hold anything, and one picture must not end the run
                if "CUDA error" in str(fault):
                    raise
                found, vectors = {"status": "error", "error": told(fault)}, None
            if vectors is not None:  # before the row, with which nothing of the picture is left to do
                ledger.begin(run)
                (ledger.folder / vectors_file(item.id)).parent.mkdir(exist_ok=True)
                write_npz(ledger.folder / vectors_file(item.id), {"vectors": vectors})
            row |= found
            append(row)
            progress("looking", len(ledger.done), len(items))


def _look_at(
    encoder: Encoder, item: Item, settings: LookSettings, embed: bool
) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """A picture's row but for its id, and its vectors where they are wanted."""
    with libraries_in_c_hushed():
        media = load_picture(item.path)
    look = encoder.look(media, settings)
    figures = figures_of(look.sight)
    row = {
        "status": "ok",
        "size_px": list(media.size_px),
        "grid": list(look.sight.grid),
        "tokens": look.sight.received.shape[-1],
        "figures": {name: _rounded(figures[name].values) for name in FIGURES if name in figures},
        "chance": {name: _rounded(figures[name].chance) for name in FIGURES if name in figures},
    }
    return row, encoder.pooled(media, settings) if embed else None


def _rounded(values: NDArray[np.float64]) -> Any:
    """To six digits, as lists: rows are many."""
    return np.vectorize(lambda value: float(f"{value:.6g}"))(values).tolist()
