"""The fields that the records of all kinds of results share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Provenance:
    """Versions, model and device behind a result: enough to compute it again. Each kind of result adds its own fields.

    Attributes:
        qvl_attn: version of this package.
        transformers: version of transformers.
        torch: version of torch.
        model: hub id, folder or `demo`.
        revision: commit of a hub model, fingerprint of a folder.
        dtype: `float32`, `bfloat16` or `float16`.
        device: `cpu`, `cuda:0`, or the device map.
    """

    qvl_attn: str
    transformers: str
    torch: str
    model: str
    revision: str
    dtype: str
    device: str


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Record:
    """Fields of every kind of result.

    Attributes:
        seconds: duration of each stage.
        peak_memory_bytes: peak of each stage: `host` for the process, `device` for what torch holds on a GPU; `before`
            is the memory of the process when the stage began.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
