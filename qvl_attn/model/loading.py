"""Choose device and dtype of a model, and load its configuration, its processor and its weights."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import psutil
import torch
from transformers import AutoProcessor, GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.activations import ACT2FN
from transformers.utils import logging as transformers_logging

from qvl_attn.core.errors import InputError, MemoryLimitError, ModelError
from qvl_attn.core.runtime import PROGRESS, check_cancelled, describe_size
from qvl_attn.core.text import argument, plain, pluralize, quoted, shortened
from qvl_attn.model.checkpoint import Checkpoint, guarded, read_config
from qvl_attn.model.checkpoint_files import read_object, weight_counts
from qvl_attn.model.config_check import WRONG_CONFIG
from qvl_attn.model.placement import PRECISIONS, Placement, check_options, made_by

T = TypeVar("T")
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in PRECISIONS}
LOADING = "loading the weights"
_BAR = "Loading weights"  # what transformers calls it
# The hook and the log level of transformers are those of the process: two threads at once would restore each other's.
_TRANSFORMERS = threading.RLock()
_ASK_EVERY_S = 0.1

# Limits of pixels: as transformers reads them, and as some checkpoints have them inside of `size`.
_SIZE_NAMES = (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels"))
# The fields of a processor that say how pictures and clips become patches.
_GEOMETRY = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_IMAGE_PROCESSOR = "Qwen2VLImageProcessor"
# A processor may enlarge pictures to at most this, about 21,000 cells.
_MOST_ENLARGED = 2**24
# Settings of generation that change greedy answers and are not applied here, with the values that change nothing.
_UNSERVED = {
    **dict.fromkeys(("encoder_repetition_penalty", "guidance_scale"), 1),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens"), 0),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "stop_strings")),
    **dict.fromkeys(("forced_eos_token_id", "exponential_decay_length_penalty", "watermarking_config")),
    "token_healing": False,
}
_COPY = "copy the tokenizer and processor files of the base model into it (*.json, *.jinja, *.txt, but no config.json)"


def load_config(checkpoint: Checkpoint) -> Any:
    """Read the configuration and refuse unsupported models.

    Raises:
        ModelError: the model is not a Qwen2.5-VL, or is quantised, or its file is broken.
    """
    read_config(checkpoint)
    with guarded(f"{checkpoint.name}: its config.json cannot be read", WRONG_CONFIG):
        config = Qwen2_5_VLConfig.from_pretrained(checkpoint.folder, local_files_only=True)
        config.name_or_path = checkpoint.name
        config._attn_implementation = "sdpa"  # whatever kernel, on the hub for example, the file names
        vision = config.vision_config
        if vision.window_size < vision.patch_size * vision.spatial_merge_size:
            raise ValueError(f"a window of {vision.window_size} px is smaller than a cell")
        for place, part in (("vision_config", vision), ("text_config", config.text_config)):
            if part.hidden_act not in ACT2FN:
                raise ValueError(f"{place}.hidden_act is {part.hidden_act!r}, which transformers does not have")
    return config


def load_processor(checkpoint: Checkpoint, config: Any) -> Any:
    """Read tokenizer, chat template and picture settings, and check that they belong to the model.

    Raises:
        ModelError: files are missing, broken, or those of another model.
    """
    name = checkpoint.name
    if not any((checkpoint.folder / file).is_file() for file in _PROCESSOR_FILES):
        raise ModelError(f"{name}: it has no processor ({_PROCESSOR_FILES[0]})", _COPY)
    _refuse_image_processor(checkpoint)
    with guarded(f"{name}: its processor cannot be loaded", _COPY):
        processor = AutoProcessor.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        ids = processor.tokenizer.convert_tokens_to_ids([processor.image_token, processor.video_token])
        processor.tokenizer.name_or_path = name  # messages about its template begin with it
        words, template = processor.tokenizer.vocab_size, processor.chat_template
        for part in (processor.image_processor, processor.video_processor):
            part.size = _pixel_limits(dict(part.size))
            for field in ("image_mean", "image_std"):
                value = getattr(part, field)
                numbers = list(value) if isinstance(value, list | tuple) else [value]
                if len(numbers) != 3:
                    raise ValueError(f"{field} is {numbers}, want 3 numbers, one for each colour")
            for field, of_model in _GEOMETRY.items():
                want = getattr(config.vision_config, of_model)
                if getattr(part, field) != want:
                    raise ValueError(f"{field} is {getattr(part, field)!r}, and {want} in config.json")
    if ids[0] is None or ids[0] != config.image_token_id:
        raise ModelError(f"{name}: its tokenizer has no {processor.image_token} where the model expects it", _COPY)
    if ids[1] is None or ids[1] != config.video_token_id:
        raise ModelError(f"{name}: its tokenizer has no {processor.video_token} where the model expects it", _COPY)
    if max(words - 1, *ids) >= config.text_config.vocab_size:
        raise ModelError(f"{name}: its tokenizer has more tokens than the model ({words})", _COPY)
    if not template:
        raise ModelError(f"{name}: it has no chat template", _COPY)
    return processor


def _refuse_image_processor(checkpoint: Checkpoint) -> None:
    """Refuse a name that older or newer versions of transformers gave to the image processor."""
    file = checkpoint.folder / _PROCESSOR_FILES[0]
    kind = read_object(file, checkpoint.name).get("image_processor_type") if file.is_file() else None
    if kind is not None and kind not in (_IMAGE_PROCESSOR, f"{_IMAGE_PROCESSOR}Fast"):
        raise ModelError(
            f"{checkpoint.name}: its {file.name} names the image processor {quoted(kind)}, which is not that "
            "of Qwen2.5-VL",
            f'write "image_processor_type": "{_IMAGE_PROCESSOR}" there',
        )


def _pixel_limits(size: Mapping[str, Any]) -> dict[str, int]:
    """Return a processor's limits of pixels, under the names that transformers reads.

    Some checkpoints have them as `min_pixels` and `max_pixels` inside of `size`, where transformers leaves them unread.

    Raises:
        ValueError: a limit is missing or out of range.
    """
    low, high = limits = [size.get(edge, size.get(old)) for edge, old in _SIZE_NAMES]
    if not all(isinstance(limit, int) and not isinstance(limit, bool) for limit in limits):
        raise ValueError(f"size has no shortest_edge and longest_edge, the limits of pixels, but {sorted(size)}")
    if not 1 <= low <= min(high, _MOST_ENLARGED):
        raise ValueError(f"size has a shortest_edge of {low} pixels and a longest_edge of {high}")
    return {"shortest_edge": low, "longest_edge": high}


def choose_placement(
    config: Any, device: str = "auto", dtype: str = "auto", device_map: str | None = None, *, must_fit: bool = True
) -> Placement:
    """Choose device and dtype of a Qwen2.5-VL, as `placement_of` does."""

    def build() -> Any:
        with guarded(f"{config.name_or_path}: no model can be built from its config.json", WRONG_CONFIG):
            return Qwen2_5_VLForConditionalGeneration(config)

    return placement_of(build, device, dtype, device_map, must_fit=must_fit)


def placement_of(
    build: Callable[[], Any], device: str, dtype: str, device_map: str | None = None, *, must_fit: bool = True
) -> Placement:
    """Choose device and dtype: 16 bits on CUDA; on the CPU float32 if the weights fit the free memory, else bfloat16.

    Args:
        build: builds the model; called on the meta device, to count its weights.
        device: as in `check_options`.
        dtype: as in `check_options`.
        device_map: as in `check_options`.
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
        natural, reason = _natural_precision(device, device_map)
        dtype = natural if dtype == "auto" else dtype
        return Placement(device, dtype, device_map, count * DTYPES[dtype].itemsize, reason)
    free = psutil.virtual_memory().available
    if dtype == "auto":
        dtype = "float32" if 4 * count < free else "bfloat16"
    size = count * DTYPES[dtype].itemsize
    reason = f"{describe_size(size)} of weights, {describe_size(free)} free"
    if must_fit and size > free:
        raise MemoryLimitError(f"the weights do not fit: {reason}", "take a smaller model, or free some memory")
    return Placement(device, dtype, device_map, size, reason)


