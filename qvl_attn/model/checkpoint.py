"""Find a model and check its files and its configuration, without torch and transformers.

Only safetensors are read, no code of a checkpoint is run, and the network is not used if the files are already local.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from qvl_attn.core.errors import InputError, ModelError

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
SUPPORTED = "qwen2_5_vl"
# The files of a checkpoint, without pickles and code.
_SETTINGS = ["*.json", "*.jinja", "*.txt", "*.model"]
_WEIGHTS = ["*.safetensors"]
_DEMO = Path(__file__).parents[1] / "demo" / "model"


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    Attributes:
        name: as the user typed it.
        folder: the folder with its files.
        revision: commit of a hub model; for a local folder a fingerprint of its files.
    """

    name: str
    folder: Path
    revision: str


def find_checkpoint(
    name: str, revision: str | None = None, *, offline: bool = False, weights: bool = True
) -> Checkpoint:
    """Resolve `demo`, a local folder or a Hugging Face id to files on disk; download only missing files.

    Args:
        name: the value of `--model`.
        revision: branch, tag or commit of a hub model.
        offline: never contact the hub.
        weights: whether weights are needed, or only the configuration files.

    Raises:
        InputError: `name` is neither a folder nor an id.
        ModelError: the model cannot be found or downloaded, or its files are not those of a model.
    """
    if not name:
        raise InputError("--model is empty", "try --model demo")
    folder = _DEMO if name == "demo" else Path(name).expanduser()
    if is_folder(name):
        if revision is not None:
            raise InputError(f"--revision {revision}: {name} is a folder, and folders have no revisions")
        return Checkpoint(name, folder.resolve(), _fingerprint(folder, name, weights))
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) or ".." in name:
        raise InputError(f"--model {name}: no such folder, and no Hugging Face id (owner/name)", "try --model demo")
    folder = _cached(name, revision, weights) or _download(name, revision, offline, weights)
    return Checkpoint(name, folder, folder.name)


def is_folder(name: str) -> bool:
    """Whether a model is `demo` or a local folder. Nothing is downloaded for these."""
    return name == "demo" or os.path.isdir(Path(name).expanduser())  # pathlib raises on long names  # noqa: PTH112


def _files(weights: bool) -> list[str]:
    return [*_SETTINGS, *(_WEIGHTS if weights else ())]


def _cached(name: str, revision: str | None, weights: bool) -> Path | None:
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_files(weights), local_files_only=True))
        _fingerprint(folder, name, weights)
    except (OSError, ValueError, ModelError):
        return None
    return folder


def _download(name: str, revision: str | None, offline: bool, weights: bool) -> Path:
    option = f" --revision {revision}" if revision else ""
    remedy = f"hf download {name}{option}   (or try --model demo)"
    if offline:
        raise ModelError(f"{name} is not in the cache, and --offline forbids downloading it", remedy)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_files(weights)))
    except GatedRepoError:
        raise ModelError(f"{name} is gated: the hub requires a login", "hf auth login, then: " + remedy) from None
    except RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{name}: not found on the hub, or private", "check the name, or: hf auth login") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        kind = type(error).__name__
        raise ModelError(f"{name} is not in the cache and the hub cannot be reached ({kind})", remedy) from None


def _fingerprint(folder: Path, name: str, weights: bool = True) -> str:
    """Check that a checkpoint is complete and return a hash of its files: sizes, first and last MiB of the weights."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name}: no config.json in it, so it is not a model")
    try:
        if not weights and not any(folder.glob("*.safetensors")):
            return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:12]
        return _read_fingerprint(folder, name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{name}: its files cannot be read: {one_line(error)}") from error


def _read_fingerprint(folder: Path, name: str) -> str:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        expected = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [file for file in expected if not (folder / file).is_file()]
        if missing:
            raise ModelError(f"{name}: {missing[0]} is missing ({len(missing)} of {len(expected)} weight files)")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{name}: it has no safetensors weights", "pickled weights (.bin, .pt) are not loaded; convert them"
        )
    digest = hashlib.sha256()
    for file in sorted(file for kind in _SETTINGS for file in folder.glob(kind)):  # with processor and template
        digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(2**20))
            stream.seek(max(0, size - 2**20))
            digest.update(stream.read())
    return digest.hexdigest()[:12]


def read_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Read `config.json` and refuse unsupported models.

    Raises:
        ModelError: the model is not a Qwen2.5-VL, or is quantised, or the file cannot be read.
    """
    try:
        raw: dict[str, Any] = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
        kind = raw.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{checkpoint.name}: its config.json cannot be read ({type(error).__name__})") from None
    if kind != SUPPORTED:
        raise ModelError(f"{checkpoint.name} is a {kind!r} model; only Qwen2.5-VL ({SUPPORTED}) is supported")
    refuse_quantised(checkpoint.name, raw)
    return raw


def refuse_quantised(name: str, raw: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose `config.json` says that it is quantised.

    Raises:
        ModelError: the checkpoint is quantised.
    """
    quantisation = raw.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else "unknown"
        raise ModelError(
            f"{name} is quantised ({method}); quantised checkpoints are not supported",
            "use a checkpoint in 16 or 32 bits, such as " + DEFAULT_MODEL,
        )


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
