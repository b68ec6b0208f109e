"""Find the saved results of a request, and refuse what needs no model, without the seconds that torch takes to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qvl_attn.attribution.profiles import stated_shape
from qvl_attn.attribution.settings import Settings, settings_of
from qvl_attn.core.runtime import no_op
from qvl_attn.core.types import Source
from qvl_attn.core.version import __version__
from qvl_attn.model.checkpoint import Checkpoint, find_on_disk, read_config
from qvl_attn.model.placement import check_options, sure_placement
from qvl_attn.render.style import Drawing
from qvl_attn.results.store import is_complete
from qvl_attn.vqa.result import request_folder


def find_saved(
    media: Sequence[Source],
    questions: Sequence[str],
    drawing: Drawing,
    out: Path,
    typed: Mapping[str, Any],
    model: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    attn: str = "auto",
    offline: bool = False,
) -> list[Path] | None:
    """Return the folders of the questions' saved results.

    Args:
        media: the pictures of the prompt, or the clip.
        questions: texts of the questions.
        drawing: how the results are drawn.
        out: the folder that holds the results.
        typed: the keywords of `Analyzer.settings`.
        model: as in `Engine.load`, as all that follow.
        revision: as in `Engine.load`.
        device: as in `Engine.load`.
        dtype: as in `Engine.load`.
        device_map: as in `Engine.load`.
        attn: as in `Engine.load`.
        offline: as in `Engine.load`.

    Returns:
        The folders, in the order of the questions. None if a result is missing, or if only torch can tell which result
        it would be.

    Raises:
        InputError: an option or a setting is invalid.
        ModelError: the model is not supported, or cannot be found and may not be downloaded.
    """
    checked = check_settings(
        typed, model, revision=revision, device=device, dtype=dtype, device_map=device_map, offline=offline
    )
    if checked is None:
        return None
    checkpoint, settings = checked
    placement = sure_placement(checkpoint, device, dtype, device_map)
    if placement is None:
        return None
    made_by = {
        "qvl_attn": __version__,
        "transformers": version("transformers"),
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "device": placement[0],
        "dtype": placement[1],
    }
    modes = attention_modes(attn, placement[1])
    folders = [request_folders(out, media, text, settings, drawing, made_by, modes) for text in questions]
    saved = [next(filter(is_complete, of_question), None) for of_question in folders]
    found = [folder for folder in saved if folder is not None]
    return found if len(found) == len(saved) else None


def check_settings(
    typed: Mapping[str, Any],
    model: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    offline: bool = False,
) -> tuple[Checkpoint, Settings] | None:
    """Return the model and the settings of a request; None if the model is not on disk, or its shape not in a file.

    Arguments and errors are those of `find_saved`.
    """
    check_options(device, dtype, device_map)
    checkpoint = find_on_disk(model, revision, offline=offline)
    if checkpoint is None or (shape := stated_shape(read_config(checkpoint))) is None:
        return None
    return checkpoint, settings_of(shape, no_op, **typed)


def attention_modes(attn: str, dtype: str) -> tuple[str, ...]:
    """Return the kinds of attention that may have computed a result: in float32, `auto` takes what fits the memory.

    Args:
        attn: as in `Engine.load`.
        dtype: the model's precision.
    """
    if attn != "auto":
        return (attn,)
    return ("eager", "rows") if dtype == "float32" else ("rows",)


def request_folders(
    out: Path,
    media: Sequence[Source],
    question: str,
    settings: Settings,
    drawing: Drawing,
    made_by: Mapping[str, Any],
    modes: Sequence[str],
) -> list[Path]:
    """Return the folder of a result for each kind of attention: see `request_folder`."""
    return [request_folder(out, media, question, settings, drawing, {**made_by, "attention": mode}) for mode in modes]
