"""A vision encoder that shows where it looks: the public way in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Self

from qvl_attn.errors import InputError
from qvl_attn.eye.aim import Aim, check_saliency
from qvl_attn.eye.families import Eye
from qvl_attn.eye.inputs import Inputs, read_inputs, turned_back
from qvl_attn.eye.load import build_eye, load_eye, load_eye_processor, load_eye_weights, load_tokenizer
from qvl_attn.eye.look import look
from qvl_attn.eye.result import Look, LookSettings, Maker, SaliencyMap, places_of
from qvl_attn.eye.saliency import saliency
from qvl_attn.memory import on_device
from qvl_attn.model import DEFAULT_MODEL, Checkpoint, Placement, find_checkpoint, placement_of
from qvl_attn.origin import made_by
from qvl_attn.stages import Stages
from qvl_attn.types import Media


def _silent(message: str) -> None:
    del message


class Encoder:
    """A vision encoder with its processor. Make one with `load`.

    The weights are loaded when the first picture needs them, so that every fault that can be known without them is
    found first.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        eye: Eye,
        config: Any,
        placement: Placement,
        say: Callable[[str], None] = _silent,
    ) -> None:
        self.checkpoint = checkpoint
        self.eye = eye
        self.config = config
        self.placement = placement
        self.processor = load_eye_processor(checkpoint, eye, config)
        self.say = say

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
        say: Callable[[str], None] = _silent,
    ) -> Self:
        """Find an encoder and get ready to load it.

        Args:
            model: a Hugging Face id, a local folder, or `demo`: Qwen2.5-VL (its tower alone is loaded), CLIP, SigLIP,
                ViT, DINO, DINOv2, with registers or without.
            revision: branch, tag or commit of a hub model.
            device: `auto`, `cpu`, `cuda` or `cuda:1`.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            offline: never reach for the hub.
            say: is told what was chosen, a line at a time.

        Raises:
            InputError: a word that is not one of these, or a GPU that is not there.
            ModelError: the model cannot be had or is not served.
            MemoryLimitError: the weights do not fit.
        """
        # The settings first: a family that is not served is named before its weights are fetched.
        eye, config = load_eye(find_checkpoint(model, revision, offline=offline, weights=False))
        checkpoint = find_checkpoint(model, revision, offline=offline)
        placement = placement_of(lambda: build_eye(model, eye, config), device, dtype)
        say(f"{model} ({checkpoint.revision[:12]}): {placement.dtype} on {placement.device} ({placement.reason})")
        return cls(checkpoint, eye, config, placement, say)

    @cached_property
    def model(self) -> Any:
        """The loaded model."""
        self.say("loading the weights")
        with on_device(self.placement, 0):
            return load_eye_weights(self.checkpoint, self.eye, self.config, self.placement)

    @cached_property
    def tokenizer(self) -> Any:
        """Of the text side; a model without one has none."""
        return load_tokenizer(self.checkpoint)

    def aim(self, settings: LookSettings) -> Aim | None:
        """What the maps of saliency explain; None where none are wanted.

        Raises:
            InputError: a fault in the class or the texts, or an encoder without a head.
        """
        return check_saliency(self.eye, self.config, settings, lambda: self.tokenizer) if settings.saliency else None

    def read(self, media: Media, settings: LookSettings) -> tuple[Inputs, tuple[int, ...]]:
        """Find every fault that can be known before the weights are loaded.

        Returns:
            The encoder's input, and the places that are asked about.

        Raises:
            InputError: a fault in what was given.
        """
        if settings.layer is not None and not 0 <= settings.layer < self.eye.layers:
            raise InputError(f"--layer {settings.layer}: the encoder has layers 0 to {self.eye.layers - 1}")
        self.aim(settings)
        inputs = read_inputs(self.eye, self.processor, media, settings.min_pixels, settings.max_pixels)
        _, h, w = inputs.grid
        return inputs, places_of(settings.at, inputs.boxes_px[: h * w], media.size_px)

    def look(self, media: Media, settings: LookSettings | None = None) -> Look:
        """Look at one picture or clip.

        Args:
            media: as `load_picture` or `load_clip` gives it.
            settings: what is asked for.

        Raises:
            InputError: a fault in what was given.
            CaptureError: the attention is not what attention must be.
            MemoryLimitError: it does not fit the memory.
        """
        settings, stages = settings or LookSettings(), Stages()
        with stages.stage("prepare"):
            (inputs, asked), aim = self.read(media, settings), self.aim(settings)
        model = self.model
        with stages.stage("look"), on_device(self.placement, 0):
            sight = look(model, self.eye, inputs, asked)
        decided: tuple[SaliencyMap, ...] = ()
        if aim is not None:
            with stages.stage("saliency"), on_device(self.placement, 0):
                decided = saliency(model, self.eye, inputs, aim)
        return Look(
            media=media,
            sight=sight,
            turned_back=turned_back(self.eye, self.processor, inputs),
            settings=settings,
            maker=Maker(**_made_by(self.checkpoint, self.placement), family=self.eye.family.name),
            frames=inputs.frames,
            saliency=decided,
            seconds=stages.seconds,
            peak_memory_bytes=stages.peak_bytes,
        )


def _made_by(checkpoint: Checkpoint, placement: Placement) -> dict[str, str]:
    found = made_by(checkpoint, placement, "")
    del found["attention"]
    return found
