"""The files of a checkpoint, before any library opens them: regular, of bounded size, whole, and no pickles.

A link is followed, since the hub's cache is made of links; what it leads to must be a regular file. One that leads to
nothing counts as missing, so that a cache is mended by a download. Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from qvl_attn.core.errors import InputError, ModelError
from qvl_attn.core.text import argument, json_fault, shortened

# The files of a checkpoint, without pickles and code.
SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model")
WEIGHTS = ("*.safetensors",)
_TEMPLATES = "additional_chat_templates/*.jinja"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
# The largest tokenizers of public models have half of this.
MAX_SETTINGS_BYTES = 64 * 2**20
_MERGE = "merge it into its base with peft's merge_and_unload, as the README shows under 'With a real model'"


def check_files(folder: Path, name: str) -> None:
    """Check the kind and the size of a checkpoint's files, and that it is no adapter.

    Args:
        folder: the folder of the checkpoint.
        name: the checkpoint as the user typed it.

    Raises:
        ModelError: a file is a device, a pipe or a link to one, or is too large; or an adapter is among them.
    """
    for file in _files(folder, *SETTINGS, *WEIGHTS, _TEMPLATES):
        if not file.exists():
            continue  # a link to nothing: see `missing_part`
        if not file.is_file():
            raise ModelError(f"{name}: {file.name} is not a regular file, nor a link to one", "replace it by the file")
        if file.suffix != ".safetensors" and file.stat().st_size > MAX_SETTINGS_BYTES:
            raise ModelError(
                f"{name}: {file.name} has {file.stat().st_size >> 20} MiB; the limit is {MAX_SETTINGS_BYTES >> 20}",
                "move it away if it does not belong to the model",
            )
    if (folder / ADAPTER).is_file():
        raise _adapter_error(folder, name)


def _files(folder: Path, *patterns: str) -> list[Path]:
    return sorted(file for pattern in patterns for file in folder.glob(pattern) if not file.is_dir())


def _adapter_error(folder: Path, name: str) -> ModelError:
    """Say what to do with an adapter. transformers would apply it if peft is installed, and else silently leave it."""
    base = read_object(folder / ADAPTER, name).get("base_model_name_or_path")
    if any(file.name != "adapter_model.safetensors" for file in _files(folder, *WEIGHTS)):
        return ModelError(
            f"{name} holds the weights of a model and an adapter ({ADAPTER}); adapters are not supported",
            f"{_MERGE}, or move {ADAPTER} away to use the weights without it",
        )
    whose = f" of {shortened(' '.join(base.split()))}" if isinstance(base, str) and base.strip() else ""
    return ModelError(f"{name} is an adapter{whose}, not a whole model; adapters are not supported", _MERGE)


def read_object(file: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Args:
        file: a file that `check_files` has seen.
        name: the checkpoint as the user typed it.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        fault = json_fault(error, type(error).__name__)
        raise ModelError(f"{name}: its {file.name} cannot be read ({fault})", "fetch the file again") from None
    if not isinstance(value, dict):
        raise ModelError(f"{name}: its {file.name} cannot be read (it is not a JSON object)", "fetch the file again")
    return value


def missing_part(folder: Path, name: str, weights: bool) -> InputError | ModelError | None:
    """Return the error that names a part that is not there; None if the checkpoint is complete.

    Args:
        folder: the folder of the checkpoint.
        name: the checkpoint as the user typed it.
        weights: whether weights are needed, or only the configuration files.

    Raises:
        ModelError: the index of the weights cannot be read, or names other files than safetensors of this folder.
    """
    for file in _files(folder, *SETTINGS, *(WEIGHTS if weights else ()), _TEMPLATES):
        if not file.exists():
            return ModelError(f"{name}: {file.name} is a link to nothing", "fetch the file again")
    if not (folder / "config.json").is_file():
        return InputError(
            f"{argument('model', name)}: no config.json in it, so it is not a model",
            "name the folder of a checkpoint, a Hugging Face id (owner/name), or demo",
        )
    files = _files(folder, *WEIGHTS)
    if not weights and not files:
        return None
    if (folder / INDEX).is_file():
        named = _indexed_files(folder, name)
        absent = [file for file in named if not (folder / file).is_file()]
        if absent:
            return ModelError(f"{name}: {absent[0]} is missing ({len(absent)} of {len(named)} weight files)")
    if not files:
        hint = "pickled weights (.bin, .pt) are not loaded; convert them"
        return ModelError(f"{name}: it has no safetensors weights", hint)
    return None


def _indexed_files(folder: Path, name: str) -> list[str]:
    weight_map = read_object(folder / INDEX, name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{name}: its {INDEX} cannot be read (it has no weight_map)")
    # A name with another ending would be unpickled, one with a separator could lie outside the folder.
    for file in weight_map.values():
        if not isinstance(file, str) or not file.endswith(".safetensors") or {"/", "\\", "\0", "\n"} & set(file):
            raise ModelError(f"{name}: its {INDEX} names {str(file)[:100]!r}, which is no safetensors file beside it")
    return sorted(set(weight_map.values()))


def weight_counts(folder: Path) -> dict[str, int]:
    """Return how many numbers each weight has, from the headers of the files.

    Raises:
        OSError, SafetensorError: a file cannot be read.
    """
    counts: dict[str, int] = {}
    for file in _files(folder, *WEIGHTS):
        with safe_open(file, framework="numpy") as weights:
            counts |= {name: prod(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    return counts


def fingerprint(folder: Path, name: str) -> str:
    """Return a hash of a checkpoint's files: of all settings, of the weights sizes and first and last MiB.

    Raises:
        ModelError: a file cannot be read.
    """
    weights = _files(folder, *WEIGHTS)
    try:
        if not weights:
            return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:12]
        digest = hashlib.sha256()
        for file in _files(folder, *SETTINGS):  # with processor and template
            digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
        for file in weights:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(2**20))
                stream.seek(max(0, size - 2**20))
                digest.update(stream.read(2**20))
    except OSError as error:
        raise ModelError(f"{name}: its {Path(error.filename).name} cannot be read: {error.strerror}") from None
    return digest.hexdigest()[:12]
