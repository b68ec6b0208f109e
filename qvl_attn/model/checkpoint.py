"""Find a model and check its files and its configuration, without torch and transformers.

Only safetensors are read, no code of a checkpoint is run, and the network is not used if the files are already local.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

from qvl_attn.core.errors import InputError, MemoryLimitError, ModelError, QvlAttnError
from qvl_attn.core.text import argument, plain, quoted, shortened
from qvl_attn.model.checkpoint_files import SETTINGS, WEIGHTS, check_files, fingerprint, missing_part, read_object
from qvl_attn.model.config_check import check_numbers

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
SUPPORTED = "qwen2_5_vl"
_LONGEST_WORDS = 200
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
_TRY_DEMO = f"try {argument('model', 'demo')}"
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
        name: the model as the user typed it.
        revision: branch, tag or commit of a hub model.
        offline: never contact the hub.
        weights: whether weights are needed, or only the configuration files.

    Raises:
        InputError: `name` is neither an id nor a folder with a model.
        ModelError: the model cannot be found or downloaded, or its files are not those of a model.
    """
    if not name:
        raise InputError(f"{argument('model')} is empty", _TRY_DEMO)
    if is_folder(name):
        if revision is not None:
            raise InputError(f"{argument('revision', revision)}: {name} is a folder, and folders have no revisions")
        folder = Path(_path(name)).resolve()
        _check(folder, name, weights)
        return Checkpoint(name, folder, fingerprint(folder, name))
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) or ".." in name:
        raise InputError(f"{argument('model', name)}: no such folder, and no Hugging Face id (owner/name)", _TRY_DEMO)
    folder = _cached(name, revision, weights) or _download(name, revision, offline, weights)
    return Checkpoint(name, folder, folder.name)


def with_weights(checkpoint: Checkpoint, *, offline: bool = False) -> Checkpoint:
    """Return a checkpoint that was found without its weights with those of the same commit; download what is missing.

    Raises:
        ModelError: the weights cannot be found or downloaded.
    """
    name, folder, revision = checkpoint.name, checkpoint.folder, checkpoint.revision
    if folder.name == revision:
        return find_checkpoint(name, revision, offline=offline)
    _check(folder, name, weights=True)  # a local folder, whose revision is a fingerprint
    return checkpoint


def find_on_disk(
    name: str, revision: str | None = None, *, offline: bool = False, weights: bool = True
) -> Checkpoint | None:
    """Return a model whose files are local, as `find_checkpoint` does; None if it would be downloaded.

    Raises:
        InputError: `name` is neither an id nor a folder with a model.
        ModelError: its files are not those of a model, or it is missing and `offline` is set.
    """
    try:
        return find_checkpoint(name, revision, offline=True, weights=weights)
    except ModelError:
        if offline or is_folder(name):
            raise
        return None


def is_folder(name: str) -> bool:
    """Whether a model is `demo` or a local folder. Nothing is downloaded for these."""
    return os.path.isdir(_path(name))  # pathlib raises on long names  # noqa: PTH112


def _path(name: str) -> str:
    return str(_DEMO) if name == "demo" else os.path.expanduser(name)  # pathlib raises on ~nobody  # noqa: PTH111


def _check(folder: Path, name: str, weights: bool) -> None:
    check_files(folder, name)
    missing = missing_part(folder, name, weights)
    if missing:
        raise missing


def _patterns(weights: bool) -> list[str]:
    return [*SETTINGS, *(WEIGHTS if weights else ())]


def _cached(name: str, revision: str | None, weights: bool) -> Path | None:
    patterns = _patterns(weights)
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=True))
    except (OSError, ValueError):
        return None
    check_files(folder, name)
    return None if missing_part(folder, name, weights) else folder


def _download(name: str, revision: str | None, offline: bool, weights: bool) -> Path:
    option = f" --revision {revision}" if revision else ""
    remedy = f"hf download {name}{option}   (or {_TRY_DEMO})"
    if offline:
        raise ModelError(f"{name} is not in the cache, and {argument('offline', True)} forbids downloading it", remedy)
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_patterns(weights)))
    except GatedRepoError:
        raise ModelError(f"{name} is gated: the hub requires a login", "hf auth login, then: " + remedy) from None
    except RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise ModelError(f"{name}: not found on the hub, or private", "check the name, or: hf auth login") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        kind = type(error).__name__
        raise ModelError(f"{name} is not in the cache and the hub cannot be reached ({kind})", remedy) from None
    _check(folder, name, weights)
    return folder


def read_config(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Read `config.json` and refuse unsupported models.

    Raises:
        ModelError: the model is not a Qwen2.5-VL, or as `check_config` raises, or the file cannot be read.
    """
    raw = read_object(checkpoint.folder / "config.json", checkpoint.name)
    kind = raw.get("model_type")
    if kind != SUPPORTED:
        kind = quoted(kind)
        raise ModelError(f"{checkpoint.name} is a {kind} model; only Qwen2.5-VL ({SUPPORTED}) is supported")
    check_config(checkpoint.name, raw)
    return raw


def check_config(name: str, raw: Mapping[str, Any]) -> None:
    """Check the `config.json` of a supported family before a library sees it.

    Args:
        name: the checkpoint as the user typed it.
        raw: the contents of its `config.json`.

    Raises:
        ModelError: the checkpoint is quantised, or a number is out of range.
    """
    quantisation = raw.get("quantization_config")
    if quantisation:
        method = quantisation.get("quant_method", "unknown") if isinstance(quantisation, dict) else "unknown"
        raise ModelError(
            f"{name} is quantised ({plain(shortened(str(method)))}); quantised checkpoints are not supported",
            "use a checkpoint in 16 or 32 bits, such as " + DEFAULT_MODEL,
        )
    check_numbers(name, raw)


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short: Python's, or torch's on any device, which is a RuntimeError."""
    says_so = any(words in str(error) for words in _NO_MEMORY)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and says_so)


@contextmanager
def guarded(claim: str, hint: str = "", kinds: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Turn what a library raises on a stranger's files into one line.

    Args:
        claim: what failed, with the name of the checkpoint; the library's words follow it.
        hint: what to do about it.
        kinds: the errors that the files can cause, by default all; others pass.

    Raises:
        ModelError: a library raised an error. Our own errors pass.
        MemoryLimitError: memory was short.
    """
    try:
        yield
    except QvlAttnError:
        raise
    except Exception as error:  # the libraries raise any type on a broken file
        if is_lack_of_memory(error):
            raise MemoryLimitError(
                f"{claim}: out of memory", f"free some, lower {argument('max_pixels')}, or take a smaller model"
            ) from None
        if not isinstance(error, kinds):
            raise
        raise ModelError(f"{claim}: {_one_line(error)}", hint) from error


def _one_line(error: Exception) -> str:
    """Return an error of a library in one line: its message, with the name of its type if it says little."""
    text = plain(" ".join(str(error).split()))
    words = text if len(text) <= _LONGEST_WORDS else text[:_LONGEST_WORDS].rsplit(" ", 1)[0] + " …"
    if " " in words:
        return words
    return f"{words} is unknown" if isinstance(error, KeyError) else f"{type(error).__name__} {words}".rstrip()
