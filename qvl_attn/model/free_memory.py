"""What memory is free, and what to say when it ends."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psutil
import torch

from qvl_attn.core.errors import MemoryLimitError
from qvl_attn.model.checkpoint import Placement

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
