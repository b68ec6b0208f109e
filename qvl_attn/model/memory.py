"""Estimate the memory that a prompt needs, from the model's configuration alone; and check what is free."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from qvl_attn.core.errors import MemoryLimitError
from qvl_attn.core.text import argument
from qvl_attn.model.checkpoint import is_lack_of_memory
from qvl_attn.model.placement import PRECISIONS, Placement

ITEM_BYTES: dict[str, int] = {name: getattr(torch, name).itemsize for name in PRECISIONS}
# Attention modes that can be estimated; `usual` keeps all matrices of all layers, then stacks them.
ESTIMATED_MODES = ("eager", "rows", "usual")
BLOCK_ROWS = 512  # query rows that are computed at a time
# glibc returns a block of 32 MiB or more to the system when it is freed (mallopt(3), M_MMAP_THRESHOLD). Smaller blocks
# come from the heap, which keeps what is freed and fragments: it holds what the stage with the most small blocks
# needed, beside the large blocks of whatever stage runs. It was measured at 1.1 to 2.2 times its content, and two runs
# of one question differed by up to a quarter; the estimate takes the most.
HEAP_BELOW_BYTES = int(os.environ.get("MALLOC_MMAP_THRESHOLD_", 32 * 2**20))
HEAP_FACTOR = 2.2
# Buffers of the CPU's kernels: 10 to 30 MiB were measured beyond the tensors, most of all with small prompts.
KERNEL_BYTES = 32 * 2**20
# Modules that are imported while the weights are loaded: 22 to 29 MiB were measured.
CODE_BYTES = 32 * 2**20
# Drawing, page and saving: 90 to 195 MiB were measured, of 4 to 36 layers and pictures of up to 12 megapixels; of a
# clip also the encoder's frames, 260 MiB at 1280x720.
DRAWING_BYTES = 224 * 2**20
CLIP_BYTES_PER_PX = 320
# What a GPU holds beside tensors: CUDA's context and kernels, and what torch's allocator cannot use. An allowance, not
# measured here.
CUDA_BYTES = 2**30

Tensors = list[tuple[float, float]]  # (how many, bytes of each)


@dataclass(frozen=True)
class Job:
    """The quantities of a question that decide its memory cost.

    Attributes:
        cells: number of vision tokens.
        words: number of all other tokens of the prompt.
        new_tokens: maximum number of generated tokens.
        queries: number of recorded prompt rows.
        layers: number of recorded layers.
        heads: number of heads of each layer that are kept besides their mean.
        head_bytes: bytes of one weight of these heads.
        batch: number of such prompts in one batch.
        shared: whether the prompts share pictures that were already processed.
        probed: whether prompt and answer run through the model once more, for a method.
        products: whether that pass keeps queries and keys of all layers.
        gradients: whether that pass has a backward pass and therefore keeps activations.
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
        """Number of tokens of the prompt."""
        return self.cells + self.words

    @property
    def result_bytes(self) -> int:
        """Bytes of the recorded rows."""
        return self.layers * self.layer_row_bytes * (self.queries + self.new_tokens)

    @property
    def layer_row_bytes(self) -> int:
        """Bytes of one row of one layer."""
        return (4 + self.heads * self.head_bytes) * self.cells