def _natural_precision(device: str, device_map: str | None) -> tuple[str, str]:
    """Return the 16-bit precision that all GPUs which may be used compute in, and the reason.

    That is bfloat16 from compute capability 8.0 on, else float16 (T4, V100). `torch.cuda.is_bf16_supported` is also
    true where bfloat16 is emulated.
    """
    gpus = range(torch.cuda.device_count()) if device_map else [torch.device(device)]
    major, minor = min(torch.cuda.get_device_capability(gpu) for gpu in gpus)
    if major >= 8:
        return "bfloat16", "a GPU is available"
    return "float16", f"a GPU of compute capability {major}.{minor}, which has no native bfloat16"


def _check_device(device: str) -> None:
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(device.partition(":")[2] or 0) >= count:
            raise InputError(
                f"{argument('device', device)}: not available ({count} CUDA devices found)",
                f"use {argument('device', 'cpu')}",
            )


def load_weights(checkpoint: Checkpoint, config: Any, placement: Placement) -> Any:
    """Load the model in evaluation mode, with SDPA in the vision encoder and the language model.

    Raises:
        ModelError: weights are broken or do not fit the configuration.
        MemoryLimitError: the weights do not fit on the device.
    """
    check_amount(checkpoint, placement)
    generation = _generation(checkpoint, config)
    hint = f"try {argument('device_map', 'auto')}"
    model = read_weights(Qwen2_5_VLForConditionalGeneration, checkpoint, placement, hint, config=config)
    model.generation_config = generation
    return model


