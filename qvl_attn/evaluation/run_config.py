"""What a run is asked, as `run.json` keeps it: what must be the same to go on with it, and what its summary says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qvl_attn.attribution.selection import describe_layers
from qvl_attn.attribution.settings import Headline, Settings, headline_of
from qvl_attn.evaluation.data.samples import Sample
from qvl_attn.evaluation.sharding import Shard
from qvl_attn.model.checkpoint import model_provenance, provenance_fields
from qvl_attn.results.run_folder import SCHEMA_VERSION

if TYPE_CHECKING:
    from qvl_attn.vqa.engine import Engine

# What decodes and resizes pictures beside them.
_DECODERS = ("torchvision", "pillow", "av", "opencv-python-headless", "qwen-vl-utils")
_FLAGS = ("query", "layers", "heads", "system", "min_pixels", "max_pixels", "max_new_tokens")


@dataclass(frozen=True)
class RunConfig:
    """What is asked of a check beside its figures.

    Attributes:
        out: the folder to write into.
        data: the data set's name.
        by_head: score every head.
        profile_file: where to write a calibrated profile; None to calibrate none.
        csv: also write `scores.csv`.
        seed: of the bootstrap, of the other pictures, and of the halves.
        shard: which part of the data set; None for all of it.
        batch_size: how many prompts run at once, at most.
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
    """What the headline averages, to be read."""
    if headline.heads is not None:
        words = "heads " + ",".join(f"{layer}.{head}" for layer, head in headline.heads)
    else:
        words = f"{describe_layers(headline.layers)}, mean of all heads"
    standing = f" ({settings.profile.standing})" if settings.profile else ""
    return f"{words}{standing}, attention of {settings.query}"


def run_json(
    engine: Engine, samples: Sequence[Sample], own: Sequence[Sample], settings: Settings, run_config: RunConfig
) -> dict[str, Any]:
    """The contents of `run.json`.

    Args:
        engine: the model.
        samples: the whole data set, whose other pictures are controls.
        own: those of this run.
        settings: as for one question.
        run_config: what else.
    """
    made = provenance_fields(engine.checkpoint, engine.placement, engine.attn)
    digests = {one.id: _digest(one) for one in samples}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "check",
        "same": {
            **{name: made[name] for name in ("qvl_attn", "transformers", "torch")},
            **{name: _version(name) for name in _DECODERS},
            "--model": made["model"],
            "the model's files": made["revision"],
            "--dtype": made["dtype"],
            "--device": made["device"].partition(":")[0],
            "--attn": engine.attn,
            **{f"--{name.replace('_', '-')}": getattr(settings, name) for name in _FLAGS},
            "store_heads": settings.store_heads,
            "--fps": settings.clip.fps if settings.clip else None,
            "--max-frames": settings.clip.max_frames if settings.clip else None,
            "--profile": settings.profile and json.dumps(asdict(settings.profile)),
            "--by-head": run_config.by_head,
            "--methods": ",".join(settings.methods) or None,
            "--faithfulness": settings.faithfulness,
            "--calibrate": run_config.profile_file and run_config.profile_file.stem,
            "--seed": run_config.seed,
            "--shard": run_config.shard and str(run_config.shard),
            "the data": sha256(json.dumps(digests).encode()).hexdigest()[:12],
        },
        "facts": facts_of(engine, settings, run_config),
        "samples": {one.id: digests[one.id] for one in own},
    }


def facts_of(engine: Engine, settings: Settings, run_config: RunConfig) -> dict[str, Any]:
    """What a summary says of a run beside its figures."""
    headline = headline_of(settings, engine.config)
    made = provenance_fields(engine.checkpoint, engine.placement, engine.attn)
    found: dict[str, Any] = {
        "data": run_config.data,
        "model": {"name": made.pop("model"), **made, **model_provenance(engine.config, engine.processor)},
        "headline_map": describe_headline(headline, settings),
        "headline_of": asdict(headline),
        "settings": asdict(settings),
        "seed": run_config.seed,
        "shard": run_config.shard and asdict(run_config.shard),
    }
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # OpenCV comes under several names
        return None


def _digest(sample: Sample) -> str:
    told = [sample.id, sample.question, sample.answers, sample.names, sample.evidence]
    return sha256(json.dumps(told).encode()).hexdigest()[:12]
