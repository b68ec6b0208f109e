"""The supported vision encoders and their specifications, from their configurations. Opens no file, needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from qvl_attn.core.errors import ModelError

QWEN = "qwen2_5_vl"
Head = Literal["classes", "text"]


@dataclass(frozen=True)
class Family:
    """A family of encoders.

    Attributes:
        name: its name as text.
        models: classes of transformers by the name in the configuration's `architectures`; the first is the default.
        nested: whether the encoder's configuration is the `vision_config` of a larger one.
        cls: whether a [CLS] token precedes the patches.
        text: whether a picture can be compared with a text.
    """

    name: str
    models: tuple[str, ...]
    nested: bool = False
    cls: bool = True
    text: bool = False


FAMILIES: Mapping[str, Family] = {
    QWEN: Family("Qwen2.5-VL", ("Qwen2_5_VisionTransformerPretrainedModel",), nested=True, cls=False),
    "clip": Family("CLIP", ("CLIPModel", "CLIPForImageClassification"), nested=True, text=True),
    "clip_vision_model": Family("CLIP", ("CLIPVisionModel", "CLIPVisionModelWithProjection")),
    "siglip": Family("SigLIP", ("SiglipModel", "SiglipForImageClassification"), nested=True, cls=False, text=True),
    "siglip_vision_model": Family("SigLIP", ("SiglipVisionModel",), cls=False),
    "vit": Family("ViT or DINO", ("ViTModel", "ViTForImageClassification")),
    "dinov2": Family("DINOv2", ("Dinov2Model", "Dinov2ForImageClassification")),
    "dinov2_with_registers": Family(
        "DINOv2 with registers", ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification")
    ),
}
SUPPORTED = "Qwen2.5-VL, CLIP, SigLIP, ViT, DINO, DINOv2, DINOv2 with registers"


@dataclass(frozen=True)
class EncoderSpec:
    """The specification of an encoder, known before its weights are loaded.

    Attributes:
        model_type: the configuration's `model_type`, a key of `FAMILIES`.
        model_class: the class of transformers that loads it.
        layers: L.
        heads: H.
        patch_px: side of a patch.
        prefix: the roles of the prefix tokens.
        trained_px: side of the square pictures of its training; None if its positions do not depend on the size.
        merge: a square of this many patches a side becomes one token of the language model; 1 if there is none.
        window_px: side of a window in windowed layers; 0 if the family has no windows.
        full: (L,) whether the patches of a layer attend to their whole step.
    """

    model_type: str
    model_class: str
    layers: int
    heads: int
    patch_px: int
    prefix: tuple[str, ...]
    trained_px: int | None
    merge: int
    window_px: int
    full: tuple[bool, ...]

    def __post_init__(self) -> None:
        if min(self.layers, self.heads, self.patch_px, self.merge, self.trained_px or 1) < 1 or self.trained_px == 0:
            raise ValueError(f"{self.layers} layers, {self.heads} heads, patches of {self.patch_px} px")

    @property
    def family(self) -> Family:
        """The family of the encoder."""
        return FAMILIES[self.model_type]

    @property
    def head(self) -> Head | None:
        """What the model predicts: classes, similarity to texts, or None."""
        if self.model_class.endswith("ForImageClassification"):
            return "classes"
        return "text" if self.family.text else None


def family_of(name: str, raw: Mapping[str, Any]) -> str:
    """Return the model type of a checkpoint, from its `config.json`.

    Args:
        name: the checkpoint as the user typed it.
        raw: the contents of `config.json`.

    Raises:
        ModelError: the family is not supported.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        message = f"{name} is a {model_type!r} model, not a supported vision encoder"
        raise ModelError(message, f"supported: {SUPPORTED}")
    return model_type


def class_of(model_type: str, raw: Mapping[str, Any]) -> str:
    """Return the class that loads an encoder: the first of the configuration's `architectures` that the family has.

    A checkpoint for another task (masked image modelling, for example) is loaded as the family's default class.
    """
    architectures = raw.get("architectures")
    classes = FAMILIES[model_type].models
    if not isinstance(architectures, list):
        return classes[0]
    return next((name for name in architectures if name in classes), classes[0])


