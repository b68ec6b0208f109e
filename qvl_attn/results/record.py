"""What the records of all kinds of results share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Provenance:
    """What made a result: enough to make it again. Each kind of result adds its own fields.

    Attributes:
        qvl_attn: version of this package.
        transformers: its version.
        torch: its version.
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
    """What every kind of result has.

    Attributes:
        seconds: by stage.
        peak_memory_bytes: by stage, of the process on the `host` and of what torch holds on the `device` if that is a
            GPU; `before` is the host's when the stage began.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
