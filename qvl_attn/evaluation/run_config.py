"""The contents of `run.json`: what must be the same to resume a run, and the facts for its summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from qvl_attn.attribution.selection import describe_heads, describe_layers
from qvl_attn.attribution.settings import Headline, Settings, headline_of
from qvl_attn.core.typed_json import decoded
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.sharding import Shard
from qvl_attn.evaluation.summary_json import Facts
from qvl_attn.model.loading import model_provenance, provenance_fields
from qvl_attn.results.run_folder import SCHEMA_VERSION, Run

if TYPE_CHECKING:
    from qvl_attn.vqa.engine import Engine

# Packages that decode and resize pictures.
_DECODERS = ("torchvision", "pillow", "av", "opencv-python-headless", "qwen-vl-utils")
_FLAGS = ("query", "layers", "heads", "system", "min_pixels", "max_pixels", "stretch", "max_new_tokens")


@dataclass(frozen=True)
class RunConfig:
    """The options of a check that are not settings of a question.

    Attributes:
        out: the folder of the run.
        data: the name of the data set.
        by_head: whether every head is scored.
        profile_file: the file to write a calibrated profile to; None for no calibration.
        csv: whether `scores.csv` is written as well.
        seed: the seed of the bootstrap, of the control with other boxes, and of the halves.
        shard: the shard of the data set; None for all of it.
        batch_size: the maximum number of prompts that run at once.
    """

    out: Path
    data: str
    by_head: bool = False
    profile_file: Path | None = None
    csv: bool = False
    seed: int = 0
    shard: Shard | None = None
    batch_size: int = 1


def describe_headline(headline: Headline, settings: Settings) -> str:
    """Return a text that says which layers or heads the headline averages."""
    if headline.heads is not None:
        selection = f"heads {describe_heads(headline.heads)}"
    else:
        selection = f"{describe_layers(headline.layers)}, mean of all heads"
    standing = f" ({settings.profile.status})" if settings.profile else ""
    return f"{selection}{standing}, attention of {settings.query}"


def run_json(
    engine: Engine, samples: Sequence[Sample], own: Sequence[Sample], settings: Settings, run_config: RunConfig
) -> Run:
    """Return the contents of `run.json`.

    Args:
        engine: the model.
        samples: the whole data set, because the boxes of other samples are controls.
        own: the samples of this run.
        settings: the settings of every question.
        run_config: the options of the check.
    """
    provenance = provenance_fields(engine.checkpoint, engine.placement)
    digests = {sample.id: _digest(sample) for sample in samples}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "check",
        "same": {
            **{name: provenance[name] for name in ("qvl_attn", "transformers", "torch")},
            **{name: _version(name) for name in _DECODERS},
            "--model": provenance["model"],
            "the model's files": provenance["revision"],
            "--dtype": provenance["dtype"],
            "--device": provenance["device"].partition(":")[0],
            "--attn": engine.attn,
            **{f"--{name.replace('_', '-')}": getattr(settings, name) for name in _FLAGS},
            "store_heads": settings.store_heads,
            "--fps": settings.clip.fps if settings.clip else None,
            "--max-frames": settings.clip.max_frames if settings.clip else None,
            "--profile": json.dumps(asdict(settings.profile)) if settings.profile else None,
            "--by-head": run_config.by_head,
            "--methods": ",".join(settings.methods) or None,
            "--faithfulness": settings.faithfulness,
            "--calibrate": run_config.profile_file.stem if run_config.profile_file else None,
            "--seed": run_config.seed,
            "--shard": str(run_config.shard) if run_config.shard else None,
            "the data": sha256(json.dumps(digests).encode()).hexdigest()[:12],
        },
        "facts": {**facts_of(engine, settings, run_config)},
        "samples": {sample.id: digests[sample.id] for sample in own},
    }


def facts_of(engine: Engine, settings: Settings, run_config: RunConfig) -> Facts:
    """Return the facts of a run that its summary states besides the figures."""
    headline = headline_of(settings, engine.selection(settings))
    provenance = {**provenance_fields(engine.checkpoint, engine.placement), "attention": engine.attn}
    facts = {
        "data": run_config.data,
        "model": {
            "name": provenance.pop("model"),
            **provenance,
            **model_provenance(engine.config, engine.processor),
        },
        "headline_map": describe_headline(headline, settings),
        "headline_of": asdict(headline),
        "settings": asdict(settings),
        "seed": run_config.seed,
        "shard": run_config.shard and asdict(run_config.shard),
    }
    return decoded(facts, Facts, "facts")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # OpenCV is published under several names
        return None


def _digest(sample: Sample) -> str:
    fields = [sample.id, sample.question, sample.answers, sample.names, sample.evidence]
    return sha256(json.dumps(fields).encode()).hexdigest()[:12]
