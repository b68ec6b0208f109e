"""A vision encoder that shows where it looks: the public way in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qvl_attn.core.runtime import Progress, no_op
from qvl_attn.encoders.engine import EncoderEngine
from qvl_attn.encoders.record import EncoderSettings


class Encoder(EncoderEngine):
    """A vision encoder that shows where each layer looks in a picture, a clip or a folder. Make one with `load`.

    The weights are fetched and loaded when the first picture needs them, so that every fault that can be known without
    them is found first.
    """

    def encode_folder(
        self, folder: str | os.PathLike[str], out: str | os.PathLike[str], progress: Progress = no_op, **options: Any
    ) -> dict[str, Any]:
        """Look at every picture of a folder, whose sub-folders are classes; a run that was stopped goes on.

        Args:
            folder: of pictures.
            out: a folder to make.
            progress: told what is being done, how much of it is done, and of how much.
            options: `min_pixels`, `max_pixels`, `embeddings` and `seed` of `EncoderSettings`.

        Returns:
            The contents of `summary.json`: by layer each figure's mean, spread and chance.

        Raises:
            InputError: a fault in what was given, found before the weights are loaded.
            StoreError: it cannot be written, or no picture could be looked at.
        """
        from qvl_attn.encoders.folder_run import encode_folder

        return encode_folder(self, Path(folder), Path(out), EncoderSettings(**options), progress)
