"""The largest picture that a model can be asked about in a given memory. Loads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qvl_attn.model.memory import CODE_BYTES, CUDA_BYTES, ITEM_BYTES, Job, drawing_bytes, peak_bytes
from qvl_attn.vqa.estimate import in_context, largest_pixels

MEMORY_GB = (8, 16, 24, 48, 80)
# A question of a sentence beside the template, and the default length of an answer.
WORDS, QUERIES, NEW_TOKENS = 40, 16, 128


@dataclass(frozen=True)
class Fit:
    """What fits a model in one precision.

    Attributes:
        model: its name.
        dtype: `float32`, `bfloat16` or `float16`.
        weight_bytes: size of its weights.
        max_pixels: by size of the memory in GB (10^9 bytes), the largest `max_pixels` with which a question about one
            picture fits, with `attn='rows'` and every layer; 0 if none does.
    """

    model: str
    dtype: str
    weight_bytes: int
    max_pixels: dict[int, int]


def fit_of(
    model: str, config: Any, dtype: str, weights: int, device: str, process: int, new_tokens: int = NEW_TOKENS
) -> Fit:
    """Return what fits memories of `MEMORY_GB` that nothing else uses.

    Args:
        model: name of the model.
        config: its configuration.
        dtype: its precision.
        weights: number of its weights.
        device: `cpu` or `cuda`.
        process: bytes of this process without weights; on the CPU they share the memory with the model.
        new_tokens: the longest answer.
    """
    text, weight_bytes = config.text_config, weights * ITEM_BYTES[dtype]
    most = Job(text.max_position_embeddings, WORDS, new_tokens, QUERIES, text.num_hidden_layers)

    def total(job: Job) -> int:
        needed = peak_bytes(config, dtype, job, "rows", device)
        if device != "cpu":
            return weight_bytes + CUDA_BYTES + needed
        return weight_bytes + process + CODE_BYTES + max(needed, drawing_bytes())

    def largest(size_gb: int) -> int:
        def possible(job: Job) -> bool:
            return in_context(config, job) and total(job) <= size_gb * 10**9

        return largest_pixels(config, most, 1, possible)

    return Fit(model, dtype, weight_bytes, {size_gb: largest(size_gb) for size_gb in MEMORY_GB})
