"""What a prompt will cost before any weights are loaded: numbers from the configuration, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from qvl_attn.errors import InputError, MemoryLimitError
from qvl_attn.prompt import Prompt
from qvl_attn.store import MAX_NPZ_BYTES

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ATTENTION_MODES = ("auto", "eager", "rows")


@dataclass(frozen=True)
class Job:
    """What of a question decides its cost.

    Attributes:
        cells: vision tokens.
        words: all other tokens of the prompt.
        new_tokens: how many may be generated.
        queries: rows of the prompt that are recorded.
        layers: how many layers are recorded.
        heads: how many heads a layer are kept: 1 where they are averaged.
        batch: how many such prompts run at once.
    """

    cells: int
    words: int
    new_tokens: int
    queries: int
    layers: int
    heads: int = 1
    batch: int = 1

    @property
    def tokens(self) -> int:
        """Of the prompt."""
        return self.cells + self.words

    @property
    def result_bytes(self) -> int:
        """Size of the recorded rows."""
        return 4 * self.layers * self.heads * (self.queries + self.new_tokens) * self.cells


def job_of(prompt: Prompt, *, new_tokens: int, layers: int, heads: int) -> Job:
    """What of a prompt decides its cost."""
    cells = sum(grid.cells for grid in prompt.grids)
    queries = len(prompt.positions("question")) + 1
    return Job(cells, prompt.length - cells, new_tokens, queries, layers, heads)


def peak_bytes(config: Any, dtype: str, job: Job, attention: str) -> int:
    """Expected peak beside the weights, of preparing, answering and keeping the rows.

    Args:
        config: of the model.
        dtype: `float32`, `bfloat16` or `float16`.
        job: what is asked.
        attention: `eager` (in blocks of rows), `rows`, or `usual`: all matrices of all layers kept, then stacked.
    """
    text, vision = config.text_config, config.vision_config
    item = ITEM_BYTES[dtype]
    length, heads = job.tokens, text.num_attention_heads
    head_size = text.hidden_size // heads
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * head_size * length * item
    attention_bytes = heads * min(512, length) * length * (4 + 2 * item) if attention == "eager" else 0
    repeated = 2 * text.hidden_size * length * item
    mlp = 3 * text.intermediate_size * length * item
    language = cache + 6 * text.hidden_size * length * item + max(attention_bytes + repeated, mlp)
    patches = job.cells * vision.spatial_merge_size**2
    pixels = patches * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * (4 + item)
    tower = pixels + patches * item * (8 * vision.hidden_size + 3 * vision.intermediate_size)
    return int(job.batch * (max(language, tower) + 2 * job.result_bytes))


def check_context(config: Any, job: Job, pictures: int) -> None:
    """Refuse a prompt that is longer than the model's context.

    Raises:
        InputError: with the `--max-pixels` that fits.
    """
    context: int = config.text_config.max_position_embeddings
    if job.tokens + job.new_tokens <= context:
        return
    cells = max(0, context - job.words - job.new_tokens) // pictures
    raise InputError(
        f"the prompt is {job.tokens} tokens and {job.new_tokens} may follow; the model's context is {context}",
        f"--max-pixels {cells * _cell_px(config)} fits" if cells >= 4 else "shorten the question",
    )


def choose_attention(config: Any, dtype: str, job: Job, free: int | None) -> tuple[str, str]:
    """`eager` where it is the reference and fits, else `rows`; and why.

    Args:
        config: of the model.
        dtype: of the model.
        job: what is asked.
        free: bytes beside the weights; None where they are spread over several GPUs.
    """
    if dtype != "float32":
        return "rows", "in 16 bits eager attention rounds its scores, and can change the answer"
    if free is None:
        return "rows", "the model is spread over several GPUs"
    needed = peak_bytes(config, dtype, job, "eager")
    words = f"float32, and eager attention needs about {_gib(needed)} of {_gib(free)}"
    return ("eager", words) if needed <= free else ("rows", words)


def check_memory(config: Any, dtype: str, job: Job, attention: str, free: int | None, pictures: int) -> None:
    """Refuse a prompt whose estimate is over the free memory.

    Raises:
        MemoryLimitError: with the `--max-pixels` that fits.
    """
    if job.result_bytes > MAX_NPZ_BYTES:
        rows = job.result_bytes // (4 * job.cells)
        raise MemoryLimitError(
            f"{rows} rows of attention on {job.cells} vision tokens are {_gib(job.result_bytes)}, "
            f"more than a result may hold ({_gib(MAX_NPZ_BYTES)})",
            "name fewer --layers, no --heads, or a lower --max-pixels",
        )

    def needed(cells: int) -> int:
        return peak_bytes(config, dtype, replace(job, cells=cells), attention)

    if free is None or needed(job.cells) <= free:
        return
    low, high = 0, job.cells
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= free else (low, middle)
    fits = low // pictures
    others = [f"--max-pixels {fits * _cell_px(config)} fits" if fits >= 4 else "take a smaller model"]
    if attention == "eager" and peak_bytes(config, dtype, job, "rows") <= free:
        others.insert(0, "--attn rows fits")
    raise MemoryLimitError(
        f"{job.cells} vision tokens need about {_gib(needed(job.cells))} beside the weights with --attn {attention}, "
        f"and {_gib(max(free, 0))} are free",
        "; ".join(others),
    )


def _cell_px(config: Any) -> int:
    vision = config.vision_config
    return int((vision.patch_size * vision.spatial_merge_size) ** 2)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
