"""Check that a vision encoder is supported, load its processor and its weights: safetensors only, no remote code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from qvl_attn.core.errors import ModelError
from qvl_attn.core.text import argument
from qvl_attn.encoders.spec import QWEN, EncoderSpec, class_of, family_of, spec_of
from qvl_attn.model.checkpoint import Checkpoint, check_config, guarded
from qvl_attn.model.checkpoint_files import read_object
from qvl_attn.model.loading import check_amount, load_config, load_processor, read_weights
from qvl_attn.model.placement import Placement

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "spiece.model")
# The prefix of the vision tower's weights in a checkpoint of the whole model.
_TOWER = {r"^(model\.)?visual\.": ""}


def load_spec(checkpoint: Checkpoint) -> tuple[EncoderSpec, Any]:
    """Return the specification of an encoder and its configuration, from `config.json`.

    Raises:
        ModelError: the family is not supported, the checkpoint is quantised, or the file cannot be read.
    """
    name = checkpoint.name
    raw = read_object(checkpoint.folder / "config.json", name)
    kind = family_of(name, raw)
    check_config(name, raw)
    if kind == QWEN:
        config = load_config(checkpoint)
        return spec_of(config, kind, class_of(kind, raw)), config
    with guarded(f"{name}: its config.json cannot be read"):
        config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        config._attn_implementation = "sdpa"  # whatever kernel, on the hub for example, the file names
        return spec_of(config, kind, class_of(kind, raw)), config


def load_encoder_processor(checkpoint: Checkpoint, spec: EncoderSpec, config: Any) -> Any:
    """Load the processor of an encoder: for Qwen2.5-VL the whole processor, else the image processor.

    Raises:
        ModelError: files are missing or broken.
    """
    if spec.model_type == QWEN:
        return load_processor(checkpoint, config)
    _require_file(checkpoint, PROCESSOR_FILES, "image processor", "it defines how pictures are resized and normalised")
    with guarded(f"{checkpoint.name}: its image processor cannot be loaded"):
        return AutoImageProcessor.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """Load the tokenizer of an encoder that compares pictures with texts.

    Raises:
        ModelError: files are missing or broken, or a library is not installed: SigLIP needs sentencepiece.
    """
    # Without these files transformers builds an empty tokenizer, for which all texts are the same.
    _require_file(checkpoint, TOKENIZER_FILES, "tokenizer", f"{argument('texts')} needs one")
    claim = f"{checkpoint.name}: its tokenizer cannot be loaded"
    with guarded(claim):
        try:
            return AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        except ImportError as error:
            raise ModelError(f"{claim}: it needs a library", "pip install sentencepiece") from error


def _require_file(checkpoint: Checkpoint, files: Sequence[str], name: str, reason: str) -> None:
    if not any((checkpoint.folder / file).is_file() for file in files):
        raise ModelError(f"{checkpoint.name}: it has no {name} ({reason})", f"add one of {', '.join(files)}")


def build_encoder(name: str, spec: EncoderSpec, config: Any) -> Any:
    """Build the model without loading its weights.

    Raises:
        ModelError: no model can be built from the configuration.
    """
    with guarded(f"{name}: no model can be built from its config.json"):
        return _class_of(spec)(config.vision_config if spec.model_type == QWEN else config)


def load_encoder_weights(checkpoint: Checkpoint, spec: EncoderSpec, config: Any, placement: Placement) -> Any:
    """Load an encoder in evaluation mode with SDPA. For Qwen2.5-VL only the weights of the vision tower are read.

    Raises:
        ModelError: the weights are broken or do not match the configuration.
        MemoryLimitError: the device is full.
    """
    tower = {"config": config.vision_config, "key_mapping": _TOWER} if spec.model_type == QWEN else {"config": config}
    # The pooler is not used, and some checkpoints (DINO) have none.
    plain = {"add_pooling_layer": False} if spec.model_class == "ViTModel" else {}
    check_amount(checkpoint, placement)
    return read_weights(_class_of(spec), checkpoint, placement, f"try {argument('device', 'cpu')}", **tower, **plain)


def _class_of(spec: EncoderSpec) -> Any:
    if spec.model_type == QWEN:
        return Qwen2_5_VisionTransformerPretrainedModel
    return getattr(transformers, spec.model_class)
