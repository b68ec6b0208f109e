"""Small random encoders of every family that is served, as checkpoints on disk, and what they are shown.

Numbers of layers, heads, rows and columns differ, so that swapped axes show. Weights are so large that attention is far
from even, and norms and biases are not those that training begins with.
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
from qvl_attn.encoder import Encoder

DEMO_MODEL = Path(__file__).parents[2] / "qvl_attn" / "demo" / "model"
WORDS = ("a", "photo", "of", "the", "cat", "dog", "red", "blue", "square", "circle", "on", "grass")
LABELS = {0: "cat", 1: "dog", 2: "red square", 3: "blue circle", 4: "grass"}
LAYERS, HEADS, REGISTERS = 3, 2, 4

_VISION = {"hidden_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 40}
_TEXT = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 36}
_TEXT |= {"vocab_size": 3 + len(WORDS), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_TEXT |= {"max_position_embeddings": 16}
_FIVE = {"image_size": 70, "patch_size": 14}
_LABELS = {"id2label": LABELS, "label2id": {name: i for i, name in LABELS.items()}}


def _clip_config() -> Any:
    vision = _VISION | _FIVE | {"projection_dim": 16}
    return transformers.CLIPConfig(vision_config=vision, text_config=_TEXT, projection_dim=16, **_LABELS)


def _siglip_config() -> Any:
    # Its likeness is a product of whole pooled vectors: both towers must be as wide.
    vision = _VISION | {"image_size": 64, "patch_size": 16}
    text = _TEXT | {"hidden_size": 24, "projection_size": 24}
    return transformers.SiglipConfig(vision_config=vision, text_config=text, **_LABELS)


def _cut_siglip() -> Any:
    return transformers.SiglipVisionConfig(**_VISION, image_size=70, patch_size=16)


def _vit() -> Any:
    return transformers.ViTConfig(**_VISION, **_FIVE, **_LABELS)


def _dinov2() -> Any:
    return transformers.Dinov2Config(**_VISION, **_FIVE, **_LABELS)


def _registers() -> Any:
    return transformers.Dinov2WithRegistersConfig(**_VISION, **_FIVE, num_register_tokens=REGISTERS, **_LABELS)


def _square(side_px: int) -> dict[str, Any]:
    return {"size": {"height": side_px, "width": side_px}}


def _cropped() -> dict[str, Any]:
    return {"size": {"shortest_edge": 80}, "crop_size": {"height": 70, "width": 70}}


# By name: the class, its configuration, and its image processor, of the kind that the family is published with.
SPECS = {
    "clip": ("CLIPModel", _clip_config, "CLIPImageProcessor", _cropped()),
    "clip-vision": ("CLIPVisionModel", lambda: _clip_config().vision_config, "CLIPImageProcessor", _cropped()),
    "clip-projection": (
        "CLIPVisionModelWithProjection",
        lambda: _clip_config().vision_config,
        "CLIPImageProcessor",
        _cropped(),
    ),
    "clip-classes": ("CLIPForImageClassification", _clip_config, "CLIPImageProcessor", _cropped()),
    "siglip": ("SiglipModel", _siglip_config, "SiglipImageProcessor", _square(64)),
    # Its squares are no whole number of patches: four of them, and six pixels that are not seen.
    "siglip-vision": ("SiglipVisionModel", _cut_siglip, "SiglipImageProcessor", _square(70)),
    "siglip-classes": ("SiglipForImageClassification", _siglip_config, "SiglipImageProcessor", _square(64)),
    "dino": ("ViTModel", _vit, "ViTImageProcessor", _square(70)),
    "vit-classes": ("ViTForImageClassification", _vit, "ViTImageProcessor", _square(70)),
    "dinov2": ("Dinov2Model", _dinov2, "BitImageProcessor", _cropped()),
    "dinov2-classes": ("Dinov2ForImageClassification", _dinov2, "BitImageProcessor", _cropped()),
    "registers": ("Dinov2WithRegistersModel", _registers, "BitImageProcessor", _cropped()),
    "registers-classes": ("Dinov2WithRegistersForImageClassification", _registers, "BitImageProcessor", _cropped()),
}
QWEN = "qwen"  # a whole Qwen2.5-VL, of which the tower is to be taken
NAMES = (*SPECS, QWEN)
WITH_TEXT = ("clip", "siglip")
WITH_CLASSES = tuple(name for name in SPECS if name.endswith("-classes"))


def lively(model: Any, seed: int = 0) -> Any:
    """Give every weight a value that matters."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=drawn)
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
    """Where the checkpoints of this run of the tests lie."""
    made = Path(tempfile.mkdtemp(prefix="eyes-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def folder(name: str) -> Path:
    """A checkpoint: weights, settings, image processor and, where there is a text side, its tokenizer."""
    out = root() / name
    if name == QWEN:
        return _qwen(out)
    kind, config, processor, how = SPECS[name]
    lively(getattr(transformers, kind)(config(), **_unpooled(kind))).save_pretrained(out)
    getattr(transformers, processor)(**how).save_pretrained(out)
    if name in WITH_TEXT:
        _tokenizer().save_pretrained(out)
    return out


def _tokenizer() -> Any:
    vocabulary = {word: i for i, word in enumerate(("<s>", "</s>", "<pad>", *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=16
    )


def _qwen(out: Path) -> Path:
    """A Qwen2.5-VL with the demo's words and template, and a tower whose windows are two by two merged cells."""
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
    lively(model.model.visual)
    model.save_pretrained(out)
    return out


@cache
def encoder(name: str, dtype: str = "float32") -> Encoder:
    """It, as anybody loads it; once."""
    return Encoder.load(str(folder(name)), device="cpu", dtype=dtype)


@cache
def plain(name: str) -> Any:
    """The same checkpoint, as transformers alone loads it, under its own eager attention."""
    kind = "Qwen2_5_VLForConditionalGeneration" if name == QWEN else SPECS[name][0]
    loaded = getattr(transformers, kind).from_pretrained(folder(name), attn_implementation="eager", **_unpooled(kind))
    return loaded.eval().requires_grad_(False)


def _unpooled(kind: str) -> dict[str, bool]:
    """DINO's checkpoints have no pooler."""
    return {"add_pooling_layer": False} if kind == "ViTModel" else {}


def pixels(width: int, height: int, seed: int = 0, frames: int = 1) -> np.ndarray:
    """(F, height, width, 3) uint8: blocks of colours, the same nowhere."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (frames, -(-height // 6), -(-width // 6), 3))
    return coarse.repeat(6, axis=1).repeat(6, axis=2)[:, :height, :width].astype(np.uint8)


def picture(width: int, height: int, seed: int = 0) -> Media:
    """A picture that is nowhere the same."""
    return picture_of(pixels(width, height, seed)[0])


def picture_of(image: np.ndarray) -> Media:
    """A picture of given (height, width, 3) pixels."""
    height, width, _ = image.shape
    return Media(
        kind="picture",
        frames=np.ascontiguousarray(image[None]),
        times_s=np.zeros(1),
        size_px=(width, height),
        source="eyes.png",
        sha256="0" * 64,
    )


def clip(width: int, height: int, frames: int, seed: int = 0, size_px: tuple[int, int] | None = None) -> Media:
    """A clip whose frames differ.

    Args:
        width: of its frames as they are shown; of Qwen2.5-VL a multiple of 28.
        height: so too.
        frames: how many were sampled.
        seed: of the colours.
        size_px: of the original; None for that of the frames.
    """
    return Media(
        kind="clip",
        frames=pixels(width, height, seed, frames),
        times_s=np.arange(frames) / 2,
        size_px=size_px or (width, height),
        source="eyes.mp4",
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
