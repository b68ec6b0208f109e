"""The public class `Encoder`: a vision encoder and where each of its layers looks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qvl_attn.core.runtime import Progress, no_progress
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.record import EncoderSettings


class Encoder(EncoderEngine):
    """A vision encoder that shows where each layer looks in a picture, a clip or a folder. Create one with `load`.

    The weights are fetched and loaded when the first picture needs them: errors that can be found without them are
    raised before.
    """

    def encode_folder(
        self,
        folder: str | os.PathLike[str],
        out: str | os.PathLike[str],
        progress: Progress = no_progress,
        **options: Any,
    ) -> dict[str, Any]:
        """Encode every picture of a folder whose sub-folders are classes; a stopped run is resumed.

        Args:
            folder: a folder of pictures.
            out: the folder of the run, created if it does not exist.
            progress: called with (stage, done, total).
            options: `min_pixels`, `max_pixels`, `stretch`, `embeddings` and `seed` of `EncoderSettings`.

        Returns:
            The contents of `summary.json`: for each layer the mean, spread and chance value of each statistic.

        Raises:
            InputError: an argument or picture is invalid; raised before the weights are loaded.
            StoreError: the run cannot be written, or no picture could be encoded.
        """
        from qvl_attn.encoders.folder_run import encode_folder

        return encode_folder(self, Path(folder), Path(out), EncoderSettings(**options), progress)
