"""Estimates before a question runs: context, memory, and how its attention is computed. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from qvl_attn.core.errors import InputError, MemoryLimitError, QvlAttnError
from qvl_attn.core.files import MAX_NPZ_BYTES
from qvl_attn.core.runtime import describe_size
from qvl_attn.core.text import argument
from qvl_attn.core.types import TokenGrid
from qvl_attn.model.memory import CODE_BYTES, ESTIMATED_MODES, Job, drawing_bytes, peak_bytes

if TYPE_CHECKING:
    from qvl_attn.model.placement import Placement
    from qvl_attn.vqa.question import Question

LEAST_CELLS = 4  # two by two, the minimum of the processor


@dataclass(frozen=True)
class Estimate:
    """Expected cost of a question.

    Attributes:
        pictures: name, upright (width, height) in pixels, and grid of each picture.
        job: sizes that decide the cost.
        context: length of the model's context in tokens, answer included.
        weight_bytes: size of the model's weights.
        free_bytes: free memory beside the weights; None if they are spread over several GPUs.
        needed_bytes: expected peak beside the weights for each of `ESTIMATED_MODES`.
        attention: the mode that `attn='auto'` chooses.
        reason: why it is chosen.
        faults: reasons why the question cannot run as it is, one line each; empty if it can.
        max_pixels: the largest `max_pixels` that would fit; None if no change is needed, 0 if no value fits.
        process_bytes: measured size of this process without weights: interpreter, libraries, processor, pictures.
        drawing_bytes: expected memory of drawing and saving, which begins when the answer is there.
        mapped_bytes: of the weights' files, what is in memory beside the weights while they are read.
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
    process_bytes: int
    drawing_bytes: int
    mapped_bytes: int

    def peak_bytes(self, mode: str) -> int:
        """Return the expected peak of the whole process on the CPU, after loading, for one of `ESTIMATED_MODES`."""
        base = self.process_bytes + CODE_BYTES + self.weight_bytes
        return base + max(self.needed_bytes[mode], self.drawing_bytes)

    @property
    def loading_bytes(self) -> int:
        """Expected peak of the whole process on the CPU while it reads the weights.

        Of it `mapped_bytes` are pages of the files, which the system takes back when it needs the memory; they do not
        count in what fits.
        """
        return self.process_bytes + CODE_BYTES + self.weight_bytes + self.mapped_bytes

    def fits(self, mode: str) -> bool | None:
        """Return whether one of `ESTIMATED_MODES` fits the free memory; None if that is not known."""
        return None if self.free_bytes is None else self.needed_bytes[mode] <= self.free_bytes


def check_context(config: Any, job: Job, pictures: int) -> None:
    """Refuse a prompt that is longer than the model's context.

    Raises:
        InputError: the prompt is too long; the hint has the `max_pixels` that fits.
    """
    if in_context(config, job):
        return
    pixels = largest_pixels(config, job, pictures, lambda smaller: in_context(config, smaller))
    raise InputError(
        f"the prompt is {job.tokens} tokens and {job.new_tokens} may follow; "
        f"the model's context is {config.text_config.max_position_embeddings}",
        f"{argument('max_pixels', pixels)} fits" if pixels else "shorten the question",
    )


def choose_attention(config: Any, dtype: str, job: Job, free: int | None, device: str = "cpu") -> tuple[str, str]:
    """Choose how attention is computed: `eager` in float32 if it fits, else `rows`. Return the mode and the reason.

    Args:
        config: configuration of the model.
        dtype: precision of the model.
        job: sizes of the question.
        free: free bytes beside the weights; None if they are spread over several GPUs.
        device: device of the model.
    """
    if dtype != "float32":
        return "rows", "in 16 bits eager attention rounds its scores, and can change the answer"
    if free is None:
        return "rows", "the model is spread over several GPUs, whose free memory is not known"
    needed = peak_bytes(config, dtype, job, "eager", device)
    memory = f"about {describe_size(needed)} of the {describe_size(max(free, 0))} that are free"
    if needed <= free:
        return "eager", f"float32, and it needs {memory}"
    return "rows", f"eager attention would need {memory}"


