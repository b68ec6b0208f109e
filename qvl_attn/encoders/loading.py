"""Find a vision encoder, say whether it is served, load its processor and its weights: safetensors only, no code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.utils import logging

from qvl_attn.core.errors import MemoryLimitError, ModelError
from qvl_attn.encoders.spec import QWEN, EncoderSpec, class_of, family_of, spec_of
from qvl_attn.model.checkpoint import (
    DTYPES,
    Checkpoint,
    Placement,
    load_processor,
    one_line,
    refuse_absent,
    refuse_quantised,
)

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model")
# A checkpoint of the whole model has the tower's weights under one of these.
_TOWER = {r"^(model\.)?visual\.": ""}


def load_spec(checkpoint: Checkpoint) -> tuple[EncoderSpec, Any]:
    """What is known of an encoder from its `config.json`, and the configuration.

    Raises:
        ModelError: a family that is not served, a quantised checkpoint, or a file that cannot be read.
    """
    name = checkpoint.name
    try:
        raw = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{name}: its config.json cannot be read ({type(error).__name__})") from None
    kind = family_of(name, raw)
    refuse_quantised(name, raw)
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        return spec_of(config, kind, class_of(kind, raw)), config
    except ModelError:
        raise
    except Exception as error:  # a broken file makes the libraries raise anything
        raise ModelError(f"{name}: its config.json cannot be read: {one_line(error)}") from error


def load_encoder_processor(checkpoint: Checkpoint, spec: EncoderSpec, config: Any) -> Any:
    """What makes pictures into the encoder's input: for Qwen2.5-VL the whole processor, else the pictures' alone.

    Raises:
        ModelError: files are missing or broken.
    """
    if spec.model_type == QWEN:
        return load_processor(checkpoint, config)
    _want_one(checkpoint, PROCESSOR_FILES, "image processor", "it says how pictures are resized and normalised")
    try:
        return AutoImageProcessor.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a broken file makes the libraries raise anything
        raise ModelError(f"{checkpoint.name}: its image processor cannot be loaded: {one_line(error)}") from error


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer of an encoder that compares pictures with texts.

    Raises:
        ModelError: files are missing or broken, or a library that it needs is not there: SigLIP's needs sentencepiece.
    """
    # Without them transformers makes a tokenizer that knows no word, and all texts are alike to it.
    _want_one(checkpoint, TOKENIZER_FILES, "tokenizer", "--text needs one")
    try:
        return AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise ModelError(
            f"{checkpoint.name}: its tokenizer cannot be loaded: {one_line(error)}", "pip install sentencepiece"
        ) from error
    except Exception as error:  # a broken file makes the libraries raise anything
        raise ModelError(f"{checkpoint.name}: its tokenizer cannot be loaded: {one_line(error)}") from error


def _want_one(checkpoint: Checkpoint, files: Sequence[str], what: str, why: str) -> None:
    if not any((checkpoint.folder / file).is_file() for file in files):
        raise ModelError(f"{checkpoint.name}: no {what} in it ({why})", f"want one of {', '.join(files)}")


def build_encoder(name: str, spec: EncoderSpec, config: Any) -> Any:
    """The model, its weights not loaded.

    Raises:
        ModelError: the configuration makes no model.
    """
    try:
        return _class_of(spec)(config.vision_config if spec.model_type == QWEN else config)
    except Exception as error:  # a configuration that makes no sense makes the libraries raise anything
        raise ModelError(f"{name}: its config.json makes no model: {one_line(error)}") from error


def load_encoder_weights(checkpoint: Checkpoint, spec: EncoderSpec, config: Any, placement: Placement) -> Any:
    """Load an encoder, with SDPA, ready to look. Of Qwen2.5-VL its vision tower alone: the rest is not read.

    Raises:
        ModelError: weights are broken or do not fit the configuration.
        MemoryLimitError: the device is full.
    """
    tower = {"config": config.vision_config, "key_mapping": _TOWER} if spec.model_type == QWEN else {"config": config}
    # A pooler is not used here, and some checkpoints (DINO's) have none.
    plain = {"add_pooling_layer": False} if spec.model_class == "ViTModel" else {}
    try:
        with _quiet():
            model, info = _class_of(spec).from_pretrained(
                checkpoint.folder,
                **tower,
                **plain,
                dtype=DTYPES[placement.dtype],
                attn_implementation="sdpa",
                device_map={"": placement.device},
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are told apart below, and by name
                local_files_only=True,
                output_loading_info=True,
            )
    except (torch.OutOfMemoryError, MemoryError):
        raise MemoryLimitError(f"{checkpoint.name} does not fit on {placement.device}", "try --device cpu") from None
    except Exception as error:  # a broken file makes the libraries raise anything
        raise ModelError(f"{checkpoint.name}: its weights cannot be loaded: {one_line(error)}") from error
    refuse_absent(checkpoint.name, info)
    return model.eval().requires_grad_(False)


def _class_of(spec: EncoderSpec) -> Any:
    if spec.model_type == QWEN:
        return Qwen2_5_VisionTransformerPretrainedModel
    return getattr(transformers, spec.model_class)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the report of weights that are not wanted: most of a Qwen2.5-VL's are not its tower's."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
