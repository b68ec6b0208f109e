"""Run a vision encoder on pictures and clips: loading, checks before the weights are loaded, results."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Self, Unpack

import numpy as np

from qvl_attn.core.runtime import Progress, Stages, loading, no_progress
from qvl_attn.core.text import argument
from qvl_attn.core.turns import Turns
from qvl_attn.core.types import FloatArray, Media
from qvl_attn.encoders.attention import EncoderAttention
from qvl_attn.encoders.capture import PatchRows, capture_attention, in_chunks
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
from qvl_attn.encoders.record import EncoderProvenance, EncoderSettings, SaliencyMap, check_layer, patches_at
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.encoders.saliency import SaliencyTarget, check_saliency, saliency
from qvl_attn.encoders.spec import EncoderSpec, held_bytes, pass_bytes, states_bytes
from qvl_attn.media.given import PictureLike, is_path, load_given
from qvl_attn.media.image import moves
from qvl_attn.media.sampling import ClipSettings
from qvl_attn.model.cancellation import cancellable
from qvl_attn.model.checkpoint import DEFAULT_MODEL, Checkpoint, find_checkpoint, guarded, is_folder, with_weights
from qvl_attn.model.config_check import WRONG_CONFIG
from qvl_attn.model.loading import DTYPES, placement_of, provenance_fields
from qvl_attn.model.memory import check_free, on_device
from qvl_attn.model.placement import EncoderLoadOptions, LoadSettings, Placement

LOG = logging.getLogger(__name__)


class EncoderEngine:
    """A vision encoder with its processor. Create one with `load`.

    The weights are fetched and loaded when the first picture needs them: errors that can be found without them are
    raised before.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: EncoderSpec,
        config: Any,
        placement: Placement,
        *,
        offline: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.spec = spec
        self.config = config
        self.placement = placement
        self.processor = load_encoder_processor(checkpoint, spec, config)
        self.offline = offline
        self.turns = Turns("one picture at a time: encode it after this one has ended")

    @classmethod
    def load(cls, model: str = DEFAULT_MODEL, **options: Unpack[EncoderLoadOptions]) -> Self:
        """Find a vision encoder and check that it can be loaded.

        Args:
            model: a Hugging Face id, a local folder, or `demo`: Qwen2.5-VL (only its vision tower is loaded), CLIP,
                SigLIP, ViT, DINO, DINOv2, with or without registers.
            options: see `EncoderLoadOptions`.

        Raises:
            InputError: an unknown device or dtype, or a GPU that does not exist.
            ModelError: the model is not found or not supported.
            MemoryLimitError: the weights do not fit.
        """
        load = LoadSettings(**options)
        # The configuration first: an unsupported family is reported before its weights are searched for.
        checkpoint = find_checkpoint(model, load.revision, offline=load.offline, weights=False)
        spec, config = load_spec(checkpoint)
        if is_folder(model):
            checkpoint = find_checkpoint(model)
        placement = placement_of(lambda: build_encoder(model, spec, config), load.device, load.dtype)
        where = f"{placement.dtype} on {placement.device}"
        LOG.info(f"{model} ({checkpoint.revision[:12]}): {where} ({placement.reason})")
        return cls(checkpoint, spec, config, placement, offline=load.offline)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Turn an error about shapes or values into a `ModelError`, and a lack of memory into a `MemoryLimitError`."""
        claim = f"{self.checkpoint.name}: the encoder cannot run"
        kinds = RuntimeError, ValueError, IndexError
        with guarded(claim, WRONG_CONFIG, kinds), on_device(self.placement, 0), cancellable(self.model):
            yield

    @property
    def provenance(self) -> EncoderProvenance:
        """The software, model, device and precision behind its results, enough to reproduce them."""
        fields = provenance_fields(self.checkpoint, self.placement)
        return EncoderProvenance(**fields, family=self.spec.family.name)

    @cached_property
    def model(self) -> Any:
        """The loaded model. The weights of a hub model are of the same commit as its configuration."""
        checkpoint = with_weights(self.checkpoint, offline=self.offline)
        with loading(self.placement.weight_bytes), on_device(self.placement, 0):
            return load_encoder_weights(checkpoint, self.spec, self.config, self.placement)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the text tower.

        Raises:
            ModelError: the checkpoint has none, or it is broken.
        """
        return load_tokenizer(self.checkpoint)

    def saliency_target(self, settings: EncoderSettings) -> SaliencyTarget | None:
        """Return what the saliency maps explain; None without `saliency`.

        Raises:
            InputError: the class or the texts are invalid, or the encoder has no head.
        """
        return check_saliency(self.spec, self.config, settings, lambda: self.tokenizer) if settings.saliency else None

    def read(self, media: Media, settings: EncoderSettings) -> tuple[Inputs, tuple[int, ...]]:
        """Prepare the inputs and check everything that can be checked before the weights are loaded.

        Returns:
            The encoder's inputs, and the places in a step of the query patches.

        Raises:
            InputError: a setting or the picture is invalid.
            MemoryLimitError: the run cannot fit into memory.
        """
        check_layer(settings.layer, self.spec.layers)
        if settings.embeddings:
            check_available()
        self.saliency_target(settings)
        inputs = read_inputs(self.spec, self.processor, media, settings.min_pixels, settings.max_pixels)
        t, h, w = inputs.grid
        if "tsne" in settings.embeddings:
            check_points(t * h * w, "patches")
        query_patches = patches_at(settings.at, inputs.boxes_px[: h * w], media.size_px)
        self._check_memory(media, inputs, len(query_patches), bool(settings.embeddings))
        return inputs, query_patches

    def load_media(
        self, picture: PictureLike, settings: EncoderSettings | None = None, progress: Progress = no_progress
    ) -> tuple[Media, EncoderSettings]:
        """Load a picture, or the sampled frames of a clip, unless it is loaded already.

        Returns:
            The media, and the settings; if a clip was loaded, they have its settings.

        Raises:
            InputError: it cannot be read, or has no frames at the requested times.
        """
        settings = settings or EncoderSettings()
        if is_path(picture) and moves(picture):
            settings = replace(settings, clip=settings.clip or ClipSettings())
            return load_encoder_clip(self.spec, self.processor, picture, settings, progress), settings
        return load_given(picture, settings.stretch), settings

    def _check_memory(self, media: Media, inputs: Inputs, query_count: int, embed: bool) -> None:
        device, host = held_bytes(self.spec, inputs.grid, query_count)
        chunk_grid = next(in_chunks(self.spec, inputs)).grid
        device += pass_bytes(self.spec, self.config, DTYPES[self.placement.dtype].itemsize, chunk_grid)
        if embed and chunk_grid != inputs.grid:
            host += states_bytes(self.spec, self.config, inputs.grid)
        if "model" not in vars(self):
            device += self.placement.weight_bytes
        remedy = f"lower {argument('max_pixels')}"
        if media.clip is not None:
            remedy += f" or {argument('max_frames')}"
        check_free(self.placement, device, host, f"encoding {media.source}", remedy)

    def encode(
        self, picture: PictureLike, settings: EncoderSettings | None = None, progress: Progress = no_progress
    ) -> EncoderResult:
        """Encode one picture or clip: see `Encoder.encode`."""
        (media, settings), stages = self.load_media(picture, settings, progress), Stages()
        with stages.stage("prepare"):
            (inputs, query_patches), saliency_target = self.read(media, settings), self.saliency_target(settings)
        model, patch_rows = self.model, PatchRows(self.spec, inputs)
        with stages.stage("look"), self._running():
            attention = capture_attention(model, self.spec, inputs, query_patches, patch_rows, progress)
        similarity = embedding = None
        if query_patches or settings.embeddings:
            with stages.stage("embeddings"), self._running():
                similarity, embedding = read_embedding(
                    model, self.spec, inputs, query_patches, settings.embeddings, settings.seed
                )
        saliency_maps: tuple[SaliencyMap, ...] = ()
        if saliency_target is not None:
            with stages.stage("saliency"), self._running():
                saliency_maps = saliency(model, self.spec, inputs, saliency_target)
        return EncoderResult(
            media=(media,),
            attention=attention,
            reconstruction=reconstruct(self.spec, self.processor, inputs),
            settings=settings,
            provenance=self.provenance,
            frames=inputs.frames,
            similarity=similarity,
            similarity_layers=None if similarity is None else np.arange(-1, self.spec.layers, dtype=np.int64),
            embedding=embedding,
            saliency=saliency_maps,
            patch_rows=patch_rows.values() if len(patch_rows.places) else None,
            patch_row_places=patch_rows.places if len(patch_rows.places) else None,
            seconds=stages.seconds,
            peak_memory_bytes=stages.peak_bytes,
        )

    def capture(
        self, media: Media, settings: EncoderSettings | None = None, *, pooled: bool = False
    ) -> tuple[EncoderAttention, FloatArray | None]:
        """Return only the attention, for runs over many pictures: nothing that only a page or a picture would show.

        Args:
            media: the result of `load_picture`.
            settings: limits of pixels.
            pooled: whether to return the vectors of `pooled` as well, from the same forward pass.

        Returns:
            The attention, and the vectors (E, D) float32, None without `pooled`.

        Raises:
            InputError: a setting or the picture is invalid.
            CaptureError: the captured weights are not attention, or the embeddings are not finite.
            MemoryLimitError: the run does not fit into memory.
        """
        inputs, _ = self.read(media, settings or EncoderSettings())
        model = self.model
        with self._running():
            return (
                capture_and_pool(model, self.spec, inputs)
                if pooled
                else (capture_attention(model, self.spec, inputs), None)
            )

    def pooled(
        self, media: Media, settings: EncoderSettings | None = None, progress: Progress = no_progress
    ) -> FloatArray:
        """Return one vector for a whole picture or clip: see `Encoder.pooled`."""
        inputs, _ = self.read(media, settings or EncoderSettings())
        model = self.model
        with self._running():
            return read_pooled(model, self.spec, inputs, progress)
