"""Choose device and dtype of a model, and load its configuration, its processor and its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch
import transformers
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from qvl_attn.core import version
from qvl_attn.core.errors import InputError, MemoryLimitError, ModelError
from qvl_attn.model.checkpoint import Checkpoint, one_line, read_config
from qvl_attn.model.placement import Placement, check_options

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_config(checkpoint: Checkpoint) -> Any:
    """Read the configuration and refuse unsupported models.

    Raises:
        ModelError: the model is not a Qwen2.5-VL, or is quantised.
    """
    read_config(checkpoint)
    try:
        return Qwen2_5_VLConfig.from_pretrained(checkpoint.folder, local_files_only=True)
    except Exception as error:  # the libraries raise any type on a broken file
        raise ModelError(f"{checkpoint.name}: its config.json cannot be read: {one_line(error)}") from error


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
    check_options(device, dtype, device_map)
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
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(device.partition(":")[2] or 0) >= count:
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