def check_memory(
    config: Any, dtype: str, job: Job, attention: str, free: int | None, pictures: int, device: str = "cpu"
) -> None:
    """Refuse a prompt whose estimated memory exceeds the free memory.

    Raises:
        MemoryLimitError: the prompt is too large; the hint has the `max_pixels` that fits.
    """
    if job.result_bytes > MAX_NPZ_BYTES:
        rows = job.result_bytes // (4 * job.cells)
        raise MemoryLimitError(
            f"{rows} rows of attention on {job.cells} vision tokens are {describe_size(job.result_bytes)}, "
            f"more than a result may hold ({describe_size(MAX_NPZ_BYTES)})",
            f"name fewer {argument('layers')}, no {argument('heads')}, or a lower {argument('max_pixels')}",
        )
    needed = peak_bytes(config, dtype, job, attention, device)
    if free is None or needed <= free:
        return
    pixels = largest_pixels(
        config, job, pictures, lambda smaller: peak_bytes(config, dtype, smaller, attention, device) <= free
    )
    hints = [f"{argument('max_pixels', pixels)} fits" if pixels else "take a smaller model"]
    if attention == "eager" and peak_bytes(config, dtype, job, "rows", device) <= free:
        hints.insert(0, f"{argument('attn', 'rows')} fits")
    raise MemoryLimitError(
        f"{job.cells} vision tokens need about {describe_size(needed)} beside the weights with "
        f"{argument('attn', attention)}, and {describe_size(max(free, 0))} are free",
        "; ".join(hints),
    )


def estimate_of(
    config: Any, placement: Placement, question: Question, free: int | None, process: int = 0, mapped: int = 0
) -> Estimate:
    """Estimate the cost of a question, whether or not it fits.

    Args:
        config: configuration of the model.
        placement: device and precision of the model.
        question: the prepared question.
        free: free bytes beside the weights; None if they are spread over several GPUs.
        process: bytes of this process without the weights.
        mapped: bytes of the weights' files that are in memory while they are read.
    """
    job, dtype, device = question.job, placement.dtype, placement.device
    attention, reason = choose_attention(config, dtype, job, free, device)
    media, faults = question.media, []
    if free is not None and free < 0:
        faults.append(f"the weights need {describe_size(-free)} more than is free")
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_context(config, job, question.pictures),
        lambda: check_memory(config, dtype, job, attention, free, question.pictures, device),
    )
    for check in checks:
        try:
            check()
        except QvlAttnError as error:
            faults.append(str(error))

    def possible(smaller: Job) -> bool:
        fits = free is None or peak_bytes(config, dtype, smaller, attention, device) <= free
        return fits and in_context(config, smaller) and smaller.result_bytes <= MAX_NPZ_BYTES

    return Estimate(
        pictures=tuple(
            (picture.source, picture.size_px, grid) for picture, grid in zip(media, question.prompt.grids, strict=True)
        ),
        job=job,
        context=config.text_config.max_position_embeddings,
        weight_bytes=placement.weight_bytes,
        free_bytes=free,
        needed_bytes={mode: peak_bytes(config, dtype, job, mode, device) for mode in ESTIMATED_MODES},
        attention=attention,
        reason=reason,
        faults=tuple(faults),
        max_pixels=largest_pixels(config, job, question.pictures, possible) if faults else None,
        process_bytes=process,
        drawing_bytes=drawing_bytes(max((prod(clip.size_px) for clip in media if clip.clip is not None), default=0)),
        mapped_bytes=mapped,
    )


def in_context(config: Any, job: Job) -> bool:
    """Return whether a prompt and its answer fit the model's context."""
    return bool(job.tokens + job.new_tokens <= config.text_config.max_position_embeddings)


def largest_pixels(config: Any, job: Job, pictures: int, possible: Callable[[Job], bool]) -> int:
    """Return the largest `max_pixels` per picture or frame with which a job is possible; 0 if there is none."""
    low, high = 0, job.cells
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if possible(replace(job, cells=middle)) else (low, middle)
    vision, cells = config.vision_config, low // pictures
    return int(cells * (vision.patch_size * vision.spatial_merge_size) ** 2) if cells >= LEAST_CELLS else 0
