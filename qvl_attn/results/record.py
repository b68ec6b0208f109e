"""What the records of all kinds of results share."""

from __future__ import annotations

from dataclasses import dataclass

MAX_LAYERS = 4096


@dataclass(frozen=True)
class Provenance:
    """What made a result: enough to make it again."""

    qvl_attn: str
    transformers: str
    torch: str
    model: str
    revision: str
    dtype: str
    device: str
    attention: str
    layer_count: int
    head_count: int
    generation: dict[str, float | int | bool]
    processor_size: dict[str, int]
    attention_reason: str = ""
    batch: int = 1
    shared_pictures: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.layer_count <= MAX_LAYERS and 0 < self.head_count <= MAX_LAYERS):
            raise ValueError(f"{self.layer_count} layers of {self.head_count} heads")


@dataclass(frozen=True)
class Maker:
    """What made a result: enough to make it again."""

    qvl_attn: str
    transformers: str
    torch: str
    model: str
    revision: str
    dtype: str
    device: str
    family: str
