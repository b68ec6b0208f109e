"""Commands on the embedded model that need not load it each time."""

from __future__ import annotations

from typing import Any

import pytest

from qvl_attn.model.loading import load_processor


def without_loading(patch: pytest.MonkeyPatch, demo: Any) -> None:
    """Give every engine the weights of `demo`, which have proved themselves, and the embedded model its processor."""

    def processor_of(checkpoint: Any, config: Any) -> Any:
        same = checkpoint.folder == demo.engine.checkpoint.folder
        return demo.engine.processor if same else load_processor(checkpoint, config)

    patch.setattr("qvl_attn.vqa.engine.load_weights", lambda *args: demo.engine.model)
    patch.setattr("qvl_attn.vqa.engine.load_processor", processor_of)
    patch.setattr("qvl_attn.vqa.engine.checked_media", tuple)
    patch.setattr("qvl_attn.vqa.engine.prove_capture", lambda *args: None)
