"""Find a model, check that it is supported, choose device and dtype, load processor and weights.

Only safetensors are read, no code of a checkpoint is run, and the network is not used if the files are already local.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from qvl_attn.core import version
from qvl_attn.core.errors import InputError, MemoryLimitError, ModelError

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
SUPPORTED = "qwen2_5_vl"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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


@dataclass(frozen=True)
class Placement:
    """Device and precision of a model, the size of its weights there, and the reason for the choice."""

    device: str
    dtype: str
    device_map: str | None
    weight_bytes: int
    reason: str


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


def load_config(checkpoint: Checkpoint) -> Any:
    """Read the configuration and refuse unsupported models.

    Raises:
        ModelError: the model is not a Qwen2.5-VL, or is quantised.
    """
    try:
        raw = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
        kind = raw.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{checkpoint.name}: its config.json cannot be read ({type(error).__name__})") from None
    if kind != SUPPORTED:
        raise ModelError(f"{checkpoint.name} is a {kind!r} model; only Qwen2.5-VL ({SUPPORTED}) is supported")
    refuse_quantised(checkpoint.name, raw)
    try:
        return Qwen2_5_VLConfig.from_pretrained(checkpoint.folder, local_files_only=True)
    except Exception as error:  # the libraries raise any type on a broken file
        raise ModelError(f"{checkpoint.name}: its config.json cannot be read: {one_line(error)}") from error


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


def load_processor(checkpoint: Checkpoint, config: Any) -> Any:
    """Read tokenizer, chat template and picture settings, and check that they belong to the model.

    Raises:
        ModelError: files are missing, broken, or those of another model.
    """
    try:
        processor = AutoProcessor.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        image_token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    except Exception as error:  # the libraries raise any type on a broken file
        raise ModelError(f"{checkpoint.name}: its processor cannot be loaded: {one_line(error)}") from error
    if image_token is None or image_token != config.image_token_id:
        raise ModelError(f"{checkpoint.name}: its tokenizer has no {processor.image_token} where the model expects it")
    if not processor.chat_template:
        raise ModelError(f"{checkpoint.name}: it has no chat template")
    return processor


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def choose_placement(
    config: Any, device: str = "auto", dtype: str = "auto", device_map: str | None = None, *, must_fit: bool = True
) -> Placement:
    """Choose device and dtype of a Qwen2.5-VL, as `placement_of` does."""
    return placement_of(
        lambda: Qwen2_5_VLForConditionalGeneration(config), device, dtype, device_map, must_fit=must_fit
    )


def placement_of(
    build: Callable[[], Any], device: str, dtype: str, device_map: str | None = None, *, must_fit: bool = True
) -> Placement:
    """Choose device and dtype: bfloat16 on CUDA; on the CPU float32 if the weights fit the free memory, else bfloat16.

    Args:
        build: builds the model; called on the meta device, to count its weights.
        device: the value of `--device`.
        dtype: the value of `--dtype`.
        device_map: the value of `--device-map`.
        must_fit: raise if the weights do not fit the free memory.

    Raises:
        InputError: unknown device or dtype, or no such GPU.
        MemoryLimitError: `must_fit`, and the weights do not fit the free memory.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: unknown", f"write auto, {', '.join(DTYPES)}")
    if device_map is not None and device_map not in ("auto", "balanced", "balanced_low_0", "sequential"):
        raise InputError(f"--device-map {device_map}: unknown", "write auto, balanced, balanced_low_0 or sequential")
    if device_map is not None and device != "auto":
        raise InputError(f"--device {device} and --device-map {device_map}: give one of them")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    _check_device(device)
    with torch.device("meta"):
        count = sum(p.numel() for p in build().parameters())
    if device.startswith("cuda"):
        dtype = "bfloat16" if dtype == "auto" else dtype
        return Placement(device, dtype, device_map, count * DTYPES[dtype].itemsize, "a GPU is available")
    free = psutil.virtual_memory().available
    if dtype == "auto":
        dtype = "float32" if 4 * count < free else "bfloat16"
    size = count * DTYPES[dtype].itemsize
    reason = f"{size / 2**30:.2g} GiB of weights, {free / 2**30:.1f} GiB free"
    if must_fit and size > free:
        raise MemoryLimitError(f"the weights do not fit: {reason}", "take a smaller model, or free some memory")
    return Placement(device, dtype, device_map, size, reason)


def _check_device(device: str) -> None:
    if device == "mps":
        raise InputError("--device mps: not supported", "use --device cpu")
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", device, re.ASCII)
    if not match:
        raise InputError(f"--device {device}: unknown", "write auto, cpu, cuda or cuda:0")
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(match[1] or 0) >= count:
            raise InputError(f"--device {device}: not available ({count} CUDA devices found)", "use --device cpu")


def load_weights(checkpoint: Checkpoint, placement: Placement) -> Any:
    """Load the model in evaluation mode, with SDPA in the vision encoder and the language model.

    Raises:
        ModelError: weights are broken or do not fit the configuration.
        MemoryLimitError: the weights do not fit on the device.
    """
    try:
        model, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            checkpoint.folder,
            dtype=DTYPES[placement.dtype],
            attn_implementation="sdpa",
            device_map=placement.device_map or {"": placement.device},
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (torch.OutOfMemoryError, MemoryError):
        raise MemoryLimitError(
            f"{checkpoint.name} does not fit on {placement.device}", "try --device-map auto"
        ) from None
    except Exception as error:  # the libraries raise any type on a broken file
        raise ModelError(f"{checkpoint.name}: its weights cannot be loaded: {one_line(error)}") from error
    refuse_absent(checkpoint.name, info)
    # Methods need gradients of activations only, never of weights.
    return model.eval().requires_grad_(False)


def refuse_absent(name: str, info: Mapping[str, Any]) -> None:
    """Refuse a model if weights are missing from its files.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info.get("mismatched_keys", ()))
    if absent:
        raise ModelError(f"{name}: {len(absent)} weights are missing or misshapen, such as {absent[0]}")


def provenance_fields(checkpoint: Checkpoint, placement: Placement, attention: str) -> dict[str, str]:
    """Return versions, model, device and dtype, and the attention mode."""
    return {
        "qvl_attn": version.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "dtype": placement.dtype,
        "device": placement.device_map or placement.device,
        "attention": attention,
    }


def model_provenance(config: Any, processor: Any) -> dict[str, Any]:
    """Return the number of layers and heads, and the processor's limits of picture size."""
    text, size = config.text_config, processor.image_processor.size
    return {
        "layer_count": text.num_hidden_layers,
        "head_count": text.num_attention_heads,
        "processor_size": {edge: int(size[edge]) for edge in ("shortest_edge", "longest_edge")},
    }


def generation_provenance(generation: Any) -> dict[str, float | int | bool]:
    """Return the generation settings in force."""
    return {
        "do_sample": False,
        "repetition_penalty": float(generation.repetition_penalty),
        "max_new_tokens": int(generation.max_new_tokens),
    }
