"""See where each layer of Qwen2.5-VL looked while it answered, and measure whether it was the right place.

from qvl_attn import Analyzer, Result

result = Analyzer.load("demo").ask("cats.png", "how many cats?")
result.answer; result.heatmap(layers="14-20").values; result.save("out/"); Result.load("out/...")
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from qvl_attn.core.version import __version__

if TYPE_CHECKING:
    from qvl_attn.analyzer import Analyzer, AskOptions, AskVideoOptions
    from qvl_attn.attribution.methods.registry import METHODS
    from qvl_attn.attribution.settings import CheckOptions, QuestionOptions, VideoOptions
    from qvl_attn.core.errors import (
        ArgumentError,
        Cancelled,
        CaptureError,
        InputError,
        MemoryLimitError,
        ModelError,
        QvlAttnError,
        ResultExistsError,
        StoreError,
    )
    from qvl_attn.core.runtime import Progress
    from qvl_attn.core.types import HeatMap
    from qvl_attn.encoder import EncodeOptions, Encoder
    from qvl_attn.encoders.record import EncoderFolderOptions, EncoderOptions, EncoderSettings
    from qvl_attn.encoders.result import EncoderResult
    from qvl_attn.evaluation.compare import compare_runs
    from qvl_attn.evaluation.data.load import load_samples
    from qvl_attn.evaluation.sharding import merge_runs
    from qvl_attn.media.sampling import ClipOptions, ClipSettings
    from qvl_attn.model.placement import EncoderLoadOptions, LoadOptions
    from qvl_attn.render.style import Drawing
    from qvl_attn.report import make_report
    from qvl_attn.results.session import Saved, SaveOptions, run_session
    from qvl_attn.vqa.redraw import redrawn
    from qvl_attn.vqa.result import Result

__all__ = [
    "METHODS",
    "Analyzer",
    "ArgumentError",
    "AskOptions",
    "AskVideoOptions",
    "Cancelled",
    "CaptureError",
    "CheckOptions",
    "ClipOptions",
    "ClipSettings",
    "Drawing",
    "EncodeOptions",
    "Encoder",
    "EncoderFolderOptions",
    "EncoderLoadOptions",
    "EncoderOptions",
    "EncoderResult",
    "EncoderSettings",
    "HeatMap",
    "InputError",
    "LoadOptions",
    "MemoryLimitError",
    "ModelError",
    "Progress",
    "QuestionOptions",
    "QvlAttnError",
    "Result",
    "ResultExistsError",
    "SaveOptions",
    "Saved",
    "StoreError",
    "VideoOptions",
    "__version__",
    "compare_runs",
    "load_samples",
    "make_report",
    "merge_runs",
    "redrawn",
    "run_session",
]

# Silent unless a program asks for the messages.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Imported at first use, so that the command line's --help need not wait for torch.
_MODULES = {
    "Analyzer": "analyzer",
    "ArgumentError": "core.errors",
    "AskOptions": "analyzer",
    "AskVideoOptions": "analyzer",
    "Cancelled": "core.errors",
    "CaptureError": "core.errors",
    "CheckOptions": "attribution.settings",
    "ClipOptions": "media.sampling",
    "ClipSettings": "media.sampling",
    "Drawing": "render.style",
    "EncodeOptions": "encoder",
    "Encoder": "encoder",
    "EncoderFolderOptions": "encoders.record",
    "EncoderLoadOptions": "model.placement",
    "EncoderOptions": "encoders.record",
    "EncoderResult": "encoders.result",
    "EncoderSettings": "encoders.record",
    "HeatMap": "core.types",
    "InputError": "core.errors",
    "LoadOptions": "model.placement",
    "METHODS": "attribution.methods.registry",
    "MemoryLimitError": "core.errors",
    "ModelError": "core.errors",
    "Progress": "core.runtime",
    "QuestionOptions": "attribution.settings",
    "QvlAttnError": "core.errors",
    "Result": "vqa.result",
    "ResultExistsError": "core.errors",
    "SaveOptions": "results.session",
    "Saved": "results.session",
    "StoreError": "core.errors",
    "VideoOptions": "attribution.settings",
    "compare_runs": "evaluation.compare",
    "load_samples": "evaluation.data.load",
    "make_report": "report",
    "merge_runs": "evaluation.sharding",
    "redrawn": "vqa.redraw",
    "run_session": "results.session",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'qvl_attn' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"qvl_attn.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
