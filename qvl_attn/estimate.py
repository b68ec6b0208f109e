"""What a prompt will cost before any weights are loaded: numbers from the configuration, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qvl_attn.errors import InputError, MemoryLimitError, QvlAttnError
from qvl_attn.prompt import Prompt
from qvl_attn.store import MAX_NPZ_BYTES
from qvl_attn.types import TokenGrid

if TYPE_CHECKING:
    from qvl_attn.model import Placement
    from qvl_attn.question import Question

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ATTENTION_MODES = ("auto", "eager", "rows")
# The ways of computing attention that can be estimated; `usual` keeps all matrices of all layers, then stacks them.
WAYS = ("eager", "rows", "usual")
BLOCK_ROWS = 512  # of qvl_attn.capture, which imports torch
LEAST_CELLS = 4  # two by two, the processor's own minimum
# glibc hands a block of 32 MiB or more back when it is freed (mallopt(3), M_MMAP_THRESHOLD). Smaller ones come from a
# heap in which keys and values that stay are strewn among what goes: it was measured at 1.4 to 2.3 times its content,
# up to a quarter apart in two runs of one question. This bounds how near an estimate on the CPU can come.
HEAP_BELOW_BYTES = 32 * 2**20
HEAP_FACTOR = 1.7

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


@dataclass(frozen=True)
class Estimate:
    """What a question will cost.

    Attributes:
        pictures: name, upright (width, height) in pixels, and grid of each picture.
        job: what decides the cost.
        context: tokens that the model takes, answer included.
        weight_bytes: of the model.
        free_bytes: beside the weights; None where they are spread over several GPUs.
        needed_bytes: expected peak beside the weights, of each of `WAYS`.
        attention: what `--attn auto` takes.
        reason: why.
        faults: why the question cannot be asked so, one line each; empty where it can.
        max_pixels: the largest `--max-pixels` with which it could; None where nothing need change, 0 where none helps.
    """

    pictures: tuple[tuple[str, tuple[int, int], TokenGrid], ...]
    job: Job
    context: int
    weight_bytes: int
    free_bytes: int | None
    needed_bytes: dict[str, int]
    attention: str
    reason: str
    faults: tuple[str, ...]
    max_pixels: int | None

    def fits(self, way: str) -> bool | None:
        """Whether one of `WAYS` fits the free memory; None where that is not known."""
        return None if self.free_bytes is None else self.needed_bytes[way] <= self.free_bytes


def job_of(prompt: Prompt, *, new_tokens: int, layers: int, heads: int) -> Job:
    """What of a prompt decides its cost."""
    cells = sum(grid.cells for grid in prompt.grids)
    queries = len(prompt.positions("question")) + 1
    return Job(cells, prompt.length - cells, new_tokens, queries, layers, heads)


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
    stages = [
        *_tower_stages(config, ITEM_BYTES[dtype], job, on_cpu),
        *_language_stages(config, ITEM_BYTES[dtype], job, attention, on_cpu),
    ]
    if on_cpu:
        layer = 4 * job.heads * job.cells
        stages = [[*stage, (job.layers, layer * job.queries)] for stage in stages]
        # The rows of each layer, and the same joined into one array.
        stages.append([(job.layers, layer * (job.queries + job.new_tokens)), (1, job.result_bytes)])
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


def check_context(config: Any, job: Job, pictures: int) -> None:
    """Refuse a prompt that is longer than the model's context.

    Raises:
        InputError: with the `--max-pixels` that fits.
    """
    if _in_context(config, job):
        return
    pixels = _largest_pixels(config, job, pictures, lambda smaller: _in_context(config, smaller))
    raise InputError(
        f"the prompt is {job.tokens} tokens and {job.new_tokens} may follow; "
        f"the model's context is {config.text_config.max_position_embeddings}",
        f"--max-pixels {pixels} fits" if pixels else "shorten the question",
    )


def choose_attention(config: Any, dtype: str, job: Job, free: int | None, device: str = "cpu") -> tuple[str, str]:
    """`eager` where it is the reference and fits, else `rows`; and why.

    Args:
        config: of the model.
        dtype: of the model.
        job: what is asked.
        free: bytes beside the weights; None where they are spread over several GPUs.
        device: where the model runs.
    """
    if dtype != "float32":
        return "rows", "in 16 bits eager attention rounds its scores, and can change the answer"
    if free is None:
        return "rows", "the model is spread over several GPUs, whose free memory is not known apart"
    needed = peak_bytes(config, dtype, job, "eager", device)
    amount = f"about {needed / 2**30:.1f}" if needed > 2**30 / 10 else "less than 0.1"
    words = f"{amount} of the {max(free, 0) / 2**30:.1f} GiB that are free"
    if needed <= free:
        return "eager", f"float32, and it needs {words}"
    return "rows", f"eager attention would need {words}"


def check_memory(
    config: Any, dtype: str, job: Job, attention: str, free: int | None, pictures: int, device: str = "cpu"
) -> None:
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
    needed = peak_bytes(config, dtype, job, attention, device)
    if free is None or needed <= free:
        return
    pixels = _largest_pixels(
        config, job, pictures, lambda smaller: peak_bytes(config, dtype, smaller, attention, device) <= free
    )
    others = [f"--max-pixels {pixels} fits" if pixels else "take a smaller model"]
    if attention == "eager" and peak_bytes(config, dtype, job, "rows", device) <= free:
        others.insert(0, "--attn rows fits")
    raise MemoryLimitError(
        f"{job.cells} vision tokens need about {_gib(needed)} beside the weights with --attn {attention}, "
        f"and {_gib(max(free, 0))} are free",
        "; ".join(others),
    )


def estimate_of(config: Any, placement: Placement, question: Question, free: int | None) -> Estimate:
    """What a question will cost, whether or not it fits.

    Args:
        config: of the model.
        placement: where it would run.
        question: what is asked.
        free: bytes beside the weights; None where they are spread over several GPUs.
    """
    job, dtype, device = question.job, placement.dtype, placement.device
    attention, reason = choose_attention(config, dtype, job, free, device)
    media, faults = question.media, []
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_context(config, job, len(media)),
        lambda: check_memory(config, dtype, job, attention, free, len(media), device),
    )
    for check in checks:
        try:
            check()
        except QvlAttnError as error:
            faults.append(str(error))

    def possible(smaller: Job) -> bool:
        fits = free is None or peak_bytes(config, dtype, smaller, attention, device) <= free
        return fits and _in_context(config, smaller) and smaller.result_bytes <= MAX_NPZ_BYTES

    return Estimate(
        pictures=tuple((m.source, m.size_px, grid) for m, grid in zip(media, question.prompt.grids, strict=True)),
        job=job,
        context=config.text_config.max_position_embeddings,
        weight_bytes=placement.weight_bytes,
        free_bytes=free,
        needed_bytes={way: peak_bytes(config, dtype, job, way, device) for way in WAYS},
        attention=attention,
        reason=reason,
        faults=tuple(faults),
        max_pixels=_largest_pixels(config, job, len(media), possible) if faults else None,
    )


def _in_context(config: Any, job: Job) -> bool:
    return bool(job.tokens + job.new_tokens <= config.text_config.max_position_embeddings)


def _largest_pixels(config: Any, job: Job, pictures: int, possible: Callable[[Job], bool]) -> int:
    """The largest `--max-pixels` for each picture with which a job becomes possible; 0 where there is none."""
    low, high = 0, job.cells
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if possible(replace(job, cells=middle)) else (low, middle)
    vision, cells = config.vision_config, low // pictures
    return int(cells * (vision.patch_size * vision.spatial_merge_size) ** 2) if cells >= LEAST_CELLS else 0


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