def peak_bytes(config: Any, dtype: str, job: Job, attention: str, device: str = "cpu") -> int:
    """Return the expected peak memory of answering and recording, without the weights and the prepared prompt.

    Of each stage the tensors that are alive at once are summed, as torch's memory profiler showed them (torch 2.13,
    transformers 5.23). The MLP of the vision encoder or of the language model dominates until the attention matrices
    are larger. On a GPU the largest sum is the peak. On the CPU it is the largest sum of large tensors, the heap (see
    `HEAP_FACTOR`) and the kernels' buffers: an upper bound, since the two need not peak in one stage.

    Args:
        config: the model's configuration.
        dtype: `float32`, `bfloat16` or `float16`.
        job: the question's quantities.
        attention: one of `ESTIMATED_MODES`.
        device: the model's device; recorded rows are in host memory.

    Returns:
        Bytes.
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
        # The rows, and those of one layer a second time while they are concatenated.
        stages.append([(1, job.result_bytes), (1, job.result_bytes / job.layers)])
    sized = [[(count, size * job.batch) for count, size in stage] for stage in stages]
    if not on_cpu:
        return max(_sum_bytes(stage) for stage in sized)
    mapped = max(_sum_bytes([tensor for tensor in stage if tensor[1] >= HEAP_BELOW_BYTES]) for stage in sized)
    heap = max(_sum_bytes([tensor for tensor in stage if tensor[1] < HEAP_BELOW_BYTES]) for stage in sized)
    return mapped + int(heap * HEAP_FACTOR) + KERNEL_BYTES


def _sum_bytes(tensors: Tensors) -> int:
    return int(sum(count * size for count, size in tensors))


def drawing_bytes(frame_px: int = 0) -> int:
    """Return the expected memory of drawing and saving a result; of a clip, with the pixels of one of its frames."""
    return DRAWING_BYTES + CLIP_BYTES_PER_PX * frame_px


def mapped_bytes(config: Any, placement: Placement, folder: Path) -> int:
    """Return how much of the weights' files is in memory beside the weights while they are read.

    Files are mapped. In the precision in which they are stored the weights are those pages; in another one they are
    beside them, until all are read.
    """
    files = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    stored = str(config.dtype).removeprefix("torch.")
    counted = placement.weight_bytes // ITEM_BYTES[placement.dtype] * ITEM_BYTES.get(stored, 4)
    same_size = not files or abs(files - placement.weight_bytes) < placement.weight_bytes / 10
    return 0 if stored == placement.dtype and same_size else files or counted


def process_bytes() -> int:
    """Return the resident size of this process: interpreter, libraries, and what is loaded so far."""
    return int(psutil.Process().memory_info().rss)


def _pixels(config: Any, job: Job, on_cpu: bool) -> tuple[float, float, bool]:
    """Return the number of patches, the bytes of their float32 pixels, and whether a GPU or a batch holds a copy."""
    vision = config.vision_config
    patches = job.cells * vision.spatial_merge_size**2
    pixels = 4 * patches * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return patches, pixels, not on_cpu or job.batch > 1


def _tower_stages(config: Any, item: int, job: Job, on_cpu: bool) -> list[Tensors]:
    vision = config.vision_config
    patches, pixels, copied = _pixels(config, job, on_cpu)
    hidden, inner = patches * vision.hidden_size, patches * vision.intermediate_size
    rotary = 4 * hidden / vision.num_heads  # float32, as queries and keys during the rotation
    cast = item != 4
    held: Tensors = [(copied, pixels), (cast, pixels * item / 4), (2, rotary)]
    # A block's input, its norm, the fused queries, keys and values; rotated queries, three intermediates of the keys.
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
    # Pixels; the encoder's last state, its features per picture and concatenated; keys and values; rotary cos and sin.
    state = patches * config.vision_config.hidden_size * item
    held: Tensors = [(copied, pixels), (1, state), (2, hidden * job.cells / length)]
    held += [(2 * layers, cached * length), (2, length * head_size * item)]
    if job.batch > 1:
        held += [(1, length**2), (1, length**2 * item)]  # the mask of the padding
    # As in the vision encoder, and the embeddings.
    mlp: Tensors = [(4, hidden), (3, length * text.intermediate_size * item)]
    # The keys and values of one layer exist twice while a token is appended.
    total = length + job.new_tokens
    decode: Tensors = [held[0], (2 * layers + 2, cached * total)]

    def softmax(matrix: float) -> Tensors:
        """Scores and weights; in 16 bits the CPU makes a float32 copy before the softmax and one after it."""
        return [(2, 4 * matrix)] if item == 4 else [(1, item * matrix), (1 + on_cpu, 4 * matrix)]

    matrix = heads * length**2
    if attention == "usual":
        # As below, with the matrix of each earlier layer, and the mask as bool and as numbers.
        attend = [(7, hidden), (layers - 1, matrix * item), (1, length**2 * (1 + item)), *softmax(matrix)]
        # The matrices, their stack, their mean; in 16 bits the CPU averages a float32 copy.
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
    """Memory of each stage of a probe pass.

    Tensors kept for all layers, plus one layer's temporaries or one matrix block.
    """
    text = config.text_config
    layers, heads, length = text.num_hidden_layers, text.num_attention_heads, job.tokens + job.new_tokens
    hidden, inner = length * text.hidden_size, length * text.intermediate_size
    keys = length * text.num_key_value_heads * (text.hidden_size // heads)
    cells = hidden * job.cells / job.tokens
    held: Tensors = [(2, cells * item)]
    if job.products or job.gradients:
        held += [(layers, hidden * item), (layers * (1 + job.gradients), keys * item)]
    if job.gradients:
        # Of every layer: the inputs of its norms and their float32 copies, the heads' output and its gradient; the
        # MLP's gate, its activation, and up.
        held += [(4 * layers, hidden * item), ((item != 4) * 2 * layers, 4 * hidden), (3 * layers, inner * item)]
    work: Tensors = [(4, hidden * item), (3, inner * item)]
    block: Tensors = [((job.products or job.gradients) * 3, 4 * heads * min(BLOCK_ROWS, length) * length)]
    return [held + work, held + block]


def _shared_stages(config: Any, item: int, job: Job) -> list[Tensors]:
    """Stages of questions about pictures that are already in the cache: few rows and many keys, in either mode."""
    text = config.text_config
    heads, total = text.num_attention_heads, job.tokens + job.new_tokens
    head_size = text.hidden_size // heads
    hidden, keys = job.words * text.hidden_size * item, total * text.num_key_value_heads * head_size * item
    # Keys and values of the pictures and of each question, one layer's twice while a token is appended; the mask.
    held: Tensors = [(2 * text.num_hidden_layers, keys / job.batch), (2 * text.num_hidden_layers + 2, keys)]
    held += [(1, job.words * total * (1 + item))]
    mlp: Tensors = [(4, hidden), (3, job.words * text.intermediate_size * item)]
    # Keys and values repeated for every head; scores and weights, in 16 bits with float32 copies.
    matrix = 4 * heads * min(BLOCK_ROWS, job.words) * total
    attend: Tensors = [(5, hidden), (2, total * text.hidden_size * item), (2 if item == 4 else 3, matrix)]
    return [held + mlp, held + attend]


def free_bytes(placement: Placement) -> int:
    """Return the free bytes on the model's device."""
    if placement.device.startswith("cuda"):
        device = torch.device(placement.device)
        # Memory that torch has reserved but not allocated is free for the next question.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return int(psutil.virtual_memory().available)


