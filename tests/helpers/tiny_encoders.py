"""Small random encoders of every supported family, as checkpoints on disk, and pictures and clips for them.

The numbers of layers, heads, rows and columns differ, so that swapped axes are detected. Weights are so large that
attention is far from uniform, and norms and biases differ from their initial values.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from qvl_attn.core.types import ClipFacts, Media
from qvl_attn.encoders.engine import EncoderEngine

DEMO_MODEL = Path(__file__).parents[2] / "qvl_attn" / "demo" / "model"
WORDS = ("a", "photo", "of", "the", "cat", "dog", "red", "blue", "square", "circle", "on", "grass")
LABELS = {0: "cat", 1: "dog", 2: "red square", 3: "blue circle", 4: "grass"}
LAYERS, HEADS, REGISTERS = 3, 2, 4

_VISION = {"hidden_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 40}
_TEXT = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36}
_TEXT |= {"vocab_size": 3 + len(WORDS), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_TEXT |= {"max_position_embeddings": 16}
_GRID_5 = {"image_size": 70, "patch_size": 14}
_LABELS = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}


def _clip_config() -> Any:
    vision = _VISION | _GRID_5 | {"projection_dim": 16}
    return transformers.CLIPConfig(vision_config=vision, text_config=_TEXT, projection_dim=16, **_LABELS)


def _siglip_config() -> Any:
    # The similarity is a product of pooled vectors: both towers need the same width.
    vision = _VISION | {"image_size": 64, "patch_size": 16}
    text = _TEXT | {"hidden_size": 24, "projection_size": 24}
    return transformers.SiglipConfig(vision_config=vision, text_config=text, **_LABELS)


def _siglip_vision_config() -> Any:
    return transformers.SiglipVisionConfig(**_VISION, image_size=70, patch_size=16)


def _vit_config() -> Any:
    return transformers.ViTConfig(**_VISION, **_GRID_5, **_LABELS)


def _dinov2_config() -> Any:
    return transformers.Dinov2Config(**_VISION, **_GRID_5, **_LABELS)


def _registers_config() -> Any:
    return transformers.Dinov2WithRegistersConfig(**_VISION, **_GRID_5, num_register_tokens=REGISTERS, **_LABELS)


def _square_size(side_px: int) -> dict[str, Any]:
    return {"size": {"height": side_px, "width": side_px}}


def _crop_size() -> dict[str, Any]:
    return {"size": {"shortest_edge": 80}, "crop_size": {"height": 70, "width": 70}}


# By name: the class, its configuration, and its image processor, of the class that the family is published with.
SPECS = {
    "clip": ("CLIPModel", _clip_config, "CLIPImageProcessor", _crop_size()),
    "clip-vision": ("CLIPVisionModel", lambda: _clip_config().vision_config, "CLIPImageProcessor", _crop_size()),
    "clip-projection": (
        "CLIPVisionModelWithProjection",
        lambda: _clip_config().vision_config,
        "CLIPImageProcessor",
        _crop_size(),
    ),
    "clip-classes": ("CLIPForImageClassification", _clip_config, "CLIPImageProcessor", _crop_size()),
    "siglip": ("SiglipModel", _siglip_config, "SiglipImageProcessor", _square_size(64)),
    # Its input is not a multiple of the patch: four patches a side, and six pixels that are not used.
    "siglip-vision": ("SiglipVisionModel", _siglip_vision_config, "SiglipImageProcessor", _square_size(70)),
    "siglip-classes": ("SiglipForImageClassification", _siglip_config, "SiglipImageProcessor", _square_size(64)),
    "dino": ("ViTModel", _vit_config, "ViTImageProcessor", _square_size(70)),
    "vit-classes": ("ViTForImageClassification", _vit_config, "ViTImageProcessor", _square_size(70)),
    "dinov2": ("Dinov2Model", _dinov2_config, "BitImageProcessor", _crop_size()),
    "dinov2-classes": ("Dinov2ForImageClassification", _dinov2_config, "BitImageProcessor", _crop_size()),
    "registers": ("Dinov2WithRegistersModel", _registers_config, "BitImageProcessor", _crop_size()),
    "registers-classes": (
        "Dinov2WithRegistersForImageClassification",
        _registers_config,
        "BitImageProcessor",
        _crop_size(),
    ),
}
QWEN = "qwen"  # a whole Qwen2.5-VL, of which only the vision tower is used
NAMES = (*SPECS, QWEN)
WITH_TEXT = ("clip", "siglip")
WITH_CLASSES = tuple(name for name in SPECS if name.endswith("-classes"))


def randomize(model: Any, seed: int = 0) -> Any:
    """Set every weight to a random value that affects the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if "norm" in name or "lambda" in name:
                weight.copy_((1.0 if name.endswith("weight") or "lambda" in name else 0.0) + 0.2 * noise)
            elif weight.ndim < 2 or "bias" in name:
                weight.copy_(0.3 * noise)
            elif ("embed" in name and "proj" not in name) or "token" in name or "probe" in name:
                weight.copy_(0.5 * noise)
            else:
                weight.copy_(1.3 * noise / weight[0].numel() ** 0.5)
    return model.eval()


