"""The public class `Encoder`: a vision encoder and where each of its layers looks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self, Unpack

from qvl_attn.core.options import check_names, part_of
from qvl_attn.core.runtime import Cancel, Progress, cancelling
from qvl_attn.core.turns import in_turn
from qvl_attn.core.types import FloatArray
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.record import EncoderFolderOptions, EncoderOptions, EncoderSettings, with_options
from qvl_attn.encoders.result import EncoderResult
from qvl_attn.encoders.session import encoded, request
from qvl_attn.media.given import PictureLike
from qvl_attn.model.checkpoint import DEFAULT_MODEL
from qvl_attn.model.placement import EncoderLoadOptions
from qvl_attn.results.session import SaveOptions, logged, saving_of


class EncodeOptions(EncoderOptions, SaveOptions, total=False):
    """Options of an encoder's run and of where its result is saved."""


class Encoder:
    """A vision encoder that shows where each layer looks in a picture, a clip or a folder. Create one with `load`.

    The weights are fetched and loaded when the first picture needs them: errors that can be found without them are
    raised before.

    Calls from several threads wait for each other. A call from inside `progress` or `cancel` of another is an
    `InputError`.

    Attributes:
        engine: the encoder behind it, for those who build on parts of the package.
    """

    def __init__(self, engine: EncoderEngine) -> None:
        self.engine = engine

    @classmethod
    def load(cls, model: str = DEFAULT_MODEL, **options: Unpack[EncoderLoadOptions]) -> Self:
        """Find a vision encoder and check that it can be loaded.

        Args:
            model: a Hugging Face id, a local folder, or `demo`: Qwen2.5-VL (only its vision tower is loaded), CLIP,
                SigLIP, ViT, DINO, DINOv2, with or without registers.
            options: see `EncoderLoadOptions`.

        Raises:
            InputError: an unknown option, device or dtype, or a GPU that does not exist.
            ModelError: the model is not found or not supported.
            MemoryLimitError: the weights do not fit.
        """
        check_names(options, EncoderLoadOptions, cls.load)
        return cls(EncoderEngine.load(model, **options))

    @in_turn
    def encode(
        self,
        picture: PictureLike,
        settings: EncoderSettings | None = None,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[EncodeOptions],
    ) -> EncoderResult:
        """Encode one picture or clip.

        Args:
            picture: path of a picture, a clip or a folder of numbered frames; a PIL image; an array (H, W, 3)
                uint8 of upright RGB; or a `Media`.
            settings: the settings of the run.
            progress: called with (stage, done, total); done counts frames, then layers.
            cancel: called after each layer and decoded frame, so it must be quick, such as `threading.Event().is_set`.
                Once it returns true, the work ends with `Cancelled`, and the encoder is as it was.
            options: see `EncoderOptions`, which replace those of `settings`, and `SaveOptions`.

        Raises:
            InputError: a setting or the picture is invalid.
            Cancelled: `cancel()` returned true.
            CaptureError: the captured weights are not attention.
            MemoryLimitError: the run does not fit into memory.
            StoreError: the result cannot be saved.
        """
        check_names(options, EncodeOptions, self.encode)
        saving = saving_of(part_of(options, SaveOptions))
        settings = with_options(settings, part_of(options, EncoderOptions))
        with cancelling(cancel, progress) as (progress, _):
            if saving is None:
                return self.engine.encode(picture, settings, progress)
            asked = [request(picture, settings, settings.clip, keep=True)]
            (result,) = logged(encoded(self.engine, asked, saving, progress=progress))
            return result

    @in_turn
    def encode_folder(
        self,
        folder: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[EncoderFolderOptions],
    ) -> dict[str, Any]:
        """Encode every picture of a folder whose sub-folders are classes; a stopped run is resumed.

        Args:
            folder: a folder of pictures.
            out: the folder of the run, created if it does not exist.
            progress: called with (stage, done, total).
            cancel: as in `encode`; the rows that are written stay, and the same call continues the run.
            options: see `EncoderFolderOptions`.

        Returns:
            The contents of `summary.json`: for each layer the mean, spread and chance value of each statistic.

        Raises:
            InputError: an argument or picture is invalid; raised before the weights are loaded.
            Cancelled: `cancel()` returned true.
            StoreError: the run cannot be written, or no picture could be encoded.
        """
        from qvl_attn.encoders.folder_run import encode_folder

        check_names(options, EncoderFolderOptions, self.encode_folder)
        settings = with_options(None, options)
        with cancelling(cancel, progress) as (progress, _):
            return encode_folder(self.engine, Path(folder), Path(out), settings, progress)

    @in_turn
    def pooled(
        self,
        picture: PictureLike,
        settings: EncoderSettings | None = None,
        *,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[EncoderOptions],
    ) -> FloatArray:
        """Return one vector for a whole picture or clip: (E, D) float32, before the first layer, then after each.

        It is the state of [CLS], or without [CLS] the mean over the patches; for a clip the mean over its steps.

        Args:
            picture: path of a picture, a clip or a folder of numbered frames; a PIL image; an array (H, W, 3)
                uint8 of upright RGB; or a `Media`.
            settings: limits of pixels, and which frames of a clip.
            progress: as in `encode`.
            cancel: as in `encode`.
            options: see `EncoderOptions`; they replace those of `settings`.

        Raises:
            InputError: a setting or the picture is invalid.
            Cancelled: `cancel()` returned true.
            CaptureError: the embeddings are not finite.
            MemoryLimitError: the run does not fit into memory.
        """
        check_names(options, EncoderOptions, self.pooled)
        with cancelling(cancel, progress) as (progress, _):
            media, settings = self.engine.load_media(picture, with_options(settings, options), progress)
            return self.engine.pooled(media, settings, progress)