def check_free(placement: Placement, device_bytes: int, host_bytes: int, what: str, remedy: str) -> None:
    """Refuse a job that does not fit the free memory.

    Args:
        placement: the model's placement.
        device_bytes: bytes needed on the model's device.
        host_bytes: further bytes needed on the host.
        what: name of the job, for the message.
        remedy: hint of the error.

    Raises:
        MemoryLimitError: more memory is needed than is free.
    """
    needs = [(placement, device_bytes), (replace(placement, device="cpu"), host_bytes)]
    if placement.device == "cpu":
        needs = [(placement, device_bytes + host_bytes)]
    for place, size in needs:
        free = free_bytes(place)
        if size > free:
            line = f"{what} takes {size / 2**30:.3g} GiB or more on {place.device}, where {free / 2**30:.3g} are free"
            raise MemoryLimitError(line, remedy)


@contextmanager
def on_device(placement: Placement, tokens: int) -> Iterator[None]:
    """Turn an out-of-memory error inside the `with` block into a `MemoryLimitError`, and free the device's memory.

    Raises:
        MemoryLimitError: the device ran out of memory.
    """
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_lack_of_memory(error):
            raise
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise MemoryLimitError(
        f"out of memory on {placement.device}" + (f" with a prompt of {tokens} tokens" if tokens else ""),
        f"lower {argument('max_pixels')}, or take a smaller model",
    )
