"""Find the saved results of encoders, and refuse what needs no model, without the seconds that torch takes to load."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from qvl_attn.core.types import Source
from qvl_attn.core.version import __version__
from qvl_attn.encoders.record import EncoderProvenance, EncoderSettings
from qvl_attn.encoders.result import request_folder
from qvl_attn.encoders.spec import FAMILIES, family_of
from qvl_attn.model.checkpoint import check_config, find_on_disk
from qvl_attn.model.checkpoint_files import read_object
from qvl_attn.model.placement import check_options, sure_placement, torch_build
from qvl_attn.render.style import Drawing
from qvl_attn.results.store import is_complete


def find_saved(
    asked: Sequence[tuple[Source, EncoderSettings]],
    drawing: Drawing,
    out: Path,
    model: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    offline: bool = False,
) -> list[Path] | None:
    """Return the folders of saved results.

    Args:
        asked: pictures and clips, each with its settings.
        drawing: how the results are drawn.
        out: the folder that holds the results.
        model: as in `EncoderEngine.load`, as all that follow.
        revision: as in `EncoderEngine.load`.
        device: as in `EncoderEngine.load`.
        dtype: as in `EncoderEngine.load`.
        offline: as in `EncoderEngine.load`.

    Returns:
        The folders, in the same order. None if a result is missing, or if only torch can tell which result it would be.

    Raises:
        InputError: an option is invalid.
        ModelError: the model is not supported, or cannot be found and may not be downloaded.
    """
    check_options(device, dtype, None)
    checkpoint = find_on_disk(model, revision, offline=offline, weights=False)
    if checkpoint is None:
        return None
    config = read_object(checkpoint.folder / "config.json", model)
    family = FAMILIES[family_of(model, config)]
    check_config(model, config)
    placement, torch = sure_placement(checkpoint, device, dtype), torch_build()
    if placement is None or torch is None:
        return None
    provenance = EncoderProvenance(
        qvl_attn=__version__,
        transformers=version("transformers"),
        torch=torch["__version__"],
        model=checkpoint.name,
        revision=checkpoint.revision,
        device=placement[0],
        dtype=placement[1],
        family=family.name,
    )
    folders = [request_folder(out, source, settings, drawing, provenance) for source, settings in asked]
    return folders if all(map(is_complete, folders)) else None
