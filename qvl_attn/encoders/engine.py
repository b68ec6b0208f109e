"""A vision encoder and how pictures go through it: loading, checks before the weights are there, results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from qvl_attn.core.errors import InputError
from qvl_attn.core.runtime import Progress, Stages, no_op
from qvl_attn.core.types import FloatArray, Media
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.capture import PatchRows, capture_attention, in_parts
from qvl_attn.encoders.embedding import check_available, check_points
from qvl_attn.encoders.hidden_states import capture_and_pool, read_embedding, read_pooled
from qvl_attn.encoders.inputs import Inputs, load_encoder_clip, read_inputs, reconstruct
from qvl_attn.encoders.loading import (
    build_encoder,
    load_encoder_processor,
    load_encoder_weights,
    load_spec,
    load_tokenizer,
)
from qvl_attn.encoders.record import EncoderProvenance, EncoderSettings, SaliencyMap, patches_at
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.encoders.saliency import SaliencyTarget, check_saliency, saliency
from qvl_attn.encoders.spec import EncoderSpec, held_bytes, pass_bytes, states_bytes
from qvl_attn.media.image import PictureLike, load_picture, moves
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.model.checkpoint import (
    DEFAULT_MODEL,
    DTYPES,
    Checkpoint,
    Placement,
    find_checkpoint,
    is_folder,
    placement_of,
    provenance_fields,
)
from qvl_attn.model.memory import check_free, on_device


class EncoderEngine:
    """A vision encoder with its processor. Make one with `load`.

    The weights are fetched and loaded when the first picture needs them, so that every fault that can be known without
    them is found first.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: EncoderSpec,
        config: Any,
        placement: Placement,
        say: Callable[[str], None] = no_op,
        *,
        offline: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.spec = spec
        self.config = config
        self.placement = placement
        self.processor = load_encoder_processor(checkpoint, spec, config)
        self.say = say
        self.offline = offline

    @classmethod
    def load(
        cls,
        model: str = DEFAULT_MODEL,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        offline: bool = False,
        say: Callable[[str], None] = no_op,
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
        # The settings first: a family that is not served is named before its weights are looked for.
        checkpoint = find_checkpoint(model, revision, offline=offline, weights=False)
        spec, config = load_spec(checkpoint)
        if is_folder(model):
            checkpoint = find_checkpoint(model)
        placement = placement_of(lambda: build_encoder(model, spec, config), device, dtype)
        say(f"{model} ({checkpoint.revision[:12]}): {placement.dtype} on {placement.device} ({placement.reason})")
        return cls(checkpoint, spec, config, placement, say, offline=offline)

    @property
    def provenance(self) -> EncoderProvenance:
        """What makes its results: enough to make them again."""
        found = provenance_fields(self.checkpoint, self.placement, "")
        del found["attention"]
        return EncoderProvenance(**found, family=self.spec.family.name)

    @cached_property
    def model(self) -> Any:
        """The loaded model; of a hub model the weights are of the commit that the settings are of."""
        name, checkpoint = self.checkpoint.name, self.checkpoint
        if not is_folder(name):
            checkpoint = find_checkpoint(name, checkpoint.revision, offline=self.offline)
        self.say("loading the weights")
        with on_device(self.placement, 0):
            return load_encoder_weights(checkpoint, self.spec, self.config, self.placement)

    @cached_property
    def tokenizer(self) -> Any:
        """Of the text side; a model without one has none."""
        return load_tokenizer(self.checkpoint)

    def saliency_target(self, settings: EncoderSettings) -> SaliencyTarget | None:
        """What the maps of saliency explain; None where none are wanted.

        Raises:
            InputError: a fault in the class or the texts, or an encoder without a head.
        """
        return check_saliency(self.spec, self.config, settings, lambda: self.tokenizer) if settings.saliency else None

    def read(self, media: Media, settings: EncoderSettings) -> tuple[Inputs, tuple[int, ...]]:
        """Find every fault that can be known before the weights are loaded.

        Returns:
            The encoder's input, and the places that are asked about.

        Raises:
            InputError: a fault in what was given.
            MemoryLimitError: it cannot fit the memory.
        """
        if settings.layer is not None and not 0 <= settings.layer < self.spec.layers:
            raise InputError(f"--layer {settings.layer}: the encoder has layers 0 to {self.spec.layers - 1}")
        if settings.embeddings:
            check_available()
        self.saliency_target(settings)
        inputs = read_inputs(self.spec, self.processor, media, settings.min_pixels, settings.max_pixels)
        t, h, w = inputs.grid
        if "tsne" in settings.embeddings:
            check_points(t * h * w, "patches")
        asked = patches_at(settings.at, inputs.boxes_px[: h * w], media.size_px)
        self._check_fits(media, inputs, len(asked), bool(settings.embeddings))
        return inputs, asked

    def _check_fits(self, media: Media, inputs: Inputs, asked: int, embedded: bool) -> None:
        device, host = held_bytes(self.spec, inputs.grid, asked)
        together = next(in_parts(self.spec, inputs)).grid
        device += pass_bytes(self.spec, self.config, DTYPES[self.placement.dtype].itemsize, together)
        if embedded and together != inputs.grid:
            host += states_bytes(self.spec, self.config, inputs.grid)
        if "model" not in vars(self):
            device += self.placement.weight_bytes
        remedy = "lower --max-pixels" + (" or --max-frames" if media.clip is not None else "")
        check_free(self.placement, device, host, f"looking at {media.source}", remedy)

    def encode(
        self, picture: PictureLike, settings: EncoderSettings | None = None, progress: Progress = no_op, **options: Any
    ) -> EncoderResult:
        """Look at one picture or clip.

        Args:
            picture: path of a picture, a clip or a folder of numbered frames, or what was loaded.
            settings: what is asked for.
            progress: told what is being done, how much of it is done, and of how much: frames, then layers.
            options: fields of `EncoderSettings`, in place of those.

        Raises:
            InputError: a fault in what was given.
            CaptureError: the attention is not what attention must be.
            MemoryLimitError: it does not fit the memory.
        """
        settings, stages = replace(settings or EncoderSettings(), **options), Stages()
        if isinstance(picture, Media):
            media = picture
        elif moves(picture):
            settings = replace(settings, clip=settings.clip or ClipSettings())
            media = load_encoder_clip(self.spec, self.processor, picture, settings.clip, settings, progress)
        else:
            media = load_picture(picture)
        with stages.stage("prepare"):
            (inputs, asked), saliency_target = self.read(media, settings), self.saliency_target(settings)
        model, patch_rows = self.model, PatchRows(self.spec, inputs)
        with stages.stage("look"), on_device(self.placement, 0):
            attention = capture_attention(model, self.spec, inputs, asked, patch_rows, progress)
        similarity = embedding = None
        if asked or settings.embeddings:
            with stages.stage("embeddings"), on_device(self.placement, 0):
                similarity, embedding = read_embedding(
                    model, self.spec, inputs, asked, settings.embeddings, settings.seed
                )
        decided: tuple[SaliencyMap, ...] = ()
        if saliency_target is not None:
            with stages.stage("saliency"), on_device(self.placement, 0):
                decided = saliency(model, self.spec, inputs, saliency_target)
        return EncoderResult(
            media=media,
            attention=attention,
            reconstruction=reconstruct(self.spec, self.processor, inputs),
            settings=settings,
            provenance=self.provenance,
            frames=inputs.frames,
            similarity=similarity,
            similarity_layers=None if similarity is None else np.arange(-1, self.spec.layers, dtype=np.int64),
            embedding=embedding,
            saliency=decided,
            patch_rows=patch_rows.values() if len(patch_rows.places) else None,
            patch_row_places=patch_rows.places if len(patch_rows.places) else None,
            seconds=stages.seconds,
            peak_memory_bytes=stages.peak_bytes,
        )

    def capture(
        self, media: Media, settings: EncoderSettings | None = None, *, pooled: bool = False
    ) -> tuple[EncoderAttention, FloatArray | None]:
        """The attention alone, for many pictures: nothing is kept that only a page or a picture would show.

        Args:
            media: as `load_picture` gives it.
            settings: how large it is looked at.
            pooled: whether its vectors are wanted, as `pooled` gives them, of the same pass.

        Raises:
            InputError: a fault in what was given.
            CaptureError: the attention is not what attention must be, or the embeddings are not finite.
            MemoryLimitError: it does not fit the memory.
        """
        inputs, _ = self.read(media, settings or EncoderSettings())
        model = self.model
        with on_device(self.placement, 0):
            return (
                capture_and_pool(model, self.spec, inputs)
                if pooled
                else (capture_attention(model, self.spec, inputs), None)
            )

    def pooled(self, media: Media, settings: EncoderSettings | None = None) -> FloatArray:
        """One vector for a whole picture or clip after each layer: (E, D) float32, before the first layer first.

        The state of [CLS] where there is one, else the mean over the patches; of a clip the mean over its steps.

        Args:
            media: as `load_picture` or `load_encoder_clip` gives it.
            settings: how large it is looked at.

        Raises:
            InputError: a fault in what was given.
            CaptureError: the embeddings are not finite.
            MemoryLimitError: it does not fit the memory.
        """
        inputs, _ = self.read(media, settings or EncoderSettings())
        model = self.model
        with on_device(self.placement, 0):
            return read_pooled(model, self.spec, inputs)