def spec_of(config: Any, model_type: str, model_class: str) -> EncoderSpec:
    """Return the specification of an encoder from its configuration.

    Raises:
        ModelError: its patches or training pictures are not square.
        AttributeError, TypeError, ValueError: the configuration lacks a field or is inconsistent.
    """
    family = FAMILIES[model_type]
    vision = config.vision_config if family.nested else config
    if model_type == QWEN:
        return EncoderSpec(
            model_type=model_type,
            model_class=model_class,
            layers=vision.depth,
            heads=vision.num_heads,
            patch_px=vision.patch_size,
            prefix=(),
            trained_px=None,
            merge=vision.spatial_merge_size,
            window_px=vision.window_size,
            full=tuple(layer in vision.fullatt_block_indexes for layer in range(vision.depth)),
        )
    registers = getattr(vision, "num_register_tokens", 0)
    layers, patch_px, side = vision.num_hidden_layers, vision.patch_size, vision.image_size
    return EncoderSpec(
        model_type=model_type,
        model_class=model_class,
        layers=layers,
        heads=vision.num_attention_heads,
        patch_px=patch_px if isinstance(patch_px, int) else _one_side("patch_size", patch_px),
        prefix=(*(("cls",) if family.cls else ()), *(("register",) * registers)),
        trained_px=side if isinstance(side, int) else _one_side("image_size", side),
        merge=1,
        window_px=0,
        full=(True,) * layers,
    )


def _one_side(name: str, sides: Any) -> int:
    """Return the side of a square (height, width)."""
    height, width = sides
    if height != width:
        raise ModelError(
            f"{name} {height} x {width}: patches and training pictures that are not square are not supported"
        )
    return int(height)


class MemoryUse(NamedTuple):
    """Bytes needed on the model's device and on the host; if the model runs on the CPU, both are on the host."""

    device: int
    host: int


def held_bytes(spec: EncoderSpec, grid: tuple[int, int, int], query_count: int) -> MemoryUse:
    """Return the memory of `capture.Accumulator`.

    On the model's device: received attention and three sums in float64, 8 (L H t T + 3 L H t). On the host: the rows of
    [CLS], if there is one, and of the query patches in float32, 4 L H t T for each.

    Args:
        spec: the specification of the encoder.
        grid: (t, h, w) steps, rows and columns of patches.
        query_count: number of query patches.
    """
    t, h, w = grid
    per_token = spec.layers * spec.heads * t
    values = per_token * (len(spec.prefix) + h * w)
    return MemoryUse(8 * (values + 3 * per_token), 4 * values * (("cls" in spec.prefix) + query_count))


def pass_bytes(spec: EncoderSpec, config: Any, item_bytes: int, grid: tuple[int, int, int]) -> int:
    """Return a lower bound of the bytes of a layer's activations, for the steps that run in one batch.

    The attention holds its input, the normalised input, queries, keys and values at once, 5 D for each token; the MLP
    holds its input and the inner width I before and after the activation, D + 2 I.

    Args:
        spec: the specification of the encoder.
        config: the configuration of the encoder, or of the model it belongs to.
        item_bytes: bytes of a number.
        grid: the grid of the steps that run in one batch.
    """
    t, h, w = grid
    vision = config.vision_config if spec.family.nested else config
    width = vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    return int(t * (len(spec.prefix) + h * w) * max(5 * width, width + 2 * inner) * item_bytes)


def states_bytes(spec: EncoderSpec, config: Any, grid: tuple[int, int, int]) -> int:
    """Return the bytes of all layers' patches in float32, (E, P, D), held for the components of a clip in chunks."""
    vision = config.vision_config if spec.family.nested else config
    t, h, w = grid
    return int(4 * (spec.layers + 1) * t * h * w * vision.hidden_size)