@contextmanager
def _weights_reported() -> Iterator[None]:
    """Report the weights that transformers reads to `PROGRESS`, instead of its bar, and keep its warnings back.

    A program may use transformers itself: its bars in other threads stay, and afterwards all is as it was.
    """
    reader = threading.get_ident()

    def watch(bar: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if threading.get_ident() != reader:
            return hook(bar, args, options) if hook else bar(*args, **options)
        if options.get("desc") == _BAR:
            return _reported(args[0])
        return transformers_logging.EmptyTqdm(*args, **options)

    while not _TRANSFORMERS.acquire(timeout=_ASK_EVERY_S):
        check_cancelled()
    log = transformers_logging.get_logger()
    level, hook = log.level, transformers_logging.set_tqdm_hook(watch)
    log.setLevel(transformers_logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(hook)
        log.setLevel(level)
        _TRANSFORMERS.release()


def _reported(weights: Collection[T]) -> Iterator[T]:
    """Yield the weights that transformers reads one by one, and report how many it has."""
    progress, total = PROGRESS.get(), len(weights)
    for done, weight in enumerate(weights):
        progress(LOADING, done, total)
        yield weight
    progress(LOADING, total, total)


def read_weights(kind: Any, checkpoint: Checkpoint, placement: Placement, hint: str, **options: Any) -> Any:
    """Return a model with the weights of a checkpoint, in evaluation mode and with SDPA.

    Nothing is printed: each weight is reported to the progress of `core.runtime.reporting` or `cancelling`.

    Args:
        kind: the model's class in transformers.
        checkpoint: whose weights are read.
        placement: device and precision.
        hint: what to do where the weights do not fit on the device.
        options: further arguments of `from_pretrained`, such as the configuration.

    Raises:
        ModelError: weights are broken or missing, or do not fit the configuration.
        MemoryLimitError: the weights do not fit on the device.
        Cancelled: in a `cancelling` block, its `cancel()` returned true.
    """
    with _weights_reported(), guarded(f"{checkpoint.name}: its weights cannot be loaded"):
        try:
            model, info = kind.from_pretrained(
                checkpoint.folder,
                **options,
                dtype=DTYPES[placement.dtype],
                attn_implementation="sdpa",
                device_map=placement.device_map or {"": placement.device},
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # `refuse_absent` reports them by name
                local_files_only=True,
                output_loading_info=True,
            )
        except (torch.OutOfMemoryError, MemoryError):
            raise MemoryLimitError(f"{checkpoint.name} does not fit on {placement.device}", hint) from None
    refuse_absent(checkpoint.name, model, info)
    # Methods need gradients of activations only, never of weights.
    return model.eval().requires_grad_(False)


def _generation(checkpoint: Checkpoint, config: Any) -> GenerationConfig:
    """Return the settings of generation that are the checkpoint's own: see `generate.greedy`.

    Left out are those that say nothing about greedy answers: sampling, beams, the longest length or time, caches,
    outputs. transformers would take them from the file wherever ours are silent.

    Raises:
        ModelError: a setting has another type, or is out of range, or changes greedy answers and is not applied.
    """
    name, vocabulary = checkpoint.name, config.text_config.vocab_size
    with guarded(f"{name}: its generation_config.json cannot be used"):
        if (checkpoint.folder / "generation_config.json").is_file():
            stated = GenerationConfig.from_pretrained(checkpoint.folder, local_files_only=True)
        else:  # as transformers does
            stated = GenerationConfig.from_model_config(config)
    for field, neutral in _UNSERVED.items():
        value = getattr(stated, field, None)
        if value not in (None, neutral, [], (), {}, ""):
            words = shortened(plain(f"{field} {value}"))
            raise ModelError(
                f"{name}: its generation_config.json has {words}, which changes answers and is not supported",
                f"take {field} out of the file to get the answers without it",
            )
    penalty, end, pad = stated.repetition_penalty, stated.eos_token_id, stated.pad_token_id
    ids = [*(end if isinstance(end, list) else [end]), pad]
    known = all(token is None or (type(token) is int and 0 <= token < vocabulary) for token in ids)
    if not known or not (penalty is None or (type(penalty) in (int, float) and 0 < penalty < math.inf)):
        settings = shortened(plain(f"repetition_penalty {penalty}, eos_token_id {end}, pad_token_id {pad}"))
        raise ModelError(f"{name}: its generation_config.json cannot be used: {settings}", "take the base model's")
    return GenerationConfig(repetition_penalty=penalty, eos_token_id=end, pad_token_id=pad)


def check_amount(checkpoint: Checkpoint, placement: Placement) -> None:
    """Refuse files with less than half of the numbers that the configuration asks for: the rest would be made up.

    Raises:
        ModelError: the files cannot be read, or do not hold the weights.
    """
    with guarded(f"{checkpoint.name}: its weights cannot be loaded"):
        counts = weight_counts(checkpoint.folder)
    held, empty = sum(counts.values()), [name for name, count in counts.items() if not count]
    wanted = placement.weight_bytes // DTYPES[placement.dtype].itemsize
    if 2 * held < wanted and empty:
        raise _shard_error(checkpoint.name, empty[0])
    if 2 * held < wanted:
        raise ModelError(
            f"{checkpoint.name}: its weights are {held:,} numbers, and its config.json asks for {wanted:,}",
            WRONG_CONFIG,
        )


def _shard_error(name: str, weight: str) -> ModelError:
    return ModelError(
        f"{name}: its weight {weight} has no elements, so it was saved from one shard of a training run (ZeRO-3)",
        "make the whole weights of the training checkpoint with its zero_to_fp32.py --safe_serialization",
    )


def refuse_absent(name: str, model: Any, info: Mapping[str, Any]) -> None:
    """Refuse a model if weights are missing from its files.

    Args:
        name: the checkpoint as the user typed it.
        model: the loaded model.
        info: what transformers says about the loading.

    Raises:
        ModelError: a weight is missing or has another shape.
    """
    misshapen = sorted(info.get("mismatched_keys", ()))
    for weight, in_file, in_model in misshapen:
        if 0 in in_file:
            raise _shard_error(name, weight)
        raise ModelError(
            f"{name}: {_weights_are(len(misshapen))} misshapen, such as {weight}: {_shape(in_file)} in the file, and "
            f"{_shape(in_model)} by its config.json",
            WRONG_CONFIG,
        )
    missing, others = sorted(info["missing_keys"]), sorted(info.get("unexpected_keys", ()))
    if not missing:
        return
    prefix = os.path.commonprefix(others).rpartition(".")[0]  # noqa: RUF071  not paths
    if prefix and len(missing) > 0.9 * len(model.state_dict()):
        raise ModelError(
            f"{name}: the names of its weights begin with {prefix}, which those of the model do not",
            "save the model itself, not what wrapped it in training (DataParallel, peft), or take the prefix off",
        )
    raise ModelError(
        f"{name}: {_weights_are(len(missing))} missing, such as {missing[0]}",
        "fetch its files again, or, if only lm_head.weight is missing, set tie_word_embeddings as the base model does",
    )


def _weights_are(count: int) -> str:
    return f"{pluralize(count, 'weight')} {'is' if count == 1 else 'are'}"


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def provenance_fields(checkpoint: Checkpoint, placement: Placement) -> dict[str, str]:
    """Return versions, model, device and dtype: the fields of a `Provenance`."""
    return made_by(checkpoint, torch.__version__, placement.device_map or placement.device, placement.dtype)


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
