"""See where each layer of Qwen2.5-VL looked while it answered, and measure whether it was the right place.

from qvl_attn import Analyzer, Result

result = Analyzer.load("demo").ask("cats.png", "how many cats?")
folder = result.save("out/")
result.answer, result.heatmap(layers="1-3").values, Result.load(folder)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from qvl_attn.core.version import __version__

if TYPE_CHECKING:
    from qvl_attn.analyzer import Analyzer, AskOptions, AskVideoOptions
    from qvl_attn.attribution.faithfulness import Curves
    from qvl_attn.attribution.methods.base import Method, MethodMap
    from qvl_attn.attribution.methods.registry import METHODS
    from qvl_attn.attribution.profiles import Profile
    from qvl_attn.attribution.settings import (
        CheckOptions,
        CommonOptions,
        Headline,
        QuestionOptions,
        Settings,
        VideoOptions,
    )
    from qvl_attn.attribution.similarity import Likeness, Sanity
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
    from qvl_attn.core.runtime import Cancel, OnToken, Progress
    from qvl_attn.core.types import Capture, ClipFacts, HeatMap, Media, Scale, Token, TokenGrid
    from qvl_attn.encoder import EncodeOptions, Encoder
    from qvl_attn.encoders.attention import EncoderAttention
    from qvl_attn.encoders.record import (
        EncoderFolderOptions,
        EncoderOptions,
        EncoderProvenance,
        EncoderSettings,
        PatchEmbedding,
        SaliencyMap,
    )
    from qvl_attn.encoders.result import EncoderResult
    from qvl_attn.evaluation.compare import compare_runs
    from qvl_attn.evaluation.data.load import load_samples
    from qvl_attn.evaluation.data.samples import Sample
    from qvl_attn.evaluation.sharding import merge_runs
    from qvl_attn.media.given import PictureLike
    from qvl_attn.media.sampling import ClipOptions, ClipSettings, SamplingOptions
    from qvl_attn.model.placement import EncoderLoadOptions, LoadOptions
    from qvl_attn.render.style import Drawing
    from qvl_attn.report import make_report
    from qvl_attn.results.redraw import RedrawOptions, redrawn
    from qvl_attn.results.result import StoredResult
    from qvl_attn.results.session import Saved, SaveOptions, run_session
    from qvl_attn.vqa.estimate import Estimate
    from qvl_attn.vqa.record import VqaProvenance
    from qvl_attn.vqa.result import Result

__all__ = [
    "METHODS",
    "Analyzer",
    "ArgumentError",
    "AskOptions",
    "AskVideoOptions",
    "Cancel",
    "Cancelled",
    "Capture",
    "CaptureError",
    "CheckOptions",
    "ClipFacts",
    "ClipOptions",
    "ClipSettings",
    "CommonOptions",
    "Curves",
    "Drawing",
    "EncodeOptions",
    "Encoder",
    "EncoderAttention",
    "EncoderFolderOptions",
    "EncoderLoadOptions",
    "EncoderOptions",
    "EncoderProvenance",
    "EncoderResult",
    "EncoderSettings",
    "Estimate",
    "Headline",
    "HeatMap",
    "InputError",
    "Likeness",
    "LoadOptions",
    "Media",
    "MemoryLimitError",
    "Method",
    "MethodMap",
    "ModelError",
    "OnToken",
    "PatchEmbedding",
    "PictureLike",
    "Profile",
    "Progress",
    "QuestionOptions",
    "QvlAttnError",
    "RedrawOptions",
    "Result",
    "ResultExistsError",
    "SaliencyMap",
    "Sample",
    "SamplingOptions",
    "Sanity",
    "SaveOptions",
    "Saved",
    "Scale",
    "Settings",
    "StoreError",
    "StoredResult",
    "Token",
    "TokenGrid",
    "VideoOptions",
    "VqaProvenance",
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
    "Cancel": "core.runtime",
    "Cancelled": "core.errors",
    "Capture": "core.types",
    "CaptureError": "core.errors",
    "CheckOptions": "attribution.settings",
    "ClipFacts": "core.types",
    "ClipOptions": "media.sampling",
    "ClipSettings": "media.sampling",
    "CommonOptions": "attribution.settings",
    "Curves": "attribution.faithfulness",
    "Drawing": "render.style",
    "EncodeOptions": "encoder",
    "Encoder": "encoder",
    "EncoderAttention": "encoders.attention",
    "EncoderFolderOptions": "encoders.record",
    "EncoderLoadOptions": "model.placement",
    "EncoderOptions": "encoders.record",
    "EncoderProvenance": "encoders.record",
    "EncoderResult": "encoders.result",
    "EncoderSettings": "encoders.record",
    "Estimate": "vqa.estimate",
    "Headline": "attribution.settings",
    "HeatMap": "core.types",
    "InputError": "core.errors",
    "Likeness": "attribution.similarity",
    "LoadOptions": "model.placement",
    "METHODS": "attribution.methods.registry",
    "Media": "core.types",
    "MemoryLimitError": "core.errors",
    "Method": "attribution.methods.base",
    "MethodMap": "attribution.methods.base",
    "ModelError": "core.errors",
    "OnToken": "core.runtime",
    "PatchEmbedding": "encoders.record",
    "PictureLike": "media.given",
    "Profile": "attribution.profiles",
    "Progress": "core.runtime",
    "QuestionOptions": "attribution.settings",
    "QvlAttnError": "core.errors",
    "RedrawOptions": "results.redraw",
    "Result": "vqa.result",
    "ResultExistsError": "core.errors",
    "SaliencyMap": "encoders.record",
    "Sample": "evaluation.data.samples",
    "SamplingOptions": "media.sampling",
    "Sanity": "attribution.similarity",
    "SaveOptions": "results.session",
    "Saved": "results.session",
    "Scale": "core.types",
    "Settings": "attribution.settings",
    "StoreError": "core.errors",
    "StoredResult": "results.result",
    "Token": "core.types",
    "TokenGrid": "core.types",
    "VideoOptions": "attribution.settings",
    "VqaProvenance": "vqa.record",
    "compare_runs": "evaluation.compare",
    "load_samples": "evaluation.data.load",
    "make_report": "report",
    "merge_runs": "evaluation.sharding",
    "redrawn": "results.redraw",
    "run_session": "results.session",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'qvl_attn' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"qvl_attn.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