@cache
def root() -> Path:
    """Return the folder of the checkpoints of this test run."""
    path = Path(tempfile.mkdtemp(prefix="encoders-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def folder(name: str) -> Path:
    """Return a checkpoint: weights, configuration, image processor and, with a text tower, its tokenizer."""
    out = root() / name
    if name == QWEN:
        return _qwen(out)
    kind, config, processor, kwargs = SPECS[name]
    randomize(getattr(transformers, kind)(config(), **_pooler_kwargs(kind))).save_pretrained(out)
    getattr(transformers, processor)(**kwargs).save_pretrained(out)
    if name in WITH_TEXT:
        _tokenizer().save_pretrained(out)
    return out


def _tokenizer() -> Any:
    vocabulary = {word: i for i, word in enumerate(("<s>", "</s>", "<pad>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special_tokens = [("<s>", 0), ("</s>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special_tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=16
    )


def _qwen(out: Path) -> Path:
    """Save a Qwen2.5-VL with the demo's tokenizer and a vision tower with windows of two by two merged cells."""
    shutil.copytree(DEMO_MODEL, out, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = config["text_config"]["dtype"] = config["vision_config"]["dtype"] = "float32"
    config["vision_config"] |= {
        "depth": 4,
        "fullatt_block_indexes": [2],
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_heads": 3,
        "window_size": 56,
    }
    (out / "config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = transformers.Qwen2_5_VLForConditionalGeneration(transformers.AutoConfig.from_pretrained(out))
    randomize(model.model.visual)
    model.save_pretrained(out)
    return out


# Tests replace the method by what loads an encoder once.
_load = EncoderEngine.load


@cache
def encoder(name: str, dtype: str = "float32") -> EncoderEngine:
    """Load an encoder with the public API, once for each name and dtype."""
    return _load(str(folder(name)), device="cpu", dtype=dtype)


@cache
def plain(name: str) -> Any:
    """Load the same checkpoint with plain transformers and eager attention."""
    kind = "Qwen2_5_VLForConditionalGeneration" if name == QWEN else SPECS[name][0]
    kwargs = {"attn_implementation": "eager", **_pooler_kwargs(kind)}
    return getattr(transformers, kind).from_pretrained(folder(name), **kwargs).eval().requires_grad_(False)


def _pooler_kwargs(kind: str) -> dict[str, bool]:
    """Return the arguments for the pooler: DINO's checkpoints have none."""
    return {"add_pooling_layer": False} if kind == "ViTModel" else {}


def pixels(width: int, height: int, seed: int = 0, frames: int = 1) -> np.ndarray:
    """Return random blocks of colours: (F, height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, -(-height // 6), -(-width // 6), 3))
    return coarse.repeat(6, axis=1).repeat(6, axis=2)[:, :height, :width].astype(np.uint8)


def picture(width: int, height: int, seed: int = 0) -> Media:
    """Return a picture of random blocks of colours."""
    return picture_of(pixels(width, height, seed)[0])


def picture_of(image: np.ndarray) -> Media:
    """Return a picture of given (height, width, 3) pixels."""
    height, width, _ = image.shape
    return Media(
        kind="picture",
        frames=np.ascontiguousarray(image[None]),
        times_s=np.zeros(1),
        size_px=(width, height),
        source="tiny.png",
        sha256="0" * 64,
    )


def clip(width: int, height: int, frames: int, seed: int = 0, size_px: tuple[int, int] | None = None) -> Media:
    """Return a clip whose frames differ.

    Args:
        width: width of its sampled frames; for Qwen2.5-VL a multiple of 28.
        height: height of its sampled frames; for Qwen2.5-VL a multiple of 28.
        frames: number of sampled frames.
        seed: seed of the colours.
        size_px: (width, height) of the original; None for that of the frames.
    """
    return Media(
        kind="clip",
        frames=pixels(width, height, seed, frames),
        times_s=np.arange(frames) / 2,
        size_px=size_px or (width, height),
        source="tiny.mp4",
        sha256="0" * 64,
        clip=ClipFacts(
            start_s=0,
            end_s=frames / 2,
            rate_fps=2,
            sampled_fps=2,
            frame_indices=tuple(range(frames)),
            declared_frames=frames,
            decoded_frames=frames,
        ),
    )
