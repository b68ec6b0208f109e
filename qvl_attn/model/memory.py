"""What a prompt costs in memory, from the configuration of a model alone: no torch."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from qvl_attn.core.errors import MemoryLimitError
from qvl_attn.model.checkpoint import Placement

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# The ways of computing attention that can be estimated; `usual` keeps all matrices of all layers, then stacks them.
WAYS = ("eager", "rows", "usual")
BLOCK_ROWS = 512  # of query rows that eager attention computes at a time
# glibc hands a block of 32 MiB or more back when it is freed (mallopt(3), M_MMAP_THRESHOLD). Smaller ones come from a
# heap in which keys and values that stay are strewn among what goes: it was measured at 1.1 to 2.2 times its content,
# up to a quarter apart in two runs of one question. This bounds how near an estimate on the CPU can come, unless that
# threshold is set from outside.
HEAP_BELOW_BYTES = int(os.environ.get("MALLOC_MMAP_THRESHOLD_", 32 * 2**20))
HEAP_FACTOR = 1.5

Tensors = list[tuple[float, float]]  # (how many, bytes of each)


@dataclass(frozen=True)
class Job:
    """What of a question decides its cost.

    Attributes:
        cells: vision tokens.
        words: all other tokens of the prompt.
        new_tokens: how many may be generated.
        queries: rows of the prompt that are recorded.
        layers: how many layers are recorded.
        heads: how many heads of each layer are kept beside their mean.
        head_bytes: of a weight of theirs.
        batch: how many such prompts run at once.
        shared: whether their pictures are the same and were read before.
        probed: whether prompt and answer go through the model once more, for a method.
        products: whether queries and keys of all layers are kept meanwhile.
        gradients: whether a backward pass follows, for which activations are kept.
    """

    cells: int
    words: int
    new_tokens: int
    queries: int
    layers: int
    heads: int = 0
    head_bytes: int = 4
    batch: int = 1
    shared: bool = False
    probed: bool = False
    products: bool = False
    gradients: bool = False

    @property
    def tokens(self) -> int:
        """Of the prompt."""
        return self.cells + self.words

    @property
    def result_bytes(self) -> int:
        """Size of the recorded rows."""
        return self.layers * self.layer_row_bytes * (self.queries + self.new_tokens)

    @property
    def layer_row_bytes(self) -> int:
        """Size of one row of one layer."""
        return (4 + self.heads * self.head_bytes) * self.cells


def peak_bytes(config: Any, dtype: str, job: Job, attention: str, device: str = "cpu") -> int:
    """Expected peak beside the weights and the prepared prompt, of answering and keeping the rows.

    The largest of the stages' sums of what is alive at once, as torch's memory profiler showed it (torch 2.13,
    transformers 5.23). The MLP is most of it, the vision tower's or the language model's, until matrices outgrow it.

    Args:
        config: of the model.
        dtype: `float32`, `bfloat16` or `float16`.
        job: what is asked.
        attention: one of `WAYS`.
        device: where the model runs: recorded rows lie in the host's memory.
    """
    on_cpu = device == "cpu"
    if job.shared:
        stages = _shared_stages(config, ITEM_BYTES[dtype], job)
    else:
        stages = [
            *_tower_stages(config, ITEM_BYTES[dtype], job, on_cpu),
            *_language_stages(config, ITEM_BYTES[dtype], job, attention, on_cpu),
        ]
    if job.probed:
        stages += [
            *_tower_stages(config, ITEM_BYTES[dtype], job, on_cpu),
            *_probe_stages(config, ITEM_BYTES[dtype], job),
        ]
    if on_cpu:
        stages = [[*stage, (job.layers, job.layer_row_bytes * job.queries)] for stage in stages]
        # The rows, and one layer's a second time while they are joined.
        stages.append([(1, job.result_bytes), (1, job.result_bytes / job.layers)])
    return max(_resident_bytes(stage, job.batch, on_cpu) for stage in stages)


def _resident_bytes(tensors: Tensors, batch: int, on_cpu: bool) -> int:
    def resident(size: float) -> float:
        return size * HEAP_FACTOR if on_cpu and size < HEAP_BELOW_BYTES else size

    return int(sum(count * resident(size * batch) for count, size in tensors))


def _pixels(config: Any, job: Job, on_cpu: bool) -> tuple[float, float, bool]:
    """Patches of the pictures, bytes of their pixels in float32, and whether a GPU or a batch has a copy of these."""
    vision = config.vision_config
    patches = job.cells * vision.spatial_merge_size**2
    pixels = 4 * patches * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return patches, pixels, not on_cpu or job.batch > 1


def _tower_stages(config: Any, item: int, job: Job, on_cpu: bool) -> list[Tensors]:
    vision = config.vision_config
    patches, pixels, copied = _pixels(config, job, on_cpu)
    hidden, inner = patches * vision.hidden_size, patches * vision.intermediate_size
    rotary = 4 * hidden / vision.num_heads  # float32, as queries and keys while they are turned
    cast = item != 4
    held: Tensors = [(copied, pixels), (cast, pixels * item / 4), (2, rotary)]
    # A block's input, its norm, queries with keys and values in one; the turned queries and three steps of the keys.
    attention: Tensors = [(2, hidden * item), (1, 3 * hidden * item), (4 + 2 * cast, 4 * hidden)]
    # A block's input, its sum with the attention, its norm; gate, up and their product.
    mlp: Tensors = [(3, hidden * item), (3, inner * item)]
    return [held + attention, held + mlp]


def _language_stages(config: Any, item: int, job: Job, attention: str, on_cpu: bool) -> list[Tensors]:
    text = config.text_config
    layers, heads, length = text.num_hidden_layers, text.num_attention_heads, job.tokens
    head_size = text.hidden_size // heads
    patches, pixels, copied = _pixels(config, job, on_cpu)
    hidden = length * text.hidden_size * item
    cached = text.num_key_value_heads * head_size * item
    # Pixels, the tower's last state, its features as they came and joined; keys and values; rotary cosines and sines.
    state = patches * config.vision_config.hidden_size * item
    held: Tensors = [(copied, pixels), (1, state), (2, hidden * job.cells / length)]
    held += [(2 * layers, cached * length), (2, length * head_size * item)]
    if job.batch > 1:
        held += [(1, length**2), (1, length**2 * item)]  # the mask of the padding
    # As in the tower, and the embeddings.
    mlp: Tensors = [(4, hidden), (3, length * text.intermediate_size * item)]
    # One layer's keys and values are there twice while a token is added to them.
    total = length + job.new_tokens
    decode: Tensors = [held[0], (2 * layers + 2, cached * total)]

    def softmax(matrix: float) -> Tensors:
        """Scores and what becomes of them; in 16 bits the CPU makes a float32 copy before it and one after it."""
        return [(2, 4 * matrix)] if item == 4 else [(1, item * matrix), (1 + on_cpu, 4 * matrix)]

    matrix = heads * length**2
    if attention == "usual":
        # As below, with a matrix of each layer before, and the mask as bool and as numbers.
        attend = [(7, hidden), (layers - 1, matrix * item), (1, length**2 * (1 + item)), *softmax(matrix)]
        # Kept, stacked, their mean; in 16 bits the CPU takes the mean of a float32 copy.
        stack = [(layers, matrix * item), (1, layers * matrix * item), (1, layers * length**2 * item)]
        stack += [(1, 4 * layers * matrix)] if on_cpu and item != 4 else []
        stack += [(layers * job.new_tokens, heads * (length + job.new_tokens / 2) * item)]
        return [held + mlp, held + attend, decode + stack]
    if attention == "eager":
        rows = min(BLOCK_ROWS, length)
        # Embeddings, a layer's input, its norm, queries, repeated keys and values, outputs; the last block's weights.
        attend = [(7, hidden), (length > rows, heads * rows * length * item), (1, rows * length * (1 + item))]
        attend += softmax(heads * rows * length)
    else:
        # Embeddings, a layer's input, its norm, queries, the output; scores and weights of the recorded rows.
        attend = [(5, hidden), (2, 4 * heads * min(BLOCK_ROWS, job.queries) * length)]
    return [held + mlp, held + attend, decode]


def _probe_stages(config: Any, item: int, job: Job) -> list[Tensors]:
    """Of a pass with the answer: what is kept of every layer, then one layer at work, or a block of its matrix."""
    text = config.text_config
    layers, heads, length = text.num_hidden_layers, text.num_attention_heads, job.tokens + job.new_tokens
    hidden, inner = length * text.hidden_size, length * text.intermediate_size
    keys = length * text.num_key_value_heads * (text.hidden_size // heads)
    cells = hidden * job.cells / job.tokens
    kept: Tensors = [(2, cells * item)]
    if job.products or job.gradients:
        kept += [(layers, hidden * item), (layers * (1 + job.gradients), keys * item)]
    if job.gradients:
        # Of every layer the sums before its norms and their float32 copies, what the heads gave and its gradient; the
        # MLP's gate, what comes of it, and up.
        kept += [(4 * layers, hidden * item), ((item != 4) * 2 * layers, 4 * hidden), (3 * layers, inner * item)]
    work: Tensors = [(4, hidden * item), (3, inner * item)]
    block: Tensors = [((job.products or job.gradients) * 3, 4 * heads * min(BLOCK_ROWS, length) * length)]
    return [kept + work, kept + block]


def _shared_stages(config: Any, item: int, job: Job) -> list[Tensors]:
    """Of questions about pictures that were read before: few rows against many keys, whichever way they attend."""
    text = config.text_config
    heads, total = text.num_attention_heads, job.tokens + job.new_tokens
    head_size = text.hidden_size // heads
    hidden, keys = job.words * text.hidden_size * item, total * text.num_key_value_heads * head_size * item
    # Keys and values of the pictures once and of each question, one layer's twice while a token is added; the mask.
    held: Tensors = [(2 * text.num_hidden_layers, keys / job.batch), (2 * text.num_hidden_layers + 2, keys)]
    held += [(1, job.words * total * (1 + item))]
    mlp: Tensors = [(4, hidden), (3, job.words * text.intermediate_size * item)]
    # Keys and values repeated for every head; scores and what becomes of them, with float32 copies of 16 bits.
    matrix = 4 * heads * min(BLOCK_ROWS, job.words) * total
    attend: Tensors = [(5, hidden), (2, total * text.hidden_size * item), (2 if item == 4 else 3, matrix)]
    return [held + mlp, held + attend]


_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def free_bytes(placement: Placement) -> int:
    """Memory that is free where the model runs."""
    if placement.device.startswith("cuda"):
        device = torch.device(placement.device)
        # What torch keeps for itself but does not use is free for the next question.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return int(psutil.virtual_memory().available)


def check_free(placement: Placement, device_bytes: int, host_bytes: int, what: str, remedy: str) -> None:
    """Refuse what cannot fit.

    Args:
        placement: of the model.
        device_bytes: that are wanted where it runs.
        host_bytes: that are wanted on the host beside them.
        what: wants them, to be read.
        remedy: what to do about it.

    Raises:
        MemoryLimitError: more than is free.
    """
    wanted = [(placement, device_bytes), (replace(placement, device="cpu"), host_bytes)]
    if placement.device == "cpu":
        wanted = [(placement, device_bytes + host_bytes)]
    for place, size in wanted:
        free = free_bytes(place)
        if size > free:
            words = f"{what} takes {size / 2**30:.3g} GiB or more on {place.device}, where {free / 2**30:.3g} are free"
            raise MemoryLimitError(words, remedy)


@contextmanager
def on_device(placement: Placement, tokens: int) -> Iterator[None]:
    """Turn an out-of-memory fault into one line, with the device's memory given back.

    Raises:
        MemoryLimitError: the memory ended.
    """
    try:
        yield
        return
    except (torch.OutOfMemoryError, MemoryError):
        pass
    except RuntimeError as error:
        if not any(words in str(error) for words in _MEMORY_WORDS):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise MemoryLimitError(
        f"out of memory on {placement.device}" + (f" with a prompt of {tokens} tokens" if tokens else ""),
        "lower --max-pixels, or take a smaller model",
    )
