"""Which vision encoders are served, and what of their configuration matters here. Opens no file and knows no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from qvl_attn.core.errors import ModelError

QWEN = "qwen2_5_vl"
Head = Literal["classes", "text"]


@dataclass(frozen=True)
class Family:
    """One kind of encoder.

    Attributes:
        name: to be read.
        models: classes of transformers by the name in the configuration's `architectures`; the first is the default.
        nested: whether the encoder's configuration is the `vision_config` of a larger one.
        cls: whether a [CLS] token stands before the patches.
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
SERVED = "Qwen2.5-VL, CLIP, SigLIP, ViT, DINO, DINOv2, DINOv2 with registers"


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder before its weights are there.

    Attributes:
        model_type: as the configuration has it, a key of `FAMILIES`.
        model_class: the class of transformers that loads it.
        layers: L.
        heads: H.
        patch_px: side of a patch.
        prefix: the roles of the tokens before the patches.
        trained_px: side of the squares that its positions were trained on; None where positions have no such side.
        merge: patches a side that become one token of a language model; 1 where there is none.
        window_px: side of a window of the layers that are not full; 0 where the family has no windows.
        full: (L,) whether a layer's patches see their whole step.
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
        """Its kind."""
        return FAMILIES[self.model_type]

    @property
    def head(self) -> Head | None:
        """What the model tells of a picture beside its patches."""
        if self.model_class.endswith("ForImageClassification"):
            return "classes"
        return "text" if self.family.text else None


def family_of(name: str, raw: Mapping[str, Any]) -> str:
    """The model type of a checkpoint, from its `config.json`.

    Args:
        name: as the checkpoint was typed.
        raw: the contents of `config.json`.

    Raises:
        ModelError: not one of the families that are served, or of a class that has no encoder here.
    """
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ModelError(f"{name} is a {kind!r} model, no vision encoder that is served", f"those that are: {SERVED}")
    return kind


def class_of(kind: str, raw: Mapping[str, Any]) -> str:
    """The class that loads it: the first of the configuration's `architectures` that is one of the family's.

    One of another task (masked pictures, say) is loaded as the family's plain model.
    """
    named = raw.get("architectures")
    classes = FAMILIES[kind].models
    return next((one for one in named if one in classes), classes[0]) if isinstance(named, list) else classes[0]


def spec_of(config: Any, kind: str, model_class: str) -> EncoderSpec:
    """What is known of an encoder from its configuration.

    Raises:
        ModelError: its patches are no squares.
        AttributeError, TypeError, ValueError: the configuration lacks a field, or it makes no sense.
    """
    family = FAMILIES[kind]
    vision = config.vision_config if family.nested else config
    if kind == QWEN:
        return EncoderSpec(
            model_type=kind,
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
        model_type=kind,
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
    """Of (height, width) the side, where both are the same."""
    height, width = sides
    if height != width:
        raise ModelError(f"{name} {height} x {width}: patches and training pictures that are no squares are not served")
    return int(height)


class Taken(NamedTuple):
    """Bytes that a look takes where the model runs, and on the host: of a model on the CPU both are the host's."""

    device: int
    host: int


def held_bytes(spec: EncoderSpec, grid: tuple[int, int, int], asked: int) -> Taken:
    """Of what is added up over the layers, as `record.Accumulator` holds it.

    Received attention and three sums in float64 where the model runs, 8 (L H t T + 3 L H t); and on the host, in
    float32, the row of [CLS] where there is one and those of the patches asked about, 4 L H t T for each.

    Args:
        spec: of the encoder.
        grid: (t, h, w) steps, rows and columns of patches.
        asked: of how many places in a step the rows are kept.
    """
    t, h, w = grid
    per_token = spec.layers * spec.heads * t
    values = per_token * (len(spec.prefix) + h * w)
    return Taken(8 * (values + 3 * per_token), 4 * values * (("cls" in spec.prefix) + asked))


def pass_bytes(spec: EncoderSpec, config: Any, item_bytes: int, grid: tuple[int, int, int]) -> int:
    """Of the activations of a layer, at least, for the tokens that run together.

    In its attention what goes in, the normed, queries, keys and values are there at once, 5 D a token; in its MLP what
    goes in, and the inner width I before and after the activation, D + 2 I.

    Args:
        spec: of the encoder.
        config: of the encoder, or of the model that it is a part of.
        item_bytes: of a number.
        grid: of the steps that run together.
    """
    t, h, w = grid
    vision = config.vision_config if spec.family.nested else config
    width = vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    return int(t * (len(spec.prefix) + h * w) * max(5 * width, width + 2 * inner) * item_bytes)


def states_bytes(spec: EncoderSpec, config: Any, grid: tuple[int, int, int]) -> int:
    """Of all layers' patches in float32, (E, P, D), as the components of a clip in several parts want them."""
    vision = config.vision_config if spec.family.nested else config
    t, h, w = grid
    return int(4 * (spec.layers + 1) * t * h * w * vision.hidden_size)
